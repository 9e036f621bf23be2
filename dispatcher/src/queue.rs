//! Durable work of the webhook reactor: per webhook a lease and a cursor, and one row per blocked mailbox.
//!
//! Every write that follows from work done under a lease names the lease's epoch and changes nothing once another node
//! has taken over. Bookkeeping, not truth: a lost table is filled anew from the log and the endpoints' creation, at the
//! price of repeated deliveries.
//!
//! Expiry times are compared between nodes, so their clocks must agree to within a few seconds. A wrong clock makes a
//! takeover early or late; it cannot make a fenced write succeed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::id::{Position, TeamId, WebhookId};
use projections::db::{Cells, Select};
use projections::webhook_attempts::{self, Work};
use projections::{Error, Tx, exec, rows};
use serde_json::json;

use crate::webhook::window::{Lane, Phase, Row, Snapshot};

// The databases hold the rule itself; here it is stated for the model.
#[cfg(any(feature = "model", test))]
pub(crate) mod lease;
mod sql;

/// A webhook endpoint of a team.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The team.
    pub(crate) team: TeamId,
    /// The webhook.
    pub(crate) webhook: WebhookId,
}

/// A webhook whose lease was taken, as it was written down.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) key: Key,
    /// Of the lease; every write names it.
    pub(crate) epoch: i64,
    pub(crate) cursor: Position,
    pub(crate) horizon: Position,
    pub(crate) pending: Vec<Position>,
    pub(crate) parked: bool,
    /// The epoch of the log that the positions are of.
    pub(crate) log_epoch: u16,
    pub(crate) rows: Vec<(Lane, Row)>,
    /// Whether positions were translated since: all rows are to be written anew.
    pub(crate) is_rebased: bool,
}

/// What becomes of a lease with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// It goes on, from now on for its whole length.
    Keep,
    /// It is given back: there is nothing to do.
    Release,
    /// It is given back with work left: any node may take it at once.
    HandOver,
}

/// What is written of one webhook.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) epoch: i64,
    pub(crate) snapshot: Snapshot,
    pub(crate) parked: bool,
    pub(crate) hold: Hold,
    pub(crate) attempts: Vec<webhook_attempts::Row>,
}

/// An event that could not be processed: its mailbox waits, for this webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poisoned {
    /// The team.
    pub team: TeamId,
    /// The webhook.
    pub webhook: WebhookId,
    /// The mailbox; `None` for events that belong to none.
    pub mailbox: Lane,
    /// Where the event is.
    pub position: Position,
    /// How often it was tried.
    pub tries: u32,
    /// What went wrong.
    pub error: String,
}

/// Handle to the work database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    work: Work,
    writes: Arc<AtomicU64>,
}

impl Queue {
    /// The tables of this queue, for [`Work`]'s constructors.
    pub const TABLES: &'static str = include_str!("queue.sql");

    /// Returns the queue in a work database that was opened with [`Queue::TABLES`].
    #[must_use]
    pub fn new(work: Work) -> Self {
        Self { work, writes: Arc::default() }
    }

    /// Returns the database, for those who read attempts.
    #[must_use]
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Returns how many writing transactions were committed through this handle and its clones.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    async fn commit(&self, tx: Tx<'static>) -> Result<(), Error> {
        tx.commit().await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("webhook_queue_writes_total").increment(1);
        Ok(())
    }

