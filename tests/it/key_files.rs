//! A database is served with the key files that it was made with, or not at all.

use crate::harness::Installation;

/// Starts the program and returns what it said when it gave up.
fn refusal(installation: &Installation) -> String {
    let output = installation.command(&["serve"]).output().expect("the program runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn story(installation: &Installation, node: &Installation) {
    for (file, name) in [("master.key", "master key"), ("pepper.key", "pepper")] {
        let path = node.data().join(file);
        let right = std::fs::read(&path).unwrap();
        std::fs::write(&path, "ab".repeat(32)).unwrap();
        let said = refusal(node);
        assert!(said.contains(&format!("does not hold the {name} that this database was made with")), "{said}");
        assert!(
            said.contains(file) && !said.contains(&"ab".repeat(8)),
            "the file is named, its content is not: {said}"
        );
        let output = node.command(&["verify"]).output().expect("the program runs");
        assert!(!output.status.success(), "operator commands are refused too");
        std::fs::write(&path, right).unwrap();
    }
    checkpoint_key_changes_only_by_name(node);
    let server = node.start();
    assert!(server.terminate());
    assert!(installation.run(&["verify"]).contains("the chain holds"));
}

fn checkpoint_key_changes_only_by_name(node: &Installation) {
    let path = node.data().join("checkpoint.key");
    let (right, old) = (std::fs::read(&path).unwrap(), node.run(&["checkpoint", "key"]).trim().to_owned());
    std::fs::write(&path, "cd".repeat(32)).unwrap();
    let said = refusal(node);
    assert!(said.contains("checkpoint.key") && said.contains(&old) && said.contains("retired_keys"), "{said}");
    let with_old_retired = |arguments: &[&str]| {
        let mut command = node.command(arguments);
        let output = command.env("POSTLOG_CHECKPOINTS__RETIRED_KEYS", format!("[\"{old}\"]")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let new = with_old_retired(&["checkpoint", "key"]).trim().to_owned();
    assert!(!new.is_empty() && new != old, "{new}");
    std::fs::write(&path, &right).unwrap();
    assert!(refusal(node).contains(&new), "a node that still has the old key is told of the new one");
    let mut back = node.command(&["checkpoint", "key"]);
    back.env("POSTLOG_CHECKPOINTS__RETIRED_KEYS", format!("[\"{new}\"]"));
    assert!(back.output().unwrap().status.success());
}

#[test]
fn a_node_with_other_keys_than_the_database_was_made_with_is_refused() {
    let installation = Installation::new();
    assert!(installation.start().terminate());
    story(&installation, &installation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgresql_a_second_node_is_refused_until_it_has_the_keys_of_the_first() {
    let installation = Installation::on_postgres().await;
    let server = installation.start();
    let node = installation.another_node();
    story(&installation, &node);
    // A node that nobody gave keys made some for itself.
    for file in ["master.key", "pepper.key"] {
        std::fs::remove_file(node.data().join(file)).unwrap();
    }
    assert!(refusal(&node).contains("copy the file from the node that made it"));
    assert!(server.terminate());
}

#[tokio::test]
async fn two_programs_do_not_serve_under_one_name() {
    let installation = Installation::on_postgres().await;
    let server = installation.start();
    let said = refusal(&installation);
    assert!(said.contains("another postlog serves from"), "{said}");
    assert!(server.terminate());
}
