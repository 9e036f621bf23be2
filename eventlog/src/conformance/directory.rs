//! What must be unique in the whole installation.

use domain::api_key::{CreateTeamKey, RevokeKey, RotateKey};
use domain::id::{DomainId, MailboxId};
use domain::mailbox::CloseMailbox;
use domain::team::Limits;
use tokio::task::JoinSet;

use super::Store;
use super::support::{Tenant, as_one_batch, boxed, open};
use crate::{DirectoryKey, DirectoryTarget, EventLog, Outcome, TransactError};

fn address(tenant: &Tenant, n: u64) -> DirectoryKey {
    DirectoryKey::Address(tenant.address(n).canonical())
}

async fn mailbox_of(log: &EventLog, key: &DirectoryKey) -> Option<MailboxId> {
    match log.find(key).await.unwrap()?.target {
        DirectoryTarget::Mailbox { id } => Some(id),
        other => panic!("{other:?}"),
    }
}

/// An address leads to one mailbox of one team; once that is closed it may be taken again, also by another team.
pub async fn an_address_is_unique_across_teams_until_it_is_closed(store: &impl Store) {
    let log = open(store).await;
    let a = Tenant::create(1, &log, Limits::default()).await;
    let b = Tenant::create(2, &log, Limits::default()).await;
    log.transact(a.submit(a.open(1))).await.unwrap();
    assert_eq!(log.find(&address(&a, 1)).await.unwrap().unwrap().team, a.id);

    // A domain belongs to one team; so does an address.
    let stolen = domain::sending_domain::AddVerifiedDomain { domain: DomainId::new(1, [9; 9]), ..a.add_domain() };
    let refused = log.transact(b.submit(stolen)).await;
    assert!(matches!(refused, Err(TransactError::Taken(DirectoryKey::Domain(name))) if name == "t1.example.org"));
    let refused = log.transact(a.submit(a.open_as(2, 1))).await;
    assert!(matches!(refused, Err(TransactError::Taken(key)) if key == address(&a, 1)));
    assert_eq!(log.head(&a.id).await.unwrap().position, 4);
    assert_eq!(log.head(&b.id).await.unwrap().position, 3);

    log.transact(a.submit(CloseMailbox { mailbox: a.mailbox(1) })).await.unwrap();
    assert_eq!(log.find(&address(&a, 1)).await.unwrap(), None);
    log.transact(a.submit(a.open_as(2, 1))).await.unwrap();
    assert_eq!(mailbox_of(&log, &address(&a, 1)).await, Some(a.mailbox(2)));
    // The wish that opened it stays fulfilled; another one for the closed mailbox does not come back to life.
    let refused = log.transact(a.submit(a.open(1))).await;
    assert!(matches!(refused, Err(TransactError::Rejected(domain::mailbox::Rejected::Exists))));

    // A domain that its team gave up is free for others.
    let given_up = domain::sending_domain::RemoveDomain { domain: b.add_domain().domain };
    log.transact(b.submit(given_up)).await.unwrap();
    assert_eq!(log.find(&DirectoryKey::Domain("t2.example.org".into())).await.unwrap(), None);
    let taken_over = domain::sending_domain::AddVerifiedDomain { domain: DomainId::new(1, [8; 9]), ..b.add_domain() };
    log.transact(a.submit(taken_over)).await.unwrap();
}

/// A key's digest authenticates until the key is revoked, rotated away or its mailbox closed.
pub async fn a_key_digest_is_gone_once_it_is_revoked(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let lookup = |n| DirectoryKey::KeyLookup(tenant.minted(n).lookup);
    log.transact(tenant.submit(tenant.create_key(1))).await.unwrap();
    let entry = log.find(&lookup(1)).await.unwrap().unwrap();
    assert!(matches!(entry.target, DirectoryTarget::Key { id, mailbox: None, .. } if id == tenant.key(1)));
    let rotate = RotateKey { old: tenant.key(1), minted: tenant.minted(2), revoke_old: true };
    log.transact(tenant.submit(rotate)).await.unwrap();
    assert_eq!(log.find(&lookup(1)).await.unwrap(), None);
    assert!(log.find(&lookup(2)).await.unwrap().is_some());
    log.transact(tenant.submit(RevokeKey { key: tenant.key(2), mailbox: None })).await.unwrap();
    assert_eq!(log.find(&lookup(2)).await.unwrap(), None);

    let mut opening = tenant.open(1);
    opening.credential = Some((tenant.minted(3), domain::permission::Preset::ReadOnly.permissions()));
    log.transact(tenant.submit(opening)).await.unwrap();
    assert!(log.find(&lookup(3)).await.unwrap().is_some());
    log.transact(tenant.submit(CloseMailbox { mailbox: tenant.mailbox(1) })).await.unwrap();
    assert_eq!(log.find(&lookup(3)).await.unwrap(), None);
}

