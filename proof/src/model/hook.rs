//! The webhook: leases, windows, attempts, and what is written down of them.
//!
//! Settling an attempt and telling the log of its end are one step here: a crash between them is a crash after both,
//! since what is settled is only in memory until it is written down.

use std::collections::BTreeSet;
use std::time::Duration;

use dispatcher::model::{
    Hold, Lane, Lease, Phase, Reply, Settlement, Snapshot, Verdict, Window, ended, is_over, lease_covers, retrying,
    verdict,
};
use domain::id::Position;

use super::{Action, DesignError, Fault, NODES, Proof, Rows, State};
use crate::book::{Commit, Kind, Knowledge};

/// How many microseconds of stored time a tick is: the schedule counts in seconds.
const TICK_MICROS: i64 = 1_000_000;
/// How long a lease lasts.
const LEASE_TICKS: u8 = 3;
/// How long a lease must still last for an attempt to begin under it: the attempt and a margin.
const RESERVE_TICKS: u8 = 2;
/// How many events a page of the log has.
const PAGE: usize = 2;
/// How many attempts are on their way at once.
const IN_FLIGHT_MAX: usize = 2;

fn micros(ticks: u8) -> i64 {
    i64::from(ticks) * TICK_MICROS
}

/// What is kept of the webhook in the work database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hook {
    /// Whose it is.
    pub lease: Lease,
    /// Everything up to here is settled or covered by a row.
    pub cursor: Position,
    /// Everything up to here is, except `pending`.
    pub horizon: Position,
    /// What is not, between the two.
    pub pending: Vec<Position>,
    /// One row per blocked mailbox.
    pub rows: Rows,
    /// Whether it was off when it was written last.
    pub parked: bool,
    /// The attempts that were written down: of which event, which attempt, under which lease.
    pub tried: BTreeSet<(Position, u32, i64)>,
}

impl Hook {
    /// Returns a webhook that begins behind a position.
    #[must_use]
    pub fn at(begin: Position) -> Self {
        let (pending, rows, tried) = (vec![], Rows::new(), BTreeSet::new());
        Self { lease: Lease::free(), cursor: begin, horizon: begin, pending, rows, parked: false, tried }
    }

    /// Returns whether what is written down says that an event of a mailbox is settled.
    fn says_settled(&self, position: Position, lane: &Lane) -> bool {
        if position > self.horizon || self.pending.contains(&position) {
            return false;
        }
        self.rows
            .get(lane)
            .is_none_or(|row| position < row.position || (position == row.position && row.phase == Phase::Behind))
    }
}

/// A request as the receiver saw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// The event.
    pub position: Position,
    /// Whether it was answered 2xx.
    pub ok: bool,
    /// The epoch of the lease it was made under.
    pub epoch: i64,
    /// Whether the answer got lost.
    pub lost: bool,
    /// Whether the result is written down.
    pub recorded: bool,
}

/// Where an attempt is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The clock was looked at; nothing was sent.
    Ready,
    /// It was answered.
    Answered {
        /// Which request it was, of those the receiver saw.
        arrival: u8,
        /// Whether 2xx.
        ok: bool,
    },
    /// Nothing came back within the deadline.
    Unanswered,
}

/// An attempt on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flight {
    /// The event.
    pub position: Position,
    /// Its mailbox, for the window.
    pub lane: Lane,
    /// Which attempt, from 1.
    pub number: u32,
    /// When the first was due, in stored time.
    pub first_due_at: i64,
    /// When it began, in ticks.
    pub began: u8,
    /// Where it is.
    pub stage: Stage,
}

/// The result of an attempt that is not written down yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tried {
    /// The event.
    pub position: Position,
    /// Which attempt, from 1.
    pub number: u32,
    /// Which request it was, of those the receiver saw.
    pub arrival: Option<u8>,
}

/// A write on its way to the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writing {
    /// How far the webhook has come.
    pub snapshot: Snapshot,
    /// The attempts since the last write.
    pub tried: Vec<Tried>,
    /// When it began, in ticks.
    pub began: u8,
    /// What becomes of the lease.
    pub hold: Hold,
    /// Whether the webhook is off.
    pub parked: bool,
}

