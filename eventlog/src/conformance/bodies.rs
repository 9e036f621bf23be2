//! Bodies that move out of the log's store are the same bodies.

use bytes::Bytes;
use domain::team::Limits;
use domain::testing::NOW;

use super::Store;
use super::support::{Tenant, open_with, options};
use crate::{EventLog, INLINE_BYTES_MAX};

const LATER: i64 = NOW + 1_000_000;

fn body(n: u64) -> Bytes {
    let size = [0, 1, 300, 9_000, INLINE_BYTES_MAX][usize::try_from(n % 5).unwrap()];
    (0..size).map(|i| u8::try_from((i + usize::try_from(n).unwrap()) % 251).unwrap()).collect()
}

async fn store_bodies(log: &EventLog, tenant: &Tenant, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let staged = log.stage_blob(&tenant.id, &tenant.blob(n), body(n)).await.unwrap();
        log.transact(tenant.submit(tenant.receive(n, 1)).with_blob(tenant.blob(n), staged)).await.unwrap();
    }
}

async fn two(log: &EventLog) -> [Tenant; 2] {
    let tenants = [Tenant::create(1, log, Limits::default()).await, Tenant::create(2, log, Limits::default()).await];
    for tenant in &tenants {
        log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    }
    tenants
}

/// Old inline bodies go out in steps of any size; each reads the same before and after, and nobody else's is touched.
pub async fn old_bodies_move_out_and_read_the_same(store: &impl Store) {
    let options = options();
    let log = open_with(store, options.clone()).await;
    let [tenant, other] = two(&log).await;
    store_bodies(&log, &tenant, 1..=12).await;
    store_bodies(&log, &other, 1..=3).await;
    let history = tenant.history(&log).await;
    assert_eq!(
        log.move_bodies_out(&tenant.id, None, NOW - 1_000_000, 100).await.unwrap().bodies,
        0,
        "none is that old"
    );
    let (mut after, mut steps, mut bodies) = (None, 0, 0);
    loop {
        let moved = log.move_bodies_out(&tenant.id, after.as_ref(), LATER, 5).await.unwrap();
        bodies += moved.bodies;
        let Some(last) = moved.last else { break };
        (after, steps) = (Some(last), steps + 1);
    }
    assert_eq!((bodies, steps), (12, 3));
    assert_eq!(log.move_bodies_out(&tenant.id, None, LATER, 100).await.unwrap().last, None, "nothing is left");
    for restarted in [false, true] {
        if restarted {
            store.restart().await;
        }
        let log = open_with(store, options.clone()).await;
        for n in 1..=12 {
            assert_eq!(log.blob(&tenant.id, &tenant.blob(n)).await.unwrap(), Some(body(n)), "body {n}");
            let row = store.node().await.blob(&tenant.id, &tenant.blob(n)).await.unwrap().unwrap();
            assert_eq!((row.inline, row.size_bytes), (None, i64::try_from(body(n).len()).unwrap()));
        }
        for n in 1..=3 {
            let row = store.node().await.blob(&other.id, &other.blob(n)).await.unwrap().unwrap();
            assert_eq!(row.inline, Some(body(n)), "another team's body");
        }
        assert_eq!(tenant.history(&log).await, history);
    }
    let ids = [tenant.blob(1), tenant.blob(2)];
    let log = open_with(store, options).await;
    assert_eq!(log.erase_blobs(&tenant.id, &ids).await.unwrap(), 2);
    assert_eq!(log.loose(&tenant.id, &tenant.blob(2)).await.unwrap(), None, "erased outside too");
}

/// A mover that stopped between its two steps is gone on with; several at once harm nobody.
pub async fn a_mover_that_stopped_anywhere_is_gone_on_with(store: &impl Store) {
    let log = open_with(store, options()).await;
    let [tenant, _] = two(&log).await;
    store_bodies(&log, &tenant, 1..=20).await;
    // Stopped after the object was written.
    log.put_loose(&tenant.id, &tenant.blob(3), body(3)).await.unwrap();
    let movers = (0..4).map(|_| log.move_bodies_out(&tenant.id, None, LATER, 100));
    let moved: u64 = futures_util::future::join_all(movers).await.into_iter().map(|moved| moved.unwrap().bodies).sum();
    assert_eq!(moved, 20, "each is moved by one of them");
    for n in 1..=20 {
        assert_eq!(log.blob(&tenant.id, &tenant.blob(n)).await.unwrap(), Some(body(n)), "body {n}");
    }
}

/// An erasure beside a mover is final: no body comes back, inline or outside.
pub async fn an_erasure_beside_a_mover_is_final(store: &impl Store) {
    let log = open_with(store, options()).await;
    let [tenant, _] = two(&log).await;
    store_bodies(&log, &tenant, 1..=40).await;
    let ids: Vec<_> = (1..=40).map(|n| tenant.blob(n)).collect();
    let erase = async {
        for id in ids.iter().rev() {
            assert_eq!(log.erase_blobs(&tenant.id, std::slice::from_ref(id)).await.unwrap(), 1);
        }
    };
    let movers = futures_util::future::join(
        log.move_bodies_out(&tenant.id, None, LATER, 100),
        log.move_bodies_out(&tenant.id, None, LATER, 100),
    );
    let ((), (first, second)) = futures_util::future::join(erase, movers).await;
    for moved in [first, second] {
        moved.unwrap();
    }
    for id in &ids {
        assert_eq!(log.blob(&tenant.id, id).await.unwrap(), None);
        assert_eq!(log.loose(&tenant.id, id).await.unwrap(), None, "{id} came back in the object store");
    }
}

/// Objects without a row are dropped once they are old, and only they.
pub async fn orphans_are_dropped_once_they_are_old_and_only_they(store: &impl Store) {
    let log = open_with(store, options()).await;
    let [tenant, other] = two(&log).await;
    store_bodies(&log, &tenant, 1..=3).await;
    log.move_bodies_out(&tenant.id, None, LATER, 2).await.unwrap();
    // The process stopped between the object and its append.
    let large = Bytes::from(vec![b'x'; INLINE_BYTES_MAX + 1]);
    let staged = log.stage_blob(&tenant.id, &tenant.blob(50), large.clone()).await.unwrap();
    drop(staged);
    let kept = log.stage_blob(&tenant.id, &tenant.blob(51), large.clone()).await.unwrap();
    log.transact(tenant.submit(tenant.receive(51, 1)).with_blob(tenant.blob(51), kept)).await.unwrap();
    log.put_loose(&other.id, &other.blob(52), large.clone()).await.unwrap();
    assert_eq!(log.blob(&tenant.id, &tenant.blob(50)).await.unwrap(), None, "nothing refers to it");
    let young = log.drop_orphans(&tenant.id, 0, 100).await.unwrap();
    assert_eq!((young.looked_at, young.dropped), (4, 0));
    assert!(log.loose(&tenant.id, &tenant.blob(50)).await.unwrap().is_some(), "its append may still come");
    let old = log.drop_orphans(&tenant.id, i64::MAX, 100).await.unwrap();
    assert_eq!((old.looked_at, old.dropped), (4, 1));
    assert_eq!(log.loose(&tenant.id, &tenant.blob(50)).await.unwrap(), None);
    assert_eq!(log.blob(&tenant.id, &tenant.blob(51)).await.unwrap(), Some(large.clone()));
    assert_eq!(log.loose(&other.id, &other.blob(52)).await.unwrap(), Some(large), "another team's");
    for n in 1..=3 {
        assert_eq!(log.blob(&tenant.id, &tenant.blob(n)).await.unwrap(), Some(body(n)));
    }
}
