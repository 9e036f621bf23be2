//! The barest program that writes the rows of an append durably: a thread with prepared statements, one commit for all
//! that waits.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// How many bytes of facts an event has.
pub const FACTS_BYTES: usize = 512;
/// How many bytes a sealed answer has.
pub const SEALED_BYTES: usize = 113;

/// One event to write.
pub struct Wish {
    /// Whose log it belongs to.
    pub team: String,
    /// What makes it different from all others.
    pub n: u64,
    /// Told after the commit.
    pub done: oneshot::Sender<()>,
}

const EVENT: &str = "INSERT INTO events (team_id, position, epoch, stream, stream_version, name, version, facts,
    personal_digest, actor, causation, correlation, at, hash)
    VALUES (?1, ?2, 1, ?3, 1, 'message.keywords_changed', 1, ?4, NULL, 'operator', NULL, 'req_bench', ?5, ?6)";
const ANSWER: &str = "INSERT INTO answers (team_id, scope, request_key, fingerprint, status, sealed, created_at)
    VALUES (?1, 'POST /messages', ?2, ?3, 201, ?4, ?5)";
const HEAD: &str = "INSERT INTO heads (team_id, epoch, position, hash, moved_at) VALUES (?1, 1, ?2, ?3, ?4)
    ON CONFLICT (team_id) DO UPDATE SET position = excluded.position, hash = excluded.hash, moved_at = excluded.moved_at";

/// Returns a copy of an empty database, with room for its write-ahead file as the log sets it aside.
pub fn beside(database: &std::path::Path) -> std::path::PathBuf {
    let (copy, room) = (database.with_file_name("bare.db"), database.with_file_name("bare.db-wal"));
    std::fs::copy(database, &copy).unwrap();
    std::fs::write(&room, vec![0; 64 << 20]).unwrap();
    std::fs::File::open(&room).unwrap().sync_all().unwrap();
    copy
}

/// Writes what is queued, at most 512 at once, and answers after the commit.
pub fn bare_loop(path: &std::path::Path, mut queue: mpsc::Receiver<Wish>) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")
        .unwrap();
    let mut event = connection.prepare(EVENT).unwrap();
    let mut answer = connection.prepare(ANSWER).unwrap();
    let mut head = connection.prepare(HEAD).unwrap();
    let mut begin = connection.prepare("BEGIN IMMEDIATE").unwrap();
    let mut commit = connection.prepare("COMMIT").unwrap();
    let (facts, sealed, now) = ("k".repeat(FACTS_BYTES), vec![7u8; SEALED_BYTES], 1_700_000_000_000_000i64);
    let mut heads = std::collections::HashMap::<String, i64>::new();
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < 512
            && let Ok(wish) = queue.try_recv()
        {
            batch.push(wish);
        }
        begin.execute([]).unwrap();
        let mut moved = std::collections::BTreeSet::new();
        for wish in &batch {
            let position = heads.entry(wish.team.clone()).or_default();
            *position += 1;
            let stream = format!("message/msg_{:024}", wish.n);
            event.execute(rusqlite::params![wish.team, *position, stream, facts, now, &[9u8; 32][..]]).unwrap();
            let key = format!("bench-{:016}", wish.n);
            answer.execute(rusqlite::params![wish.team, key, &[1u8; 32][..], sealed, now]).unwrap();
            moved.insert(wish.team.clone());
        }
        for team in moved {
            head.execute(rusqlite::params![team, heads[&team], &[9u8; 32][..], now]).unwrap();
        }
        commit.execute([]).unwrap();
        for wish in batch {
            let _ = wish.done.send(());
        }
    }
}

/// Copies the write-ahead log back as the log's own task does.
pub fn checkpoint(path: &std::path::Path, stop: &std::sync::mpsc::Receiver<()>) {
    let connection = rusqlite::Connection::open(path).unwrap();
    while stop.recv_timeout(Duration::from_millis(500)).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout)
    {
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    }
}
