//! Folds kept in memory, so that a decision rarely reads the log.
//!
//! A fold in here is exact as of the team's known head. When another writer moved the head, the team's generation
//! changes and everything folded before is ignored. A fold that is *newer* than the known head does no harm: the
//! append that relies on it collides on the position and everything is read again.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use domain::id::{Position, TeamId};
use domain::{Entity, StreamId, Versioned};
use lru::LruCache;

use crate::backend::Head;

/// A cached fold of one stream.
pub(crate) type Folded = Versioned<Entity>;

/// A team's state of knowledge at one moment, see [`FoldCache::as_of`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsOf {
    generation: u64,
    position: Position,
}

struct Inner {
    heads: LruCache<TeamId, (Head, u64)>,
    folds: LruCache<(TeamId, StreamId), (Folded, u64)>,
    next_generation: u64,
}

/// Heads and folds of recently used teams. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FoldCache {
    inner: Arc<Mutex<Inner>>,
}

impl FoldCache {
    pub(crate) fn new(teams_max: NonZeroUsize, folds_max: NonZeroUsize) -> Self {
        let inner = Inner { heads: LruCache::new(teams_max), folds: LruCache::new(folds_max), next_generation: 1 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the known head of a team.
    pub(crate) fn head(&self, team: &TeamId) -> Option<Head> {
        self.lock().heads.get(team).map(|(head, _)| *head)
    }

    /// Notes a head read from the store. If it differs from the known one, the team's folds are forgotten.
    pub(crate) fn note_head(&self, team: &TeamId, head: Head) {
        let mut inner = self.lock();
        let known = inner.heads.get(team).map(|(known, _)| *known);
        // A read that started before our own last append may come back with an older head.
        if known.is_none_or(|known| known.epoch != head.epoch || known.position < head.position) {
            inner.next_generation += 1;
            let generation = inner.next_generation;
            inner.heads.put(team.clone(), (head, generation));
        }
    }

    /// Forgets everything of a team.
    pub(crate) fn forget(&self, team: &TeamId) {
        self.lock().heads.pop(team);
    }

    /// Returns what must still hold when a fold is added: it proves that the head was known before the fold was read
    /// and that nothing was appended since.
    pub(crate) fn as_of(&self, team: &TeamId) -> Option<AsOf> {
        self.lock().heads.peek(team).map(|(head, generation)| AsOf { generation: *generation, position: head.position })
    }

    /// Returns a fold that is exact as of the known head.
    pub(crate) fn fold(&self, team: &TeamId, stream: &StreamId) -> Option<Folded> {
        let mut inner = self.lock();
        let generation = inner.heads.peek(team).map(|(_, generation)| *generation)?;
        let key = (team.clone(), stream.clone());
        match inner.folds.get(&key) {
            Some((fold, of)) if *of == generation => Some(fold.clone()),
            Some(_) => {
                inner.folds.pop(&key);
                None
            }
            None => None,
        }
    }

    /// Forgets one fold.
    pub(crate) fn drop_fold(&self, team: &TeamId, stream: &StreamId) {
        self.lock().folds.pop(&(team.clone(), stream.clone()));
    }

    /// Adds a fold read from the store, unless the team moved on since the read began.
    pub(crate) fn add(&self, team: &TeamId, stream: StreamId, fold: Folded, as_of: AsOf) {
        let mut inner = self.lock();
        let unmoved =
            |(head, generation): &(Head, u64)| *generation == as_of.generation && head.position == as_of.position;
        if inner.heads.peek(team).is_some_and(unmoved) {
            inner.folds.put((team.clone(), stream), (fold, as_of.generation));
        }
    }

    /// Moves a team on after our own append: the new head and the folds it changed, together.
    pub(crate) fn advance(&self, team: &TeamId, head: Head, folds: impl Iterator<Item = (StreamId, Folded)>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some((known, generation)) = inner.heads.get_mut(team) else { return };
        *known = head;
        let generation = *generation;
        for (stream, fold) in folds {
            // A message is touched once or twice in its life: caching each would push out what is needed always.
            if matches!(stream, StreamId::Message(_)) {
                inner.folds.pop(&(team.clone(), stream));
            } else {
                inner.folds.put((team.clone(), stream), (fold, generation));
            }
        }
    }
}
