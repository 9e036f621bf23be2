//! What holds for every request and every answer, whatever the route.
//!
//! Each request gets an id, a deadline and a span. Each answer gets the id, where its key stands in its rate limit and
//! the instruction not to be stored. Problems are rendered here, panics and unknown routes included, so that every
//! answer has the same shape.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::id::RequestId;
use futures_util::FutureExt as _;
use tracing::Instrument as _;

use crate::App;
use crate::auth::Caller;
use crate::envelope::X_REQUEST_ID;
use crate::limit::Allowance;
use crate::problem::Problem;

const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What is known of a request before its route runs.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) request: RequestId,
    pub(crate) client_ip: Option<IpAddr>,
    /// When it came, microseconds since the Unix epoch.
    pub(crate) at: i64,
    allowance: Arc<OnceLock<Allowance>>,
}

impl Context {
    /// Notes who was let in, for the answer's headers and the request's span.
    pub(crate) fn note(&self, caller: &Caller, allowance: Allowance) {
        // A route authenticates once; should it do so again, the first count stands.
        let _ = self.allowance.set(allowance);
        tracing::Span::current().record("team.id", caller.team.as_str());
    }
}

/// Runs a request under the conventions.
pub(crate) async fn conventions(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let at = app.allot.now();
    let context = Context {
        request: RequestId::new(at, app.allot.random()),
        client_ip: client_ip(&request, &app.config.trusted_proxies),
        at,
        allowance: Arc::default(),
    };
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!(
        "request",
        request.id = context.request.as_str(),
        http.method = method.as_str(),
        http.route = route,
        team.id = tracing::field::Empty,
    );
    request.extensions_mut().insert(context.clone());
    let deadline = Duration::from_secs(app.config.request_seconds_max);
    let run = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = async {
        match tokio::time::timeout(deadline, run).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                tracing::error!("a handler panicked");
                Problem::internal().into_response()
            }
            Err(_) => {
                tracing::warn!("a request took longer than its deadline");
                Problem::unavailable().into_response()
            }
        }
    }
    .instrument(span)
    .await;
    let response = finish(&app, &context, response);
    let status = response.status().as_u16().to_string();
    let seconds = f64::from(u32::try_from((app.allot.now() - at).max(0)).unwrap_or(u32::MAX)) / 1e6;
    metrics::counter!("http_requests_total", "route" => route.clone(), "method" => method_label(&method), "status" => status)
        .increment(1);
    metrics::histogram!("http_request_duration_seconds", "route" => route).record(seconds);
    response
}

/// Returns a method as a metric's label: strangers cannot invent new ones.
fn method_label(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Gives an answer what every answer has.
fn finish(app: &App, context: &Context, mut response: Response) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let allow = response.headers_mut().remove(ALLOW);
        response = problem.render(context.request.as_str(), &app.challenge);
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    // An answer kept under an idempotency key brings the id it was first given under.
    if !headers.contains_key(X_REQUEST_ID) {
        let id = HeaderValue::try_from(context.request.as_str()).expect("ids are ASCII");
        headers.insert(X_REQUEST_ID, id);
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(allowance) = context.allowance.get() {
        headers.insert(X_RATELIMIT_LIMIT, HeaderValue::from(allowance.limit));
        headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(allowance.remaining));
        headers.insert(X_RATELIMIT_RESET, HeaderValue::from(allowance.resets_at_seconds));
    }
    response
}

/// Returns where a request came from: the peer, or what a trusted proxy says it forwarded for.
fn client_ip(request: &Request, trusted: &[IpAddr]) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical())?;
    Some(forwarded_for(peer, request.headers(), trusted))
}

/// Walks `X-Forwarded-For` from the nearest hop outwards, for as long as the hops are trusted.
fn forwarded_for(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    let hops: Vec<&str> = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    let mut hops = hops.iter().flat_map(|v| v.split(',')).rev();
    let mut client = peer;
    while trusted.contains(&client) {
        match hops.next().map(|hop| hop.trim().parse::<IpAddr>()) {
            Some(Ok(hop)) => client = hop.to_canonical(),
            Some(Err(_)) | None => break,
        }
    }
    client
}

/// Answers for a path that does not exist.
pub(crate) async fn no_such_path() -> Problem {
    Problem::not_found()
}

/// Answers for a method that a path does not have; the router adds which it has.
pub(crate) async fn no_such_method() -> Problem {
    Problem::method_not_allowed(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, header: &str, trusted: &[&str]) -> String {
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, HeaderValue::from_str(header).unwrap())]);
        let trusted: Vec<IpAddr> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        forwarded_for(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    /// Serves a handler that breaks, under the conventions of every route.
    async fn broken(path: &str) -> (u16, serde_json::Value) {
        use axum::routing::get;
        use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options};
        use tower::ServiceExt as _;

        let allot = Allot::system();
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
        let views = projections::Views::memory().await.unwrap();
        let pepper = crate::auth::secret::Pepper::new([9; 32]);
        let app = App::new(log, views, allot, pepper, crate::Config::default());
        let router = axum::Router::new()
            .route("/text", get(async || if true { panic!("canary: SELECT secret FROM /etc/passwd") } else { "" }))
            .route("/value", get(async || if true { std::panic::panic_any(7_u8) } else { "" }))
            .route("/well", get(async || "well"))
            .layer(axum::middleware::from_fn_with_state(app, conventions));
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        assert!(answer.headers().contains_key(X_REQUEST_ID));
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn a_panic_is_answered_with_a_plain_500_and_the_process_lives() {
        for path in ["/text", "/value"] {
            let (status, body) = broken(path).await;
            assert_eq!((status, &body["error"]["code"]), (500, &serde_json::json!("internal_error")), "{body}");
            let text = body.to_string();
            assert!(["canary", "SELECT", "passwd", ".rs", "panic"].iter().all(|word| !text.contains(word)), "{text}");
            assert_eq!(broken("/well").await.0, 200);
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(seen("192.0.2.1", "198.51.100.7", &[]), "192.0.2.1");
        assert_eq!(seen("192.0.2.1", "198.51.100.7", &["192.0.2.1"]), "198.51.100.7");
        assert_eq!(seen("192.0.2.1", "10.0.0.1, 198.51.100.7", &["192.0.2.1"]), "198.51.100.7");
        assert_eq!(seen("192.0.2.1", "198.51.100.7, 192.0.2.2", &["192.0.2.1", "192.0.2.2"]), "198.51.100.7");
        assert_eq!(seen("192.0.2.1", "nonsense", &["192.0.2.1"]), "192.0.2.1");
    }
}
