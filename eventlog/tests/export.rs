//! What was exported is what was written: every other octet, record or file is found.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domain::Actor;
use domain::api_key::{CreateTeamKey, Kind, Minted};
use domain::id::{BlobId, DomainId, KeyId, MailboxId, MessageId, TeamId, ThreadId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::message::ReceiveMessage;
use domain::permission::Preset;
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::testing::NOW;
use eventlog::checkpoint::{BadNote, SigningKey, VerifyingKey};
use eventlog::export::verify::{Fault, Report, verify};
use eventlog::export::write::{WriteError, Writer};
use eventlog::export::{Directory, Files as _, LeftOut, NamedBody};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, MemoryBackend, Options, Signer, Submission};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

type Contents = BTreeMap<String, Vec<u8>>;

const NOTHING: LeftOut = LeftOut { personal: false, bodies: false };

fn nine(n: u32) -> [u8; 9] {
    let mut bytes = [1; 9];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn team() -> TeamId {
    TeamId::new(1, [1; 9])
}

fn key() -> SigningKey {
    SigningKey::unnamed(&[7; 32])
}

fn signer() -> Signer {
    Signer { key: key(), retired: vec![], every_events: 1_000, posts: false }
}

fn submit<C: domain::Command>(command: C) -> Submission<C> {
    Submission::new(team(), NOW, Actor::Operator, "req_1", command)
}

async fn create_keys(log: &EventLog, numbers: std::ops::Range<u32>) {
    let created = numbers.map(|n| {
        let (prefix, suffix) = ("smx_inf_ab".into(), "wxyz".into());
        let minted = Minted { key: KeyId::new(1, nine(n)), lookup: format!("{n:064x}"), prefix, suffix };
        let permissions = Preset::BillingAdmin.permissions();
        log.transact(submit(CreateTeamKey {
            minted,
            kind: Kind::Infrastructure,
            name: format!("key {n}"),
            permissions,
        }))
    });
    for created in futures_util::future::join_all(created).await {
        created.unwrap();
    }
}

/// A log with three mails with bodies, and as many events as asked for.
async fn history(events: u32) -> EventLog {
    let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), Allot::system().entropy());
    let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
    let limits = Limits { active_keys: 1_000_000, ..Limits::default() };
    log.transact(submit(CreateTeam { name: "Acme".into(), limits })).await.unwrap();
    let (domain, name) = (DomainId::new(NOW, nine(1)), "example.org".to_owned());
    log.transact(submit(AddVerifiedDomain { domain, name, mode: Mode::SendReceive })).await.unwrap();
    let mailbox = MailboxId::new(NOW, nine(1));
    let open = OpenMailbox {
        mailbox: mailbox.clone(),
        email: mail::address::Address::parse("box@example.org").unwrap(),
        display_name: Some("Ann".into()),
        quota_bytes: 1 << 30,
        send_scope: SendScope::All,
        credential: None,
    };
    log.transact(submit(open)).await.unwrap();
    for (n, size) in [(1, 10), (2, 5_000), (3, 70_000)] {
        let (mut facts, personal) = domain::testing::received_halves(1, &mailbox);
        let body = Bytes::from(vec![u8::try_from(n).unwrap(); size]);
        (facts.message, facts.blob) = (MessageId::new(NOW, nine(n)), BlobId::new(NOW, nine(n)));
        (facts.thread, facts.sha256) = (ThreadId::new(NOW, nine(n)), hex::encode(Sha256::digest(&body)));
        let blob = facts.blob.clone();
        let staged = log.stage_blob(&team(), &blob, body).await.unwrap();
        let receive = submit(ReceiveMessage { facts, personal, mail_from: None });
        log.transact(receive.with_blob(blob, staged)).await.unwrap();
    }
    let there = u32::try_from(log.head(&team()).await.unwrap().position).unwrap();
    create_keys(&log, there..events).await;
    log
}

