//! Queries put together from parts.

use sqlx::AssertSqlSafe;

use super::{Cells, Connection, Reader};
use crate::Error;

/// A query that is put together from parts, with its values bound in order.
#[derive(Debug, Clone, Default)]
pub struct Select {
    sql: String,
    binds: Vec<Bind>,
}

#[derive(Debug, Clone)]
enum Bind {
    Text(String),
    Int(i64),
}

impl Select {
    /// Returns a query that begins with this text.
    #[must_use]
    pub fn new(sql: &'static str) -> Self {
        Self { sql: sql.to_owned(), binds: vec![] }
    }

    /// Adds text, which is part of the program: whatever a caller sent is bound.
    pub fn push(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Adds a place for a text.
    pub fn text(&mut self, value: impl Into<String>) -> &mut Self {
        self.bind(Bind::Text(value.into()))
    }

    /// Adds a place for a number.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.bind(Bind::Int(value))
    }

    /// Adds a comparison that holds where a column contains a text.
    pub fn contains(&mut self, column: &'static str, text: &str) -> &mut Self {
        self.push(column).push(" LIKE ").text(containing(text)).push(" ESCAPE '!'")
    }

    fn bind(&mut self, bind: Bind) -> &mut Self {
        self.binds.push(bind);
        self.sql.push_str(&format!("${}", self.binds.len()));
        self
    }

    /// Returns how SQLite would go about the query, step by step.
    #[cfg(test)]
    pub(crate) async fn plan(&self, reader: &mut Reader) -> Result<Vec<String>, Error> {
        let explained = Self { sql: format!("EXPLAIN QUERY PLAN {}", self.sql), binds: self.binds.clone() };
        explained.fetch(reader).await?.iter().map(|step| step.text("detail")).collect()
    }

    /// Runs the query.
    ///
    /// # Errors
    /// The database does not answer or refuses it.
    pub async fn fetch(&self, reader: &mut Reader) -> Result<Vec<Cells>, Error> {
        let sql = AssertSqlSafe(self.sql.clone());
        Ok(match reader.connection() {
            Connection::Sqlite(c) => {
                let query = self.binds.iter().fold(sqlx::query(sql), |query, bind| match bind {
                    Bind::Text(text) => query.bind(text.clone()),
                    Bind::Int(n) => query.bind(*n),
                });
                query.fetch_all(&mut *c).await?.into_iter().map(Cells::Sqlite).collect()
            }
            Connection::Postgres(c, answering) => {
                let query = self.binds.iter().fold(sqlx::query(sql), |query, bind| match bind {
                    Bind::Text(text) => query.bind(text.clone()),
                    Bind::Int(n) => query.bind(*n),
                });
                answering.guard(query.fetch_all(&mut *c)).await?.into_iter().map(Cells::Postgres).collect()
            }
            Connection::Held(c) => {
                let query = self.binds.iter().fold(sqlx::query(sql), |query, bind| match bind {
                    Bind::Text(text) => query.bind(text.clone()),
                    Bind::Int(n) => query.bind(*n),
                });
                super::at_once(query.fetch_all(&mut *c)).await?.into_iter().map(Cells::Sqlite).collect()
            }
        })
    }
}

/// Returns a `LIKE` pattern (escape `!`) for texts that contain this one.
fn containing(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars().filter(|c| *c != '\0') {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
