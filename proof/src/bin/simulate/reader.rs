//! A client of an event stream (WHATWG HTML, section 9.2.6) that is cut now and then and resumes by the last id it saw.

use std::time::Duration;

use domain::id::{EventId, Position};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use turmoil::net::TcpStream;

use crate::ground::Ground;
use crate::judge;
use crate::node::HTTP;
use crate::numbers::Numbers;
use crate::plan::{NODES, quiet_at};
use crate::tally::Streamed;

/// How long a silent stream is kept: heartbeats come every ten seconds.
const SILENCE_MAX: Duration = Duration::from_secs(13);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Which stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What arrives in the first mailbox.
    Mailbox,
    /// What happens in the team.
    Team,
}

impl Scope {
    /// Returns the name its events are kept under.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mailbox => "mailbox stream",
            Self::Team => "team stream",
        }
    }
}

/// Reads until everything there is was read.
pub async fn run(ground: Ground, scope: Scope) -> turmoil::Result {
    let mut numbers = Numbers::new(ground.seed, 200 + scope as u64);
    let mut last = ground.begin;
    while !is_done(&ground, scope, last).await {
        let node = NODES[usize::try_from(numbers.below(2)).unwrap_or(0)];
        // While there are faults a connection is cut after a while; later it must do without.
        let is_quiet = crate::line::now() >= quiet_at(ground.seed);
        let life = if is_quiet { Duration::from_secs(600) } else { numbers.millis(300, 6_000) };
        ground.tally.sheet().readers.entry(scope.name().to_owned()).or_default().connections += 1;
        let mut opened = None;
        let ended = tokio::time::timeout(life, read(&ground, scope, node, &mut last, &mut opened)).await;
        if let Some(from) = opened {
            let streamed = Streamed { from, to: crate::line::now(), last };
            ground.tally.sheet().readers.entry(scope.name().to_owned()).or_default().streams.push(streamed);
        }
        let why = ended.unwrap_or_else(|_| "cuts".to_owned());
        ground.notes.add(|| format!("{}: {why} after {last}", scope.name()));
        tokio::time::sleep(numbers.millis(20, 400)).await;
    }
    Ok(())
}

async fn is_done(ground: &Ground, scope: Scope, last: Position) -> bool {
    let written = ground.tally.sheet().writers_left == 0;
    written && judge::expected(ground, scope).await.last().is_none_or(|end| last >= *end)
}

/// Reads one connection, and notes when its stream was open; returns why it ended.
async fn read(ground: &Ground, scope: Scope, node: &str, last: &mut Position, opened: &mut Option<Duration>) -> String {
    let Ok(Ok(mut tcp)) = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect((node, HTTP))).await else {
        return format!("{node} is not there");
    };
    let (path, key) = match scope {
        Scope::Mailbox => ("/mailbox/events", &ground.mailbox_key),
        Scope::Team => ("/events/stream", &ground.team_key),
    };
    let id = EventId::new(&ground.team, 1, *last);
    let secret = key.secret.expose_str();
    let request = format!(
        "GET /api/v1{path}?ping=10 HTTP/1.1\r\nHost: {node}\r\nAuthorization: Bearer {secret}\r\nLast-Event-ID: {id}\r\n\r\n"
    );
    if tcp.write_all(request.as_bytes()).await.is_err() {
        return "broke".to_owned();
    }
    let mut stream = Stream::default();
    let mut bytes = vec![0; 4_096];
    let mut heard_at = Instant::now();
    loop {
        match tokio::time::timeout_at(heard_at + SILENCE_MAX, tcp.read(&mut bytes)).await {
            Err(_) => return "is silent".to_owned(),
            Ok(Err(_) | Ok(0)) => return "ended".to_owned(),
            Ok(Ok(n)) => stream.feed(&bytes[..n]),
        }
        heard_at = Instant::now();
        if let Some(status) = stream.refused() {
            if status != 503 {
                breach(ground, format!("{} is refused with {status} by {node}", scope.name()));
            }
            return format!("refused with {status}");
        }
        if stream.status.is_some() {
            opened.get_or_insert_with(crate::line::now);
        }
        for event in std::mem::take(&mut stream.events) {
            take(ground, scope, &event, last);
        }
        if is_done(ground, scope, *last).await {
            return "has everything".to_owned();
        }
    }
}

fn breach(ground: &Ground, what: String) {
    ground.notes.add(|| format!("BREACH: {what}"));
    ground.tally.sheet().breaches.push(what);
}

fn take(ground: &Ground, scope: Scope, event: &Dispatched, last: &mut Position) {
    let Ok(id) = event.id.parse::<EventId>() else {
        return breach(ground, format!("{}: an event without an id: {event:?}", scope.name()));
    };
    if event.event_type == "sync_required" {
        breach(ground, format!("{}: told to start anew after {last}", scope.name()));
    } else {
        ground.notes.add(|| format!("{}: {}", scope.name(), id.position));
        ground.tally.sheet().readers.entry(scope.name().to_owned()).or_default().positions.push(id.position);
    }
    *last = id.position;
}

/// An event as a client dispatches it.
#[derive(Debug, Default)]
struct Dispatched {
    event_type: String,
    id: String,
}

/// An answer in pieces: its head, then chunks (RFC 9112 section 7.1), then lines.
#[derive(Default)]
struct Stream {
    raw: Vec<u8>,
    status: Option<u16>,
    /// What is left of the chunk at hand, with its line end.
    chunk_left: usize,
    line: Vec<u8>,
    event: Dispatched,
    has_data: bool,
    events: Vec<Dispatched>,
}

impl Stream {
    fn refused(&self) -> Option<u16> {
        self.status.filter(|status| *status != 200)
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        if self.status.is_none() {
            let Some(end) = self.raw.windows(4).position(|w| w == b"\r\n\r\n") else { return };
            let head = String::from_utf8_lossy(&self.raw[..end]).into_owned();
            self.status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).or(Some(0));
            self.raw.drain(..end + 4);
        }
        while self.step() {}
    }

    /// Goes on by a piece; returns whether there was one.
    fn step(&mut self) -> bool {
        if self.chunk_left == 0 {
            let Some(end) = self.raw.windows(2).position(|w| w == b"\r\n") else { return false };
            let size = std::str::from_utf8(&self.raw[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
            self.raw.drain(..end + 2);
            self.chunk_left = size.unwrap_or(0) + 2;
            return true;
        }
        let count = self.raw.len().min(self.chunk_left);
        // The last two octets end the chunk and are not of the stream.
        let (left, piece): (usize, Vec<u8>) = (self.chunk_left, self.raw.drain(..count).collect());
        self.chunk_left -= count;
        let data = left.saturating_sub(2).min(count);
        piece[..data].iter().for_each(|byte| self.take(*byte));
        count > 0
    }

    fn take(&mut self, byte: u8) {
        if byte != b'\n' {
            return self.line.push(byte);
        }
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.trim_start_matches(' ');
        match field {
            "" if line.is_empty() => {
                let event = std::mem::take(&mut self.event);
                self.event.id.clone_from(&event.id);
                if std::mem::take(&mut self.has_data) {
                    self.events.push(event);
                }
            }
            "event" => value.clone_into(&mut self.event.event_type),
            "id" => value.clone_into(&mut self.event.id),
            "data" => self.has_data = true,
            _ => {}
        }
    }
}
