//! Commands: one line in, one value or one named error out (RFC 5321 §4.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reply::Reply;
use super::transaction::{MailParameters, RcptParameters};
use crate::address::{AddressError, ForwardPath, ReversePath};

mod parameters;

/// Longest name a client may give itself, in octets.
const HELO_OCTETS_MAX: usize = 255;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `HELO name`.
    Helo(String),
    /// `EHLO name`.
    Ehlo(String),
    /// `MAIL FROM:<path> parameters`.
    Mail {
        /// The envelope sender.
        path: ReversePath,
        /// Its parameters.
        parameters: MailParameters,
        /// At least one parameter was given.
        extended: bool,
    },
    /// `RCPT TO:<path> parameters`.
    Rcpt {
        /// The envelope recipient.
        path: ForwardPath,
        /// Its parameters.
        parameters: RcptParameters,
        /// The path was written with non-ASCII characters.
        utf8: bool,
    },
    /// `DATA`.
    Data,
    /// `BDAT octets [LAST]` (RFC 3030).
    Bdat {
        /// Length of the chunk that follows.
        octets: u64,
        /// It ends the message.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`, whatever follows it.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY`.
    Vrfy,
    /// `EXPN`.
    Expn,
    /// `HELP`.
    Help,
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `AUTH mechanism [initial response]` (RFC 4954).
    Auth {
        /// The mechanism.
        mechanism: Mechanism,
        /// The initial response, still in base64; `=` is the empty one.
        initial: Option<String>,
    },
    /// `XCLIENT name=value …`: a proxy says for whom it speaks.
    Xclient(XclientAttributes),
}

/// An authentication mechanism that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Never standardised, still what many clients use.
    Login,
}

/// What XCLIENT changes; other attributes are read and ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XclientAttributes {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The client's port.
    pub port: Option<u16>,
    /// The client's name; inner nothing where the proxy knows none.
    pub reverse_name: Option<Option<String>>,
}

/// Why a line is no command of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// No such verb, or octets that no command has.
    #[error("command not recognized")]
    Unknown,
    /// A verb of the standards that we do not serve.
    #[error("command not implemented")]
    NotImplemented,
    /// A verb of HTTP: this client has been sent here by a web page.
    #[error("this is not a web server")]
    Http,
    /// An argument is missing, superfluous or malformed.
    #[error("invalid argument")]
    Argument,
    /// A parameter that was not offered.
    #[error("parameter not recognized")]
    Parameter,
    /// An authentication mechanism that was not offered.
    #[error("authentication mechanism not supported")]
    Mechanism,
    /// The argument of BDAT: the octets that follow cannot be skipped.
    #[error("invalid chunk size")]
    Chunk,
    /// The path of MAIL.
    #[error("sender: {0}")]
    Sender(AddressError),
    /// The path of RCPT.
    #[error("recipient: {0}")]
    Recipient(AddressError),
    /// The path of MAIL is not ASCII and SMTPUTF8 was not asked for.
    #[error("a non-ASCII address needs SMTPUTF8")]
    Utf8Unasked,
}

impl SyntaxError {
    /// Returns the reply that names the error.
    #[must_use]
    pub fn reply(self) -> Reply {
        let text = self.to_string();
        match self {
            Self::Unknown => Reply::new(500, 5, 2, text),
            Self::NotImplemented => Reply::new(502, 5, 1, text),
            Self::Http => Reply::new(421, 7, 0, text),
            Self::Argument | Self::Chunk => Reply::new(501, 5, 4, text),
            Self::Mechanism => Reply::new(504, 5, 4, text),
            Self::Parameter => Reply::new(555, 5, 4, text),
            Self::Sender(AddressError::Path) | Self::Recipient(AddressError::Path) => Reply::new(501, 5, 4, text),
            Self::Sender(error) if error.is_length() => Reply::new(553, 1, 7, text),
            Self::Recipient(error) if error.is_length() => Reply::new(553, 1, 3, text),
            Self::Sender(_) => Reply::new(501, 1, 7, text),
            Self::Recipient(_) => Reply::new(501, 1, 3, text),
            Self::Utf8Unasked => Reply::new(553, 6, 7, text),
        }
    }
}

