//! Every statement that serves a route names its team, as PostgreSQL saw it.

use std::path::Path;
use std::process::{Command, Stdio};

use eventlog::testing::Cluster;
use eventlog::testing::statements::{executed, strays, tables_of_the_house};

/// Runs this binary once more, on a PostgreSQL server that writes down what it is asked.
#[test]
fn all_routes_work_on_postgresql_and_every_statement_names_its_team() {
    if Cluster::is_given() {
        // This is the run that is looked at.
        return;
    }
    let cluster = Cluster::start(&["log_statement=all", "fsync=off"]);
    let mut again = Command::new(std::env::current_exe().unwrap());
    let output = cluster.give(again.arg("--quiet")).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "on PostgreSQL:\n{said}\n{}", String::from_utf8_lossy(&output.stderr));

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let ran = executed(&cluster.server_log());
    let wrong = strays(&ran, &tables_of_the_house(root));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ran.len() > 150, "{} statements", ran.len());
}
