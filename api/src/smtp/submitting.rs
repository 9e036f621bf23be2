//! What the submission door (ports 587 and 465) answers: the submitter knows keys.

use std::sync::Arc;

use mail::address::{ForwardPath, ReversePath};
use mail::smtp::{Credentials, Transaction, Verdict};

use super::desk::{Place, work};
use super::peers::{Guessing, Patience};
use crate::auth::Caller;
use crate::submit::{Refusal, Submitter};

/// What all connections share.
pub(super) struct Submitting {
    pub(super) submitter: Submitter,
    pub(super) guessing: Guessing,
}

/// The client of one connection.
pub(super) struct Desk {
    submitting: Arc<Submitting>,
    caller: Option<Arc<Caller>>,
}

impl Desk {
    pub(super) fn new(submitting: Arc<Submitting>) -> Self {
        Self { submitting, caller: None }
    }

    /// Any user name will do: the secret says who it is.
    pub(super) async fn authenticate(&mut self, place: &Place, credentials: Credentials) -> Verdict {
        if self.submitting.guessing.is_spent(place.peer, place.now()) {
            return Verdict::disconnect();
        }
        let asked = work(place, self.submitting.submitter.authenticate(credentials.secret.expose())).await;
        let refusal = match asked.unwrap_or(Err(Refusal::Unavailable)) {
            Ok(caller) => {
                authentications_total("accepted");
                self.caller = Some(caller);
                return Verdict::Accept;
            }
            Err(refusal) => refusal,
        };
        authentications_total(refusal.as_str());
        if refusal == Refusal::Credentials {
            match self.submitting.guessing.note(place.peer, place.now()) {
                Patience::Full => {}
                Patience::Short(delay) => place.pause(delay).await,
                Patience::None => return Verdict::disconnect(),
            }
        }
        refusal.auth_verdict()
    }

    pub(super) async fn check_sender(&self, place: &Place, path: &ReversePath) -> Verdict {
        // The session asks for authentication before it asks for a sender.
        let Some(caller) = &self.caller else { return Verdict::wrong_credentials() };
        let begun = work(place, self.submitting.submitter.begin(caller, path)).await;
        match begun.unwrap_or(Err(Refusal::Unavailable)) {
            Ok(()) => Verdict::Accept,
            Err(refusal) => {
                submissions_total(refusal.as_str());
                refusal.verdict()
            }
        }
    }

    /// Every address may be written to; whether it is on the suppression list is decided with the mail, and recorded.
    pub(super) fn check_recipient(path: &ForwardPath) -> Verdict {
        match path.address() {
            Some(_) => Verdict::Accept,
            None => Verdict::reject(550, 1, 3, "the recipient needs a domain"),
        }
    }

    pub(super) async fn deliver(&self, place: &Place, transaction: Transaction) -> Verdict {
        let Some(caller) = self.caller.clone() else { return Verdict::wrong_credentials() };
        let begun = std::time::Instant::now();
        let taken = work(place, self.submitting.submitter.accept(caller, transaction)).await;
        metrics::histogram!("submission_duration_seconds").record(begun.elapsed());
        match taken.unwrap_or(Err(Refusal::Unavailable)) {
            Ok(taken) => {
                submissions_total(if taken.repeated { "duplicate" } else { "accepted" });
                Verdict::AcceptWith(format!("accepted as {}", taken.outbound))
            }
            Err(refusal) => {
                submissions_total(refusal.as_str());
                refusal.verdict()
            }
        }
    }
}

fn authentications_total(outcome: &'static str) {
    metrics::counter!("submission_authentications_total", "outcome" => outcome).increment(1);
}

fn submissions_total(outcome: &'static str) {
    metrics::counter!("submission_messages_total", "outcome" => outcome).increment(1);
}