    /// Takes the leases of webhooks that nobody else holds; new ones begin behind the given position. A node's own
    /// leases, for instance from before a restart, are taken again at once. Returns what was taken.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn acquire(
        &self,
        wanted: &[(Key, Position)],
        node: &str,
        log_epoch: u16,
        now: i64,
        expires_at: i64,
    ) -> Result<Vec<Leased>, Error> {
        let keys: Vec<_> = wanted.iter().map(|(key, begin)| json!([key.team, key.webhook, begin, log_epoch])).collect();
        let keys = serde_json::to_string(&keys)?;
        let mut tx = self.work.begin().await?;
        let insert = tx.pick(sql::INSERT_CURSORS.0, sql::INSERT_CURSORS.1);
        exec!(tx, insert, keys.as_str())?;
        let acquire = tx.pick(sql::ACQUIRE.0, sql::ACQUIRE.1);
        let taken = rows!(tx, acquire, keys.as_str(), node, expires_at, now)?;
        let mut leased = taken.iter().map(leased).collect::<Result<Vec<_>, _>>()?;
        let select = tx.pick(sql::EXCEPTIONS.0, sql::EXCEPTIONS.1);
        for cells in rows!(tx, select, keys.as_str())? {
            let key = key(&cells)?;
            if let Some(of) = leased.iter_mut().find(|l| l.key == key) {
                of.rows.push((cells.parsed_opt("mailbox_id")?, row(&cells)?));
            }
        }
        self.commit(tx).await?;
        Ok(leased)
    }

    /// Writes down how far webhooks have come. Returns those whose lease had been lost: nothing of them was written.
    ///
    /// # Errors
    /// The database does not answer; it is not known whether anything was written.
    pub(crate) async fn write(
        &self,
        writes: &[Write],
        node: &str,
        log_epoch: u16,
        expires_at: i64,
    ) -> Result<Vec<Key>, Error> {
        let mut tx = self.work.begin().await?;
        let cursors: Vec<_> = writes.iter().map(|write| cursor_json(write, expires_at)).collect();
        let update = tx.pick(sql::WRITE_CURSORS.0, sql::WRITE_CURSORS.1);
        let held = rows!(tx, update, serde_json::to_string(&cursors)?, node, i64::from(log_epoch))?;
        let held = held.iter().map(key).collect::<Result<std::collections::BTreeSet<_>, _>>()?;
        let (written, lost): (Vec<_>, Vec<_>) = writes.iter().partition(|write| held.contains(&write.key));

        let (mut upserts, mut deletes, mut parked, mut attempts) = (vec![], vec![], vec![], vec![]);
        for write in written {
            let Key { team, webhook } = &write.key;
            for (lane, row) in &write.snapshot.rows {
                let mailbox = lane.as_ref().map_or("", |id| id.as_str());
                match row {
                    Some(row) => upserts.push(row_json(&write.key, mailbox, row)),
                    None => deletes.push(json!([team, webhook, mailbox])),
                }
            }
            if write.parked {
                parked.push(json!([team, webhook]));
            }
            attempts.extend(write.attempts.iter().map(|row| (team.clone(), row.clone())));
        }
        for (statement, list) in
            [(sql::DELETE_EXCEPTIONS, deletes), (sql::UPSERT_EXCEPTIONS, upserts), (sql::PARK_EXCEPTIONS, parked)]
        {
            if !list.is_empty() {
                let text = tx.pick(statement.0, statement.1);
                exec!(tx, text, serde_json::to_string(&list)?)?;
            }
        }
        if !attempts.is_empty() {
            webhook_attempts::insert(&mut tx, &attempts).await?;
        }
        self.commit(tx).await?;
        Ok(lost.into_iter().map(|write| write.key.clone()).collect())
    }

    /// Prolongs leases. Returns those that had been lost.
    ///
    /// # Errors
    /// The database does not answer; the leases may have been prolonged.
    pub(crate) async fn renew(&self, held: &[(Key, i64)], node: &str, expires_at: i64) -> Result<Vec<Key>, Error> {
        let mut tx = self.work.begin().await?;
        let list: Vec<_> = held.iter().map(|(key, epoch)| json!([key.team, key.webhook, epoch])).collect();
        let update = tx.pick(sql::RENEW.0, sql::RENEW.1);
        let renewed = rows!(tx, update, serde_json::to_string(&list)?, node, expires_at)?;
        let renewed = renewed.iter().map(key).collect::<Result<std::collections::BTreeSet<_>, _>>()?;
        self.commit(tx).await?;
        Ok(held.iter().map(|(key, _)| key).filter(|key| !renewed.contains(key)).cloned().collect())
    }

    /// Drops everything that is kept of webhooks that are gone.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn drop_webhooks(&self, gone: &[(Key, i64)], node: &str) -> Result<(), Error> {
        let list: Vec<_> = gone.iter().map(|(key, epoch)| json!([key.team, key.webhook, epoch])).collect();
        let list = serde_json::to_string(&list)?;
        let mut tx = self.work.begin().await?;
        let delete = tx.pick(sql::DROP_CURSORS.0, sql::DROP_CURSORS.1);
        let dropped = rows!(tx, delete, list, node)?;
        let dropped: Vec<_> = dropped
            .iter()
            .map(|cells| key(cells).map(|key| json!([key.team, key.webhook])))
            .collect::<Result<_, _>>()?;
        let delete = tx.pick(sql::DROP_EXCEPTIONS.0, sql::DROP_EXCEPTIONS.1);
        exec!(tx, delete, serde_json::to_string(&dropped)?)?;
        self.commit(tx).await
    }

    /// Returns webhooks with something to do that no node works at: retries that are due, and leases that ran out or
    /// were handed over with work left.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn due(&self, now: i64, limit: usize) -> Result<Vec<Key>, Error> {
        let mut reader = self.work.read().await?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found = rows!(
            reader,
            "SELECT DISTINCT e.team_id AS team_id, e.webhook_id AS webhook_id
             FROM webhook_exceptions e
             JOIN webhook_cursors c ON c.team_id = e.team_id AND c.webhook_id = e.webhook_id
             WHERE e.next_due_at <= $1 AND NOT c.parked AND (c.owner = '' OR c.expires_at <= $1)
             LIMIT $2",
            now,
            limit
        )?;
        let left = rows!(
            reader,
            "SELECT team_id, webhook_id FROM webhook_cursors WHERE owner <> '' AND expires_at <= $1
             ORDER BY expires_at LIMIT $2",
            now,
            limit
        )?;
        found.iter().chain(&left).map(key).collect()
    }

    /// Returns events that could not be processed and are not tried again by themselves, at most `limit`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn poisoned(&self, limit: usize) -> Result<Vec<Poisoned>, Error> {
        let mut select = Select::new(
            "SELECT team_id, webhook_id, mailbox_id, position, attempts, last_error FROM webhook_exceptions
             WHERE phase = 'poisoned' ORDER BY team_id, webhook_id, mailbox_id LIMIT ",
        );
        select.int(i64::try_from(limit).unwrap_or(i64::MAX));
        let found = select.fetch(&mut self.work.read().await?).await?;
        let poisoned = |cells: &Cells| {
            Ok(Poisoned {
                team: cells.parsed("team_id")?,
                webhook: cells.parsed("webhook_id")?,
                mailbox: cells.parsed_opt("mailbox_id")?,
                position: cells.unsigned("position")?,
                tries: u32::try_from(cells.unsigned("attempts")?).unwrap_or(u32::MAX),
                error: cells.text("last_error")?,
            })
        };
        found.iter().map(poisoned).collect()
    }

    /// Returns whether an event still waits as poisoned.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn is_poisoned(&self, poisoned: &Poisoned) -> Result<bool, Error> {
        let mut select = Select::new("SELECT position FROM webhook_exceptions WHERE phase = 'poisoned' AND team_id = ");
        select.text(poisoned.team.as_str()).push(" AND webhook_id = ").text(poisoned.webhook.as_str());
        select.push(" AND mailbox_id = ").text(poisoned.mailbox.as_ref().map_or("", |id| id.as_str()));
        select.push(" AND position = ").int(signed(poisoned.position));
        Ok(!select.fetch(&mut self.work.read().await?).await?.is_empty())
    }

    /// Makes a poisoned event due again, or regards it as settled. Ends the webhook's lease so that whoever holds it reads
    /// the row anew. Returns whether there was such a row. A decision to skip is recorded before, see
    /// [`crate::webhook::resolve_poisoned`].
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn release_poisoned(&self, poisoned: &Poisoned, skip: bool, now: i64) -> Result<bool, Error> {
        let mut tx = self.work.begin().await?;
        let (team, webhook) = (poisoned.team.as_str(), poisoned.webhook.as_str());
        let mailbox = poisoned.mailbox.as_ref().map_or("", |id| id.as_str());
        let phase = if skip { Phase::Behind } else { Phase::Poisoned };
        let changed = exec!(
            tx,
            "UPDATE webhook_exceptions SET phase = $1, attempts = 0, next_due_at = $2
             WHERE team_id = $3 AND webhook_id = $4 AND mailbox_id = $5 AND phase = 'poisoned' AND position = $6",
            phase.as_str(),
            now,
            team,
            webhook,
            mailbox,
            signed(poisoned.position)
        )?;
        // A holder keeps its own copy of the row: a new epoch makes it lose the lease and read again.
        exec!(
            tx,
            "UPDATE webhook_cursors SET epoch = epoch + 1, expires_at = 0, owner = 'operator'
             WHERE team_id = $1 AND webhook_id = $2 AND $3 > 0",
            team,
            webhook,
            i64::try_from(changed).unwrap_or(i64::MAX)
        )?;
        self.commit(tx).await?;
        Ok(changed > 0)
    }

    /// Drops expired attempts, at most `limit`; returns how many.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn drop_expired(&self, now: i64, limit: usize) -> Result<u64, Error> {
        webhook_attempts::drop_expired(&self.work, now, limit).await
    }
}

