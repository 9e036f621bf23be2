//! Folds kept in memory, so that a decision rarely reads the log.
//!
//! A fold in here is exact as of the team's known head, or newer. When the log is known to reach further than the head,
//! because another writer moved it, neither is believed until they have caught up: either the records in between are
//! read and the folds they touch moved on, or the team's generation changes and everything folded before is ignored. A
//! fold that is *newer* than the known head does no harm: the append that relies on it collides on the position and
//! everything is read again. A fold that is *older* would be fatal, so a head and the folds that follow from it only ever
//! move together, under one lock.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use domain::id::{Position, TeamId};
use domain::{Entity, StreamId, Versioned};
use lru::LruCache;

use crate::backend::Head;

/// A cached fold of one stream.
pub(crate) type Folded = Versioned<Entity>;

/// A team's head as this node knows it, and the generation of the folds that go with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) head: Head,
    /// 0 for a head that is not in the cache.
    generation: u64,
}

impl Known {
    /// Returns whether this is the same head with the same folds.
    fn is(&self, other: &Self) -> bool {
        self.generation == other.generation && self.head.position == other.head.position
    }

    /// Returns a head that is known from outside the cache.
    #[cfg(feature = "model")]
    pub(crate) fn of(head: Head) -> Self {
        Self { head, generation: 0 }
    }
}

/// Marks when a read of a head began, see [`FoldCache::read_began`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadBegan(u64);

/// Teams share this many counters of moves: enough that one team rarely spoils another's read.
const MOVE_COUNTERS: usize = 1_024;

/// A head in the cache.
#[derive(Debug, Clone, Copy)]
struct Kept {
    known: Known,
    /// How far the log is known to reach, once that is further or in doubt: until they have caught up, the head and its folds
    /// are not believed.
    reaches: Option<Position>,
}

impl Kept {
    fn believed(&self) -> Option<Known> {
        self.reaches.is_none().then_some(self.known)
    }
}

/// Of so many mails, messages and addresses folds are kept at most: each is touched a few times within a short while, and however
/// many there are, they neither fill the memory nor push out what is needed always.
const PASSING_MAX: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

type Key = (TeamId, StreamId);
/// A fold and the generation it belongs to.
type Generated = (Folded, u64);

/// The folds in the cache, by stream.
struct Folds {
    lasting: LruCache<Key, Generated>,
    passing: LruCache<Key, Generated>,
}

impl Folds {
    fn new(most: NonZeroUsize) -> Self {
        Self { lasting: LruCache::new(most), passing: LruCache::new(most.min(PASSING_MAX)) }
    }

    fn of(&mut self, stream: &StreamId) -> &mut LruCache<Key, Generated> {
        match stream {
            StreamId::Message(_) | StreamId::Outbound(_) | StreamId::Suppression(_) => &mut self.passing,
            _ => &mut self.lasting,
        }
    }

    fn put(&mut self, key: Key, fold: Generated) {
        self.of(&key.1).put(key, fold);
    }

    fn pop(&mut self, key: &Key) {
        self.of(&key.1).pop(key);
    }
}

struct Inner {
    heads: LruCache<TeamId, Kept>,
    folds: Folds,
    next_generation: u64,
    moves: Vec<u64>,
}

/// Heads and folds of recently used teams. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FoldCache {
    inner: Arc<Mutex<Inner>>,
}

fn counter(team: &TeamId) -> usize {
    let mut hasher = DefaultHasher::new();
    team.hash(&mut hasher);
    usize::try_from(hasher.finish()).unwrap_or(0) % MOVE_COUNTERS
}

