//! Files that a mailbox uploads before the mail they go with.

use axum::extract::{Request, State};
use domain::id::{BlobId, UploadId};
use domain::published::rfc3339;
use projections::uploads::Row;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{FromLog, guards};
use crate::envelope::{Data, Reply};
use crate::field::required_text;
use crate::idempotency::KeyedBytes;
use crate::openapi::{MailboxSelection, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::Query;
use crate::uploads::{Described, Uploader, content_length, content_type};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(create_mailbox_upload))
        .with(door!(complete_mailbox_upload))
        .with(door!(upload_mailbox_attachment))
}

/// The most bytes of one file.
pub(super) const BYTES_MAX: usize = 7_500_000;
const BYTES_MAX_SHOWN: u64 = 7_500_000;

/// What an announced file is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MailboxAttachmentUploadIntentBody {
    /// With one of the accepted extensions.
    #[serde(deserialize_with = "required_text::<1, 255, _>")]
    #[schema(min_length = 1, max_length = 255, example = "invoice.pdf")]
    filename: String,
    #[serde(deserialize_with = "required_text::<1, 255, _>")]
    #[schema(min_length = 1, max_length = 255, example = "application/pdf")]
    content_type: String,
    /// Exactly how many bytes will come.
    #[schema(minimum = 1)]
    size_bytes: u64,
}

/// The headers of the PUT.
#[derive(Debug, Serialize, ToSchema)]
struct MailboxUploadHeaders {
    #[serde(rename = "Content-Type")]
    content_type: String,
    #[serde(rename = "Content-Length")]
    content_length: String,
}

/// Where to put an announced file.
#[derive(Debug, Serialize, ToSchema)]
struct MailboxAttachmentUploadIntentResult {
    #[schema(example = "upl_06bqmn3t0d4gq2v8xk1hz7sw")]
    upload_id: String,
    /// Takes the bytes by PUT, without a key.
    upload_url: String,
    #[schema(example = "PUT")]
    method: &'static str,
    /// Until when.
    expires_at: String,
    headers: MailboxUploadHeaders,
    max_size_bytes: u64,
}

/// A file that can be sent along.
#[derive(Debug, Serialize, ToSchema)]
struct MailboxAttachmentUploadResult {
    /// For `attachments[].blob_id`.
    #[schema(example = "blob_06bqmn3t0d4gq2v8xk1hz7sw")]
    blob_id: String,
    filename: String,
    content_type: String,
    size_bytes: u64,
    /// Until when it can be sent.
    expires_at: String,
}

impl From<Row> for MailboxAttachmentUploadResult {
    fn from(row: Row) -> Self {
        Self {
            blob_id: row.file,
            filename: row.filename,
            content_type: row.content_type,
            size_bytes: row.size_bytes,
            expires_at: rfc3339(row.expires_at),
        }
    }
}

/// Announce an attachment of a mailbox
///
/// Answers where to put the bytes, and with which headers. Whoever gets the URL needs no key.
#[utoipa::path(
    post,
    path = "/mailbox/attachment-uploads",
    tag = "Mailbox API",
    operation_id = "mailboxCreateAttachmentUpload",
    params(MailboxSelection),
    request_body = MailboxAttachmentUploadIntentBody,
    responses(
        (status = 200, description = "Where to put it", body = Data<MailboxAttachmentUploadIntentResult>),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 409, description = "Too many files are kept", body = crate::problem::Body),
        (status = 422, description = "A field is not acceptable", body = crate::problem::Body),
    ),
)]
async fn create_mailbox_upload(
    call: FromLog<guards::MailboxSend>,
    State(app): State<App>,
    Json(body): Json<MailboxAttachmentUploadIntentBody>,
) -> Result<Reply<Data<MailboxAttachmentUploadIntentResult>>, Problem> {
    let described = Described {
        filename: body.filename,
        content_type: Some(body.content_type),
        size_bytes: body.size_bytes,
        sha256: None,
        bytes_max: BYTES_MAX_SHOWN,
    };
    let file = BlobId::new(call.at, app.allot.random()).to_string();
    let row = app.announce(&call, file, described).await?;
    let data = MailboxAttachmentUploadIntentResult {
        upload_id: row.upload.to_string(),
        upload_url: format!(
            "{}/api/v1/mailbox/attachment-uploads/{}?upload_token={}",
            app.config.public_url.trim_end_matches('/'),
            row.upload,
            app.upload_token(&call, &row)
        ),
        method: "PUT",
        expires_at: rfc3339(row.expires_at),
        headers: MailboxUploadHeaders { content_type: row.content_type, content_length: row.size_bytes.to_string() },
        max_size_bytes: BYTES_MAX_SHOWN,
    };
    Ok(Reply::ok(call.data(data)))
}

