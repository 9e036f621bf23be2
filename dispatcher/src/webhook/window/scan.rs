//! Finding again, in the log, the events of lanes that are behind.

use std::collections::BTreeSet;

use domain::id::Position;

use super::blocked::Blocked;
use super::{Lane, Window};

/// A pass over the log that looks for the next events of lanes that are behind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scan {
    at: Position,
    lanes: BTreeSet<Lane>,
}

impl<T> Window<T> {
    /// Returns the position behind which the log must be read for lanes that are behind, if there are any.
    pub fn scan_after(&mut self) -> Option<Position> {
        if self.read_to < self.covered_to {
            return None;
        }
        if self.scan.is_none() {
            let lanes: BTreeSet<_> =
                self.blocked.iter().filter(|(_, b)| b.is_starving()).map(|(lane, _)| lane.clone()).collect();
            let at = lanes.iter().filter_map(|lane| self.blocked.get(lane)).map(Blocked::known_to).min()?;
            self.scan = Some(Scan { at, lanes });
        }
        // A scan never overtakes the window: what it would find there is offered by reading anyway.
        let at = self.scan.as_ref().map(|scan| scan.at)?;
        if at >= self.read_to {
            self.finish_scan();
            return None;
        }
        Some(at)
    }

    /// Takes in a page read for [`Window::scan_after`]: the matching events, in order, and the last position read.
    pub fn scanned(&mut self, matching: impl IntoIterator<Item = (Position, Lane)>, last: Position) {
        let Some(mut scan) = self.scan.take() else { return };
        let end = self.read_to;
        for (position, lane) in matching.into_iter().take_while(|(position, _)| *position <= end) {
            if !scan.lanes.contains(&lane) {
                continue;
            }
            let Some(blocked) = self.blocked.get_mut(&lane) else { continue };
            if position <= blocked.known_to() {
                continue;
            }
            if blocked.queue.len() < self.bounds.queue_max {
                blocked.queue.push_back(position);
                self.plan(&lane);
            } else {
                scan.lanes.remove(&lane);
            }
        }
        scan.at = scan.at.max(last);
        let starving = scan.lanes.iter().any(|lane| self.blocked.get(lane).is_some_and(Blocked::is_starving));
        let ended = scan.at >= self.read_to;
        if ended {
            self.scan = Some(scan);
            self.finish_scan();
        } else if starving {
            self.scan = Some(scan);
        }
    }

    /// Everything up to the window's end was looked at: what is in the queues is all there is.
    fn finish_scan(&mut self) {
        let Some(scan) = self.scan.take() else { return };
        for lane in scan.lanes {
            if let Some(blocked) = self.blocked.get_mut(&lane) {
                blocked.more = false;
            }
            self.unblock_if_level(&lane);
        }
    }
}
