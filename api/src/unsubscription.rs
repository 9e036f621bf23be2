//! Somebody wants no more mail of a kind: written down at once, whichever way it was said.

use domain::bounce::Source;
use domain::id::{OutboundId, TeamId};
use domain::outbound::report::Report;
use domain::outbound::{Feedback, Outbound, RecordFeedback, Rejected, UnsubscribeMethod};
use domain::suppression::{Cause, Reason, SuppressAddress, Suppression};
use domain::{Actor, Command, StreamId, Versioned};
use eventlog::{EventLog, Submission, TransactError};

/// One recipient of one mail who wants no more of its kind. Whoever brings it has proof that the recipient means it.
#[derive(Debug, Clone)]
pub(crate) struct Unsubscription<'a> {
    pub(crate) team: &'a TeamId,
    pub(crate) outbound: &'a OutboundId,
    pub(crate) recipient: u8,
    /// What the mail was about; `None` for all of the team's.
    pub(crate) topic: Option<String>,
    pub(crate) method: UnsubscribeMethod,
    pub(crate) actor: Actor,
    pub(crate) request: String,
    pub(crate) client_ip: Option<String>,
}

impl Unsubscription<'_> {
    /// Writes it down at a time, microseconds since the Unix epoch; returns whether there is such a recipient.
    ///
    /// # Errors
    /// The log does not take it.
    pub(crate) async fn record(&self, log: &EventLog, now: i64) -> Result<bool, String> {
        let streams = [StreamId::Outbound(self.outbound.clone())];
        let mail: Versioned<Outbound> = log.state(self.team, &streams).await.map_err(|error| error.to_string())?;
        let Some(to) = mail.recipient(self.recipient).cloned() else { return Ok(false) };
        let cause = Cause { reason: Reason::Unsubscribe, topic: self.topic.clone() };
        let streams = [StreamId::Suppression(to.address.clone())];
        let listed: Versioned<Suppression> = log.state(self.team, &streams).await.map_err(|e| e.to_string())?;
        if to.unsubscribed && listed.causes.get(&cause).is_some_and(Option::is_none) {
            // Strangers may ask as often as they like: what is so already costs no command.
            return Ok(true);
        }
        let heard = RecordFeedback {
            outbound: self.outbound.clone(),
            recipient: self.recipient,
            address: to.address.clone(),
            feedback: Feedback::Unsubscribed { method: self.method },
            source: Source::Postlog,
            report: Report::default(),
        };
        match log.transact(self.submission(now, heard)).await {
            // Whoever has the mail may answer before it is known here that it was taken.
            Ok(_) | Err(TransactError::Rejected(Rejected::NotSent)) => {}
            Err(error) => return Err(error.to_string()),
        }
        // The mail may be an old one, and the address have been taken off the list since: what counts is what is asked now.
        let Some(email) = to.email.and_then(|email| mail::address::Address::parse(&email).ok()) else {
            return Ok(true);
        };
        let suppress =
            SuppressAddress { address: to.address, email: email.canonical(), cause, expires_at: None, note: None };
        match log.transact(self.submission(now, suppress)).await {
            Ok(_) => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }

    fn submission<C: Command>(&self, now: i64, command: C) -> Submission<C> {
        let submission = Submission::new(self.team.clone(), now, self.actor.clone(), self.request.clone(), command);
        match &self.client_ip {
            Some(ip) => submission.from_ip(ip.clone()),
            None => submission,
        }
    }
}
