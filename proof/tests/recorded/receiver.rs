//! A receiver on loopback that notes requests in the order they come, and knows when its connections are over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proof::replay::Observed;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What everyone writes into, in the order it happens.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    seen: Arc<Mutex<Vec<Observed>>>,
}

impl Recorder {
    pub fn add(&self, observed: Observed) {
        self.seen.lock().unwrap().push(observed);
    }

    pub fn all(&self) -> Vec<Observed> {
        self.seen.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct Shared {
    recorder: Recorder,
    begin: u64,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    seed: u64,
}

/// See the module.
pub struct Receiver {
    shared: Shared,
}

impl Receiver {
    /// Starts a receiver that refuses some requests; `begin` is the position that others are counted from.
    pub fn start(listener: TcpListener, recorder: Recorder, begin: u64, seed: u64) -> Self {
        let (requests, connections, changed) = (Arc::default(), Arc::default(), Arc::default());
        let shared = Shared { recorder, begin, requests, connections, changed, seed };
        let serving = shared.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let of = serving.clone();
                tokio::spawn(async move {
                    serve(&of, socket).await;
                    of.connections.fetch_sub(1, Ordering::SeqCst);
                    of.changed.notify_waiters();
                });
            }
        });
        Self { shared }
    }

    async fn wait(&self, done: impl Fn(&Shared) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(&self.shared) {
                return;
            }
            changed.await;
        }
    }

    /// Waits for some more requests, but not for long: there may be none.
    pub async fn wait_for_more(&self, n: usize) {
        let wanted = self.shared.requests.load(Ordering::SeqCst) + n;
        let waiting = self.wait(|shared| shared.requests.load(Ordering::SeqCst) >= wanted);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), waiting).await;
    }

    /// Waits until every connection is over: whatever was sent on one has been noted.
    pub async fn wait_for_silence(&self) {
        self.wait(|shared| shared.connections.load(Ordering::SeqCst) == 0).await;
    }
}

async fn serve(shared: &Shared, socket: TcpStream) {
    let mut socket = BufReader::new(socket);
    while let Some((attempt, body)) = request(&mut socket).await {
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let position = json["sequence"].as_u64().unwrap() - shared.begin;
        let count = shared.requests.fetch_add(1, Ordering::SeqCst) as u64;
        // One in four is refused, the last attempts never.
        let ok = attempt > 3 || !(count * 7 + shared.seed * 3).is_multiple_of(4);
        shared.recorder.add(Observed::Request { position, number: attempt, ok });
        shared.changed.notify_waiters();
        let status = if ok { "200 OK" } else { "500 Internal Server Error" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        if socket.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Returns the number of the attempt and the body of the next request; `None` when there is no whole one any more.
async fn request(socket: &mut BufReader<TcpStream>) -> Option<(u32, Vec<u8>)> {
    let (mut attempt, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(("x-sendmux-delivery-attempt", value)) => attempt = value.trim().parse().ok()?,
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some((attempt, body))
}