impl Command {
    /// Parses a command line without its CRLF. Verbs and keywords are read in any case, white space at the
    /// end is ignored.
    ///
    /// # Errors
    /// A [`SyntaxError`] that names the part that is wrong.
    pub fn parse(line: &[u8]) -> Result<Self, SyntaxError> {
        let end = line.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |last| last + 1);
        let line = &line[..end];
        let verb_end = line.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_end);
        let verb = verb.to_ascii_uppercase();
        if is_http(&verb) {
            return Err(SyntaxError::Http);
        }
        let text = std::str::from_utf8(rest).map_err(|_| not_utf8(&verb))?.trim_matches([' ', '\t']);
        // An address with control characters is refused as an address; elsewhere they make no command.
        if text.contains(char::is_control) && !matches!(verb.as_slice(), b"MAIL" | b"RCPT") {
            return Err(if verb == b"BDAT" { SyntaxError::Chunk } else { SyntaxError::Unknown });
        }
        let bare = |command: Self| {
            if text.is_empty() { Ok(command) } else { Err(SyntaxError::Argument) }
        };
        match verb.as_slice() {
            b"HELO" => parse_name(text).map(Self::Helo),
            b"EHLO" => parse_name(text).map(Self::Ehlo),
            b"MAIL" => parse_mail(text),
            b"RCPT" => parse_rcpt(text),
            b"DATA" => bare(Self::Data),
            b"BDAT" => parse_bdat(text),
            b"RSET" => bare(Self::Rset),
            b"NOOP" => Ok(Self::Noop),
            b"QUIT" => Ok(Self::Quit),
            b"VRFY" => Ok(Self::Vrfy),
            b"EXPN" => Ok(Self::Expn),
            b"HELP" => Ok(Self::Help),
            b"STARTTLS" => bare(Self::StartTls),
            b"AUTH" => parse_auth(text),
            b"XCLIENT" => parse_xclient(text).map(Self::Xclient),
            b"TURN" | b"ETRN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" => Err(SyntaxError::NotImplemented),
            _ => Err(SyntaxError::Unknown),
        }
    }

    /// Tells whether the client must wait for the reply before it sends more (RFC 2920 §3.1). QUIT must be
    /// last too, but whatever follows it is simply never read.
    #[must_use]
    pub fn ends_group(&self) -> bool {
        match self {
            Self::Helo(_) | Self::Ehlo(_) | Self::Data | Self::Noop | Self::Vrfy | Self::Expn => true,
            Self::StartTls | Self::Auth { .. } | Self::Xclient(_) => true,
            Self::Mail { .. } | Self::Rcpt { .. } | Self::Bdat { .. } => false,
            Self::Rset | Self::Quit | Self::Help => false,
        }
    }
}

fn is_http(verb: &[u8]) -> bool {
    matches!(verb, b"GET" | b"POST" | b"PUT" | b"HEAD" | b"DELETE" | b"OPTIONS" | b"CONNECT" | b"PATCH" | b"TRACE")
}

fn not_utf8(verb: &[u8]) -> SyntaxError {
    match verb {
        b"MAIL" => SyntaxError::Sender(AddressError::LocalPart),
        b"RCPT" => SyntaxError::Recipient(AddressError::LocalPart),
        b"BDAT" => SyntaxError::Chunk,
        b"HELO" | b"EHLO" => SyntaxError::Argument,
        _ => SyntaxError::Unknown,
    }
}

/// Reads the client's name. It is only a claim, so anything in one word will do; more words, which some
/// clients send, are dropped.
fn parse_name(text: &str) -> Result<String, SyntaxError> {
    match text.split_whitespace().next() {
        Some(name) if name.len() <= HELO_OCTETS_MAX => Ok(name.to_owned()),
        _ => Err(SyntaxError::Argument),
    }
}

fn parse_mail(text: &str) -> Result<Command, SyntaxError> {
    let text = strip_keyword(text, "FROM:").ok_or(SyntaxError::Argument)?;
    let (path_text, rest) = split_path(text).map_err(SyntaxError::Sender)?;
    let path = ReversePath::parse(path_text).map_err(SyntaxError::Sender)?;
    let parameters = parameters::parse_mail(rest)?;
    if !path_text.is_ascii() && !parameters.smtputf8 {
        return Err(SyntaxError::Utf8Unasked);
    }
    Ok(Command::Mail { path, parameters, extended: !rest.is_empty() })
}

