//! Reads SQL and says where it touches a team's data without naming the team.
//!
//! A table whose key begins with `team_id` may only be read or changed where its `team_id` equals something that is not
//! the table itself: a parameter, a list, a column of what is bound so. That is what lets a distributed PostgreSQL send
//! each statement to the shards it is about, and it is also what keeps teams apart. What must look across teams is in
//! [`ACROSS_TEAMS`], each with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use sqlparser::ast::{
    BinaryOperator, ConflictTarget, Cte, Delete, Expr, FromTable, Insert, Join, JoinConstraint, JoinOperator,
    ObjectName, OnConflictAction, OnInsert, Query, Select, Statement, TableFactor, TableObject, TableWithJoins, Update,
    UpdateTableFromKind, Visit as _, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

pub use super::sources::{Role, Text, in_sources, squeezed};

/// Tables that belong to no team.
pub const GLOBAL_TABLES: &[(&str, &str)] = &[
    ("installation", "one row: the epoch"),
    (
        "installation_values",
        "what belongs to the installation as a whole, such as what its key files are recognised by",
    ),
    ("duties", "which node does the periodic work of all"),
    ("migrations", "which migrations were made"),
    ("directory", "what is unique across teams; its rows name their team"),
    ("projection_versions", "of which version the tables of the read models are"),
];

/// Statements that look across teams, each by how it begins (spaces squeezed), and why that is right. None of them serves
/// a request of a team.
pub const ACROSS_TEAMS: &[(&str, &str)] = &[
    (
        "SELECT team_id, position, moved_at FROM log.heads WHERE moved_at >= $1",
        "how nodes learn of each other's appends: an index of what moved",
    ),
    ("SELECT team_id, position, moved_at FROM heads WHERE moved_at >= $1", "the same on SQLite"),
    ("SELECT COALESCE(MAX(moved_at), 0) FROM log.heads", "the end of the index of what moved"),
    ("SELECT team_id FROM log.heads WHERE team_id > $1", "a walk over all teams, in pages of their ids"),
    ("SELECT team_id FROM heads WHERE team_id > $1", "the same on SQLite"),
    ("SELECT team_id, erasures FROM log.heads WHERE erasures > 0", "a small index of teams something was erased of"),
    (
        "SELECT h.team_id, h.position, COALESCE((SELECT MAX(c.size) FROM log.checkpoints c WHERE c.team_id = h.team_id), 0) \
         FROM log.heads h WHERE h.team_id > $1",
        "a walk over all teams, in pages of their ids: what is signed of their logs",
    ),
    (
        "SELECT size, made_at, note, posted, team_id FROM log.checkpoints WHERE posted = 0",
        "a small index of checkpoints that are to be posted",
    ),
    ("DELETE FROM log.answers WHERE (team_id, scope, request_key) IN ( SELECT", "expired answers, by age"),
    (
        "SELECT team_id, projection, position, tries, error FROM parked",
        "the list of what stands still, for the operator",
    ),
    (
        "SELECT team_id, MIN(position), CAST(COUNT(*) AS BIGINT) FROM cursors WHERE team_id > $1 AND team_id <= $2",
        "a page of a walk over all teams",
    ),
    (
        "SELECT DISTINCT team_id FROM domains WHERE team_id > $1",
        "a walk over teams with domains, in pages of their ids",
    ),
    ("SELECT team_id, seen FROM erasures WHERE team_id > $1 AND team_id <= $2", "a page of a walk over erasures"),
    (
        "SELECT team_id, webhook_id, url, name, event_types, mailboxes, enabled, failing, disable_reason, secret_id, \
         deliver_after, backlog_skipped_at, created_at, updated_at, created_position, changed_position, version \
         FROM webhooks WHERE team_id IN (SELECT DISTINCT team_id FROM webhooks WHERE team_id > $1",
        "a walk over teams with webhooks, in pages of their ids",
    ),
    (
        "SELECT DISTINCT team_id FROM domains WHERE status = $1",
        "teams whose domains wait for their records, by an index",
    ),
    ("SELECT team_id, upload_id, blob_id FROM uploads WHERE expires_at <= $1", "expired uploads, by age"),
    ("DELETE FROM webhook_attempts WHERE (team_id, webhook_id, attempt_id) IN ( SELECT", "expired attempts, by age"),
    ("DELETE FROM outbound_transcripts WHERE at < $1", "expired transcripts, by age"),
    (
        "SELECT DISTINCT e.team_id AS team_id, e.webhook_id AS webhook_id FROM webhook_exceptions e JOIN",
        "due retries, by time",
    ),
    (
        "SELECT team_id, webhook_id FROM webhook_cursors WHERE owner <> '' AND expires_at <= $1",
        "leases that ended, by time",
    ),
    (
        "SELECT team_id, webhook_id, mailbox_id, position, attempts, last_error FROM webhook_exceptions WHERE phase",
        "what is stuck, for the operator",
    ),
    ("SELECT team_id FROM outbound_teams WHERE next_due_at <= $1", "teams with mail that is due, by time"),
    (
        "UPDATE dns_checks SET owner = $1, expires_at = $2 WHERE team_id IN (SELECT team_id FROM dns_checks WHERE due_at",
        "domain checks that are due, by time",
    ),
    ("UPDATE dns_checks SET owner = '', expires_at = 0 WHERE owner = $1", "what a node held when it ended"),
    ("DELETE FROM cursors WHERE projection = $1", "a read model of another version is computed anew for all teams"),
    ("DELETE FROM parked WHERE projection = $1", "a read model of another version is computed anew for all teams"),
];

