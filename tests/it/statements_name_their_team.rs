//! Whatever touches a team's data names the team, so that the tables can be spread by team over many servers, and no
//! request of one team can reach another's rows.
//!
//! The statements are read in the sources, and in the log of a PostgreSQL server that a whole installation ran on. Those
//! that are put together while the program runs are only in the latter; each of their parts must have been run, here or
//! in `api/tests/http_api/statements.rs`, which calls every route.

use std::collections::BTreeSet;
use std::path::Path;

use eventlog::testing::Cluster;
use eventlog::testing::statements::{
    ACROSS_TEAMS, GLOBAL_TABLES, Role, Text, exception, executed, faults, in_sources, is_whole, squeezed, stands_alone,
    strays, tables_of_the_house, was_run,
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::harness::{Installation, Server, answer};
use crate::webhook_sink::Sink;

/// Sources whose statements run when a route is called. Those of all others run when a node serves.
const ROUTES: &[&str] = &["projections/src/"];
/// But these are of the node.
const NODES: &[&str] =
    &["projections/src/rebuild", "projections/src/runner", "projections/src/views", "projections/src/table"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn texts() -> Vec<Text> {
    let folders = ["eventlog/src", "projections/src", "dispatcher/src", "src"];
    let all = in_sources(root(), &folders);
    all.into_iter().filter(|text| !text.file.starts_with("eventlog/src/sqlite")).collect()
}

/// Returns whether a text says nothing by itself.
fn is_part(text: &Text) -> bool {
    text.role == Role::Part || !is_whole(&text.sql)
}

fn is_of_routes(text: &Text) -> bool {
    let begins = |with: &[&str]| with.iter().any(|begin| text.file.starts_with(begin));
    begins(ROUTES) && !begins(NODES)
}

#[test]
fn every_statement_in_the_sources_names_its_team() {
    let (texts, tables) = (texts(), tables_of_the_house(root()));
    let (mut wrong, mut read) = (vec![], 0);
    for text in texts.iter().filter(|text| !is_part(text)) {
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
    let everything: String = in_sources(root(), &["eventlog/src", "projections/src", "dispatcher/src"])
        .iter()
        .map(|text| squeezed(&text.sql) + "\n")
        .collect();
    for (begin, why) in ACROSS_TEAMS {
        // What is put together while the program runs is in several texts.
        let head = begin.split(" = $1").next().unwrap().split(" IN (SELECT DISTINCT").next().unwrap();
        assert!(everything.contains(head), "no statement begins with {begin:?} any more ({why})");
    }
}

/// Has a node do a little of everything, and its operator too.
async fn a_day(installation: &Installation) {
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let (root, mailbox) = (server.client(&keys.root), server.client(&keys.mailbox));
    let sink = Sink::start().await;
    let hook = json!({"url": sink.url, "event_types": ["message.received"]});
    let (status, made) = root.post("/webhooks", hook).await;
    assert_eq!(status, 201, "{made}");
    server.mail("ann@example.com", "agent@postlog.test", "one", "x").await;
    sink.wait_for(1).await;
    for to in ["bounce.hard@simulator.postlog.test", "agent@postlog.test"] {
        let mail = json!({"from": {"email": "agent@postlog.test"}, "to": {"email": to}, "subject": "s", "text_body": "t",
                          "html_body": "<p>t</p>"});
        let (status, body) = mailbox.post("/emails/send", mail).await;
        assert!((200..300).contains(&status), "{body}");
    }
    root.wait_for("/suppressions", |body| !body["data"].as_array().unwrap().is_empty()).await;
    let hook = format!("/webhooks/{}", made["data"]["id"].as_str().unwrap());
    let (status, gone) = answer(root.request(reqwest::Method::DELETE, &hook)).await;
    assert!((200..300).contains(&status), "{gone}");
    let team = team(&server, &keys.root).await;
    let messages = mailbox.wait_for("/mailbox/messages", |b| b["data"].as_array().unwrap().len() >= 2).await;
    let message = messages["data"][0]["id"].as_str().unwrap().to_owned();
    installation.run(&["erase", "--team", &team, "--yes", "message", &message]);
    installation.run(&["rebuild"]);
    assert!(installation.run(&["verify"]).contains("the chain holds"));
    installation.run(&["deliveries", "stuck"]);
    assert!(server.terminate());
}

async fn team(server: &Server, root: &str) -> String {
    let (_, me) = server.client(root).get("/me").await;
    me["data"]["team"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_a_node_runs_names_its_team_and_every_key_begins_with_it() {
    let cluster = Cluster::start(&["log_statement=all"]);
    let url = cluster.url(&cluster.create_database(None).await);
    let installation = Installation::new().with("DATABASE__URL", &url);
    a_day(&installation).await;
    let tables = tables_of_the_house(root());
    let ran = executed(&cluster.server_log());
    let wrong = strays(&ran, &tables);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let texts = texts();
    let parts = texts.iter().filter(|text| is_part(text) && !is_of_routes(text));
    let left: Vec<_> = parts.filter(|text| !stands_alone(&text.sql, &tables) && !was_run(&text.sql, &ran)).collect();
    assert!(left.is_empty(), "not seen running: {left:#?}");

    let mut connection = PgConnection::connect(&url).await.unwrap();
    let found: Vec<(String, String)> = sqlx::query_as(TABLES).fetch_all(&mut connection).await.unwrap();
    let found: BTreeSet<String> = found.into_iter().map(|(_, table)| table).collect();
    let global = GLOBAL_TABLES.iter().map(|(table, _)| (*table).to_owned());
    let known: BTreeSet<String> = tables.into_iter().chain(global).collect();
    assert_eq!(found, known, "the database has the tables of the definitions and no others");
    let keys: Vec<(String, Vec<String>)> = sqlx::query_as(KEYS).fetch_all(&mut connection).await.unwrap();
    let global = |table: &str| GLOBAL_TABLES.iter().any(|(name, _)| *name == table);
    assert!(keys.len() > 40);
    for (table, columns) in keys.iter().filter(|(table, _)| !global(table)) {
        assert_eq!(columns[0], "team_id", "a key of {table} is {columns:?}");
    }
}

/// The columns of every primary key and unique index, in order.
const KEYS: &str = "
SELECT t.relname::text, ARRAY(SELECT a.attname::text FROM UNNEST(i.indkey) WITH ORDINALITY AS k(column_number, n)
                        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.column_number ORDER BY k.n)
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace s ON s.oid = t.relnamespace
WHERE i.indisunique AND s.nspname IN ('log', 'views', 'work')";

#[tokio::test]
async fn the_list_for_citus_is_that_of_the_tables() {
    let document = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let listed: BTreeSet<&str> = document.lines().filter(|line| line.starts_with("SELECT create_")).collect();
    let installation = Installation::on_postgres().await;
    installation.start().kill();
    let mut connection = PgConnection::connect(installation.database()).await.unwrap();
    let found: Vec<(String, String)> = sqlx::query_as(TABLES).fetch_all(&mut connection).await.unwrap();
    let lines: BTreeSet<String> = found.iter().map(|(schema, table)| distribution(schema, table)).collect();
    let lines: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(listed, lines, "write into docs/operations.md:\n{}", Vec::from_iter(lines.clone()).join("\n"));
}

fn distribution(schema: &str, table: &str) -> String {
    let name = format!("{schema}.{table}");
    match name.as_str() {
        "log.heads" => format!("SELECT create_distributed_table('{name}', 'team_id');"),
        _ if GLOBAL_TABLES.iter().any(|(global, _)| *global == table) => {
            format!("SELECT create_reference_table('{name}');")
        }
        _ => format!("SELECT create_distributed_table('{name}', 'team_id', colocate_with => 'log.heads');"),
    }
}

const TABLES: &str =
    "SELECT schemaname::text, tablename::text FROM pg_tables WHERE schemaname IN ('log', 'views', 'work')";