async fn checkpoint(log: &EventLog) -> String {
    while let Some(growth) = log.sign_growth(&team(), &signer(), NOW, true).await.unwrap() {
        log.keep_growth(&[growth]).await.unwrap();
    }
    log.last_checkpoint(&team()).await.unwrap().unwrap().note
}

/// Writes records until one that is not to be written any more.
async fn write(log: &EventLog, writer: &mut Writer, until: u64) {
    let after = writer.position();
    for record in log.read_stored(&team(), after, usize::try_from(until - after).unwrap()).await.unwrap() {
        let mut bodies = vec![];
        if let Some(named) = NamedBody::of(&record.facts) {
            bodies.extend(log.blob(&team(), &named.blob).await.unwrap().map(|bytes| (named.blob, bytes)));
        }
        writer.append(record, &bodies).unwrap();
    }
}

async fn export(log: &EventLog, left_out: LeftOut, segment_bytes: usize) -> Contents {
    let directory = TempDir::new().unwrap();
    let note = checkpoint(log).await;
    let mut writer = Writer::begin(directory.path(), &team(), left_out, segment_bytes).unwrap();
    write(log, &mut writer, log.head(&team()).await.unwrap().position).await;
    writer.finish(&key(), &note).unwrap();
    contents(directory.path())
}

fn contents(directory: &Path) -> Contents {
    let files = Directory(directory.to_owned());
    files.names().unwrap().into_iter().map(|name| (name.clone(), files.read(&name).unwrap())).collect()
}

fn verified(files: &Contents) -> Result<Report, Fault> {
    verify(files, &[key().public().clone()], &[])
}

fn segments(files: &Contents) -> Vec<String> {
    files.keys().filter(|name| name.ends_with(".segment")).cloned().collect()
}

#[tokio::test]
async fn an_export_verifies_and_says_what_it_holds() {
    let log = history(300).await;
    log.erase_personal(&team(), &[20, 21]).await.unwrap();
    let head = log.head(&team()).await.unwrap();
    for (left_out, bodies, absent) in [
        (NOTHING, 3, 2),
        (LeftOut { bodies: true, ..NOTHING }, 0, 2),
        (LeftOut { personal: true, ..NOTHING }, 3, 299),
        (LeftOut { personal: true, bodies: true }, 0, 299),
    ] {
        let files = export(&log, left_out, 10_000).await;
        assert!(segments(&files).len() > 3);
        let report = verified(&files).unwrap();
        assert_eq!((report.records, report.head), (head.position, head.hash));
        assert_eq!((report.left_out, report.bodies), (left_out, bodies));
        assert!(report.personal_absent.abs_diff(absent) < 5, "{}", report.personal_absent);
        let text = files.values().map(|bytes| String::from_utf8_lossy(bytes)).collect::<String>();
        assert_eq!(text.contains("ann@example.net"), !left_out.personal);
    }
}

