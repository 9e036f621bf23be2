//! Power cuts, replayed: whichever 512-byte sectors of a commit's writes had reached the disk, everything that was
//! acknowledged before it is there, the commit itself is there whole or not at all, and the log opens.
//!
//! What the files held at the end of each commit is recorded. A commit ends with a flush, so that from one end to the next
//! only what differs between the two may be lost; what a checkpoint wrote into the database is certain only once the
//! write-ahead file starts over.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use domain::Actor;
use domain::api_key::{CreateTeamKey, Kind, Minted};
use domain::id::{BlobId, KeyId, TeamId};
use domain::permission::Preset;
use domain::team::{CreateTeam, Limits};
use eventlog::chain::Verifier;
use eventlog::sqlite::SqliteBackend;
use eventlog::{Allot, BlobStore, DirectoryKey, EventLog, Failpoints, MasterKey, Options, Point, Submission};

const SECTOR: usize = 512;
/// How long the head of a write-ahead file is.
const HEAD: usize = 32;
/// Commits that are recorded in one go.
const COMMITS: u32 = 60;
/// Of these every third is cut in the middle.
const STATES_PER_RUN: usize = 20;

/// How many states are tried; `POSTLOG_TEST_POWER_CUTS` sets another number.
fn states() -> usize {
    std::env::var("POSTLOG_TEST_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// Returns numbers without a pattern, the same in every run (splitmix64).
fn scattered(n: u64) -> u64 {
    let mut z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the files held at the end of a commit.
#[derive(Clone, Default)]
struct Files {
    database: Vec<u8>,
    wal: Vec<u8>,
}

impl Files {
    fn read(directory: &Path) -> Self {
        let read = |name: &str| std::fs::read(directory.join(name)).unwrap_or_default();
        Self { database: read("log.db"), wal: read("log.db-wal") }
    }

    /// Returns what the write-ahead file calls its present round.
    fn salt(&self) -> Option<&[u8]> {
        self.wal.get(16..24)
    }

    fn write(&self, directory: &Path) {
        std::fs::write(directory.join("log.db"), &self.database).unwrap();
        std::fs::write(directory.join("log.db-wal"), &self.wal).unwrap();
    }
}

/// Returns the old content with some sectors of the new one, chosen at random; how many, too.
fn mixed(old: &[u8], new: &[u8], seed: u64) -> Vec<u8> {
    let share = scattered(seed) % 101;
    let mut left = old.to_vec();
    left.resize(old.len().max(new.len()), 0);
    for (n, sector) in new.chunks(SECTOR).enumerate() {
        if scattered(seed ^ (n as u64) << 20) % 100 < share {
            left[n * SECTOR..n * SECTOR + sector.len()].copy_from_slice(sector);
        }
    }
    left
}

/// Returns what a power cut leaves in the middle of a commit: `before` is the end of the last one, `earlier` that of the
/// one before it, `after` what this one would have ended with.
fn cut(earlier: &Files, before: &Files, after: &Files, seed: u64) -> Files {
    let started_over = before.salt() != after.salt();
    let mut from = before.wal.clone();
    if started_over {
        // The head of a file that starts over is flushed before anything else of it is written.
        from[..HEAD].copy_from_slice(&after.wal[..HEAD]);
    }
    let wal = mixed(&from, &after.wal, seed);
    let database = if started_over {
        // Only after the database was flushed.
        after.database.clone()
    } else if earlier.salt() == before.salt() {
        mixed(&earlier.database, &before.database, seed ^ 1)
    } else {
        before.database.clone()
    };
    Files { database, wal }
}

fn team() -> TeamId {
    TeamId::new(1, [1; 9])
}

/// Returns what makes an id the n-th.
fn random(n: u32) -> [u8; 9] {
    let mut random = [0; 9];
    random[..4].copy_from_slice(&n.to_be_bytes());
    random
}

fn minted(n: u32) -> Minted {
    let (prefix, suffix) = ("smx_inf_ab".into(), "wxyz".into());
    Minted { key: KeyId::new(1, random(n)), lookup: format!("{n:064x}"), prefix, suffix }
}

async fn open(directory: &Path, failpoints: Failpoints) -> EventLog {
    let backend = SqliteBackend::open_reserving(&directory.join("log.db"), 1 << 20).await.unwrap();
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
    EventLog::open(Arc::new(backend.with_failpoints(failpoints)), options).await.unwrap()
}

/// Appends one event with a body of a size of its own; returns its position.
async fn append(log: &EventLog, n: u32) -> u64 {
    let create = CreateTeamKey {
        minted: minted(n),
        kind: Kind::Infrastructure,
        name: "ci".to_owned(),
        permissions: Preset::Full.permissions(),
    };
    let bytes = usize::try_from(scattered(n.into()) % 40_000).unwrap();
    let id = BlobId::new(1, random(n));
    let body = log.stage_blob(&team(), &id, vec![b'x'; bytes].into()).await.unwrap();
    let submission = Submission::new(team(), 1, Actor::Operator, "req_1", create).with_blob(id, body);
    log.transact(submission).await.unwrap().done().unwrap().records[0].position
}

/// What was recorded: by number of the commit, the files at its end and where the log ended.
type Recording = BTreeMap<u32, (Files, u64)>;

/// Makes commits, with checkpoints between some of them, and records the files at the end of each that is asked for.
async fn record(run: u64, wanted: impl Fn(u32) -> bool) -> Recording {
    let directory = tempfile::tempdir().unwrap();
    let ends: Arc<Mutex<Option<Files>>> = Arc::default();
    let (noted, at): (_, PathBuf) = (Arc::clone(&ends), directory.path().to_owned());
    let failpoints = Failpoints::observed(move |point| {
        if point == Point::AfterCommit {
            // The writer waits here: the write-ahead file stands still.
            *noted.lock().unwrap() = Some(Files::read(&at));
        }
    });
    let log = open(directory.path(), failpoints).await;
    let limits = Limits { active_keys: 1_000_000, ..Limits::default() };
    let create = CreateTeam { name: "Acme".into(), limits };
    log.transact(Submission::new(team(), 1, Actor::Operator, "req_1", create)).await.unwrap();
    let checkpointer = rusqlite::Connection::open(directory.path().join("log.db")).unwrap();
    let mut recording = Recording::new();
    for n in 0..COMMITS {
        if scattered(run ^ u64::from(n) << 8).is_multiple_of(4) {
            checkpointer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        }
        let position = append(&log, n).await;
        let files = ends.lock().unwrap().take().unwrap();
        if wanted(n) {
            recording.insert(n, (files, position));
        }
    }
    drop(checkpointer);
    log.close().await;
    recording
}

/// Opens what a power cut has left; returns where the log ends, or why it is not whole.
async fn opened(files: &Files) -> Result<u64, String> {
    let directory = tempfile::tempdir().unwrap();
    files.write(directory.path());
    let log = open(directory.path(), Failpoints::default()).await;
    let mut verifier = Verifier::new(team());
    let records = log.read_stored(&team(), 0, 1_000_000).await.map_err(|e| e.to_string())?;
    for record in &records {
        verifier.next(record).map_err(|e| e.to_string())?;
    }
    verifier.end(&log.head(&team()).await.unwrap()).map_err(|e| e.to_string())?;
    for n in 0..u32::try_from(records.len() - 1).unwrap() {
        let entry = log.find(&DirectoryKey::KeyLookup(minted(n).lookup)).await.map_err(|e| e.to_string())?;
        let body = log.blob(&team(), &BlobId::new(1, random(n))).await.map_err(|e| e.to_string())?;
        if entry.is_none() || body.is_none_or(|body| body.iter().any(|byte| *byte != b'x')) {
            return Err(format!("event {n} came without what belongs to it"));
        }
    }
    let end = verifier.verified().0;
    // And the log goes on.
    assert_eq!(append(&log, 1_000_000).await, end + 1);
    log.close().await;
    Ok(end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_in_the_middle_of_a_commit_loses_nothing_that_was_acknowledged() {
    let (mut tried, mut whole, mut restarts) = (0, 0, 0);
    for run in 0.. {
        if tried >= states() {
            break;
        }
        let recording = record(run, |_| true).await;
        for state in 0..STATES_PER_RUN.min(states() - tried) {
            let n = 2 + 3 * u32::try_from(state).unwrap() % (COMMITS - 2);
            let (earlier, before, after) = (&recording[&(n - 2)], &recording[&(n - 1)], &recording[&n]);
            let seed = run << 32 | u64::from(n);
            let left = cut(&earlier.0, &before.0, &after.0, seed);
            let end = opened(&left).await.unwrap_or_else(|why| panic!("run {run}, commit {n}: {why}"));
            assert!((before.1..=after.1).contains(&end), "run {run}, commit {n}: {end} of {}", before.1);
            tried += 1;
            whole += u32::from(end == after.1);
            restarts += u32::from(before.0.salt() != after.0.salt());
        }
    }
    report(format_args!(
        "{tried} power cuts in the middle of commits: lost 0; {whole} of these commits were whole, {restarts} began the \
         write-ahead file anew; every log opened"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_answered_without_a_flush_would_be_noticed() {
    let recording = record(77, |_| true).await;
    let mut lost = 0;
    for n in (3..COMMITS).step_by(3) {
        // As if the last commit but one had not been flushed either.
        let (earlier, before, after) = (&recording[&(n - 3)], &recording[&(n - 2)], &recording[&n]);
        if before.0.salt() != after.0.salt() {
            continue;
        }
        let left = cut(&earlier.0, &before.0, &after.0, u64::from(n));
        lost += u32::from(opened(&left).await.map_or(true, |end| end < recording[&(n - 1)].1));
    }
    assert!(lost > 0);
}

/// Shows a line whether or not the output of tests is captured.
fn report(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
