//! Replies: a code, an enhanced status code, a text (RFC 5321 §4.2, RFC 2034, RFC 3463).

use std::borrow::Cow;

/// Longest text of a reply line, in octets: with its codes it stays under the 512 of RFC 5321 §4.5.3.1.5.
const TEXT_OCTETS_MAX: usize = 480;

/// One reply. Its enhanced status always has the class of its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    /// Subject and detail of the enhanced status.
    status: Option<(u8, u8)>,
    text: Cow<'static, str>,
}

impl Reply {
    /// Makes a reply with the enhanced status `<class of code>.subject.detail`.
    #[must_use]
    pub fn new(code: u16, subject: u8, detail: u8, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status: Some((subject, detail)), text: text.into() }
    }

    /// Makes a reply that carries no enhanced status: greeting, EHLO, 334, 354. Each line of `text` becomes
    /// a line of the reply.
    #[must_use]
    pub(crate) fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status: None, text: text.into() }
    }

    /// Returns the three-digit code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Returns the enhanced status, `5.1.1`, where there is one.
    #[must_use]
    pub fn enhanced(&self) -> Option<String> {
        self.status.map(|(subject, detail)| format!("{}.{subject}.{detail}", self.code / 100))
    }

    /// Returns the text after the codes.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Appends the reply's lines. What a reply line may not carry becomes `?`, so that no text, wherever it
    /// came from, can end a line early.
    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        let enhanced = self.enhanced();
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.extend_from_slice(self.code.to_string().as_bytes());
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(enhanced) = &enhanced {
                out.extend_from_slice(enhanced.as_bytes());
                out.push(b' ');
            }
            let printable = line.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' });
            out.extend(printable.take(TEXT_OCTETS_MAX).filter_map(|c| u8::try_from(c).ok()));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Why a connection is not served at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// This client address has too many connections open.
    TooManyFromPeer,
    /// All clients together have.
    TooMany,
    /// The server is stopping.
    ShuttingDown,
}

impl ConnectionRefusal {
    /// Returns the bytes to send instead of a greeting, before closing.
    #[must_use]
    pub fn reply(self) -> Vec<u8> {
        let reply = match self {
            Self::TooManyFromPeer => Reply::new(421, 7, 0, "too many connections from your address"),
            Self::TooMany => Reply::new(421, 3, 2, "too many connections, try again later"),
            Self::ShuttingDown => Reply::new(421, 3, 2, "shutting down, try again later"),
        };
        let mut bytes = Vec::new();
        reply.write_to(&mut bytes);
        bytes
    }
}
