//! The import arrows: `mail <- domain <- eventlog <- projections <- {dispatcher, api} <- the program <- tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What each crate of ours may import of ours.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("mail", &[]),
    ("domain", &["mail"]),
    ("eventlog", &["mail", "domain"]),
    ("projections", &["mail", "domain", "eventlog"]),
    ("dispatcher", &["mail", "domain", "eventlog", "projections"]),
    ("api", &["mail", "domain", "eventlog", "projections"]),
    ("postlog", &["mail", "domain", "eventlog", "projections", "dispatcher", "api"]),
    ("fuzz", &["mail", "domain", "eventlog", "projections", "api"]),
    // Imported by nobody: it looks at all of them.
    ("proof", &["mail", "domain", "eventlog", "projections", "dispatcher", "api"]),
];

/// External crates that may be imported only by these of ours.
const CONFINED: &[(&str, &[&str])] = &[
    ("tokio", &["eventlog", "projections", "dispatcher", "api", "postlog", "fuzz", "proof"]),
    ("async-stream", &["eventlog", "projections", "dispatcher", "api", "postlog"]),
    ("sqlx", &["eventlog", "projections", "dispatcher", "postlog"]),
    ("axum", &["api", "postlog", "fuzz"]),
    ("anyhow", &["postlog"]),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Returns every crate of the workspace with what it imports outside of tests.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
            let normal = dependencies.filter(|d| d["kind"].is_null());
            let names = normal.map(|d| d["name"].as_str().expect("name").to_owned()).collect();
            (package["name"].as_str().expect("name").to_owned(), names)
        })
        .collect()
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let imports = imports();
    let ours: BTreeSet<_> = imports.keys().cloned().collect();
    assert_eq!(ours.len(), MAY_IMPORT.len(), "a crate was added: give it its place in MAY_IMPORT");
    for (name, allowed) in MAY_IMPORT {
        for import in imports[*name].intersection(&ours) {
            assert!(allowed.contains(&import.as_str()), "{name} must not import {import}");
        }
    }
}

#[test]
fn external_crates_stay_where_they_belong() {
    for (name, imports) in imports() {
        for (external, allowed) in CONFINED {
            let confined = !imports.contains(*external) || allowed.contains(&name.as_str());
            assert!(confined, "{name} must not import {external}");
        }
    }
}

#[test]
fn every_story_is_listed() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(directory.join("main.rs")).expect("main.rs");
    for entry in std::fs::read_dir(directory).expect("tests/it") {
        let name = entry.expect("entry").file_name().into_string().expect("utf-8");
        if let Some(module) = name.strip_suffix(".rs").filter(|m| *m != "main") {
            assert!(main.contains(&format!("mod {module};")), "{name} is not listed in main.rs");
        }
    }
}
