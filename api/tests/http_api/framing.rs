//! Requests hidden in requests: whatever a proxy before us may have read otherwise, what is inside of a body stays inside, and
//! a connection whose framing was in doubt carries no further request.

use api::stream::serve::{Config, Server};
use axum::http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{Team, World};

const HIDDEN: &str = "hidden@a.test";

/// The request that must never be carried out.
fn hidden(key: &str) -> String {
    let body = format!("{{\"email\":\"{HIDDEN}\"}}");
    format!(
        "POST /api/v1/mailboxes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Returns all forms: a name and the octets.
fn forms(key: &str) -> Vec<(String, Vec<u8>)> {
    let hidden = hidden(key);
    let head = |path: &str, headers: &str| {
        format!(
            "POST /api/v1{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             {headers}\r\n\r\n"
        )
    };
    let mut forms: Vec<(String, String)> = vec![];
    // The inner end of chunks is followed by the hidden request, which the outer length covers.
    let after_chunks = format!("0\r\n\r\n{hidden}");
    let cl = format!("Content-Length: {}", after_chunks.len());
    for te in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding:chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: chunked\x00",
        "Transfer-Encoding: chunked;q=1",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding\r\n: chunked",
        "Transfer_Encoding: chunked",
        "\x00Transfer-Encoding: chunked",
        "Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
    ] {
        forms.push((format!("length, then {te:?}"), head("/mailboxes", &format!("{cl}\r\n{te}")) + &after_chunks));
        forms.push((format!("{te:?}, then length"), head("/mailboxes", &format!("{te}\r\n{cl}")) + &after_chunks));
    }
    // Lengths that readers disagree about: the shorter reading leaves the hidden request behind.
    let body = format!("{{}}{hidden}");
    let whole = body.len();
    for length in [
        format!("Content-Length: 2\r\nContent-Length: {whole}"),
        format!("Content-Length: {whole}\r\nContent-Length: 2"),
        format!("Content-Length: 2, {whole}"),
        "Content-Length: +2".to_owned(),
        "Content-Length: -2".to_owned(),
        "Content-Length: 0x2".to_owned(),
        "Content-Length: 2.0".to_owned(),
        "Content-Length: 2 2".to_owned(),
        "Content-Length: 2a".to_owned(),
        "Content-Length: 18446744073709551618".to_owned(),
        "Content-Length: ".to_owned(),
        "Content-Length : 2".to_owned(),
        format!("Content-Length: 2\r\n Content-Length: {whole}"),
        format!("Content-Length: 2\r\n {whole}"),
    ] {
        forms.push((format!("{length:?}"), head("/mailboxes", &length) + &body));
    }
    // Chunks that readers cut differently.
    let chunked = |body: &str| head("/mailboxes", "Transfer-Encoding: chunked") + body;
    for size in ["0x2", "-2", "+2", " 2", "FFFFFFFFFFFFFFFF2", "2_", "", "zz"] {
        forms.push((format!("a chunk of size {size:?}"), chunked(&format!("{size}\r\n{{}}\r\n0\r\n\r\n{hidden}"))));
    }
    forms.push(("a chunk without its end".to_owned(), chunked(&format!("2\r\n{{}}XX0\r\n\r\n{hidden}"))));
    forms.push((
        "a chunk's line ended by LF in an extension".to_owned(),
        chunked(&format!("2;a\nb\r\n{{}}\r\n{hidden}")),
    ));
    // A version that knows no chunks.
    let old = head("/mailboxes", "Transfer-Encoding: chunked\r\nConnection: keep-alive").replacen("1.1", "1.0", 1);
    forms.push(("chunks in HTTP/1.0".to_owned(), old + &after_chunks));
    // Bodies that nobody reads, because the request was refused before.
    let covered = format!("Content-Length: {}", hidden.len());
    forms.push(("a body of a path that is not".to_owned(), head("/nowhere", &covered) + &hidden));
    forms.push(("a body of a refused type".to_owned(), head("/mailboxes", &covered).replace("/json", "/x") + &hidden));
    forms.push(("a body without a key".to_owned(), head("/mailboxes", &covered).replace(key, "none") + &hidden));
    let long = head("/mailboxes", "Content-Length: 99999999999");
    forms.push(("a body that is too long".to_owned(), long + &hidden));
    for method in ["GET", "HEAD", "DELETE", "PUT", "OPTIONS", "TRACE", "CONNECT", "get", "POST\tX"] {
        let request = head("/me", &covered).replacen("POST", method, 1);
        forms.push((format!("a body of {method}"), request + &hidden));
    }
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA";
    forms.push(("an upgrade".to_owned(), head("/mailboxes", &format!("{upgrade}\r\n{covered}")) + &hidden));
    forms.push(("the preface of HTTP/2".to_owned(), format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{hidden}")));
    forms.push((
        "an expectation".to_owned(),
        head("/mailboxes", &format!("Expect: 100-continue\r\n{covered}")) + &hidden,
    ));
    forms.into_iter().map(|(name, octets)| (name, octets.into_bytes())).collect()
}

/// A request that ends the connection, and a text that only its answer holds.
const LAST: (&str, &str) = ("/mailboxes/availability?email=last-word@a.test", "last-word@a.test");

/// How long a server that says nothing is waited for: it waits for more of a body, or for another request.
const QUIET: std::time::Duration = std::time::Duration::from_millis(500);

/// Reads until the server closes, is silent for a while, or has said as much as asked for.
async fn listen(socket: &mut TcpStream, answer: &mut Vec<u8>, enough: impl Fn(&[u8]) -> bool) -> bool {
    let mut piece = [0; 4096];
    while !enough(answer) {
        match tokio::time::timeout(QUIET, socket.read(&mut piece)).await {
            Ok(Ok(0) | Err(_)) => return false,
            Ok(Ok(read)) => answer.extend_from_slice(&piece[..read]),
            Err(_) => return true,
        }
    }
    true
}

/// Returns whether the octets are one whole answer at least.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ").and_then(|n| n.parse().ok()));
    body.len() >= length.unwrap_or(0)
}

/// Says everything, hears the answer, and asks for one thing more on the same connection, which a request that was left behind
/// would be answered before. Returns all that was said.
async fn exchange(address: std::net::SocketAddr, octets: &[u8], key: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read everything.
    let _ = socket.write_all(octets).await;
    let mut answer = vec![];
    if listen(&mut socket, &mut answer, is_whole).await {
        let path = LAST.0;
        let last = format!(
            "GET /api/v1{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        );
        let _ = socket.write_all(last.as_bytes()).await;
        listen(&mut socket, &mut answer, |_| false).await;
    }
    String::from_utf8_lossy(&answer).into_owned()
}

async fn exists(world: &World, team: &Team, email: &str) -> bool {
    let list = world.get("/mailboxes").key(&team.root).send().await.data();
    list.as_array().unwrap().iter().any(|mailbox| mailbox["email"] == email)
}

#[tokio::test]
async fn what_is_hidden_in_a_body_is_never_carried_out() {
    let limits = api::RateLimits { infrastructure_requests: u32::MAX, ..api::RateLimits::default() };
    let world = World::with(api::Config { rate_limits: limits, ..api::Config::default() }).await;
    let team = world.team("a.test").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(Server::new(listener, world.router.clone(), Config::default()).run(stop.clone()));
    let forms = forms(&team.root);
    assert!(forms.len() >= 40, "{} forms", forms.len());
    for (name, octets) in &forms {
        let answer = exchange(address, octets, &team.root).await;
        let answers = answer.matches("HTTP/1.").count() - answer.matches("HTTP/1.1 100").count();
        let last = usize::from(answer.contains(LAST.1));
        assert!(answers - last <= 1, "{name}: {answers} answers: {answer}");
        assert!(!answer.contains(HIDDEN), "{name}: {answer}");
        assert!(!exists(&world, &team, HIDDEN).await, "{name}: it was carried out");
    }
    // Behind a request whose framing is in no doubt it is carried out: the forms fail for their framing and nothing else.
    let open = format!("GET /api/v1/me HTTP/1.1\r\nHost: a\r\n\r\n{}", hidden(&team.root));
    let answer = exchange(address, open.as_bytes(), &team.root).await;
    assert_eq!(answer.matches("HTTP/1.").count(), 3, "{answer}");
    assert!(answer.contains("HTTP/1.1 201") && answer.contains(LAST.1), "{answer}");
    assert!(exists(&world, &team, HIDDEN).await);
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    assert_eq!(world.call(Method::GET, "/me").key(&team.root).send().await.status, 200);
}

#[tokio::test]
async fn forwarded_addresses_count_only_from_peers_that_were_named() {
    for (trusted, expected) in [(vec![], None), (vec!["127.0.0.1".parse().unwrap()], Some("203.0.113.9"))] {
        let world = World::with(api::Config { trusted_proxies: trusted, ..api::Config::default() }).await;
        let team = world.team("a.test").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(Server::new(listener, world.router.clone(), Config::default()).run(stop.clone()));
        let request = hidden(&team.root).replace("Host: a", "Host: a\r\nX-Forwarded-For: 198.51.100.1, 203.0.113.9");
        let answer = exchange(address, request.as_bytes(), &team.root).await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        let records = world.app.log.read(&team.id, 0, 100).await.unwrap();
        let opened = records.iter().find(|record| record.event.encode().name == "mailbox.opened").unwrap();
        let shown = format!("{opened:?}");
        match expected {
            Some(ip) => assert!(shown.contains(ip), "{shown}"),
            None => assert!(!shown.contains("203.0.113.9") && !shown.contains("198.51.100.1"), "{shown}"),
        }
    }
}
