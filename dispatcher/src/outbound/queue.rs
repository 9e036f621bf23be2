//! Durable work of the outbound reactor: per team a lease and a cursor, per unsettled mail when to look at it, per
//! account what it was given, and for seven days what was said.
//!
//! Bookkeeping, not truth. A due row is an alarm: what is to be done then, the log says. A lost table is filled anew from
//! the log, and no mail is sent twice for it: an attempt that was started is in the log before anything leaves.
//!
//! Every write names the node and changes nothing for teams that another node has taken over meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use domain::id::{OutboundId, Position, ProviderId, TeamId};
use domain::provider::quota::Usage;
use projections::db::Cells;
use projections::webhook_attempts::Work;
use projections::{Error, Tx, exec, rows};
use serde_json::json;

/// How long transcripts can be looked at, microseconds.
pub const TRANSCRIPTS_MICROS: i64 = 7 * 24 * 3_600 * 1_000_000;

type Pair = (&'static str, &'static str);

/// `$1`: rows of team; `$2`: epoch of the log.
const INSERT_TEAMS: Pair = (
    "INSERT INTO outbound_teams (team_id, cursor, log_epoch, owner, expires_at, next_due_at)
     SELECT value, 0, $2, '', 0, 0 FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
    "INSERT INTO outbound_teams (team_id, cursor, log_epoch, owner, expires_at, next_due_at)
     SELECT value, 0, $2, '', 0, 0 FROM json_array_elements_text($1::json) ON CONFLICT DO NOTHING",
);

/// `$1`: rows of team; `$2`: node; `$3`: end of the lease; `$4`: now.
const ACQUIRE: Pair = (
    "UPDATE outbound_teams SET owner = $2, expires_at = $3, next_due_at = 0
     WHERE team_id IN (SELECT value FROM json_each($1)) AND (owner = '' OR owner = $2 OR expires_at <= $4)
     RETURNING team_id, cursor, log_epoch",
    "UPDATE outbound_teams SET owner = $2, expires_at = $3, next_due_at = 0
     WHERE team_id IN (SELECT value FROM json_array_elements_text($1::json))
       AND (owner = '' OR owner = $2 OR expires_at <= $4)
     RETURNING team_id, cursor, log_epoch",
);

/// `$1`: rows of team; `$2`: node; `$3`: end of the lease.
const RENEW: Pair = (
    "UPDATE outbound_teams SET expires_at = $3
     WHERE team_id IN (SELECT value FROM json_each($1)) AND owner = $2 RETURNING team_id",
    "UPDATE outbound_teams SET expires_at = $3
     WHERE team_id IN (SELECT value FROM json_array_elements_text($1::json)) AND owner = $2 RETURNING team_id",
);

/// `$1`: rows of team; `$2`: node. Mail that is due later makes the team be found then.
const RELEASE: Pair = (
    "UPDATE outbound_teams SET owner = '', expires_at = 0, next_due_at = COALESCE(
         (SELECT MIN(d.due_at) FROM outbound_due d WHERE d.team_id = outbound_teams.team_id), 9223372036854775807)
     WHERE team_id IN (SELECT value FROM json_each($1)) AND owner = $2",
    "UPDATE outbound_teams SET owner = '', expires_at = 0, next_due_at = COALESCE(
         (SELECT MIN(d.due_at) FROM outbound_due d WHERE d.team_id = outbound_teams.team_id), 9223372036854775807)
     WHERE team_id IN (SELECT value FROM json_array_elements_text($1::json)) AND owner = $2",
);

/// `$1`: rows of team, mail, due, waits.
const UPSERT_DUE: Pair = (
    "INSERT INTO outbound_due (team_id, outbound_id, due_at, waits)
     SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each($1) WHERE true
     ON CONFLICT (team_id, outbound_id) DO UPDATE SET due_at = excluded.due_at, waits = excluded.waits",
    "INSERT INTO outbound_due (team_id, outbound_id, due_at, waits)
     SELECT value->>0, value->>1, (value->>2)::bigint, (value->>3)::bigint FROM json_array_elements($1::json)
     ON CONFLICT (team_id, outbound_id) DO UPDATE SET due_at = excluded.due_at, waits = excluded.waits",
);

