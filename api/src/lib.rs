//! The doors: HTTP, streams, SMTP.
//!
//! A door turns a wish into a command, and rows into an answer; it holds no rule. [`router`] is the table of contents
//! of the native API; [`auth`] says who is calling, [`problem`] what is answered when a wish is refused.
//!
//! Invariants:
//! - The team of a call comes from its credential and from nowhere else.
//! - A route cannot be registered without saying what it needs of its caller ([`openapi`]).
//! - Another team's thing is answered exactly like a thing that does not exist.
//! - Nothing fails a request after its command was appended: the fact stands.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests may fail loudly"))]

use std::sync::Arc;

use axum::http::HeaderValue;
use eventlog::{Allot, EventLog};
use projections::Views;
use projections::webhook_attempts::Work;

pub mod auth;
mod body;
pub mod carrier;
mod config;
mod conventions;
pub mod envelope;
pub mod etag;
mod field;
pub mod idempotency;
pub mod limit;
pub mod links;
pub mod openapi;
pub mod path;
pub mod problem;
pub mod query;
pub mod receive;
#[expect(unused_qualifications, reason = "the macros of the API document qualify the types they describe")]
mod routes;
pub mod send;
pub mod smtp;
pub mod sns;
pub mod stream;
pub mod submit;
mod unsubscription;
mod uploads;
mod write;

pub use body::Json;
pub use config::{Config, MailServer, RateLimits};

use auth::Authenticator;
use auth::secret::Pepper;
use limit::Limiter;
use openapi::{Rendered, Routes};
use stream::Streams;

/// What every handler has. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The truth.
    pub log: EventLog,
    /// What can be read.
    pub views: Views,
    /// Time and randomness.
    pub allot: Allot,
    /// The section `http`.
    pub config: Arc<Config>,
    /// Who is calling.
    pub auth: Authenticator,
    /// How often.
    pub limiter: Limiter,
    /// Open event streams.
    pub streams: Streams,
    /// What the dispatcher wrote down of its attempts; uploads wait there too.
    pub attempts: Option<Work>,
    /// Who carries outgoing mail.
    pub carrier: Option<Arc<dyn carrier::Carrier>>,
    /// Where outgoing mail goes.
    pub outbox: send::Outbox,
    /// Looks up the records of sending domains; `None` where there is no DNS.
    pub resolver: Option<Arc<dyn mail::auth::Resolver>>,
    /// The links that outgoing mail carries.
    pub links: links::Links,
    /// The door for notifications of sending accounts.
    pub notifications: sns::Notifications,
    /// Turns of those who make RSA keys, which takes a processor for a while.
    pub key_makers: Arc<tokio::sync::Semaphore>,
    /// What checkpoints of the logs are verified with.
    pub checkpoint_key: Option<eventlog::checkpoint::VerifyingKey>,
    challenge: HeaderValue,
}

impl App {
    /// Returns the state of the API's handlers.
    #[must_use]
    pub fn new(log: EventLog, views: Views, allot: Allot, pepper: Pepper, config: Config) -> Self {
        let resource = format!("{}/.well-known/oauth-protected-resource/api/v1", config.public_url);
        let challenge = HeaderValue::try_from(format!("Bearer resource_metadata=\"{resource}\""))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        let lifetime_micros = i64::try_from(config.mail_lifetime_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let (kept, prices) = (pepper.clone(), config.prices);
        Self {
            outbox: send::Outbox::new(log.clone(), views.clone(), allot.clone(), kept, prices, lifetime_micros),
            links: links::Links::new(&config.public_url, &pepper).with_mailto(&pepper, config.bounce_domain.as_deref()),
            notifications: sns::Notifications::new(&config.public_url, &pepper),
            resolver: None,
            key_makers: Arc::new(tokio::sync::Semaphore::new(1)),
            checkpoint_key: None,
            auth: Authenticator::new(log.clone(), allot.clone(), pepper),
            limiter: Limiter::new(config.rate_limits),
            streams: Streams::new(log.clone(), allot.clone(), stream::Config::default()),
            config: Arc::new(config),
            attempts: None,
            carrier: None,
            log,
            views,
            allot,
            challenge,
        }
    }

    /// Returns this state with the database of webhook attempts.
    #[must_use]
    pub fn with_attempts(mut self, attempts: Work) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Returns this state with the key that checkpoints are verified with.
    #[must_use]
    pub fn with_checkpoint_key(mut self, key: eventlog::checkpoint::VerifyingKey) -> Self {
        self.checkpoint_key = Some(key);
        self
    }

    /// Returns this state with whoever carries outgoing mail.
    #[must_use]
    pub fn with_carrier(mut self, carrier: Arc<dyn carrier::Carrier>) -> Self {
        self.carrier = Some(carrier);
        self
    }

    /// Returns this state with a way to fetch what notifications of sending accounts are checked by.
    #[must_use]
    pub fn with_fetch(mut self, fetch: Arc<dyn sns::Fetch>) -> Self {
        self.notifications = self.notifications.with_fetch(fetch);
        self
    }

    /// Returns this state with a resolver, so that sending domains can be verified.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn mail::auth::Resolver>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Returns this state with streams that are configured and run elsewhere.
    #[must_use]
    pub fn with_streams(mut self, streams: Streams) -> Self {
        self.streams = streams;
        self
    }
}

fn routes() -> Routes {
    Routes::new().with(door!(openapi::get_document)).and(routes::all()).and(stream::routes())
}

/// Returns the API document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    routes().finish().1
}

/// Returns the router of the native API, mounted at `/api/v1`.
pub fn router(app: App) -> axum::Router {
    let (router, document) = routes().finish();
    axum::Router::new()
        .nest("/api/v1", router)
        .merge(links::router())
        .fallback(conventions::no_such_path)
        .method_not_allowed_fallback(conventions::no_such_method)
        .layer(axum::middleware::from_fn_with_state(app.clone(), conventions::conventions))
        .layer(axum::Extension(Rendered::new(&document)))
        .with_state(app)
}
