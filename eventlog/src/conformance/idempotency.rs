//! The same request again gets the same answer.

use domain::api_key::CreateTeamKey;
use domain::mailbox::OpenMailbox;
use domain::team::Limits;
use domain::testing::NOW;
use domain::{Actor, Command};
use tokio::task::JoinSet;

use super::Store;
use super::support::{Tenant, as_one_batch, boxed, open};
use crate::{Answer, EventLog, Idempotency, Outcome, Submission, TransactError};

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

fn key(name: &str, body: u8) -> Idempotency {
    Idempotency { scope: "POST /x \u{2603}".to_owned(), key: name.to_owned(), fingerprint: [body; 32] }
}

fn at<C: Command>(tenant: &Tenant, now: i64, command: C, idempotency: Idempotency) -> Submission<C> {
    Submission::new(tenant.id.clone(), now, Actor::Operator, "req_idempotent", command).idempotent(
        idempotency,
        |appended| Answer {
            status: 201,
            headers: vec![("location".to_owned(), format!("/{}", appended.head.position))],
            body: format!("{{\"position\":{},\"text\":\"é\\u0000\\\"\"}}", appended.head.position),
        },
    )
}

fn answer<S: std::fmt::Debug>(outcome: Outcome<S>) -> Option<Answer> {
    match outcome {
        Outcome::Repeated(answer) => Some(answer),
        Outcome::Done(_) => None,
    }
}

async fn create(log: &EventLog, tenant: &Tenant, n: u64, idempotency: Idempotency) -> Option<Answer> {
    answer(log.transact(at(tenant, NOW, tenant.create_key(n), idempotency)).await.unwrap())
}

/// A repetition changes nothing and gets the stored answer, also after a restart.
pub async fn the_same_key_gets_the_same_answer(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    assert_eq!(create(&log, &tenant, 1, key("k", 1)).await, None);
    let repeated = create(&log, &tenant, 2, key("k", 1)).await.unwrap();
    assert_eq!((repeated.status, repeated.headers[0].1.as_str()), (201, "/4"));
    assert_eq!(repeated.body, "{\"position\":4,\"text\":\"é\\u0000\\\"\"}");
    assert_eq!(log.head(&tenant.id).await.unwrap().position, 4);
    // A wish that is fulfilled already has an answer to keep, too.
    assert_eq!(create(&log, &tenant, 1, key("again", 1)).await, None);
    assert!(create(&log, &tenant, 3, key("again", 1)).await.is_some());
    log.close().await;
    store.restart().await;
    let log = open(store).await;
    assert_eq!(create(&log, &tenant, 5, key("k", 1)).await, Some(repeated));
    assert_eq!(log.head(&tenant.id).await.unwrap().position, 4);
}

async fn race(nodes: &[EventLog], tenant: &Tenant) {
    for round in 0..12u64 {
        let mut all = JoinSet::new();
        for i in 0..16u64 {
            let (log, tenant) = (nodes[usize::try_from(i).unwrap() % nodes.len()].clone(), tenant.clone());
            // Each of them would create another key: only one may.
            let submission = at(&tenant, NOW, tenant.create_key(100 * round + i), key(&format!("k{round}"), 1));
            all.spawn(async move { log.transact(submission).await.unwrap() });
        }
        let outcomes = all.join_all().await;
        let done = outcomes.iter().filter(|o| matches!(o, Outcome::Done(_))).count();
        assert_eq!(done, 1, "round {round}");
        let answers: Vec<_> = outcomes.into_iter().filter_map(answer).collect();
        assert!(answers.windows(2).all(|two| two[0] == two[1]));
        assert_eq!(nodes[0].head(&tenant.id).await.unwrap().position, 4 + round);
    }
}

/// Sixteen requests with one key at the same time have one effect and one answer.
pub async fn sixteen_at_once_with_one_key_have_one_effect(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    race(&[log], &tenant).await;
}

/// The same, half of them on another node.
pub async fn sixteen_at_once_on_two_nodes_have_one_effect(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    race(&[log, open(store).await], &tenant).await;
}

