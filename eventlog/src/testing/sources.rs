//! Finds the SQL in Rust sources.

use std::path::{Path, PathBuf};

/// What a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is handed over as it is, as far as can be seen.
    Statement,
    /// Something is added to it before it is run.
    Part,
}

/// A text in a source file that begins like a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The file, from the root of the sources.
    pub file: String,
    /// The line it begins in, counted from 1.
    pub line: usize,
    /// The text, as the compiler reads it.
    pub sql: String,
    /// What it is for.
    pub role: Role,
}

/// Returns a text with every run of white space as one space.
#[must_use]
pub fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the texts in the sources under some folders that begin like a statement. What only tests run, or only SQLite,
/// is left out.
///
/// # Panics
/// A file cannot be read.
#[must_use]
pub fn in_sources(root: &Path, folders: &[&str]) -> Vec<Text> {
    let mut files = vec![];
    folders.iter().for_each(|folder| walk(&root.join(folder), &mut files));
    files.sort();
    files.iter().flat_map(|file| in_file(root, file)).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let of_tests = ["tests", "tests.rs", "testing", "testing.rs", "conformance"].contains(&name.as_str());
        if path.is_dir() && !of_tests {
            walk(&path, files);
        } else if name.ends_with(".rs") && !of_tests {
            files.push(path);
        }
    }
}

fn in_file(root: &Path, path: &Path) -> Vec<Text> {
    let source = std::fs::read_to_string(path).expect("a source file");
    let end = source.find("\n#[cfg(test)]\nmod tests {").or_else(|| source.find("\n#[cfg(all(test"));
    let source = &source[..end.unwrap_or(source.len())];
    let file = path.strip_prefix(root).expect("a file below the root").to_string_lossy().into_owned();
    let begins = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];
    // What only SQLite understands is not asked of PostgreSQL.
    let of_sqlite = ["json_each(", "jsonb_each(", "pragma_"];
    let like_sql = literals(source).into_iter().filter(|(_, text)| {
        let text = text.trim_start();
        !of_sqlite.iter().any(|word| text.contains(word))
            && begins.iter().any(|begin| text.starts_with(begin) || text.starts_with(&begin.replace(' ', "\n")))
    });
    like_sql
        .map(|(at, sql)| {
            let line = source[..at].matches('\n').count() + 1;
            Text { file: file.clone(), line, role: role(source, at, &sql), sql }
        })
        .collect()
}

/// Says what a text at a place is for.
fn role(source: &str, at: usize, sql: &str) -> Role {
    let before = source[..at].trim_end();
    let joined = ["Select::new(", ".push(", "concat!(", "=>", "=> {", "_str("].iter().any(|end| before.ends_with(end));
    let named = before.rsplit_once("const ").filter(|(_, rest)| !rest.contains(';'));
    let head = named.and_then(|(_, rest)| rest.split(':').next()).is_some_and(|name| {
        source.contains(&format!("Select::new({name})")) || source.contains(&format!("{{{name}}}"))
    });
    if joined || head || sql.contains('{') { Role::Part } else { Role::Statement }
}

/// Returns the string literals of a source with where they begin.
fn literals(source: &str) -> Vec<(usize, String)> {
    let bytes = source.as_bytes();
    let (mut found, mut i) = (vec![], 0);
    let rest_from = |i: usize| source.get(i..).unwrap_or_default();
    while i < bytes.len() {
        let rest = rest_from(i);
        match bytes[i] {
            b'/' if rest.starts_with("//") => i += rest.find('\n').unwrap_or(rest.len()),
            // A character, not a lifetime.
            b'\'' if bytes.get(i + 1) == Some(&b'\\') => i += 3 + rest_from(i + 3).find('\'').unwrap_or(0) + 1,
            b'\'' if bytes.get(i + 2) == Some(&b'\'') => i += 3,
            b'r' if rest.starts_with("r\"") || rest.starts_with("r#") => {
                let hashes = rest[1..].bytes().take_while(|b| *b == b'#').count();
                if bytes.get(i + 1 + hashes) != Some(&b'"') {
                    i += 1 + hashes;
                    continue;
                }
                let begin = i + hashes + 2;
                let close = format!("\"{}", "#".repeat(hashes));
                let length = rest_from(begin).find(&close).unwrap_or(0);
                found.push((i, source[begin..begin + length].to_owned()));
                i = begin + length + close.len();
            }
            b'"' => {
                let (text, length) = unescaped(rest_from(i + 1));
                found.push((i, text));
                i += length + 2;
            }
            _ => i += 1,
        }
    }
    found
}

/// Returns the text up to the closing quotation mark, and its length in the source.
fn unescaped(rest: &str) -> (String, usize) {
    let mut text = String::new();
    let mut chars = rest.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (text, i),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                // The line goes on where the next one begins.
                Some('\n') => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                Some(other) => text.push(other),
                None => {}
            },
            c => text.push(c),
        }
    }
    (text, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_as_the_compiler_reads_them() {
        let source = r##"// "no"
            fn f<'a>(c: char) { if c == '"' || c == '\'' { g("a \"b\" \
                c", r#"d "e""#, "\n") } }"##;
        let texts: Vec<String> = literals(source).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["a \"b\" c", "d \"e\"", "\n"]);
    }

    #[test]
    fn a_text_that_something_is_added_to_is_a_part() {
        let source = "const A: &str = \"SELECT 1\"; Select::new(A); const B: &str = \"SELECT 2\"; x.push(\"SELECT 3\")";
        let roles: Vec<Role> = literals(source).iter().map(|(at, text)| role(source, *at, text)).collect();
        assert_eq!(roles, [Role::Part, Role::Statement, Role::Part]);
    }
}
