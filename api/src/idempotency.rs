//! `Idempotency-Key`: a request that is repeated is answered once and for all.
//!
//! The key belongs to a team, a method and a route; the fingerprint covers the concrete path and the body, so that the
//! same key for another request is noticed. Only answers of accepted commands are kept: a refusal does not use up a key.

use axum::extract::{FromRequest, MatchedPath, OriginalUri, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use eventlog::Idempotency;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::App;
use crate::body::{bounded, content_type, parse};
use crate::problem::Problem;
use crate::uploads::content_length;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEY_CHARS_MAX: usize = 255;

/// A JSON body of a request that may be repeated under a key.
#[derive(Debug, Clone)]
pub struct Keyed<T> {
    /// The body.
    pub body: T,
    /// The key, if the caller gave one.
    pub idempotency: Option<Idempotency>,
}

impl<T: DeserializeOwned> FromRequest<App> for Keyed<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let key = key(&parts)?;
        content_type(&parts.headers)?;
        let bytes = bounded(&parts.headers, body, app.config.body_bytes_max).await?;
        let idempotency = key.map(|key| idempotency(key, &parts, &[&bytes]));
        Ok(Self { body: parse(&bytes, app.config.json_depth_max)?, idempotency })
    }
}

/// A JSON body of a request that sends mail: as long as such a body may be, and with 422 for what does not fit.
#[derive(Debug, Clone)]
pub struct KeyedMail<T>(pub Keyed<T>);

impl<T: DeserializeOwned> FromRequest<App> for KeyedMail<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let key = key(&parts)?;
        content_type(&parts.headers)?;
        let bytes = bounded(&parts.headers, body, app.config.send_body_bytes_max).await?;
        let idempotency = key.map(|key| idempotency(key, &parts, &[&bytes]));
        let body = parse(&bytes, app.config.json_depth_max).map_err(Problem::into_validation)?;
        Ok(Self(Keyed { body, idempotency }))
    }
}

/// A body of bytes, at most `MAX`, of a request that may be repeated under a key. The query counts for the fingerprint.
#[derive(Debug, Clone)]
pub struct KeyedBytes<const MAX: usize> {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Bytes,
    /// The key, if the caller gave one.
    pub idempotency: Option<Idempotency>,
}

impl<const MAX: usize> FromRequest<App> for KeyedBytes<MAX> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let key = key(&parts)?;
        let length = content_length(&parts.headers)?;
        let bytes = bounded(&parts.headers, body, MAX).await?;
        if u64::try_from(bytes.len()).ok() != Some(length) {
            return Err(Problem::invalid(
                "Content-Length",
                "mismatch",
                "the body is not as long as Content-Length says",
            ));
        }
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let idempotency = key.map(|key| idempotency(key, &parts, &[query, &bytes]));
        Ok(Self { headers: parts.headers, bytes, idempotency })
    }
}

/// A request without a body that may be repeated under a key. Whatever body it has counts only for the fingerprint.
#[derive(Debug, Clone)]
pub struct KeyedOnly(pub Option<Idempotency>);

impl FromRequest<App> for KeyedOnly {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let key = key(&parts)?;
        let bytes = bounded(&parts.headers, body, app.config.body_bytes_max).await?;
        Ok(Self(key.map(|key| idempotency(key, &parts, &[&bytes]))))
    }
}

fn key(parts: &Parts) -> Result<Option<String>, Problem> {
    let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let visible = text.bytes().all(|b| b.is_ascii_graphic());
    if values.next().is_some() || !visible || !(1..=KEY_CHARS_MAX).contains(&text.len()) {
        let message = format!("the key must be one header of 1 to {KEY_CHARS_MAX} visible ASCII characters");
        return Err(Problem::invalid("Idempotency-Key", "invalid_value", message));
    }
    Ok(Some(text.to_owned()))
}

fn idempotency(key: String, parts: &Parts, content: &[&[u8]]) -> Idempotency {
    let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let path = parts.extensions.get::<OriginalUri>().map_or(parts.uri.path(), |uri| uri.0.path());
    let mut hasher = Sha256::new();
    for part in [parts.method.as_str().as_bytes(), path.as_bytes()].iter().chain(content) {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
    Idempotency { scope: format!("{} {route}", parts.method), key, fingerprint: hasher.finalize().into() }
}
