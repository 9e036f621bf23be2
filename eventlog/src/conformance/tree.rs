//! The tree over a log is the log's, and nothing is signed that is not so.

use domain::team::Limits;
use domain::testing::NOW;

use super::Store;
use super::support::{Tenant, open};
use crate::checkpoint::{BadNote, SigningKey};
use crate::merkle::{self, Hash};
use crate::{CheckpointRow, EventLog, Growth, Refusal, SignError, Signer};

fn signer(every_events: u64) -> Signer {
    Signer { key: SigningKey::unnamed(&[7; 32]), retired: vec![], every_events, posts: true }
}

/// Appends so many events.
async fn append(log: &EventLog, tenant: &Tenant, tag: &str, count: usize) {
    let renames = (0..count).map(|n| log.transact(tenant.submit(tenant.rename(1, &format!("{tag}{n}")))));
    for renamed in futures_util::future::join_all(renames).await {
        renamed.unwrap();
    }
}

async fn tenant(log: &EventLog, n: u64) -> Tenant {
    let tenant = Tenant::create(n, log, Limits::default()).await;
    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    tenant
}

async fn grow(log: &EventLog, tenant: &Tenant, signer: &Signer, up_to_head: bool) -> Option<Growth> {
    let growth = log.sign_growth(&tenant.id, signer, NOW, up_to_head).await.unwrap();
    log.keep_growth(growth.as_slice()).await.unwrap();
    growth
}

/// Returns the roots of the log at every size, counted without the stored tree.
async fn roots(log: &EventLog, tenant: &Tenant) -> (Vec<Hash>, Vec<Hash>) {
    let (mut frontier, mut leaves) = (merkle::Frontier::default(), vec![]);
    let mut roots = vec![frontier.root()];
    for record in tenant.stored(log).await {
        leaves.push(merkle::leaf(&record.hash));
        frontier.push(merkle::leaf(&record.hash), |_, _| {});
        roots.push(frontier.root());
    }
    (leaves, roots)
}

async fn assert_proven(log: &EventLog, tenant: &Tenant, signer: &Signer) {
    let (leaves, roots) = roots(log, tenant).await;
    let checkpoints = log.checkpoints(&tenant.id, 0, 1_000).await.unwrap();
    for row in &checkpoints {
        let read = signer.key.public().checkpoint(&row.note).unwrap();
        let root = roots[usize::try_from(row.size).unwrap()];
        assert_eq!((read.size, read.root, read.origin), (row.size, root, signer.key.public().origin(&tenant.id)));
        assert_eq!(log.checkpoint(&tenant.id, row.size).await.unwrap().as_ref(), Some(row));
        for position in (1..=row.size).step_by(17).chain([row.size]) {
            let proof = log.prove_inclusion(&tenant.id, position, row.size).await.unwrap().unwrap();
            let leaf = &leaves[usize::try_from(position - 1).unwrap()];
            assert!(merkle::verify_inclusion(position - 1, row.size, leaf, &proof.hashes, &root), "{position}");
        }
        for from in (1..=row.size).step_by(13) {
            let proof = log.prove_consistency(&tenant.id, from, row.size).await.unwrap().unwrap();
            let before = roots[usize::try_from(from).unwrap()];
            assert!(merkle::verify_consistency(from, row.size, &before, &root, &proof.hashes), "{from} {}", row.size);
        }
    }
    let last = checkpoints.last().unwrap();
    assert_eq!(log.last_checkpoint(&tenant.id).await.unwrap().as_ref(), Some(last));
    for (position, size) in [(1, last.size + 1), (0, last.size), (last.size + 1, last.size), (1, 0)] {
        assert_eq!(log.prove_inclusion(&tenant.id, position, size).await.unwrap(), None);
        assert_eq!(log.prove_consistency(&tenant.id, position, size).await.unwrap(), None);
    }
}

/// Checkpoints come at every so many records and at the head if asked; every record and every earlier size is proven from
/// the stored tree, also after a restart, and an erasure changes none of it.
pub async fn checkpoints_prove_every_record(store: &impl Store) {
    let (log, signer) = (open(store).await, signer(25));
    let (tenant, other) = (tenant(&log, 1).await, tenant(&log, 2).await);
    append(&log, &tenant, "a", 56).await;
    let grown = grow(&log, &tenant, &signer, false).await.unwrap();
    assert_eq!(grown.checkpoints.iter().map(|c| c.size).collect::<Vec<_>>(), [25, 50]);
    assert_eq!(grow(&log, &tenant, &signer, false).await, None);
    let head = log.head(&tenant.id).await.unwrap().position;
    assert_eq!(grow(&log, &tenant, &signer, true).await.unwrap().checkpoints[0].size, head);
    assert_eq!(grow(&log, &tenant, &signer, true).await, None);
    append(&log, &tenant, "b", 470).await;
    let grown = grow(&log, &tenant, &signer, false).await.unwrap();
    assert_eq!((grown.checkpoints.len(), grown.checkpoints[0].size), (18, head + 25));
    append(&log, &tenant, "c", 270).await;
    grow(&log, &tenant, &signer, true).await.unwrap();
    assert_proven(&log, &tenant, &signer).await;
    let erased = log.erase_personal(&tenant.id, &[5, 6, 7, 300]).await.unwrap();
    assert!(erased > 0);
    store.restart().await;
    let log = open(store).await;
    append(&log, &tenant, "d", 3).await;
    grow(&log, &tenant, &signer, true).await.unwrap();
    assert_proven(&log, &tenant, &signer).await;
    assert_eq!(log.last_checkpoint(&other.id).await.unwrap(), None);
    assert_eq!(log.prove_inclusion(&other.id, 1, 1).await.unwrap(), None);
    let head = log.head(&tenant.id).await.unwrap().position;
    let listed = log.signed(None, 10).await.unwrap();
    let listed: Vec<_> = listed.into_iter().map(|s| (s.team, s.head, s.size)).collect();
    let other_head = log.head(&other.id).await.unwrap().position;
    assert_eq!(listed, [(tenant.id.clone(), head, head), (other.id.clone(), other_head, 0)]);
    assert_eq!(log.signed(Some(&tenant.id), 10).await.unwrap().len(), 1);
}

