//! The client against receivers of every bad manner, over real loopback sockets.
#![expect(clippy::disallowed_methods, reason = "receivers end with the runtime of their test")]

#[path = "egress/receiver.rs"]
mod receiver;

use std::time::{Duration, Instant};

use bytes::Bytes;
use dispatcher::egress::{Answer, AttemptError, BodyEnd, Limits, Phase, ResponseFault};
use hyper::header::HeaderMap;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use receiver::{LONG, Receiver, SHORT, client, client_with, ok, read_request};

async fn post(receiver: &Receiver, deadline: Duration) -> Result<Answer, AttemptError> {
    client().post(&receiver.target(), HeaderMap::new(), Bytes::from_static(b"{}"), deadline).await
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_the_deadline_and_no_more() {
    let receiver = Receiver::start(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let started = Instant::now();
    assert_eq!(post(&receiver, SHORT).await, Err(AttemptError::Timeout(Phase::Answer)));
    assert!(started.elapsed() >= SHORT && started.elapsed() < LONG);
}

/// Sends the text at once, then one byte every 10 ms for ever.
async fn drip(head: &'static str) -> Receiver {
    Receiver::start(move |mut stream| async move {
        read_request(&mut stream).await;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let mut bytes = head.as_bytes();
        while stream.write_all(bytes).await.is_ok() {
            bytes = b"a";
            tick.tick().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_dripping_head_does_not_renew_the_deadline() {
    let receiver = drip("HTTP/1.1 200 OK\r\nX-Drip: ").await;
    let started = Instant::now();
    assert_eq!(post(&receiver, SHORT).await, Err(AttemptError::Timeout(Phase::Answer)));
    assert!(started.elapsed() < LONG);
}

#[tokio::test]
async fn a_dripping_body_ends_at_the_deadline_and_the_status_stands() {
    let receiver = drip("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
    let started = Instant::now();
    let answer = post(&receiver, SHORT).await.expect("the head was complete");
    assert!(started.elapsed() < LONG);
    assert_eq!((answer.status, answer.body_end), (200, BodyEnd::TimedOut));
    assert!(!answer.body_preview.is_empty() && answer.body_preview.len() < 1000);
}

#[tokio::test]
async fn the_configured_limit_bounds_a_longer_deadline() {
    let receiver = drip("HTTP/1.1 200 OK\r\nX-Drip: ").await;
    let client = client_with(Limits { attempt_seconds: 1, ..Limits::default() });
    let started = Instant::now();
    let answer = client.post(&receiver.target(), HeaderMap::new(), Bytes::new(), Duration::MAX).await;
    assert_eq!(answer, Err(AttemptError::Timeout(Phase::Answer)));
    assert!(started.elapsed() < LONG);
}

#[tokio::test]
async fn a_reset_is_a_reset_and_is_not_tried_again() {
    let receiver = Receiver::start(|mut stream| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().expect("a socket");
    })
    .await;
    assert_eq!(post(&receiver, LONG).await, Err(AttemptError::Reset));
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_close_before_or_within_the_head_is_a_reset() {
    for answer in
        ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", "HTTP/1.1 100 Continue\r\n\r\n"]
    {
        let receiver = Receiver::answering_once(answer).await;
        assert_eq!(post(&receiver, LONG).await, Err(AttemptError::Reset), "{answer:?}");
        assert_eq!(receiver.connections(), 1);
    }
}

#[tokio::test]
async fn a_close_within_the_body_leaves_the_status_standing() {
    let receiver = Receiver::answering_once("HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nhalf").await;
    let answer = post(&receiver, LONG).await.expect("the head was complete");
    assert_eq!((answer.status, answer.body_end), (500, BodyEnd::Broken));
    assert_eq!(&answer.body_preview[..], b"half");
}

/// Sends the head, then the piece again and again until the connection is closed, and reports how often.
async fn endless(head: &'static str, piece: &'static [u8]) -> (Receiver, mpsc::Receiver<usize>) {
    let (ended, reports) = mpsc::channel(1);
    let receiver = Receiver::start(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_request(&mut stream).await;
            let mut sent = stream.write_all(head.as_bytes()).await;
            let mut pieces = 0;
            while sent.is_ok() {
                sent = stream.write_all(piece).await;
                pieces += 1;
            }
            let _ = ended.send(pieces).await;
        }
    })
    .await;
    (receiver, reports)
}

#[tokio::test]
async fn an_endless_body_is_cut_at_64_kib_and_the_connection_closed() {
    for head in ["HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"] {
        let (receiver, mut ended) = endless(head, &[b'x'; 4096]).await;
        let answer = post(&receiver, LONG).await.expect("the head was complete");
        assert_eq!((answer.status, answer.body_end), (200, BodyEnd::Truncated));
        assert_eq!(answer.body_preview.len(), 64 * 1024);
        assert!(answer.body_preview.iter().all(|byte| *byte == b'x'));
        ended.recv().await.expect("the receiver saw the connection end");
    }
}

#[tokio::test]
async fn a_body_of_one_byte_chunks_is_cut_by_its_bytes_on_the_wire() {
    let (receiver, mut ended) =
        endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n")
            .await;
    let answer = post(&receiver, LONG).await.expect("the head was complete");
    assert_eq!((answer.status, answer.body_end), (200, BodyEnd::Truncated));
    assert!(answer.body_preview.len() < 64 * 1024);
    ended.recv().await.expect("the receiver saw the connection end");
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_cut_off() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"] {
        let (receiver, mut ended) = endless("", interim.as_bytes()).await;
        let started = Instant::now();
        let answer = post(&receiver, LONG).await;
        assert_eq!(answer, Err(AttemptError::BadResponse(ResponseFault::TooManyBytes)));
        assert!(started.elapsed() < LONG, "by bytes, not by time");
        ended.recv().await.expect("the receiver saw the connection end");
    }
}

#[tokio::test]
async fn one_interim_answer_is_not_the_answer() {
    let receiver = Receiver::answering(format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("x"))).await;
    assert_eq!(post(&receiver, LONG).await.expect("answered").status, 200);
}

#[tokio::test]
async fn what_is_not_http_1_is_a_bad_response() {
    let answers = [
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "220 mail.shop.com ESMTP\r\n",
        "+PONG\r\n-ERR unknown command\r\n",
        "<html>hello, HTTP/0.9</html>\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
    ];
    for answer in answers {
        let receiver = Receiver::answering_once(answer).await;
        let got = post(&receiver, LONG).await;
        assert_eq!(got, Err(AttemptError::BadResponse(ResponseFault::Malformed)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(40 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(101));
    let reason = format!("HTTP/1.1 200 {}\r\n\r\n", "O".repeat(40 * 1024));
    for answer in [large, many, reason] {
        let receiver = Receiver::answering_once(answer).await;
        assert_eq!(post(&receiver, LONG).await, Err(AttemptError::BadResponse(ResponseFault::HeadTooLarge)));
    }
    let (receiver, mut ended) = endless("HTTP/1.1 200 OK\r\nX: ", &[b'a'; 1024]).await;
    assert_eq!(post(&receiver, LONG).await, Err(AttemptError::BadResponse(ResponseFault::HeadTooLarge)));
    ended.recv().await.expect("the receiver saw the connection end");
    let fits = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: a\r\n".repeat(99));
    assert_eq!(post(&Receiver::answering_once(fits).await, LONG).await.expect("100 fields").status, 200);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let trap = Receiver::answering(ok("trapped")).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://127.0.0.1:{}/", trap.port);
        let answer = format!("HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let receiver = Receiver::answering(answer).await;
        let answer = post(&receiver, LONG).await.expect("answered");
        assert_eq!((answer.status, answer.is_success()), (status, false));
    }
    assert_eq!(trap.connections(), 0);
}

#[tokio::test]
async fn a_compressed_body_is_kept_as_it_came() {
    // A gzip member (RFC 1952) that unpacks to a thousand zero bytes.
    let bomb = hex::decode("1f8b080000000000020363601805a360140c77000080170b06e8030000").expect("hex");
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len()).into_bytes();
    answer.extend_from_slice(&bomb);
    let receiver = Receiver::answering(answer).await;
    let answer = post(&receiver, LONG).await.expect("answered");
    assert_eq!(&answer.body_preview[..], &bomb[..]);
}

#[tokio::test]
async fn answers_without_a_body_are_complete() {
    for head in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    ] {
        let receiver = Receiver::answering(head).await;
        let answer = post(&receiver, LONG).await.expect("answered");
        assert_eq!((answer.body_end, answer.body_preview.len()), (BodyEnd::Complete, 0), "{head:?}");
    }
}

#[tokio::test]
async fn a_body_in_many_pieces_is_joined_up_to_the_limit() {
    let chunked = |chunks: usize| {
        let chunk = format!("3e8\r\n{}\r\n", "y".repeat(1000));
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\nTrailer: x\r\n\r\n", chunk.repeat(chunks))
    };
    let answer = post(&Receiver::answering(chunked(5)).await, LONG).await.expect("answered");
    assert_eq!((answer.body_preview.len(), answer.body_end), (5000, BodyEnd::Complete));
    let answer = post(&Receiver::answering(chunked(70)).await, LONG).await.expect("answered");
    assert_eq!((answer.body_preview.len(), answer.body_end), (65_536, BodyEnd::Truncated));
    let receiver = Receiver::answering(ok(&"z".repeat(65_536))).await;
    let answer = post(&receiver, LONG).await.expect("answered");
    assert_eq!((answer.body_preview.len(), answer.body_end), (65_536, BodyEnd::Complete));
}

#[tokio::test]
async fn retry_after_is_read_as_seconds_or_as_a_date() {
    let rows = [
        ("Retry-After: 120", Some(120)),
        ("Retry-After: 0", Some(0)),
        ("Retry-After: 99999999999999999999999", Some(u64::from(u32::MAX))),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("Retry-After: Sun, 06 Nov 1994 08:51:37 GMT", None),
        ("Retry-After: -5", None),
        ("Retry-After: 1.5", None),
        ("Retry-After: soon", None),
        ("Retry-After:", None),
        ("X: y", None),
    ];
    for (fields, seconds) in rows {
        let receiver = Receiver::answering(format!("HTTP/1.1 503 Busy\r\n{fields}\r\nContent-Length: 0\r\n\r\n")).await;
        let answer = post(&receiver, LONG).await.expect("answered");
        assert_eq!(answer.retry_after, seconds.map(Duration::from_secs), "{fields}");
    }
}

#[tokio::test]
async fn a_get_asks_for_the_path_without_a_body_and_keeps_the_bounds() {
    let (asked, mut requests) = mpsc::unbounded_channel();
    let receiver = Receiver::start(move |mut stream| {
        let asked = asked.clone();
        async move {
            if let Some(request) = read_request(&mut stream).await {
                let _ = asked.send(String::from_utf8_lossy(&request).into_owned());
            }
            let _ = stream.write_all(ok(&"x".repeat(2_000)).as_bytes()).await;
        }
    })
    .await;
    let limits = Limits { body_preview_bytes: 1_000, ..Limits::default() };
    let answer = client_with(limits).get(&receiver.target(), HeaderMap::new(), LONG).await.expect("an answer");
    assert_eq!((answer.status, answer.body_preview.len(), answer.body_end), (200, 1_000, BodyEnd::Truncated));
    let request = requests.recv().await.expect("a request");
    assert!(request.starts_with("GET /hook?a=1 HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"), "{request}");
    assert!(!request.to_ascii_lowercase().contains("transfer-encoding"), "{request}");
}
