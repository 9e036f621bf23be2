//! What a server offers in its answer to EHLO (RFC 5321 §4.1.1.1).

/// The extensions that the client uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The server's name for itself.
    pub name: String,
    /// EHLO was accepted.
    pub esmtp: bool,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// STARTTLS (RFC 3207).
    pub start_tls: bool,
    /// SIZE is offered (RFC 1870).
    pub size: bool,
    /// The largest message it takes, in octets, where it says.
    pub size_octets_max: Option<u64>,
    /// AUTH PLAIN (RFC 4616).
    pub auth_plain: bool,
    /// AUTH LOGIN.
    pub auth_login: bool,
}

impl Capabilities {
    /// Reads the lines of a reply to EHLO.
    pub(super) fn read(text: &str) -> Self {
        let mut lines = text.lines();
        let name = lines.next().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned();
        let mut found = Self { name, esmtp: true, ..Self::default() };
        for line in lines {
            // `AUTH=PLAIN` is an old way to write it.
            let line = line.to_ascii_uppercase().replacen("AUTH=", "AUTH ", 1);
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("PIPELINING") => found.pipelining = true,
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("SMTPUTF8") => found.smtputf8 = true,
                Some("CHUNKING") => found.chunking = true,
                Some("DSN") => found.dsn = true,
                Some("STARTTLS") => found.start_tls = true,
                Some("SIZE") => {
                    found.size = true;
                    // 0 means that there is no fixed limit.
                    found.size_octets_max = words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
                }
                Some("AUTH") => {
                    for word in words {
                        found.auth_plain |= word == "PLAIN";
                        found.auth_login |= word == "LOGIN";
                    }
                }
                _ => {}
            }
        }
        found
    }
}
