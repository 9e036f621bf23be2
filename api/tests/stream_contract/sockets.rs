//! Over real sockets: clients that do not read, that go away, and that speak HTTP in other ways.

use std::time::Duration;

use api::stream::serve;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::harness::{ENGINES, Engine, PATIENCE, Socket, World, ids, request, until};

fn impatient() -> serve::Config {
    serve::Config { stall_seconds_max: 1, stream_send_buffer_bytes: 4_096, ..serve::Config::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_and_harms_nobody() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let address = world.listen(impatient()).await;
        let mut stalled = vec![];
        for _ in 0..20 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4_096).unwrap();
            let mut socket = socket.connect(address).await.unwrap();
            socket.write_all(request(&world.mailbox_key, "/mailbox/events", None).as_bytes()).await.unwrap();
            stalled.push(Socket::read_head(socket).await);
        }
        world.until_open(20).await;
        let mut live = Socket::open(address, &world.mailbox_key, "/mailbox/events", None).await;
        // Each reads one event, so that it knows where it is to go on however little the kernel keeps for it, and stops.
        let first = world.receive().await.to_string();
        for client in stalled.iter_mut().chain([&mut live]) {
            assert_eq!(client.next().await.unwrap().id, first);
        }
        let mut reference = vec![first];
        while reference.len() < 60 {
            let raw = format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(12_000));
            reference.push(world.receive_raw(0, false, raw.into()).await.to_string());
            let event = live.next().await.unwrap();
            assert_eq!(event.id, *reference.last().unwrap());
        }
        world.until_open(1).await;
        // What a cut client got is a beginning of the whole, and it is resumed like any other.
        let mut client = stalled.pop().unwrap();
        let mut seen = vec![reference[0].clone()];
        while let Some(event) = client.next().await {
            seen.push(event.id);
        }
        assert!(!client.ended && seen.len() < 60, "it was cut in the middle, after {}", seen.len());
        assert_eq!(seen, reference[..seen.len()]);
        let last = client.parser.last_event_id.clone();
        let mut again = Socket::open(address, &world.mailbox_key, "/mailbox/events", Some(&last)).await;
        while seen.len() < 60 {
            seen.push(again.next().await.unwrap().id);
        }
        assert_eq!(seen, reference);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_cuts_even_a_client_that_does_not_read() {
    let world = World::on(Engine::Memory).await;
    let config =
        serve::Config { stall_seconds_max: 3_600, stream_send_buffer_bytes: 4_096, ..serve::Config::default() };
    let address = world.listen(config).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    socket.write_all(request(&world.mailbox_key, "/mailbox/events", None).as_bytes()).await.unwrap();
    world.until_open(1).await;
    for _ in 0..40 {
        world.receive_raw(0, false, format!("\r\n{}\r\n", "x".repeat(12_000)).into()).await;
    }
    world.submit(domain::api_key::RevokeKey { key: world.mailbox_key.minted.key.clone(), mailbox: None }).await;
    let revoked_at = std::time::Instant::now();
    world.until_open(0).await;
    assert!(revoked_at.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_frees_its_place_at_once() {
    let world = World::on(Engine::Memory).await;
    let address = world.listen(serve::Config::default()).await;
    let mut clients = vec![];
    for _ in 0..50 {
        clients.push(Socket::open(address, &world.mailbox_key, "/mailbox/events?ping=300", None).await);
    }
    assert_eq!(world.streams.open(), 50);
    clients.truncate(10);
    world.until_open(10).await;
    drop(clients);
    world.until_open(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_everything_in_order() {
    for engine in ENGINES {
        let small = api::stream::Config { window_bytes: 8_192, chunk_bytes: 4_096, ..super::harness::config() };
        let world = World::with(engine, small).await;
        let address = world.listen(serve::Config { stream_send_buffer_bytes: 4_096, ..serve::Config::default() }).await;
        let mut slow = Socket::open(address, &world.mailbox_key, "/mailbox/events", None).await;
        let mut reference = vec![];
        for _ in 0..300 {
            reference.push(world.receive().await.to_string());
        }
        let mut seen = vec![];
        while seen.len() < reference.len() {
            seen.push(slow.next().await.unwrap().id);
        }
        assert_eq!(seen, reference);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_on_a_connection_that_was_used_before_loses_no_earlier_answer() {
    let world = World::on(Engine::Memory).await;
    let address = world.listen(serve::Config::default()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    // Both requests in one segment: the second is there before the first is answered.
    let first = request(&world.team_key, "/events?limit=100", None);
    let both = format!("{first}{}", request(&world.mailbox_key, "/mailbox/events", None));
    socket.write_all(both.as_bytes()).await.unwrap();
    let mut bytes = vec![];
    let head_end = loop {
        assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let length =
        head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned)).unwrap();
    let length: usize = length.parse().unwrap();
    while bytes.len() < head_end + length {
        assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
    }
    let page: serde_json::Value = serde_json::from_slice(&bytes[head_end..head_end + length]).unwrap();
    assert_eq!(page["ok"], true);
    world.until_open(1).await;
    let id = world.receive().await.to_string();
    let text = async {
        while !String::from_utf8_lossy(&bytes).contains(&id) {
            assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
        }
        String::from_utf8(bytes[head_end + length..].to_vec()).unwrap()
    };
    let text = tokio::time::timeout(PATIENCE, text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_a_stream_is_sound() {
    let world = World::on(Engine::Memory).await;
    let address = world.listen(serve::Config::default()).await;
    let socket = Socket::open(address, &world.mailbox_key, "/mailbox/events", None).await;
    assert!(socket.head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(socket.headers["transfer-encoding"], "chunked");
    assert_eq!(socket.headers["connection"], "close");
    assert_eq!(socket.headers["content-type"], "text/event-stream");
    assert_eq!(socket.headers["cache-control"], "no-store");
    assert!(socket.headers["date"].ends_with(" GMT") && socket.headers["x-request-id"].starts_with("req_"));
    assert!(!socket.headers.contains_key("content-length"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_gets_the_stream_without_chunks() {
    let world = World::on(Engine::Memory).await;
    let address = world.listen(serve::Config::default()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let old = request(&world.mailbox_key, "/mailbox/events", None).replace("HTTP/1.1", "HTTP/1.0");
    socket.write_all(old.as_bytes()).await.unwrap();
    world.until_open(1).await;
    let id = world.receive().await.to_string();
    world.submit(domain::api_key::RevokeKey { key: world.mailbox_key.minted.key.clone(), mailbox: None }).await;
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, socket.read_to_string(&mut text)).await.unwrap().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("chunked"));
    assert!(body.starts_with(": open\nretry: "));
    // The event may or may not have left before the revocation; if so it is whole.
    assert!(
        body.contains("goodbye") && (!body.contains("event:") || body.contains(&format!("id: {id}\n\n"))),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_request_opens_nothing() {
    let world = World::on(Engine::Memory).await;
    let address = world.listen(serve::Config::default()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = request(&world.mailbox_key, "/mailbox/events", None).replacen("GET", "HEAD", 1);
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = [0; 12];
    socket.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 200");
    world.until_open(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_ends_streams_with_a_last_chunk() {
    let world = World::on(Engine::Memory).await;
    let address = world.listen(serve::Config::default()).await;
    let mut client = Socket::open(address, &world.mailbox_key, "/mailbox/events", None).await;
    let id = world.receive().await.to_string();
    assert_eq!(client.next().await.unwrap().id, id);
    world.streams.shut_down();
    assert!(client.next().await.is_none());
    assert!(client.ended, "the last chunk says that nothing is missing");
    until(|| world.streams.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_come_back_at_once_and_catch_up() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let address = world.listen(serve::Config::default()).await;
        let mut last = world.head_id().await.to_string();
        for _ in 0..2 {
            let mut reference = vec![];
            for _ in 0..30 {
                reference.push(world.receive().await.to_string());
            }
            let mut clients = tokio::task::JoinSet::new();
            for n in 0..200 {
                let (last, key) =
                    (last.clone(), if n % 2 == 0 { world.mailbox_key.clone() } else { world.team_key.clone() });
                let path = if n % 2 == 0 { "/mailbox/events" } else { "/events/stream" };
                clients.spawn(async move {
                    let mut client = Socket::open(address, &key, path, Some(&last)).await;
                    let mut events = vec![];
                    while events.len() < 30 {
                        events.push(client.next().await.unwrap());
                    }
                    ids(&events)
                });
            }
            for seen in clients.join_all().await {
                assert_eq!(seen, reference);
            }
            last = reference.last().unwrap().clone();
        }
    }
}
