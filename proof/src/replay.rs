//! Follows a recorded run of the program with the model, step by step: each recorded step must be one that the model
//! allows there.
//!
//! A recording holds what can be seen from outside, in the order it happened: mails, requests at the receiver, crashes,
//! what the work database holds. What cannot be seen (a page that is read, a result that is noted, a write that is on its
//! way) the model fills in, in every way that is possible; a recording is refused where no way is left.

use std::collections::HashSet;

use dispatcher::model::Phase;
use domain::id::Position;
use stateright::Model;

use crate::model::{Action, Bounds, HookAction, Proof, Stage, State, WriterAction};

/// Most ways the unseen part of a run may have gone, at any of its steps.
const WAYS_MAX: usize = 400_000;

/// One step of a run, as it was seen. Positions count from the webhook's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// A mail was appended.
    Mail {
        /// For which mailbox, 1 or 2.
        mailbox: u8,
    },
    /// The webhook's receiver got a request.
    Request {
        /// Of which event.
        position: Position,
        /// Which attempt, by its header.
        number: u32,
        /// Whether it was answered 2xx.
        ok: bool,
    },
    /// The node lost its memory, and began again.
    Crash,
    /// A second of stored time passed.
    Tick,
    /// The work database was looked at.
    Kept(Kept),
}

/// What the work database holds of the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Everything up to here is settled or covered by a row.
    pub cursor: Position,
    /// Everything up to here is, except `pending`.
    pub horizon: Position,
    /// What is not, between the two.
    pub pending: Vec<Position>,
    /// The rows of blocked mailboxes, by mailbox: position, phase, attempts.
    pub rows: Vec<(u8, Position, Phase, u32)>,
}

/// What following a recording came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// How many steps it has.
    pub steps: usize,
    /// In how many ways, at most, the unseen part may have gone.
    pub ways_max: usize,
}

/// The model does not allow a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Nothing that may have gone before allows it.
    Step {
        /// Its place in the recording, from 0.
        index: usize,
        /// The step.
        observed: Observed,
    },
    /// There are too many ways to look at.
    TooManyWays {
        /// At which step.
        index: usize,
    },
}

/// Follows a recording of one node.
///
/// # Errors
/// The first step that is not allowed.
pub fn follow(recording: &[Observed], attempts: u8) -> Result<Followed, Refused> {
    let clients = recording.iter().filter_map(|observed| match observed {
        Observed::Mail { mailbox } => Some(*mailbox),
        _ => None,
    });
    let bounds = Bounds {
        nodes: 1,
        clients: clients.collect(),
        crashes: u8::MAX,
        webhook: true,
        attempts,
        leases: u8::MAX,
        refusals: u8::MAX,
        ticks: 200,
        ..Bounds::nothing()
    };
    let proof = Proof::new(bounds);
    let mut ways: HashSet<State> = proof.init_states().into_iter().collect();
    let mut followed = Followed { steps: recording.len(), ways_max: 0 };
    for (index, observed) in recording.iter().enumerate() {
        let unseen = fill_in(&proof, ways).ok_or(Refused::TooManyWays { index })?;
        followed.ways_max = followed.ways_max.max(unseen.len());
        ways =
            unseen.iter().flat_map(|state| after(&proof, state, observed)).filter(|state| state.faults == 0).collect();
        if ways.is_empty() {
            return Err(Refused::Step { index, observed: observed.clone() });
        }
    }
    Ok(followed)
}

/// Returns the states with all that can be reached from them unseen.
fn fill_in(proof: &Proof, mut ways: HashSet<State>) -> Option<HashSet<State>> {
    let mut queue: Vec<State> = ways.iter().cloned().collect();
    let mut actions = vec![];
    while let Some(state) = queue.pop() {
        actions.clear();
        proof.actions(&state, &mut actions);
        for action in actions.iter().filter(|action| is_unseen(action)) {
            if let Some(next) = proof.next_state(&state, *action).filter(|next| next.faults == 0)
                && ways.insert(next.clone())
            {
                queue.push(next);
            }
        }
        if ways.len() > WAYS_MAX {
            return None;
        }
    }
    Some(ways)
}

fn is_unseen(action: &Action) -> bool {
    let Action::Hook(action) = action else { return false };
    match action {
        HookAction::Take(_)
        | HookAction::Read(_)
        | HookAction::Scan(_)
        | HookAction::Begin(_)
        | HookAction::Settle { .. }
        | HookAction::WriteBegin(_)
        | HookAction::WriteEnd { told: true, .. } => true,
        // Nothing is lost on the way to a receiver on the same machine, and its database answers.
        HookAction::Renew(_) | HookAction::Arrive { .. } | HookAction::Lose { .. } | HookAction::WriteEnd { .. } => {
            false
        }
    }
}

/// Returns the states after a step that was seen, as far as it is possible in a state.
fn after(proof: &Proof, state: &State, observed: &Observed) -> Vec<State> {
    let one = |actions: &[Action]| {
        let last = actions.iter().try_fold(state.clone(), |state, action| proof.next_state(&state, *action));
        last.into_iter().collect::<Vec<_>>()
    };
    match observed {
        Observed::Mail { .. } => {
            let client = u8::try_from(state.log.commits.len()).unwrap_or(u8::MAX);
            one(&[
                Action::Writer(WriterAction::Send { client, node: 0 }),
                Action::Writer(WriterAction::Append(0)),
                Action::Writer(WriterAction::Answer { node: 0, lost: false }),
            ])
        }
        Observed::Request { position, number, ok } => {
            let flights = state.nodes[0].holder.iter().flat_map(|holder| (0..).zip(&holder.flights));
            let is_it = |flight: &crate::model::Flight| {
                flight.position == proof.begin() + position && flight.number == *number && flight.stage == Stage::Ready
            };
            let arrivals = flights.filter(|(_, flight)| is_it(flight));
            let arrive = |flight| Action::Hook(HookAction::Arrive { node: 0, flight, ok: *ok });
            arrivals.flat_map(|(flight, _)| one(&[arrive(flight)])).collect()
        }
        Observed::Crash => one(&[Action::Crash { node: 0, cut: false }]),
        // The lease is renewed by the real clock, which is another.
        Observed::Tick if state.nodes[0].holder.is_some() => one(&[Action::Tick, Action::Hook(HookAction::Renew(0))]),
        Observed::Tick => one(&[Action::Tick]),
        Observed::Kept(kept) => {
            if holds(proof, state, kept) {
                vec![state.clone()]
            } else {
                vec![]
            }
        }
    }
}

fn holds(proof: &Proof, state: &State, kept: &Kept) -> bool {
    let (begin, hook) = (proof.begin(), &state.hook);
    let pending = kept.pending.iter().map(|position| begin + position);
    let rows = kept
        .rows
        .iter()
        .map(|(mailbox, position, phase, attempts)| (proof.mailbox(*mailbox), begin + position, *phase, *attempts));
    let found = hook.rows.iter().map(|(lane, row)| (lane.clone(), row.position, row.phase, row.attempts));
    hook.cursor == begin + kept.cursor
        && hook.horizon == begin + kept.horizon
        && pending.eq(hook.pending.iter().copied())
        && rows.eq(found)
}