/// Two nodes that sign the same log at the same time write parts of one tree, whoever comes first.
pub async fn two_nodes_that_sign_at_once_agree(store: &impl Store) {
    let (one, two, signer) = (open(store).await, open(store).await, signer(1_000));
    for (n, first_is_shorter) in [(1, true), (2, false)] {
        let tenant = tenant(&one, n).await;
        append(&one, &tenant, "a", 290).await;
        grow(&one, &tenant, &signer, true).await.unwrap();
        append(&one, &tenant, "b", 30).await;
        let shorter = one.sign_growth(&tenant.id, &signer, NOW, true).await.unwrap().unwrap();
        append(&one, &tenant, "c", 230).await;
        let longer = two.sign_growth(&tenant.id, &signer, NOW, true).await.unwrap().unwrap();
        let (first, second) = if first_is_shorter { (shorter, longer) } else { (longer, shorter) };
        one.keep_growth(std::slice::from_ref(&first)).await.unwrap();
        two.keep_growth(&[second]).await.unwrap();
        two.keep_growth(&[first]).await.unwrap();
        append(&one, &tenant, "d", 10).await;
        grow(&two, &tenant, &signer, true).await.unwrap();
        assert_eq!(one.checkpoints(&tenant.id, 0, 10).await.unwrap().len(), 4);
        assert_proven(&one, &tenant, &signer).await;
    }
}

async fn refused(log: &EventLog, tenant: &Tenant, signer: &Signer) -> Refusal {
    match log.sign_growth(&tenant.id, signer, NOW, true).await {
        Err(SignError::Refused(refusal)) => refusal,
        other => panic!("it was not refused: {other:?}"),
    }
}

/// Nothing is signed behind a checkpoint that does not fit the log, or that nobody known has signed.
pub async fn nothing_is_signed_that_does_not_go_on_from_the_last_checkpoint(store: &impl Store) {
    let (log, signer) = (open(store).await, signer(1_000));
    let tenant = tenant(&log, 1).await;
    append(&log, &tenant, "a", 20).await;
    grow(&log, &tenant, &signer, true).await.unwrap();
    append(&log, &tenant, "b", 20).await;
    // Another key takes over only where this one is known to it.
    let mut next = Signer { key: SigningKey::unnamed(&[8; 32]), ..signer.clone() };
    let why = BadNote::Unsigned(next.key.public().name().to_owned());
    let size = log.last_checkpoint(&tenant.id).await.unwrap().unwrap().size;
    assert_eq!(refused(&log, &tenant, &next).await, Refusal::Note { team: tenant.id.clone(), size, why });
    next.retired.push(signer.key.public().clone());
    assert!(log.sign_growth(&tenant.id, &next, NOW, true).await.unwrap().is_some());
    let forge = |size: u64, root: Hash| Growth {
        team: tenant.id.clone(),
        tiles: vec![],
        checkpoints: vec![CheckpointRow {
            size,
            made_at: NOW,
            note: signer.key.sign_checkpoint(&tenant.id, size, root),
            is_posted: true,
        }],
    };
    let head = log.head(&tenant.id).await.unwrap().position;
    log.keep_growth(&[forge(head - 1, [1; 32])]).await.unwrap();
    assert_eq!(refused(&log, &tenant, &signer).await, Refusal::Tree { team: tenant.id.clone(), size: head - 1 });
    log.keep_growth(&[forge(head + 1, [1; 32])]).await.unwrap();
    assert_eq!(
        refused(&log, &tenant, &signer).await,
        Refusal::Shorter { team: tenant.id.clone(), head, size: head + 1 }
    );
}

/// What is to be posted is found, oldest first, until it is marked.
pub async fn what_is_to_be_posted_is_found_until_it_is_marked(store: &impl Store) {
    let (log, mut signer) = (open(store).await, signer(10));
    let (one, two) = (tenant(&log, 1).await, tenant(&log, 2).await);
    append(&log, &one, "a", 20).await;
    grow(&log, &one, &signer, false).await.unwrap();
    grow(&log, &two, &signer, true).await.unwrap();
    signer.posts = false;
    append(&log, &one, "b", 1).await;
    grow(&log, &one, &signer, true).await.unwrap();
    let due = log.unposted(10).await.unwrap();
    let mut found: Vec<_> = due.iter().map(|(team, row)| (team.clone(), row.size)).collect();
    found.sort();
    let two_size = log.head(&two.id).await.unwrap().position;
    assert_eq!(found, [(one.id.clone(), 10), (one.id.clone(), 20), (two.id.clone(), two_size)]);
    log.mark_posted(&found[..2]).await.unwrap();
    store.restart().await;
    let log = open(store).await;
    let due = log.unposted(10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((&due[0].0, due[0].1.is_posted), (&two.id, false));
    assert!(log.last_checkpoint(&one.id).await.unwrap().unwrap().is_posted);
}
