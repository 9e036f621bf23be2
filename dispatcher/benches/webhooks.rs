//! Deliveries per second to a trivial receiver on loopback, the receiver's own ceiling beside it, and database writes
//! per delivery. Files as in production; receiver and reactor share the machine.
//!
//! `cargo bench -p dispatcher --bench webhooks [-- events]`
#![expect(clippy::disallowed_methods, reason = "receivers end with the runtime of the benchmark")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement prints, and may fail loudly")]

#[path = "../tests/support/reactor.rs"]
#[expect(dead_code, reason = "the stories use the rest")]
mod reactor;
#[path = "../tests/webhook/store_sqlite.rs"]
#[expect(dead_code, reason = "the stories use the rest")]
mod store;
#[path = "../tests/webhook/world.rs"]
#[expect(dead_code, reason = "the stories use the rest")]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dispatcher::egress::{HostTable, Target};
use dispatcher::queue::Queue;
use dispatcher::webhook::Config;
use domain::id::TeamId;
use futures_util::future::join_all;
use hyper::header::HeaderMap;
use projections::Views;
use projections::webhook_attempts::Work;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use store::Store;
use world::{NOW, World};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Answers every request with 200 and counts them.
async fn receiver() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&counted)));
        }
    });
    (port, count)
}

async fn answer(mut stream: TcpStream, count: Arc<AtomicU64>) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::with_capacity(8_192);
    loop {
        let head = buffer.windows(4).position(|w| w == b"\r\n\r\n");
        let complete = head.is_some_and(|head| {
            let text = std::str::from_utf8(&buffer[..head]).unwrap();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            buffer.len() >= head + 4 + length.parse::<usize>().unwrap()
        });
        if complete {
            buffer.clear();
            count.fetch_add(1, Ordering::Relaxed);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        } else if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// The client alone: as many requests as it can make on so many connections.
async fn ceiling(config: &Config, connections: usize) -> f64 {
    let (port, count) = receiver().await;
    let client = config.client(Arc::new(HostTable::default())).unwrap();
    let target = Target::parse(&format!("http://127.0.0.1:{port}/hook"), client.policy()).unwrap();
    let (started, time) = (Instant::now(), Duration::from_secs(3));
    let loops = (0..connections).map(|_| {
        let (client, target) = (client.clone(), target.clone());
        tokio::spawn(async move {
            while started.elapsed() < time {
                let body = Bytes::from(vec![b'x'; 550]);
                client.post(&target, HeaderMap::new(), body, Duration::from_secs(10)).await.unwrap();
            }
        })
    });
    join_all(loops).await;
    count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

async fn reactor(teams: usize, webhooks: usize, events: usize) {
    let directory = tempfile::tempdir().unwrap();
    let backend =
        eventlog::sqlite::SqliteBackend::open_reserving(&directory.path().join("log.db"), 64 << 20).await.unwrap();
    let work = Work::open_sqlite(&directory.path().join("work.db"), &[Queue::TABLES]).await.unwrap();
    let mut config = Config::default();
    config.targets.dangerous_allow_http_loopback = true;
    let views = Views::memory().await.unwrap();
    let world = World::over(Store { backend: Arc::new(backend), work, views }, config).await;
    let (port, count) = receiver().await;
    let mut names = vec![world.team.clone()];
    for _ in 1..teams {
        let team = TeamId::new(NOW, world.allot.random());
        world.create_team(&team).await;
        names.push(team);
    }
    let mut boxes = vec![];
    for team in &names {
        for n in 0..webhooks {
            world.webhook_at(team, &format!("http://127.0.0.1:{port}/{n}"), |_| {}).await;
        }
        for _ in 0..20 {
            boxes.push((team.clone(), world.mailbox_of(team).await));
        }
    }
    let mut last = std::collections::BTreeMap::new();
    for chunk in (0..events).collect::<Vec<_>>().chunks(256) {
        let appends = chunk.iter().map(|n| {
            let (team, mailbox) = &boxes[n % boxes.len()];
            let world = &world;
            async move { (team.clone(), world.receive_of(team, mailbox).await) }
        });
        for (team, position) in join_all(appends).await {
            let last = last.entry(team).or_insert(0);
            *last = position.max(*last);
        }
    }
    for (team, position) in last {
        assert!(world.views.wait_for(&team, position, Duration::from_secs(120)).await);
    }
    let deliveries = u64::try_from(events * webhooks).unwrap();
    let writes = world.queue.writes();
    let started = Instant::now();
    let running = world.start();
    while count.load(Ordering::Relaxed) < deliveries {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let elapsed = started.elapsed().as_secs_f64();
    running.stop().await;
    let writes = world.queue.writes() - writes;
    println!(
        "{teams:>3} teams x {webhooks} webhooks: {:>7.0} deliveries/s, {writes} writes for {deliveries} deliveries (1 per {:.0}), sent twice: {}",
        deliveries as f64 / elapsed,
        deliveries as f64 / writes as f64,
        count.load(Ordering::Relaxed) - deliveries,
    );
}

fn main() {
    let events = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(20_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = Config::default();
        config.targets.dangerous_allow_http_loopback = true;
        for connections in [6, 8, 16] {
            println!(
                "client alone, {connections:>2} connections: {:>7.0} requests/s",
                ceiling(&config, connections).await
            );
        }
        reactor(1, 1, events).await;
        reactor(8, 1, events).await;
        reactor(8, 3, events / 3).await;
    });
}
