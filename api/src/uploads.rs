//! Files that are uploaded before the mail they go with.
//!
//! A file is announced and then put, by whoever holds the token of the announcement, or uploaded at once. It is bounded
//! in size, in kind and in how many a team may keep; it expires by itself. Only the keys of the mailbox that uploaded it,
//! or the team's sending keys where one of them did, can send it along.

use std::marker::PhantomData;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use domain::api_key::{ApiKey, Kind};
use domain::id::{BlobId, KeyId, MailboxId, TeamId, UploadId};
use domain::mailbox::{Mailbox, Status};
use domain::permission::Permissions;
use domain::{StreamId, Versioned};
use projections::uploads::{self, Room, Row};
use projections::webhook_attempts::Work;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::App;
use crate::auth::{Call, Caller, Door, Guard, Needs, enter};
use crate::body::bounded;
use crate::conventions::Context;
use crate::problem::{Code, Problem};
use crate::query;
use crate::send::attachment;

/// The header that carries the token of an announced upload.
pub(crate) const UPLOAD_TOKEN: HeaderName = HeaderName::from_static("x-sendmux-upload-token");
const TOKEN_PURPOSE: &[u8] = b"postlog/upload/1\0";
const MAC_BYTES: usize = 32;

/// A file as whoever uploads it describes it.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) filename: String,
    pub(crate) content_type: Option<String>,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: Option<String>,
    /// How large it may be.
    pub(crate) bytes_max: u64,
}

impl Described {
    /// Refuses what could not be sent along; returns the media type.
    fn check(&self) -> Result<String, Problem> {
        let names = 1..=255;
        if !names.contains(&self.filename.chars().count()) || self.filename.chars().any(char::is_control) {
            let message = "filename must have 1 to 255 characters and no control characters";
            return Err(Problem::unacceptable("filename", "invalid_value", message));
        }
        attachment::judge_name(&self.filename)
            .map_err(|refused| Problem::unacceptable("filename", "file_not_accepted", refused.to_string()))?;
        let content_type = match &self.content_type {
            None => attachment::media_type(&self.filename).to_owned(),
            Some(given) if attachment::is_media_type(given) => given.clone(),
            Some(_) => return Err(Problem::unacceptable("content_type", "invalid_value", "it is not a media type")),
        };
        if self.size_bytes == 0 {
            return Err(Problem::unacceptable("size_bytes", "invalid_value", "a file has at least one byte"));
        }
        if self.size_bytes > self.bytes_max {
            let message = format!("A file has at most {} bytes.", self.bytes_max);
            return Err(Problem::new(Code::PayloadTooLarge, message));
        }
        Ok(content_type)
    }
}

fn micros(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000_000
}

impl App {
    fn uploads(&self) -> Result<&Work, Problem> {
        self.attempts.as_ref().ok_or_else(Problem::unavailable)
    }

    async fn keep(&self, call: &Call, row: &Row) -> Result<(), Problem> {
        let room = Room { files_max: self.config.uploads_max, bytes_max: self.config.uploads_bytes_max };
        if uploads::add(self.uploads()?, &call.caller.team, row, room, call.at).await? {
            return Ok(());
        }
        let message = "The team keeps as many uploaded files as it may; they expire by themselves.";
        Err(Problem::new(Code::LimitExceeded, message))
    }

    /// Announces an upload; mails will refer to it as `file`.
    pub(crate) async fn announce(&self, call: &Call, file: String, described: Described) -> Result<Row, Problem> {
        let content_type = described.check()?;
        let row = Row {
            upload: UploadId::new(call.at, self.allot.random()),
            file,
            mailbox: call.caller.mailbox.clone(),
            filename: described.filename,
            content_type,
            size_bytes: described.size_bytes,
            sha256: described.sha256,
            blob: None,
            expires_at: call.at.saturating_add(micros(self.config.upload_url_seconds)),
        };
        self.keep(call, &row).await?;
        Ok(row)
    }

    /// Takes a file as a whole; mails will refer to it as `file`.
    pub(crate) async fn upload(
        &self,
        call: &Call,
        (file, blob): (String, BlobId),
        described: Described,
        bytes: Bytes,
    ) -> Result<Row, Problem> {
        let content_type = described.check()?;
        judge(&described.filename, &bytes)?;
        let row = Row {
            upload: UploadId::new(call.at, self.allot.random()),
            file,
            mailbox: call.caller.mailbox.clone(),
            filename: described.filename,
            content_type,
            size_bytes: described.size_bytes,
            sha256: Some(digest(&bytes)),
            blob: Some(blob.clone()),
            expires_at: call.at.saturating_add(micros(self.config.upload_seconds)),
        };
        // The row first: bytes that nothing refers to would never be dropped.
        self.keep(call, &row).await?;
        if let Err(error) = self.log.put_loose(&call.caller.team, &blob, bytes).await {
            self.forget_upload(call, &row).await;
            return Err(error.into());
        }
        Ok(row)
    }

