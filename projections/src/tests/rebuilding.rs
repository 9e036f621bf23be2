//! Rebuild and replay on files.

use std::path::Path;

use domain::id::Position;

use super::history::{Op, told};
use super::world::{apply, memory_log};
use crate::db::{Db, Purpose};
use crate::{ALL, Error, Views, messages, rebuild, replay};

fn mails(count: u8) -> Vec<(Op, i64)> {
    let receive = |message| Op::Receive { message, thread: 0, subject: 1, refers_to: 0, spam: false, attachments: 0 };
    (0..count).map(|n| (receive(n), 1)).chain([(Op::Destroy(1), 1), (Op::Trash(0), 1)]).collect()
}

#[tokio::test]
async fn a_rebuild_of_a_file_leaves_nothing_behind_and_tells_how_far_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("views.db");
    // What a rebuild that was killed has left.
    std::fs::write(directory.path().join("views.db.rebuild-0"), b"no database").unwrap();
    let views = Views::open_sqlite(&path).await.unwrap();
    let log = memory_log().await;
    let (a, b) = (told(&log, 1, &mails(30)).await, told(&log, 2, &mails(3)).await);
    apply(&log, &views, &a.team, &[1_000], Position::MAX).await;
    apply(&log, &views, &b.team, &[5], 5).await;
    let mut seen = vec![];
    let events = rebuild(&views, &log, None, None, |progress| seen.push(progress.clone())).await.unwrap();
    let total = log.head(&a.team).await.unwrap().position + log.head(&b.team).await.unwrap().position;
    assert_eq!(events, total);
    assert_eq!(seen.last().map(|p| (p.events, p.total)), Some((total, total)));
    assert!(seen.is_sorted_by_key(|p| p.events));
    assert_eq!(views.position(&b.team).await.unwrap(), log.head(&b.team).await.unwrap().position);
    let fresh = Views::memory().await.unwrap();
    for team in [&a.team, &b.team] {
        apply(&log, &fresh, team, &[1_000], Position::MAX).await;
        assert_eq!(fresh.dump(team).await.unwrap(), views.dump(team).await.unwrap());
    }
    let mut left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.retain(|name| name.to_string_lossy().contains("rebuild") && !name.to_string_lossy().ends_with(".lock"));
    assert!(left.is_empty(), "{left:?}");
    views.close().await;
}

#[tokio::test]
async fn one_rebuild_runs_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("views.db");
    let (here, elsewhere) = (Views::open_sqlite(&path).await.unwrap(), Views::open_sqlite(&path).await.unwrap());
    let log = memory_log().await;
    told(&log, 1, &mails(3)).await;
    let mut refused = None;
    // Another process asks in the middle; files are locked per handle, so a second handle stands for it.
    rebuild(&here, &log, None, None, |_| {
        let lock = std::fs::File::open(directory.path().join("views.db.rebuild.lock")).unwrap();
        refused = Some(lock.try_lock().is_err());
    })
    .await
    .unwrap();
    assert_eq!(refused, Some(true));
    rebuild(&elsewhere, &log, None, None, |_| {}).await.unwrap();
    let unknown = rebuild(&here, &log, Some("horoscope"), None, |_| {}).await;
    assert!(matches!(unknown, Err(Error::UnknownProjection(_))));
    here.close().await;
    elsewhere.close().await;
}

async fn open_replay(path: &Path) -> Views {
    Views::over(Db::open_sqlite(path, Purpose::Views).await.unwrap(), ALL).await.unwrap()
}

#[tokio::test]
async fn a_replay_is_the_views_of_that_moment() {
    let directory = tempfile::tempdir().unwrap();
    let log = memory_log().await;
    let story = told(&log, 1, &mails(20)).await;
    let head = log.head(&story.team).await.unwrap().position;
    for until in [0, 1, 9, head] {
        let out = directory.path().join(format!("at-{until}.db"));
        assert_eq!(replay(&log, &story.team, until, &out, |_| {}).await.unwrap(), until);
        let then = Views::memory().await.unwrap();
        apply(&log, &then, &story.team, &[1_000], until).await;
        let replayed = open_replay(&out).await;
        assert_eq!(replayed.dump(&story.team).await.unwrap(), then.dump(&story.team).await.unwrap());
        assert_eq!(replayed.position(&story.team).await.unwrap(), until);
        let listed = messages::count(&replayed, &story.team, &story.mailbox(0), &Default::default()).await.unwrap();
        assert!(until < head || listed == 7, "{listed}");
        replayed.close().await;
        let again = replay(&log, &story.team, until, &out, |_| {}).await;
        assert!(matches!(again, Err(Error::File { .. })), "a file is never overwritten");
    }
    let beyond = replay(&log, &story.team, head + 1, &directory.path().join("x.db"), |_| {}).await;
    assert!(matches!(beyond, Err(Error::BeyondHead { .. })));
    assert!(!directory.path().join("x.db").exists());
}
