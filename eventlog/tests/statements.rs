//! Whatever touches a team's data names the team, so that the tables can be spread by team over many servers, and no
//! request of one team can reach another's rows: read in the sources of the whole house.
//!
//! Statements that are put together while the program runs are not whole in the sources; `api/tests/http_api/statements.rs`
//! reads them in the log of a PostgreSQL server while every route is called.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::collections::BTreeSet;
use std::path::Path;

use eventlog::testing::statements::{
    ACROSS_TEAMS, GLOBAL_TABLES, Role, definitions_of_the_house, exception, faults, in_sources, is_whole, squeezed,
    tables_of_the_house, team_tables,
};

const FOLDERS: [&str; 4] = ["eventlog/src", "projections/src", "dispatcher/src", "src"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn every_statement_in_the_sources_names_its_team() {
    let (texts, tables) = (in_sources(root(), &FOLDERS), tables_of_the_house(root()));
    let (mut wrong, mut read) = (vec![], 0);
    for text in texts.iter().filter(|text| !text.file.starts_with("eventlog/src/sqlite")) {
        if text.role == Role::Part || !is_whole(&text.sql) {
            continue;
        }
        read += 1;
        let faults = faults(&text.sql, &tables);
        if !faults.is_empty() && exception(&text.sql).is_none() {
            wrong.push(format!("{}:{}: {}: {}", text.file, text.line, faults.join(", "), squeezed(&text.sql)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(read > 80 && tables.len() > 30, "{read} statements over {} tables", tables.len());
}

#[test]
fn no_exception_outlives_its_statement() {
    let texts = in_sources(root(), &FOLDERS);
    let everything: String = texts.iter().map(|text| squeezed(&text.sql) + "\n").collect();
    for (begin, why) in ACROSS_TEAMS {
        // What is put together while the program runs is in several texts.
        let head = begin.split(" = $1").next().unwrap().split(" IN (SELECT DISTINCT").next().unwrap();
        assert!(everything.contains(head), "no statement begins with {begin:?} any more ({why})");
    }
}

#[test]
fn every_unique_key_of_a_teams_table_begins_with_the_team() {
    let definitions = squeezed(&definitions_of_the_house(root()));
    let is_of_team = |begin: &str| begin.starts_with("(team_id");
    let mut keys = 0;
    for statement in definitions.split(';').map(str::trim) {
        if let Some((_, key)) = statement.split_once("CREATE UNIQUE INDEX ") {
            keys += 1;
            assert!(is_of_team(&key[key.find('(').unwrap()..]), "{statement}");
        }
        let Some(at) = statement.find("CREATE TABLE ") else { continue };
        let table = &statement[at..];
        if team_tables(table).is_empty() {
            continue;
        }
        let own = table.contains("team_id TEXT NOT NULL PRIMARY KEY")
            || table.contains("team_id TEXT COLLATE \"C\" NOT NULL PRIMARY KEY");
        let listed: Vec<&str> = table.split("PRIMARY KEY (").skip(1).collect();
        assert_eq!(own, listed.is_empty(), "{table}");
        assert!(listed.iter().all(|key| key.starts_with("team_id")), "{table}");
        keys += 1;
    }
    assert!(keys > 40, "{keys}");
}

#[test]
fn the_list_for_citus_is_that_of_the_tables() {
    let document = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let listed = |function: &str| -> BTreeSet<String> {
        let begin = format!("SELECT {function}('");
        let names = document.split(&begin).skip(1);
        names.map(|rest| rest.split('\'').next().unwrap().split('.').next_back().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("create_distributed_table"), tables_of_the_house(root()));
    let global: BTreeSet<String> = GLOBAL_TABLES.iter().map(|(table, _)| (*table).to_owned()).collect();
    assert_eq!(listed("create_reference_table"), global);
}
