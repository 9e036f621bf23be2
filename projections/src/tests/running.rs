//! The runner: following, poison, versions, several nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::Event;
use domain::id::{Position, TeamId};
use eventlog::{EventLog, Recorded};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::history::{Op, Story, told};
use super::properties::Place;
use super::world::memory_log;
use crate::db::Tx;
use crate::table::Kind::Int;
use crate::table::{Existing, Rows, Table, cells};
use crate::views::lock_cursors;
use crate::{ALL, Error, Projection, Runner, Views, audit, messages, webhooks};

const WAIT: Duration = Duration::from_secs(30);

/// Stamps tests of views at any place: in a SQLite file, and in a PostgreSQL database of their own.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                let directory = tempfile::tempdir().unwrap();
                super::$name(super::Place::File(&directory.path().join("views.db"))).await;
            })*
        }

        mod on_postgresql {
            $(#[tokio::test]
            async fn $name() {
                let cluster = eventlog::testing::Cluster::shared();
                let url = cluster.url(&cluster.create_database(None).await);
                super::$name(super::Place::Database(&url)).await;
            })*
        }
    };
}

on_both_engines!(
    a_reader_sees_what_it_wrote,
    who_waits_ends_the_rest_of_a_runner,
    a_runner_that_starts_late_catches_up_before_it_is_ready,
    two_runners_over_the_same_views_apply_each_event_once,
    a_poison_event_parks_one_projection_of_one_team_until_it_can_be_folded,
    a_changed_projection_is_computed_anew_before_the_runner_is_ready_and_an_old_build_stands_by,
    views_go_on_where_they_were,
    after_a_restore_of_the_log_nothing_of_the_lost_future_is_left,
    nodes_that_start_at_once_make_the_tables_once,
);

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

async fn a_reader_sees_what_it_wrote(place: Place<'_>) {
    let log = memory_log().await;
    let views = place.open(ALL).await;
    let running = start(&log, &views).await;
    let mut story = Story::begin(&log, 1).await;
    story.tell(&log, &Op::CreateWebhook(0, true), 1).await;
    let head = log.head(&story.team).await.unwrap().position;
    assert!(views.wait_for(&story.team, head, WAIT).await);
    assert_eq!(webhooks::of_team(&views, &story.team).await.unwrap().len(), 1);
    assert!(!views.wait_for(&story.team, head + 1, Duration::from_millis(20)).await, "there is no such position yet");
    running.stop().await;
}

async fn who_waits_ends_the_rest_of_a_runner(place: Place<'_>) {
    let log = memory_log().await;
    let views = place.open(ALL).await;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    // So long that only somebody who waits can end it.
    let runner = Runner::new(log.clone(), views.clone()).resting(Duration::from_secs(3_600));
    tasks.spawn(runner.run(stop.clone()));
    let mut stories = [Story::begin(&log, 1).await, Story::begin(&log, 2).await];
    for n in 0..10 {
        for story in &mut stories {
            story.tell(&log, &Op::CreateWebhook(n, true), 1).await;
        }
        for story in &stories {
            let head = log.head(&story.team).await.unwrap().position;
            assert!(views.wait_for(&story.team, head, WAIT).await, "{n}");
        }
    }
    Running { stop, tasks }.stop().await;
}

#[tokio::test]
async fn a_team_that_another_node_has_holds_up_no_other() {
    let cluster = eventlog::testing::Cluster::shared();
    let url = cluster.url(&cluster.create_database(None).await);
    let log = memory_log().await;
    let views = Place::Database(&url).open(ALL).await;
    let running = start(&log, &views).await;
    let (mut held, mut other) = (Story::begin(&log, 1).await, Story::begin(&log, 2).await);
    let head = async |story: &Story| log.head(&story.team).await.unwrap().position;
    assert!(views.wait_for(&held.team, head(&held).await, WAIT).await);
    let mut node = views.db().begin().await.unwrap();
    lock_cursors(&mut node, &held.team, ALL).await.unwrap();
    for n in 0..10 {
        held.tell(&log, &Op::CreateWebhook(n, true), 1).await;
        other.tell(&log, &Op::CreateWebhook(n, true), 1).await;
        assert!(views.wait_for(&other.team, head(&other).await, WAIT).await, "{n}");
    }
    assert_ne!(views.position(&held.team).await.unwrap(), head(&held).await);
    node.rollback().await.unwrap();
    assert!(views.wait_for(&held.team, head(&held).await, WAIT).await);
    running.stop().await;
}

