//! The program's own tasks in simulated time, over a simulated network, through schedules from seeds: see
//! `proof/src/bin/simulate`.
//!
//! `POSTLOG_TEST_SEEDS` sets how many seeds are run; `POSTLOG_TEST_SEED=<seed>` repeats one alone, and tells what happened.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::print_stdout, reason = "what was run is what a simulation is worth")]

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How many seeds are run on every change: each takes most of a second of a processor.
const SEEDS: u64 = 40;
/// Within how many seeds a mistake must be found.
const FOUND_WITHIN: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs one seed in a process of its own; returns whether all held, and what was said.
fn simulate(seed: u64, further: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_simulate")).arg(seed.to_string()).args(further).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

/// Runs seeds side by side, as many as there are processors; returns those that failed, with what they said.
fn failures(seeds: std::ops::Range<u64>, further: &[&str], stop_at_first: bool) -> Vec<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(vec![]);
    let hands = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..hands {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || (stop_at_first && !failed.lock().unwrap().is_empty()) {
                        return;
                    }
                    let (held, said) = simulate(seed, further);
                    if !held {
                        failed.lock().unwrap().push((seed, said));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    failed
}

#[test]
fn no_schedule_breaks_a_promise() {
    if let Some(seed) = number("POSTLOG_TEST_SEED") {
        let (held, said) = simulate(seed, &["--trace"]);
        println!("{said}");
        assert!(held, "seed {seed} fails");
        return;
    }
    let began = Instant::now();
    let seeds = number("POSTLOG_TEST_SEEDS").unwrap_or(SEEDS);
    let failed = failures(0..seeds, &[], false);
    println!("{seeds} seeds, {} failed, {:.1} s", failed.len(), began.elapsed().as_secs_f64());
    let told: Vec<String> = failed
        .iter()
        .map(|(seed, said)| {
            format!("{said}repeat: POSTLOG_TEST_SEED={seed} cargo test -p proof --test simulation -- --nocapture no_schedule")
        })
        .collect();
    assert!(failed.is_empty(), "{}", told.join("\n"));
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..5 {
        let (once, again) = (simulate(seed, &[]), simulate(seed, &[]));
        assert_eq!(once, again);
    }
    assert_ne!(simulate(1, &[]).1.split_once(':'), simulate(2, &[]).1.split_once(':'));
}

fn is_found(fault: &str) {
    let failed = failures(0..FOUND_WITHIN, &["--fault", fault], true);
    let (seed, said) = failed.first().unwrap_or_else(|| panic!("{fault} is not found within {FOUND_WITHIN} seeds"));
    println!("{fault}: found by seed {seed}: {}", said.lines().nth(1).unwrap_or_default().trim());
}

#[test]
fn an_append_that_is_answered_before_it_is_written_is_found() {
    is_found("answered-before-commit");
}

#[test]
fn an_answer_that_is_not_kept_with_its_events_is_found() {
    is_found("answers-not-kept");
}

#[test]
fn reading_a_copy_that_lags_is_found() {
    is_found("reads-a-lagging-copy");
}

#[test]
fn a_refusal_that_counts_as_delivered_is_found() {
    is_found("refusals-taken-for-success");
}

#[test]
fn a_result_that_is_not_written_down_is_found() {
    is_found("results-not-written");
}

#[test]
fn leases_that_do_not_last_are_found() {
    is_found("leases-do-not-last");
}
