//! Header fields that a draft may set itself.

use super::{FieldError, Problem};
use crate::compose::check::has_control;

const NAME_OCTETS_MAX: usize = 76;
/// Longest line of a message, without its CRLF (RFC 5322 §2.1.1).
const LINE_OCTETS_MAX: usize = 998;

/// Written by the platform, or meaning something only at other places of a message's way.
const RESERVED: [&str; 22] = [
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "date",
    "subject",
    "message-id",
    "return-path",
    "received",
    "received-spf",
    "authentication-results",
    "delivered-to",
    "envelope-to",
    "resent-from",
    "resent-to",
    "resent-cc",
    "resent-bcc",
    "resent-date",
    "resent-sender",
    "resent-message-id",
    "domainkey-signature",
];
const RESERVED_PREFIXES: [&str; 4] = ["dkim-", "arc-", "mime-", "content-"];

const ALLOWED: [&str; 19] = [
    "precedence",
    "auto-submitted",
    "in-reply-to",
    "references",
    "reply-to",
    "importance",
    "priority",
    "sensitivity",
    "keywords",
    "comments",
    "organization",
    "feedback-id",
    "archived-at",
    "expires",
    "thread-topic",
    "thread-index",
    "autocrypt",
    "require-recipient-valid-since",
    "tls-required",
];
const ALLOWED_PREFIXES: [&str; 2] = ["x-", "list-"];

/// Checks a name and a value; answers the value without white space around it.
pub(super) fn check(name: &str, value: &str) -> Result<String, FieldError> {
    let refuse = |problem| Err(FieldError { field: format!("headers.{}", shown(name)), problem });
    if name.is_empty() || name.len() > NAME_OCTETS_MAX || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
        return refuse(Problem::FieldName);
    }
    let lower = name.to_ascii_lowercase();
    if RESERVED.contains(&lower.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) {
        return refuse(Problem::Reserved);
    }
    let prefixed = ALLOWED_PREFIXES.iter().any(|prefix| lower.len() > prefix.len() && lower.starts_with(prefix));
    if !prefixed && !ALLOWED.contains(&lower.as_str()) {
        return refuse(Problem::NotAllowed);
    }
    // A tab is white space in unstructured text (RFC 5322 §3.2.5).
    if value.chars().any(|c| c != '\t' && has_control(c.encode_utf8(&mut [0; 4]))) {
        return refuse(Problem::ControlCharacter);
    }
    let value = value.trim_matches([' ', '\t']).to_owned();
    if value.is_empty() {
        return refuse(Problem::Required);
    }
    let whole = format!("{name}: {}", fold(name, &value));
    if is_plain(&value) && whole.split("\r\n").any(|line| line.len() > LINE_OCTETS_MAX) {
        return refuse(Problem::TooLong { most: LINE_OCTETS_MAX, unit: "octets without a space" });
    }
    Ok(value)
}

/// The name as it may stand in an error.
fn shown(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_graphic()).take(NAME_OCTETS_MAX).collect()
}

/// Tells whether a value can be written as it is: nothing in it needs, or looks like, an encoded word.
pub(super) fn is_plain(value: &str) -> bool {
    value.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t')) && !value.contains("=?")
}

/// Folds a plain value before white space, near 78 octets: unfolding gives the same text (RFC 5322 §2.2.3).
pub(super) fn fold(name: &str, value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 8);
    let mut column = name.len() + 2;
    let mut rest = value;
    while !rest.is_empty() {
        // White space and the word behind it.
        let word = rest.find(|c| c != ' ' && c != '\t').unwrap_or(rest.len());
        let end = rest[word..].find([' ', '\t']).map_or(rest.len(), |offset| word + offset);
        if word > 0 && column + end > 78 {
            out.push_str("\r\n");
            column = 0;
        }
        out.push_str(&rest[..end]);
        column += end;
        rest = &rest[end..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_platform_are_reserved_in_any_case() {
        for name in
            ["From", "BCC", "Message-Id", "DKIM-Signature", "content-type", "ARC-Seal", "MIME-Version", "Received"]
        {
            assert_eq!(check(name, "x").unwrap_err().problem, Problem::Reserved, "{name}");
        }
        for name in ["", "X Y", "X:Y", "X-\u{e4}", "X\r\nBcc"] {
            assert_eq!(check(name, "x").unwrap_err().problem, Problem::FieldName, "{name}");
        }
        for name in ["Foo", "X-", "List-", "Apparently-To", "Errors-To"] {
            assert_eq!(check(name, "x").unwrap_err().problem, Problem::NotAllowed, "{name}");
        }
        for name in ["X-Tag", "list-id", "Precedence", "Feedback-ID"] {
            assert_eq!(check(name, " x ").unwrap(), "x", "{name}");
        }
    }

    #[test]
    fn values_cannot_break_out() {
        for value in ["a\r\nBcc: b", "a\nb", "a\rb", "a\0b", "a\u{7f}", "a\u{85}b", "a\u{2028}b"] {
            assert_eq!(check("X-Tag", value).unwrap_err().problem, Problem::ControlCharacter, "{value:?}");
        }
        assert_eq!(check("X-Tag", "a\tb").unwrap(), "a\tb");
        assert!(matches!(check("X-Tag", &"x".repeat(992)).unwrap_err().problem, Problem::TooLong { .. }));
        assert!(check("X-Tag", &"x".repeat(900)).is_ok());
    }

    #[test]
    fn folding_adds_line_breaks_and_nothing_else() {
        let value = "word  two\tthree ".repeat(30);
        let folded = fold("X-Tag", value.trim());
        assert_eq!(folded.replace("\r\n", ""), value.trim());
        assert!(folded.split("\r\n").all(|line| line.len() <= 78 && !line.trim().is_empty()));
    }
}
