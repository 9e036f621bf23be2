//! What callers can do to the queue, and commands to each other.

use std::num::NonZeroUsize;
use std::time::Duration;

use domain::id::MailboxId;
use domain::mailbox::Mailbox;
use domain::team::Limits;
use domain::testing::NOW;
use domain::{Command, Event, Moment, StreamId, Versioned};
use tokio::task::JoinSet;

use super::Store;
use super::atomic::follow;
use super::support::{Gate, Tenant, as_one_batch, boxed, open, open_with, options};
use crate::{Batch, Options, SecretText, Submission, TransactError};

/// A caller that goes away after handing in its command does not take it back.
pub async fn a_dropped_caller_still_gets_its_events_written(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let mut moved = log.wake().team(&tenant.id);
    {
        let mut leaving = boxed(log.transact(tenant.submit(tenant.open(1))));
        std::future::poll_fn(|cx| {
            let _ = leaving.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
    }
    let heard = tokio::time::timeout(Duration::from_secs(20), moved.wait_for(|position| *position >= 4)).await;
    assert_eq!(*heard.unwrap().unwrap(), 4);
    assert_eq!(tenant.history(&log).await.len(), 4);
}

/// A full queue refuses at once; what was taken is done.
pub async fn too_many_submissions_are_refused_at_once(store: &impl Store) {
    let log = open_with(store, Options { queue_max: NonZeroUsize::new(4).unwrap(), ..options() }).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let wish = |n| {
        let submission = tenant.submit(tenant.open(n));
        boxed(async { log.transact(submission).await.map(|_| ()) })
    };
    let outcomes = as_one_batch(&log, &tenant, (1..=7).map(wish).collect()).await;
    assert!(outcomes[..4].iter().all(Result::is_ok), "{outcomes:?}");
    assert!(outcomes[4..].iter().all(|o| matches!(o, Err(TransactError::Overloaded))), "{outcomes:?}");
    assert_eq!(tenant.history(&log).await.len(), 3 + 4);
    log.transact(tenant.submit(tenant.open(7))).await.unwrap();
}

/// Closing writes what is queued; what comes later is told that the log has stopped.
pub async fn a_closed_log_has_written_everything_it_took(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let mut all = JoinSet::new();
    for n in 1..=40 {
        let (log, tenant) = (log.clone(), tenant.clone());
        all.spawn(async move { log.transact(tenant.submit(tenant.open(n))).await.map(|_| ()) });
    }
    let outcomes = all.join_all().await;
    log.close().await;
    store.restart().await;
    let log = open(store).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(tenant.history(&log).await.len(), 3 + 40);
}

/// A stream that is called fresh and is not is read after all; nobody else in the batch notices.
pub async fn a_wrong_promise_of_freshness_harms_nobody(store: &impl Store) {
    let log = open(store).await;
    let (a, b) = (Tenant::create(1, &log, Limits::default()).await, Tenant::create(2, &log, Limits::default()).await);
    log.transact(a.submit(a.open(1))).await.unwrap();
    let node = open(store).await;
    let lying = |submission: Submission<_>| submission.fresh(StreamId::Mailbox(a.mailbox(1)));
    let outcomes = as_one_batch(
        &node,
        &b,
        vec![
            boxed(async {
                node.transact(lying(a.submit(a.open_as(1, 5)))).await.map(|_| ()).map_err(|e| e.to_string())
            }),
            boxed(async { node.transact(a.submit(a.receive(1, 1))).await.map(|_| ()).map_err(|e| e.to_string()) }),
            boxed(async { node.transact(b.submit(b.open(1))).await.map(|_| ()).map_err(|e| e.to_string()) }),
        ],
    )
    .await;
    assert_eq!(outcomes, [Err("the mailbox exists already".to_owned()), Ok(()), Ok(())]);
    assert_eq!(a.history(&log).await.len(), 5);
}

/// A secret under an id that exists already is refused; nobody else in the batch notices.
pub async fn a_used_secret_id_harms_nobody_else(store: &impl Store) {
    let log = open(store).await;
    let (a, b) = (Tenant::create(1, &log, Limits::default()).await, Tenant::create(2, &log, Limits::default()).await);
    let with_secret = |n: u64, text: &str| {
        a.submit(a.create_key(n)).with_secret(a.secret(1), "webhook", SecretText::new(text.as_bytes().to_vec()))
    };
    log.transact(with_secret(1, "first")).await.unwrap();
    let mut all = vec![boxed(async { log.transact(with_secret(2, "second")).await.is_ok() })];
    for n in 1..=20 {
        let (log, b, a) = (&log, &b, &a);
        all.push(boxed(async move { log.transact(b.submit(b.open(n))).await.is_ok() }));
        all.push(boxed(async move { log.transact(a.submit(a.open(n))).await.is_ok() }));
    }
    let outcomes = as_one_batch(&log, &b, all).await;
    assert!(!outcomes[0] && outcomes[1..].iter().all(|ok| *ok), "{outcomes:?}");
    let kept = log.secret(&a.id, &a.secret(1), "webhook").await.unwrap().unwrap();
    assert_eq!(kept.expose_str(), "first");
    assert_eq!(a.history(&log).await.len(), 4 + 20);
}

/// A record that no build can read stops what needs it, and nothing else.
pub async fn an_unreadable_record_harms_nobody_else(store: &impl Store) {
    let log = open(store).await;
    let (a, b) = (Tenant::create(1, &log, Limits::default()).await, Tenant::create(2, &log, Limits::default()).await);
    let mut head = log.head(&a.id).await.unwrap();
    let mut broken = follow(&a, &mut head, &StreamId::Mailbox(a.mailbox(1)).to_string(), 1);
    broken.facts = "{}".to_owned();
    let batch = Batch { records: vec![broken], heads: vec![(a.id.clone(), head)], at: NOW, ..Batch::default() };
    store.node().await.append(&batch).await.unwrap();
    let node = open(store).await;
    let wish = |tenant: &Tenant, n| {
        let submission = tenant.submit(tenant.open(n));
        boxed(async { node.transact(submission).await.map(|_| ()) })
    };
    let outcomes = as_one_batch(&node, &b, vec![wish(&b, 1), wish(&a, 1), wish(&a, 2), wish(&b, 2)]).await;
    assert!(matches!(outcomes[1], Err(TransactError::Unavailable(_))), "{outcomes:?}");
    assert!([0, 2, 3].into_iter().all(|i: usize| outcomes[i].is_ok()), "{outcomes:?}");
    let read = node.read(&a.id, 0, 10).await;
    assert!(matches!(read, Err(crate::LogError::Corrupt(e)) if e.position == 4));
}

/// A command that panics, in its decision or while its answer is rendered.
struct Careless {
    mailbox: MailboxId,
    in_decision: bool,
}

impl Command for Careless {
    type State = Versioned<Mailbox>;
    type Rejected = std::convert::Infallible;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Mailbox(self.mailbox.clone())]
    }

    fn decide(&self, _: &Self::State, _: &Moment) -> Result<Vec<Event>, Self::Rejected> {
        assert!(!self.in_decision, "a careless decision");
        let facts = domain::mailbox::Subject { mailbox: self.mailbox.clone() };
        Ok(vec![Event::Mailbox(domain::mailbox::Event::Suspended(facts.into()))])
    }
}