/// Returns the reason why a statement may look across teams.
#[must_use]
pub fn exception(sql: &str) -> Option<&'static str> {
    let sql = squeezed(sql);
    ACROSS_TEAMS.iter().find(|(begin, _)| sql.starts_with(begin)).map(|(_, why)| *why)
}

/// Returns the tables of teams that definitions create.
#[must_use]
pub fn team_tables(definitions: &str) -> BTreeSet<String> {
    let squeezed = squeezed(definitions);
    let created = squeezed.split("CREATE TABLE ").skip(1);
    let names = created.filter_map(|text| {
        let text = text.strip_prefix("IF NOT EXISTS ").unwrap_or(text);
        let name = text.split([' ', '(']).next()?;
        Some(name.rsplit('.').next().unwrap_or(name).to_owned())
    });
    names.filter(|name| !GLOBAL_TABLES.iter().any(|(global, _)| global == name)).collect()
}

/// Returns what is wrong with a statement; it says nothing about statements that only define things.
#[must_use]
pub fn faults(sql: &str, tables: &BTreeSet<String>) -> Vec<String> {
    let first = sql.trim_start().split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    if !["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].contains(&first.to_ascii_uppercase().as_str()) {
        return vec![];
    }
    let parsed = match Parser::parse_sql(&PostgreSqlDialect {}, sql) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("is not understood: {error}")],
    };
    let mut reader = Reader { tables, named: BTreeSet::new(), faults: vec![] };
    let _ = parsed.visit(&mut Names(&mut reader.named));
    let _ = parsed.visit(&mut reader);
    reader.faults
}

/// Returns whether a text is a whole statement.
#[must_use]
pub fn is_whole(sql: &str) -> bool {
    Parser::parse_sql(&PostgreSqlDialect {}, sql).is_ok()
}

/// Returns whether a part of a statement is right whatever is added to it: with one more value at its end it is a whole
/// statement, and conditions that follow can only narrow it.
#[must_use]
pub fn stands_alone(part: &str, tables: &BTreeSet<String>) -> bool {
    let whole = format!("{part} $1");
    is_whole(&whole) && (faults(&whole, tables).is_empty() || exception(&whole).is_some())
}

/// Returns the distinct statements in a server's log that was written with `log_statement=all`.
#[must_use]
pub fn executed(server_log: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut current: Option<String> = None;
    for line in server_log.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if let Some(text) = &mut current {
                text.push('\n');
                text.push_str(more);
            }
            continue;
        }
        found.extend(current.take());
        let said = line.split_once("LOG:  ").map(|(_, said)| said);
        current = said.and_then(|said| match said.strip_prefix("statement: ") {
            Some(text) => Some(text.to_owned()),
            None => {
                said.strip_prefix("execute ").and_then(|said| said.split_once(": ")).map(|(_, text)| text.to_owned())
            }
        });
    }
    found.extend(current);
    found
}

/// Returns whether a part of a statement was run: its text, but for what stands in braces, is in one of the statements.
#[must_use]
pub fn was_run(part: &str, executed: &BTreeSet<String>) -> bool {
    let part = squeezed(part);
    let fixed: Vec<&str> =
        part.split('{').map(|text| text.split_once('}').map_or(text, |(_, rest)| rest).trim()).collect();
    executed.iter().any(|sql| {
        let sql = squeezed(sql);
        let mut rest = sql.as_str();
        fixed.iter().all(|text| match rest.find(text) {
            Some(at) => {
                rest = &rest[at + text.len()..];
                true
            }
            None => false,
        })
    })
}

