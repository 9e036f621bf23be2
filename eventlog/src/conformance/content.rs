//! Bytes come back equal.

use bytes::Bytes;
use domain::mailbox::{ChangeMailbox, FilterMode, ReplaceSenderRules, SendScope, SenderRule};
use domain::team::Limits;
use domain::testing::NOW;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::Store;
use super::atomic::follow;
use super::support::{Tenant, open, open_with, options};
use crate::{AppendError, Batch, Head, INLINE_BYTES_MAX, SecretText, StoredPersonal, chain};

/// Events read back, also after a restart, are the events that were answered.
pub async fn bytes_come_back_equal(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let mut answered = vec![];
    let mut keep = |appended: Option<Vec<crate::Recorded>>| answered.extend(appended.unwrap());
    keep(log.transact(tenant.submit(tenant.open(1))).await.unwrap().done().map(|a| a.records));
    for (i, text) in
        ["", "é", "\u{1F469}\u{200D}\u{1F680} \u{202E}rtl", "'; DROP TABLE events; --", "\" \\ \n \t \u{1}", "\u{0}"]
            .into_iter()
            .enumerate()
    {
        let command = ChangeMailbox {
            mailbox: tenant.mailbox(1),
            display_name: Some(Some(text.to_owned())),
            quota_bytes: Some([i64::MAX, i64::MIN, 0, -1, 9_007_199_254_740_993, 1][i]),
            send_scope: Some(SendScope::Group { group_public_ids: vec![text.to_owned(), String::new()] }),
            if_version: None,
        };
        let submission = tenant.submit(command).from_ip(format!("2001:db8::{i}"));
        keep(log.transact(submission).await.unwrap().done().map(|a| a.records));
    }
    let rules = vec![SenderRule { pattern: "例え.example".to_owned(), note: Some(String::new()) }; 200];
    let replace = ReplaceSenderRules { mailbox: tenant.mailbox(1), mode: FilterMode::Off, rules, if_version: None };
    keep(log.transact(tenant.submit(replace)).await.unwrap().done().map(|a| a.records));
    let mut long = tenant.receive(1, 1);
    long.facts.spam_rules = vec!["x".repeat(70_000)];
    long.personal.subject = Some("\u{FFFD}\u{10FFFF}".repeat(10_000));
    let caused = domain::id::EventId::new(&tenant.id, 1, 3);
    keep(log.transact(tenant.submit(long).caused_by(&caused)).await.unwrap().done().map(|a| a.records));

    assert_eq!(tenant.history(&log).await[3..], answered);
    assert_eq!(answered.last().unwrap().causation, Some(caused.to_string()));
    let stored = tenant.stored(&log).await;
    for (record, stored) in answered.iter().zip(&stored[3..]) {
        let encoded = record.event.encode();
        assert_eq!((&stored.facts, &stored.name), (&encoded.facts, &encoded.name));
    }
    log.close().await;
    store.restart().await;
    let log = open(store).await;
    assert_eq!(tenant.stored(&log).await, stored);
    assert_eq!(tenant.history(&log).await[3..], answered);
}

/// Random texts in every column come back equal. A text the engine cannot hold is refused, and nothing is written.
pub async fn any_text_comes_back_equal_or_is_refused_alone(store: &impl Store) {
    let backend = store.node().await;
    let tenant = Tenant::new(1);
    let mut head = Head::empty(1);
    let mut written = vec![];
    let mut runner = TestRunner::deterministic();
    let text = proptest::prelude::any::<String>();
    for n in 1..=60u64 {
        let mut sample = || text.new_tree(&mut runner).unwrap().current();
        let (facts, json, actor, causation, correlation) = (sample(), sample(), sample(), sample(), sample());
        let mut next = head;
        let mut record = follow(&tenant, &mut next, &format!("mailbox/{n}"), n);
        let personal = StoredPersonal { salt: [u8::try_from(n).unwrap(); 16], json };
        record.personal_digest = Some(chain::personal_digest(&personal));
        (record.personal, record.facts, record.actor, record.correlation) = (Some(personal), facts, actor, correlation);
        record.causation = Some(causation).filter(|_| n % 3 != 0);
        if n % 5 == 0 {
            (record.personal, record.personal_digest) = (None, None);
        }
        record.at = i64::MIN + i64::try_from(n).unwrap();
        record.hash = chain::hash(&head.hash, &record);
        next.hash = record.hash;
        let has_nul = [&record.facts, &record.actor, &record.correlation]
            .into_iter()
            .chain(&record.causation)
            .chain(record.personal.as_ref().map(|p| &p.json))
            .any(|text| text.contains('\0'));
        let batch = Batch {
            records: vec![record.clone()],
            heads: vec![(tenant.id.clone(), next)],
            at: NOW,
            ..Batch::default()
        };
        match backend.append(&batch).await {
            Ok(()) => {
                written.push(record);
                head = next;
            }
            Err(AppendError::Refused(_)) if has_nul => {}
            Err(e) => panic!("{e}: {record:?}"),
        }
        assert_eq!(backend.read(&tenant.id, 0, 1_000).await.unwrap(), written);
    }
    assert!(written.len() > 20);
}

