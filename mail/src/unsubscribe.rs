//! One-click unsubscribe: the header fields, and tokens that say who leaves what (RFC 2369, RFC 8058).
//!
//! A token names a team, a stream of mail and a recipient, and carries a MAC of 128 bits over them: it can be read by
//! whoever sees it, and made by nobody without the key. Reading is the caller's first step, so nothing is looked up
//! for a forged one.

use crate::compose::ListUnsubscribe;
use crate::verp::MacKey;

/// The value of `List-Unsubscribe-Post`, and the body of the POST that unsubscribes (RFC 8058 §3.1 and §3.2).
pub const ONE_CLICK: &str = "List-Unsubscribe=One-Click";

const CONTEXT: &[u8] = b"postlog unsubscribe v1";
const MAC_OCTETS: usize = 16;
const FIELD_OCTETS_MAX: usize = 254;

/// Who leaves what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The team whose mail it is.
    pub team: String,
    /// The stream of mail; empty for all of the team's.
    pub stream: String,
    /// The recipient.
    pub recipient: String,
}

impl Subscription {
    /// Returns the token for a URL or for the local part's tag of a `mailto` address: letters and digits in lower case.
    ///
    /// `None` where a field is longer than 254 octets.
    #[must_use]
    pub fn token(&self, key: &MacKey) -> Option<String> {
        let mut octets = Vec::new();
        for field in [&self.team, &self.stream, &self.recipient] {
            octets.push(u8::try_from(field.len()).ok().filter(|length| usize::from(*length) <= FIELD_OCTETS_MAX)?);
            octets.extend_from_slice(field.as_bytes());
        }
        let mac = key.mac(CONTEXT, &octets);
        octets.extend_from_slice(&mac[..MAC_OCTETS]);
        Some(data_encoding::BASE32_NOPAD.encode(&octets).to_ascii_lowercase())
    }

    /// Reads a token; `None` where it was not made with this key.
    #[must_use]
    pub fn from_token(token: &str, key: &MacKey) -> Option<Self> {
        // Nothing longer is ever made: three fields of 254 octets and the MAC, in base32.
        if token.len() > 1300 || !token.is_ascii() {
            return None;
        }
        let octets = data_encoding::BASE32_NOPAD.decode(token.to_ascii_uppercase().as_bytes()).ok()?;
        let (fields, mac) = octets.split_at_checked(octets.len().checked_sub(MAC_OCTETS)?)?;
        if !key.verify(CONTEXT, fields, mac) {
            return None;
        }
        let mut rest = fields;
        let mut next = || {
            let (length, tail) = rest.split_first()?;
            let (field, tail) = tail.split_at_checked(usize::from(*length))?;
            rest = tail;
            String::from_utf8(field.to_vec()).ok()
        };
        let subscription = Self { team: next()?, stream: next()?, recipient: next()? };
        rest.is_empty().then_some(subscription)
    }
}

/// Returns the value of `List-Unsubscribe`, folded.
pub(crate) fn header_value(unsubscribe: &ListUnsubscribe) -> String {
    match &unsubscribe.mailto {
        Some(mailto) => format!("<{}>,\r\n <mailto:{mailto}?subject=unsubscribe>", unsubscribe.url),
        None => format!("<{}>", unsubscribe.url),
    }
}

/// Tells whether the body of a POST asks to unsubscribe (RFC 8058 §3.2): form fields, URL-encoded or multipart.
///
/// Anything else, an empty body above all, changes nothing: scanners and previews send it.
#[must_use]
pub fn is_one_click(content_type: &str, body: &[u8]) -> bool {
    const BODY_OCTETS_MAX: usize = 4096;
    if body.len() > BODY_OCTETS_MAX {
        return false;
    }
    let Ok(body) = std::str::from_utf8(body) else { return false };
    let content_type = crate::header::Parameterised::parse(content_type);
    match content_type.value.as_str() {
        "multipart/form-data" => content_type.get("boundary").is_some_and(|boundary| form_data(body, boundary)),
        "application/x-www-form-urlencoded" | "" => body.trim().split('&').any(|pair| pair == ONE_CLICK),
        _ => false,
    }
}

/// Looks for the field in a multipart form (RFC 7578).
fn form_data(body: &str, boundary: &str) -> bool {
    if boundary.is_empty() {
        return false;
    }
    body.split(&format!("--{boundary}")).skip(1).any(|part| {
        let Some((header, value)) = part.split_once("\r\n\r\n").or_else(|| part.split_once("\n\n")) else {
            return false;
        };
        let disposition = header.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then(|| crate::header::Parameterised::parse(value))
        });
        disposition.is_some_and(|it| it.get("name") == Some("List-Unsubscribe")) && value.trim() == "One-Click"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription() -> Subscription {
        Subscription { team: "team_1".into(), stream: "news".into(), recipient: "Ann+x@example.com".into() }
    }

    #[test]
    fn a_token_says_who_leaves_what_and_only_our_key_makes_it() {
        let key = MacKey::new([7; 32]);
        let token = subscription().token(&key).unwrap();
        assert!(token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_eq!(Subscription::from_token(&token, &key), Some(subscription()));
        assert_eq!(Subscription::from_token(&token.to_uppercase(), &key), Some(subscription()));
        assert_eq!(Subscription::from_token(&token, &MacKey::new([8; 32])), None);
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(Subscription::from_token(&forged, &key), None, "{at}");
        }
        assert_eq!(Subscription::from_token("", &key), None);
        assert_eq!(Subscription { recipient: "x".repeat(255), ..subscription() }.token(&key), None);
    }

    #[test]
    fn only_the_one_click_form_unsubscribes() {
        let form = "application/x-www-form-urlencoded";
        assert!(is_one_click(form, b"List-Unsubscribe=One-Click"));
        assert!(is_one_click(form, b"a=b&List-Unsubscribe=One-Click\r\n"));
        assert!(!is_one_click(form, b""));
        assert!(!is_one_click(form, b"List-Unsubscribe=no"));
        assert!(!is_one_click("application/json", b"List-Unsubscribe=One-Click"));
        let multipart =
            b"--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n";
        assert!(is_one_click("multipart/form-data; boundary=x", multipart));
        assert!(!is_one_click("multipart/form-data; boundary=y", multipart));
    }
}
