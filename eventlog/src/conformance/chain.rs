//! The hash chain notices every change but the erasure of personal halves.

use domain::Event;
use domain::team::Limits;

use super::Store;
use super::support::{Dice, Tenant, assert_whole, open};
use crate::chain::{Broken, Verifier};
use crate::{EventLog, StoredPersonal, StoredRecord};

async fn some_history(store: &impl Store) -> (EventLog, Tenant) {
    let log = open(store).await;
    let tenant = Tenant::create(1, &log, Limits::default()).await;
    for n in 1..=12 {
        log.transact(tenant.submit(tenant.open(n)).from_ip("192.0.2.1")).await.unwrap();
        log.transact(tenant.submit(tenant.receive(n, n))).await.unwrap();
        let caused = domain::id::EventId::new(&tenant.id, 1, n);
        log.transact(tenant.submit(tenant.create_key(n)).caused_by(&caused)).await.unwrap();
    }
    (log, tenant)
}

fn verify(tenant: &Tenant, records: &[StoredRecord]) -> Result<Verifier, Broken> {
    let mut verifier = Verifier::new(tenant.id.clone());
    records.iter().try_for_each(|record| verifier.next(record)).map(|()| verifier)
}

/// A whole log verifies to its head; a log that is cut, reordered or extended does not.
pub async fn the_chain_verifies_and_names_the_first_change(store: &impl Store) {
    let (log, tenant) = some_history(store).await;
    assert_whole(&tenant, &log).await;
    let records = tenant.stored(&log).await;
    let head = log.head(&tenant.id).await.unwrap();
    for i in 0..records.len() {
        let mut cut = records.clone();
        cut.remove(i);
        let found = verify(&tenant, &cut).and_then(|v| v.end(&head));
        let place = u64::try_from(i).unwrap() + 1;
        match found {
            Err(Broken::Gap { expected, .. }) => assert_eq!(expected, place),
            Err(Broken::Head { found, .. }) => assert_eq!((found, i), (place - 1, records.len() - 1)),
            other => panic!("removing {place} gave {other:?}"),
        }
        // Renumbering what follows does not hide it.
        cut.iter_mut().skip(i).for_each(|r| r.position -= 1);
        let found = verify(&tenant, &cut).and_then(|v| v.end(&head));
        assert!(found.is_err(), "removing {place} and renumbering");
        let mut doubled = records.clone();
        doubled.insert(i, records[i].clone());
        assert!(verify(&tenant, &doubled).is_err());
    }
    for i in 1..records.len() {
        let mut swapped = records.clone();
        swapped.swap(i - 1, i);
        assert!(verify(&tenant, &swapped).is_err());
    }
    let other = Tenant::new(2);
    assert!(verify(&other, &records).is_err());
}

/// Changes a text to one that differs from it.
fn change_text(text: &mut String, dice: &mut Dice) {
    let chars: Vec<_> = text.chars().collect();
    match dice.roll(3) {
        0 => text.push('x'),
        _ if chars.is_empty() => text.push('\u{0}'),
        1 => drop(text.pop()),
        _ => {
            let at = usize::try_from(dice.roll(chars.len() as u64)).unwrap();
            let other = if chars[at] == 'a' { 'b' } else { 'a' };
            *text = chars.iter().enumerate().map(|(i, c)| if i == at { other } else { *c }).collect();
        }
    }
}

fn flip<const N: usize>(bytes: &mut [u8; N], dice: &mut Dice) {
    let at = usize::try_from(dice.roll(N as u64)).unwrap();
    bytes[at] ^= 1 << dice.roll(8);
}