/// Returns the tables of teams of the whole house, read from its definitions below a root.
///
/// # Panics
/// A definition cannot be read.
#[must_use]
pub fn tables_of_the_house(root: &Path) -> BTreeSet<String> {
    team_tables(&definitions_of_the_house(root))
}

/// Returns the definitions of all tables on PostgreSQL, below a root.
///
/// # Panics
/// A definition cannot be read.
#[must_use]
pub fn definitions_of_the_house(root: &Path) -> String {
    let mut folders: Vec<_> =
        ["eventlog/migrations/postgres", "projections/src", "dispatcher/src"].map(|folder| root.join(folder)).into();
    let mut definitions = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of definitions").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                definitions.push_str(&std::fs::read_to_string(path).expect("a definition"));
            }
        }
    }
    definitions
}

/// Returns the statements among these that touch a team's data without naming the team, each with what is wrong.
#[must_use]
pub fn strays<'a>(statements: impl IntoIterator<Item = &'a String>, tables: &BTreeSet<String>) -> Vec<String> {
    let wrong = statements.into_iter().filter_map(|sql| {
        let faults = faults(sql, tables);
        (!faults.is_empty() && exception(sql).is_none()).then(|| format!("{}: {}", faults.join(", "), squeezed(sql)))
    });
    wrong.collect()
}

/// What a statement names for itself.
struct Names<'a>(&'a mut BTreeSet<String>);

impl Visitor for Names<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let ctes: &[Cte] = query.with.as_ref().map_or(&[], |with| &with.cte_tables);
        self.0.extend(ctes.iter().map(|cte| cte.alias.name.value.clone()));
        ControlFlow::Continue(())
    }
}

struct Reader<'a> {
    tables: &'a BTreeSet<String>,
    named: BTreeSet<String>,
    faults: Vec<String>,
}

impl Visitor for Reader<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let mut scope = Scope::default();
        select.from.iter().for_each(|from| scope.enter(self, from));
        scope.require(select.selection.as_ref(), None);
        self.faults.extend(scope.unbound());
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        match statement {
            Statement::Update(update) => self.update(update),
            Statement::Delete(delete) => self.delete(delete),
            Statement::Insert(insert) => self.insert(insert),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Reader<'_> {
    /// Returns the table of a team that a name means.
    fn table(&self, name: &ObjectName) -> Option<String> {
        let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).map(|ident| &ident.value).collect();
        let last = parts.last()?;
        let own = parts.len() == 1 && self.named.contains(*last);
        (!own && self.tables.contains(*last)).then(|| (*last).clone())
    }

    fn update(&mut self, update: &Update) {
        let mut scope = Scope::default();
        scope.enter(self, &update.table);
        let from = match &update.from {
            Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => from.as_slice(),
            None => &[],
        };
        from.iter().for_each(|from| scope.enter(self, from));
        scope.require(update.selection.as_ref(), None);
        self.faults.extend(scope.unbound());
        if !scope.tables.is_empty() && update.assignments.iter().any(|a| a.target.to_string() == "team_id") {
            self.faults.push("changes whose row it is".to_owned());
        }
    }

    fn delete(&mut self, delete: &Delete) {
        let mut scope = Scope::default();
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        from.iter().chain(delete.using.iter().flatten()).for_each(|from| scope.enter(self, from));
        scope.require(delete.selection.as_ref(), None);
        self.faults.extend(scope.unbound());
    }

    fn insert(&mut self, insert: &Insert) {
        let TableObject::TableName(name) = &insert.table else { return };
        let Some(table) = self.table(name) else { return };
        if !insert.columns.iter().any(|column| column.to_string() == "team_id") {
            self.faults.push(format!("inserts into {table} without team_id"));
        }
        let Some(OnInsert::OnConflict(conflict)) = &insert.on else { return };
        let names = match &conflict.conflict_target {
            Some(ConflictTarget::Columns(columns)) => columns.iter().any(|column| column.value == "team_id"),
            Some(ConflictTarget::OnConstraint(_)) => false,
            None => matches!(conflict.action, OnConflictAction::DoNothing),
        };
        if !names {
            self.faults.push(format!("meets rows of {table} by a key without team_id"));
        }
    }
}

