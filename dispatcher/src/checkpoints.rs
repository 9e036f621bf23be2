//! Signed checkpoints of every log: made every so many events or seconds while there are new ones, by one node, and posted
//! where the operator wants them kept.
//!
//! It follows the log and is never waited for: an append does nothing for it. Teams without new events cost nothing.

mod post;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use domain::id::{Position, TeamId};
use eventlog::checkpoint::{BadKey, SigningKey, VerifyingKey};
use eventlog::{Allot, EventLog, Growth, Hint, LogError, SignError, Signer};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use post::Places;

use crate::duty::Duty;
use crate::egress::Target;

/// Teams whose growth is written in one transaction.
const TEAMS_PER_WRITE: usize = 64;
/// Teams asked for with one statement.
const PAGE: usize = 1_000;
/// Checkpoints posted before they are marked.
const POSTS_PER_MARK: usize = 100;
/// Waits after a post that failed: the first, and the longest.
const POST_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The configuration section `checkpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the origins of checkpoints begin with: the name of the key. Made of the key itself without.
    pub origin: Option<String>,
    /// How many events lie between two checkpoints at most.
    pub every_events: u64,
    /// How old an event is at most before a checkpoint covers it.
    pub every_seconds: u32,
    /// A URL to which every checkpoint is posted.
    pub post_to: Option<String>,
    /// A directory in which every checkpoint becomes a file.
    pub directory: Option<PathBuf>,
    /// Public keys that signed before this one.
    pub retired_keys: Vec<String>,
    /// How often is looked for what is due.
    pub poll_milliseconds: u64,
    /// How long a node keeps signing to itself.
    pub lease_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            origin: None,
            every_events: 1_000,
            every_seconds: 60,
            post_to: None,
            directory: None,
            retired_keys: vec![],
            poll_milliseconds: 1_000,
            lease_seconds: 30,
        }
    }
}

impl Config {
    /// Returns everything that is wrong with the section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        let mut check = |ok: bool, problem: &str| {
            if !ok {
                problems.push(format!("checkpoints.{problem}"));
            }
        };
        check((1..=100_000).contains(&self.every_events), "every_events must be 1 to 100000");
        check((1..=86_400).contains(&self.every_seconds), "every_seconds must be 1 to 86400");
        check((10..=60_000).contains(&self.poll_milliseconds), "poll_milliseconds must be 10 to 60000");
        let polls = u64::from(self.lease_seconds) * 1_000 >= 3 * self.poll_milliseconds;
        check(self.lease_seconds <= 3_600 && polls, "lease_seconds must be three polls to 3600");
        if let Some(origin) = &self.origin
            && let Err(e) = SigningKey::new(&[0; 32], origin)
        {
            problems.push(format!("checkpoints.origin: {e}"));
        }
        for key in &self.retired_keys {
            if let Err(e) = key.parse::<VerifyingKey>() {
                problems.push(format!("checkpoints.retired_keys: {e}"));
            }
        }
        if let Some(url) = &self.post_to
            && let Err(e) = Target::parse(url, &post::policy(url))
        {
            problems.push(format!("checkpoints.post_to: {e}"));
        }
        problems
    }

    /// Returns the key made of 32 random bytes, under the configured name.
    ///
    /// # Errors
    /// The name is not one.
    pub fn key(&self, seed: &[u8; 32]) -> Result<SigningKey, BadKey> {
        match &self.origin {
            Some(name) => SigningKey::new(seed, name),
            None => Ok(SigningKey::unnamed(seed)),
        }
    }

    /// Returns who signs with a key.
    ///
    /// # Errors
    /// A retired key is not one.
    pub fn signer(&self, key: SigningKey) -> Result<Signer, BadKey> {
        let retired = self.retired_keys.iter().map(|key| key.parse()).collect::<Result<_, _>>()?;
        let posts = self.post_to.is_some() || self.directory.is_some();
        Ok(Signer { key, retired, every_events: self.every_events, posts })
    }
}

/// What a [`Keeper`] works with.
pub struct Parts {
    /// The truth.
    pub log: EventLog,
    /// Which node signs. It saves work and nothing else; two nodes that sign at once write parts of one tree.
    pub duty: Duty,
    /// Who signs.
    pub signer: Signer,
    /// Where checkpoints are posted.
    pub places: Places,
    /// Time.
    pub allot: Allot,
    /// How often.
    pub config: Config,
}

/// A team with events that no checkpoint covers.
#[derive(Debug, Clone, Copy)]
struct Pending {
    due_at: Instant,
    /// Where the log was when it was first heard of: no checkpoint covers less.
    base: Position,
    head: Position,
}

/// Signs and posts checkpoints. See the module.
pub struct Keeper {
    parts: Parts,
    pending: HashMap<TeamId, Pending>,
    /// Until when the lease need not be prolonged; `None` without it.
    renew_at: Option<Instant>,
    /// Whether all teams were looked at since this node took the lease and missed no hint.
    swept: bool,
    post_at: Instant,
    post_pause: Duration,
}

impl Keeper {
    /// Returns a keeper.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let (pending, post_at) = (HashMap::new(), Instant::now());
        Self { parts, pending, renew_at: None, swept: false, post_at, post_pause: POST_AGAIN.0 }
    }

    /// Works until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        self.work(&stop).await;
        if let Err(error) = self.parts.duty.give_back().await {
            tracing::warn!(%error, "the lease of checkpoints could not be given back; it ends by itself");
        }
    }

    /// What is being written when the program stops is finished: half a transaction would be in everybody's way.
    async fn work(&mut self, stop: &CancellationToken) {
        let mut hints = self.parts.log.wake().all();
        let mut ticks = interval(Duration::from_millis(self.parts.config.poll_milliseconds));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                hint = hints.next() => match hint {
                    Some(Hint { team, head, .. }) => self.note(team, head),
                    None => self.swept = false,
                },
                _ = ticks.tick() => if let Err(error) = self.turn(stop).await {
                    tracing::warn!(%error, "checkpoints could not be made; trying again");
                },
            }
        }
    }

    fn note(&mut self, team: TeamId, head: Position) {
        if !self.swept {
            // Another node signs, or all teams are looked at anyway.
            return;
        }
        let due_at = Instant::now() + Duration::from_secs(self.parts.config.every_seconds.into());
        let pending = self.pending.entry(team).or_insert(Pending { due_at, base: head.saturating_sub(1), head });
        pending.head = pending.head.max(head);
    }

    /// Takes the lease, or prolongs it at a third of its time; returns whether this node has it.
    async fn holds_lease(&mut self) -> Result<bool, projections::Error> {
        let Parts { duty, allot, config, .. } = &self.parts;
        let (begun, now) = (Instant::now(), allot.now());
        if self.renew_at.is_some_and(|at| begun < at) {
            return Ok(true);
        }
        self.renew_at = None;
        let held = duty.hold(now, now.saturating_add(i64::from(config.lease_seconds) * 1_000_000)).await?;
        self.renew_at = held.map(|_| begun + Duration::from_secs(config.lease_seconds.into()) / 3);
        Ok(held.is_some())
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Result<(), Unready> {
        if !self.holds_lease().await? {
            self.pending.clear();
            self.swept = false;
            return Ok(());
        }
        if !self.swept {
            self.sweep().await?;
            self.swept = true;
        }
        self.sign_due(stop).await?;
        if self.parts.places.any() && Instant::now() >= self.post_at {
            self.post_due(stop).await?;
        }
        Ok(())
    }

    /// Finds the teams with unsigned events, all of them.
    async fn sweep(&mut self) -> Result<(), Unready> {
        let (mut after, due_at) = (None, Instant::now());
        loop {
            let page = self.parts.log.signed(after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|signed| signed.team.clone());
            for signed in page.into_iter().filter(|signed| signed.size < signed.head) {
                // Nobody knows for how long.
                self.pending.insert(signed.team, Pending { due_at, base: signed.size, head: signed.head });
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Signs whatever is due, a few teams to a transaction.
    async fn sign_due(&mut self, stop: &CancellationToken) -> Result<(), Unready> {
        loop {
            let now = Instant::now();
            let every = self.parts.config.every_events;
            let due = |p: &Pending| now >= p.due_at || p.head.saturating_sub(p.base) >= every;
            let teams: Vec<(TeamId, Pending)> = self
                .pending
                .iter()
                .filter(|(_, p)| due(p))
                .take(TEAMS_PER_WRITE)
                .map(|(team, pending)| (team.clone(), *pending))
                .collect();
            if teams.is_empty() {
                return Ok(());
            }
            let is_last = teams.len() < TEAMS_PER_WRITE;
            let mut growths = vec![];
            for (team, pending) in teams {
                growths.extend(self.sign(team, pending, now >= pending.due_at).await);
            }
            self.parts.log.keep_growth(&growths).await?;
            growths.iter().for_each(|growth| self.note_signed(growth));
            let signed: usize = growths.iter().map(|growth| growth.checkpoints.len()).sum();
            metrics::counter!("checkpoints_signed_total").increment(u64::try_from(signed).unwrap_or(u64::MAX));
            // The rest of a long log is signed with the next turn, so that nobody else waits for it.
            if is_last || stop.is_cancelled() || !self.holds_lease().await? {
                return Ok(());
            }
        }
    }

    async fn sign(&mut self, team: TeamId, pending: Pending, up_to_head: bool) -> Option<Growth> {
        let Parts { log, signer, allot, config, .. } = &self.parts;
        let later = Pending { due_at: Instant::now() + Duration::from_secs(config.every_seconds.into()), ..pending };
        match log.sign_growth(&team, signer, allot.now(), up_to_head).await {
            Ok(Some(growth)) => return Some(growth),
            Ok(None) if up_to_head => drop(self.pending.remove(&team)),
            // A checkpoint that this node did not make lies between.
            Ok(None) => match log.last_checkpoint(&team).await {
                Ok(last) => {
                    let base = last.map_or(0, |last| last.size);
                    self.pending.insert(team, Pending { base, ..pending });
                }
                Err(_) => drop(self.pending.insert(team, Pending { base: later.head, ..later })),
            },
            Err(SignError::Refused(refusal)) => {
                metrics::counter!("checkpoints_refused_total").increment(1);
                tracing::error!(team.id = %team, error = %refusal, "no checkpoint is signed: see what `postlog verify` says");
                self.pending.insert(team, Pending { base: later.head, ..later });
            }
            Err(SignError::Log(error)) => {
                tracing::warn!(team.id = %team, %error, "a checkpoint could not be made; trying again");
                self.pending.insert(team, Pending { base: later.head, ..later });
            }
        }
        None
    }

    fn note_signed(&mut self, growth: &Growth) {
        let Some(last) = growth.checkpoints.last() else { return };
        let Some(pending) = self.pending.get_mut(&growth.team) else { return };
        pending.base = last.size;
        if last.size >= pending.head {
            self.pending.remove(&growth.team);
        }
    }

    /// Posts what was not posted yet, oldest first.
    async fn post_due(&mut self, stop: &CancellationToken) -> Result<(), Unready> {
        loop {
            let rows = self.parts.log.unposted(POSTS_PER_MARK).await?;
            let (mut posted, mut failed) = (vec![], None);
            for (team, row) in rows.iter().take_while(|_| !stop.is_cancelled()) {
                match self.parts.places.tell(team, row).await {
                    Ok(()) => posted.push((team.clone(), row.size)),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            if !posted.is_empty() {
                self.parts.log.mark_posted(&posted).await?;
                self.post_pause = POST_AGAIN.0;
            }
            let count = u64::try_from(posted.len()).unwrap_or(u64::MAX);
            metrics::counter!("checkpoint_posts_total", "outcome" => "kept").increment(count);
            if let Some(error) = failed {
                metrics::counter!("checkpoint_posts_total", "outcome" => "failed").increment(1);
                let again_seconds = self.post_pause.as_secs();
                tracing::warn!(%error, again_seconds, "a checkpoint could not be posted; trying again");
                self.post_at = Instant::now() + self.post_pause;
                self.post_pause = (self.post_pause * 2).min(POST_AGAIN.1);
                return Ok(());
            }
            if rows.len() < POSTS_PER_MARK || stop.is_cancelled() || !self.holds_lease().await? {
                return Ok(());
            }
        }
    }
}

/// A turn could not be finished.
#[derive(Debug, thiserror::Error)]
enum Unready {
    /// The work database does not answer.
    #[error(transparent)]
    Work(#[from] projections::Error),
    /// The log does not answer.
    #[error(transparent)]
    Log(#[from] LogError),
}
