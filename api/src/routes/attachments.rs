//! Attachments: their bytes, with a key or by a URL that works for a short time.

use axum::body::Body;
use axum::extract::{FromRequestParts, OriginalUri, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_RANGE, RANGE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use domain::api_key::Kind;
use domain::id::{KeyId, MailboxId, MessageId, TeamId};
use domain::mailbox::{Mailbox, Status};
use domain::permission::Permissions;
use domain::{StreamId, Versioned};
use mail::message::{Attachment, ParseLimits};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::message_view::{attachment_id, existing, on_bytes, raw};
use crate::auth::{Call, Caller, Door, Guard, Needs, enter, guards};
use crate::conventions::Context;
use crate::openapi::{MailboxSelection, Routes};
use crate::path::Ids;
use crate::problem::Problem;
use crate::query::{self};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_attachment))
}

const TOKEN_PURPOSE: &[u8] = b"postlog/download/1\0";
const MAC_BYTES: usize = 32;

/// Returns the MAC of a download: who may read which part of which message until when.
fn mac(app: &App, claim: &str, message: &MessageId, part: u32) -> [u8; MAC_BYTES] {
    let parts = [claim.as_bytes(), message.as_str().as_bytes(), &part.to_be_bytes()];
    app.auth.pepper().mac(TOKEN_PURPOSE, &parts)
}

/// Returns an absolute URL of an attachment that works without a key until it expires.
pub(super) fn download_url(app: &App, call: &Call, message: &MessageId, part: u32) -> String {
    let expires_at = call.at / 1_000_000 + i64::from(app.config.download_url_seconds);
    let mailbox = call.caller.mailbox.as_ref().map_or("", MailboxId::as_str);
    // The same key's downloads count against the same limits, so the claim names it too.
    let claim = format!("{expires_at}.{}.{mailbox}.{}", call.caller.team, call.caller.key);
    let token = [&mac(app, &claim, message, part)[..], claim.as_bytes()].concat();
    format!(
        "{}/api/v1/mailbox/messages/{message}/attachments/{}?download_token={}",
        app.config.public_url.trim_end_matches('/'),
        attachment_id(part),
        BASE64_URL_SAFE_NO_PAD.encode(token)
    )
}

/// The door of downloads: a mailbox key that may read, or a token that was made for this very attachment.
#[derive(Debug)]
struct Downloader(Call);

impl Door for Downloader {
    const NEEDS: Needs = guards::MailboxRead::NEEDS;
}

#[derive(Deserialize)]
struct TokenQuery {
    download_token: Option<String>,
}

impl FromRequestParts<App> for Downloader {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let query: TokenQuery = query::parse(parts.uri.query().unwrap_or_default())?;
        match query.download_token {
            None => enter(parts, app, Self::NEEDS).await.map(Self),
            Some(token) => redeem(parts, app, &token).await.map(Self),
        }
    }
}

/// Returns the call a token stands for.
async fn redeem(parts: &Parts, app: &App, token: &str) -> Result<Call, Problem> {
    let refused = Problem::unauthenticated;
    let context = parts.extensions.get::<Context>().ok_or_else(Problem::internal)?;
    let path = parts.extensions.get::<OriginalUri>().map_or(parts.uri.path(), |uri| uri.0.path());
    let mut segments = path.rsplit('/');
    let (part, _, message) = (segments.next(), segments.next(), segments.next());
    let part = part.and_then(read_attachment_id).ok_or_else(refused)?;
    let message: MessageId = message.and_then(|m| m.parse().ok()).ok_or_else(refused)?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
    let (given, claim) = bytes.split_first_chunk::<MAC_BYTES>().ok_or_else(refused)?;
    let claim = std::str::from_utf8(claim).map_err(|_| refused())?;
    if !bool::from(mac(app, claim, &message, part).ct_eq(given)) {
        return Err(refused());
    }
    let [expires_at, team, mailbox, key] = claim.split('.').collect::<Vec<_>>()[..] else { return Err(refused()) };
    let expires_at: i64 = expires_at.parse().map_err(|_| refused())?;
    let team: TeamId = team.parse().map_err(|_| refused())?;
    let mailbox: MailboxId = mailbox.parse().map_err(|_| refused())?;
    let key: KeyId = key.parse().map_err(|_| refused())?;
    if context.at / 1_000_000 >= expires_at {
        return Err(refused());
    }
    let fold: Versioned<Mailbox> = app.log.state(&team, &[StreamId::Mailbox(mailbox.clone())]).await?;
    match fold.status {
        Status::Active => {}
        Status::Suspended => return Err(Problem::forbidden("The mailbox is suspended.")),
        Status::Absent | Status::Closed => return Err(refused()),
    }
    let caller = Caller::new(team, key, Kind::Mailbox, Some(mailbox), Permissions::default());
    let allowance = app.limiter.take(&caller.key, caller.kind, context.at);
    context.note(&caller, allowance);
    if !allowance.granted {
        return Err(Problem::new(crate::problem::Code::RateLimitExceeded, "Too many requests.")
            .retry_after(allowance.retry_after_seconds));
    }
    let caller = std::sync::Arc::new(caller);
    Ok(Call { caller, request: context.request.clone(), client_ip: context.client_ip, at: context.at })
}