impl FoldCache {
    pub(crate) fn new(teams_max: NonZeroUsize, folds_max: NonZeroUsize) -> Self {
        let inner = Inner {
            heads: LruCache::new(teams_max),
            folds: Folds::new(folds_max),
            next_generation: 1,
            moves: vec![0; MOVE_COUNTERS],
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the known head of a team.
    pub(crate) fn known(&self, team: &TeamId) -> Option<Known> {
        self.lock().heads.get(team).and_then(Kept::believed)
    }

    /// Returns the head that a team's folds are exact as of, if its log is known to reach further.
    pub(crate) fn behind(&self, team: &TeamId) -> Option<Known> {
        self.lock().heads.peek(team).filter(|kept| kept.reaches.is_some()).map(|kept| kept.known)
    }

    /// Marks the beginning of a read of a team's head. What is read is only kept if nothing moved meanwhile: a slow
    /// read must not bring back a head that an append of our own has left behind.
    pub(crate) fn read_began(&self, team: &TeamId) -> ReadBegan {
        ReadBegan(self.lock().moves[counter(team)])
    }

    /// Notes a head read from the store and returns the one to work with. If it is news, the team's folds are forgotten;
    /// see [`FoldCache::caught_up`] for how they are kept.
    pub(crate) fn note_head(&self, team: &TeamId, head: Head, began: ReadBegan) -> Known {
        let mut inner = self.lock();
        if inner.moves[counter(team)] != began.0 {
            return Known { head, generation: 0 };
        }
        if let Some(kept) = inner.heads.get_mut(team) {
            let at = &kept.known.head;
            if kept.reaches.is_none() && at.epoch == head.epoch && at.position >= head.position {
                return kept.known;
            }
            // Nobody was first after all.
            if *at == head {
                kept.reaches = None;
                return kept.known;
            }
        }
        inner.next_generation += 1;
        let known = Known { head, generation: inner.next_generation };
        inner.heads.put(team.clone(), Kept { known, reaches: None });
        known
    }

    /// Forgets everything of a team.
    pub(crate) fn forget(&self, team: &TeamId) {
        let mut inner = self.lock();
        inner.moves[counter(team)] += 1;
        inner.heads.pop(team);
    }

    /// Notes that a team's log reaches at least so far: what is known of it is believed again once it has caught up.
    pub(crate) fn outgrown(&self, team: &TeamId, position: Position) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let is_news = match inner.heads.peek_mut(team) {
            // Whoever catches up already has begun after that was heard, and is not disturbed by hearing it again.
            Some(kept) if kept.reaches.unwrap_or(kept.known.head.position) >= position => false,
            Some(kept) => {
                kept.reaches = Some(position);
                true
            }
            // Somebody may be reading the head for the first time.
            None => true,
        };
        inner.moves[counter(team)] += u64::from(is_news);
    }

    /// Notes that a team's log may reach further than is known here (an append collided, or is about to be decided on its
    /// head and nothing older), and returns how far it was known to reach. Of what is being read at this time nothing is kept.
    pub(crate) fn doubt(&self, team: &TeamId) -> Option<Position> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.moves[counter(team)] += 1;
        let kept = inner.heads.peek_mut(team)?;
        let position = kept.known.head.position;
        // That it reaches further is not known: to hear so is news.
        kept.reaches = kept.reaches.max(Some(position));
        Some(position)
    }

    /// Returns the fold of a stream as of a head that is behind.
    pub(crate) fn fold_behind(&self, team: &TeamId, stream: &StreamId, from: Known) -> Option<Folded> {
        match self.lock().folds.of(stream).peek(&(team.clone(), stream.clone())) {
            Some((fold, of)) if *of == from.generation => Some(fold.clone()),
            _ => None,
        }
    }

    /// Moves a team that was behind on to a head read from the store, with the folds that changed in between, and returns
    /// the head to work with. Nothing is kept if the team moved meanwhile in any other way.
    pub(crate) fn caught_up(&self, team: &TeamId, from: Known, head: Head, began: ReadBegan, moved: Moved) -> Known {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let unmoved = inner.moves[counter(team)] == began.0;
        match inner.heads.get_mut(team) {
            Some(kept) if unmoved && kept.known.is(&from) => {
                inner.moves[counter(team)] += 1;
                kept.known.head = head;
                kept.reaches = None;
                moved.keep(&mut inner.folds, team, from.generation);
                Known { head, generation: from.generation }
            }
            _ => Known { head, generation: 0 },
        }
    }

