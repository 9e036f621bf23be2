//! How folds in memory follow what other nodes append: by the records in between, not by reading every stream again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use domain::StreamId;
use domain::id::TeamId;

use crate::backend::Head;
use crate::fold_cache::{Folded, Known, Moved, ReadBegan};
use crate::log::{LogError, Shared};
use crate::record::Recorded;

/// How many records folds follow by. A team that has moved further since is read anew, as it is needed.
const RECORDS_MAX: u64 = 256;

impl Shared {
    /// Notes a head read from the store, brings the folds of a team that is behind it up to it, and returns the head to
    /// work with.
    ///
    /// # Errors
    /// The store does not answer.
    pub(crate) async fn follow(
        &self,
        team: &TeamId,
        behind: Option<Known>,
        head: Head,
        began: ReadBegan,
    ) -> Result<Known, LogError> {
        let Some((from, records)) = behind.and_then(|from| Some((from, between(&from.head, &head)?))) else {
            return Ok(self.folds.note_head(team, head, began));
        };
        let stored = self.backend.read(team, from.head.position, records).await?;
        let decoded: Result<Vec<_>, _> = stored.into_iter().map(Recorded::try_from).collect();
        // What cannot be read makes itself known where it is needed.
        let Ok(records) = decoded.map_err(drop).and_then(|read| chained(read, &from.head, &head).ok_or(())) else {
            return Ok(self.folds.note_head(team, head, began));
        };
        let moved = self.moved(team, from, &records);
        Ok(self.folds.caught_up(team, from, head, began, moved))
    }

    /// Returns what records behind a head did to the folds that are exact as of it, or newer.
    fn moved(&self, team: &TeamId, from: Known, records: &[Recorded]) -> Moved {
        let mut touched: HashMap<StreamId, Option<Folded>> = HashMap::new();
        for record in records {
            if let Some(stream) = &record.stream {
                let fold = match touched.entry(stream.clone()) {
                    Entry::Occupied(slot) => slot.into_mut(),
                    Entry::Vacant(slot) => slot.insert(self.folds.fold_behind(team, stream, from)),
                };
                // A fold that is newer than the head may know of the record already.
                match fold {
                    Some(fold) if fold.version + 1 == record.stream_version => {
                        Arc::make_mut(&mut fold.state).evolve(&record.event);
                        fold.version += 1;
                    }
                    _ => *fold = None,
                }
            }
            // Whether a fold knows of a record of another stream its version does not tell.
            touched.extend(record.event.links().into_iter().map(|stream| (stream, None)));
        }
        let mut moved = Moved::default();
        for (stream, fold) in touched {
            match fold {
                Some(fold) => moved.changed.push((stream, fold)),
                None => moved.stale.push(stream),
            }
        }
        moved
    }
}

/// Returns how many records lie between two heads, if they are few and of the same history.
fn between(from: &Head, to: &Head) -> Option<usize> {
    let records = to.position.checked_sub(from.position).filter(|n| (1..=RECORDS_MAX).contains(n))?;
    (from.epoch == to.epoch).then(|| usize::try_from(records).ok()).flatten()
}

/// Returns records if they are all there are between two heads.
fn chained(records: Vec<Recorded>, from: &Head, to: &Head) -> Option<Vec<Recorded>> {
    let gapless = (from.position + 1..).zip(&records).all(|(position, record)| record.position == position);
    let ends = records.last().is_some_and(|last| last.position == to.position && last.hash == to.hash);
    (gapless && ends).then_some(records)
}
