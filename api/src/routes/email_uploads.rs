//! Files that are uploaded to the sending API before the mail they go with.

use axum::extract::{Request, State};
use domain::id::{AttachmentId, BlobId, UploadId};
use domain::published::rfc3339;
use mail::compose::Attachment as File;
use projections::uploads::Row;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

use super::email_body::{ATTACHMENT_BYTES_MAX, Asked};
use super::emails::Claim;
use crate::auth::{Call, FromLog, guards};
use crate::envelope::{Data, Reply};
use crate::field::{present, required_text, text};
use crate::idempotency::{Keyed, KeyedBytes, KeyedMail};
use crate::openapi::{IdempotencyHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::Query;
use crate::uploads::{Described, Uploader, content_length, content_type};
use crate::{App, door};
use eventlog::{Idempotency, Outcome};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(create_attachment_upload))
        .with(door!(complete_attachment_upload))
        .with(door!(upload_attachment))
        .with(door!(get_uploaded_attachment))
}

const BYTES_MAX: u64 = 18 * 1024 * 1024;
const _: () = assert!(ATTACHMENT_BYTES_MAX as u64 == BYTES_MAX, "what is uploaded can be sent");

/// What an announced file is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AttachmentUploadIntentRequest {
    /// With one of the accepted extensions.
    #[serde(deserialize_with = "required_text::<1, 255, _>")]
    #[schema(min_length = 1, max_length = 255, example = "analysis.pdf")]
    filename: String,
    /// Exactly how many bytes will come.
    #[schema(minimum = 1, example = 20480)]
    size_bytes: u64,
    #[serde(default, deserialize_with = "text::<1, 255, _>")]
    #[schema(nullable = false, max_length = 255, example = "application/pdf")]
    content_type: Option<String>,
    /// Lower-case hex of the SHA-256 of the bytes; other ones are then refused.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, pattern = "^[a-f0-9]{64}$")]
    sha256: Option<String>,
}

/// Where to put an announced file.
#[derive(Debug, Serialize, ToSchema)]
struct AttachmentUploadIntentData {
    #[schema(example = "upl_06bqmn3t0d4gq2v8xk1hz7sw")]
    upload_id: String,
    /// Takes the bytes by PUT, without a key.
    #[schema(format = "uri")]
    upload_url: String,
    #[schema(example = "PUT")]
    method: &'static str,
    /// Until when.
    expires_at: String,
    max_size_bytes: u64,
    /// The headers the PUT must have.
    headers: BTreeMap<&'static str, String>,
}

/// A file that can be sent along.
#[derive(Debug, Serialize, ToSchema)]
struct AttachmentUploadData {
    /// For `attachments[].attachment_id`.
    #[schema(example = "att_06bqmn3t0d4gq2v8xk1hz7sw")]
    attachment_id: String,
    filename: String,
    content_type: String,
    size_bytes: u64,
    /// Until when it can be sent.
    expires_at: String,
}

impl From<Row> for AttachmentUploadData {
    fn from(row: Row) -> Self {
        Self {
            attachment_id: row.file,
            filename: row.filename,
            content_type: row.content_type,
            size_bytes: row.size_bytes,
            expires_at: rfc3339(row.expires_at),
        }
    }
}

fn attachment_path(id: &str) -> String {
    format!("/api/v1/emails/attachments/{id}")
}

/// Keeps an answer under its key. `Some` is what was answered before: what was made just now is then taken back.
async fn claimed<B: Serialize>(
    app: &App,
    call: &Call,
    row: &Row,
    idempotency: Option<Idempotency>,
    reply: Reply<B>,
) -> Result<Reply<B>, Problem> {
    let Some(idempotency) = idempotency else { return Ok(reply) };
    let answer = reply.to_answer(call.request.as_str());
    let claim = call.submission(Claim).idempotent(idempotency, move |_| answer.clone());
    match app.log.transact(claim).await {
        Ok(Outcome::Done(_)) => Ok(reply),
        Ok(Outcome::Repeated(answer)) => {
            app.forget_upload(call, row).await;
            Ok(Reply::kept(answer))
        }
        Err(error) => {
            app.forget_upload(call, row).await;
            Err(error.into())
        }
    }
}