/// `$1`: rows of team, mail.
const DELETE_DUE: Pair = (
    "DELETE FROM outbound_due WHERE (team_id, outbound_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
    "DELETE FROM outbound_due
     WHERE (team_id, outbound_id) IN (SELECT value->>0, value->>1 FROM json_array_elements($1::json))",
);

/// `$1`: team; `$2`: mails.
const NUDGE: Pair = (
    "UPDATE outbound_due SET due_at = 0, waits = 0
     WHERE team_id = $1 AND outbound_id IN (SELECT value FROM json_each($2))",
    "UPDATE outbound_due SET due_at = 0, waits = 0
     WHERE team_id = $1 AND outbound_id IN (SELECT value FROM json_array_elements_text($2::json))",
);

/// `$1`: rows of team, account, usage.
const UPSERT_USAGE: Pair = (
    "INSERT INTO outbound_usage (team_id, provider_id, used)
     SELECT value->>0, value->>1, value->>2 FROM json_each($1) WHERE true
     ON CONFLICT (team_id, provider_id) DO UPDATE SET used = excluded.used",
    "INSERT INTO outbound_usage (team_id, provider_id, used)
     SELECT value->>0, value->>1, value->>2 FROM json_array_elements($1::json)
     ON CONFLICT (team_id, provider_id) DO UPDATE SET used = excluded.used",
);

/// `$1`: rows of team, mail, attempt, account, text, time.
const INSERT_TRANSCRIPTS: Pair = (
    "INSERT INTO outbound_transcripts (team_id, outbound_id, attempt, provider_id, said, at)
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each($1) WHERE true
     ON CONFLICT DO NOTHING",
    "INSERT INTO outbound_transcripts (team_id, outbound_id, attempt, provider_id, said, at)
     SELECT value->>0, value->>1, (value->>2)::bigint, value->>3, value->>4, (value->>5)::bigint
     FROM json_array_elements($1::json)
     ON CONFLICT DO NOTHING",
);

/// `$1`: rows of team.
const STANDINGS: Pair = (
    "SELECT team_id, cursor, log_epoch, owner FROM outbound_teams WHERE team_id IN (SELECT value FROM json_each($1))",
    "SELECT team_id, cursor, log_epoch, owner FROM outbound_teams
     WHERE team_id IN (SELECT json_array_elements_text($1::json))",
);

/// How far a team's log was planned, by whom.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) cursor: Position,
    pub(crate) log_epoch: u64,
    pub(crate) owner: String,
}

/// A team whose lease was taken.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) team: TeamId,
    pub(crate) cursor: Position,
    pub(crate) usage: BTreeMap<ProviderId, Usage>,
    /// When its first mail is due; `i64::MAX` for none.
    pub(crate) next_due_at: i64,
}

/// What a look at the log found.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Mails that were accepted, and when they are due.
    pub(crate) accepted: Vec<(OutboundId, i64)>,
    /// Mails that somebody changed.
    pub(crate) nudged: BTreeSet<OutboundId>,
    /// Whether mail that waits for an account is to be looked at.
    pub(crate) wakes: bool,
}

/// What becomes of a mail's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing more is to be done.
    Settled,
    /// It is looked at again.
    At {
        /// When, microseconds since the Unix epoch.
        due_at: i64,
        /// Whether a change of accounts or pauses brings it forward.
        waits: bool,
    },
}

/// What was said in an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The attempt.
    pub attempt: u32,
    /// Its account.
    pub account: ProviderId,
    /// The dialogue, without passwords and content.
    pub said: String,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
}

