//! The same properties on PostgreSQL, and that both engines keep the same rows.

use std::time::Duration;

use domain::id::Position;
use eventlog::testing::Cluster;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::history::{Op, ops, told};
use super::properties::{
    Place, changes_lead_to_now, counts_agree, once_is_once, rebuilt_is_incremental, splits_do_not_matter,
    teams_do_not_meet, usage_adds_up,
};
use super::world::{apply, memory_log};
use super::{lists, money, properties, threading};
use crate::webhook_attempts::Work;
use crate::{Views, exec, fetch_all};

const CASES: usize = 4;

#[test]
fn everything_holds_on_postgresql() {
    let cluster = Cluster::shared();
    let database = properties::block_on(cluster.create_database(None));
    let url = cluster.url(&database);
    let place = Place::Postgres(&url);
    let mut random = TestRunner::deterministic();
    let mut draw = |count, erasing| -> Vec<(Op, i64)> { ops(count, erasing).new_tree(&mut random).unwrap().current() };
    properties::block_on(async {
        for case in 0..CASES {
            splits_do_not_matter(place, &draw(1..120, true), &[3 + case, 1, 20]).await;
            rebuilt_is_incremental(place, &draw(1..120, false), &draw(0..20, false)).await;
            teams_do_not_meet(place, &draw(1..80, false), &draw(1..80, false), &[2, 9]).await;
            super::erasing::erased_is_folded_anew(place, &draw(1..60, true), &[2, 5, 9]).await;
            once_is_once(place, &draw(1..40, false), 7 + case).await;
            usage_adds_up(place, &draw(1..120, false)).await;
            money::money_adds_up(place, &draw(60..120, false), 9 + case).await;
            money::counters_agree(place, &draw(60..120, false), 9 + case).await;
            counts_agree(place, &draw(1..120, false)).await;
            changes_lead_to_now(place, &draw(60..120, false), 30, 1 + case).await;
            lists::pages_partition(place, &draw(60..120, true), 1 + case * 2).await;
            engines_agree(place, &draw(60..120, true)).await;
        }
        lists::filters_narrow(place).await;
        lists::threading(place).await;
        threading::two_threads_become_one(place).await;
        let mail = |n, references: &[u8]| (n, references.to_vec());
        let mails = [mail(0, &[]), mail(1, &[0, 9]), mail(2, &[8]), mail(3, &[8, 9]), mail(4, &[4]), mail(5, &[2, 4])];
        threading::order_does_not_matter(place, &mails, &[5, 3, 1, 0, 4, 2], 2).await;
    });
}

/// A command may be run beside a server that is at work: what it opens waits for nobody who writes rows.
#[test]
fn opening_what_is_there_does_not_wait_for_writers() {
    const WITHIN: Duration = Duration::from_secs(5);
    let cluster = Cluster::shared();
    properties::block_on(async {
        let url = cluster.url(&cluster.create_database(None).await);
        let (work, views) = (Work::open_postgres(&url, &[]).await.unwrap(), Views::open_postgres(&url).await.unwrap());
        let mut writer = work.begin().await.unwrap();
        // Only who creates tables writes that one.
        let sql = "SELECT schemaname || '.' || tablename FROM pg_tables
                   WHERE schemaname IN ('work', 'views') AND tablename <> 'projection_versions'";
        let tables: Vec<(String,)> = fetch_all!(writer, (String,), sql).unwrap();
        assert!(tables.len() > 20, "{tables:?}");
        for (table,) in tables {
            exec!(writer, sqlx::AssertSqlSafe(format!("LOCK TABLE {table} IN ROW EXCLUSIVE MODE"))).unwrap();
        }
        tokio::time::timeout(WITHIN, Work::open_postgres(&url, &[])).await.expect("work is opened").unwrap();
        tokio::time::timeout(WITHIN, Views::open_postgres(&url)).await.expect("views are opened").unwrap();
        writer.rollback().await.unwrap();
        views.close().await;
    });
}

async fn engines_agree(place: Place<'_>, ops: &[(Op, i64)]) {
    let log = memory_log().await;
    let team = told(&log, 1, ops).await.team;
    let (here, there) = (Place::Memory.views(0).await, place.views(0).await);
    apply(&log, &here, &team, &[19], Position::MAX).await;
    apply(&log, &there, &team, &[5], Position::MAX).await;
    assert_eq!(here.dump(&team).await.unwrap(), there.dump(&team).await.unwrap());
    here.close().await;
    there.close().await;
}