    /// Takes a file back that nobody was told of.
    pub(crate) async fn forget_upload(&self, call: &Call, row: &Row) {
        let Ok(work) = self.uploads() else { return };
        let team = &call.caller.team;
        let dropped = match &row.blob {
            Some(blob) => self.log.drop_loose(team, blob).await.is_ok(),
            None => true,
        };
        if dropped && let Err(error) = uploads::remove(work, team, &row.upload).await {
            tracing::debug!(error = %error, "an upload that nobody knows stays until it expires");
        }
    }

    /// Takes the bytes of an announced file; taken already, the same ones are taken again.
    pub(crate) async fn put_upload(
        &self,
        call: &Call,
        upload: &UploadId,
        prefix: &str,
        (headers, body): (&HeaderMap, Body),
    ) -> Result<Row, Problem> {
        let (work, team) = (self.uploads()?, &call.caller.team);
        let row = uploads::of_upload(work, team, upload, call.at).await?;
        let of_caller = |row: &Row| row.mailbox == call.caller.mailbox && row.file.starts_with(prefix);
        let row = row.filter(of_caller).ok_or_else(Problem::not_found)?;
        check_headers(headers, &row)?;
        let bytes = bounded(headers, body, usize::try_from(row.size_bytes).unwrap_or(usize::MAX)).await?;
        if u64::try_from(bytes.len()).ok() != Some(row.size_bytes) {
            return Err(mismatch(&row));
        }
        let sha256 = digest(&bytes);
        let same = |row: Row| {
            let message = "The upload was completed with other content.";
            if row.sha256.as_ref() == Some(&sha256) { Ok(row) } else { Err(Problem::new(Code::Conflict, message)) }
        };
        if row.blob.is_some() {
            return same(row);
        }
        if row.sha256.as_ref().is_some_and(|expected| *expected != sha256) {
            return Err(Problem::unacceptable("sha256", "mismatch", "the bytes are not those that were announced"));
        }
        judge(&row.filename, &bytes)?;
        let blob = BlobId::new(call.at, self.allot.random());
        self.log.put_loose(team, &blob, bytes).await?;
        let expires_at = call.at.saturating_add(micros(self.config.upload_seconds));
        if uploads::complete(work, team, upload, (&blob, &sha256), expires_at).await? {
            return Ok(Row { blob: Some(blob), sha256: Some(sha256), expires_at, ..row });
        }
        // Somebody else was faster.
        self.log.drop_loose(team, &blob).await?;
        let row = uploads::of_upload(work, team, upload, call.at).await?;
        row.map_or_else(|| Err(Problem::not_found()), same)
    }

    /// Returns an uploaded file that the caller may use.
    pub(crate) async fn uploaded(&self, call: &Call, file: &str) -> Result<Option<Row>, Problem> {
        let found = uploads::of_file(self.uploads()?, &call.caller.team, file, call.at).await?;
        Ok(found.filter(|row| row.mailbox == call.caller.mailbox))
    }

    /// Returns the bytes of an uploaded file; `None` if they are gone.
    pub(crate) async fn uploaded_bytes(&self, call: &Call, row: &Row) -> Result<Option<Bytes>, Problem> {
        match &row.blob {
            Some(blob) => Ok(self.log.loose(&call.caller.team, blob).await?),
            None => Ok(None),
        }
    }

    /// Returns the token that lets somebody without a key put the bytes of an announced file.
    pub(crate) fn upload_token(&self, call: &Call, row: &Row) -> String {
        let mailbox = call.caller.mailbox.as_ref().map_or("", MailboxId::as_str);
        let claim = format!("{}.{}.{mailbox}.{}.{}", row.expires_at, call.caller.team, call.caller.key, row.upload);
        let mac = self.auth.pepper().mac(TOKEN_PURPOSE, &[claim.as_bytes()]);
        BASE64_URL_SAFE_NO_PAD.encode([&mac[..], claim.as_bytes()].concat())
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn judge(filename: &str, bytes: &[u8]) -> Result<(), Problem> {
    attachment::judge(filename, bytes)
        .map_err(|refused| Problem::unacceptable("filename", "file_not_accepted", refused.to_string()))
}

fn mismatch(row: &Row) -> Problem {
    Problem::new(Code::PayloadTooLarge, format!("The upload was announced with {} bytes.", row.size_bytes))
}

/// Returns how long a body says it is.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<u64, Problem> {
    let value = headers.get(CONTENT_LENGTH).ok_or_else(|| Problem::missing("Content-Length"))?;
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.ok_or_else(|| Problem::invalid("Content-Length", "invalid_value", "Content-Length must be a number"))
}

/// Returns the media type that a body says it has; `None` where it says nothing about itself.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(CONTENT_TYPE)?.to_str().ok()?.trim();
    (!given.is_empty() && !given.eq_ignore_ascii_case("application/octet-stream")).then(|| given.to_owned())
}