/// A node's work at the webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The epoch of its lease.
    pub epoch: i64,
    /// Until when the lease surely lasts by the node's own clock, in ticks.
    pub lease_until: u8,
    /// What is settled, on its way, and next.
    pub window: Window<()>,
    /// What is on its way.
    pub flights: Vec<Flight>,
    /// What came back and is not written down yet.
    pub tried: Vec<Tried>,
    /// Whether the lease must be renewed before anything is started.
    pub is_held: bool,
    /// What is being written down.
    pub writing: Option<Writing>,
}

/// What happens to the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookAction {
    /// A node takes the lease.
    Take(u8),
    /// It renews it.
    Renew(u8),
    /// It reads the log on.
    Read(u8),
    /// It looks for the next events of mailboxes that are behind.
    Scan(u8),
    /// It begins an attempt: looks at its clock, and is about to send.
    Begin(u8),
    /// The request reaches the receiver, which answers 2xx or not.
    Arrive {
        /// The node.
        node: u8,
        /// Which of what it has on its way.
        flight: u8,
        /// Whether the answer is 2xx.
        ok: bool,
    },
    /// The request, or its answer, is lost.
    Lose {
        /// The node.
        node: u8,
        /// Which of what it has on its way.
        flight: u8,
    },
    /// The node hears how it ended and draws its conclusions.
    Settle {
        /// The node.
        node: u8,
        /// Which of what it has on its way.
        flight: u8,
    },
    /// The node begins to write down what it knows.
    WriteBegin(u8),
    /// The database has written it, if the lease allows; the node may be told that this is not known.
    WriteEnd {
        /// The node.
        node: u8,
        /// Whether it is told.
        told: bool,
    },
}

impl Proof {
    /// Returns whether time may pass: attempts end within a tick, and results are written down in much less, unless the
    /// node is stopped.
    pub(super) fn may_tick(&self, state: &State) -> bool {
        state.nodes.iter().filter(|node| !node.paused).filter_map(|node| node.holder.as_ref()).all(|holder| {
            holder.flights.iter().all(|flight| flight.began == state.now)
                && holder.tried.is_empty()
                && holder.writing.is_none()
        })
    }

    pub(super) fn hook_actions(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        let mut add = |action| actions.push(Action::Hook(action));
        let now = micros(state.now);
        let Some(holder) = &state.nodes[usize::from(node)].holder else {
            let has_work = state.hook.cursor < state.log.head() || !state.hook.rows.is_empty();
            if has_work && state.log.is_on && state.hook.lease.epoch < i64::from(self.bounds.leases) {
                add(HookAction::Take(node));
            }
            return;
        };
        if holder.lease_until < state.now + LEASE_TICKS {
            add(HookAction::Renew(node));
        }
        if state.log.is_on {
            if holder.window.read_to() < state.log.head() && holder.window.has_room() {
                add(HookAction::Read(node));
            }
            if holder.window.rows_in(Phase::Behind).next().is_some() {
                add(HookAction::Scan(node));
            }
            if !holder.is_held && holder.flights.len() < IN_FLIGHT_MAX && holder.window.can_start(now) {
                add(HookAction::Begin(node));
            }
        }
        for (flight, of) in (0..).zip(&holder.flights) {
            let may_lose = state.spent.lost_replies < self.bounds.lost_replies;
            match of.stage {
                Stage::Ready => {
                    add(HookAction::Arrive { node, flight, ok: true });
                    if state.spent.refusals < self.bounds.refusals {
                        add(HookAction::Arrive { node, flight, ok: false });
                    }
                    if may_lose {
                        add(HookAction::Lose { node, flight });
                    }
                }
                Stage::Answered { .. } => {
                    add(HookAction::Settle { node, flight });
                    if may_lose {
                        add(HookAction::Lose { node, flight });
                    }
                }
                Stage::Unanswered => add(HookAction::Settle { node, flight }),
            }
        }
        match &holder.writing {
            Some(_) => {
                add(HookAction::WriteEnd { node, told: true });
                if state.spent.lost_replies < self.bounds.lost_replies {
                    add(HookAction::WriteEnd { node, told: false });
                }
            }
            None => {
                let has_moved = holder.window.cursor() > state.hook.cursor || holder.window.has_unwritten_rows();
                let is_over = !state.log.is_on && holder.flights.is_empty();
                if !holder.tried.is_empty() || has_moved || is_over {
                    add(HookAction::WriteBegin(node));
                }
            }
        }
    }

