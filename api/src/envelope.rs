//! The shape of every answer: `{ok, data, meta}`, lists with `pagination`.

use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use eventlog::Answer;
use serde::Serialize;
use utoipa::ToSchema;

use crate::etag::ETag;

/// The header that repeats `meta.request_id`.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every answer says about itself.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResponseMeta)]
pub struct Meta {
    /// The request's id, as in the header `X-Request-Id`.
    #[schema(example = "req_06bqmn3t0d4gq2v8xk1hz7sw")]
    pub request_id: String,
}

impl Meta {
    /// Returns the meta object of a request.
    pub fn new(request_id: impl Into<String>) -> Self {
        Self { request_id: request_id.into() }
    }
}

/// An answer about one thing.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Response)]
pub struct Data<T: ToSchema> {
    /// Always true.
    pub ok: bool,
    /// The thing.
    pub data: T,
    /// The request.
    pub meta: Meta,
}

/// Where a list goes on.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = CursorPagination)]
pub struct Pagination {
    /// Whether there is more.
    pub has_more: bool,
    /// The cursor of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_cursor: Option<String>,
}

impl From<Option<String>> for Pagination {
    fn from(next_cursor: Option<String>) -> Self {
        Self { has_more: next_cursor.is_some(), next_cursor }
    }
}

/// A page of things.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = CursorListResponse)]
pub struct List<T: ToSchema, M: ToSchema = Meta> {
    /// Always true.
    pub ok: bool,
    /// The things.
    pub data: Vec<T>,
    /// Where the list goes on.
    pub pagination: Pagination,
    /// The request, and for some lists their state.
    pub meta: M,
}

/// What is left of something that was deleted.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Deleted {
    /// What was deleted.
    pub id: String,
    /// Always true.
    pub deleted: bool,
}

impl Deleted {
    /// Returns the answer to a deletion.
    pub fn new(id: impl ToString) -> Self {
        Self { id: id.to_string(), deleted: true }
    }
}

enum Content<B> {
    Typed(B),
    /// An answer that was kept, repeated byte for byte.
    Kept(String),
    Nothing,
}

/// An answer with its status and headers.
pub struct Reply<B> {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    content: Content<B>,
}

impl<B: Serialize> Reply<B> {
    /// Returns a `200` with a body.
    pub fn ok(body: B) -> Self {
        Self { status: StatusCode::OK, headers: vec![], content: Content::Typed(body) }
    }

    /// Returns a `201` with a body and the URL path of what was created.
    pub fn created(location: &str, body: B) -> Self {
        let location = HeaderValue::try_from(location).expect("paths of created things are made of ASCII ids");
        Self { status: StatusCode::CREATED, headers: vec![(LOCATION, location)], content: Content::Typed(body) }
    }

    /// Returns a `304`: the reader has it already.
    #[must_use]
    pub fn not_modified(tag: &ETag) -> Self {
        Self { status: StatusCode::NOT_MODIFIED, headers: vec![(ETAG, tag.header())], content: Content::Nothing }
    }

    /// Returns this answer with an entity tag.
    #[must_use]
    pub fn tagged(mut self, tag: &ETag) -> Self {
        self.headers.push((ETAG, tag.header()));
        self
    }

    /// Returns the answer in the form in which it is kept under an idempotency key, request id included.
    #[must_use]
    pub fn to_answer(&self, request_id: &str) -> Answer {
        let body = match &self.content {
            Content::Typed(body) => {
                serde_json::to_string(body).expect("answers are plain structs and always serialise")
            }
            Content::Kept(body) => body.clone(),
            Content::Nothing => String::new(),
        };
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let mut headers: Vec<_> = self.headers.iter().map(|(n, v)| (n.as_str().to_owned(), text(v))).collect();
        headers.push((X_REQUEST_ID.as_str().to_owned(), request_id.to_owned()));
        Answer { status: self.status.as_u16(), headers, body }
    }

    /// Returns a kept answer: same status, same headers, same bytes.
    #[must_use]
    pub fn kept(answer: Answer) -> Self {
        let headers = answer.headers.iter().filter_map(|(name, value)| {
            Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
        });
        Self {
            status: StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK),
            headers: headers.collect(),
            content: Content::Kept(answer.body),
        }
    }
}

impl<B: Serialize> IntoResponse for Reply<B> {
    fn into_response(self) -> Response {
        let body = match self.content {
            Content::Typed(body) => {
                serde_json::to_string(&body).expect("answers are plain structs and always serialise")
            }
            Content::Kept(body) => body,
            Content::Nothing => String::new(),
        };
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::NOT_MODIFIED {
            headers.remove(CONTENT_TYPE);
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.extend(self.headers);
        response
    }
}
