//! What a request looks like, and how connections are opened, kept, replaced and bounded.
#![expect(clippy::disallowed_methods, reason = "receivers end with the runtime of their test")]

#[path = "egress/receiver.rs"]
mod receiver;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dispatcher::egress::{AttemptError, BodyEnd, Client, ConnectFault, HostTable, Limits, Phase, Target};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use receiver::{LONG, Receiver, SHORT, client, client_with, ok, read_request, sandbox};

#[tokio::test]
async fn a_post_arrives_as_it_was_given() {
    let (seen, mut requests) = mpsc::channel(1);
    let receiver = Receiver::start(move |mut stream| {
        let seen = seen.clone();
        async move {
            let request = read_request(&mut stream).await.expect("a request");
            seen.send(request).await.expect("the test waits");
            stream.write_all(ok("thanks").as_bytes()).await.expect("connected");
        }
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("webhook-id", HeaderValue::from_static("evt_1"));
    let body = Bytes::from_static(br#"{"n":1}"#);
    let answer = client().post(&receiver.target(), headers, body, LONG).await.expect("answered");
    assert_eq!((answer.status, &answer.body_preview[..]), (200, &b"thanks"[..]));
    assert_eq!(answer.body_end, BodyEnd::Complete);
    assert!(answer.is_success() && answer.elapsed < LONG);

    let request = String::from_utf8(requests.recv().await.expect("sent")).expect("text");
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let mut lines: Vec<_> = head.split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /hook?a=1 HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: 127.0.0.1:{}", receiver.port);
    let agent = concat!("user-agent: Postlog/", env!("CARGO_PKG_VERSION"));
    let expected =
        ["accept: */*", "content-length: 7", "content-type: application/json", &host, agent, "webhook-id: evt_1"];
    assert_eq!(lines, expected);
    assert_eq!(body, r#"{"n":1}"#);
}

#[tokio::test]
async fn framing_is_not_the_callers() {
    let receiver = Receiver::answering(ok("")).await;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("expect", "100-continue"),
        ("host", "inside.example"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let client = client();
    for _ in 0..2 {
        let body = Bytes::from_static(b"POST /smuggled HTTP/1.1\r\n\r\n");
        let answer = client.post(&receiver.target(), headers.clone(), body, LONG).await.expect("answered");
        assert_eq!(answer.status, 200);
    }
    assert_eq!(receiver.connections(), 1, "both were whole requests on one connection");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let port = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a free port").port();
    let target = Target::parse(&format!("http://127.0.0.1:{port}/"), &sandbox()).expect("loopback");
    let answer = client().post(&target, HeaderMap::new(), Bytes::new(), LONG).await;
    assert_eq!(answer, Err(AttemptError::Connect(ConnectFault::Refused)));
}

#[tokio::test]
async fn the_deadline_covers_a_connection_that_nobody_accepts() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = socket.local_addr().expect("bound");
    let listener = socket.listen(1).expect("listening");
    // Fill the queue of connections waiting to be accepted, until one is no longer taken.
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream.expect("queued"));
        assert!(waiting.len() < 64, "the queue has no end");
    }
    let target = Target::parse(&format!("http://{address}/"), &sandbox()).expect("loopback");
    let answer = client().post(&target, HeaderMap::new(), Bytes::new(), SHORT).await;
    assert_eq!(answer, Err(AttemptError::Timeout(Phase::Connect)));
    drop((listener, waiting));
}

#[tokio::test]
async fn requests_to_one_origin_share_a_connection() {
    let receiver = Receiver::answering(ok("x")).await;
    let client = client();
    for _ in 0..50 {
        let answer = client.post(&receiver.target(), HeaderMap::new(), Bytes::from_static(b"{}"), LONG).await;
        assert_eq!(answer.expect("answered").status, 200);
    }
    assert_eq!(receiver.connections(), 1);
    assert_eq!(client.close_idle(), 1);
}

#[tokio::test]
async fn a_connection_is_not_kept_when_its_answer_was_not_read_to_the_end_or_it_says_so() {
    let oversized = ok(&"z".repeat(70_000));
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned();
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
    for answer in [oversized, closing, old] {
        let receiver = Receiver::answering(answer).await;
        let client = client();
        for made in 1..=3 {
            client.post(&receiver.target(), HeaderMap::new(), Bytes::new(), LONG).await.expect("answered");
            assert_eq!((receiver.connections(), client.close_idle()), (made, 0));
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_receiver_has_closed_is_replaced() {
    let receiver = Receiver::answering_once(ok("x")).await;
    let client = client();
    for made in 1..=5 {
        let answer = client.post(&receiver.target(), HeaderMap::new(), Bytes::from_static(b"{}"), LONG).await;
        assert_eq!(answer.expect("answered").status, 200);
        assert_eq!(receiver.connections(), made);
    }
}

/// The receiver's idle timeout strikes just as the second request arrives: it cannot be told from a connection that
/// was already closed, and must not count as a failed attempt.
#[tokio::test]
async fn a_kept_connection_that_dies_under_the_request_is_replaced_once() {
    let receiver = Receiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(ok("x").as_bytes()).await;
        read_request(&mut stream).await;
    })
    .await;
    let client = client();
    for made in 1..=3 {
        let answer = client.post(&receiver.target(), HeaderMap::new(), Bytes::from_static(b"{}"), LONG).await;
        assert_eq!(answer.expect("answered").status, 200);
        assert_eq!(receiver.connections(), made);
    }
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_do_not_become_the_next_answer() {
    let forged = format!("{}HTTP/1.1 500 Forged\r\nContent-Length: 0\r\n\r\n", ok("x"));
    let receiver = Receiver::answering(forged).await;
    let client = client();
    for made in 1..=3 {
        let answer = client.post(&receiver.target(), HeaderMap::new(), Bytes::new(), LONG).await;
        assert_eq!(answer.expect("answered").status, 200);
        assert_eq!(receiver.connections(), made);
    }
}

#[tokio::test]
async fn the_pool_is_bounded_per_origin_in_all_and_by_time() {
    let receiver = Receiver::answering(ok("x")).await;
    let other = Receiver::answering(ok("x")).await;
    let burst = |client: Client, target: Target, size: usize| async move {
        let posts = (0..size).map(|_| client.post(&target, HeaderMap::new(), Bytes::new(), LONG));
        for answer in futures_util::future::join_all(posts).await {
            assert_eq!(answer.expect("answered").status, 200);
        }
    };
    let client = client_with(Limits { pool_idle_per_origin_max: 2, pool_idle_max: 3, ..Limits::default() });
    burst(client.clone(), receiver.target(), 8).await;
    assert_eq!(client.close_idle(), 2);
    burst(client.clone(), other.target(), 8).await;
    assert_eq!(client.close_idle(), 3);
    for limits in [
        Limits { pool_idle_seconds: 0, ..Limits::default() },
        Limits { pool_age_seconds: 0, ..Limits::default() },
        Limits { pool_idle_max: 0, ..Limits::default() },
    ] {
        let client = client_with(limits);
        burst(client.clone(), receiver.target(), 2).await;
        assert_eq!(client.close_idle(), 0);
    }
}

#[tokio::test]
async fn an_abandoned_attempt_closes_its_connection() {
    let (events, mut seen) = mpsc::channel(2);
    let receiver = Receiver::start(move |mut stream| {
        let events = events.clone();
        async move {
            let _ = events.send(read_request(&mut stream).await.is_some()).await;
            let _ = events.send(read_request(&mut stream).await.is_some()).await;
        }
    })
    .await;
    let target = receiver.target();
    let attempt = tokio::spawn(async move { client().post(&target, HeaderMap::new(), Bytes::new(), LONG).await });
    assert_eq!(seen.recv().await, Some(true), "the request arrived");
    attempt.abort();
    assert_eq!(seen.recv().await, Some(false), "and then the end of the connection");
}

#[tokio::test]
async fn two_hundred_hanging_receivers_do_not_slow_a_good_one() {
    let hanging = Receiver::start(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let good = Receiver::answering(ok("x")).await;
    let client = client();
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (client, target) = (client.clone(), hanging.target());
        attempts.spawn(async move { client.post(&target, HeaderMap::new(), Bytes::new(), LONG).await });
    }
    while hanging.connections() < 200 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        let answer = client.post(&good.target(), HeaderMap::new(), Bytes::new(), LONG).await.expect("answered");
        assert!(answer.elapsed < Duration::from_secs(2));
    }
    attempts.shutdown().await;
}

#[test]
fn limits_are_checked_all_at_once() {
    let limits = Limits { attempt_seconds: 0, answer_head_bytes: 100, ..Limits::default() };
    let wrong = Client::new(sandbox(), limits, Arc::new(HostTable::default())).expect_err("two are out of range");
    assert_eq!(wrong.iter().map(|w| w.field).collect::<Vec<_>>(), ["attempt_seconds", "answer_head_bytes"]);
    assert!(wrong[0].to_string().starts_with("attempt_seconds "));
    assert!(Limits::default().validate().is_ok());
    assert!(serde_json::from_str::<Limits>(r#"{"unheard_of":1}"#).is_err());
}
