use std::collections::{BTreeMap, BTreeSet};

use domain::testing::mailbox_id;
use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { events_max: 4, blocked_max: 3, queue_max: 2 };

fn window() -> Window<()> {
    Window::restore(BOUNDS, 0, 0, [], [])
}

fn lane(n: u8) -> Lane {
    (n > 0).then(|| mailbox_id(n))
}

fn events(lanes: &[u8]) -> Vec<(Position, Lane, Option<Arc<()>>)> {
    (1..).zip(lanes).map(|(position, n)| (position, lane(*n), None)).collect()
}

fn failed(position: Position, next_due_at: i64) -> Settlement {
    let row = Row {
        position,
        phase: Phase::Retrying,
        attempts: 1,
        first_due_at: 0,
        next_due_at: Some(next_due_at),
        last_error: "500".into(),
    };
    Settlement::Blocked(row)
}

fn started(window: &mut Window<()>, now: i64) -> Vec<Position> {
    std::iter::from_fn(|| window.start(now)).map(|work| work.position).collect()
}

#[test]
fn a_mailbox_waits_for_its_own_head_only() {
    let mut w = window();
    w.read(events(&[1, 1, 2]), 3);
    assert_eq!(started(&mut w, 0), [1, 3]);
    w.settle(3, &lane(2), Settlement::Delivered);
    assert_eq!(started(&mut w, 0), [0; 0]);
    assert_eq!(w.cursor(), 0);
    w.settle(1, &lane(1), Settlement::Delivered);
    assert_eq!(started(&mut w, 0), [2]);
    assert_eq!(w.cursor(), 1);
}

#[test]
fn a_failure_becomes_one_row_and_the_cursor_goes_on() {
    let mut w = window();
    w.read(events(&[1, 1, 1, 2]), 4);
    assert_eq!(started(&mut w, 0), [1, 4]);
    w.settle(1, &lane(1), failed(1, 30));
    w.settle(4, &lane(2), Settlement::Delivered);
    let snapshot = w.snapshot();
    assert_eq!((snapshot.cursor, snapshot.rows.len()), (4, 1));
    assert_eq!(started(&mut w, 29), [0; 0]);
    assert_eq!(w.next_due_at(), Some(30));
    assert_eq!(started(&mut w, 30), [1]);
    w.settle(1, &lane(1), Settlement::Delivered);
    assert_eq!(started(&mut w, 30), [2]);
    w.settle(2, &lane(1), Settlement::Delivered);
    assert_eq!(started(&mut w, 30), [3]);
    w.settle(3, &lane(1), Settlement::Delivered);
    assert_eq!(w.blocked(), 0);
    assert_eq!(w.snapshot().rows, [(lane(1), None)]);
}

#[test]
fn a_long_backlog_of_one_mailbox_is_found_again_in_the_log() {
    let mut w = window();
    w.read(events(&[1]), 1);
    assert_eq!(started(&mut w, 0), [1]);
    w.settle(1, &lane(1), failed(1, 30));
    let later: Vec<_> = (2..=9).map(|p| (p, lane(1), None)).collect();
    w.read(later.clone(), 9);
    assert_eq!((w.cursor(), w.waiting(), w.scan_after()), (9, 0, None));
    assert_eq!(started(&mut w, 30), [1]);
    w.settle(1, &lane(1), Settlement::Delivered);
    let mut order = vec![];
    while w.blocked() > 0 {
        if let Some(after) = w.scan_after() {
            let page: Vec<_> = later.iter().filter(|e| e.0 > after).take(2).map(|e| (e.0, e.1.clone())).collect();
            let last = page.last().map_or(9, |e| e.0);
            w.scanned(page, last);
        }
        while let Some(work) = w.start(30) {
            order.push(work.position);
            w.settle(work.position, &work.lane, Settlement::Delivered);
        }
    }
    assert_eq!(order, (2..=9).collect::<Vec<_>>());
}

#[test]
fn at_the_bound_of_blocked_mailboxes_the_webhook_waits() {
    let mut w = window();
    w.read(events(&[1, 2, 3]), 3);
    for position in started(&mut w, 0) {
        assert!(w.has_room() || w.blocked() >= 3);
        w.settle(position, &lane(u8::try_from(position).unwrap()), failed(position, 30));
    }
    assert!(!w.has_room());
    assert_eq!((w.cursor(), w.waiting()), (3, 0));
}

#[test]
fn skipping_leaves_out_what_waits_and_nothing_later() {
    let mut w = window();
    w.read(events(&[1, 1, 2]), 3);
    started(&mut w, 0);
    w.settle(1, &lane(1), failed(1, 30));
    w.settle(3, &lane(2), Settlement::NotMade);
    w.skip_to(10);
    assert_eq!((w.cursor(), w.blocked(), w.waiting()), (10, 0, 0));
    assert_eq!(w.snapshot().rows, [(lane(1), None)]);
    w.read([(11, lane(1), None)], 11);
    assert_eq!(started(&mut w, 0), [11]);

    let mut w = window();
    w.read(events(&[1, 1, 2, 1]), 4);
    started(&mut w, 0);
    w.settle(1, &lane(1), failed(1, 30));
    w.settle(3, &lane(2), Settlement::NotMade);
    w.skip_to(2);
    let mut left = started(&mut w, 0);
    left.sort_unstable();
    assert_eq!(left, [3, 4]);
}