/// Bodies of every size come back equal, inline or from the object store, also after a restart.
pub async fn bodies_come_back_equal(store: &impl Store) {
    let options = options();
    let log = open_with(store, options.clone()).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    let sizes = [0, 1, 255, 4_096, INLINE_BYTES_MAX - 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 1 << 20];
    let body = |size: usize| -> Bytes { (0..size).map(|i| u8::try_from((i * 7 + size) % 256).unwrap()).collect() };
    for (n, size) in (1u64..).zip(sizes) {
        let staged = log.stage_blob(&tenant.id, &tenant.blob(n), body(size)).await.unwrap();
        assert_eq!(log.blob(&tenant.id, &tenant.blob(n)).await.unwrap(), None, "staged is not stored");
        log.transact(tenant.submit(tenant.receive(n, 1)).with_blob(tenant.blob(n), staged)).await.unwrap();
    }
    for restarted in [false, true] {
        let log = if restarted {
            store.restart().await;
            open_with(store, options.clone()).await
        } else {
            log.clone()
        };
        for (n, size) in (1u64..).zip(sizes) {
            let found = log.blob(&tenant.id, &tenant.blob(n)).await.unwrap().unwrap();
            assert!(found == body(size), "{size} bytes came back as {}", found.len());
            let row = store.node().await.blob(&tenant.id, &tenant.blob(n)).await.unwrap().unwrap();
            assert_eq!((row.size_bytes, row.inline.is_some()), (size as i64, size <= INLINE_BYTES_MAX));
        }
        assert_eq!(log.blob(&tenant.id, &tenant.blob(99)).await.unwrap(), None);
    }
}

/// An erased body, inline or not, is gone for good; the log is as it was.
pub async fn an_erased_body_is_gone_and_its_event_stays(store: &impl Store) {
    let log = open(store).await;
    let (tenant, other) =
        (Tenant::create(1, &log, Limits::default()).await, Tenant::create(2, &log, Limits::default()).await);
    for tenant in [&tenant, &other] {
        log.transact(tenant.submit(tenant.open(1))).await.unwrap();
        for (n, size) in [(1, 10), (2, INLINE_BYTES_MAX + 1), (3, 20)] {
            let staged = log.stage_blob(&tenant.id, &tenant.blob(n), Bytes::from(vec![b'x'; size])).await.unwrap();
            log.transact(tenant.submit(tenant.receive(n, 1)).with_blob(tenant.blob(n), staged)).await.unwrap();
        }
    }
    let before = tenant.history(&log).await;
    let ids = [tenant.blob(1), tenant.blob(2), tenant.blob(9)];
    assert_eq!(log.erase_blobs(&tenant.id, &ids).await.unwrap(), 2);
    assert_eq!(log.erase_blobs(&tenant.id, &ids).await.unwrap(), 0);
    for n in [1, 2] {
        assert_eq!(log.blob(&tenant.id, &tenant.blob(n)).await.unwrap(), None);
        assert!(log.blob(&other.id, &other.blob(n)).await.unwrap().is_some(), "another team's body");
    }
    assert!(log.blob(&tenant.id, &tenant.blob(3)).await.unwrap().is_some());
    assert_eq!(tenant.history(&log).await, before);
}

