//! Clients that ask as fast as they are answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Serves a router to so many connections for a while, each of which asks again as soon as it is answered; returns requests
/// a second and how long each took in milliseconds, shortest first.
pub async fn measure(
    router: Router,
    connections: usize,
    round: Duration,
    requests: Arc<impl Fn(usize, u64) -> String + Send + Sync + 'static>,
) -> (f64, Vec<f64>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let to = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut serving = JoinSet::new();
    serving.spawn({
        let stop = stop.clone();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        async move {
            let serve = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
            serve.await.unwrap();
        }
    });
    let measured = ask(&[to], connections, round, requests).await;
    stop.cancel();
    serving.join_all().await;
    measured
}

/// The same from servers that are there: connection `n` goes to the `n`th of them, and around.
pub async fn ask(
    servers: &[SocketAddr],
    connections: usize,
    round: Duration,
    requests: Arc<impl Fn(usize, u64) -> String + Send + Sync + 'static>,
) -> (f64, Vec<f64>) {
    let mut clients = JoinSet::new();
    let started = Instant::now();
    for connection in 0..connections {
        let (requests, to) = (Arc::clone(&requests), servers[connection % servers.len()]);
        clients.spawn(async move {
            let mut stream = TcpStream::connect(to).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut taken, mut input) = (vec![], vec![0; 65_536]);
            let mut n = 0;
            while started.elapsed() < round {
                let begun = Instant::now();
                stream.write_all(requests(connection, n).as_bytes()).await.unwrap();
                answer(&mut stream, &mut input).await;
                taken.push(begun.elapsed().as_secs_f64() * 1_000.0);
                n += 1;
            }
            taken
        });
    }
    let mut taken = clients.join_all().await.concat();
    let rate = taken.len() as f64 / started.elapsed().as_secs_f64();
    taken.sort_by(f64::total_cmp);
    (rate, taken)
}

/// Reads one answer, which must be a good one.
async fn answer(stream: &mut TcpStream, input: &mut [u8]) {
    let mut have = 0;
    loop {
        have += stream.read(&mut input[have..]).await.unwrap();
        let text = std::str::from_utf8(&input[..have]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 2"), "{text}");
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length.is_some_and(|length: usize| body.len() >= length) {
            return;
        }
    }
}