/// A panicking command is left out of its batch; the log goes on.
pub async fn a_panicking_command_harms_nobody_else(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    let careless = |in_decision| {
        let key = crate::Idempotency { scope: "x".to_owned(), key: format!("{in_decision}"), fingerprint: [0; 32] };
        let submission = tenant.submit(Careless { mailbox: tenant.mailbox(1), in_decision });
        let submission = submission.idempotent(key, |_| panic!("a careless answer"));
        boxed(async { log.transact(submission).await.map(|_| ()).map_err(|e| e.to_string()) })
    };
    let wish = |n| {
        let submission = tenant.submit(tenant.rename(1, &format!("{n}")));
        boxed(async { log.transact(submission).await.map(|_| ()).map_err(|e| e.to_string()) })
    };
    let all = vec![wish(1), careless(true), wish(2), careless(false), wish(3)];
    let outcomes = as_one_batch(&log, &tenant, all).await;
    assert!([0, 2, 4].into_iter().all(|i: usize| outcomes[i].is_ok()), "{outcomes:?}");
    assert!(outcomes[1].is_err() && outcomes[3].is_err());
    let names: Vec<_> = tenant.events(&log).await.iter().map(|e| e.name().to_owned()).collect();
    assert_eq!(names[4..], ["mailbox.renamed"; 3]);
    let (gate, waiting) = Gate::close(&log, &tenant).await;
    gate.open();
    waiting.join_all().await;
}
