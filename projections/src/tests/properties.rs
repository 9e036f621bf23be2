//! Properties over ALL projections: they are functions of the log, however it is cut into batches and whoever else
//! writes.

use std::collections::BTreeMap;
use std::path::Path;

use domain::billing::metered;
use domain::id::{MailboxId, MessageId, Position};
use eventlog::EventLog;
use proptest::prelude::*;

use super::history::{Op, Story, ops, told};
use super::world::{apply, memory_log};
use crate::db::{Db, Purpose};
use crate::runner::TeamFaults;
use crate::views::{lock_cursors, move_cursors};
use crate::{ALL, Page, Projection, Runner, Views, folders, messages, rebuild, threads, usage};

/// Where views of a property's cases are kept.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    Memory,
    /// Schemas of a database that many cases share.
    Postgres(&'a str),
    /// A SQLite file.
    File(&'a Path),
    /// A database for one test alone.
    Database(&'a str),
}

impl Place<'_> {
    /// Opens the one set of views of a lasting place, as it was left.
    pub async fn open(self, projections: &'static [&'static dyn Projection]) -> Views {
        let db = match self {
            Self::File(path) => Db::open_sqlite(path, Purpose::Views).await,
            Self::Database(url) => Db::open_postgres(&url.parse().unwrap(), "views").await,
            Self::Memory | Self::Postgres(_) => panic!("this place does not last"),
        };
        Views::over(db.unwrap(), projections).await.unwrap()
    }

    /// Opens new views.
    pub async fn views(self, n: usize) -> Views {
        match self {
            Self::Memory => Views::memory().await.unwrap(),
            Self::File(_) | Self::Database(_) => panic!("this place has one set of views"),
            Self::Postgres(url) => {
                let schema = format!("views_{n}");
                let db = Db::open_postgres(&url.parse().unwrap(), "public").await.unwrap();
                db.scratch_schema(&schema).await.unwrap().close().await;
                db.close().await;
                Views::over(Db::open_postgres(&url.parse().unwrap(), &schema).await.unwrap(), ALL).await.unwrap()
            }
        }
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn any_split_into_batches_gives_the_same_rows(ops in ops(1..120, true), pages in prop::collection::vec(1..40_usize, 1..20)) {
        block_on(splits_do_not_matter(Place::Memory, &ops, &pages));
    }

    #[test]
    fn a_rebuild_gives_the_rows_that_are_there(ops in ops(1..120, false), more in ops(0..20, false)) {
        block_on(rebuilt_is_incremental(Place::Memory, &ops, &more));
    }

    #[test]
    fn other_teams_change_nothing(ops in ops(1..80, false), others in ops(1..80, false), pages in prop::collection::vec(1..20_usize, 1..8)) {
        block_on(teams_do_not_meet(Place::Memory, &ops, &others, &pages));
    }

    #[test]
    fn a_batch_that_was_rolled_back_or_comes_twice_counts_once(ops in ops(1..60, false), page in 1..30_usize) {
        block_on(once_is_once(Place::Memory, &ops, page));
    }

    #[test]
    fn usage_is_the_sum_over_the_events(ops in ops(1..120, false)) {
        block_on(usage_adds_up(Place::Memory, &ops));
    }

    #[test]
    fn counts_are_those_of_the_messages(ops in ops(1..120, false)) {
        block_on(counts_agree(Place::Memory, &ops));
    }

    #[test]
    fn who_was_away_learns_what_changed(ops in ops(1..120, false), away in 0..120_u64, limit in 1..10_usize) {
        block_on(changes_lead_to_now(Place::Memory, &ops, away, limit));
    }
}

pub async fn splits_do_not_matter(place: Place<'_>, ops: &[(Op, i64)], pages: &[usize]) {
    let log = memory_log().await;
    let story = told(&log, 1, ops).await;
    let (whole, split) = (place.views(0).await, place.views(1).await);
    apply(&log, &whole, &story.team, &[1_000], Position::MAX).await;
    apply(&log, &split, &story.team, pages, Position::MAX).await;
    assert_eq!(whole.dump(&story.team).await.unwrap(), split.dump(&story.team).await.unwrap());
    whole.close().await;
    split.close().await;
}

pub async fn rebuilt_is_incremental(place: Place<'_>, ops: &[(Op, i64)], more: &[(Op, i64)]) {
    let log = memory_log().await;
    let mut story = told(&log, 1, ops).await;
    let views = place.views(0).await;
    apply(&log, &views, &story.team, &[7], Position::MAX).await;
    let before = views.dump(&story.team).await.unwrap();
    let events = rebuild(&views, &log, None, None, |_| {}).await.unwrap();
    assert_eq!(events, log.head(&story.team).await.unwrap().position);
    assert_eq!(views.dump(&story.team).await.unwrap(), before);
    // Rows that went wrong are mended, and the views go on from where they were.
    for table in ["threads", "usage", "folders", "audit"] {
        let mut tx = views.db().begin().await.unwrap();
        crate::exec!(tx, sqlx::AssertSqlSafe(format!("DELETE FROM {table}"))).unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = views.db().begin().await.unwrap();
    crate::exec!(tx, "UPDATE messages SET folder = 'archive', changed_position = 0").unwrap();
    tx.commit().await.unwrap();
    rebuild(&views, &log, None, Some(&story.team), |_| {}).await.unwrap();
    assert_eq!(views.dump(&story.team).await.unwrap(), before);
    for (op, seconds) in more {
        story.tell(&log, op, *seconds).await;
    }
    // This one is ahead of the live copy.
    rebuild(&views, &log, Some(messages::NAME), None, |_| {}).await.unwrap();
    apply(&log, &views, &story.team, &[3], Position::MAX).await;
    let fresh = place.views(1).await;
    apply(&log, &fresh, &story.team, &[1_000], Position::MAX).await;
    assert_eq!(views.dump(&story.team).await.unwrap(), fresh.dump(&story.team).await.unwrap());
    views.close().await;
    fresh.close().await;
}

pub async fn teams_do_not_meet(place: Place<'_>, ops: &[(Op, i64)], others: &[(Op, i64)], pages: &[usize]) {
    let alone = memory_log().await;
    let story = told(&alone, 1, ops).await;
    let lonely = place.views(0).await;
    apply(&alone, &lonely, &story.team, &[11], Position::MAX).await;

    let shared = memory_log().await;
    let (mut a, mut b) = (Story::begin(&shared, 1).await, Story::begin(&shared, 2).await);
    for n in 0..ops.len().max(others.len()) {
        for (story, ops) in [(&mut a, ops), (&mut b, others)] {
            if let Some((op, seconds)) = ops.get(n) {
                story.tell(&shared, op, *seconds).await;
            }
        }
    }
    let both = place.views(1).await;
    for size in pages {
        for story in [&a, &b] {
            let at = both.position(&story.team).await.unwrap();
            apply(&shared, &both, &story.team, &[*size], at + u64::try_from(*size).unwrap()).await;
        }
    }
    apply(&shared, &both, &b.team, &[5], Position::MAX).await;
    apply(&shared, &both, &a.team, &[5], Position::MAX).await;
    assert_eq!(lonely.dump(&a.team).await.unwrap(), both.dump(&a.team).await.unwrap());
    lonely.close().await;
    both.close().await;
}

pub async fn once_is_once(place: Place<'_>, ops: &[(Op, i64)], page: usize) {
    let log = memory_log().await;
    let team = told(&log, 1, ops).await.team;
    let (views, once) = (place.views(0).await, place.views(1).await);
    apply(&log, &once, &team, &[page], Position::MAX).await;
    let runner = Runner::new(log.clone(), views.clone());
    let mut faults = TeamFaults::default();
    loop {
        let at = views.position(&team).await.unwrap();
        let events = log.read(&team, at, page).await.unwrap();
        let Some(last) = events.last().map(|record| record.position) else { break };
        // Cut off after the rows and before the commit.
        let mut tx = views.db().begin().await.unwrap();
        lock_cursors(&mut tx, &team, ALL).await.unwrap();
        for projection in ALL {
            projection.apply(&mut tx, &team, &events).await.unwrap();
        }
        move_cursors(&mut tx, &team, ALL, at, last).await.unwrap();
        drop(tx);
        runner.applier().page(&team, ALL, page, &mut faults).await.unwrap();
        // The same page by somebody who believes it is still to be done.
        let mut tx = views.db().begin().await.unwrap();
        let moved = move_cursors(&mut tx, &team, ALL, at, last).await;
        assert!(matches!(moved, Err(crate::Error::Moved { .. })), "{moved:?}");
        tx.rollback().await.unwrap();
    }
    assert_eq!(views.dump(&team).await.unwrap(), once.dump(&team).await.unwrap());
    views.close().await;
    once.close().await;
}

pub async fn usage_adds_up(place: Place<'_>, ops: &[(Op, i64)]) {
    let log = memory_log().await;
    let team = told(&log, 1, ops).await.team;
    let views = place.views(0).await;
    apply(&log, &views, &team, &[13], Position::MAX).await;
    let mut expected: BTreeMap<_, (i64, i64, Position, Position)> = BTreeMap::new();
    for record in log.read(&team, 0, 10_000).await.unwrap() {
        for m in metered(&record.event) {
            let key = (usage::day_of(record.at), m.meter.as_str(), m.mailbox, record.actor.clone());
            let sum = expected.entry(key).or_insert((0, 0, record.position, 0));
            *sum = (sum.0 + m.units, sum.1 + 1, sum.2, record.position);
        }
    }
    let everything = usage::Filter::days(i64::MIN, i64::MAX);
    let page = usage::by_day(&views, &team, &everything, &Page::first(1_000)).await.unwrap();
    let found: BTreeMap<_, _> = page
        .rows
        .into_iter()
        .map(|r| {
            let sums = (r.units, r.events, r.first_position, r.last_position);
            ((r.day, r.meter.as_str(), r.mailbox, r.actor), sums)
        })
        .collect();
    let totals = usage::totals(&views, &team, &everything).await.unwrap();
    let summed: i64 = totals.iter().map(|total| total.units).sum();
    assert_eq!(summed, expected.values().map(|sum| sum.0).sum::<i64>());
    assert_eq!(found, expected);
    views.close().await;
}

pub async fn counts_agree(place: Place<'_>, ops: &[(Op, i64)]) {
    let log = memory_log().await;
    let story = told(&log, 1, ops).await;
    let views = place.views(0).await;
    apply(&log, &views, &story.team, &[9], Position::MAX).await;
    for n in 0..3 {
        mailbox_agrees(&log, &views, &story, &story.mailbox(n)).await;
    }
    views.close().await;
}

async fn mailbox_agrees(log: &EventLog, views: &Views, story: &Story, mailbox: &MailboxId) {
    let team = &story.team;
    let page = &Page::first(1_000);
    let all = messages::list(views, team, mailbox, &Default::default(), Default::default(), page).await.unwrap().rows;
    for folder in folders::list(views, team, mailbox).await.unwrap() {
        let there: Vec<_> = all.iter().filter(|m| m.folder == folder.folder).collect();
        assert_eq!(usize::try_from(folder.messages).unwrap(), there.len());
        assert_eq!(usize::try_from(folder.unread).unwrap(), there.iter().filter(|m| m.is_unread).count());
    }
    let rows = threads::list(views, team, mailbox, &Default::default(), false, &Page::first(1_000)).await.unwrap().rows;
    assert_eq!(rows.iter().map(|t| t.messages).sum::<u64>(), u64::try_from(all.len()).unwrap());
    for thread in rows {
        let there: Vec<_> = all.iter().filter(|m| m.thread == thread.id).collect();
        assert_eq!(usize::try_from(thread.messages).unwrap(), there.len());
        assert_eq!(usize::try_from(thread.unread).unwrap(), there.iter().filter(|m| m.is_unread).count());
        assert_eq!(thread.has_attachments, there.iter().any(|m| m.attachments > 0));
        let mut last: Vec<_> = there.iter().map(|m| (m.received_at, &m.id)).collect();
        last.sort();
        assert_eq!(thread.last_message_id, *last.last().unwrap().1);
        assert_eq!(thread.last_message.unwrap().id, thread.last_message_id);
        let mut folders: Vec<_> = there.iter().map(|m| m.folder).collect();
        folders.sort();
        folders.dedup();
        assert_eq!(thread.folders, folders);
        let first = there.iter().min_by_key(|m| m.created_position).unwrap();
        assert_eq!(thread.subject, first.subject);
    }
    if let Some(row) = crate::mailboxes::get(views, team, mailbox).await.unwrap() {
        let head = log.head(team).await.unwrap().position;
        assert_eq!(views.position(team).await.unwrap(), head);
        assert_eq!(usize::try_from(row.messages).unwrap(), all.len());
        assert_eq!(row.bytes_used, all.iter().map(|m| m.size_bytes).sum::<i64>());
    }
}

pub async fn changes_lead_to_now(place: Place<'_>, ops: &[(Op, i64)], away: Position, limit: usize) {
    let log = memory_log().await;
    let story = told(&log, 1, ops).await;
    let views = place.views(0).await;
    let team = &story.team;
    apply(&log, &views, team, &[4], away).await;
    let ids = async |mailbox: &MailboxId| -> Vec<MessageId> {
        let page = Page::first(1_000);
        let rows = messages::list(&views, team, mailbox, &Default::default(), Default::default(), &page).await.unwrap();
        let mut ids: Vec<_> = rows.rows.into_iter().map(|row| row.id).collect();
        ids.sort();
        ids
    };
    let mut known = vec![];
    for n in 0..3 {
        let mailbox = story.mailbox(n);
        let threads =
            threads::list(&views, team, &mailbox, &Default::default(), false, &Page::first(1_000)).await.unwrap();
        let threads: Vec<_> = threads.rows.into_iter().map(|row| row.id).collect();
        known.push((ids(&mailbox).await, threads, messages::state(&views, team, &mailbox).await.unwrap()));
    }
    let since = views.position(team).await.unwrap();
    apply(&log, &views, team, &[6], Position::MAX).await;
    for (n, (mut messages_known, mut threads_known, state)) in (0..3).zip(known) {
        let mailbox = story.mailbox(n);
        let mut at = state;
        loop {
            let changes = messages::changes(&views, team, &mailbox, at, limit).await.unwrap();
            messages_known.retain(|id| !changes.destroyed.contains(id));
            assert!(changes.created.iter().all(|id| !messages_known.contains(id)), "created twice");
            messages_known.extend(changes.created);
            assert!(changes.updated.iter().all(|id| messages_known.contains(id)), "updated before it was created");
            at = changes.new_state;
            if !changes.has_more {
                break;
            }
        }
        messages_known.sort();
        assert_eq!(messages_known, ids(&mailbox).await);
        assert_eq!(at, messages::state(&views, team, &mailbox).await.unwrap());
        let mut at = since;
        loop {
            let changes = threads::changes(&views, team, &mailbox, at, limit).await.unwrap();
            threads_known.retain(|id| !changes.destroyed.contains(id) && !changes.created.contains(id));
            threads_known.extend(changes.created);
            at = changes.new_state;
            if !changes.has_more {
                break;
            }
        }
        let now = threads::list(&views, team, &mailbox, &Default::default(), false, &Page::first(1_000)).await.unwrap();
        let mut now: Vec<_> = now.rows.into_iter().map(|row| row.id).collect();
        now.sort();
        threads_known.sort();
        assert_eq!(threads_known, now);
    }
    views.close().await;
}
