//! The grammar of SPF records, taken literally (RFC 7208 section 12): what does not fit is an error, because a
//! lenient reading could turn a typo into a `pass`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::macros::{MacroString, Place};

/// A parsed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub directives: Vec<Directive>,
    pub redirect: Option<MacroString>,
    pub exp: Option<MacroString>,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qualifier {
    Pass,
    Fail,
    Softfail,
    Neutral,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub qualifier: Qualifier,
    pub mechanism: Mechanism,
}

/// Prefix lengths for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    pub v4: u8,
    pub v6: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Cidr),
    Mx(Option<MacroString>, Cidr),
    Ptr(Option<MacroString>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(MacroString),
}

/// A record that breaks the grammar; the text names the term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError(pub String);

/// Returns whether a TXT record claims to be SPF version 1 (RFC 7208 section 4.5).
pub(super) fn is_spf(text: &[u8]) -> bool {
    text.get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"v=spf1")) && matches!(text.get(6), None | Some(b' '))
}

/// Parses a record that [`is_spf`].
pub(super) fn parse(text: &[u8]) -> Result<Record, SyntaxError> {
    let error = |term: &str| SyntaxError(format!("bad term {}", shorten(term)));
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    let text = text.ok_or_else(|| SyntaxError("characters that are not printable ASCII".to_owned()))?;
    let mut record = Record { directives: Vec::new(), redirect: None, exp: None };
    // Only spaces separate terms: a tab would have been refused above.
    for term in text[6..].split(' ').filter(|term| !term.is_empty()) {
        match modifier(term) {
            Some((name, value)) => {
                let place = if name.eq_ignore_ascii_case("redirect") || name.eq_ignore_ascii_case("exp") {
                    Place::Domain
                } else {
                    Place::Anywhere
                };
                let value = MacroString::parse(value, place).ok_or_else(|| error(term))?;
                let slot = match name.to_ascii_lowercase().as_str() {
                    "redirect" => &mut record.redirect,
                    "exp" => &mut record.exp,
                    // Unknown modifiers are ignored, but must be well-formed.
                    _ => continue,
                };
                if slot.replace(value).is_some() {
                    return Err(SyntaxError(format!("{name} given twice")));
                }
            }
            None => record.directives.push(directive(term).ok_or_else(|| error(term))?),
        }
    }
    Ok(record)
}

fn shorten(term: &str) -> String {
    term.chars().take(60).collect()
}

/// `name=value`, where the name is an identifier: `ip4:…=` is not a modifier.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    (first && rest).then_some((name, value))
}

fn directive(term: &str) -> Option<Directive> {
    let (qualifier, body) = match term.as_bytes().first()? {
        b'+' => (Qualifier::Pass, &term[1..]),
        b'-' => (Qualifier::Fail, &term[1..]),
        b'~' => (Qualifier::Softfail, &term[1..]),
        b'?' => (Qualifier::Neutral, &term[1..]),
        _ => (Qualifier::Pass, term),
    };
    let end = body.find([':', '/']).unwrap_or(body.len());
    let (name, argument) = body.split_at(end);
    let mechanism = match name.to_ascii_lowercase().as_str() {
        "all" if argument.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(domain(argument.strip_prefix(':')?)?),
        "exists" => Mechanism::Exists(domain(argument.strip_prefix(':')?)?),
        "ptr" if argument.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(domain(argument.strip_prefix(':')?)?)),
        "a" => {
            let (domain, cidr) = domain_and_cidr(argument)?;
            Mechanism::A(domain, cidr)
        }
        "mx" => {
            let (domain, cidr) = domain_and_cidr(argument)?;
            Mechanism::Mx(domain, cidr)
        }
        "ip4" => ip4(argument.strip_prefix(':')?)?,
        "ip6" => ip6(argument.strip_prefix(':')?)?,
        _ => return None,
    };
    Some(Directive { qualifier, mechanism })
}

fn domain(text: &str) -> Option<MacroString> {
    MacroString::parse(text, Place::Domain)
}

/// `[":" domain-spec] ["/" length] ["//" length]`
fn domain_and_cidr(argument: &str) -> Option<(Option<MacroString>, Cidr)> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mut rest = argument;
    let mut cidr = Cidr { v4: 32, v6: 128 };
    if let Some((before, length)) = rest.rsplit_once("//").filter(|(_, length)| digits(length)) {
        cidr.v6 = prefix_length(length, 128)?;
        rest = before;
    }
    // A slash inside a domain-spec is legal; only one followed by nothing but digits starts a length.
    if let Some((before, length)) = rest.rsplit_once('/').filter(|(_, length)| digits(length)) {
        cidr.v4 = prefix_length(length, 32)?;
        rest = before;
    }
    match rest.strip_prefix(':') {
        Some(text) => Some((Some(domain(text)?), cidr)),
        None => rest.is_empty().then_some((None, cidr)),
    }
}

/// A prefix length without leading zeros.
fn prefix_length(text: &str, max: u8) -> Option<u8> {
    let canonical = text == "0" || !text.starts_with('0');
    let plain = !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|length| canonical && plain && *length <= max)
}

fn ip4(text: &str) -> Option<Mechanism> {
    let (network, length) = match text.split_once('/') {
        Some((network, length)) => (network, prefix_length(length, 32)?),
        None => (text, 32),
    };
    // The standard parser takes four decimal numbers without leading zeros, which is what the grammar wants.
    Some(Mechanism::Ip4(network.parse().ok()?, length))
}

fn ip6(text: &str) -> Option<Mechanism> {
    let (network, length) = match text.split_once('/') {
        Some((network, length)) => (network, prefix_length(length, 128)?),
        None => (text, 128),
    };
    Some(Mechanism::Ip6(network.parse().ok()?, length))
}
