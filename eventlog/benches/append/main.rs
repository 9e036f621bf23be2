//! Durable appends through `transact`, beside the barest program that writes the same rows.
//!
//! `cargo bench -p eventlog --bench append` prints events a second and the ratio; each pair is measured in turns, and the
//! median of the rounds counts. `-- sqlite`, `-- postgres` or `-- overhead` runs one part.
#![expect(clippy::disallowed_methods, reason = "two signals to stop need no bound")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may fail loudly and prints its results")]

mod bare;
#[path = "../../../projections/benches/rebuild/history.rs"]
mod history;
mod load;
mod overhead;
mod postgres;
mod sqlite;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wants = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if wants("sqlite") {
        runtime.block_on(sqlite::compare());
    }
    if wants("postgres") {
        runtime.block_on(postgres::compare());
    }
    if wants("overhead") {
        runtime.block_on(overhead::compare());
    }
}