/// Refuses headers that are not those of the announcement, before a byte of the body is read.
fn check_headers(headers: &HeaderMap, row: &Row) -> Result<(), Problem> {
    if content_length(headers)? != row.size_bytes {
        return Err(mismatch(row));
    }
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let given = headers.get(CONTENT_TYPE).map(|value| essence(value.to_str().unwrap_or_default()));
    if given.is_some_and(|given| given != essence(&row.content_type)) {
        let message = format!("Content-Type must be {}", row.content_type);
        return Err(Problem::invalid("Content-Type", "invalid_value", message));
    }
    Ok(())
}

/// The door of announced uploads: whoever holds the upload's token, or a key that meets the guard.
#[derive(Debug)]
pub(crate) struct Uploader<G> {
    pub(crate) call: Call,
    /// The one upload that the token is for; any of the caller's where a key was shown.
    pub(crate) only: Option<UploadId>,
    guard: PhantomData<G>,
}

impl<G> Uploader<G> {
    /// Refuses another upload than the token's.
    pub(crate) fn check(&self, upload: &UploadId) -> Result<(), Problem> {
        match &self.only {
            Some(only) if only != upload => Err(Problem::unauthenticated()),
            _ => Ok(()),
        }
    }
}

impl<G: Guard> Door for Uploader<G> {
    const NEEDS: Needs = G::NEEDS;
}

#[derive(Deserialize)]
struct TokenQuery {
    upload_token: Option<String>,
}

impl<G: Guard> FromRequestParts<App> for Uploader<G> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let query: TokenQuery = query::parse(parts.uri.query().unwrap_or_default())?;
        let header = parts.headers.get(UPLOAD_TOKEN).map(|value| value.to_str().unwrap_or_default().to_owned());
        let (call, only) = match header.or(query.upload_token) {
            None => (enter(parts, app, G::NEEDS).await?, None),
            Some(token) => {
                let (call, upload) = redeem(parts, app, &token).await?;
                (call, Some(upload))
            }
        };
        Ok(Self { call, only, guard: PhantomData })
    }
}

/// Returns the call a token stands for, and its upload.
async fn redeem(parts: &Parts, app: &App, token: &str) -> Result<(Call, UploadId), Problem> {
    let refused = Problem::unauthenticated;
    let context = parts.extensions.get::<Context>().ok_or_else(Problem::internal)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
    let (given, claim) = bytes.split_first_chunk::<MAC_BYTES>().ok_or_else(refused)?;
    if !bool::from(app.auth.pepper().mac(TOKEN_PURPOSE, &[claim]).ct_eq(given)) {
        return Err(refused());
    }
    let claim = std::str::from_utf8(claim).map_err(|_| refused())?;
    let [expires_at, team, mailbox, key, upload] = claim.split('.').collect::<Vec<_>>()[..] else {
        return Err(refused());
    };
    if expires_at.parse::<i64>().map_or(true, |expires_at| context.at >= expires_at) {
        return Err(refused());
    }
    let team: TeamId = team.parse().map_err(|_| refused())?;
    let key: KeyId = key.parse().map_err(|_| refused())?;
    let upload: UploadId = upload.parse().map_err(|_| refused())?;
    let fold: Versioned<ApiKey> = app.log.state(&team, &[StreamId::ApiKey(key.clone())]).await?;
    if fold.created.is_none() || fold.revoked {
        return Err(refused());
    }
    let (kind, mailbox) = match mailbox {
        "" => (Kind::Sending, None),
        text => (Kind::Mailbox, Some(text.parse::<MailboxId>().map_err(|_| refused())?)),
    };
    if let Some(mailbox) = &mailbox {
        let fold: Versioned<Mailbox> = app.log.state(&team, &[StreamId::Mailbox(mailbox.clone())]).await?;
        if fold.status != Status::Active {
            return Err(refused());
        }
    }
    let caller = Caller::new(team, key, kind, mailbox, Permissions::default());
    let allowance = app.limiter.take(&caller.key, caller.kind, context.at);
    context.note(&caller, allowance);
    if !allowance.granted {
        return Err(
            Problem::new(Code::RateLimitExceeded, "Too many requests.").retry_after(allowance.retry_after_seconds)
        );
    }
    let caller = std::sync::Arc::new(caller);
    let call = Call { caller, request: context.request.clone(), client_ip: context.client_ip, at: context.at };
    Ok((call, upload))
}
