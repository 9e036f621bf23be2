//! Who the credential is.

use domain::api_key::{ApiKey, Kind};
use domain::mailbox::Mailbox;
use domain::team::Team;
use domain::{StreamId, Versioned};
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::auth::{Call, Scoped, guards};
use crate::door;
use crate::envelope::{Data, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::openapi::{IfNoneMatchHeader, Routes};
use crate::problem::Problem;
use axum::extract::State;

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_connection)).with(door!(get_mailbox_connection))
}

/// The credential and what it covers.
#[derive(Debug, Serialize, ToSchema)]
struct Connection {
    team: ConnectedTeam,
    credential: Credential,
    /// What to call this connection.
    label: String,
    /// What it may do, wildcards included.
    permissions: Vec<&'static str>,
    /// The mailboxes it is confined to.
    mailboxes: Vec<ConnectedMailbox>,
}

/// The team of a credential.
#[derive(Debug, Serialize, ToSchema)]
struct ConnectedTeam {
    #[schema(example = "team_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    name: String,
}

/// A credential as its holder sees it.
#[derive(Debug, Serialize, ToSchema)]
struct Credential {
    #[schema(example = "smx_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// Always `api_key`.
    #[serde(rename = "type")]
    #[schema(example = "api_key")]
    kind: &'static str,
    #[schema(required)]
    name: Option<String>,
}

/// A mailbox of a credential.
#[derive(Debug, Serialize, ToSchema)]
struct ConnectedMailbox {
    #[schema(example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    email: String,
}

/// Get Management connection
///
/// Says who the credential is: team, name, permissions and mailboxes.
#[utoipa::path(
    get,
    path = "/me",
    tag = "Connection",
    operation_id = "managementGetConnection",
    params(IfNoneMatchHeader),
    responses((status = 200, description = "Who the credential is", body = Data<Connection>), (status = 304, description = "Not modified")),
)]
async fn get_connection(
    call: Scoped<guards::AnyKey>,
    State(app): State<App>,
    known: IfNoneMatch,
) -> Result<Reply<Data<Connection>>, Problem> {
    // The sending API asks the same question at the same path; there it takes a key that may send.
    if call.caller.kind != Kind::Infrastructure && !call.caller.may("email.send") {
        return Err(Problem::forbidden("The credential is not for this API."));
    }
    connection(&app, &call, &known).await
}

/// Get Mailbox connection
///
/// Says who the credential is: team, name, permissions and mailbox.
#[utoipa::path(
    get,
    path = "/mailbox/connection",
    tag = "Mailbox API",
    operation_id = "mailboxGetConnection",
    params(IfNoneMatchHeader),
    responses((status = 200, description = "Who the credential is", body = Data<Connection>), (status = 304, description = "Not modified")),
)]
async fn get_mailbox_connection(
    call: Scoped<guards::AnyMailboxKey>,
    State(app): State<App>,
    known: IfNoneMatch,
) -> Result<Reply<Data<Connection>>, Problem> {
    connection(&app, &call, &known).await
}

async fn connection(app: &App, call: &Call, known: &IfNoneMatch) -> Result<Reply<Data<Connection>>, Problem> {
    let caller = &call.caller;
    let streams = [StreamId::Team, StreamId::ApiKey(caller.key.clone())];
    let (team, key) = app.log.state::<(Versioned<Team>, Versioned<ApiKey>)>(&caller.team, &streams).await?;
    let mut mailboxes = vec![];
    if let Some(id) = &caller.mailbox {
        let mailbox: Versioned<Mailbox> = app.log.state(&caller.team, &[StreamId::Mailbox(id.clone())]).await?;
        mailboxes.push(ConnectedMailbox { id: id.to_string(), email: mailbox.email.clone().unwrap_or_default() });
    }
    let connection = Connection {
        team: ConnectedTeam { id: caller.team.to_string(), name: team.name.clone().unwrap_or_default() },
        credential: Credential { id: caller.key.to_string(), kind: "api_key", name: key.name.clone() },
        label: key.name.clone().unwrap_or_else(|| caller.key.to_string()),
        permissions: caller.permissions.names().collect(),
        mailboxes,
    };
    let tag = ETag::of_json(&connection);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(connection)).tagged(&tag))
}
