//! `format=flowed` text, with its lines joined again (RFC 3676).

/// Returns flowed text as paragraphs on one line each; quoted lines keep one `>` per level and a space.
pub(super) fn unflow(text: &str, delete_space: bool) -> String {
    let mut out = String::with_capacity(text.len());
    // The depth of the paragraph that is still open, if the last line ended in a soft break.
    let mut open: Option<usize> = None;
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let content = line.trim_start_matches('>');
        let depth = line.len() - content.len();
        // Space-stuffing (section 4.4) protects lines that begin with a space, `From ` or `>`.
        let content = content.strip_prefix(' ').unwrap_or(content);
        let signature = content == "-- ";
        let continues = open == Some(depth) && !signature;
        if !continues {
            if open.is_some() {
                out.push('\n');
            }
            prefix(&mut out, depth);
        }
        // A signature separator is never flowed, although it ends in a space (section 4.3).
        if content.ends_with(' ') && !signature {
            out.push_str(if delete_space { &content[..content.len() - 1] } else { content });
            open = Some(depth);
        } else {
            out.push_str(content);
            out.push('\n');
            open = None;
        }
    }
    // The last split piece after a final line break is empty and was given a line of its own.
    if out.ends_with('\n') {
        out.pop();
    }
    out
}

fn prefix(out: &mut String, depth: usize) {
    if depth > 0 {
        out.extend(std::iter::repeat_n('>', depth));
        out.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::unflow;

    #[test]
    fn flowed_text_is_unwrapped() {
        let cases = [
            ("one \ntwo\nthree", false, "one two\nthree"),
            ("one \r\ntwo\r\n", false, "one two\n"),
            ("日本 \n語", true, "日本語"),
            (" From here\n  two spaces", false, "From here\n two spaces"),
            ("> a \n> b\n>> c \nd", false, "> a b\n>> c \nd"),
            ("text \n-- \nBob", false, "text \n-- \nBob"),
            ("end \n", false, "end "),
            ("", false, ""),
        ];
        for (input, delete_space, expected) in cases {
            assert_eq!(unflow(input, delete_space), expected, "{input:?}");
        }
    }
}