    /// Returns what must still hold when a fold is added: it proves that the head was known before the fold was read
    /// and that nothing was appended since.
    pub(crate) fn as_of(&self, team: &TeamId) -> Option<Known> {
        self.lock().heads.peek(team).and_then(Kept::believed)
    }

    /// Returns a fold that is exact as of a known head, or newer.
    pub(crate) fn fold(&self, team: &TeamId, stream: &StreamId, known: Known) -> Option<Folded> {
        let mut inner = self.lock();
        let believed = inner.heads.peek(team).and_then(Kept::believed);
        let current = believed.is_some_and(|k| k.generation == known.generation);
        let key = (team.clone(), stream.clone());
        match inner.folds.of(stream).get(&key) {
            Some((fold, of)) if current && *of == known.generation => Some(fold.clone()),
            Some(_) if current => {
                inner.folds.pop(&key);
                None
            }
            _ => None,
        }
    }

    /// Adds a fold read from the store, unless the team moved on since the read began.
    pub(crate) fn add(&self, team: &TeamId, stream: StreamId, fold: Folded, as_of: Known) {
        let mut inner = self.lock();
        if inner.heads.peek(team).and_then(Kept::believed).is_some_and(|known| known.is(&as_of)) {
            inner.folds.put((team.clone(), stream), (fold, as_of.generation));
        }
    }

    /// Moves a team on after our own append: the new head, the folds it changed and those it made stale, in one step.
    pub(crate) fn advance(&self, team: &TeamId, from: Known, head: Head, moved: Moved) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.moves[counter(team)] += 1;
        match inner.heads.get_mut(team) {
            Some(kept) if kept.known.is(&from) => {
                kept.known.head = head;
                // Who read our records before we came here has nothing more to tell.
                kept.reaches = kept.reaches.filter(|position| *position > head.position);
                moved.keep(&mut inner.folds, team, from.generation);
            }
            // Somebody caught up with our own records before we came here.
            Some(kept) if kept.known.generation == from.generation && kept.known.head.position >= head.position => {}
            // The team was forgotten and read again while we wrote (another node's append, an erasure): which of the
            // two is newer is not known here.
            Some(_) => drop(inner.heads.pop(team)),
            None => {}
        }
    }
}

/// What an append did to a team's folds.
#[derive(Default)]
pub(crate) struct Moved {
    /// Folds after it.
    pub(crate) changed: Vec<(StreamId, Folded)>,
    /// Streams it went into whose folds were not at hand.
    pub(crate) stale: Vec<StreamId>,
}