/// Put an announced attachment of a mailbox
///
/// With the token of the announcement no key is needed. The same bytes may be put again; other ones may not.
#[utoipa::path(
    put,
    path = "/mailbox/attachment-uploads/{upload_id}",
    tag = "Mailbox API",
    operation_id = "mailboxCompleteAttachmentUpload",
    params(
        ("upload_id" = String, Path, description = "Upload id", example = "upl_06bqmn3t0d4gq2v8xk1hz7sw"),
        ("upload_token" = Option<String>, Query, description = "Replaces the key; part of upload_url."),
        MailboxSelection,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "Uploaded", body = Data<MailboxAttachmentUploadResult>),
        (status = 400, description = "A header is missing or not the announced one", body = crate::problem::Body),
        (status = 404, description = "No such upload, or it expired", body = crate::problem::Body),
        (status = 409, description = "Completed with other content", body = crate::problem::Body),
        (status = 422, description = "The file is not acceptable", body = crate::problem::Body),
    ),
)]
async fn complete_mailbox_upload(
    uploader: Uploader<guards::MailboxSend>,
    State(app): State<App>,
    Id(id): Id<UploadId>,
    request: Request,
) -> Result<Reply<Data<MailboxAttachmentUploadResult>>, Problem> {
    uploader.check(&id)?;
    let (parts, body) = request.into_parts();
    let row = app.put_upload(&uploader.call, &id, BlobId::PREFIX, (&parts.headers, body)).await?;
    Ok(Reply::ok(uploader.call.data(row.into())))
}

/// Parameters of a direct upload.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UploadQuery {
    /// With one of the accepted extensions.
    #[param(example = "invoice.pdf")]
    filename: String,
}

/// Upload an attachment of a mailbox
///
/// The bytes as they are, with their media type as `Content-Type`; at most 7,500,000 of them.
#[utoipa::path(
    post,
    path = "/mailbox/attachments:upload",
    tag = "Mailbox API",
    operation_id = "mailboxUploadAttachment",
    params(UploadQuery, MailboxSelection),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "Uploaded", body = Data<MailboxAttachmentUploadResult>),
        (status = 400, description = "A parameter or header is missing", body = crate::problem::Body),
        (status = 409, description = "Too many files are kept", body = crate::problem::Body),
        (status = 422, description = "The file is not acceptable", body = crate::problem::Body),
    ),
)]
async fn upload_mailbox_attachment(
    call: FromLog<guards::MailboxSend>,
    State(app): State<App>,
    Query(query): Query<UploadQuery>,
    KeyedBytes { headers, bytes, .. }: KeyedBytes<BYTES_MAX>,
) -> Result<Reply<Data<MailboxAttachmentUploadResult>>, Problem> {
    let described = Described {
        filename: query.filename,
        content_type: content_type(&headers),
        size_bytes: content_length(&headers)?,
        sha256: None,
        bytes_max: BYTES_MAX_SHOWN,
    };
    let blob = BlobId::new(call.at, app.allot.random());
    let row = app.upload(&call, (blob.to_string(), blob.clone()), described, bytes).await?;
    Ok(Reply::ok(call.data(row.into())))
}
