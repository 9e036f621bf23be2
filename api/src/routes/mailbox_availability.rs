//! Whether a mailbox could be created.

use axum::extract::State;
use domain::sending_domain::Mode;
use domain::team::Team;
use domain::{StreamId, Versioned};
use eventlog::DirectoryKey;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::mailbox_view::mailbox_address;
use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::openapi::Routes;
use crate::problem::Problem;
use crate::query::Query;
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(check_availability))
}

/// Parameters of the availability check.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct AvailabilityQuery {
    /// The address.
    #[param(example = "agent@example.com")]
    email: String,
}

/// Whether a mailbox could be created.
#[derive(Debug, Serialize, ToSchema)]
struct MailboxAvailabilityResult {
    available: bool,
    email: String,
    reason: MailboxAvailabilityReason,
}

/// Why an address is or is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MailboxAvailabilityReason {
    Available,
    InvalidEmail,
    DomainNotAvailable,
    Taken,
}

/// Check an address
///
/// Says whether a mailbox with this address could be created now.
#[utoipa::path(
    get,
    path = "/mailboxes/availability",
    tag = "Mailboxes",
    operation_id = "managementCheckMailboxAvailability",
    params(AvailabilityQuery),
    responses((status = 200, description = "Whether it is available", body = Data<MailboxAvailabilityResult>)),
)]
async fn check_availability(
    call: Scoped<guards::MailboxAdminCreate>,
    State(app): State<App>,
    Query(query): Query<AvailabilityQuery>,
) -> Result<Reply<Data<MailboxAvailabilityResult>>, Problem> {
    use MailboxAvailabilityReason as Reason;
    let (email, reason) = match mailbox_address(&query.email) {
        Err(_) => (query.email.chars().take(254).collect(), Reason::InvalidEmail),
        Ok(address) => {
            let team: Versioned<Team> = app.log.state(&call.caller.team, &[StreamId::Team]).await?;
            let receives = |domain: &domain::team::OwnedDomain| domain.verified && domain.mode == Mode::SendReceive;
            let email = address.canonical();
            let reason = if !team.domains.get(address.domain()).is_some_and(receives) {
                Reason::DomainNotAvailable
            } else if app.log.find(&DirectoryKey::Address(email.clone())).await?.is_some() {
                Reason::Taken
            } else {
                Reason::Available
            };
            (email, reason)
        }
    };
    let available = reason == Reason::Available;
    Ok(Reply::ok(call.data(MailboxAvailabilityResult { available, email, reason })))
}
