//! Clients and the writers of nodes: what a lane does between taking a request and answering it, step by step.

use domain::id::Position;

use super::{Action, DesignError, Fault, Proof, State};
use crate::book::{Commit, Knowledge, Told};

/// Somebody who sends one mail, and sends it again under the same key until it is answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Client {
    /// How often it was sent.
    pub sendings: u8,
    /// The node that has the request now.
    pub at: Option<u8>,
    /// What was acknowledged.
    pub told: Option<Position>,
}

/// What a node's writer is at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Writer {
    /// Nothing waits.
    Idle,
    /// A request waits to be decided, for the first time or because another writer was first.
    Queued {
        /// Whose.
        client: u8,
        /// Which sending.
        sending: u8,
        /// When the door looked for an earlier answer: only under a design error.
        looked: Option<u8>,
    },
    /// What a decision needs was read.
    Loaded {
        /// Whose request.
        client: u8,
        /// Which sending.
        sending: u8,
        /// What is known.
        knowledge: Knowledge,
        /// When the door looked for an earlier answer: only under a design error.
        looked: Option<u8>,
    },
    /// It is durable; nobody was told yet.
    Written {
        /// Whose request.
        client: u8,
        /// What is to be told.
        told: Told,
    },
}

/// What happens to clients and writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriterAction {
    /// A client sends its request to a node.
    Send {
        /// The client.
        client: u8,
        /// The node.
        node: u8,
    },
    /// A client does not wait any longer; the node goes on.
    GiveUp(u8),
    /// The writer reads what its decision needs.
    Load(u8),
    /// The writer decides and appends, all or nothing.
    Append(u8),
    /// The answer goes out; it may be lost on its way.
    Answer {
        /// The node.
        node: u8,
        /// Whether it is lost.
        lost: bool,
    },
}

fn count(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

impl Proof {
    pub(super) fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.spent.lost_answers < self.bounds.lost_answers {
            let waiting = (0..).zip(&state.clients).filter(|(_, client)| client.at.is_some());
            actions.extend(waiting.map(|(client, _)| Action::Writer(WriterAction::GiveUp(client))));
        }
    }

    pub(super) fn writer_actions(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        let mut add = |action| actions.push(Action::Writer(action));
        match &state.nodes[usize::from(node)].writer {
            Writer::Idle => {
                for (client, of) in (0..).zip(&state.clients) {
                    if of.at.is_none() && of.told.is_none() && of.sendings < self.bounds.sendings {
                        add(WriterAction::Send { client, node });
                    }
                }
            }
            Writer::Queued { .. } => add(WriterAction::Load(node)),
            Writer::Loaded { .. } => add(WriterAction::Append(node)),
            Writer::Written { client, .. } => {
                add(WriterAction::Answer { node, lost: false });
                let waits = state.clients[usize::from(*client)].at == Some(node);
                if waits && state.spent.lost_answers < self.bounds.lost_answers {
                    add(WriterAction::Answer { node, lost: true });
                }
            }
        }
    }

    pub(super) fn write(&self, state: &mut State, action: WriterAction) -> Option<()> {
        match action {
            WriterAction::Send { client, node } => {
                let of = &mut state.clients[usize::from(client)];
                of.sendings += 1;
                of.at = Some(node);
                let (sending, commits) = (of.sendings, count(state.log.commits.len()));
                let looked = self.has(DesignError::AnswersApart).then_some(commits);
                state.nodes[usize::from(node)].writer = Writer::Queued { client, sending, looked };
                // Between the door and the lane nothing is read or written, but under a design error.
                if looked.is_none() {
                    self.load(state, node);
                }
            }
            WriterAction::GiveUp(client) => {
                state.spent.lost_answers += 1;
                state.clients[usize::from(client)].at = None;
            }
            WriterAction::Load(node) => self.load(state, node),
            WriterAction::Append(node) => self.append(state, node)?,
            WriterAction::Answer { node, lost } => {
                let writer = std::mem::replace(&mut state.nodes[usize::from(node)].writer, Writer::Idle);
                let Writer::Written { client, told } = writer else { return None };
                let of = &mut state.clients[usize::from(client)];
                if of.at == Some(node) {
                    of.at = None;
                    if lost {
                        state.spent.lost_answers += 1;
                    } else {
                        tell(state, client, told);
                    }
                }
            }
        }
        Some(())
    }

    /// Heads and folds come from memory if the node remembers any; answers are always read.
    fn load(&self, state: &mut State, node: u8) {
        let commits = count(state.log.commits.len());
        let Writer::Queued { client, sending, looked } = state.nodes[usize::from(node)].writer else { return };
        let of = &mut state.nodes[usize::from(node)];
        let folds = *of.folds.get_or_insert(commits);
        let knowledge = Knowledge { folds, answers: looked.unwrap_or(commits) };
        of.writer = Writer::Loaded { client, sending, knowledge, looked };
        let commit = Commit::Mail { client, sending };
        if self.has(DesignError::AnswerBeforeCommit) {
            let told = self.library.carry_out(&state.log, knowledge, commit).told;
            tell(state, client, told);
        }
        if self.has(DesignError::PositionsBeforeCommit) {
            // A sequence: the number is there at once, what it is for is seen when it is committed.
            let knowledge = Knowledge { folds: commits, answers: commits };
            let carried = self.library.carry_out(&state.log, knowledge, commit);
            if let Some(next) = carried.next.clone().filter(|_| carried.appends) {
                state.log = next;
                state.unseen.push(commits);
            }
            state.nodes[usize::from(node)].writer = Writer::Loaded { client, sending, knowledge, looked };
        }
    }

    fn append(&self, state: &mut State, node: u8) -> Option<()> {
        let commits = count(state.log.commits.len());
        let Writer::Loaded { client, sending, knowledge, looked } = state.nodes[usize::from(node)].writer else {
            return None;
        };
        if self.has(DesignError::PositionsBeforeCommit) {
            state.unseen.retain(|unseen| *unseen != knowledge.folds);
            let position = self.begin() + Position::from(knowledge.folds) + 1;
            state.nodes[usize::from(node)].writer = Writer::Written { client, told: Told::At(position) };
            return Some(());
        }
        let carried = self.library.carry_out(&state.log, knowledge, Commit::Mail { client, sending });
        let of = &mut state.nodes[usize::from(node)];
        // What appends nothing cannot collide: its head is looked up before anyone is told.
        let is_stale = !carried.appends && carried.is_unproven && knowledge.folds != commits;
        let Some(next) = carried.next.clone().filter(|_| !is_stale) else {
            of.folds = None;
            of.writer = Writer::Queued { client, sending, looked };
            return Some(());
        };
        if carried.appends {
            of.folds = Some(count(next.commits.len()));
        }
        of.writer = Writer::Written { client, told: carried.told };
        state.log = next;
        if self.has(DesignError::AnswerBeforeCommit) {
            state.nodes[usize::from(node)].writer = Writer::Idle;
            state.clients[usize::from(client)].at = None;
        }
        Some(())
    }
}

fn tell(state: &mut State, client: u8, told: Told) {
    match told {
        Told::At(position) => state.clients[usize::from(client)].told = Some(position),
        // Nobody who asks for something that is allowed is told anything else.
        Told::Nothing | Told::Refused => state.faults |= Fault::Refused.bit(),
    }
}
