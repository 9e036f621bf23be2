//! Every statement that serves a route names its team, as PostgreSQL saw it.

use std::path::Path;
use std::process::{Command, Stdio};

use eventlog::testing::Cluster;
use eventlog::testing::statements::{
    Role, executed, in_sources, is_whole, stands_alone, strays, tables_of_the_house, was_run,
};

/// Sources whose statements run when a node serves, not when a route is called: `tests/it` looks at them.
const NODES: &[&str] =
    &["projections/src/rebuild", "projections/src/runner", "projections/src/views", "projections/src/table"];

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
    let tables = tables_of_the_house(root);
    let wrong = strays(&ran, &tables);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is put together while the program runs has no other witness: each part must have been seen.
    let parts = in_sources(root, &["projections/src"]).into_iter().filter(|text| {
        let of_nodes = NODES.iter().any(|begin| text.file.starts_with(begin));
        !of_nodes && (text.role == Role::Part || !is_whole(&text.sql))
    });
    let left: Vec<_> = parts.filter(|text| !stands_alone(&text.sql, &tables) && !was_run(&text.sql, &ran)).collect();
    assert!(left.is_empty(), "never run: {left:#?}");
    assert!(ran.len() > 150, "{} statements", ran.len());
}
