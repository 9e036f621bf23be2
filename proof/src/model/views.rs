//! Projections: the runner's step on each node, and the tables with their cursors.

use domain::id::Position;
use projections::model::Step;

use super::{Action, DesignError, Proof, State};

/// How many events a page has.
const PAGE: usize = 2;

/// What is in the tables: for each projection its cursor, and the positions it has folded, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tables {
    /// Where each projection stands.
    pub cursors: [Position; 2],
    /// What each has folded.
    pub rows: [Vec<Position>; 2],
}

/// The views' database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Views {
    /// As it is.
    pub tables: Tables,
    /// As it was before the last transaction, which a power cut may take away.
    pub before: Option<Box<Tables>>,
    /// Behind which position rows are counted.
    pub begin: Position,
}

impl Views {
    /// Returns views of which the second projection is one event further than the first.
    #[must_use]
    pub fn at(begin: Position) -> Self {
        let tables = Tables { cursors: [begin - 1, begin], rows: [vec![], vec![begin]] };
        Self { tables, before: None, begin: begin - 1 }
    }

    pub(super) fn lose_last(&mut self) {
        if let Some(before) = self.before.take() {
            self.tables = *before;
        }
    }
}

/// What a node's runner is at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Runner {
    /// Nothing.
    Idle,
    /// A page was read, for projections that stood at a position.
    Page {
        /// Where they stood.
        from: Position,
        /// Which projections.
        behind: Vec<u8>,
        /// The page.
        page: Vec<Position>,
        /// Whether the rows are committed and the cursors are not: only under a design error.
        half: bool,
    },
}

/// What happens to projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViewAction {
    /// A runner reads the cursors and a page.
    Read(u8),
    /// It commits rows and cursors.
    Commit(u8),
}

impl Proof {
    pub(super) fn view_actions(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        match &state.nodes[usize::from(node)].runner {
            Runner::Idle if state.views.tables.cursors.iter().any(|cursor| *cursor < state.log.head()) => {
                actions.push(Action::View(ViewAction::Read(node)));
            }
            Runner::Idle => {}
            Runner::Page { .. } => actions.push(Action::View(ViewAction::Commit(node))),
        }
    }

    pub(super) fn project(&self, state: &mut State, action: ViewAction) -> Option<()> {
        match action {
            ViewAction::Read(node) => {
                let step = Step::next((0..).zip(state.views.tables.cursors), PAGE)?;
                let page = Self::visible(state, step.from, step.limit);
                if page.is_empty() {
                    return None;
                }
                state.nodes[usize::from(node)].runner =
                    Runner::Page { from: step.from, behind: step.behind, page, half: false };
            }
            ViewAction::Commit(node) => self.commit(state, node)?,
        }
        Some(())
    }

    fn commit(&self, state: &mut State, node: u8) -> Option<()> {
        let runner = std::mem::replace(&mut state.nodes[usize::from(node)].runner, Runner::Idle);
        let Runner::Page { from, behind, page, half } = runner else { return None };
        let apart = self.has(DesignError::CursorApart);
        let tables = &mut state.views.tables;
        // The cursors move from where the page began, or nothing becomes lasting: another node has moved them.
        let unmoved = behind.iter().all(|projection| tables.cursors[usize::from(*projection)] == from);
        if !unmoved {
            return Some(());
        }
        let before = tables.clone();
        for projection in behind.iter().map(|projection| usize::from(*projection)) {
            if !half {
                tables.rows[projection].extend(&page);
            }
            if half || !apart {
                tables.cursors[projection] = *page.last()?;
            }
        }
        state.views.before = (self.bounds.cuts > state.spent.cuts).then(|| Box::new(before));
        if apart && !half {
            state.nodes[usize::from(node)].runner = Runner::Page { from, behind, page, half: true };
        }
        Some(())
    }
}
