//! A log in memory and views over it, driven page by page.

use std::sync::Arc;

use domain::id::{Position, TeamId};
use domain::{Actor, Command};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Submission};

use crate::runner::TeamFaults;
use crate::{ALL, Runner, Views};

/// Returns a new log in memory.
pub async fn memory_log() -> EventLog {
    let allot = Allot::system();
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
    EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap()
}

/// Carries out a wish; a refusal is fine, it adds nothing.
pub async fn wish<C: Command>(log: &EventLog, team: &TeamId, at: i64, actor: Actor, command: C) {
    let submission = Submission::new(team.clone(), at, actor, "req_test", command).from_ip("198.51.100.7");
    let _ = log.transact(submission).await;
}

/// Applies pages of the given sizes in turn, the last one again and again, up to a position or the end of the log.
pub async fn apply(log: &EventLog, views: &Views, team: &TeamId, pages: &[usize], until: Position) {
    let runner = Runner::new(log.clone(), views.clone());
    let mut faults = TeamFaults::default();
    let mut sizes = pages.iter().copied().chain(std::iter::repeat(pages.last().copied().unwrap_or(1_000)));
    let head = log.head(team).await.unwrap().position.min(until);
    loop {
        let at = views.position(team).await.unwrap();
        if at >= head {
            break;
        }
        let left = usize::try_from(head - at).unwrap();
        let size = sizes.next().unwrap_or(1).clamp(1, left);
        runner.applier().page(team, ALL, size, &mut faults).await.unwrap();
        assert!(faults.is_empty(), "{:?}", views.parked().await);
    }
}
