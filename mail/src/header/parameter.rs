//! A value with parameters: `Content-Type`, `Content-Disposition` (RFC 2045 section 5.1, RFC 2183, RFC 2231).

use super::charset::decode_charset;
use super::word::decode_words;

/// A main value and its parameters, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameterised {
    /// The part before the first `;`, lower case, without comments.
    pub value: String,
    parameters: Vec<(String, String)>,
}

/// Parameters looked at in one field.
const PARAMETERS_MAX: usize = 200;

/// One `name[*index][*]=value` as written.
struct Segment {
    name: String,
    /// `*0`, `*1` …; `None` for a parameter in one piece.
    index: Option<u32>,
    /// A trailing `*`: the value is `charset'language'percent-encoded`.
    extended: bool,
    value: String,
}

impl Parameterised {
    /// Parses an unfolded field value.
    pub fn parse(text: &str) -> Self {
        let text = without_comments(text);
        let mut pieces = split_outside_quotes(&text);
        let first = pieces.remove(0);
        // Some forget the semicolon between the value and its first parameter.
        let (first, rest) = match first.trim().split_once(char::is_whitespace) {
            Some((value, rest)) if segment(rest).is_some() => (value, Some(rest.to_owned())),
            _ => (first.as_str(), None),
        };
        pieces.splice(0..0, rest);
        let value: String = first.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
        let segments: Vec<Segment> = pieces.iter().take(PARAMETERS_MAX).filter_map(|piece| segment(piece)).collect();
        Parameterised { value: value.to_ascii_lowercase(), parameters: combine(segments) }
    }

    /// Returns a parameter by its lower-case name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn without_comments(text: &str) -> String {
    if !text.contains('(') {
        return text.to_owned();
    }
    let (mut out, mut depth, mut quoted, mut escaped) = (String::new(), 0_u32, false, false);
    for character in text.chars() {
        let literal = std::mem::take(&mut escaped);
        match character {
            '\\' if !literal && (quoted || depth > 0) => escaped = true,
            '"' if !literal && depth == 0 => quoted = !quoted,
            '(' if !literal && !quoted => depth += 1,
            ')' if !literal && !quoted && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            out.push(character);
        }
    }
    // An unclosed parenthesis belongs to a file name that nobody quoted, not to a comment.
    if depth > 0 { text.to_owned() } else { out }
}

fn split_outside_quotes(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for character in text.chars() {
        let literal = std::mem::take(&mut escaped);
        match character {
            '\\' if quoted && !literal => escaped = true,
            '"' if !literal => quoted = !quoted,
            ';' if !quoted => {
                pieces.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = pieces.last_mut() {
            last.push(character);
        }
    }
    pieces
}

fn segment(piece: &str) -> Option<Segment> {
    let (name, value) = piece.split_once('=')?;
    let mut name = name.trim().to_ascii_lowercase();
    let extended = name.ends_with('*');
    if extended {
        name.pop();
    }
    let mut index = None;
    if let Some((base, number)) = name.rsplit_once('*')
        && let Ok(number) = number.parse()
    {
        index = Some(number);
        name = base.to_owned();
    }
    (!name.is_empty()).then(|| Segment { name, index, extended, value: unquote(value.trim()) })
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            // Only quotes and backslashes are escaped in practice: `C:\temp` written by careless senders stays.
            '\\' if matches!(characters.peek(), Some('"' | '\\')) => out.extend(characters.next()),
            other => out.push(other),
        }
    }
    out
}

