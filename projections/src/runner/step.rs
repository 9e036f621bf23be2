//! Which events go to which projections next. Pure.

use domain::id::Position;

use super::Visit;

/// The next page of a team: who takes it, from where, and how long it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<P> {
    /// The page begins behind this position.
    pub from: Position,
    /// How many events it may have: it ends where the next projection stands, which joins from there.
    pub limit: usize,
    /// The projections that stand there.
    pub behind: Vec<P>,
    /// Whether others are further on.
    pub has_ahead: bool,
}

impl<P> Step<P> {
    /// Returns the next step of projections that stand at these positions, of at most `limit` events: it is for those
    /// that are furthest behind. `None` if there are no projections.
    pub fn next(at: impl IntoIterator<Item = (P, Position)>, limit: usize) -> Option<Self> {
        let at: Vec<(P, Position)> = at.into_iter().collect();
        let from = at.iter().map(|(_, position)| *position).min()?;
        let next = at.iter().map(|(_, position)| *position).filter(|position| *position > from).min();
        let room = next.map_or(limit, |next| usize::try_from(next - from).unwrap_or(limit));
        let behind = at.into_iter().filter(|(_, position)| *position == from).map(|(projection, _)| projection);
        Some(Self { from, limit: limit.min(room), behind: behind.collect(), has_ahead: next.is_some() })
    }

    /// Returns how far all projections have come when this step was made and ended at `last`.
    #[must_use]
    pub fn reached(&self, last: Position) -> Position {
        if self.has_ahead { self.from } else { last }
    }

    /// Returns whether there may be more to read, when the page had so many events of at most `limit`.
    #[must_use]
    pub fn rest(&self, events: usize, limit: usize) -> Visit {
        if events < limit && !self.has_ahead { Visit::Done } else { Visit::More }
    }
}
