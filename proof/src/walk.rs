//! Long ways through the model, chosen at random from a seed: schedules far beyond what can be looked at exhaustively.
//!
//! The same seed is the same way, on every machine: nothing in the model depends on anything else.

use stateright::{Expectation, Model};

use crate::model::{Action, Bounds, DesignError, Proof, State};

/// A small generator of numbers (Marsaglia's xorshift, Steele's mixing of the seed).
#[derive(Debug)]
struct Numbers(u64);

impl Numbers {
    fn of(seed: u64) -> Self {
        let mixed = (seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % (n.max(1) as u64)).unwrap_or(0)
    }
}

/// What a way came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// How many steps it has.
    pub steps: usize,
    /// The promise that did not hold at its end, and the steps that lead there.
    pub broken: Option<(&'static str, Vec<Action>)>,
    /// Whether everything was acknowledged, delivered, streamed and folded in the end.
    pub is_done: bool,
}

/// How much may happen on a way: three nodes, everything at once.
#[must_use]
pub fn bounds() -> Bounds {
    Bounds {
        nodes: 3,
        clients: vec![1, 2, 1, 1, 2, 1],
        sendings: 6,
        crashes: 6,
        lost_answers: 4,
        webhook: true,
        attempts: 5,
        leases: 40,
        refusals: 4,
        lost_replies: 3,
        pauses: 2,
        ticks: 40,
        readers: 2,
        drops: 8,
        views: true,
        cuts: 2,
    }
}

/// Goes one way of at most so many steps: at random, with a taste for getting on, so that faults meet work.
#[must_use]
pub fn walk(seed: u64, steps_max: usize, error: Option<DesignError>) -> Walked {
    let proof = error.map_or_else(|| Proof::new(bounds()), |error| Proof::with(bounds(), error));
    let mut numbers = Numbers::of(seed);
    let properties = proof.properties();
    let mut state: State = proof.init_states().remove(0);
    let (mut way, mut actions) = (vec![], vec![]);
    let mut is_done = false;
    while way.len() < steps_max {
        actions.clear();
        proof.actions(&state, &mut actions);
        let next = loop {
            if actions.is_empty() {
                break None;
            }
            let action = actions.swap_remove(choose(&mut numbers, &actions));
            if let Some(next) = proof.next_state(&state, action) {
                break Some((action, next));
            }
        };
        let Some((action, next)) = next else { break };
        way.push(action);
        state = next;
        for property in &properties {
            let holds = (property.condition)(&proof, &state);
            match property.expectation {
                Expectation::Always if !holds => {
                    return Walked { steps: way.len(), broken: Some((property.name, way)), is_done };
                }
                Expectation::Sometimes if property.name == crate::model::properties::ALL_DONE => is_done |= holds,
                _ => {}
            }
        }
        if is_done {
            break;
        }
    }
    Walked { steps: way.len(), broken: None, is_done }
}

/// Chooses an action; what breaks something comes up a twelfth as often as what gets on.
fn choose(numbers: &mut Numbers, actions: &[Action]) -> usize {
    loop {
        let index = numbers.below(actions.len());
        if !is_fault(&actions[index]) || numbers.below(12) == 0 || actions.iter().all(is_fault) {
            return index;
        }
    }
}

fn is_fault(action: &Action) -> bool {
    use crate::model::{HookAction, ReaderAction, WriterAction};
    match action {
        Action::Crash { .. } | Action::Pause(_) => true,
        Action::Writer(action) => {
            matches!(action, WriterAction::GiveUp(_) | WriterAction::Answer { lost: true, .. })
        }
        Action::Hook(action) => matches!(
            action,
            HookAction::Arrive { ok: false, .. } | HookAction::Lose { .. } | HookAction::WriteEnd { told: false, .. }
        ),
        Action::Reader(action) => matches!(action, ReaderAction::Drop { .. } | ReaderAction::Send { lost: true, .. }),
        // Time flies otherwise: leases would end all the time.
        Action::Tick => true,
        Action::View(_) | Action::Wake(_) => false,
    }
}