/// RFC 2231: the extended form wins over continuations, and both win over the plain form.
fn combine(segments: Vec<Segment>) -> Vec<(String, String)> {
    let mut names: Vec<&str> = Vec::new();
    for segment in &segments {
        if !names.contains(&segment.name.as_str()) {
            names.push(&segment.name);
        }
    }
    let value_of = |name: &str| {
        let of_name = || segments.iter().filter(move |segment| segment.name == name);
        if let Some(whole) = of_name().find(|segment| segment.extended && segment.index.is_none()) {
            return extended_value(&[whole]);
        }
        let mut parts: Vec<&Segment> = of_name().filter(|segment| segment.index.is_some()).collect();
        if !parts.is_empty() {
            parts.sort_by_key(|segment| segment.index);
            return extended_value(&parts);
        }
        of_name().next().map(|segment| decode_words(&segment.value)).unwrap_or_default()
    };
    names.iter().map(|name| ((*name).to_owned(), value_of(name))).collect()
}

fn extended_value(parts: &[&Segment]) -> String {
    let mut charset = None;
    let mut bytes = Vec::new();
    for (position, part) in parts.iter().enumerate() {
        let mut value = part.value.as_str();
        if part.extended && position == 0 {
            let mut pieces = value.splitn(3, '\'');
            if let (Some(label), Some(_), Some(rest)) = (pieces.next(), pieces.next(), pieces.next()) {
                charset = Some(label.to_owned());
                value = rest;
            }
        }
        if part.extended { bytes.extend(percent_decode(value)) } else { bytes.extend_from_slice(value.as_bytes()) }
    }
    let text = decode_charset(charset.as_deref(), &bytes);
    if charset.is_some() { text } else { decode_words(&text) }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let decoded = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(decoded.unwrap_or(bytes[at]));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Parameterised;

    #[test]
    fn file_names_are_found_in_every_form() {
        let cases = [
            ("attachment; filename=plain.txt", "plain.txt"),
            ("attachment; filename=\"a;b \\\"c\\\".txt\"", "a;b \"c\".txt"),
            ("attachment; filename=my file.txt", "my file.txt"),
            ("attachment; filename*=utf-8''na%C3%AFve%20file.txt", "naïve file.txt"),
            ("attachment; filename*=iso-8859-1'en'%A3.txt", "£.txt"),
            ("attachment; filename=bad.txt; filename*=utf-8''good.txt", "good.txt"),
            ("attachment; filename*1=\"b.txt\"; filename*0=\"a\"", "ab.txt"),
            ("attachment; filename*1*=%AFve.txt; filename*0*=utf-8''na%C3", "naïve.txt"),
            ("attachment; filename*0*=utf-8''a%20; filename*1=\"b%20c.txt\"", "a b%20c.txt"),
            ("attachment; filename=\"=?utf-8?B?xb4=?=.txt\"", "ž.txt"),
            ("attachment; FileName = \"x.txt\"", "x.txt"),
            ("attachment; filename=\"C:\\temp\\x.txt\"", "C:\\temp\\x.txt"),
            ("attachment (a comment); filename=x.txt (another)", "x.txt"),
            ("attachment; filename=report (1.txt", "report (1.txt"),
            ("attachment; filename=\"no end", "no end"),
        ];
        for (input, expected) in cases {
            let parsed = Parameterised::parse(input);
            assert_eq!(parsed.get("filename"), Some(expected), "{input}");
            assert_eq!(parsed.value, "attachment");
        }
    }

    #[test]
    fn a_semicolon_may_be_missing_before_the_first_parameter() {
        let parsed = Parameterised::parse("text/plain charset=\"utf-8\"; format=flowed");
        assert_eq!(
            (parsed.value.as_str(), parsed.get("charset"), parsed.get("format")),
            ("text/plain", Some("utf-8"), Some("flowed"))
        );
    }

    #[test]
    fn a_content_type_is_lower_case_and_survives_nonsense() {
        let parsed = Parameterised::parse("Text/Plain; charset=\"UTF-8\"; format=flowed; ;=; x");
        assert_eq!(
            (parsed.value.as_str(), parsed.get("charset"), parsed.get("format")),
            ("text/plain", Some("UTF-8"), Some("flowed"))
        );
        assert_eq!(Parameterised::parse("").value, "");
    }
}