fn read_attachment_id(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("att_")?;
    // One spelling only, so that one attachment has one URL.
    digits.parse().ok().filter(|n: &u32| n.to_string() == digits)
}

/// The id of an attachment within its message.
struct AttachmentId(u32);

impl std::str::FromStr for AttachmentId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        read_attachment_id(text).map(Self).ok_or(())
    }
}

/// Download an attachment
///
/// The decoded bytes, whole or a range of them. With `download_token` no key is needed.
#[utoipa::path(
    get,
    path = "/mailbox/messages/{message_id}/attachments/{attachment_id}",
    tag = "Mailbox API",
    operation_id = "mailboxGetMessageAttachment",
    params(
        ("message_id" = String, Path, description = "Message id", example = "msg_06bqmn3t0d4gq2v8xk1hz7sw"),
        ("attachment_id" = String, Path, description = "Attachment id", example = "att_2"),
        ("Range" = Option<String>, Header, description = "One range of bytes, for example bytes=0-1048575."),
        ("download_token" = Option<String>, Query, description = "Replaces the key; part of download_url."),
        MailboxSelection,
    ),
    responses(
        (status = 200, description = "The bytes", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 206, description = "The bytes of the range", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 400, description = "The range is not one of the attachment", body = crate::problem::Body),
        (status = 404, description = "No such attachment", body = crate::problem::Body),
    ),
)]
async fn get_attachment(
    Downloader(call): Downloader,
    State(app): State<App>,
    Ids(message, AttachmentId(part)): Ids<MessageId, AttachmentId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let row = existing(&app, &call, &message).await?;
    let bytes = raw(&app, &call, &row).await?;
    let found = on_bytes(bytes, move |bytes| {
        let limits = ParseLimits::default();
        let listed = mail::message::parse(bytes, &limits).attachments;
        let described = listed.into_iter().find(|attachment| attachment.part_id == part)?;
        Some((described, mail::message::attachment_bytes(bytes, part, &limits)?))
    })
    .await?;
    let (described, bytes) = found.ok_or_else(Problem::not_found)?;
    respond(&described, bytes.into(), &headers)
}

