//! What must hold in every state, and what must be possible.

use stateright::Property;

use super::{Proof, State};
use crate::book::{Commit, Kind};

/// What can go wrong in a step; noted in the state, so that the step is the end of the counterexample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A client was told no though it asked for something that is allowed.
    Refused,
    /// A request was made while an earlier event of the mailbox was not delivered.
    Order,
    /// A request was made although a success of the same event was known.
    Repeated,
    /// An event is written down as settled that was never delivered.
    Skipped,
    /// More attempts were made than the schedule has, or one of them again though it was written down.
    Attempts,
    /// What was written down was taken back by an older write.
    WentBack,
}

impl Fault {
    /// Returns its place in [`State::faults`].
    #[must_use]
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

fn has(state: &State, fault: Fault) -> bool {
    state.faults & fault.bit() != 0
}

/// Names of the properties: the tests name what each mistake must break.
pub const ACKNOWLEDGED: &str = "what is acknowledged is in the log";
/// See [`ACKNOWLEDGED`].
pub const ONCE: &str = "a request is in the log at most once, however often it is sent";
/// See [`ACKNOWLEDGED`].
pub const GAPLESS: &str = "positions are 1, 2, 3 ... without holes";
/// See [`ACKNOWLEDGED`].
pub const STREAMS: &str = "a stream client has every event up to its last one, once, in order";
/// See [`ACKNOWLEDGED`].
pub const FOLDS: &str = "a projection is the fold of the log up to its cursor";
/// See [`ACKNOWLEDGED`].
pub const ORDER: &str = "of a mailbox, no event is requested before all earlier ones were delivered";
/// See [`ACKNOWLEDGED`].
pub const REPEATED: &str = "a success is repeated only if nobody could know of it any more";
/// See [`ACKNOWLEDGED`].
pub const SKIPPED: &str = "nothing counts as settled that was not delivered";
/// See [`ACKNOWLEDGED`].
pub const ATTEMPTS: &str =
    "no event is attempted more often than the schedule says, and no attempt that is written down again";
/// See [`ACKNOWLEDGED`].
pub const WENT_BACK: &str = "what is written down of a webhook never goes back";
/// See [`ACKNOWLEDGED`].
pub const LATE: &str = "at most one request per mailbox comes late, for each time a node was stopped";
/// See [`ACKNOWLEDGED`].
pub const ANSWERED: &str = "nobody is refused";
/// See [`ACKNOWLEDGED`]; this one can be reached.
pub const ALL_DONE: &str = "everything is acknowledged, delivered, streamed and folded";
/// See [`ACKNOWLEDGED`]; this one can be reached.
pub const EXHAUSTED: &str = "a delivery is exhausted";
/// See [`ACKNOWLEDGED`]; this one can be reached.
pub const TAKEN_OVER: &str = "another node delivers what the first had begun";
/// See [`ACKNOWLEDGED`]; this one can be reached.
pub const ONE_LATE: &str = "a node that was stopped for longer than its lease sends one request late";

pub(super) fn all() -> Vec<Property<Proof>> {
    vec![
        Property::always(ACKNOWLEDGED, |proof: &Proof, state| acknowledged(proof, state)),
        Property::always(ONCE, |_, state| once(state)),
        Property::always(GAPLESS, |_, state: &State| state.log.is_gapless),
        Property::always(STREAMS, |proof: &Proof, state| streams(proof, state)),
        Property::always(FOLDS, |_, state| folds(state)),
        Property::always(ORDER, |_, state| !has(state, Fault::Order)),
        Property::always(REPEATED, |_, state| !has(state, Fault::Repeated)),
        Property::always(SKIPPED, |_, state| !has(state, Fault::Skipped)),
        Property::always(ATTEMPTS, |_, state| !has(state, Fault::Attempts)),
        Property::always(WENT_BACK, |_, state| !has(state, Fault::WentBack)),
        Property::always(LATE, |_, state: &State| state.late.iter().all(|late| *late <= state.spent.pauses)),
        Property::always(ANSWERED, |_, state| !has(state, Fault::Refused)),
        Property::sometimes(ALL_DONE, |proof: &Proof, state| all_done(proof, state)),
        Property::sometimes(EXHAUSTED, |_, state: &State| {
            state.log.commits.iter().any(|commit| matches!(commit, Commit::Exhausted { .. }))
        }),
        Property::sometimes(TAKEN_OVER, |_, state: &State| {
            let delivered = |a: &super::Arrival| a.ok && a.recorded;
            state.inbox.iter().any(|first| {
                state
                    .inbox
                    .iter()
                    .any(|then| then.epoch > first.epoch && then.position == first.position && delivered(then))
            })
        }),
        Property::sometimes(ONE_LATE, |_, state: &State| state.late.iter().any(|late| *late > 0)),
    ]
}

fn is_seen(proof: &Proof, state: &State, position: u64) -> bool {
    let commit = position.checked_sub(proof.begin() + 1).and_then(|n| u8::try_from(n).ok());
    position <= state.log.head() && commit.is_none_or(|commit| !state.unseen.contains(&commit))
}

fn acknowledged(proof: &Proof, state: &State) -> bool {
    (0..).zip(&state.clients).all(|(number, client)| {
        client.told.is_none_or(|position| {
            let is_mine = matches!(state.log.kind(position), Kind::Mail { client, .. } if client == number);
            is_mine && is_seen(proof, state, position)
        })
    })
}

fn once(state: &State) -> bool {
    (0..).zip(&state.clients).all(|(number, _)| {
        let mine = |commit: &&Commit| matches!(commit, Commit::Mail { client, .. } if *client == number);
        state.log.commits.iter().filter(mine).count() <= 1
    })
}

fn streams(proof: &Proof, state: &State) -> bool {
    state.readers.iter().all(|reader| {
        let told = |p: &u64| matches!(state.log.kind(*p), Kind::Mail { .. }) && is_seen(proof, state, *p);
        (proof.begin() + 1..=reader.last).filter(told).eq(reader.received.iter().copied())
    })
}

fn folds(state: &State) -> bool {
    let tables = &state.views.tables;
    tables.cursors.iter().zip(&tables.rows).all(|(cursor, rows)| {
        let wanted = Proof::visible(state, state.views.begin, usize::MAX);
        wanted.into_iter().take_while(|position| position <= cursor).eq(rows.iter().copied())
    })
}

fn all_done(proof: &Proof, state: &State) -> bool {
    let head = state.log.head();
    let mails: Vec<u64> =
        (proof.begin() + 1..=head).filter(|p| matches!(state.log.kind(*p), Kind::Mail { .. })).collect();
    let bounds = &proof.bounds;
    state.clients.iter().all(|client| client.told.is_some())
        && mails.len() == bounds.clients.len()
        && (!bounds.webhook || (state.hook.cursor == head && state.hook.rows.is_empty()))
        && state.readers.iter().all(|reader| reader.received == mails)
        && (!bounds.views || state.views.tables.cursors.iter().all(|cursor| *cursor == head))
}