    pub(super) fn dispatch(&self, state: &mut State, action: HookAction) -> Option<()> {
        match action {
            HookAction::Take(node) => self.take(state, node)?,
            HookAction::Renew(node) => {
                let (name, until) = (NODES[usize::from(node)], state.now + LEASE_TICKS);
                let holder = state.nodes[usize::from(node)].holder.as_mut()?;
                match state.hook.lease.renewed(name, holder.epoch, micros(until)) {
                    Some(lease) => {
                        state.hook.lease = lease;
                        (holder.lease_until, holder.is_held) = (until, false);
                    }
                    None => state.nodes[usize::from(node)].holder = None,
                }
            }
            HookAction::Read(node) => {
                let after = state.nodes[usize::from(node)].holder.as_ref()?.window.read_to();
                let page = Self::visible(state, after, PAGE);
                let told: Vec<_> = page.iter().filter_map(|p| Some((*p, self.lane(state, *p)?, None))).collect();
                state.nodes[usize::from(node)].holder.as_mut()?.window.read(told, *page.last()?);
            }
            HookAction::Scan(node) => {
                let before = state.nodes[usize::from(node)].holder.clone()?;
                let mut holder = before.clone();
                if let Some(after) = holder.window.scan_after() {
                    let page = Self::visible(state, after, PAGE);
                    let told: Vec<_> = page.iter().filter_map(|p| Some((*p, self.lane(state, *p)?))).collect();
                    holder.window.scanned(told, page.last().copied().unwrap_or(after));
                }
                if holder == before {
                    return None;
                }
                state.nodes[usize::from(node)].holder = Some(holder);
            }
            HookAction::Begin(node) => self.begin_attempt(state, node)?,
            HookAction::Arrive { node, flight, ok } => self.arrive(state, node, flight, ok)?,
            HookAction::Lose { node, flight } => {
                state.spent.lost_replies += 1;
                let flight = state.nodes[usize::from(node)].holder.as_mut()?.flights.get_mut(usize::from(flight))?;
                if let Stage::Answered { arrival, .. } = flight.stage {
                    state.inbox[usize::from(arrival)].lost = true;
                }
                flight.stage = Stage::Unanswered;
            }
            HookAction::Settle { node, flight } => self.settle(state, node, flight)?,
            HookAction::WriteBegin(node) => {
                let (is_on, began) = (state.log.is_on, state.now);
                let holder = state.nodes[usize::from(node)].holder.as_mut()?;
                let hold = if is_on || !holder.flights.is_empty() { Hold::Keep } else { Hold::Release };
                let (snapshot, tried) = (holder.window.snapshot(), std::mem::take(&mut holder.tried));
                holder.writing = Some(Writing { snapshot, tried, began, hold, parked: !is_on });
            }
            HookAction::WriteEnd { node, told } => self.write_down(state, node, told)?,
        }
        Some(())
    }

    /// Returns the lane a window is told of for a position; `None` if the webhook is not told of it.
    fn lane(&self, state: &State, position: Position) -> Option<Lane> {
        let Kind::Mail { client, mailbox } = state.log.kind(position) else { return None };
        let number = if self.has(DesignError::NextBeforeSettled) { 100 + client } else { mailbox };
        self.lanes.get(usize::from(number)).cloned()
    }

