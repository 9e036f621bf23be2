//! A byte of the log's file is changed at rest: the program says so and stops, or nothing that it vouches for is different.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};

use crate::harness::{Installation, report};

/// How many bytes are changed, one at a time; `POSTLOG_TEST_FLIPS` sets another number.
fn flips() -> u64 {
    std::env::var("POSTLOG_TEST_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(50)
}

/// Where a run begins; `POSTLOG_TEST_SEED` sets another number.
fn seed() -> u64 {
    std::env::var("POSTLOG_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Numbers that are as good as random and the same each time (SplitMix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What the log says: every event with all that is hashed, and its personal half.
async fn content(log: &Path) -> Result<Vec<(i64, String, Vec<u8>, Option<String>)>, sqlx::Error> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(log);
    let mut log = SqliteConnection::connect_with(&options).await?;
    let rows = sqlx::query_as(
        "SELECT e.position, e.facts, e.hash, p.json FROM events e
         LEFT JOIN personal p ON p.team_id = e.team_id AND p.position = e.position ORDER BY e.position",
    )
    .fetch_all(&mut log)
    .await;
    log.close().await?;
    rows
}

#[tokio::test]
async fn a_changed_byte_is_found_or_changes_nothing_that_is_vouched_for() {
    let installation = Installation::new();
    let server = installation.start();
    for n in 0..10 {
        server.mail("ann@example.com", "agent@postlog.test", &format!("mail {n}"), "x").await;
    }
    assert!(server.terminate());
    let log = installation.data().join("log.db");
    let sound = std::fs::read(&log).unwrap();
    let whole = content(&log).await.unwrap();
    let said = installation.run(&["verify"]);
    let (mut state, mut found) = (seed(), 0);
    for n in 0..flips() {
        let mut damaged = sound.clone();
        let at = usize::try_from(next(&mut state) % sound.len() as u64).unwrap();
        damaged[at] ^= u8::try_from(next(&mut state) % 255 + 1).unwrap();
        for beside in ["log.db-wal", "log.db-shm"] {
            let _ = std::fs::remove_file(installation.data().join(beside));
        }
        std::fs::write(&log, &damaged).unwrap();
        let output = installation.command(&["verify"]).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("POSTLOG_TEST_SEED={} flip {n} at octet {at}: {words}", seed());
        assert!(!words.contains("panicked"), "{what}");
        assert!(output.status.code().is_some(), "no signal ends it; {what}");
        if output.status.success() {
            assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{what}");
            assert_eq!(content(&log).await.unwrap(), whole, "{what}");
        } else {
            assert!(!words.trim().is_empty(), "it says why; {what}");
            found += 1;
        }
    }
    report(format_args!(
        "{} octets of a log of {} events changed one at a time: {found} found, {} in places that hold nothing of an event",
        flips(),
        whole.len(),
        flips() - found,
    ));
}