/// Changes one field of a record; returns which, or nothing if the record does not have it.
fn change(record: &mut StoredRecord, dice: &mut Dice) -> Option<&'static str> {
    Some(match dice.roll(16) {
        0 => {
            record.position ^= 1 << dice.roll(40);
            "position"
        }
        1 => {
            record.epoch ^= 1 << dice.roll(16);
            "epoch"
        }
        2 => {
            record.stream_version ^= 1 << dice.roll(40);
            "stream_version"
        }
        3 => {
            record.version ^= 1 << dice.roll(63);
            "version"
        }
        4 => {
            record.at ^= 1 << dice.roll(63);
            "at"
        }
        5 => {
            change_text(&mut record.stream, dice);
            "stream"
        }
        6 => {
            change_text(&mut record.name, dice);
            "name"
        }
        7 => {
            change_text(&mut record.facts, dice);
            "facts"
        }
        8 => {
            change_text(&mut record.actor, dice);
            "actor"
        }
        9 => {
            change_text(&mut record.correlation, dice);
            "correlation"
        }
        10 => {
            match &mut record.causation {
                Some(causation) if dice.roll(2) == 0 => change_text(causation, dice),
                Some(_) => record.causation = None,
                None => record.causation = Some(String::new()),
            }
            "causation"
        }
        11 => {
            flip(&mut record.hash, dice);
            "hash"
        }
        12 => {
            match &mut record.personal_digest {
                Some(digest) if dice.roll(2) == 0 => flip(digest, dice),
                Some(_) => record.personal_digest = None,
                None => record.personal_digest = Some([0; 32]),
            }
            "personal_digest"
        }
        13 => {
            flip(&mut record.personal.as_mut()?.salt, dice);
            "salt"
        }
        14 => {
            change_text(&mut record.personal.as_mut()?.json, dice);
            "personal"
        }
        _ if record.personal_digest.is_some() => return None,
        _ => {
            record.personal = Some(StoredPersonal { salt: [0; 16], json: String::new() });
            "added personal"
        }
    })
}

/// 2,000 random changes of one field of one record: each is detected, at that record or its successor.
pub async fn any_change_of_a_record_is_detected(store: &impl Store) {
    let (log, tenant) = some_history(store).await;
    let records = tenant.stored(&log).await;
    let mut dice = Dice::new(42);
    let mut changes = 0;
    while changes < 2_000 {
        let at = usize::try_from(dice.roll(records.len() as u64)).unwrap();
        let mut changed = records.clone();
        let Some(what) = change(&mut changed[at], &mut dice) else { continue };
        assert_ne!(changed[at], records[at], "{what}");
        assert!(verify(&tenant, &changed).is_err(), "{what} of record {} changed unnoticed", at + 1);
        changes += 1;
    }
}

/// Whoever keeps copies can tell that something was erased since they were made, also after a restart.
pub async fn every_erasure_is_counted(store: &impl Store) {
    let (log, tenant) = some_history(store).await;
    let other = Tenant::create(2, &log, Limits::default()).await;
    assert!(log.erasures(None, 10).await.unwrap().is_empty());
    log.erase_personal(&tenant.id, &[2]).await.unwrap();
    log.erase_personal(&other.id, &[1]).await.unwrap();
    log.erase_personal(&tenant.id, &[3]).await.unwrap();
    let mut expected = vec![(tenant.id.clone(), 2), (other.id.clone(), 1)];
    expected.sort();
    store.restart().await;
    let log = open(store).await;
    assert_eq!(log.erasures(None, 10).await.unwrap(), expected);
    assert_eq!(log.erasures(None, 1).await.unwrap(), expected[..1]);
    assert_eq!(log.erasures(Some(&expected[0].0), 10).await.unwrap(), expected[1..]);
}

/// Erased personal halves are gone from every read, and the chain still verifies.
pub async fn erasing_personal_halves_leaves_the_chain_whole(store: &impl Store) {
    let (log, tenant) = some_history(store).await;
    let before = tenant.history(&log).await;
    let positions: Vec<_> = before.iter().map(|r| r.position).filter(|p| p % 2 == 0).collect();
    let with_personal =
        tenant.stored(&log).await.iter().filter(|r| r.position % 2 == 0 && r.personal.is_some()).count();
    assert_eq!(log.erase_personal(&tenant.id, &positions).await.unwrap(), with_personal as u64);
    assert_eq!(log.erase_personal(&tenant.id, &positions).await.unwrap(), 0);
    assert_eq!(log.erase_personal(&tenant.id, &[0, 10_000]).await.unwrap(), 0);
    assert_whole(&tenant, &log).await;
    for (now, before) in tenant.history(&log).await.iter().zip(&before) {
        if now.position % 2 == 0 {
            let expected: Event = before.event.erased();
            assert_eq!((&now.event, &now.client_ip), (&expected, &None));
        } else {
            assert_eq!(now, before);
        }
        assert_eq!(now.hash, before.hash);
    }
}
