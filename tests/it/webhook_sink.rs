//! A receiver of webhooks on loopback that answers as it is told.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;

use crate::harness::PATIENCE;

/// One request that arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its exact bytes.
    pub body: Bytes,
}

impl Request {
    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

#[derive(Default)]
struct Inner {
    requests: Mutex<Vec<Request>>,
    arrived: Notify,
    status: AtomicU16,
}

/// A running receiver. Ends with the runtime of its test.
#[derive(Clone)]
pub struct Sink {
    inner: Arc<Inner>,
    /// Where it answers.
    pub url: String,
}

async fn receive(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    inner.requests.lock().expect("not poisoned").push(Request { headers, body });
    inner.arrived.notify_waiters();
    StatusCode::from_u16(inner.status.load(Ordering::SeqCst)).expect("a status")
}

impl Sink {
    /// Starts a receiver that answers 200.
    pub async fn start() -> Self {
        let inner = Arc::new(Inner { status: AtomicU16::new(200), ..Inner::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let router = axum::Router::new().route("/hook", axum::routing::post(receive)).with_state(Arc::clone(&inner));
        let server = async move { axum::serve(listener, router).await.expect("the sink serves") };
        #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
        tokio::spawn(server);
        Self { inner, url }
    }

    /// Sets what it answers from now on.
    pub fn answer(&self, status: u16) {
        self.inner.status.store(status, Ordering::SeqCst);
    }

    /// Returns what has arrived so far.
    pub fn requests(&self) -> Vec<Request> {
        self.inner.requests.lock().expect("not poisoned").clone()
    }

    /// Waits until that many requests have arrived.
    pub async fn wait_for(&self, count: usize) -> Vec<Request> {
        let wait = async {
            loop {
                let arrived = self.inner.arrived.notified();
                let requests = self.requests();
                if requests.len() >= count {
                    return requests;
                }
                arrived.await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, wait).await;
        seen.unwrap_or_else(|_| panic!("{} of {count} requests arrived", self.requests().len()))
    }
}
