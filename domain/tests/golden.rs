//! Every event that was ever written can still be read: one golden file per (type, version), added and never edited.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use domain::Event;
use domain::testing::one_of_each;
use serde_json::{Value, json};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn as_golden(event: &Event) -> Value {
    let e = event.encode();
    let personal: Option<Value> = e.personal.map(|p| serde_json::from_str(&p).unwrap());
    json!({"name": e.name, "version": e.version, "facts": serde_json::from_str::<Value>(&e.facts).unwrap(), "personal": personal})
}

#[test]
fn every_event_has_a_golden_file_of_its_current_shape() {
    let samples = one_of_each();
    for (name, version) in domain::event::stored() {
        let path = directory().join(format!("{name}.v{version}.json"));
        let sample = samples.iter().find(|e| e.name() == name).unwrap_or_else(|| panic!("one_of_each() lacks {name}"));
        let content = serde_json::to_string_pretty(&as_golden(sample)).unwrap();
        let golden = std::fs::read_to_string(&path)
            .unwrap_or_else(|_| panic!("{} is missing; its content:\n{content}", path.display()));
        assert_eq!(golden.trim(), content, "{name} changed its shape: add a version and an upcast instead");
    }
}

#[test]
fn every_golden_file_is_read_with_and_without_its_personal_half() {
    let known: BTreeSet<_> = domain::event::stored().map(|(name, _)| name).collect();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (name, version) = (golden["name"].as_str().unwrap(), golden["version"].as_i64().unwrap());
        let facts = golden["facts"].to_string();
        let personal = (!golden["personal"].is_null()).then(|| golden["personal"].to_string());
        for personal in [personal.as_deref(), None] {
            let event = Event::decode(name, version, &facts, personal).unwrap();
            assert!(known.contains(event.name()), "{}", path.display());
            assert!(!matches!(event, Event::Unknown(_)), "{} is not known any more", path.display());
        }
    }
}

#[test]
fn an_event_of_a_newer_build_is_carried_unchanged() {
    let event = Event::decode("mailbox.teleported", 3, r#"{"to":"mars"}"#, Some(r#"{"by":"ann"}"#)).unwrap();
    let encoded = event.encode();
    assert_eq!((encoded.name.as_str(), encoded.version), ("mailbox.teleported", 3));
    assert_eq!(encoded.facts, r#"{"to":"mars"}"#);
    assert_eq!(encoded.personal.as_deref(), Some(r#"{"by":"ann"}"#));
    assert!(domain::published::published(&event).is_none());
}