/// What a look at a mail left to be written.
#[derive(Debug)]
pub(crate) struct Settlement {
    pub(crate) team: TeamId,
    pub(crate) outbound: OutboundId,
    pub(crate) next: Next,
    pub(crate) transcripts: Vec<Transcript>,
    pub(crate) usage: BTreeMap<ProviderId, Usage>,
}

/// Handle to the tables. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    work: Work,
}

fn list<T: serde::Serialize>(rows: &[T]) -> Result<String, Error> {
    Ok(serde_json::to_string(rows)?)
}

fn teams_of(found: &[Cells]) -> Result<BTreeSet<TeamId>, Error> {
    found.iter().map(|cells| cells.parsed("team_id")).collect()
}

impl Queue {
    /// The tables of this queue, for [`Work`]'s constructors.
    pub const TABLES: &'static str = include_str!("queue.sql");

    /// Returns the queue in a work database that was opened with [`Queue::TABLES`].
    #[must_use]
    pub fn new(work: Work) -> Self {
        Self { work }
    }

    /// Takes the leases of teams that nobody else holds; a node's own at once.
    pub(crate) async fn acquire(
        &self,
        teams: &[TeamId],
        node: &str,
        log_epoch: u16,
        now: i64,
        expires_at: i64,
    ) -> Result<Vec<Leased>, Error> {
        let teams = list(teams)?;
        let mut tx = self.work.begin().await?;
        let insert = tx.pick(INSERT_TEAMS.0, INSERT_TEAMS.1);
        exec!(tx, insert, teams.as_str(), i64::from(log_epoch))?;
        let acquire = tx.pick(ACQUIRE.0, ACQUIRE.1);
        let taken = rows!(tx, acquire, teams.as_str(), node, expires_at, now)?;
        let mut leased = vec![];
        for cells in &taken {
            let team: TeamId = cells.parsed("team_id")?;
            // Positions of a log that was restored since are not comparable: it is read from its beginning again, which
            // changes nothing but alarms.
            let same = cells.unsigned("log_epoch")? == u64::from(log_epoch);
            let cursor = if same { cells.unsigned("cursor")? } else { 0 };
            let mut usage = BTreeMap::new();
            for used in rows!(tx, "SELECT provider_id, used FROM outbound_usage WHERE team_id = $1", team.as_str())? {
                usage.insert(used.parsed("provider_id")?, used.json("used")?);
            }
            let next_due_at = min_due(&mut tx, &team, i64::MIN).await?;
            leased.push(Leased { team, cursor, usage, next_due_at });
        }
        tx.commit().await?;
        Ok(leased)
    }

    /// Returns how far some teams' logs were planned.
    pub(crate) async fn standings(&self, teams: &[TeamId]) -> Result<BTreeMap<TeamId, Standing>, Error> {
        let mut reader = self.work.read().await?;
        let sql = reader.pick(STANDINGS.0, STANDINGS.1);
        let found = rows!(reader, sql, list(teams)?)?;
        let standing = |cells: &Cells| {
            let cursor = cells.unsigned("cursor")?;
            let at = Standing { cursor, log_epoch: cells.unsigned("log_epoch")?, owner: cells.text("owner")? };
            Ok((cells.parsed("team_id")?, at))
        };
        found.iter().map(standing).collect()
    }

    /// Prolongs leases; returns those still held.
    pub(crate) async fn renew(&self, teams: &[TeamId], node: &str, expires_at: i64) -> Result<BTreeSet<TeamId>, Error> {
        let mut tx = self.work.begin().await?;
        let held = held(&mut tx, teams, node, expires_at).await?;
        tx.commit().await?;
        Ok(held)
    }

