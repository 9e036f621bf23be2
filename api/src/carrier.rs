//! What the doors ask of whatever carries outgoing mail; the program puts the two together.

use async_trait::async_trait;
use domain::id::{OutboundId, ProviderId, TeamId};
use domain::provider::credentials::Credentials;
use domain::provider::{Security, Trouble};

/// A submission server and how to log in there. Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct Server {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// Logs in with this.
    pub login: Option<Credentials>,
}

/// What a look at a submission server found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Whether it would take mail; if not, what that says about the account.
    pub result: Result<(), Option<Trouble>>,
    /// What was found, for people: one line.
    pub message: String,
}

/// What was said in one attempt to hand a mail over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The account.
    pub account: ProviderId,
    /// The dialogue, without passwords and content.
    pub said: String,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

/// Carries outgoing mail.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Connects to a server, logs in and says goodbye.
    async fn probe(&self, server: Server) -> Trial;

    /// Returns what was said in the attempts of a mail, first attempt first, as far as it is still kept.
    ///
    /// # Errors
    /// The database does not answer.
    async fn transcripts(
        &self,
        team: &TeamId,
        mail: &OutboundId,
        now_micros: i64,
    ) -> Result<Vec<Transcript>, projections::Error>;
}