fn respond(attachment: &Attachment, bytes: Bytes, headers: &HeaderMap) -> Result<Response, Problem> {
    let total = bytes.len();
    let tag = attachment.sha256.as_ref().and_then(|digest| HeaderValue::try_from(format!("\"{digest}\"")).ok());
    // A range of another version would not fit to what the client has already.
    let current = headers.get(IF_RANGE).is_none_or(|wanted| Some(wanted) == tag.as_ref());
    let range = match headers.get(RANGE).filter(|_| current) {
        Some(value) => range(value.to_str().unwrap_or_default(), total)?,
        None => None,
    };
    let (status, bytes) = match range {
        None => (StatusCode::OK, bytes),
        Some((first, last)) => (StatusCode::PARTIAL_CONTENT, bytes.slice(first..=last)),
    };
    let mut response = (status, Body::from(bytes.clone())).into_response();
    let out = response.headers_mut();
    let content_type = HeaderValue::try_from(&attachment.content_type)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    out.insert(CONTENT_TYPE, content_type);
    out.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    out.insert(CONTENT_DISPOSITION, disposition(attachment.filename.as_deref()));
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Whatever a sender calls HTML must not run as a page of ours.
    out.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    if let Some(tag) = tag {
        out.insert(ETAG, tag);
    }
    if let Some((first, last)) = range
        && let Ok(value) = HeaderValue::try_from(format!("bytes {first}-{last}/{total}"))
    {
        out.insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

/// Reads a single range of bytes (RFC 9110 §14.1.2) as first and last position. Several ranges, and units that are not
/// bytes, are answered with the whole: a server may ignore them.
fn range(text: &str, total: usize) -> Result<Option<(usize, usize)>, Problem> {
    let refused = || Problem::invalid("Range", "invalid_range", "the range is not one of the attachment's bytes");
    let Some((unit, set)) = text.split_once('=') else { return Err(refused()) };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Ok(None);
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(Some(digits.parse().unwrap_or(usize::MAX))),
        _ => Err(refused()),
    };
    let (first, last) = set.split_once('-').ok_or_else(refused)?;
    let end = total.checked_sub(1).ok_or_else(refused)?;
    match (number(first)?, number(last)?) {
        (Some(first), last) if first <= end && last.is_none_or(|last| first <= last) => {
            Ok(Some((first, last.unwrap_or(end).min(end))))
        }
        (None, Some(suffix)) if suffix > 0 => Ok(Some((total.saturating_sub(suffix), end))),
        _ => Err(refused()),
    }
}

/// Returns the header that makes a client save the bytes under the attachment's name (RFC 6266 §4.3, RFC 8187 §3.2).
fn disposition(filename: Option<&str>) -> HeaderValue {
    let plain = HeaderValue::from_static("attachment");
    let Some(name) = filename else { return plain };
    // Slashes would make a path of a label.
    let name: String = name.chars().map(|c| if matches!(c, '/' | '\\') { '_' } else { c }).collect();
    let fallback: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::try_from(format!("attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}")).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_the_standard_says() {
        type Expected = Option<Option<(usize, usize)>>;
        let rows: [(&str, Expected); 14] = [
            ("bytes=0-3", Some(Some((0, 3)))),
            ("bytes=5-", Some(Some((5, 9)))),
            ("bytes=5-99", Some(Some((5, 9)))),
            ("bytes=-4", Some(Some((6, 9)))),
            ("bytes=-99", Some(Some((0, 9)))),
            ("Bytes=0-0", Some(Some((0, 0)))),
            ("bytes=0-1,3-4", Some(None)),
            ("lines=0-1", Some(None)),
            ("bytes=10-", None),
            ("bytes=3-2", None),
            ("bytes=-0", None),
            ("bytes=x-2", None),
            ("bytes", None),
            ("bytes=-", None),
        ];
        for (text, expected) in rows {
            assert_eq!(range(text, 10).ok(), expected, "{text}");
        }
        assert!(range("bytes=0-0", 0).is_err());
    }

    #[test]
    fn a_filename_cannot_leave_its_header() {
        let of = |name: &str| disposition(Some(name)).to_str().unwrap().to_owned();
        assert_eq!(of("a.pdf"), "attachment; filename=\"a.pdf\"; filename*=UTF-8''a.pdf");
        assert_eq!(
            of("Rechnung für \"Müller\".pdf"),
            "attachment; filename=\"Rechnung f_r _M_ller_.pdf\"; filename*=UTF-8''Rechnung%20f%C3%BCr%20%22M%C3%BCller%22.pdf"
        );
        assert_eq!(of("../../x"), "attachment; filename=\".._.._x\"; filename*=UTF-8''.._.._x");
        assert!(!of("a\r\nSet-Cookie: b").contains('\r'));
        assert_eq!(disposition(None), "attachment");
    }

    proptest::proptest! {
        #[test]
        fn any_range_is_read_or_refused_without_panic(text in "\\PC{0,30}", total in 0usize..20) {
            if let Ok(Some((first, last))) = range(&text, total) {
                assert!(first <= last && last < total);
            }
        }
    }
}