fn cursor_json(write: &Write, expires_at: i64) -> serde_json::Value {
    let Snapshot { cursor, horizon, pending, .. } = &write.snapshot;
    // Offsets are short, and a window's events lie close together.
    let offsets: Vec<_> = pending.iter().map(|position| position.saturating_sub(*cursor)).collect();
    let offsets = serde_json::Value::from(offsets).to_string();
    let expires_at = if write.hold == Hold::Keep { expires_at } else { 0 };
    let released = write.hold == Hold::Release;
    let Key { team, webhook } = &write.key;
    json!([team, webhook, write.epoch, cursor, horizon, offsets, write.parked, expires_at, released])
}

fn row_json(key: &Key, mailbox: &str, row: &Row) -> serde_json::Value {
    // A lane that is behind has work at once, wherever it is taken up.
    let next_due_at = if row.phase == Phase::Behind { Some(0) } else { row.next_due_at };
    let phase = row.phase.as_str();
    let (position, attempts, first_due_at) = (row.position, row.attempts, row.first_due_at);
    // An error may quote anything, and PostgreSQL keeps no NUL.
    let last_error = row.last_error.replace('\0', "\u{fffd}");
    json!([key.team, key.webhook, mailbox, position, phase, attempts, first_due_at, next_due_at, last_error])
}

