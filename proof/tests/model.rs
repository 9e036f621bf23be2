//! The model up to the bounds of every change (`POSTLOG_TEST_MODEL=large`: further), and the mistakes it must find.
#![expect(clippy::print_stdout, reason = "bounds, numbers of states and times are what a model check is worth")]

use std::time::Instant;

use proof::model::properties as must;
use proof::model::{Bounds, DesignError, Proof};
use proof::parts::{self, Level};
use stateright::{Checker, HasDiscoveries, Model};

/// Looks at everything within the bounds of a part, and demands that all promises hold there and that what is named can
/// be reached.
fn explore(name: &str) {
    let level = if std::env::var("POSTLOG_TEST_MODEL").is_ok_and(|level| level == "large") {
        Level::Large
    } else {
        Level::Change
    };
    let part = parts::all(level).into_iter().find(|part| part.name == name).expect("a part of that name");
    let found = part.explore();
    println!("{found}");
    assert_eq!(found.problems, Vec::<String>::new());
}

#[test]
fn appends_survive_crashes_lost_answers_and_two_writers() {
    explore("append");
}

#[test]
fn webhooks_survive_crashes_refusals_and_lost_answers() {
    explore("retries");
}

#[test]
fn webhooks_survive_takeovers() {
    explore("takeover");
}

#[test]
fn a_node_that_was_stopped_sends_one_late_request_at_most() {
    explore("pauses");
}

#[test]
fn streams_survive_crashes_and_cuts() {
    explore("streams");
}

#[test]
fn projections_survive_crashes_and_power_cuts() {
    explore("projections");
}

#[test]
fn all_of_it_together_holds() {
    explore("whole");
}

/// A mistake is found, as a breach of the promise it breaks.
fn finds(error: DesignError, breaks: &'static str, bounds: Bounds) {
    let began = Instant::now();
    let checker =
        Proof::with(bounds, error).checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let path = checker
        .discovery(breaks)
        .unwrap_or_else(|| panic!("{error:?} is not found: {:?}", checker.discoveries().keys()));
    let steps = path.into_actions();
    let (states, seconds) = (checker.unique_state_count(), began.elapsed().as_secs_f64());
    println!(
        "{error:?}: found in {} steps after {states} states, {seconds:.1} s, as a breach of: {breaks}",
        steps.len()
    );
    for (number, step) in (1..).zip(&steps) {
        println!("    {number}. {step:?}");
    }
}

#[test]
fn an_answer_looked_for_outside_the_append_is_found() {
    let bounds = Bounds { sendings: 2, lost_answers: 1, ..Bounds::nothing() };
    finds(DesignError::AnswersApart, must::ONCE, bounds);
}

#[test]
fn an_answer_before_the_commit_is_found() {
    finds(DesignError::AnswerBeforeCommit, must::ACKNOWLEDGED, Bounds { crashes: 1, ..Bounds::nothing() });
}

#[test]
fn an_event_delivered_before_its_request_is_found() {
    let bounds = Bounds { webhook: true, ticks: 1, ..Bounds::nothing() };
    finds(DesignError::DeliveredBeforeRequest, must::SKIPPED, bounds);
}

#[test]
fn a_request_for_the_next_event_before_the_first_is_settled_is_found() {
    let bounds = Bounds { clients: vec![1, 1], webhook: true, ticks: 1, ..Bounds::nothing() };
    finds(DesignError::NextBeforeSettled, must::ORDER, bounds);
}

#[test]
fn a_result_written_without_a_fence_is_found() {
    let bounds = Bounds { clients: vec![1, 1], webhook: true, pauses: 1, ticks: 3, ..Bounds::nothing() };
    finds(DesignError::Unfenced, must::REPEATED, bounds);
}

#[test]
fn a_backlog_read_before_subscribing_is_found() {
    let bounds = Bounds { nodes: 1, clients: vec![1, 1], readers: 1, ..Bounds::nothing() };
    finds(DesignError::BacklogBeforeSubscribing, must::STREAMS, bounds);
}

#[test]
fn what_is_not_dropped_at_the_hand_over_is_found() {
    let bounds = Bounds { nodes: 1, clients: vec![1, 1], readers: 1, drops: 1, ..Bounds::nothing() };
    finds(DesignError::NoDropAtHandOver, must::STREAMS, bounds);
}

#[test]
fn a_cursor_in_a_transaction_of_its_own_is_found() {
    let bounds = Bounds { nodes: 1, crashes: 1, views: true, ..Bounds::nothing() };
    finds(DesignError::CursorApart, must::FOLDS, bounds);
}

#[test]
fn positions_handed_out_before_the_commit_are_found() {
    let bounds = Bounds { clients: vec![1, 1], readers: 1, ..Bounds::nothing() };
    finds(DesignError::PositionsBeforeCommit, must::STREAMS, bounds);
    let bounds = Bounds { clients: vec![1, 1], views: true, ..Bounds::nothing() };
    finds(DesignError::PositionsBeforeCommit, must::FOLDS, bounds);
}