#[test]
fn reviving_makes_every_blocked_lane_due_with_its_attempts_counted_anew() {
    let mut w = window();
    w.read(events(&[1, 2]), 2);
    started(&mut w, 0);
    let Settlement::Blocked(row) = failed(1, 30) else { unreachable!() };
    w.settle(1, &lane(1), Settlement::Blocked(Row { phase: Phase::Exhausted, next_due_at: None, attempts: 8, ..row }));
    w.settle(2, &lane(2), failed(2, 1_000));
    assert_eq!(started(&mut w, 100), [0; 0]);
    w.revive(100);
    let works: Vec<_> = std::iter::from_fn(|| w.start(100)).collect();
    assert_eq!(
        works.iter().map(|w| (w.position, w.attempts, w.first_due_at)).collect::<Vec<_>>(),
        [(1, 0, Some(100)), (2, 0, Some(100))]
    );
}

/// What is written down, as a store would keep it.
#[derive(Debug, Clone, Default)]
struct Stored {
    cursor: Position,
    horizon: Position,
    pending: Vec<Position>,
    rows: BTreeMap<Lane, Row>,
    delivered: BTreeSet<Position>,
}

/// A webhook with a log, a receiver and a store, driven by random numbers.
struct World {
    log: Vec<u8>,
    window: Window<()>,
    flying: Vec<Work<()>>,
    /// What the receiver has answered.
    delivered: BTreeSet<Position>,
    /// What of it the window has heard of since it was restored.
    known: BTreeSet<Position>,
    stored: Stored,
    now: i64,
}

impl World {
    fn page(&self, after: Position, limit: usize) -> (Vec<(Position, Lane)>, Position) {
        let from = usize::try_from(after).unwrap();
        let page: Vec<_> = (after + 1..).zip(self.log.iter().skip(from).take(limit)).collect();
        let last = page.last().map_or(after, |(p, _)| *p);
        // 9 stands for events that do not match.
        (page.into_iter().filter(|(_, n)| **n != 9).map(|(p, n)| (p, lane(*n))).collect(), last)
    }

    fn read(&mut self) {
        if self.window.has_room() {
            let (page, last) = self.page(self.window.read_to(), 3);
            self.window.read(page.into_iter().map(|(p, l)| (p, l, None)), last);
            assert!(self.window.waiting() <= BOUNDS.events_max + 3);
        }
        if let Some(after) = self.window.scan_after() {
            let (page, last) = self.page(after, 3);
            self.window.scanned(page, last);
        }
    }

    fn start(&mut self) {
        let Some(work) = self.window.start(self.now) else { return };
        let index = usize::try_from(work.position).unwrap() - 1;
        assert_eq!(lane(self.log[index]), work.lane);
        let earlier = (1..work.position).filter(|p| lane(self.log[usize::try_from(*p).unwrap() - 1]) == work.lane);
        let earlier: Vec<_> = earlier.filter(|p| self.log[usize::try_from(*p).unwrap() - 1] != 9).collect();
        assert!(earlier.iter().all(|p| self.delivered.contains(p)), "{} before {earlier:?}", work.position);
        assert!(!self.stored.delivered.contains(&work.position), "{} was recorded as settled", work.position);
        assert!(self.flying.iter().all(|w| w.lane != work.lane), "two of one lane in flight");
        self.flying.push(work);
    }

    fn land(&mut self, which: usize, how: u8) {
        if self.flying.is_empty() {
            return;
        }
        let work = self.flying.remove(which % self.flying.len());
        let settlement = match how % 4 {
            0 | 1 => {
                self.delivered.insert(work.position);
                self.known.insert(work.position);
                Settlement::Delivered
            }
            2 => Settlement::NotMade,
            _ => failed(work.position, self.now + 5),
        };
        self.window.settle(work.position, &work.lane, settlement);
    }

    fn write(&mut self) {
        let snapshot = self.window.snapshot();
        assert!(snapshot.cursor >= self.stored.cursor, "the cursor went back");
        self.stored.cursor = snapshot.cursor;
        self.stored.horizon = snapshot.horizon;
        self.stored.pending = snapshot.pending;
        for (lane, row) in snapshot.rows {
            match row {
                Some(row) => drop(self.stored.rows.insert(lane, row)),
                None => drop(self.stored.rows.remove(&lane)),
            }
        }
        self.stored.delivered = self.known.clone();
    }

    fn crash(&mut self) {
        // Half of what was on its way had reached the receiver.
        let reached = self.flying.drain(..).map(|w| w.position).filter(|p| p % 2 == 0);
        self.delivered.extend(reached);
        let s = self.stored.clone();
        self.known = s.delivered;
        self.window = Window::restore(BOUNDS, s.cursor, s.horizon, s.pending, s.rows);
    }

    fn step(&mut self, action: u8, which: usize, how: u8) {
        match action {
            0..=2 => self.read(),
            3..=6 => self.start(),
            7..=10 => self.land(which, how),
            11 => self.write(),
            12 => self.crash(),
            _ => self.now += 3,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_fails_or_crashes_every_event_is_delivered_in_order(
        log in prop::collection::vec(prop_oneof![0u8..5, Just(9u8), Just(1u8)], 1..60),
        steps in prop::collection::vec((0u8..15, 0usize..8, any::<u8>()), 0..400),
    ) {
        let (stored, delivered) = (Stored::default(), BTreeSet::new());
        let mut world = World { log, window: window(), flying: vec![], delivered, known: BTreeSet::new(), stored, now: 0 };
        for (action, which, how) in steps {
            world.step(action, which, how);
        }
        let matching: BTreeSet<_> = world.page(0, usize::MAX).0.into_iter().map(|(p, _)| p).collect();
        for _ in 0..2_000 {
            world.now += 1;
            world.read();
            world.start();
            world.land(0, 0);
        }
        prop_assert_eq!(&world.delivered, &matching);
        prop_assert_eq!(world.window.blocked(), 0);
        prop_assert_eq!(usize::try_from(world.window.cursor()).unwrap(), world.log.len());
        world.write();
        prop_assert!(world.stored.rows.is_empty());
    }
}