/// Announce an attachment
///
/// Answers where to put the bytes, and with which headers. Whoever gets them needs no key.
#[utoipa::path(
    post,
    path = "/emails/attachment-uploads",
    tag = "Sending",
    operation_id = "sendingCreateAttachmentUpload",
    params(IdempotencyHeader),
    request_body = AttachmentUploadIntentRequest,
    responses(
        (status = 201, description = "Where to put it", body = Data<AttachmentUploadIntentData>, headers(("Location" = String))),
        (status = 400, description = "The body is not JSON", body = crate::problem::Body),
        (status = 409, description = "Too many files are kept, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "A field is not acceptable", body = crate::problem::Body),
    ),
)]
async fn create_attachment_upload(
    call: FromLog<guards::EmailSend>,
    State(app): State<App>,
    KeyedMail(Keyed { body, idempotency }): KeyedMail<AttachmentUploadIntentRequest>,
) -> Result<Reply<Data<AttachmentUploadIntentData>>, Problem> {
    let is_digest = |text: &String| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if body.sha256.as_ref().is_some_and(|text| !is_digest(text)) {
        let message = "sha256 must be 64 lower-case hexadecimal digits";
        return Err(Problem::unacceptable("sha256", "invalid_value", message));
    }
    let described = Described {
        filename: body.filename,
        content_type: body.content_type,
        size_bytes: body.size_bytes,
        sha256: body.sha256,
        bytes_max: BYTES_MAX,
    };
    let file = AttachmentId::new(call.at, app.allot.random()).to_string();
    let row = app.announce(&call, file, described).await?;
    let path = format!("/api/v1/emails/attachment-uploads/{}", row.upload);
    let headers = BTreeMap::from([
        ("Content-Type", row.content_type.clone()),
        ("Content-Length", row.size_bytes.to_string()),
        ("X-Sendmux-Upload-Token", app.upload_token(&call, &row)),
    ]);
    let data = AttachmentUploadIntentData {
        upload_id: row.upload.to_string(),
        upload_url: format!("{}{path}", app.config.public_url.trim_end_matches('/')),
        method: "PUT",
        expires_at: rfc3339(row.expires_at),
        max_size_bytes: BYTES_MAX,
        headers,
    };
    claimed(&app, &call, &row, idempotency, Reply::created(&path, call.data(data))).await
}

/// Put an announced attachment
///
/// With the token of the announcement no key is needed. The same bytes may be put again; other ones may not.
#[utoipa::path(
    put,
    path = "/emails/attachment-uploads/{upload_id}",
    tag = "Sending",
    operation_id = "sendingCompleteAttachmentUpload",
    params(
        ("upload_id" = String, Path, description = "Upload id", example = "upl_06bqmn3t0d4gq2v8xk1hz7sw"),
        ("X-Sendmux-Upload-Token" = Option<String>, Header, description = "The token of the announcement; replaces the key."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Uploaded", body = Data<AttachmentUploadData>, headers(("Location" = String))),
        (status = 400, description = "A header is missing or not the announced one", body = crate::problem::Body),
        (status = 404, description = "No such upload, or it expired", body = crate::problem::Body),
        (status = 409, description = "Completed with other content", body = crate::problem::Body),
        (status = 422, description = "The file is not acceptable", body = crate::problem::Body),
    ),
)]
async fn complete_attachment_upload(
    uploader: Uploader<guards::EmailSend>,
    State(app): State<App>,
    Id(id): Id<UploadId>,
    request: Request,
) -> Result<Reply<Data<AttachmentUploadData>>, Problem> {
    uploader.check(&id)?;
    let (parts, body) = request.into_parts();
    let row = app.put_upload(&uploader.call, &id, AttachmentId::PREFIX, (&parts.headers, body)).await?;
    let path = attachment_path(&row.file);
    Ok(Reply::created(&path, uploader.call.data(row.into())))
}

