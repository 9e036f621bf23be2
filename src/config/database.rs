//! Where logs are kept: `[database]` and its cells.

use serde::Deserialize;

/// See `[database]` in the default file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Database {
    pub url: String,
    pub notify: bool,
    pub lanes: usize,
    pub cells: Vec<Cell>,
    pub new_teams_cell: String,
    pub queue_max: usize,
    pub write_ahead_reserve_mebibytes: u64,
    pub dangerous_unsafe_postgres: bool,
}

/// A further database that holds teams' logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the default file documents each key")]
pub struct Cell {
    pub name: String,
    pub url: String,
}

impl Database {
    /// Returns what is wrong with the cells.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        let mut names = vec![eventlog::postgres::HOME];
        if !self.cells.is_empty() && self.url.is_empty() {
            problems.push("database.cells needs database.url: SQLite has one database".to_owned());
        }
        for cell in &self.cells {
            let name = cell.name.as_str();
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if !(1..=63).contains(&name.len()) || !name.chars().all(is_name) {
                problems.push(format!("database.cells.name {name:?} must be 1 to 63 of a-z, 0-9 and -"));
            }
            if names.contains(&name) {
                problems.push(format!("database.cells.name {name} is there twice"));
            }
            names.push(name);
            if !is_postgres(&cell.url) {
                problems.push(format!("database.cells.url of {name} must begin with postgres://"));
            }
        }
        if !names.contains(&self.new_teams_cell.as_str()) {
            problems.push(format!("database.new_teams_cell {:?} is none of {}", self.new_teams_cell, names.join(", ")));
        }
        problems
    }
}

pub(super) fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}
