//! Tables as lists of columns, so that each batch is one statement per table on both engines.
//!
//! The unit of cost is the round trip: rows travel as one JSON parameter, an array of arrays, and the statement takes
//! them apart. The team is a parameter of its own, because every page of events is one team's.

use std::fmt::Write as _;

use domain::id::TeamId;
use sqlx::AssertSqlSafe;

use crate::db::{Cells, Engine, Reader, Tx};
use crate::{Error, exec, rows};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A signed 64-bit number.
    Int,
    /// Yes or no.
    Bool,
}

/// A table of a projection. Its first key column is `team_id`, which is not listed.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The key columns behind `team_id`.
    pub key: &'static [(&'static str, Kind)],
    /// The other columns.
    pub rest: &'static [(&'static str, Kind)],
}

/// What happens to a row whose key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It cannot be: the statement fails.
    Refuse,
    /// The new row takes its place.
    Replace,
    /// As this clause says.
    Clause(&'static str),
}

impl Table {
    /// Returns all columns behind `team_id`, in the order in which rows are written.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &'static (&'static str, Kind)> {
        self.key.iter().chain(self.rest)
    }

    /// Returns the names of all columns behind `team_id`, separated by commas.
    pub(crate) fn column_list(&self) -> String {
        self.columns().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    fn insert_text(&self, engine: Engine, existing: Existing) -> String {
        let mut sql = format!("INSERT INTO {} (team_id, {}) SELECT ", self.name, self.column_list());
        sql.push_str(engine.pick("$2", "$2::text"));
        for (i, (_, kind)) in self.columns().enumerate() {
            sql.push_str(", ");
            sql.push_str(&element(engine, "value", i, *kind));
        }
        sql.push_str(engine.pick(" FROM jsonb_each($1)", " FROM json_array_elements($1::json)"));
        sql.push_str(" WHERE true");
        match existing {
            Existing::Refuse => {}
            Existing::Replace => {
                let key: Vec<_> = self.key.iter().map(|(name, _)| *name).collect();
                let set: Vec<_> = self.rest.iter().map(|(name, _)| format!("{name} = excluded.{name}")).collect();
                let _ = write!(sql, " ON CONFLICT (team_id, {}) DO UPDATE SET {}", key.join(", "), set.join(", "));
            }
            Existing::Clause(clause) => {
                sql.push(' ');
                sql.push_str(clause);
            }
        }
        sql
    }

    /// Writes rows with all columns.
    pub(crate) async fn insert(
        &self,
        tx: &mut Tx<'_>,
        team: &TeamId,
        rows: Rows,
        existing: Existing,
    ) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let sql = self.insert_text(tx.engine(), existing);
        for part in rows.finish() {
            exec!(tx, AssertSqlSafe(sql.clone()), part, team.as_str())?;
        }
        Ok(())
    }

    /// Changes some columns of rows: each row given is the key, then these columns. Rows that are not there stay absent.
    pub(crate) async fn update(
        &self,
        tx: &mut Tx<'_>,
        team: &TeamId,
        columns: &[(&'static str, Kind)],
        rows: Rows,
    ) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let sql = self.update_text(tx.engine(), columns);
        for part in rows.finish() {
            exec!(tx, AssertSqlSafe(sql.clone()), part, team.as_str())?;
        }
        Ok(())
    }

    /// The rows are taken apart once and for all before they are joined: left to itself, SQLite may go through all rows
    /// of the team and through all of the JSON for each of them.
    fn update_text(&self, engine: Engine, columns: &[(&'static str, Kind)]) -> String {
        let (name, given) = (self.name, self.key.iter().chain(columns).enumerate());
        let values: Vec<_> =
            given.map(|(i, (column, kind))| format!("{} AS {column}", element(engine, "value", i, *kind))).collect();
        let set: Vec<_> = columns.iter().map(|(column, _)| format!("{column} = new.{column}")).collect();
        let key: Vec<_> = self.key.iter().map(|(column, _)| format!(" AND {name}.{column} = new.{column}")).collect();
        format!(
            "WITH new AS MATERIALIZED (SELECT {} AS team_id, {} FROM {})
             UPDATE {name} SET {} FROM new WHERE {name}.team_id = new.team_id{}",
            engine.pick("$2", "$2::text"),
            values.join(", "),
            engine.pick("jsonb_each($1)", "json_array_elements($1::json)"),
            set.join(", "),
            key.concat(),
        )
    }

    /// Drops rows; each row given is a key.
    pub(crate) async fn delete(&self, tx: &mut Tx<'_>, team: &TeamId, keys: Rows) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let sql = self.delete_text(tx.engine());
        for part in keys.finish() {
            exec!(tx, AssertSqlSafe(sql.clone()), part, team.as_str())?;
        }
        Ok(())
    }

    fn delete_text(&self, engine: Engine) -> String {
        format!("DELETE FROM {} WHERE team_id = $2 AND {}", self.name, self.key_in(engine))
    }

    /// Returns rows; each row given is a key. Keys that are not there are left out.
    pub(crate) async fn load(&self, tx: &mut Tx<'_>, team: &TeamId, keys: Rows) -> Result<Vec<Cells>, Error> {
        self.load_columns(tx, team, keys, &self.column_list()).await
    }

    /// Returns some columns of rows; see [`Table::load`].
    pub(crate) async fn load_columns(
        &self,
        tx: &mut Tx<'_>,
        team: &TeamId,
        keys: Rows,
        columns: &str,
    ) -> Result<Vec<Cells>, Error> {
        if keys.is_empty() {
            return Ok(vec![]);
        }
        let sql = self.load_text(tx.engine(), columns);
        let mut found = vec![];
        for part in keys.finish() {
            found.extend(rows!(tx, AssertSqlSafe(sql.clone()), part, team.as_str())?);
        }
        Ok(found)
    }

    fn load_text(&self, engine: Engine, columns: &str) -> String {
        format!("SELECT {columns} FROM {} WHERE team_id = $2 AND {}", self.name, self.key_in(engine))
    }

    /// Returns all rows of a team as text, in the order of their keys.
    pub(crate) async fn dump(&self, reader: &mut Reader, team: &TeamId) -> Result<Vec<String>, Error> {
        let key: Vec<_> = self.key.iter().map(|(name, _)| *name).collect();
        let columns = self.column_list();
        let sql = format!("SELECT {columns} FROM {} WHERE team_id = $1 ORDER BY {}", self.name, key.join(", "));
        let mut lines = vec![];
        for cells in rows!(reader, AssertSqlSafe(sql), team.as_str())? {
            let mut line = String::new();
            for (name, kind) in self.columns() {
                let value = match kind {
                    Kind::Text => format!("{:?}", cells.get::<Option<String>>(name)?),
                    Kind::Int => format!("{:?}", cells.get::<Option<i64>>(name)?),
                    Kind::Bool => format!("{:?}", cells.get::<Option<bool>>(name)?),
                };
                let _ = write!(line, "{name}={value} ");
            }
            lines.push(line);
        }
        Ok(lines)
    }

    /// `(a, b) IN (SELECT … FROM …)` over keys in the first parameter.
    fn key_in(&self, engine: Engine) -> String {
        let names: Vec<_> = self.key.iter().map(|(name, _)| *name).collect();
        let values: Vec<_> =
            self.key.iter().enumerate().map(|(i, (_, kind))| element(engine, "value", i, *kind)).collect();
        let source = engine.pick("jsonb_each($1)", "json_array_elements($1::json)");
        format!("({}) IN (SELECT {} FROM {source})", names.join(", "), values.join(", "))
    }
}

/// The SQL that takes one element out of a row in JSON.
fn element(engine: Engine, value: &str, i: usize, kind: Kind) -> String {
    match (engine, kind) {
        (Engine::Sqlite, _) | (Engine::Postgres, Kind::Text) => format!("{value}->>{i}"),
        (Engine::Postgres, Kind::Int) => format!("({value}->>{i})::bigint"),
        (Engine::Postgres, Kind::Bool) => format!("({value}->>{i})::boolean"),
    }
}

/// One value on its way into a table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell<'a> {
    Null,
    Text(&'a str),
    Int(i64),
    Bool(bool),
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Cell<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell<'_> {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<u64> for Cell<'_> {
    fn from(n: u64) -> Self {
        Self::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Cell<'_> {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

impl<'a, T: Into<Cell<'a>>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Makes a row of [`Cell`]s out of values.
macro_rules! cells {
    ($($value:expr),+ $(,)?) => { &[$($crate::table::Cell::from($value)),+] };
}
pub(crate) use cells;

/// How many bytes of rows go into a database at once: so few that they are still in the processor's caches when they are
/// taken apart, and many enough that the round trip does not count.
const PART_BYTES: usize = 128 << 10;

/// Rows on their way into a table: JSON arrays of arrays.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    json: Vec<u8>,
    full: Vec<Vec<u8>>,
}

impl Rows {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.json.is_empty() && self.full.is_empty()
    }

    pub(crate) fn push(&mut self, cells: &[Cell<'_>]) {
        if self.json.len() >= PART_BYTES {
            self.full.push(std::mem::take(&mut self.json));
        }
        self.json.push(if self.json.is_empty() { b'[' } else { b',' });
        for (i, cell) in cells.iter().enumerate() {
            self.json.push(if i == 0 { b'[' } else { b',' });
            match cell {
                Cell::Null => self.json.extend_from_slice(b"null"),
                Cell::Bool(true) => self.json.extend_from_slice(b"true"),
                Cell::Bool(false) => self.json.extend_from_slice(b"false"),
                Cell::Int(n) => self.write(n),
                // PostgreSQL has no NUL in text; both engines keep the same.
                Cell::Text(text) if has_nul(text) => self.write(&text.replace('\0', "\u{fffd}")),
                Cell::Text(text) => self.write(text),
            }
        }
        self.json.push(b']');
    }

    fn write(&mut self, value: &(impl serde::Serialize + ?Sized)) {
        serde_json::to_writer(&mut self.json, value)
            .expect("texts and numbers always serialise, and memory takes them");
    }

    /// Returns the parts, none of them empty.
    fn finish(mut self) -> impl Iterator<Item = String> + Send {
        if !self.json.is_empty() {
            self.full.push(self.json);
        }
        self.full.into_iter().map(|mut json| {
            json.push(b']');
            String::from_utf8(json).expect("JSON of texts is UTF-8")
        })
    }
}

/// All bytes are looked at, whatever they are: that is quicker than to look for the first.
fn has_nul(text: &str) -> bool {
    text.bytes().fold(false, |nul, byte| nul | (byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Projection as _, Views};

    #[test]
    fn rows_are_json_without_nul() {
        let mut rows = Rows::new();
        rows.push(cells!["a\0\"b", 1_i64, true, None::<&str>]);
        rows.push(cells!["é", 2_u64, false, Some("x")]);
        let json: Vec<_> = rows.finish().collect();
        assert_eq!(json, ["[[\"a\u{fffd}\\\"b\",1,true,null],[\"é\",2,false,\"x\"]]"]);
        assert_eq!(Rows::new().finish().count(), 0);
    }

    #[tokio::test]
    async fn many_rows_go_in_parts_and_all_of_them_come_back() {
        let views = Views::memory().await.unwrap();
        let mut tx = views.db().begin().await.unwrap();
        let team = TeamId::new(1, [1; 9]);
        let table = crate::messages::Messages.tables().iter().find(|table| table.name == "thread_aliases").unwrap();
        let keys = |n: i64| ["mbx".to_owned(), format!("{n:0>200}")];
        let (mut rows, mut wanted, mut gone) = (Rows::new(), Rows::new(), Rows::new());
        for n in 0..2_000 {
            let [mailbox, alias] = keys(n);
            rows.push(cells![&mailbox, &alias, "thr_a"]);
            wanted.push(cells![&mailbox, &alias]);
            if n % 4 == 0 {
                gone.push(cells![&mailbox, &alias]);
            }
        }
        assert!(rows.full.len() > 1 && wanted.full.len() > 1, "more than one part");
        table.insert(&mut tx, &team, rows, Existing::Refuse).await.unwrap();
        table.delete(&mut tx, &team, gone).await.unwrap();
        let found = table.load(&mut tx, &team, wanted).await.unwrap();
        let found: std::collections::BTreeSet<String> = found.iter().map(|row| row.text("alias").unwrap()).collect();
        let left: std::collections::BTreeSet<String> = (0..2_000)
            .filter(|n| n % 4 != 0)
            .map(|n| {
                let [_, alias] = keys(n);
                alias
            })
            .collect();
        assert_eq!(found, left);
    }

    #[tokio::test]
    async fn what_a_page_of_events_touches_is_sought_by_its_key() {
        let views = Views::memory().await.unwrap();
        let mut tx = views.db().begin().await.unwrap();
        for table in crate::ALL.iter().flat_map(|projection| projection.tables()) {
            let update = table.update_text(Engine::Sqlite, table.rest);
            let texts = [table.delete_text(Engine::Sqlite), table.load_text(Engine::Sqlite, "*"), update];
            let key: String = table.key.iter().map(|(name, _)| format!(" AND {name}=?")).collect();
            for text in texts {
                let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
                let plan = crate::rows!(tx, sql, "[]", "team").unwrap();
                let steps: Vec<String> = plan.iter().map(|step| step.get("detail").unwrap()).collect();
                let sought = format!("(team_id=?{key})");
                assert!(steps.iter().any(|step| step.contains(&sought)), "{text}\n{steps:#?}");
                let scans = steps.iter().filter(|step| step.starts_with(&format!("SCAN {}", table.name)));
                assert_eq!(scans.count(), 0, "{text}\n{steps:#?}");
            }
        }
    }
}