/// A repetition right behind its original, decided in the same batch, gets its answer.
pub async fn a_repetition_in_the_same_batch_gets_the_first_ones_answer(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let wish = |n, body| boxed(log.transact(at(&tenant, NOW, tenant.create_key(n), key("k", body))));
    let outcomes = as_one_batch(&log, &tenant, vec![wish(1, 1), wish(2, 1), wish(3, 2), wish(4, 1)]).await;
    assert!(matches!(&outcomes[0], Ok(Outcome::Done(appended)) if appended.records.len() == 1));
    for repeated in [&outcomes[1], &outcomes[3]] {
        assert!(matches!(repeated, Ok(Outcome::Repeated(answer)) if answer.headers[0].1 == "/4"));
    }
    assert!(matches!(&outcomes[2], Err(TransactError::IdempotencyMismatch)));
    assert_eq!(log.head(&tenant.id).await.unwrap().position, 4);
}

/// The same key with another body is refused, the first answer stays.
pub async fn another_request_under_a_used_key_is_refused(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    create(&log, &tenant, 1, key("k", 1)).await;
    let refused = log.transact(at(&tenant, NOW, tenant.create_key(2), key("k", 2))).await;
    assert!(matches!(refused, Err(TransactError::IdempotencyMismatch)));
    assert!(create(&log, &tenant, 1, key("k", 1)).await.is_some());
    // Another endpoint is another key.
    let elsewhere = Idempotency { scope: "POST /y".to_owned(), ..key("k", 2) };
    assert_eq!(create(&log, &tenant, 2, elsewhere).await, None);
}

/// An answer is kept for 24 hours by the submission's clock; then its key may be used for something else.
pub async fn a_key_is_free_again_after_24_hours_and_not_before(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    create(&log, &tenant, 1, key("k", 1)).await;
    let before = log.transact(at(&tenant, NOW + DAY - 1, tenant.create_key(2), key("k", 2))).await;
    assert!(matches!(before, Err(TransactError::IdempotencyMismatch)));
    // A rejected command under the expired key leaves it free.
    let rejected = log.transact(at(&tenant, NOW + DAY, tenant.rename(9, "x"), key("k", 3))).await;
    assert!(matches!(rejected, Err(TransactError::Rejected(_))));
    let after = log.transact(at(&tenant, NOW + DAY, tenant.create_key(2), key("k", 2))).await.unwrap();
    assert!(answer(after).is_none());
    let repeated = log.transact(at(&tenant, NOW + DAY + 1, tenant.create_key(3), key("k", 2))).await.unwrap();
    assert_eq!(answer(repeated).unwrap().headers[0].1, "/5");
    assert_eq!(log.drop_expired_answers(NOW + 2 * DAY, 10).await.unwrap(), 0);
    assert_eq!(log.drop_expired_answers(NOW + 2 * DAY + 1, 10).await.unwrap(), 1);
    assert_eq!(log.drop_expired_answers(NOW + 2 * DAY + 1, 10).await.unwrap(), 0);
}

/// Two teams may use the same key for different things.
pub async fn the_same_key_of_two_teams_is_two_keys(store: &impl Store) {
    let log = open(store).await;
    for n in 1..=2 {
        let tenant = Tenant::create(n, &log, Limits::default()).await;
        assert_eq!(create(&log, &tenant, 1, key("k", u8::try_from(n).unwrap())).await, None);
    }
}

/// What was refused may be tried again under its key, whether a rule or another team's address was in the way.
pub async fn a_rejected_command_does_not_burn_its_key(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits { active_keys: 1, ..Limits::default() }).await;
    create(&log, &tenant, 1, key("first", 1)).await;
    let wish = || -> Submission<CreateTeamKey> { at(&tenant, NOW, tenant.create_key(2), key("k", 1)) };
    assert!(matches!(log.transact(wish()).await, Err(TransactError::Rejected(_))));
    let revoke = domain::api_key::RevokeKey { key: tenant.key(1), mailbox: None };
    log.transact(tenant.submit(revoke)).await.unwrap();
    assert!(matches!(log.transact(wish()).await.unwrap(), Outcome::Done(a) if a.records.len() == 1));
    assert!(answer(log.transact(wish()).await.unwrap()).is_some());

    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    let wish = || -> Submission<OpenMailbox> { at(&tenant, NOW, tenant.open_as(2, 1), key("address", 1)) };
    assert!(matches!(log.transact(wish()).await, Err(TransactError::Taken(_))));
    let close = domain::mailbox::CloseMailbox { mailbox: tenant.mailbox(1) };
    log.transact(tenant.submit(close)).await.unwrap();
    assert!(matches!(log.transact(wish()).await.unwrap(), Outcome::Done(_)));
}
