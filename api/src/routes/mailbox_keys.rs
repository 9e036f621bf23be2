//! Credentials of one mailbox, managed by its team.

use axum::extract::State;
use domain::api_key::{CreateMailboxKey, Kind, RevokeKey};
use domain::id::{KeyId, MailboxId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::mailbox_view::MailboxCredential;
use super::mailboxes::{existing, key_stream, mailbox_permissions};
use crate::auth::secret::mint;
use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Deleted, Reply};
use crate::field::required_text;
use crate::idempotency::Keyed;
use crate::openapi::{IdempotencyHeader, Routes};
use crate::path::{Id, Ids};
use crate::problem::Problem;
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(create_mailbox_key)).with(door!(delete_mailbox_key))
}

/// A credential to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateMailboxKeyBody {
    /// What it is for.
    #[serde(deserialize_with = "required_text::<1, 255, _>")]
    #[schema(min_length = 1, max_length = 255, example = "ci")]
    app_name: String,
}

/// A new credential.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxAppPasswordResult {
    credential: MailboxCredential,
}

/// Create a mailbox credential
///
/// Mints a further credential of the mailbox; its secret is shown once and works at once.
#[utoipa::path(
    post,
    path = "/mailboxes/{public_id}/keys",
    tag = "Mailboxes",
    operation_id = "managementCreateMailboxKey",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"), IdempotencyHeader),
    request_body = CreateMailboxKeyBody,
    responses(
        (status = 201, description = "Created", body = Data<MailboxAppPasswordResult>, headers(("Location" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
        (status = 409, description = "Limit reached, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "The mailbox is not active", body = crate::problem::Body),
    ),
)]
async fn create_mailbox_key(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
    Keyed { body, idempotency }: Keyed<CreateMailboxKeyBody>,
) -> Result<Reply<Data<MailboxAppPasswordResult>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let fresh = mint(&app.allot, app.auth.pepper(), Kind::Mailbox);
    let command = CreateMailboxKey {
        minted: fresh.minted.clone(),
        mailbox: id.clone(),
        name: body.app_name,
        permissions: mailbox_permissions()?,
    };
    let submission = call.submission(command).fresh(key_stream(&fresh.minted));
    let (answered, server) = (call.clone().into_call(), app.config.mail_server.clone());
    app.submit(&call, submission, idempotency, move |_| {
        let email = row.email.clone().unwrap_or_default();
        let credential = MailboxCredential::new(&fresh, &server, &email);
        let location = format!("/api/v1/mailboxes/{id}/keys/{}", fresh.minted.key);
        Reply::created(&location, answered.data(MailboxAppPasswordResult { credential }))
    })
    .await
}

/// Delete a mailbox credential
///
/// Revokes it; it stops working at once. Repeating it changes nothing.
#[utoipa::path(
    delete,
    path = "/mailboxes/{public_id}/keys/{key_id}",
    tag = "Mailboxes",
    operation_id = "managementDeleteMailboxKey",
    params(
        ("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"),
        ("key_id" = String, Path, description = "Key id", example = "smx_06bqmn3t0d4gq2v8xk1hz7sw"),
    ),
    responses(
        (status = 200, description = "Revoked", body = Data<Deleted>),
        (status = 404, description = "No such credential of this mailbox", body = crate::problem::Body),
    ),
)]
async fn delete_mailbox_key(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Ids(mailbox, key): Ids<MailboxId, KeyId>,
) -> Result<Reply<Data<Deleted>>, Problem> {
    let answered = call.clone().into_call();
    let submission = call.submission(RevokeKey { key: key.clone(), mailbox: Some(mailbox) });
    app.submit(&call, submission, None, move |_| Reply::ok(answered.data(Deleted::new(&key)))).await
}