fn signed(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn corrupt(column: &str) -> Error {
    Error::Corrupt { column: column.to_owned(), source: "not a value that was ever written".into() }
}

fn key(cells: &Cells) -> Result<Key, Error> {
    Ok(Key { team: cells.parsed("team_id")?, webhook: cells.parsed("webhook_id")? })
}

fn leased(cells: &Cells) -> Result<Leased, Error> {
    let cursor = cells.unsigned("cursor")?;
    let offsets: Vec<Position> = cells.json("pending")?;
    Ok(Leased {
        key: key(cells)?,
        epoch: cells.get("epoch")?,
        cursor,
        horizon: cells.unsigned("horizon")?,
        pending: offsets.into_iter().map(|offset| cursor.saturating_add(offset)).collect(),
        parked: cells.get("parked")?,
        log_epoch: u16::try_from(cells.unsigned("log_epoch")?).map_err(|_| corrupt("log_epoch"))?,
        rows: vec![],
        is_rebased: false,
    })
}

fn row(cells: &Cells) -> Result<Row, Error> {
    Ok(Row {
        position: cells.unsigned("position")?,
        phase: Phase::parse(&cells.text("phase")?).ok_or_else(|| corrupt("phase"))?,
        attempts: u32::try_from(cells.unsigned("attempts")?).map_err(|_| corrupt("attempts"))?,
        first_due_at: cells.get("first_due_at")?,
        next_due_at: cells.get("next_due_at")?,
        last_error: cells.text("last_error")?,
    })
}

#[cfg(test)]
mod tests;
