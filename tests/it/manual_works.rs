//! What `docs/operations.md` tells to do, done as it is written.

use std::path::Path;

use crate::harness::Installation;
use crate::manual::{Servers, block, commands};

/// Runs the commands for erasing and returns what each said.
fn erase(installation: &Installation, team: &str) -> Vec<String> {
    let told = commands(block("## Erasing somebody", 0));
    assert_eq!(told.len(), 3, "{told:?}");
    told.iter()
        .map(|words| {
            let words: Vec<_> = words.iter().map(|word| if *word == "team_…" { team } else { word }).collect();
            installation.run(&words)
        })
        .collect()
}

/// Sets what a block exports.
fn exported(installation: Installation, block: &str, filled: impl Fn(&str) -> String) -> Installation {
    let pairs = block.lines().filter_map(|line| line.strip_prefix("export POSTLOG_")?.split_once('='));
    pairs.fold(installation, |installation, (name, value)| installation.with(name, &filled(value)))
}

fn holds(directory: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(&path).unwrap_or_default().windows(text.len()).any(|window| window == text)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_started_and_somebody_is_erased_by_the_commands_of_the_manual() {
    const NODES: &str = "## Two nodes on one PostgreSQL";
    let servers = tokio::task::block_in_place(Servers::primary);
    let place = tempfile::tempdir().unwrap();
    let filled = |text: &str| servers.filled(text).replace("/srv/postlog", place.path().to_str().unwrap());
    let node = |name: &str, n: usize| exported(Installation::at(&place.path().join(name)), block(NODES, n), filled);
    let (first, second) = (node("a", 0), node("b", 1));
    let a = first.start();
    let keys = a.keys.clone().unwrap();
    let copying: String = block(NODES, 1)
        .lines()
        .filter(|line| line.starts_with("mkdir") || line.starts_with("cp"))
        .map(|line| format!("{line}\n"))
        .collect();
    let status = std::process::Command::new("sh").args(["-ec", &filled(&copying)]).status().unwrap();
    assert!(status.success());
    std::fs::write(second.data().join("welcome.shown"), "").unwrap();
    let b = second.start();
    let large = format!("zqunique {}", "x".repeat(70_000));
    a.mail("ann@example.com", "agent@postlog.test", "zqunique one", "x").await;
    b.mail("ann@example.com", "agent@postlog.test", "two", &large).await;
    b.mail("bob@example.com", "agent@postlog.test", "three", "x").await;
    let (root, mailbox) = (b.client(&keys.root), b.client(&keys.mailbox));
    mailbox.wait_for("/mailbox/messages", |body| body["data"].as_array().unwrap().len() == 3).await;
    let team = root.get("/me").await.1["data"]["team"]["id"].as_str().unwrap().to_owned();

    let said = tokio::task::block_in_place(|| erase(&first, &team));
    assert!(said[0].contains("2 events and 2 mail bodies would be erased"), "{said:?}");
    assert!(said[1].contains("erased: 2 events and 2 mail bodies"), "{said:?}");
    assert!(said[2].contains("the chain holds"), "{said:?}");
    // The other node hears of it by itself.
    let list = a.client(&keys.mailbox).wait_for("/mailbox/messages", |body| !body.to_string().contains("ann@")).await;
    assert!(list.to_string().contains("three"), "{list}");
    assert!(a.terminate() && b.terminate());
    tokio::task::block_in_place(|| servers.run(block("## Erasing somebody", 1)));
    assert!(!holds(&servers.directory(0).join("base"), b"zqunique"), "nothing is left in the database's files");
    assert!(!holds(place.path(), b"zqunique"), "nor beside them");
}

#[tokio::test]
async fn a_backup_is_taken_and_restored_by_the_commands_of_the_manual() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    server.mail("ann@example.com", "agent@postlog.test", "kept", "x").await;
    let told = commands(block("## Backups", 0));
    let copy = installation.data().with_extension("copy");
    let place = |word: &'static str| {
        if word.starts_with("/backups/") { copy.to_str().unwrap().to_owned() } else { word.to_owned() }
    };
    let told: Vec<Vec<String>> = told.into_iter().map(|words| words.into_iter().map(place).collect()).collect();
    let words = |n: usize| -> Vec<&str> { told[n].iter().map(String::as_str).collect() };
    installation.run(&words(0));
    let restored = Installation::new();
    restored.run(&words(1));
    for file in ["master.key", "pepper.key", "checkpoint.key"] {
        std::fs::copy(installation.data().join(file), restored.data().join(file)).unwrap();
    }
    std::fs::write(restored.data().join("welcome.shown"), "").unwrap();
    let server = restored.start();
    let mailbox = server.client(&keys.mailbox);
    mailbox.wait_for("/mailbox/messages?subject=kept", |body| body["data"].as_array().unwrap().len() == 1).await;
    assert!(restored.run(&["verify"]).contains("the chain holds"));
}
