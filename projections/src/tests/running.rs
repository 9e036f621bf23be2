//! The runner: following, poison, versions, several nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::Event;
use domain::id::{Position, TeamId};
use eventlog::{EventLog, Recorded};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::history::{Op, Story, told};
use super::world::memory_log;
use crate::db::{Db, Tx};
use crate::table::Kind::Int;
use crate::table::{Existing, Rows, Table, cells};
use crate::{ALL, Error, Projection, Runner, Views, audit, messages, webhooks};

const WAIT: Duration = Duration::from_secs(30);

struct Running {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), Error>>,
}

async fn start(log: &EventLog, views: &Views) -> Running {
    let stop = CancellationToken::new();
    let runner = Runner::new(log.clone(), views.clone());
    let mut ready = runner.ready();
    let mut tasks = JoinSet::new();
    tasks.spawn(runner.run(stop.clone()));
    ready.wait_for(|ready| *ready).await.unwrap();
    Running { stop, tasks }
}

impl Running {
    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_reader_sees_what_it_wrote() {
    let log = memory_log().await;
    let views = Views::memory().await.unwrap();
    let running = start(&log, &views).await;
    let mut story = Story::begin(&log, 1).await;
    story.tell(&log, &Op::CreateWebhook(0, true), 1).await;
    let head = log.head(&story.team).await.unwrap().position;
    assert!(views.wait_for(&story.team, head, WAIT).await);
    assert_eq!(webhooks::of_team(&views, &story.team).await.unwrap().len(), 1);
    assert!(!views.wait_for(&story.team, head + 1, Duration::from_millis(20)).await, "there is no such position yet");
    running.stop().await;
}

#[tokio::test]
async fn a_runner_that_starts_late_catches_up_before_it_is_ready() {
    let log = memory_log().await;
    let stories = [told(&log, 1, &[]).await, told(&log, 2, &[(Op::Open(1), 1)]).await];
    let views = Views::memory().await.unwrap();
    let running = start(&log, &views).await;
    for story in &stories {
        assert_eq!(views.position(&story.team).await.unwrap(), log.head(&story.team).await.unwrap().position);
    }
    running.stop().await;
    // Again, over views that are complete already.
    start(&log, &views).await.stop().await;
}

#[tokio::test]
async fn two_runners_over_the_same_views_apply_each_event_once() {
    let log = memory_log().await;
    let views = Views::memory().await.unwrap();
    let (a, b) = (start(&log, &views).await, start(&log, &views).await);
    let mut story = Story::begin(&log, 1).await;
    for n in 0..40 {
        let receive = Op::Receive { message: n, thread: n % 4, subject: 1, refers_to: 0, spam: false, attachments: 0 };
        story.tell(&log, &receive, 1).await;
    }
    let head = log.head(&story.team).await.unwrap().position;
    assert!(views.wait_for(&story.team, head, WAIT).await);
    let events = audit::list(&views, &story.team, &Default::default(), &crate::Page::first(1_000)).await.unwrap();
    assert_eq!(u64::try_from(events.rows.len()).unwrap(), head);
    assert_eq!(views.parked().await.unwrap(), []);
    a.stop().await;
    b.stop().await;
}

/// Counts mailboxes and cannot bear webhooks unless it is healed.
struct Touchy;

static HEALED: AtomicBool = AtomicBool::new(false);
const COUNTS: Table = Table { name: "touchy", key: &[("position", Int)], rest: &[] };

#[async_trait::async_trait]
impl Projection for Touchy {
    fn name(&self) -> &'static str {
        "touchy"
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE touchy (team_id TEXT NOT NULL, position BIGINT NOT NULL, PRIMARY KEY (team_id, position));"
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&COUNTS]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut rows = Rows::new();
        for record in events {
            rows.push(cells![record.position]);
            if matches!(record.event, Event::Webhook(_)) && !HEALED.load(Ordering::SeqCst) {
                return Err(Error::BadCursor);
            }
        }
        COUNTS.insert(tx, team, rows, Existing::Refuse).await
    }
}

static WITH_TOUCHY: &[&dyn Projection] = &[&messages::Messages, &Touchy, &webhooks::Webhooks];

