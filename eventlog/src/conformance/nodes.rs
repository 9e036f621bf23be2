//! Several nodes on one store.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use domain::mailbox::{CloseMailbox, Mailbox, ResumeMailbox, SuspendMailbox};
use domain::team::{Limits, Team};
use domain::{StreamId, Versioned};
use tokio::task::JoinSet;

use super::Store;
use super::support::{self, Tenant, assert_whole, open, open_with, positions, tiny};
use crate::{EventLog, Failpoints, Options, Point, TransactError};

/// Two nodes that open mailboxes at the same time never open more than the team may have.
pub async fn two_nodes_never_exceed_a_limit(store: &impl Store) {
    let nodes = [open(store).await, open(store).await];
    for round in 1..=4u64 {
        let tenant = Tenant::create(round, &nodes[0], Limits { mailboxes: 7, ..Limits::default() }).await;
        let mut all = JoinSet::new();
        for producer in 0..10u64 {
            let (node, tenant) = (nodes[usize::from(producer % 2 == 0)].clone(), tenant.clone());
            all.spawn(async move {
                let mut opened = 0;
                for i in 0..4 {
                    match node.transact(tenant.submit(tenant.open(producer * 10 + i))).await {
                        Ok(outcome) => opened += positions(outcome).len(),
                        Err(TransactError::Rejected(domain::mailbox::Rejected::Limit(_))) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
                opened
            });
        }
        assert_eq!(all.join_all().await.into_iter().sum::<usize>(), 7);
        let team: Versioned<Team> = domain::testing::fold(&[StreamId::Team], &tenant.events(&nodes[1]).await);
        assert_eq!(team.mailboxes, 7);
        assert_whole(&tenant, &nodes[1]).await;
    }
}

/// A node with much to write does not starve the other out of a team's log.
pub async fn two_nodes_on_one_team_both_make_progress(store: &impl Store) {
    let nodes = [open(store).await, open(store).await];
    let tenant = Tenant::create(1, &nodes[0], Limits::default()).await;
    nodes[0].transact(tenant.submit(tenant.open(1))).await.unwrap();
    let mut all = JoinSet::new();
    for producer in 0..16u64 {
        let (node, tenant) = (nodes[usize::from(producer < 12)].clone(), tenant.clone());
        all.spawn(async move {
            for i in 0..12 {
                let rename = tenant.rename(1, &format!("{producer}-{i}"));
                node.transact(tenant.submit(rename)).await.unwrap();
            }
        });
    }
    all.join_all().await;
    assert_eq!(tenant.history(&nodes[0]).await.len(), 4 + 16 * 12);
    assert_whole(&tenant, &nodes[0]).await;
}

/// Returns failpoints that count how often a batch is decided.
fn counting(decided: &Arc<AtomicUsize>) -> Failpoints {
    let decided = Arc::clone(decided);
    Failpoints::observed(move |point| {
        decided.fetch_add(usize::from(point == Point::LaneBeforeDecide), Ordering::SeqCst);
    })
}

/// Nodes that append to one team by turns collide once each, and then take the head before they decide, until they are alone.
pub async fn nodes_that_share_a_team_stop_colliding(store: &impl Store) {
    let decided = Arc::new(AtomicUsize::new(0));
    let mut nodes = vec![];
    for _ in 0..2 {
        nodes.push(open_with(store, Options { failpoints: counting(&decided), ..support::options() }).await);
    }
    let tenant = Tenant::create(1, &nodes[0], Limits::default()).await;
    nodes[0].transact(tenant.submit(tenant.open(1))).await.unwrap();
    decided.store(0, Ordering::SeqCst);
    for turn in 0..40 {
        nodes[turn % 2].transact(tenant.submit(tenant.rename(1, &format!("turn {turn}")))).await.unwrap();
    }
    let decided_by_turns = decided.swap(0, Ordering::SeqCst);
    assert!((40..=42).contains(&decided_by_turns), "40 commands were decided {decided_by_turns} times");
    for n in 0..40 {
        nodes[0].transact(tenant.submit(tenant.rename(1, &format!("alone {n}")))).await.unwrap();
    }
    assert!((40..=41).contains(&decided.load(Ordering::SeqCst)));
    assert_eq!(tenant.history(&nodes[1]).await.len(), 4 + 80);
    assert_whole(&tenant, &nodes[1]).await;
}

/// Polls something once.
async fn polled<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

/// What is submitted while a node waits for a head that it shares is written with what it waits for.
pub async fn what_comes_while_a_head_is_waited_for_goes_with_it(store: &impl Store) {
    let decided = Arc::new(AtomicUsize::new(0));
    let backend = store.node().await;
    let options = Options { failpoints: counting(&decided), queue_max: NonZeroUsize::MIN, ..support::options() };
    let (node, other) = (EventLog::open(Arc::clone(&backend), options).await.unwrap(), open(store).await);
    let tenant = Tenant::create(1, &node, Limits::default()).await;
    node.transact(tenant.submit(tenant.open(1))).await.unwrap();
    other.transact(tenant.submit(tenant.rename(1, "elsewhere"))).await.unwrap();
    node.transact(tenant.submit(tenant.rename(1, "here"))).await.unwrap();
    decided.store(0, Ordering::SeqCst);

    let hold = backend.hold(std::slice::from_ref(&tenant.id)).await.unwrap();
    let mut first = Box::pin(node.transact(tenant.submit(tenant.rename(1, "first"))));
    assert!(polled(&mut first).await.is_pending());
    // The queue has room for one: there is room again once the lane has taken the first.
    let second = loop {
        let mut second = Box::pin(node.transact(tenant.submit(tenant.rename(1, "second"))));
        match polled(&mut second).await {
            Poll::Pending => break second,
            Poll::Ready(Err(TransactError::Overloaded)) => tokio::task::yield_now().await,
            Poll::Ready(ended) => panic!("{ended:?}"),
        }
    };
    drop(hold);
    let (first, second) = tokio::join!(first, second);
    assert_eq!((positions(first.unwrap()), positions(second.unwrap())), (vec![7], vec![8]));
    assert_eq!(decided.load(Ordering::SeqCst), 1);
    assert_whole(&tenant, &node).await;
}

/// A refusal, or a wish that seems fulfilled, rests on what the log says now and not on what this node knew.
pub async fn a_node_never_refuses_on_what_it_knew_before(store: &impl Store) {
    let (a, b) = (open(store).await, open(store).await);
    let tenant = Tenant::create(1, &a, Limits { mailboxes: 1, ..Limits::default() }).await;
    // b learns that there is no such mailbox; then a opens it.
    let unknown = b.transact(tenant.submit(tenant.receive(1, 1))).await;
    assert!(matches!(unknown, Err(TransactError::Rejected(domain::message::Rejected::UnknownMailbox))));
    a.transact(tenant.submit(tenant.open(1))).await.unwrap();
    assert_eq!(positions(b.transact(tenant.submit(tenant.receive(1, 1))).await.unwrap()), [5]);
    // a knows it as suspended; b resumes it; so suspending it again is news.
    let suspend = || tenant.submit(SuspendMailbox { mailbox: tenant.mailbox(1) });
    assert_eq!(positions(a.transact(suspend()).await.unwrap()), [6]);
    let resume = ResumeMailbox { mailbox: tenant.mailbox(1) };
    assert_eq!(positions(b.transact(tenant.submit(resume)).await.unwrap()), [7]);
    assert_eq!(positions(a.transact(suspend()).await.unwrap()), [8]);
    // b knows the limit as reached; a makes room.
    let refused = b.transact(tenant.submit(tenant.open(2))).await;
    assert!(matches!(refused, Err(TransactError::Rejected(domain::mailbox::Rejected::Limit(_)))));
    a.transact(tenant.submit(CloseMailbox { mailbox: tenant.mailbox(1) })).await.unwrap();
    assert_eq!(positions(b.transact(tenant.submit(tenant.open(2))).await.unwrap()), [10]);
}

/// States read and folds evicted while appends go on never leave something stale behind: each decision right after is
/// right, and so is each state of a node that has just written.
pub async fn states_read_beside_appends_are_never_left_stale(store: &impl Store) {
    for options in [support::options(), tiny()] {
        let log: EventLog = open_with(store, options.clone()).await;
        let n = options.cached_teams_max.get() as u64;
        let tenant = Tenant::create(n, &log, Limits { mailboxes: 3, ..Limits::default() }).await;
        let other = Tenant::create(n + 1, &log, Limits::default()).await;
        let done = Arc::new(AtomicBool::new(false));
        let mut readers = JoinSet::new();
        for _ in 0..3 {
            let (log, tenant, other, done) = (log.clone(), tenant.clone(), other.clone(), Arc::clone(&done));
            readers.spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let team: Versioned<Team> = log.state(&tenant.id, &[StreamId::Team]).await.unwrap();
                    assert!(team.mailboxes <= 3);
                    let _: Versioned<Team> = log.state(&other.id, &[StreamId::Team]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
        }
        // Closing a mailbox goes into the team's fold without naming it; opening one depends on that fold.
        for n in 1..=60u64 {
            log.transact(tenant.submit(tenant.open(n))).await.unwrap();
            let boxes: Versioned<Mailbox> =
                log.state(&tenant.id, &[StreamId::Mailbox(tenant.mailbox(n))]).await.unwrap();
            assert_eq!(boxes.version, 1);
            if n >= 3 {
                let full = log.transact(tenant.submit(tenant.open(1_000 + n))).await;
                assert!(matches!(full, Err(TransactError::Rejected(_))), "round {n}");
                let close = CloseMailbox { mailbox: tenant.mailbox(n - 2) };
                log.transact(tenant.submit(close)).await.unwrap();
            }
            let team: Versioned<Team> = log.state(&tenant.id, &[StreamId::Team]).await.unwrap();
            assert_eq!(team.mailboxes, u32::try_from(n.min(2)).unwrap(), "round {n}");
        }
        done.store(true, Ordering::Relaxed);
        readers.join_all().await;
    }
}
