//! Events that cannot be made into a delivery, and what an operator decides about them.
//!
//! Such an event blocks its mailbox for its webhook. Trying it again says nothing to the log. Leaving it out does: the
//! endpoint's owner is never told of that event, so `delivery.skipped` is recorded first, then the mailbox goes on.

use domain::Actor;
use domain::id::RequestId;
use domain::webhook_endpoint::{Rejected, SkipDelivery};
use eventlog::{EventLog, Submission, TransactError};

use crate::queue::{Poisoned, Queue};

/// What is done about a poisoned event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It is tried again now.
    Retry,
    /// It is left out for good.
    Skip,
}

/// A poisoned event could not be resolved; asking again is safe.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The decision could not be recorded.
    #[error("the decision could not be recorded")]
    Log(#[from] TransactError<Rejected>),
    /// The work database does not answer.
    #[error("the work database does not answer")]
    Work(#[from] projections::Error),
}

/// Tries a poisoned event again, or leaves it out for good: the operator's decision. Returns whether it still was
/// poisoned. `now` is in microseconds since the Unix epoch.
///
/// # Errors
/// See [`ResolveError`]. What was recorded is not recorded again by the next try.
pub async fn resolve_poisoned(
    queue: &Queue,
    log: &EventLog,
    poisoned: &Poisoned,
    resolution: Resolution,
    request: &RequestId,
    now: i64,
) -> Result<bool, ResolveError> {
    if !queue.is_poisoned(poisoned).await? {
        return Ok(false);
    }
    if resolution == Resolution::Skip {
        let command = SkipDelivery {
            webhook: poisoned.webhook.clone(),
            event_position: poisoned.position,
            reason: poisoned.error.clone(),
        };
        let submission = Submission::new(poisoned.team.clone(), now, Actor::Operator, request.as_str(), command);
        match log.transact(submission).await {
            Ok(_) => {}
            // It was deleted meanwhile, and its rows go with it.
            Err(TransactError::Rejected(Rejected::Unknown)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    let was = queue.release_poisoned(poisoned, resolution == Resolution::Skip, now).await?;
    tracing::info!(
        team.id = %poisoned.team,
        webhook.id = %poisoned.webhook,
        log.position = poisoned.position,
        resolution = ?resolution,
        "a poisoned event was resolved by the operator"
    );
    Ok(was)
}
