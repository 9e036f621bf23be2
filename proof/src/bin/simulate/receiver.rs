//! A receiver of webhooks that now and then refuses, hangs, breaks off or takes its time.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::time::Duration;

use domain::id::{EventId, Position};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;
use turmoil::net::{TcpListener, TcpStream};

use crate::fault::Fault;
use crate::ground::Ground;
use crate::numbers::Numbers;

/// Where deliveries are taken.
pub const PORT: u16 = 9_000;
/// From this attempt on a delivery is taken, so that every one comes to its end.
const SURE_FROM: u32 = 6;

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub position: Position,
    pub attempt: u32,
    /// Of the body.
    pub digest: u64,
    pub at: Duration,
}

/// What came in, and what was taken.
#[derive(Debug, Default)]
pub struct Received {
    pub requests: Vec<Request>,
    /// When each event was first answered with success.
    pub taken: BTreeMap<Position, Duration>,
}

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Take,
    TakeSlowly,
    Refuse,
    Hang,
    BreakOff,
}

fn manner(seed: u64, position: Position, attempt: u32) -> Manner {
    let mut numbers = Numbers::new(seed, (position << 8) ^ (u64::from(attempt) << 40) ^ 300);
    if attempt >= SURE_FROM {
        return Manner::Take;
    }
    match numbers.below(16) {
        0 | 1 => Manner::Refuse,
        2 => Manner::Hang,
        3 => Manner::BreakOff,
        4 | 5 => Manner::TakeSlowly,
        _ => Manner::Take,
    }
}

/// Takes deliveries for ever.
pub async fn run(ground: Ground) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let (tcp, _) = accepted?;
                connections.spawn(serve(ground.clone(), BufReader::new(tcp)));
            }
        }
    }
}

async fn serve(ground: Ground, mut tcp: BufReader<TcpStream>) -> io::Result<()> {
    while let Some((id, attempt, body)) = request(&mut tcp).await? {
        let position = id.position;
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let digest = hasher.finish();
        let manner = manner(ground.seed, position, attempt);
        ground.notes.add(|| format!("receiver: {position}, attempt {attempt}: {manner:?}"));
        let at = crate::line::now();
        ground.tally.sheet().received.requests.push(Request { position, attempt, digest, at });
        let lies = ground.fault == Some(Fault::RefusalsTakenForSuccess);
        let answer = match manner {
            Manner::BreakOff => return Ok(()),
            Manner::Hang => {
                tokio::time::sleep(Duration::from_secs(20)).await;
                return Ok(());
            }
            Manner::Refuse => {
                if lies {
                    "204 No Content"
                } else {
                    "500 Internal Server Error"
                }
            }
            Manner::TakeSlowly => {
                tokio::time::sleep(Duration::from_millis(1 + position * 37 % 900)).await;
                "200 OK"
            }
            Manner::Take => "200 OK",
        };
        if answer.starts_with("200") {
            ground.tally.sheet().received.taken.entry(position).or_insert_with(crate::line::now);
        }
        tcp.get_mut().write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// Returns the event, the number of the attempt and the body of the next request; `None` at the end.
async fn request(tcp: &mut BufReader<TcpStream>) -> io::Result<Option<(EventId, u32, Vec<u8>)>> {
    let (mut id, mut attempt, mut length) = (None, 0, 0);
    loop {
        let mut line = String::new();
        if tcp.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "x-sendmux-delivery-attempt" => attempt = value.parse().unwrap_or(0),
            "x-sendmux-event-id" => id = value.parse().ok(),
            "" => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    tcp.read_exact(&mut body).await?;
    Ok(id.map(|id| (id, attempt, body)))
}