/// Draws numbers that are the same in every run.
fn random(stream: u8) -> impl FnMut(usize) -> usize {
    let seed = std::env::var("POSTLOG_TEST_SEED").ok().and_then(|s| s.parse::<u64>().ok()).unwrap_or(1);
    let mut bytes = [stream; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    move |below| usize::try_from(rng.next_u64() % u64::try_from(below).unwrap()).unwrap()
}

/// Changes one octet, sees it found, and changes it back, so many times.
fn change_octets(mut files: Contents, changes: usize, mut roll: impl FnMut(usize) -> usize) {
    let (names, segments): (Vec<_>, _) = (files.keys().cloned().collect(), segments(&files));
    for n in 0..changes {
        // The small files often enough: each of their octets counts.
        let among = if n % 4 == 0 { &names } else { &segments };
        let name = among[roll(among.len())].clone();
        let (at, by) = (roll(files[&name].len()), u8::try_from(1 + roll(255)).unwrap());
        let change = |files: &mut Contents| files.get_mut(&name).unwrap()[at] ^= by;
        change(&mut files);
        assert!(verified(&files).is_err(), "octet {at} of {name} changed by {by} unnoticed");
        change(&mut files);
    }
    verified(&files).unwrap();
}

/// 2,000 exports with one octet that is not what was written (`POSTLOG_TEST_TAMPERS` sets another number).
#[tokio::test]
async fn every_change_of_one_octet_is_found() {
    let changes = std::env::var("POSTLOG_TEST_TAMPERS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let files = export(&history(1_000).await, NOTHING, 64 * 1024).await;
    assert_eq!(verified(&files).unwrap().records, 1_000);
    std::thread::scope(|scope| {
        for stream in 0..2 {
            let files = files.clone();
            scope.spawn(move || change_octets(files, changes / 2, random(stream)));
        }
    });
}

/// Returns a segment's opening and its entries.
fn entries(segment: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut fields = vec![];
    let mut rest = segment;
    while let Some((length, behind)) = rest.split_first_chunk::<8>() {
        let whole = 8 + usize::try_from(u64::from_be_bytes(*length)).unwrap();
        let (field, _) = rest.split_at(whole);
        fields.push(field.to_vec());
        rest = &behind[whole - 8..];
    }
    let entries = fields.split_off(3);
    (fields.concat(), entries)
}

#[tokio::test]
async fn whatever_is_taken_away_added_or_moved_is_found_at_its_place() {
    let files = export(&history(300).await, NOTHING, 20_000).await;
    let names = segments(&files);
    let said = |files: &Contents| verified(files).unwrap_err().to_string();
    let (opening, records) = entries(&files[&names[1]]);
    let Ok(Report { records: count, .. }) = verified(&files) else { panic!("it is whole") };
    assert!(names.len() > 3 && records.len() > 3 && count == 300);
    let first: u64 = 1 + u64::try_from(entries(&files[&names[0]]).1.len()).unwrap();
    let with = |records: &[Vec<u8>]| {
        let mut changed = files.clone();
        changed.insert(names[1].clone(), [opening.clone(), records.concat()].concat());
        changed
    };
    for i in 0..records.len() {
        let place = first + u64::try_from(i).unwrap();
        let mut cut = records.clone();
        cut.remove(i);
        let is_last = i + 1 == records.len();
        let expected = if is_last {
            format!("ends at position {}", place - 1)
        } else {
            format!("expected position {place}, found {}", place + 1)
        };
        assert!(said(&with(&cut)).contains(&expected), "{}", said(&with(&cut)));
        let mut doubled = records.clone();
        doubled.insert(i, records[i].clone());
        let found = said(&with(&doubled));
        assert!(found.contains(&format!("position {}", place + 1)), "{found}");
        if i > 0 {
            let mut swapped = records.clone();
            swapped.swap(i - 1, i);
            let found = said(&with(&swapped));
            assert!(found.contains(&format!("expected position {}, found {place}", place - 1)), "{found}");
        }
        let mut torn = records[..=i].concat();
        torn.truncate(torn.len() - 1);
        let found = said(&with(&[torn]));
        assert!(found.contains(&format!("the record at position {place} cannot be read")), "{found}");
    }
    for (n, name) in names.iter().enumerate() {
        let mut changed = files.clone();
        changed.remove(name);
        assert!(said(&changed).contains(&format!("{name} is missing: positions ")));
        let other = &names[(n + 1) % names.len()];
        let mut changed = files.clone();
        changed.insert(name.clone(), files[other].clone());
        changed.insert(other.clone(), files[name].clone());
        assert!(verified(&changed).is_err());
        let mut changed = files.clone();
        changed.insert(name.clone(), opening.clone());
        assert!(said(&changed).contains("ends at position"), "{}", said(&changed));
    }
    let mut changed = files.clone();
    changed.insert("00000099.segment".to_owned(), files[&names[0]].clone());
    assert_eq!(said(&changed), "00000099.segment does not belong to the export: it was added");
    for name in ["manifest", "checkpoint"] {
        let mut changed = files.clone();
        changed.remove(name);
        assert!(said(&changed).starts_with(&format!("{name} cannot be read")));
    }
}

#[tokio::test]
async fn another_key_or_no_key_verifies_nothing() {
    let files = export(&history(20).await, NOTHING, 20_000).await;
    let other = SigningKey::unnamed(&[8; 32]).public().clone();
    let why = BadNote::Unsigned(other.name().to_owned());
    for keys in [vec![], vec![other.clone()]] {
        assert!(matches!(verify(&files, &keys, &[]), Err(Fault::Note { .. })));
    }
    assert_eq!(verify(&files, std::slice::from_ref(&other), &[]).unwrap_err().to_string(), format!("manifest: {why}"));
    assert!(verify(&files, &[other, key().public().clone()], &[]).is_ok());
    let named: VerifyingKey = SigningKey::new(&[7; 32], "other.example").unwrap().public().clone();
    assert!(verify(&files, &[named], &[]).is_err());
}

/// Whoever has the key can sign anything; not so who must answer to checkpoints that were kept elsewhere.
#[tokio::test]
async fn a_rewritten_log_does_not_go_with_a_checkpoint_that_was_kept_elsewhere() {
    let log = history(150).await;
    let kept = |note: &str| vec![("kept.txt".to_owned(), note.to_owned())];
    let early = checkpoint(&log).await;
    create_keys(&log, 1_000..1_100).await;
    let late = checkpoint(&log).await;
    let keys = [key().public().clone()];
    let files = export(&log, NOTHING, 20_000).await;
    for note in [&early, &late] {
        assert!(verify(&files, &keys, &kept(note)).is_ok());
    }
    // The same number of events, one of them another; signed by the same key.
    let rewritten = history(149).await;
    create_keys(&rewritten, 5_000..5_101).await;
    let files = export(&rewritten, NOTHING, 20_000).await;
    assert!(verified(&files).is_ok());
    assert!(matches!(verify(&files, &keys, &kept(&early)), Err(Fault::Root { size: 150, .. })));
    assert!(matches!(verify(&files, &keys, &kept(&late)), Err(Fault::Root { size: 250, .. })));
    let cut = history(140).await;
    let files = export(&cut, NOTHING, 20_000).await;
    assert!(matches!(verify(&files, &keys, &kept(&early)), Err(Fault::CutOff { size: 150, found: 140, .. })));
    let forged = early.replace("\n150\n", "\n140\n");
    assert!(matches!(verify(&files, &keys, &kept(&forged)), Err(Fault::Note { .. })));
}

#[tokio::test]
async fn an_export_that_was_broken_off_goes_on_and_ends_the_same() {
    let log = history(300).await;
    let whole = export(&log, NOTHING, 20_000).await;
    let note = checkpoint(&log).await;
    let directory = TempDir::new().unwrap();
    let begin = |left_out| Writer::begin(directory.path(), &team(), left_out, 20_000);
    let mut writer = begin(NOTHING).unwrap();
    write(&log, &mut writer, 140).await;
    drop(writer);
    std::fs::write(directory.path().join("00000003.segment.part"), "torn").unwrap();
    let wrong = begin(LeftOut { personal: true, ..NOTHING }).map(drop);
    assert!(matches!(wrong, Err(WriteError::Foreign(_))));
    let mut writer = begin(NOTHING).unwrap();
    assert!(writer.position() > 0 && writer.position() <= 140);
    write(&log, &mut writer, 300).await;
    writer.finish(&key(), &note).unwrap();
    assert!(contents(directory.path()) == whole, "a resumed export differs");
    assert!(matches!(begin(NOTHING).map(drop), Err(WriteError::Finished)));
    std::fs::remove_file(directory.path().join("manifest")).unwrap();
    std::fs::remove_file(directory.path().join("00000001.segment")).unwrap();
    assert!(matches!(begin(NOTHING).map(drop), Err(WriteError::Foreign(_))));
}