/// The tables of one FROM, and which of them are bound to a team.
#[derive(Default)]
struct Scope {
    /// Name in the statement -> (table, bound).
    tables: BTreeMap<String, (String, bool)>,
    /// Names whose teams are equal: the second is bound where the first is, and with `true` the other way round.
    links: Vec<(String, String, bool)>,
    wrong: Vec<String>,
}

/// What one side of an equality is.
enum Side {
    /// The team of a table at hand.
    Team(String),
    /// Another column that may be of a table at hand.
    Unknown,
    /// A parameter, a list, a column of something else.
    Given,
}

impl Scope {
    fn enter(&mut self, reader: &Reader<'_>, from: &TableWithJoins) {
        self.factor(reader, &from.relation);
        for Join { relation, join_operator, .. } in &from.joins {
            let before: BTreeSet<String> = self.tables.keys().cloned().collect();
            self.factor(reader, relation);
            let (constraint, only_right) = match join_operator {
                JoinOperator::Join(c) | JoinOperator::Inner(c) | JoinOperator::CrossJoin(c) => (c, false),
                JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => (c, true),
                _ => {
                    self.wrong.push("joins in a way that is not followed here".to_owned());
                    continue;
                }
            };
            let right = self.tables.keys().filter(|name| !before.contains(*name)).cloned().collect();
            match constraint {
                JoinConstraint::On(on) => self.require(Some(on), only_right.then_some(&right)),
                JoinConstraint::None => {}
                JoinConstraint::Using(_) | JoinConstraint::Natural => {
                    self.wrong.push("joins without saying what equals what".to_owned());
                }
            }
        }
    }