    fn take(&self, state: &mut State, node: u8) -> Option<()> {
        let (name, until) = (NODES[usize::from(node)], state.now + LEASE_TICKS);
        let hook = &mut state.hook;
        hook.lease = hook.lease.taken(name, micros(state.now), micros(until))?;
        let rows = hook.rows.clone();
        let mut window =
            Window::restore(Self::window_bounds(), hook.cursor, hook.horizon, hook.pending.iter().copied(), rows);
        let has_ended = window.rows_in(Phase::Exhausted).next().is_some();
        if hook.parked || has_ended {
            window.revive(micros(state.now));
        }
        let epoch = hook.lease.epoch;
        let (flights, tried) = (vec![], vec![]);
        state.nodes[usize::from(node)].holder =
            Some(Holder { epoch, lease_until: until, window, flights, tried, is_held: false, writing: None });
        Some(())
    }

    fn begin_attempt(&self, state: &mut State, node: u8) -> Option<()> {
        let (now, tick) = (micros(state.now), state.now);
        let holder = state.nodes[usize::from(node)].holder.as_mut()?;
        let work = holder.window.start(now)?;
        if is_over(&self.schedule, work.attempts) {
            return None;
        }
        let left = Duration::from_secs(holder.lease_until.saturating_sub(tick).into());
        if !lease_covers(left, Duration::from_secs(RESERVE_TICKS.into())) {
            holder.window.settle(work.position, &work.lane, Settlement::NotMade);
            holder.is_held = true;
            return Some(());
        }
        if self.has(DesignError::DeliveredBeforeRequest) {
            holder.window.settle(work.position, &work.lane, Settlement::Delivered);
            holder.tried.push(Tried { position: work.position, number: work.attempts + 1, arrival: None });
        }
        holder.flights.push(Flight {
            position: work.position,
            lane: work.lane,
            number: work.attempts + 1,
            first_due_at: work.first_due_at.unwrap_or(now),
            began: tick,
            stage: Stage::Ready,
        });
        Some(())
    }

    fn arrive(&self, state: &mut State, node: u8, flight: u8, ok: bool) -> Option<()> {
        let arrival = u8::try_from(state.inbox.len()).unwrap_or(u8::MAX);
        let holder = state.nodes[usize::from(node)].holder.as_mut()?;
        let (epoch, flight) = (holder.epoch, holder.flights.get_mut(usize::from(flight))?);
        flight.stage = Stage::Answered { arrival, ok };
        let position = flight.position;
        let Kind::Mail { mailbox, .. } = state.log.kind(position) else { return None };
        let is_late = epoch != state.hook.lease.epoch;
        let delivered = |position: Position| state.inbox.iter().any(|a| a.position == position && a.ok);
        let earlier =
            (1..position).filter(|p| matches!(state.log.kind(*p), Kind::Mail { mailbox: of, .. } if of == mailbox));
        if earlier.into_iter().any(|earlier| !delivered(earlier)) {
            state.faults |= Fault::Order.bit();
        }
        // A success may be followed by another request only if nobody could know of it any more.
        let known = |a: &&Arrival| a.recorded || (a.epoch == epoch && !a.lost);
        let repeats = state.inbox.iter().filter(|a| a.position == position && a.ok).any(|a| known(&a));
        match (repeats, is_late) {
            (true, true) => state.late[usize::from(mailbox)] += 1,
            (true, false) => state.faults |= Fault::Repeated.bit(),
            (false, _) => {}
        }
        if !ok {
            state.spent.refusals += 1;
        }
        state.inbox.push(Arrival { position, ok, epoch, lost: false, recorded: false });
        Some(())
    }