/// Secrets come back equal, and only for their team, id and purpose; the store never sees them in clear.
pub async fn secrets_come_back_equal_and_only_in_their_place(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let secrets = [vec![], b"whsec_x".to_vec(), (0..=255).collect::<Vec<u8>>(), vec![0; 10_000]];
    for (n, secret) in (1u64..).zip(&secrets) {
        let submission = tenant.submit(tenant.create_key(n));
        log.transact(submission.with_secret(tenant.secret(n), "webhook", SecretText::new(secret.clone())))
            .await
            .unwrap();
    }
    for (n, secret) in (1u64..).zip(&secrets) {
        let found = log.secret(&tenant.id, &tenant.secret(n), "webhook").await.unwrap().unwrap();
        assert_eq!(found.expose(), secret);
        assert!(log.secret(&tenant.id, &tenant.secret(n), "dkim").await.is_err());
        let sealed = store.node().await.secret(&tenant.id, &tenant.secret(n)).await.unwrap().unwrap();
        assert!(secret.is_empty() || !sealed.windows(secret.len()).any(|window| window == secret));
    }
    assert!(log.secret(&tenant.id, &tenant.secret(9), "webhook").await.unwrap().is_none());
    let other = crate::Options { master_key: crate::MasterKey::new(&[8; 32]), ..options() };
    let wrong = open_with(store, other).await.secret(&tenant.id, &tenant.secret(2), "webhook").await;
    assert!(matches!(wrong, Err(crate::LogError::Seal(_))));
}

/// After a rotation of the master key every secret is sealed with the new one, and the old one opens none.
pub async fn secrets_are_sealed_anew_under_another_master_key(store: &impl Store) {
    let log = open(store).await;
    let (tenant, other) =
        (Tenant::create(1, &log, Limits::default()).await, Tenant::create(2, &log, Limits::default()).await);
    let place = |n: u64| if n.is_multiple_of(2) { "webhook" } else { "dkim" };
    for n in 1..=5 {
        let secret = SecretText::new(format!("secret {n}").into_bytes());
        log.transact(tenant.submit(tenant.create_key(n)).with_secret(tenant.secret(n), place(n), secret))
            .await
            .unwrap();
    }
    log.transact(other.submit(other.create_key(1)).with_secret(other.secret(1), "webhook", SecretText::new(vec![1])))
        .await
        .unwrap();
    let (new, old) = (crate::MasterKey::new(&[8; 32]), crate::MasterKey::new(&[7; 32]));
    let both = open_with(store, crate::Options { master_key: new.clone().with_previous(&[7; 32]), ..options() }).await;
    // Two at a time, and one purpose is forgotten at first: those stay as they are, and are named.
    let (mut after, mut resealed, mut unopened) = (None, 0, 0);
    loop {
        let done = both.reseal(&tenant.id, after.as_ref(), 2, &["webhook"]).await.unwrap();
        (resealed, unopened) = (resealed + done.resealed, unopened + done.unopened.len());
        let Some(last) = done.last else { break };
        after = Some(last);
    }
    assert_eq!((resealed, unopened), (2, 3));
    let done = both.reseal(&tenant.id, None, 100, &["webhook", "dkim"]).await.unwrap();
    assert_eq!((done.resealed, done.unopened.len()), (3, 0));
    assert_eq!(both.reseal(&tenant.id, None, 100, &["webhook", "dkim"]).await.unwrap().resealed, 0);
    let fresh = open_with(store, crate::Options { master_key: new, ..options() }).await;
    let stale = open_with(store, crate::Options { master_key: old, ..options() }).await;
    for n in 1..=5 {
        let found = fresh.secret(&tenant.id, &tenant.secret(n), place(n)).await.unwrap().unwrap();
        assert_eq!(found.expose(), format!("secret {n}").as_bytes());
        assert!(stale.secret(&tenant.id, &tenant.secret(n), place(n)).await.is_err());
    }
    assert!(stale.secret(&other.id, &other.secret(1), "webhook").await.is_ok(), "another team's are not touched");
}

/// A secret that changed since it was read is not overwritten.
pub async fn a_secret_that_changed_meanwhile_is_not_replaced(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let submission = tenant.submit(tenant.create_key(1));
    log.transact(submission.with_secret(tenant.secret(1), "webhook", SecretText::new(vec![1]))).await.unwrap();
    let node = store.node().await;
    let read = node.secrets(&tenant.id, None, 10).await.unwrap().remove(0);
    assert!(node.replace_secret(&tenant.id, &read, b"another").await.unwrap());
    assert!(!node.replace_secret(&tenant.id, &read, b"a third").await.unwrap());
    assert_eq!(node.secret(&tenant.id, &read.id).await.unwrap().unwrap(), b"another");
}