fn parse_rcpt(text: &str) -> Result<Command, SyntaxError> {
    let text = strip_keyword(text, "TO:").ok_or(SyntaxError::Argument)?;
    let (path_text, rest) = split_path(text).map_err(SyntaxError::Recipient)?;
    let path = ForwardPath::parse(path_text).map_err(SyntaxError::Recipient)?;
    let parameters = parameters::parse_rcpt(rest)?;
    Ok(Command::Rcpt { path, parameters, utf8: !path_text.is_ascii() })
}

/// Strips `FROM:` or `TO:` and the spaces that many clients put behind it.
fn strip_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_start_matches([' ', '\t']))
}

/// Splits `<path>` from what follows it; a `>` inside quotes belongs to the path.
fn split_path(text: &str) -> Result<(&str, &str), AddressError> {
    if !text.starts_with('<') {
        return Err(AddressError::Path);
    }
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if c.is_control() => return Err(AddressError::ControlCharacter),
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                let (path, rest) = text.split_at(at + 1);
                // Parameters are set off by a space.
                let apart = rest.is_empty() || rest.starts_with([' ', '\t']);
                return if apart { Ok((path, rest.trim_start())) } else { Err(AddressError::Path) };
            }
            _ => {}
        }
    }
    Err(AddressError::LocalPart)
}

fn parse_bdat(text: &str) -> Result<Command, SyntaxError> {
    let mut words = text.split_ascii_whitespace();
    let octets = words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
    let octets = octets.and_then(|word| word.parse().ok()).ok_or(SyntaxError::Chunk)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(SyntaxError::Chunk),
    };
    if words.next().is_some() { Err(SyntaxError::Chunk) } else { Ok(Command::Bdat { octets, last }) }
}

fn parse_auth(text: &str) -> Result<Command, SyntaxError> {
    let mut words = text.split_ascii_whitespace();
    let mechanism = match words.next() {
        None => return Err(SyntaxError::Argument),
        Some(word) if word.eq_ignore_ascii_case("PLAIN") => Mechanism::Plain,
        Some(word) if word.eq_ignore_ascii_case("LOGIN") => Mechanism::Login,
        Some(_) => return Err(SyntaxError::Mechanism),
    };
    let initial = words.next().map(str::to_owned);
    if words.next().is_some() { Err(SyntaxError::Argument) } else { Ok(Command::Auth { mechanism, initial }) }
}

fn parse_xclient(text: &str) -> Result<XclientAttributes, SyntaxError> {
    let mut attributes = XclientAttributes::default();
    if text.is_empty() {
        return Err(SyntaxError::Argument);
    }
    for word in text.split_ascii_whitespace() {
        let (name, value) = word.split_once('=').ok_or(SyntaxError::Argument)?;
        let value = parameters::decode_xtext(value).ok_or(SyntaxError::Argument)?;
        let known = !matches!(value.to_ascii_uppercase().as_str(), "[UNAVAILABLE]" | "[TEMPUNAVAIL]");
        match name.to_ascii_uppercase().as_str() {
            "ADDR" if known => attributes.address = Some(parse_ip(&value).ok_or(SyntaxError::Argument)?),
            "PORT" if known => attributes.port = Some(value.parse().map_err(|_| SyntaxError::Argument)?),
            "NAME" if value.len() > HELO_OCTETS_MAX => return Err(SyntaxError::Argument),
            "NAME" => attributes.reverse_name = Some(known.then_some(value)),
            // The client says EHLO itself afterwards, and we take no login on a proxy's word.
            "ADDR" | "PORT" | "HELO" | "PROTO" | "LOGIN" | "DESTADDR" | "DESTPORT" => {}
            _ => return Err(SyntaxError::Argument),
        }
    }
    Ok(attributes)
}

fn parse_ip(text: &str) -> Option<IpAddr> {
    match text.split_at_checked(5) {
        Some((tag, v6)) if tag.eq_ignore_ascii_case("IPV6:") => {
            v6.parse::<Ipv6Addr>().ok().map(|v6| IpAddr::V6(v6).to_canonical())
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}
