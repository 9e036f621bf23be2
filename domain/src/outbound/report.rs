//! What a server said about a mail, as far as it may name people.

/// The words of a server, which go into the personal half, and what it takes upon itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The provider's id of the mail.
    pub provider_message_id: Option<String>,
    /// What the server said: one line, at most 1,000 characters.
    pub diagnostic: Option<String>,
    /// The server that said it.
    pub remote_mta: Option<String>,
    /// Who tells the sender from here on; `None` where nothing was handed on.
    pub onward: Option<super::Onward>,
}

impl Report {
    /// Returns a report of what a server said, made safe to keep: control characters become spaces, and at most
    /// 1,000 characters are kept.
    #[must_use]
    pub fn of(diagnostic: &str, remote_mta: Option<&str>) -> Self {
        let clean = |text: &str, characters: usize| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(characters).collect()
        };
        Self {
            provider_message_id: None,
            diagnostic: Some(clean(diagnostic, 1_000)),
            remote_mta: remote_mta.map(|name| clean(name, 255)),
            onward: None,
        }
    }

    /// Returns this report with the provider's id of the mail.
    #[must_use]
    pub fn with_provider_message_id(mut self, id: impl Into<String>) -> Self {
        self.provider_message_id = Some(id.into());
        self
    }

    /// Returns this report with who tells the sender what becomes of the mail.
    #[must_use]
    pub fn handed_on(mut self, onward: Option<super::Onward>) -> Self {
        self.onward = onward;
        self
    }
}
