//! All or nothing.

use domain::id::{Position, TeamId};
use domain::team::Limits;
use domain::testing::NOW;

use super::Store;
use super::support::{Tenant, open, positions};
use crate::backend::Backend;
use crate::{
    AnswerKey, AnswerRow, AppendError, Batch, BlobRow, DirectoryEntry, DirectoryKey, DirectoryTarget, Head, SecretRow,
    StoredPersonal, StoredRecord, chain,
};

/// Returns the record that follows a head, and the head after it.
pub(super) fn follow(tenant: &Tenant, head: &mut Head, stream: &str, version: u64) -> StoredRecord {
    let personal =
        StoredPersonal { salt: [9; 16], json: r#"{"event":{"display_name":"Ünïcode \" \\ 👋"}}"#.to_owned() };
    let mut record = StoredRecord {
        team: tenant.id.clone(),
        position: head.position + 1,
        epoch: 1,
        stream: stream.to_owned(),
        stream_version: version,
        name: "mailbox.renamed".to_owned(),
        version: 1,
        facts: format!(r#"{{"mailbox":"{}"}}"#, tenant.mailbox(1)),
        personal_digest: Some(chain::personal_digest(&personal)),
        personal: Some(personal),
        actor: "operator".to_owned(),
        causation: None,
        correlation: "req_1".to_owned(),
        at: NOW,
        hash: chain::GENESIS,
    };
    record.hash = chain::hash(&head.hash, &record);
    *head = Head { epoch: 1, position: record.position, hash: record.hash };
    record
}

/// Returns a batch with something of everything, all of it named by one number.
fn full(tenant: &Tenant, mut head: Head, n: u64) -> Batch {
    let stream = format!("mailbox/{}", tenant.mailbox(n));
    let records = vec![follow(tenant, &mut head, &stream, 1), follow(tenant, &mut head, &stream, 2)];
    Batch {
        links: vec![(tenant.id.clone(), "team".to_owned(), head.position)],
        records,
        heads: vec![(tenant.id.clone(), head)],
        answers: vec![answer(&tenant.id, n)],
        expired_answers: vec![],
        claims: vec![claim(tenant, n)],
        releases: vec![],
        secrets: vec![(tenant.id.clone(), SecretRow { id: tenant.secret(n), sealed: vec![1, 2, 3] })],
        blobs: vec![(
            tenant.id.clone(),
            BlobRow { id: tenant.blob(n), inline: Some(vec![0; 1_000].into()), size_bytes: 1_000 },
        )],
        at: NOW,
    }
}

fn answer(team: &TeamId, n: u64) -> AnswerRow {
    let key = AnswerKey { team: team.clone(), scope: "POST /x".to_owned(), key: format!("key-{n}") };
    AnswerRow { key, fingerprint: [1; 32], status: 201, sealed: vec![0, 255, 7], created_at: NOW }
}

fn claim(tenant: &Tenant, n: u64) -> (DirectoryKey, DirectoryEntry) {
    let target = DirectoryTarget::Mailbox { id: tenant.mailbox(n) };
    (DirectoryKey::Address(format!("box{n}@example.org")), DirectoryEntry { team: tenant.id.clone(), target })
}

/// Everything the store says about the things of the given numbers.
async fn dump(backend: &dyn Backend, tenant: &Tenant, numbers: &[u64]) -> String {
    let heads = backend.heads(std::slice::from_ref(&tenant.id)).await.unwrap();
    let records = backend.read(&tenant.id, 0, 1_000).await.unwrap();
    let mut said = format!("{heads:?}\n{records:?}\n");
    let team = [(tenant.id.clone(), domain::StreamId::Team)];
    said += &format!("{:?}\n", backend.histories(&team).await.unwrap());
    for n in numbers {
        let answers = backend.answers(&[answer(&tenant.id, *n).key]).await.unwrap();
        let claims = backend.directory(&[claim(tenant, *n).0]).await.unwrap();
        let blob = backend.blob(&tenant.id, &tenant.blob(*n)).await.unwrap();
        let secret = backend.secret(&tenant.id, &tenant.secret(*n)).await.unwrap();
        said += &format!("{answers:?}\n{claims:?}\n{blob:?}\n{secret:?}\n");
    }
    said
}

/// What one append wrote is all there, and equal.
pub async fn a_batch_is_written_whole(store: &impl Store) {
    let backend = store.node().await;
    let tenant = Tenant::new(1);
    let batch = full(&tenant, Head::empty(1), 1);
    backend.append(&batch).await.unwrap();
    assert_eq!(backend.heads(std::slice::from_ref(&tenant.id)).await.unwrap(), batch.heads);
    assert_eq!(backend.read(&tenant.id, 0, 10).await.unwrap(), batch.records);
    assert_eq!(backend.read(&tenant.id, 1, 10).await.unwrap(), batch.records[1..]);
    assert_eq!(backend.read(&tenant.id, 0, 1).await.unwrap(), batch.records[..1]);
    assert_eq!(backend.answers(&[batch.answers[0].key.clone()]).await.unwrap(), batch.answers);
    assert_eq!(backend.directory(&[batch.claims[0].0.clone()]).await.unwrap(), batch.claims);
    assert_eq!(backend.blob(&tenant.id, &tenant.blob(1)).await.unwrap(), Some(batch.blobs[0].1.clone()));
    assert_eq!(backend.secret(&tenant.id, &tenant.secret(1)).await.unwrap(), Some(vec![1, 2, 3]));
    let wanted = [
        (tenant.id.clone(), domain::StreamId::Team),
        (tenant.id.clone(), domain::StreamId::Mailbox(tenant.mailbox(1))),
        (tenant.id.clone(), domain::StreamId::Mailbox(tenant.mailbox(2))),
    ];
    let histories = backend.histories(&wanted).await.unwrap();
    assert_eq!(histories[0].records, batch.records[1..]);
    assert_eq!(histories[1].records, batch.records);
    assert_eq!(histories[2].records, []);
    assert_eq!(backend.drop_answers(NOW, 10).await.unwrap(), 0);
    assert_eq!(backend.drop_answers(NOW + 1, 10).await.unwrap(), 1);
    assert!(backend.answers(&[batch.answers[0].key.clone()]).await.unwrap().is_empty());
}

/// Whatever a batch collides on, nothing of it is written; and without the collision it is written.
pub async fn a_conflict_writes_nothing(store: &impl Store) {
    let backend = store.node().await;
    let tenant = Tenant::new(1);
    let first = full(&tenant, Head::empty(1), 1);
    backend.append(&first).await.unwrap();
    let head = first.heads[0].1;
    let before = dump(backend.as_ref(), &tenant, &[1, 2]).await;

    let mut collisions: Vec<(&str, Batch)> = vec![];
    let mut position = full(&tenant, Head::empty(1), 2);
    position.records.iter_mut().for_each(|r| r.stream = "mailbox/other".to_owned());
    collisions.push(("position", position));
    let mut version = full(&tenant, head, 2);
    version.records[1].stream.clone_from(&first.records[0].stream);
    collisions.push(("stream version", version));
    collisions.push(("answer", Batch { answers: first.answers.clone(), ..full(&tenant, head, 2) }));
    collisions.push(("claim", Batch { claims: first.claims.clone(), ..full(&tenant, head, 2) }));
    collisions.push(("secret", Batch { secrets: first.secrets.clone(), ..full(&tenant, head, 2) }));
    collisions.push(("blob", Batch { blobs: first.blobs.clone(), ..full(&tenant, head, 2) }));
    let twice = [claim(&tenant, 2), claim(&tenant, 2)];
    collisions.push(("claim within the batch", Batch { claims: twice.into(), ..full(&tenant, head, 2) }));
    for (what, batch) in collisions {
        let refused = backend.append(&batch).await;
        assert!(matches!(refused, Err(AppendError::Conflict)), "{what}: {refused:?}");
        assert_eq!(dump(backend.as_ref(), &tenant, &[1, 2]).await, before, "{what} wrote something");
        let hold = backend.hold(std::slice::from_ref(&tenant.id)).await.unwrap();
        let refused = hold.append(&batch).await;
        assert!(matches!(refused, Err(AppendError::Conflict)), "{what}, held: {refused:?}");
        assert_eq!(dump(backend.as_ref(), &tenant, &[1, 2]).await, before, "{what} wrote something, held");
    }
    drop(backend.hold(&[tenant.id.clone(), Tenant::new(2).id]).await.unwrap());
    assert_eq!(dump(backend.as_ref(), &tenant, &[1, 2]).await, before, "holding wrote something");
    backend.append(&full(&tenant, head, 2)).await.unwrap();
    let hold = backend.hold(std::slice::from_ref(&tenant.id)).await.unwrap();
    hold.append(&full(&tenant, backend.heads(std::slice::from_ref(&tenant.id)).await.unwrap()[0].1, 3)).await.unwrap();
    assert_eq!(backend.read(&tenant.id, 0, 100).await.unwrap().len(), 6);
}

/// An expired answer makes room for a new one under its key, and a released directory key for a new claim, in one append.
pub async fn an_expired_answer_and_a_released_key_can_be_taken_in_the_batch_that_frees_them(store: &impl Store) {
    let backend = store.node().await;
    let (tenant, other) = (Tenant::new(1), Tenant::new(2));
    let first = full(&tenant, Head::empty(1), 1);
    backend.append(&first).await.unwrap();
    let mut renewed = first.answers[0].clone();
    renewed.status = 409;
    let taken = DirectoryEntry { team: tenant.id.clone(), target: DirectoryTarget::Mailbox { id: tenant.mailbox(2) } };
    let mut batch = full(&tenant, first.heads[0].1, 2);
    batch.expired_answers = vec![renewed.key.clone()];
    batch.answers = vec![renewed.clone()];
    batch.releases = vec![(tenant.id.clone(), tenant.mailbox(1).to_string())];
    batch.claims = vec![(first.claims[0].0.clone(), taken.clone())];
    backend.append(&batch).await.unwrap();
    assert_eq!(backend.answers(&[renewed.key.clone()]).await.unwrap(), [renewed]);
    assert_eq!(backend.directory(&[first.claims[0].0.clone()]).await.unwrap(), [(first.claims[0].0.clone(), taken)]);
    // Only the owner's release counts.
    let mut foreign = full(&other, Head::empty(1), 3);
    foreign.releases = vec![(other.id.clone(), tenant.mailbox(2).to_string())];
    foreign.claims = vec![(first.claims[0].0.clone(), claim(&other, 3).1)];
    assert!(matches!(backend.append(&foreign).await, Err(AppendError::Conflict)));
}

/// The same wish with the same ids again appends nothing and does not trip over its own secrets and bodies.
pub async fn a_wish_fulfilled_already_stores_nothing_again(store: &impl Store) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    log.transact(tenant.submit(tenant.open(1))).await.unwrap();
    let mut outcomes: Vec<Vec<Position>> = vec![];
    for body in ["the first", "the second"] {
        let staged = log.stage_blob(&tenant.id, &tenant.blob(1), body.into()).await.unwrap();
        let submission = tenant.submit(tenant.receive(1, 1)).with_blob(tenant.blob(1), staged);
        outcomes.push(positions(log.transact(submission).await.unwrap()));
    }
    assert_eq!(outcomes, [vec![5], vec![]]);
    assert_eq!(log.blob(&tenant.id, &tenant.blob(1)).await.unwrap().as_deref(), Some(&b"the first"[..]));
}
