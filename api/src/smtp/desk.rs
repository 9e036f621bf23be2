//! Who answers the questions of a session: one door receives for mailboxes, the other takes mail from their owners.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mail::address::{ForwardPath, ReversePath};
use mail::smtp::{Credentials, MailParameters, Transaction, Verdict};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::receiving::{self, Receiving};
use super::submitting::{self, Submitting};
use super::{Shared, peers};

/// What a listener is for.
pub(super) enum Purpose {
    Receiving(Arc<Receiving>),
    Submission(Arc<Submitting>),
}

/// Where a desk stands: the connection it answers for.
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
    /// The network the client is counted by.
    pub(super) peer: IpAddr,
    pub(super) trusted: bool,
    pub(super) _counted: Option<peers::OfPeer>,
}

impl Place {
    pub(super) fn now(&self) -> i64 {
        self.shared.allot.now()
    }

    /// Waits, unless the program stops.
    pub(super) async fn pause(&self, delay: Duration) {
        tokio::select! {
            () = sleep(delay) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Does something for as long as a client is kept waiting for an answer; `None` if that was not long enough.
pub(super) async fn work<T>(place: &Place, doing: impl Future<Output = T>) -> Option<T> {
    let time_max = Duration::from_secs(place.shared.settings.limits.delivery_seconds_max.into());
    timeout(time_max, doing).await.ok()
}

/// What is remembered of one connection.
pub(super) enum Desk {
    Receiving(receiving::Desk),
    Submission(submitting::Desk),
}

impl Desk {
    pub(super) fn of(purpose: &Purpose) -> Self {
        match purpose {
            Purpose::Receiving(of) => Self::Receiving(receiving::Desk::new(Arc::clone(of))),
            Purpose::Submission(of) => Self::Submission(submitting::Desk::new(Arc::clone(of))),
        }
    }

    pub(super) async fn check_sender(
        &mut self,
        place: &Place,
        path: &ReversePath,
        parameters: &MailParameters,
    ) -> Verdict {
        match self {
            Self::Receiving(desk) => {
                desk.begin(parameters);
                Verdict::Accept
            }
            Self::Submission(desk) => desk.check_sender(place, path).await,
        }
    }

    pub(super) async fn check_recipient(
        &mut self,
        place: &Place,
        sender: Option<&ReversePath>,
        path: ForwardPath,
    ) -> Verdict {
        // A recipient is asked about inside a transaction only.
        let Some(sender) = sender else { return Verdict::unavailable() };
        match self {
            Self::Receiving(desk) => desk.check_recipient(place, sender, path).await,
            Self::Submission(_) => submitting::Desk::check_recipient(&path),
        }
    }

    pub(super) async fn authenticate(&mut self, place: &Place, credentials: Credentials) -> Verdict {
        match self {
            // Only submission authenticates, and this door is for other hosts.
            Self::Receiving(_) => Verdict::wrong_credentials(),
            Self::Submission(desk) => desk.authenticate(place, credentials).await,
        }
    }

    pub(super) async fn deliver(&mut self, place: &Place, transaction: Transaction) -> Verdict {
        match self {
            Self::Receiving(desk) => desk.deliver(place, transaction).await,
            Self::Submission(desk) => desk.deliver(place, transaction).await,
        }
    }
}