    /// Gives leases back.
    pub(crate) async fn release(&self, teams: &[TeamId], node: &str) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        let release = tx.pick(RELEASE.0, RELEASE.1);
        exec!(tx, release, list(teams)?, node)?;
        tx.commit().await
    }

    /// Returns teams with something to do that no other node works for.
    pub(crate) async fn due_teams(&self, node: &str, now: i64, limit: usize) -> Result<Vec<TeamId>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut reader = self.work.read().await?;
        let found = rows!(
            reader,
            "SELECT team_id FROM outbound_teams WHERE next_due_at <= $1 AND expires_at <= $1 AND owner <> $2
             ORDER BY next_due_at LIMIT $3",
            now,
            node,
            limit
        )?;
        found.iter().map(|cells| cells.parsed("team_id")).collect()
    }

    /// Writes down what a look at the log found, and how far it has come. `false` if another node has the team.
    pub(crate) async fn plan(
        &self,
        team: &TeamId,
        plan: &Plan,
        cursor: Position,
        log_epoch: u16,
        node: &str,
    ) -> Result<bool, Error> {
        let mut tx = self.work.begin().await?;
        let cursor = i64::try_from(cursor).unwrap_or(i64::MAX);
        let moved = exec!(
            tx,
            "UPDATE outbound_teams SET cursor = $1, log_epoch = $2 WHERE team_id = $3 AND owner = $4",
            cursor,
            i64::from(log_epoch),
            team.as_str(),
            node
        )?;
        if moved == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        if !plan.accepted.is_empty() {
            let due: Vec<_> = plan.accepted.iter().map(|(id, at)| json!([team, id, at, 0])).collect();
            let upsert = tx.pick(UPSERT_DUE.0, UPSERT_DUE.1);
            exec!(tx, upsert, list(&due)?)?;
        }
        if !plan.nudged.is_empty() {
            let nudged: Vec<_> = plan.nudged.iter().collect();
            let nudge = tx.pick(NUDGE.0, NUDGE.1);
            exec!(tx, nudge, team.as_str(), list(&nudged)?)?;
        }
        if plan.wakes {
            exec!(
                tx,
                "UPDATE outbound_due SET due_at = 0, waits = 0 WHERE team_id = $1 AND waits <> 0",
                team.as_str()
            )?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Returns mails of a team that are due, oldest first, and when the next one is if these are all.
    pub(crate) async fn due(&self, team: &TeamId, now: i64, limit: usize) -> Result<(Vec<OutboundId>, i64), Error> {
        let mut tx = self.work.begin().await?;
        let found = rows!(
            tx,
            "SELECT outbound_id FROM outbound_due WHERE team_id = $1 AND due_at <= $2 ORDER BY due_at LIMIT $3",
            team.as_str(),
            now,
            i64::try_from(limit).unwrap_or(i64::MAX)
        )?;
        let due: Vec<_> = found.iter().map(|cells| cells.parsed("outbound_id")).collect::<Result<_, _>>()?;
        let next = if due.len() < limit { min_due(&mut tx, team, now).await? } else { now };
        tx.rollback().await?;
        Ok((due, next))
    }

    /// Writes down what became of mails.
    pub(crate) async fn settle(&self, all: &[Settlement], node: &str, expires_at: i64) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        let teams: BTreeSet<_> = all.iter().map(|s| s.team.clone()).collect();
        let teams: Vec<_> = teams.into_iter().collect();
        let held = held(&mut tx, &teams, node, expires_at).await?;
        let (mut gone, mut due, mut used, mut said) = (vec![], vec![], BTreeMap::new(), vec![]);
        for settlement in all {
            let (team, outbound) = (&settlement.team, &settlement.outbound);
            for t in &settlement.transcripts {
                // PostgreSQL keeps no NUL.
                let text = t.said.replace('\0', "\u{fffd}");
                said.push(json!([team, outbound, t.attempt, t.account, text, t.at]));
            }
            if !held.contains(team) {
                continue;
            }
            for (account, usage) in &settlement.usage {
                used.insert((team, account), json!([team, account, serde_json::to_string(usage)?]));
            }
            match settlement.next {
                Next::Settled => gone.push(json!([team, outbound])),
                Next::At { due_at, waits } => due.push(json!([team, outbound, due_at, i64::from(waits)])),
            }
        }
        let used: Vec<_> = used.into_values().collect();
        let statements = [(DELETE_DUE, gone), (UPSERT_DUE, due), (UPSERT_USAGE, used), (INSERT_TRANSCRIPTS, said)];
        for (statement, rows) in statements {
            if !rows.is_empty() {
                let text = tx.pick(statement.0, statement.1);
                exec!(tx, text, list(&rows)?)?;
            }
        }
        tx.commit().await
    }

    /// Drops transcripts that are too old. Returns how many.
    pub(crate) async fn drop_transcripts(&self, now: i64) -> Result<u64, Error> {
        let mut tx = self.work.begin().await?;
        let n = exec!(tx, "DELETE FROM outbound_transcripts WHERE at < $1", now - TRANSCRIPTS_MICROS)?;
        tx.commit().await?;
        Ok(n)
    }

    /// Drops what was said in the attempts of mails whose personal halves were erased.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn forget(&self, team: &TeamId, mails: &[OutboundId]) -> Result<(), Error> {
        let mut tx = self.work.begin().await?;
        let sql = tx.pick(
            "DELETE FROM outbound_transcripts
             WHERE team_id = $1 AND outbound_id IN (SELECT value FROM json_each($2))",
            "DELETE FROM outbound_transcripts
             WHERE team_id = $1 AND outbound_id IN (SELECT json_array_elements_text($2::json))",
        );
        exec!(tx, sql, team.as_str(), json!(mails).to_string())?;
        tx.commit().await
    }

    /// Returns what was said in the attempts of a mail in the last seven days, first attempt first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn transcripts(&self, team: &TeamId, outbound: &OutboundId) -> Result<Vec<Transcript>, Error> {
        let mut reader = self.work.read().await?;
        let found = rows!(
            reader,
            "SELECT attempt, provider_id, said, at FROM outbound_transcripts
             WHERE team_id = $1 AND outbound_id = $2 ORDER BY attempt",
            team.as_str(),
            outbound.as_str()
        )?;
        let transcript = |cells: &Cells| {
            Ok(Transcript {
                attempt: u32::try_from(cells.unsigned("attempt")?).unwrap_or(u32::MAX),
                account: cells.parsed("provider_id")?,
                said: cells.text("said")?,
                at: cells.get("at")?,
            })
        };
        found.iter().map(transcript).collect()
    }

    /// Returns how many mails of a team are not settled yet, as far as they have been planned.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn waiting(&self, team: &TeamId) -> Result<u64, Error> {
        let mut reader = self.work.read().await?;
        let found = rows!(reader, "SELECT COUNT(*) AS n FROM outbound_due WHERE team_id = $1", team.as_str())?;
        found.first().map_or(Ok(0), |cells| cells.unsigned("n"))
    }
}

/// Prolongs leases within a write; returns those still held.
async fn held(tx: &mut Tx<'static>, teams: &[TeamId], node: &str, expires_at: i64) -> Result<BTreeSet<TeamId>, Error> {
    let renew = tx.pick(RENEW.0, RENEW.1);
    teams_of(&rows!(tx, renew, list(teams)?, node, expires_at)?)
}

/// Returns when a team's first mail after a moment is due; `i64::MAX` for none.
async fn min_due(tx: &mut Tx<'static>, team: &TeamId, after: i64) -> Result<i64, Error> {
    let found = rows!(
        tx,
        "SELECT due_at FROM outbound_due WHERE team_id = $1 AND due_at > $2 ORDER BY due_at LIMIT 1",
        team.as_str(),
        after
    )?;
    found.first().map_or(Ok(i64::MAX), |cells| cells.get("due_at"))
}