    fn settle(&self, state: &mut State, node: u8, flight: u8) -> Option<()> {
        let now = micros(state.now);
        let holder = state.nodes[usize::from(node)].holder.as_mut()?;
        let of = holder.flights.remove(usize::from(flight));
        if self.has(DesignError::DeliveredBeforeRequest) {
            return Some(());
        }
        let (status, arrival) = match of.stage {
            Stage::Ready => return None,
            Stage::Answered { arrival, ok } => (Some(if ok { 200 } else { 500 }), Some(arrival)),
            Stage::Unanswered => (None, None),
        };
        let reply = Reply { status, retry_after: None };
        let settlement = match verdict(&self.schedule, reply, of.first_due_at, of.number, now, 0.0) {
            Verdict::Delivered => Settlement::Delivered,
            Verdict::Gone => return None,
            Verdict::Retry(at) => {
                Settlement::Blocked(retrying(of.position, of.number, of.first_due_at, at, String::new()))
            }
            Verdict::Exhausted => {
                let commits = u8::try_from(state.log.commits.len()).unwrap_or(u8::MAX);
                let position = u8::try_from(of.position).unwrap_or(u8::MAX);
                let commit = Commit::Exhausted { position, attempts: u8::try_from(of.number).unwrap_or(u8::MAX) };
                let carried =
                    self.library.carry_out(&state.log, Knowledge { folds: commits, answers: commits }, commit);
                state.log = carried.next.clone()?;
                Settlement::Blocked(ended(of.position, Phase::Exhausted, of.number, String::new(), true, now))
            }
        };
        let holder = state.nodes[usize::from(node)].holder.as_mut()?;
        holder.window.settle(of.position, &of.lane, settlement);
        holder.tried.push(Tried { position: of.position, number: of.number, arrival });
        Some(())
    }

    fn write_down(&self, state: &mut State, node: u8, told: bool) -> Option<()> {
        let name = NODES[usize::from(node)];
        let holder = state.nodes[usize::from(node)].holder.as_mut()?;
        let (writing, epoch) = (holder.writing.take()?, holder.epoch);
        let until = writing.began + LEASE_TICKS;
        let lease = state.hook.lease.written(name, holder.epoch, writing.hold, micros(until));
        let unfenced = self.has(DesignError::Unfenced).then(|| state.hook.lease.clone());
        let Some(lease) = lease.or(unfenced) else {
            state.nodes[usize::from(node)].holder = None;
            return Some(());
        };
        state.hook.lease = lease;
        if writing.snapshot.cursor < state.hook.cursor {
            state.faults |= Fault::WentBack.bit();
        }
        state.hook.cursor = writing.snapshot.cursor;
        state.hook.horizon = writing.snapshot.horizon;
        state.hook.pending.clone_from(&writing.snapshot.pending);
        state.hook.parked = writing.parked;
        for (lane, row) in &writing.snapshot.rows {
            match row {
                Some(row) => drop(state.hook.rows.insert(lane.clone(), row.clone())),
                None => drop(state.hook.rows.remove(lane)),
            }
        }
        for tried in &writing.tried {
            state.hook.tried.insert((tried.position, tried.number, epoch));
            if let Some(arrival) = tried.arrival {
                state.inbox[usize::from(arrival)].recorded = true;
            }
        }
        if told {
            match writing.hold {
                Hold::Keep => (holder.lease_until, holder.is_held) = (holder.lease_until.max(until), false),
                Hold::Release | Hold::HandOver => state.nodes[usize::from(node)].holder = None,
            }
        } else {
            state.spent.lost_replies += 1;
            // It is not known whether anything was written: it is written again.
            holder.window.unwritten(writing.snapshot.rows.into_iter().map(|(lane, _)| lane));
            let newer = std::mem::replace(&mut holder.tried, writing.tried);
            holder.tried.extend(newer);
        }
        self.look_for_lost(state);
        Some(())
    }

    /// Whatever is written down as settled must have been answered 2xx.
    fn look_for_lost(&self, state: &mut State) {
        for position in self.begin() + 1..=state.log.head() {
            let Some(lane) = self.lane(state, position) else { continue };
            let delivered = state.inbox.iter().any(|arrival| arrival.position == position && arrival.ok);
            if !delivered && state.hook.says_settled(position, &lane) {
                state.faults |= Fault::Skipped.bit();
            }
        }
        // What a lease has written down of an attempt is known to the next: nobody makes it again.
        let tried: Vec<_> = state.hook.tried.iter().map(|(position, number, _)| (*position, *number)).collect();
        let twice = tried.windows(2).any(|pair| pair[0] == pair[1]);
        if twice || tried.iter().any(|(_, number)| *number > u32::from(self.bounds.attempts)) {
            state.faults |= Fault::Attempts.bit();
        }
    }
}
