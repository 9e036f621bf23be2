//! What the receiving door (port 25) answers: the receiver knows mailboxes.

use std::net::IpAddr;
use std::sync::Arc;

use mail::address::{ForwardPath, ReversePath};
use mail::smtp::{MailParameters, Transaction, Verdict};

use super::desk::{Place, work};
use super::peers::{Guessing, Patience};
use crate::receive::{Asked, Incoming, Receiver, Refusal, Route};

/// What all connections share.
pub(super) struct Receiving {
    pub(super) receiver: Receiver,
    pub(super) harvest: Guessing,
}

/// The transaction of one connection.
pub(super) struct Desk {
    receiving: Arc<Receiving>,
    /// The size announced at MAIL.
    size_octets: Option<u64>,
    /// What becomes of mail for the recipients of this transaction, in the order they were accepted.
    routes: Vec<(ForwardPath, Route)>,
}

impl Desk {
    pub(super) fn new(receiving: Arc<Receiving>) -> Self {
        Self { receiving, size_octets: None, routes: vec![] }
    }

    pub(super) fn begin(&mut self, parameters: &MailParameters) {
        self.size_octets = parameters.size_octets;
        self.routes.clear();
    }

    pub(super) async fn check_recipient(&mut self, place: &Place, sender: &ReversePath, path: ForwardPath) -> Verdict {
        let (peer, trusted): (IpAddr, bool) = (place.peer, place.trusted);
        let asked = Asked { path: &path, sender, size_octets: self.size_octets, peer, trusted };
        let found = work(place, self.receiving.receiver.recipient(asked)).await;
        let refusal = match found.unwrap_or(Err(Refusal::Unavailable)) {
            Ok(route) => {
                recipients_total("accepted");
                self.routes.push((path, route));
                return Verdict::Accept;
            }
            Err(refusal) => refusal,
        };
        recipients_total(refusal.as_str());
        if refusal == Refusal::UnknownMailbox && !trusted {
            match self.receiving.harvest.note(peer, place.now()) {
                Patience::Full => {}
                Patience::Short(delay) => place.pause(delay).await,
                Patience::None => return Verdict::disconnect(),
            }
        }
        refusal.verdict()
    }

    pub(super) async fn deliver(&mut self, place: &Place, transaction: Transaction) -> Verdict {
        let found = std::mem::take(&mut self.routes);
        let mut routes = Vec::with_capacity(transaction.recipients.len());
        for (at, recipient) in transaction.recipients.iter().enumerate() {
            let at_place = found.get(at).filter(|(path, _)| *path == recipient.path);
            match at_place.or_else(|| found.iter().find(|(path, _)| *path == recipient.path)) {
                Some((_, route)) => routes.push(route.clone()),
                // Every recipient of a transaction was accepted above.
                None => return Verdict::unavailable(),
            }
        }
        let incoming = Incoming { transaction, routes };
        let begun = std::time::Instant::now();
        let accepted = work(place, self.receiving.receiver.accept(incoming)).await;
        metrics::histogram!("smtp_delivery_duration_seconds").record(begun.elapsed());
        match accepted.unwrap_or(Err(Refusal::Unavailable)) {
            Ok(accepted) => {
                messages_total(match accepted.copies {
                    0 => "report",
                    copies if copies == accepted.duplicates => "duplicate",
                    _ => "accepted",
                });
                Verdict::AcceptWith(format!("accepted as {}", accepted.request))
            }
            Err(refusal) => {
                messages_total(refusal.as_str());
                refusal.verdict()
            }
        }
    }
}

fn recipients_total(outcome: &'static str) {
    metrics::counter!("smtp_recipients_total", "outcome" => outcome).increment(1);
}

fn messages_total(outcome: &'static str) {
    metrics::counter!("smtp_messages_total", "outcome" => outcome).increment(1);
}