/// Two commands of one batch cannot take one key; the rest of the batch is not disturbed.
pub async fn one_of_two_claims_in_one_batch_wins(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    log.transact(tenant.submit(tenant.open_as(9, 9))).await.unwrap();
    let wish = |n, at| boxed(log.transact(tenant.submit(tenant.open_as(n, at))));
    let outcomes = as_one_batch(&log, &tenant, vec![wish(1, 1), wish(2, 1), wish(3, 9), wish(4, 4)]).await;
    assert!(matches!(&outcomes[0], Ok(Outcome::Done(_))));
    assert!(matches!(&outcomes[1], Err(TransactError::Taken(key)) if *key == address(&tenant, 1)));
    assert!(matches!(&outcomes[2], Err(TransactError::Taken(key)) if *key == address(&tenant, 9)));
    assert!(matches!(&outcomes[3], Ok(Outcome::Done(_))));
    assert_eq!(mailbox_of(&log, &address(&tenant, 1)).await, Some(tenant.mailbox(1)));
    assert_eq!(log.head(&tenant.id).await.unwrap().position, 6);
}

/// What a batch both claims and releases is free afterwards.
pub async fn a_claim_and_its_release_in_one_batch_leave_nothing(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    let close = || CloseMailbox { mailbox: tenant.mailbox(1) };
    let outcomes = as_one_batch(
        &log,
        &tenant,
        vec![
            boxed(async { log.transact(tenant.submit(tenant.open(1))).await.is_ok() }),
            boxed(async { log.transact(tenant.submit(close())).await.is_ok() }),
        ],
    )
    .await;
    assert_eq!(outcomes, [true, true]);
    assert_eq!(log.head(&tenant.id).await.unwrap().position, 5);
    assert_eq!(log.find(&address(&tenant, 1)).await.unwrap(), None);
    log.transact(tenant.submit(tenant.open_as(2, 1))).await.unwrap();
}

/// Within a batch, a release counts for what comes after it and not for what came before.
pub async fn a_release_frees_a_key_for_what_comes_after_it_in_the_batch(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    let open = |n| log.transact(tenant.submit(tenant.open_as(n, 1)));
    let open_as = |n| boxed(async move { open(n).await.is_ok() });
    let close = boxed(async { log.transact(tenant.submit(CloseMailbox { mailbox: tenant.mailbox(1) })).await.is_ok() });
    let outcomes = as_one_batch(&log, &tenant, vec![open_as(2), close, open_as(3), open_as(4)]).await;
    assert_eq!(outcomes, [false, true, true, false]);
    assert_eq!(mailbox_of(&log, &address(&tenant, 1)).await, Some(tenant.mailbox(3)));
}

/// A command that is refused because a key is taken leaves the directory as it was, beside others that are written.
pub async fn a_refused_command_releases_nothing(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    for n in [1, 2] {
        log.transact(tenant.submit(tenant.create_key(n))).await.unwrap();
    }
    // The new secret collides with key 2, so key 1 must stay.
    let mut minted = tenant.minted(3);
    minted.lookup = tenant.minted(2).lookup;
    let rotate = RotateKey { old: tenant.key(1), minted, revoke_old: true };
    let outcomes = as_one_batch(
        &log,
        &tenant,
        vec![
            boxed(async { log.transact(tenant.submit(rotate)).await.map(drop).map_err(|e| e.to_string()) }),
            boxed(async { log.transact(tenant.submit(tenant.open(1))).await.map(drop).map_err(|e| e.to_string()) }),
        ],
    )
    .await;
    assert!(outcomes[0].as_ref().is_err_and(|e| e.contains("is taken")), "{outcomes:?}");
    assert_eq!(outcomes[1], Ok(()));
    assert!(log.find(&DirectoryKey::KeyLookup(tenant.minted(1).lookup)).await.unwrap().is_some());
    let again: CreateTeamKey = tenant.create_key(1);
    assert!(log.transact(tenant.submit(again)).await.unwrap().done().unwrap().records.is_empty());
}

/// Of two nodes that want one address at the same time, one gets it; the other is told so.
pub async fn one_of_two_nodes_wins_an_address(store: &impl Store) {
    let nodes = [open(store).await, open(store).await];
    let tenant = Tenant::create(1, &nodes[0], Limits::default()).await;
    for round in 0..15u64 {
        let mut both = JoinSet::new();
        for (i, node) in (0u64..).zip(nodes.clone()) {
            let (tenant, n) = (tenant.clone(), 10 * round + i + 1);
            both.spawn(async move { node.transact(tenant.submit(tenant.open_as(n, round))).await.map(|_| n) });
        }
        let outcomes = both.join_all().await;
        let won: Vec<_> = outcomes.iter().flatten().copied().collect();
        assert_eq!(won.len(), 1, "round {round}: {outcomes:?}");
        assert!(outcomes.iter().any(|o| matches!(o, Err(TransactError::Taken(_)))));
        assert_eq!(mailbox_of(&nodes[1], &address(&tenant, round)).await, Some(tenant.mailbox(won[0])));
        let close = CloseMailbox { mailbox: tenant.mailbox(won[0]) };
        nodes[usize::try_from(round % 2).unwrap()].transact(tenant.submit(close)).await.unwrap();
    }
}
