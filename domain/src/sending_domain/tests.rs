use super::records::{Expected, Installation, RecordKind, expected, judge, zone_file};
use super::*;
use crate::entity::Versioned;
use crate::testing::{NOW, domain_id, fold, given, mailbox_id, opened, secret_id, team_created, team_id};

const HOUR: i64 = 3_600_000_000;

fn new_key(n: u8) -> NewKey {
    NewKey {
        selector: format!("pl{n}"),
        algorithm: Algorithm::Ed25519,
        public_key: format!("key{n}="),
        secret: secret_id(n),
    }
}

fn add() -> AddDomain {
    AddDomain { domain: domain_id(2), name: "example.com".into(), mode: Mode::SendOnly, keys: vec![new_key(1)] }
}

fn all_right() -> Checks {
    Checks {
        verification_txt: true,
        spf: true,
        dmarc: true,
        dkim: true,
        mx: true,
        mail_from_mx: true,
        mail_from_spf: true,
    }
}

fn look(checks: Checks, published: &[&str], checked_at: i64) -> RecordCheck {
    let published = published.iter().map(|s| (*s).to_owned()).collect();
    RecordCheck { domain: domain_id(2), checks, found: vec![], published, checked_at, if_version: None }
}

fn names(events: &[crate::Event]) -> Vec<&str> {
    events.iter().map(crate::Event::name).collect()
}

fn after(log: &mut Vec<crate::Event>, command: RecordCheck) -> Vec<String> {
    let events = given(log.clone()).when(command).then_events();
    log.extend(events.clone());
    events.iter().map(|e| e.name().to_owned()).collect()
}

#[test]
fn a_domain_is_verified_when_everything_is_right_and_its_key_begins_to_sign() {
    let mut log = team_created();
    log.extend(given(log.clone()).when(add()).then_events());
    let partly = Checks { spf: false, ..all_right() };
    assert_eq!(after(&mut log, look(partly, &[], NOW)), ["sending_domain.checked"]);
    let all = ["sending_domain.key_activated", "sending_domain.checked", "sending_domain.verified"];
    assert_eq!(after(&mut log, look(all_right(), &["pl1"], NOW + HOUR)), all);
    let state: Versioned<SendingDomain> = fold(&[StreamId::Domain(domain_id(2))], &log);
    assert_eq!(state.signing_keys().count(), 1);
    let none: Vec<String> = vec![];
    assert_eq!(after(&mut log, look(all_right(), &["pl1"], NOW + 2 * HOUR)), none, "nothing new, no event");
}

#[test]
fn only_the_second_failure_in_a_row_is_believed() {
    let mut log = team_created();
    log.extend(given(log.clone()).when(add()).then_events());
    after(&mut log, look(all_right(), &["pl1"], NOW));
    let bad = Checks { mail_from_mx: false, ..all_right() };
    assert_eq!(after(&mut log, look(bad, &[], NOW + 1)), ["sending_domain.checked"]);
    assert_eq!(after(&mut log, look(all_right(), &[], NOW + 2)), ["sending_domain.checked"]);
    assert_eq!(after(&mut log, look(bad, &[], NOW + 3)), ["sending_domain.checked"]);
    assert_eq!(after(&mut log, look(bad, &[], NOW + 4)), ["sending_domain.checked", "sending_domain.failed"]);
    let still = Checks { dmarc: false, ..all_right() };
    assert_eq!(after(&mut log, look(still, &[], NOW + 5)), ["sending_domain.checked"]);
    let back = ["sending_domain.checked", "sending_domain.verified"];
    assert_eq!(after(&mut log, look(all_right(), &[], NOW + 6)), back);
}

#[test]
fn a_domain_the_operator_vouches_for_is_not_failed_by_checks() {
    let mut log = team_created();
    let bad = |checked_at| RecordCheck { domain: domain_id(1), ..look(Checks::default(), &[], checked_at) };
    after(&mut log, bad(NOW));
    after(&mut log, bad(NOW + 1));
    let state: Versioned<SendingDomain> = fold(&[StreamId::Domain(domain_id(1))], &log);
    assert_eq!(state.status, Status::Verified);
}

#[test]
fn vouching_for_a_pending_domain_verifies_the_one_there_is() {
    let mut log = team_created();
    log.extend(given(log.clone()).when(add()).then_events());
    let vouch = AddVerifiedDomain { domain: domain_id(9), name: "example.com".into(), mode: Mode::SendOnly };
    let events = given(log).when(vouch).then_events();
    assert_eq!(events[0].stream(), Some(StreamId::Domain(domain_id(2))));
}

#[test]
fn a_key_is_rotated_when_its_successor_is_published() {
    let mut log = team_created();
    log.extend(given(log.clone()).when(add()).then_events());
    after(&mut log, look(all_right(), &["pl1"], NOW));
    log.extend(given(log.clone()).when(AddSigningKey { domain: domain_id(2), key: new_key(2) }).then_events());
    let rotated = ["sending_domain.key_activated", "sending_domain.key_retired"];
    assert_eq!(after(&mut log, look(all_right(), &["pl1", "pl2"], NOW + 1)), rotated);
    let state: Versioned<SendingDomain> = fold(&[StreamId::Domain(domain_id(2))], &log);
    assert_eq!(state.signing_keys().map(|k| k.selector.as_str()).collect::<Vec<_>>(), ["pl2"]);
    // Mail under way was signed with the first one: its record stays, and so does its name.
    assert_eq!(state.retired.iter().map(|k| k.selector.as_str()).collect::<Vec<_>>(), ["pl1"]);
    let mut taken = new_key(1);
    taken.secret = secret_id(77);
    let reuse = AddSigningKey { domain: domain_id(2), key: taken };
    given(log).when(reuse).then_rejected(&Rejected::SelectorTaken);
}