/// Parameters of a direct upload.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct UploadQuery {
    /// With one of the accepted extensions.
    #[param(min_length = 1, max_length = 255, example = "analysis.pdf")]
    filename: String,
    /// The media type, instead of the header's.
    #[param(max_length = 255, example = "application/pdf")]
    content_type: Option<String>,
}

/// Upload an attachment
///
/// The bytes as they are; at most 18 MiB.
#[utoipa::path(
    post,
    path = "/emails/attachments",
    tag = "Sending",
    operation_id = "sendingUploadAttachment",
    params(IdempotencyHeader, UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Uploaded", body = Data<AttachmentUploadData>, headers(("Location" = String))),
        (status = 400, description = "A parameter or header is missing", body = crate::problem::Body),
        (status = 409, description = "Too many files are kept, or key used for another request", body = crate::problem::Body),
        (status = 422, description = "The file is not acceptable", body = crate::problem::Body),
    ),
)]
async fn upload_attachment(
    call: FromLog<guards::EmailSend>,
    State(app): State<App>,
    Query(query): Query<UploadQuery>,
    KeyedBytes { headers, bytes, idempotency }: KeyedBytes<{ ATTACHMENT_BYTES_MAX }>,
) -> Result<Reply<Data<AttachmentUploadData>>, Problem> {
    let described = Described {
        filename: query.filename,
        content_type: query.content_type.or_else(|| content_type(&headers)),
        size_bytes: content_length(&headers)?,
        sha256: None,
        bytes_max: BYTES_MAX,
    };
    let names = (AttachmentId::new(call.at, app.allot.random()).to_string(), BlobId::new(call.at, app.allot.random()));
    let row = app.upload(&call, names, described, bytes).await?;
    let reply = Reply::created(&attachment_path(&row.file), call.data(row.clone().into()));
    claimed(&app, &call, &row, idempotency, reply).await
}

/// Get an uploaded attachment
///
/// What it is, never its bytes.
#[utoipa::path(
    get,
    path = "/emails/attachments/{attachment_id}",
    tag = "Sending",
    operation_id = "sendingGetAttachment",
    params(("attachment_id" = String, Path, description = "Attachment id", example = "att_06bqmn3t0d4gq2v8xk1hz7sw")),
    responses(
        (status = 200, description = "The attachment", body = Data<AttachmentUploadData>),
        (status = 404, description = "No such attachment, or it expired", body = crate::problem::Body),
    ),
)]
async fn get_uploaded_attachment(
    call: FromLog<guards::EmailSend>,
    State(app): State<App>,
    Id(id): Id<AttachmentId>,
) -> Result<Reply<Data<AttachmentUploadData>>, Problem> {
    let row = app.uploaded(&call, id.as_str()).await?.ok_or_else(Problem::not_found)?;
    Ok(Reply::ok(call.data(row.into())))
}

/// Puts files that were uploaded before into a draft.
pub(super) async fn fill(app: &App, call: &Call, asked: &mut Asked) -> Result<(), Problem> {
    for (i, id) in &asked.uploaded {
        let unknown = || {
            let field = format!("attachments.{i}.attachment_id");
            Problem::unacceptable(field, "unknown_attachment", "there is no such attachment, or it expired")
        };
        let id: AttachmentId = id.parse().map_err(|_| unknown())?;
        let row = app.uploaded(call, id.as_str()).await?.ok_or_else(unknown)?;
        let content = app.uploaded_bytes(call, &row).await?.ok_or_else(unknown)?;
        let Some(place) = asked.draft.attachments.get_mut(*i) else { continue };
        // What the request says of how it is shown stays; what the file is was said when it was uploaded.
        *place = File {
            filename: Some(row.filename),
            content_type: Some(row.content_type),
            content: content.to_vec(),
            ..std::mem::take(place)
        };
    }
    Ok(())
}