async fn a_runner_that_starts_late_catches_up_before_it_is_ready(place: Place<'_>) {
    let log = memory_log().await;
    let stories = [told(&log, 1, &[]).await, told(&log, 2, &[(Op::Open(1), 1)]).await];
    let views = place.open(ALL).await;
    let running = start(&log, &views).await;
    for story in &stories {
        assert_eq!(views.position(&story.team).await.unwrap(), log.head(&story.team).await.unwrap().position);
    }
    running.stop().await;
    // Again, over views that are complete already.
    start(&log, &views).await.stop().await;
}

async fn two_runners_over_the_same_views_apply_each_event_once(place: Place<'_>) {
    let log = memory_log().await;
    let views = place.open(ALL).await;
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

/// Counts events and cannot bear webhooks unless it is healed. One for each engine.
struct Touchy(AtomicBool);

static ON_SQLITE: Touchy = Touchy(AtomicBool::new(false));
static ON_POSTGRESQL: Touchy = Touchy(AtomicBool::new(false));
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
            if matches!(record.event, Event::Webhook(_)) && !self.0.load(Ordering::SeqCst) {
                return Err(Error::BadCursor);
            }
        }
        COUNTS.insert(tx, team, rows, Existing::Refuse).await
    }
}

static WITH_TOUCHY: [&[&dyn Projection]; 2] = [
    &[&messages::Messages, &ON_SQLITE, &webhooks::Webhooks],
    &[&messages::Messages, &ON_POSTGRESQL, &webhooks::Webhooks],
];

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

async fn a_poison_event_parks_one_projection_of_one_team_until_it_can_be_folded(place: Place<'_>) {
    let log = memory_log().await;
    let (touchy, projections) = match place {
        Place::Database(_) => (&ON_POSTGRESQL, WITH_TOUCHY[1]),
        _ => (&ON_SQLITE, WITH_TOUCHY[0]),
    };
    let views = place.open(projections).await;
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
    touchy.0.store(true, Ordering::SeqCst);
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

async fn a_changed_projection_is_computed_anew_before_the_runner_is_ready_and_an_old_build_stands_by(place: Place<'_>) {
    let log = memory_log().await;
    let story = told(&log, 1, &[(Op::Open(1), 1)]).await;
    let head: Position = log.head(&story.team).await.unwrap().position;
    let old = place.open(BEFORE).await;
    start(&log, &old).await.stop().await;
    let messages_before = old.dump(&story.team).await.unwrap()["folders"].clone();

    let new = place.open(RENEWED).await;
    assert_eq!(new.position(&story.team).await.unwrap(), 0);
    start(&log, &new).await.stop().await;
    let dump = new.dump(&story.team).await.unwrap();
    assert_eq!(dump["audit_2"].len(), usize::try_from(head).unwrap());
    assert_eq!(dump["folders"], messages_before);

    // The old build must not write into tables it does not understand.
    let mut tx = old.db().begin().await.unwrap();
    let refused = lock_cursors(&mut tx, &story.team, BEFORE).await;
    assert!(matches!(refused, Err(Error::Superseded { projection: "audit" })), "{refused:?}");
    tx.rollback().await.unwrap();
    old.close().await;
    new.close().await;
}

async fn views_go_on_where_they_were(place: Place<'_>) {
    let log = memory_log().await;
    let mut story = told(&log, 1, &[(Op::Open(1), 1)]).await;
    let views = place.open(ALL).await;
    start(&log, &views).await.stop().await;
    let before = views.dump(&story.team).await.unwrap();
    views.close().await;
    let views = place.open(ALL).await;
    assert_eq!(views.dump(&story.team).await.unwrap(), before);
    story.tell(&log, &Op::Open(2), 1).await;
    start(&log, &views).await.stop().await;
    assert_eq!(views.position(&story.team).await.unwrap(), log.head(&story.team).await.unwrap().position);
    assert_eq!(views.projections().len(), ALL.len());
    views.close().await;
}

async fn after_a_restore_of_the_log_nothing_of_the_lost_future_is_left(place: Place<'_>) {
    let views = place.open(ALL).await;
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

async fn nodes_that_start_at_once_make_the_tables_once(place: Place<'_>) {
    let (a, b, c) = tokio::join!(place.open(ALL), place.open(ALL), place.open(ALL));
    let nodes = [a, b, c];
    let log = memory_log().await;
    let running = start(&log, &nodes[0]).await;
    let story = told(&log, 1, &[(Op::Open(1), 1)]).await;
    let head = log.head(&story.team).await.unwrap().position;
    assert!(nodes[0].wait_for(&story.team, head, WAIT).await);
    for node in &nodes {
        assert_eq!(node.position(&story.team).await.unwrap(), head);
    }
    running.stop().await;
}
