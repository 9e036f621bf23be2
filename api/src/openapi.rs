//! Routes and their document, made from one another: a route is registered together with what it needs of its caller.
//!
//! [`door!`] takes a handler; what it needs is read from the handler's own first argument and written into its
//! operation as `x-postlog-permission` and `x-postlog-surface`. There is no other way to register a route.

use std::sync::Arc;

use axum::Extension;
use axum::handler::Handler;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr};
use utoipa::openapi::{ResponseBuilder, ServerBuilder, Tag};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::App;
use crate::auth::{Guarded, Needs, Public, Surface};
use crate::etag::{ETag, IfNoneMatch};
use crate::problem::Problem;

/// A route that knows what it needs of its caller.
pub struct Route {
    routes: UtoipaMethodRouter<App>,
}

impl Route {
    /// Joins a handler's route with what the handler's first argument asks for.
    pub fn new<H, T>(_: H, mut routes: UtoipaMethodRouter<App>) -> Self
    where
        H: Handler<T, App>,
        T: Guarded,
    {
        for item in routes.1.paths.values_mut() {
            let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
            operations.into_iter().flatten().for_each(|operation| declare(operation, T::NEEDS));
        }
        Self { routes }
    }
}

/// Makes a [`Route`] of a handler with a `#[utoipa::path]`.
#[macro_export]
macro_rules! door {
    ($handler:path) => {
        $crate::openapi::Route::new($handler, utoipa_axum::routes!($handler))
    };
}

/// Writes what an operation needs, and the answers that follow from it, into the document.
fn declare(operation: &mut Operation, needs: Needs) {
    let extensions = operation.extensions.get_or_insert_with(Extensions::default);
    extensions.insert("x-postlog-surface".to_owned(), needs.surface.as_str().into());
    extensions.insert("x-postlog-permission".to_owned(), needs.permission.unwrap_or("none").into());
    let mut errors = vec![("500", "Unexpected server error"), ("503", "Not available at present")];
    if needs.surface == Surface::Public {
        operation.security = Some(vec![]);
    } else {
        let scopes: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new("bearerAuth", scopes)]);
        errors.extend([
            ("401", "Authentication required"),
            ("403", "The credential may not do this"),
            ("429", "Rate limit exceeded"),
        ]);
    }
    if operation.request_body.is_some() {
        errors.push(("413", "The body is too large"));
    }
    for (status, description) in errors {
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| error(description));
    }
}

fn error(description: &str) -> RefOr<utoipa::openapi::Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ApiError"))).build();
    RefOr::T(ResponseBuilder::new().description(description).content("application/json", content).build())
}

/// A set of routes.
#[derive(Default)]
pub struct Routes(OpenApiRouter<App>);

impl Routes {
    /// Returns no routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns these routes and one more.
    #[must_use]
    pub fn with(self, route: Route) -> Self {
        Self(self.0.routes(route.routes))
    }

    /// Returns these routes and others.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0.merge(others.0))
    }

    /// Returns the router and its document.
    pub(crate) fn finish(self) -> (axum::Router<App>, OpenApi) {
        let (router, routed) = self.0.split_for_parts();
        let mut document = base();
        document.paths = routed.paths;
        let components = document.components.get_or_insert_with(Components::new);
        components.schemas.extend(routed.components.unwrap_or_default().schemas);
        (router, document)
    }
}

fn base() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("API key")
        .description(Some("An infrastructure key for management, a mailbox key for paths under /mailbox."))
        .build();
    let mut components = Components::new();
    components.add_security_scheme("bearerAuth", SecurityScheme::Http(bearer));
    let mut schemas = vec![];
    <crate::problem::Body as utoipa::ToSchema>::schemas(&mut schemas);
    components.schemas.extend(schemas);
    components.schemas.insert("ApiError".to_owned(), <crate::problem::Body as utoipa::PartialSchema>::schema());
    let info = InfoBuilder::new()
        .title("Postlog API")
        .version("1.0.0")
        .description(Some("Email for every team of a product: mailboxes, webhooks, streams, usage and audit."))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url("/api/v1").build()]))
        .components(Some(components))
        .tags(Some(TAGS.map(|(name, description)| {
            let mut tag = Tag::new(name);
            tag.description = Some(description.to_owned());
            tag
        })))
        .build()
}

const TAGS: [(&str, &str); 16] = [
    ("Connection", "Who the credential is."),
    ("Mailboxes", "Mailboxes of the team."),
    ("Mailbox API", "One mailbox, with its own credential."),
    ("Sending", "Mail that leaves."),
    ("Delivery log", "What became of outgoing mail."),
    ("Sending accounts", "The ways mail leaves by (providers)."),
    ("Delivery groups", "Sending accounts that are chosen together."),
    ("Domains", "Mail domains of the team and their DNS records."),
    ("Suppressions", "Addresses that are not written to."),
    ("Webhooks", "Endpoints that are told of events."),
    ("Inboxes", "Accepted inbound mail, as it is billed."),
    ("Keys", "API keys of the team."),
    ("Billing", "Usage and what it costs."),
    ("Events", "What happened in the team, live and in pages."),
    ("Audit", "Who did what, and the proof that nothing was changed since."),
    ("Document", "This document."),
];

/// The header of conditional reads, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct IfNoneMatchHeader {
    /// Weak ETag of an earlier answer; a match answers 304. Authentication is checked all the same.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

/// The header of conditional writes, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct IfMatchHeader {
    /// Weak ETag of the version the change is based on; a mismatch answers 409 `conflict` with the current ETag.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// The header of requests that are safe to repeat, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct IdempotencyHeader {
    /// Makes the request safe to repeat for 24 hours: the same key with the same body gets the same answer.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255)]
    idempotency_key: Option<String>,
}

/// The parameter that selects a mailbox, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct MailboxSelection {
    /// The mailbox; a mailbox key covers its own only and may omit it.
    mailbox_id: Option<String>,
}

/// The rendered document.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    bytes: Bytes,
    tag: ETag,
}

impl Rendered {
    /// Renders a document.
    pub(crate) fn new(document: &OpenApi) -> Arc<Self> {
        let bytes = Bytes::from(document.to_json().expect("the document is plain data"));
        let tag = ETag::of_bytes(&bytes);
        Arc::new(Self { bytes, tag })
    }
}

/// Get this document
///
/// The OpenAPI 3.1 document of the API, generated from its routes.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Document",
    operation_id = "managementGetOpenApiSpec",
    params(("If-None-Match" = Option<String>, Header, description = "Tag of an earlier answer; a match answers 304.")),
    responses(
        (status = 200, description = "The document", content_type = "application/json", body = Object),
        (status = 304, description = "Not modified"),
    ),
)]
pub(crate) async fn get_document(
    _: Public,
    known: IfNoneMatch,
    document: Option<Extension<Arc<Rendered>>>,
) -> Result<Response, Problem> {
    let Extension(document) = document.ok_or_else(Problem::internal)?;
    let headers = [(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")), (ETAG, document.tag.header())];
    if known.has(&document.tag) {
        return Ok((axum::http::StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((headers, json, document.bytes.clone()).into_response())
}