#[test]
fn a_look_for_other_records_says_nothing() {
    let mut log = team_created();
    log.extend(given(log.clone()).when(add()).then_events());
    let state: Versioned<SendingDomain> = fold(&[StreamId::Domain(domain_id(2))], &log);
    log.extend(given(log.clone()).when(AddSigningKey { domain: domain_id(2), key: new_key(2) }).then_events());
    let stale = RecordCheck { if_version: Some(state.version), ..look(all_right(), &["pl1"], NOW) };
    given(log).when(stale).then_rejected(&Rejected::VersionMismatch { current: state.version + 1 });
}

#[test]
fn a_domain_with_open_mailboxes_stays_and_its_name_is_free_afterwards() {
    let mut log = team_created();
    log.push(opened(1));
    given(log.clone()).when(RemoveDomain { domain: domain_id(1) }).then_rejected(&Rejected::InUse { mailboxes: 1 });
    let close = crate::mailbox::CloseMailbox { mailbox: mailbox_id(1) };
    log.extend(given(log.clone()).when(close).then_events());
    log.extend(given(log.clone()).when(RemoveDomain { domain: domain_id(1) }).then_events());
    let again = AddDomain { domain: domain_id(3), name: "example.org".into(), ..add() };
    let events = given(log).when(again).then_events();
    assert_eq!(names(&events), ["sending_domain.added", "sending_domain.key_added"]);
}

#[test]
fn a_domain_that_begins_to_receive_is_pending_again() {
    let mut log = team_created();
    log.extend(given(log.clone()).when(add()).then_events());
    after(&mut log, look(all_right(), &["pl1"], NOW));
    let change = |mode| ChangeMode { domain: domain_id(2), mode, if_version: None };
    log.extend(given(log.clone()).when(change(Mode::SendReceive)).then_events());
    let team: Versioned<crate::team::Team> = fold(&[StreamId::Team], &log);
    assert!(!team.domains["example.com"].verified);
    given(log).when(change(Mode::SendOnly)).then_rejected(&Rejected::ModeNotChangeable);
}

fn installation() -> Installation {
    Installation { mx_host: "mx.post.example".into(), mx_priority: 10, spf_mechanism: "a:mx.post.example".into() }
}

fn key(n: u8, status: KeyStatus) -> SigningKey {
    let NewKey { selector, algorithm, public_key, secret } = new_key(n);
    SigningKey { selector, algorithm, public_key, secret, status }
}

fn published(all: &[Expected]) -> Vec<Found> {
    all.iter().map(|e| Found { kind: e.kind, name: e.name.clone(), values: vec![e.value.clone()] }).collect()
}

#[test]
fn the_expected_records_satisfy_themselves_and_each_missing_one_shows() {
    let keys = [key(1, KeyStatus::Active)];
    let all = expected(&team_id(), "example.com", Mode::SendReceive, &keys, &installation());
    let (checks, selectors) = judge(&all, &published(&all), &keys, "example.com");
    assert!(checks.are_complete());
    assert_eq!(selectors, ["pl1"]);
    for missing in 0..all.len() {
        let mut found = published(&all);
        found.remove(missing);
        assert!(!judge(&all, &found, &keys, "example.com").0.are_complete(), "{:?}", all[missing].kind);
    }
}

#[test]
fn merged_spf_and_stricter_dmarc_are_welcome_and_two_spf_records_are_not() {
    let keys = [key(1, KeyStatus::Active)];
    let all = expected(&team_id(), "example.com", Mode::SendOnly, &keys, &installation());
    let with = |kind, values: &[&str]| {
        let mut found = published(&all);
        for record in found.iter_mut().filter(|f| f.kind == kind) {
            record.values = values.iter().map(|v| (*v).to_owned()).collect();
        }
        judge(&all, &found, &keys, "example.com").0
    };
    assert!(with(RecordKind::Spf, &["v=spf1 include:_spf.other.example a:mx.post.example -all", "other=1"]).spf);
    assert!(!with(RecordKind::Spf, &["v=spf1 a:mx.post.example ~all", "v=spf1 -all"]).spf);
    assert!(!with(RecordKind::Spf, &["v=spf1 -all"]).spf);
    assert!(with(RecordKind::Dmarc, &["v=DMARC1; p=reject; rua=mailto:x@example.com"]).dmarc);
    assert!(with(RecordKind::Dkim, &["v=DKIM1; t=s; p=ke y1="]).dkim);
    assert!(!with(RecordKind::Dkim, &["v=DKIM1; k=ed25519; p="]).dkim);
}

#[test]
fn a_zone_file_cuts_long_texts_and_escapes_quotes() {
    let record =
        |value: String| Expected { kind: RecordKind::Dkim, name: "a._domainkey.x.test".into(), value, priority: None };
    let text = zone_file(&[record("k".repeat(300)), record("say \"hi\"".into())]);
    assert!(text.contains(&format!("\"{}\" \"{}\"", "k".repeat(255), "k".repeat(45))));
    assert!(text.contains("\"say \\\"hi\\\"\""));
}