    fn factor(&mut self, reader: &Reader<'_>, factor: &TableFactor) {
        match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                if let Some(table) = reader.table(name) {
                    let name = alias.as_ref().map_or_else(|| table.clone(), |alias| alias.name.value.clone());
                    self.tables.insert(name, (table, false));
                }
            }
            TableFactor::NestedJoin { table_with_joins, .. } => self.enter(reader, table_with_joins),
            _ => {}
        }
    }

    /// Takes a condition that must hold; `only` names the tables whose rows it keeps out.
    fn require(&mut self, condition: Option<&Expr>, only: Option<&BTreeSet<String>>) {
        match condition {
            Some(Expr::Nested(inner)) => self.require(Some(inner), only),
            Some(Expr::BinaryOp { left, op: BinaryOperator::And, right }) => {
                self.require(Some(left), only);
                self.require(Some(right), only);
            }
            Some(Expr::BinaryOp { left, op: BinaryOperator::Eq, right }) => self.equal(left, right, only),
            Some(Expr::IsNotDistinctFrom(left, right)) => self.equal(left, right, only),
            Some(
                Expr::AnyOp { left: expr, compare_op: BinaryOperator::Eq, .. }
                | Expr::InList { expr, negated: false, .. }
                | Expr::InSubquery { expr, negated: false, .. },
            ) => {
                let members = match expr.as_ref() {
                    Expr::Tuple(members) => members.as_slice(),
                    one => std::slice::from_ref(one),
                };
                for member in members {
                    if let Side::Team(name) = self.side(member) {
                        self.bind(&name, only);
                    }
                }
            }
            _ => {}
        }
    }

    fn equal(&mut self, left: &Expr, right: &Expr, only: Option<&BTreeSet<String>>) {
        match (self.side(left), self.side(right)) {
            (Side::Team(name), Side::Given) | (Side::Given, Side::Team(name)) => self.bind(&name, only),
            (Side::Team(a), Side::Team(b)) => {
                let both = only.is_none();
                if both || only.is_some_and(|only| only.contains(&b)) {
                    self.links.push((a, b, both));
                } else {
                    self.links.push((b, a, false));
                }
            }
            _ => {}
        }
    }

    fn bind(&mut self, name: &str, only: Option<&BTreeSet<String>>) {
        if only.is_none_or(|only| only.contains(name))
            && let Some((_, bound)) = self.tables.get_mut(name)
        {
            *bound = true;
        }
    }

    fn side(&self, expr: &Expr) -> Side {
        match expr {
            Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => self.side(inner),
            Expr::Identifier(column) if column.value == "team_id" => match self.tables.len() {
                1 => Side::Team(self.tables.keys().next().cloned().unwrap_or_default()),
                _ => Side::Unknown,
            },
            Expr::Identifier(_) => Side::Unknown,
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., of, column] if self.tables.contains_key(&of.value) => match column.value.as_str() {
                    "team_id" => Side::Team(of.value.clone()),
                    _ => Side::Unknown,
                },
                _ => Side::Given,
            },
            _ => Side::Given,
        }
    }

    fn unbound(&mut self) -> Vec<String> {
        loop {
            let is_bound =
                |tables: &BTreeMap<String, (String, bool)>, name: &str| tables.get(name).is_some_and(|t| t.1);
            let next = self.links.iter().find_map(|(from, to, both)| {
                let (of, other) = (is_bound(&self.tables, from), is_bound(&self.tables, to));
                match (of, other) {
                    (true, false) => Some(to.clone()),
                    (false, true) if *both => Some(from.clone()),
                    _ => None,
                }
            });
            let Some(name) = next else { break };
            self.bind(&name, None);
        }
        let open = self.tables.values().filter(|(_, bound)| !bound).map(|(table, _)| format!("{table} of every team"));
        self.wrong.iter().cloned().chain(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> BTreeSet<String> {
        ["events", "heads", "messages", "cursors"].map(str::to_owned).into()
    }

    #[test]
    fn statements_that_name_their_team_pass() {
        for sql in [
            "SELECT 1 FROM messages WHERE team_id = $1 AND x > 2",
            "SELECT 1 FROM log.events e JOIN log.heads h ON h.team_id = e.team_id WHERE e.team_id = $1::text",
            "SELECT 1 FROM UNNEST($1::text[]) AS w(team_id) JOIN log.heads h ON h.team_id = w.team_id",
            "SELECT 1 FROM messages m WHERE team_id IN (SELECT value FROM json_each($1)) OFFSET 0",
            "SELECT (SELECT COUNT(*) FROM cursors c WHERE c.team_id = m.team_id) FROM messages m WHERE (team_id, x) IN (($1, 2))",
            "INSERT INTO messages (team_id, x) VALUES ($1, 2) ON CONFLICT (team_id, x) DO UPDATE SET x = 1",
            "WITH events AS (INSERT INTO log.events (team_id) SELECT $1) SELECT * FROM events",
            "UPDATE cursors SET position = j.p FROM (SELECT $1 AS t, $2 AS p) AS j WHERE cursors.team_id = j.t",
            "DELETE FROM messages t WHERE t.team_id = ANY($1::text[])",
            "CREATE TABLE whatever (x INT)",
        ] {
            assert_eq!(faults(sql, &tables()), Vec::<String>::new(), "{sql}");
        }
    }

    #[test]
    fn statements_that_reach_other_teams_are_found() {
        for sql in [
            "SELECT 1 FROM messages",
            "SELECT 1 FROM messages WHERE team_id > $1",
            "SELECT 1 FROM messages WHERE team_id = $1 OR x = 2",
            "SELECT 1 FROM messages WHERE NOT (team_id = $1)",
            "SELECT 1 FROM messages WHERE team_id <> $1 AND team_id = team_id",
            "SELECT 1 FROM events e JOIN heads h ON h.team_id = e.team_id",
            "SELECT 1 FROM events e LEFT JOIN heads h ON e.team_id = $1 AND h.team_id = $1",
            "SELECT 1 FROM events e JOIN heads h ON h.position = e.position WHERE e.team_id = $1",
            "SELECT 1 FROM messages WHERE team_id = $1 AND id IN (SELECT id FROM events)",
            "SELECT 1 FROM messages WHERE team_id NOT IN ($1)",
            "INSERT INTO messages (x) VALUES (1)",
            "INSERT INTO messages (team_id, x) VALUES ($1, 2) ON CONFLICT (x) DO NOTHING",
            "UPDATE cursors SET position = 0 WHERE projection = $1",
            "UPDATE cursors SET team_id = $2 WHERE team_id = $1",
            "WITH a AS (DELETE FROM events WHERE position = $1) SELECT 1",
            "DELETE FROM messages USING events e WHERE e.team_id = $1",
            "SELECT 1 FROM messages WHERE",
        ] {
            assert_ne!(faults(sql, &tables()), Vec::<String>::new(), "{sql}");
        }
    }

    #[test]
    fn a_server_log_is_read_statement_by_statement() {
        let log = "2026 [1] LOG:  statement: BEGIN\n2026 [1] LOG:  execute sqlx_s_1: SELECT 1\n\tFROM x\n2026 [1] DETAIL:  \
                   parameters: $1 = 'a'\n\tb\n2026 [1] LOG:  execute <unnamed>: COMMIT";
        let found: Vec<String> = executed(log).into_iter().collect();
        assert_eq!(found, ["BEGIN", "COMMIT", "SELECT 1\nFROM x"]);
    }
}
