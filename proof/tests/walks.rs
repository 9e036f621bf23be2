//! Random schedules from seeds: `POSTLOG_TEST_WALKS` sets how many, `POSTLOG_TEST_WALK=<seed>` repeats one.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::print_stdout, reason = "numbers of seeds and steps are what a simulation is worth")]

use std::time::Instant;

use proof::model::DesignError;
use proof::walk::{Walked, walk};

const STEPS_MAX: usize = 3_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn told(seed: u64, walked: &Walked) -> String {
    let Some((property, way)) = &walked.broken else { return String::new() };
    let steps: Vec<String> = (1..).zip(way).map(|(number, step)| format!("    {number}. {step:?}")).collect();
    format!(
        "seed {seed} breaks: {property}\n{}\nrepeat: POSTLOG_TEST_WALK={seed} cargo test -p proof --test walks -- no_schedule",
        steps.join("\n")
    )
}

#[test]
fn no_schedule_breaks_a_promise() {
    let began = Instant::now();
    let only = number("POSTLOG_TEST_WALK");
    let seeds = number("POSTLOG_TEST_WALKS").unwrap_or(200);
    let (mut steps, mut done) = (0, 0);
    for seed in only.map_or(0..seeds, |only| only..only + 1) {
        let walked = walk(seed, STEPS_MAX, None);
        assert!(walked.broken.is_none(), "{}", told(seed, &walked));
        steps += walked.steps;
        done += u64::from(walked.is_done);
    }
    println!("{steps} steps, {done} of {seeds} ways to their end, {:.1} s", began.elapsed().as_secs_f64());
    assert!(only.is_some() || done * 2 > seeds, "only {done} of {seeds} ways came to their end: they prove little");
}

#[test]
fn a_seed_is_a_way() {
    assert_eq!(walk(7, 500, None), walk(7, 500, None));
    assert_ne!(walk(7, 500, None), walk(8, 500, None));
}

/// A write without a fence needs a pause at one moment and a takeover at another: chance does not find it, looking at
/// everything does (`tests/model.rs`).
#[test]
fn eight_of_the_nine_mistakes_are_met_on_some_way() {
    for error in DesignError::ALL.into_iter().filter(|error| *error != DesignError::Unfenced) {
        let found = (0..400).find_map(|seed| Some((seed, walk(seed, STEPS_MAX, Some(error)).broken?)));
        let (seed, (property, way)) = found.unwrap_or_else(|| panic!("{error:?} is never met"));
        println!("{error:?}: met by seed {seed} after {} steps, as a breach of: {property}", way.len());
    }
}