impl Moved {
    fn keep(self, folds: &mut Folds, team: &TeamId, generation: u64) {
        for stream in self.stale {
            folds.pop(&(team.clone(), stream));
        }
        for (stream, fold) in self.changed {
            folds.put((team.clone(), stream), (fold, generation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NonZeroUsize = NonZeroUsize::MIN;

    fn head(position: u64) -> Head {
        Head { position, ..Head::empty(1) }
    }

    fn fold(version: u64) -> Folded {
        Versioned { version, state: Arc::new(Entity::of_stream(&StreamId::Team)) }
    }

    fn cache() -> (FoldCache, TeamId) {
        (FoldCache::new(ONE, ONE), TeamId::new(1, [1; 9]))
    }

    fn note(cache: &FoldCache, team: &TeamId, position: u64) -> Known {
        cache.note_head(team, head(position), cache.read_began(team))
    }

    #[test]
    fn a_slow_read_never_brings_back_a_head_that_was_left_behind() {
        let (cache, team) = cache();
        let slow = cache.read_began(&team);
        let known = note(&cache, &team, 1);
        cache.advance(&team, known, head(2), Moved::default());
        cache.note_head(&TeamId::new(1, [2; 9]), head(1), slow);
        cache.note_head(&team, head(1), slow);
        assert!(cache.known(&team).is_none_or(|known| known.head.position == 2));
    }

    #[test]
    fn a_fold_read_before_an_append_is_not_added_after_it() {
        let (cache, team) = cache();
        let known = note(&cache, &team, 1);
        let as_of = cache.as_of(&team).unwrap();
        cache.advance(&team, known, head(2), Moved { changed: vec![], stale: vec![StreamId::Team] });
        cache.add(&team, StreamId::Team, fold(1), as_of);
        assert!(cache.fold(&team, &StreamId::Team, cache.known(&team).unwrap()).is_none());
    }

    #[test]
    fn an_append_that_began_before_the_team_was_forgotten_leaves_no_fold_behind() {
        let (cache, team) = cache();
        let known = note(&cache, &team, 1);
        cache.forget(&team);
        note(&cache, &team, 1);
        cache.advance(&team, known, head(2), Moved { changed: vec![(StreamId::Team, fold(2))], stale: vec![] });
        assert!(cache.known(&team).is_none());
        let again = note(&cache, &team, 2);
        assert!(cache.fold(&team, &StreamId::Team, again).is_none());
    }

    #[test]
    fn folds_older_than_what_was_read_of_the_log_are_not_believed() {
        let (cache, team) = cache();
        let known = note(&cache, &team, 2);
        cache.add(&team, StreamId::Team, fold(1), known);
        cache.outgrown(&team, 2);
        assert!(cache.fold(&team, &StreamId::Team, known).is_some());
        let slow = cache.read_began(&team);
        cache.outgrown(&team, 3);
        assert!(cache.known(&team).is_none() && cache.fold(&team, &StreamId::Team, known).is_none());
        cache.note_head(&team, head(2), slow);
        assert!(cache.known(&team).is_none());
    }

    #[test]
    fn a_team_that_catches_up_keeps_what_was_not_touched_and_believes_nothing_before() {
        let cache = FoldCache::new(ONE, NonZeroUsize::new(3).unwrap());
        let team = TeamId::new(1, [1; 9]);
        let known = note(&cache, &team, 1);
        let [same, moved, linked] = [1, 2, 3].map(|n| StreamId::Mailbox(domain::id::MailboxId::new(1, [n; 9])));
        for stream in [&same, &moved, &linked] {
            cache.add(&team, stream.clone(), fold(1), known);
        }
        cache.outgrown(&team, 3);
        assert!(cache.known(&team).is_none() && cache.as_of(&team).is_none());
        assert!(cache.fold(&team, &same, known).is_none());
        let (began, from) = (cache.read_began(&team), cache.behind(&team).unwrap());
        assert_eq!(cache.fold_behind(&team, &moved, from).unwrap().version, 1);
        let news = || Moved { changed: vec![(moved.clone(), fold(2))], stale: vec![linked.clone()] };
        let now = cache.caught_up(&team, from, head(3), began, news());
        assert_eq!(cache.known(&team).unwrap().head.position, 3);
        assert_eq!(cache.fold(&team, &same, now).unwrap().version, 1);
        assert_eq!(cache.fold(&team, &moved, now).unwrap().version, 2);
        assert!(cache.fold(&team, &linked, now).is_none());
        // Whoever comes later with less, or with what was read before something moved, changes nothing.
        cache.outgrown(&team, 4);
        let slow = cache.read_began(&team);
        cache.outgrown(&team, 5);
        let alone = cache.caught_up(&team, now, head(4), slow, Moved::default());
        assert_eq!((alone.head.position, alone.generation), (4, 0));
        assert!(cache.known(&team).is_none());
        let alone = cache.caught_up(&team, from, head(5), cache.read_began(&team), Moved::default());
        assert!(alone.generation == 0 && cache.known(&team).is_none());
        // To hear again what was known before disturbs nobody who catches up.
        let (began, from) = (cache.read_began(&team), cache.behind(&team).unwrap());
        cache.outgrown(&team, 5);
        cache.outgrown(&team, 4);
        cache.caught_up(&team, from, head(5), began, Moved::default());
        assert_eq!(cache.known(&team).unwrap().head.position, 5);
    }

    #[test]
    fn nothing_that_was_being_read_when_a_head_was_taken_is_believed_under_it() {
        let (cache, team) = cache();
        let unknown = cache.read_began(&team);
        assert!(cache.doubt(&team).is_none());
        note(&cache, &TeamId::new(1, [2; 9]), 1);
        cache.note_head(&team, head(2), unknown);
        assert!(cache.known(&team).is_none());
        note(&cache, &team, 2);
        cache.outgrown(&team, 3);
        let slow = cache.read_began(&team);
        assert_eq!(cache.doubt(&team), Some(2));
        cache.note_head(&team, head(2), slow);
        assert!(cache.known(&team).is_none());
    }

    #[test]
    fn what_is_heard_while_a_head_is_read_is_not_forgotten_whatever_was_known_of_the_team() {
        let (cache, team) = cache();
        let unknown = cache.read_began(&team);
        cache.outgrown(&team, 3);
        cache.note_head(&team, head(2), unknown);
        assert!(cache.known(&team).is_none());
        note(&cache, &team, 2);
        cache.doubt(&team);
        let in_doubt = cache.read_began(&team);
        cache.outgrown(&team, 3);
        cache.note_head(&team, head(2), in_doubt);
        assert!(cache.known(&team).is_none());
    }

    #[test]
    fn a_doubt_that_was_unfounded_costs_nothing() {
        let (cache, team) = cache();
        let known = note(&cache, &team, 2);
        cache.add(&team, StreamId::Team, fold(1), known);
        cache.doubt(&team);
        assert!(cache.known(&team).is_none());
        let again = note(&cache, &team, 2);
        assert_eq!(cache.fold(&team, &StreamId::Team, again).unwrap().version, 1);
    }

    #[test]
    fn an_append_of_our_own_that_others_read_first_leaves_its_folds() {
        let (cache, team) = cache();
        let known = note(&cache, &team, 1);
        cache.outgrown(&team, 2);
        let moved = || Moved { changed: vec![(StreamId::Team, fold(2))], stale: vec![] };
        cache.advance(&team, known, head(2), moved());
        assert_eq!(cache.fold(&team, &StreamId::Team, cache.known(&team).unwrap()).unwrap().version, 2);
        // The same where somebody has caught up with it, and where somebody has read further.
        cache.outgrown(&team, 3);
        let from = cache.behind(&team).unwrap();
        cache.caught_up(&team, from, head(3), cache.read_began(&team), moved());
        cache.advance(&team, from, head(3), moved());
        assert_eq!(cache.known(&team).unwrap().head.position, 3);
        let from = cache.known(&team).unwrap();
        cache.outgrown(&team, 5);
        cache.advance(&team, from, head(4), moved());
        assert!(cache.known(&team).is_none());
        assert_eq!(cache.behind(&team).unwrap().head.position, 4);
    }

    #[test]
    fn mails_that_pass_by_push_out_nothing_that_lasts() {
        let cache = FoldCache::new(ONE, NonZeroUsize::new(2).unwrap());
        let team = TeamId::new(1, [1; 9]);
        let known = note(&cache, &team, 1);
        let mail = |n| StreamId::Outbound(domain::id::OutboundId::new(1, [n; 9]));
        cache.add(&team, StreamId::Team, fold(1), known);
        let passed = Moved { changed: (1..=9).map(|n| (mail(n), fold(1))).collect(), stale: vec![] };
        cache.advance(&team, known, head(2), passed);
        let known = cache.known(&team).unwrap();
        assert!(cache.fold(&team, &StreamId::Team, known).is_some());
        let kept: Vec<u8> = (1..=9).filter(|n| cache.fold(&team, &mail(*n), known).is_some()).collect();
        assert_eq!(kept, [8, 9]);
    }

    #[test]
    fn folds_of_an_evicted_team_are_not_believed() {
        let (cache, team) = cache();
        let known = note(&cache, &team, 1);
        cache.add(&team, StreamId::Team, fold(1), known);
        assert!(cache.fold(&team, &StreamId::Team, known).is_some());
        note(&cache, &TeamId::new(1, [2; 9]), 1);
        let again = note(&cache, &team, 1);
        assert!(cache.fold(&team, &StreamId::Team, again).is_none());
        assert!(cache.fold(&team, &StreamId::Team, known).is_none());
    }
}