async fn parked_is(views: &Views, many: usize) -> Vec<crate::Parked> {
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        let parked = views.parked().await.unwrap();
        if parked.len() == many {
            return parked;
        }
        assert!(tokio::time::Instant::now() < deadline, "{parked:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_poison_event_parks_one_projection_of_one_team_until_it_can_be_folded() {
    let log = memory_log().await;
    let views = Views::over(Db::open_memory().await.unwrap(), WITH_TOUCHY).await.unwrap();
    let running = start(&log, &views).await;
    let (mut ill, mut well) = (Story::begin(&log, 1).await, Story::begin(&log, 2).await);
    ill.tell(&log, &Op::Rename(0, 1), 1).await;
    let before = log.head(&ill.team).await.unwrap().position;
    ill.tell(&log, &Op::CreateWebhook(0, true), 1).await;
    ill.tell(&log, &Op::Rename(0, 2), 1).await;
    well.tell(&log, &Op::Rename(0, 1), 1).await;
    let parked = parked_is(&views, 1).await;
    assert_eq!((&parked[0].team, parked[0].projection.as_str()), (&ill.team, "touchy"));
    assert_eq!((parked[0].position, parked[0].tries), (before, 5));
    assert!(parked[0].error.contains("cursor"), "{}", parked[0].error);
    // The others go on, and nobody waits for the one that stands still.
    for story in [&ill, &well] {
        let head = log.head(&story.team).await.unwrap().position;
        assert!(views.wait_for(&story.team, head, WAIT).await);
    }
    assert_eq!(views.dump(&ill.team).await.unwrap()["touchy"].len(), usize::try_from(before).unwrap());
    assert_eq!(webhooks::of_team(&views, &ill.team).await.unwrap().len(), 1);
    running.stop().await;

    // Still ill after a restart; then healed.
    let running = start(&log, &views).await;
    running.stop().await;
    HEALED.store(true, Ordering::SeqCst);
    let running = start(&log, &views).await;
    parked_is(&views, 0).await;
    let head = log.head(&ill.team).await.unwrap().position;
    let deadline = tokio::time::Instant::now() + WAIT;
    while views.dump(&ill.team).await.unwrap()["touchy"].len() < usize::try_from(head).unwrap() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    running.stop().await;
}

/// The audit log in another version.
struct NewAudit;

#[async_trait::async_trait]
impl Projection for NewAudit {
    fn name(&self) -> &'static str {
        audit::NAME
    }

    fn version(&self) -> i64 {
        2
    }

    fn schema(&self) -> &'static str {
        "CREATE TABLE audit_2 (team_id TEXT NOT NULL, position BIGINT NOT NULL, PRIMARY KEY (team_id, position));"
    }

    fn tables(&self) -> &'static [&'static Table] {
        const NEW: Table = Table { name: "audit_2", key: &[("position", Int)], rest: &[] };
        &[&NEW]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        let mut rows = Rows::new();
        events.iter().for_each(|record| rows.push(cells![record.position]));
        self.tables()[0].insert(tx, team, rows, Existing::Refuse).await
    }
}

static RENEWED: &[&dyn Projection] = &[&messages::Messages, &NewAudit];
static BEFORE: &[&dyn Projection] = &[&messages::Messages, &audit::Audit];

#[tokio::test]
async fn a_changed_projection_is_computed_anew_before_the_runner_is_ready_and_an_old_build_stands_by() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("views.db");
    let open = async |projections| {
        let db = Db::open_sqlite(&path, crate::db::Durability::Normal).await.unwrap();
        Views::over(db, projections).await.unwrap()
    };
    let log = memory_log().await;
    let story = told(&log, 1, &[(Op::Open(1), 1)]).await;
    let head: Position = log.head(&story.team).await.unwrap().position;
    let old = open(BEFORE).await;
    start(&log, &old).await.stop().await;
    let messages_before = old.dump(&story.team).await.unwrap()["folders"].clone();

    let new = open(RENEWED).await;
    assert_eq!(new.position(&story.team).await.unwrap(), 0);
    start(&log, &new).await.stop().await;
    let dump = new.dump(&story.team).await.unwrap();
    assert_eq!(dump["audit_2"].len(), usize::try_from(head).unwrap());
    assert_eq!(dump["folders"], messages_before);

    // The old build must not write into tables it does not understand.
    let mut tx = old.db().begin().await.unwrap();
    let refused = crate::views::lock_cursors(&mut tx, &story.team, BEFORE).await;
    assert!(matches!(refused, Err(Error::Superseded { projection: "audit" })), "{refused:?}");
    tx.rollback().await.unwrap();
    old.close().await;
    new.close().await;
}

#[tokio::test]
async fn views_in_a_file_go_on_where_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("views.db");
    let log = memory_log().await;
    let mut story = told(&log, 1, &[(Op::Open(1), 1)]).await;
    let views = Views::open_sqlite(&path).await.unwrap();
    start(&log, &views).await.stop().await;
    let before = views.dump(&story.team).await.unwrap();
    views.close().await;
    let views = Views::open_sqlite(&path).await.unwrap();
    assert_eq!(views.dump(&story.team).await.unwrap(), before);
    story.tell(&log, &Op::Open(2), 1).await;
    start(&log, &views).await.stop().await;
    assert_eq!(views.position(&story.team).await.unwrap(), log.head(&story.team).await.unwrap().position);
    assert_eq!(views.projections().len(), ALL.len());
    views.close().await;
}

#[tokio::test]
async fn after_a_restore_of_the_log_nothing_of_the_lost_future_is_left() {
    let views = Views::memory().await.unwrap();
    let log = memory_log().await;
    let story = told(&log, 1, &[(Op::Open(1), 1), (Op::Open(2), 1)]).await;
    start(&log, &views).await.stop().await;
    // Another log with fewer events stands for the one that was restored; its epoch is the next one.
    let restored = memory_log().await;
    told(&restored, 1, &[(Op::CreateWebhook(0, true), 1)]).await;
    views.begin_epoch(log.epoch()).await.unwrap();
    assert_eq!(views.position(&story.team).await.unwrap(), log.head(&story.team).await.unwrap().position);
    views.begin_epoch(log.epoch() + 1).await.unwrap();
    assert_eq!(views.position(&story.team).await.unwrap(), 0);
    super::world::apply(&restored, &views, &story.team, &[1_000], Position::MAX).await;
    let fresh = Views::memory().await.unwrap();
    super::world::apply(&restored, &fresh, &story.team, &[1_000], Position::MAX).await;
    assert_eq!(views.dump(&story.team).await.unwrap(), fresh.dump(&story.team).await.unwrap());
}
