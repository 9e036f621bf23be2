//! One try at a batch: the commands decided in order on folds that the batch itself evolves.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use domain::id::{Position, TeamId};
use domain::{Event, StreamId};

use super::Working;
use super::job::{Failure, Job, empty};
use crate::backend::{AnswerKey, AnswerRow, Batch, Head};
use crate::chain;
use crate::directory::{Change, DirectoryEntry, DirectoryKey, change};
use crate::fold_cache::{Known, Moved};
use crate::log::Shared;
use crate::record::{PersonalHalf, Recorded, StoredPersonal, StoredRecord};
use crate::transact::{ANSWER_MICROS, Answer};

/// What a job of a batch has come to.
pub(super) enum Fate {
    Rejected,
    Failed(Failure),
    Repeat(Answer),
    Decided,
}

/// What the store's directory says of keys that were looked up; a key that is not in here was not looked up yet.
pub(super) type Directory = BTreeMap<DirectoryKey, Option<DirectoryEntry>>;

pub(super) struct Attempt {
    /// Where each team's log ends: before the batch, and after what was decided so far.
    heads: HashMap<TeamId, (Known, Head)>,
    working: Working,
    touched: HashSet<(TeamId, StreamId)>,
    /// Streams that events are recorded in though no command named them: they must be read before anything is written.
    pub(super) needed: BTreeSet<(TeamId, StreamId)>,
    /// Streams that were linked to though no command named them: cached folds of them are dropped rather than loaded.
    stale: Vec<(TeamId, StreamId)>,
    /// Directory keys that were claimed without knowing whether the store has them.
    pub(super) unknown: BTreeSet<DirectoryKey>,
    /// Directory keys as the batch leaves them.
    claimed: BTreeMap<DirectoryKey, DirectoryEntry>,
    /// Entities whose stored directory rows the batch drops.
    released: BTreeSet<(TeamId, String)>,
    pub(super) fates: Vec<Fate>,
    pub(super) batch: Batch,
    /// Answers given within this batch: a repetition may sit right behind its original.
    given: HashMap<AnswerKey, ([u8; 32], Answer)>,
    /// Teams of which something was decided that appends nothing.
    silent: BTreeSet<TeamId>,
    trust_fresh: bool,
}

impl Attempt {
    pub(super) fn new(heads: &HashMap<TeamId, Known>, working: Working, trust_fresh: bool) -> Self {
        Self {
            heads: heads.iter().map(|(team, known)| (team.clone(), (*known, known.head))).collect(),
            working,
            touched: HashSet::new(),
            needed: BTreeSet::new(),
            stale: vec![],
            unknown: BTreeSet::new(),
            claimed: BTreeMap::new(),
            released: BTreeSet::new(),
            fates: vec![],
            batch: Batch::default(),
            given: HashMap::new(),
            silent: BTreeSet::new(),
            trust_fresh,
        }
    }

    /// Returns the teams of which something was decided that no append will prove right.
    pub(super) fn unproven(&self) -> Vec<TeamId> {
        let still =
            |team: &&TeamId| self.heads.get(*team).is_none_or(|(from, head)| from.head.position == head.position);
        self.silent.iter().filter(still).cloned().collect()
    }

    /// Returns the position a team's decisions started from.
    pub(super) fn decided_at(&self, team: &TeamId) -> Position {
        self.heads.get(team).map_or(0, |(from, _)| from.head.position)
    }

    /// Takes out what the batch did to the folds, by team.
    pub(super) fn moved(&mut self) -> HashMap<TeamId, (Known, Moved)> {
        let mut moved: HashMap<_, _> =
            self.heads.iter().map(|(team, (from, _))| (team.clone(), (*from, Moved::default()))).collect();
        for ((team, stream), fold) in std::mem::take(&mut self.working) {
            let key = (team, stream);
            if self.touched.contains(&key)
                && let Some((_, moved)) = moved.get_mut(&key.0)
            {
                moved.changed.push((key.1, fold));
            }
        }
        for (team, stream) in std::mem::take(&mut self.stale) {
            if let Some((_, moved)) = moved.get_mut(&team) {
                moved.stale.push(stream);
            }
        }
        moved
    }

    pub(super) fn decide_one(
        &mut self,
        shared: &Shared,
        job: &mut dyn Job,
        answers: &HashMap<AnswerKey, AnswerRow>,
        directory: &Directory,
    ) -> Fate {
        let answer_key = job.answer_key();
        if let Some((key, fingerprint)) = &answer_key
            && let Some(fate) = self.earlier_answer(shared, key, fingerprint, answers, job.now())
        {
            return fate;
        }
        let Ok(events) = job.decide(&self.working) else {
            self.silent.insert(job.team().clone());
            return Fate::Rejected;
        };
        if let Err(taken) = self.change_directory(job.team(), &events, directory) {
            self.silent.insert(job.team().clone());
            return Fate::Failed(Failure::Taken(taken));
        }
        let records: Vec<_> = events.into_iter().filter_map(|event| self.record(shared, job, event)).collect();
        if records.is_empty() {
            self.silent.insert(job.team().clone());
        } else {
            // A wish that was fulfilled already brings its secrets and bodies again: they are stored.
            job.extras(shared, &mut self.batch);
        }
        let head = self.heads.get(job.team()).map_or(Head::empty(1), |(_, head)| *head);
        let answer = job.prepare(records, head, &self.working);
        self.batch.at = self.batch.at.max(job.now());
        if let (Some((key, fingerprint)), Some(answer)) = (answer_key, answer) {
            self.keep_answer(shared, key, fingerprint, answer, job.now());
        }
        Fate::Decided
    }

    /// Applies what a command's events do to the directory, in their order; nothing of it if a key is taken.
    fn change_directory(&mut self, team: &TeamId, events: &[Event], directory: &Directory) -> Result<(), DirectoryKey> {
        let changes: Vec<_> = events.iter().filter_map(change).collect();
        for (i, change) in changes.iter().enumerate() {
            let Change::Claim(key, _) = change else { continue };
            let frees = |entry: &DirectoryEntry| {
                changes[..i].iter().any(
                    |c| matches!(c, Change::Release(id) if entry.team == *team && entry.target.id() == id.as_str()),
                )
            };
            let stored = || match directory.get(key) {
                Some(found) => found
                    .as_ref()
                    .filter(|entry| !self.released.contains(&(entry.team.clone(), entry.target.id().to_owned()))),
                None => None,
            };
            let own = changes[..i].iter().any(|c| matches!(c, Change::Claim(k, _) if k == key));
            if own || self.claimed.get(key).or_else(stored).is_some_and(|entry| !frees(entry)) {
                return Err(key.clone());
            }
        }
        for change in changes {
            match change {
                Change::Claim(key, target) => {
                    if !directory.contains_key(&key) {
                        self.unknown.insert(key.clone());
                    }
                    self.claimed.insert(key, DirectoryEntry { team: team.clone(), target });
                }
                Change::Release(id) => {
                    // What the batch itself claimed never gets to the store.
                    self.claimed.retain(|_, entry| entry.team != *team || entry.target.id() != id);
                    self.released.insert((team.clone(), id));
                }
            }
        }
        Ok(())
    }

    /// Returns the fate of a request that was made before; `None` if it was not.
    fn earlier_answer(
        &mut self,
        shared: &Shared,
        key: &AnswerKey,
        fingerprint: &[u8; 32],
        answers: &HashMap<AnswerKey, AnswerRow>,
        now: i64,
    ) -> Option<Fate> {
        if let Some((given_fingerprint, answer)) = self.given.get(key) {
            return Some(if given_fingerprint == fingerprint {
                Fate::Repeat(answer.clone())
            } else {
                Fate::Failed(Failure::IdempotencyMismatch)
            });
        }
        let row = answers.get(key)?;
        if row.created_at <= now - ANSWER_MICROS {
            self.batch.expired_answers.push(key.clone());
            return None;
        }
        if row.fingerprint != *fingerprint {
            return Some(Fate::Failed(Failure::IdempotencyMismatch));
        }
        let answer = shared
            .master_key
            .open(&key.team, &key.key, "answer", &row.sealed)
            .map_err(|e| e.to_string())
            .and_then(|clear| serde_json::from_slice(clear.expose()).map_err(|e| e.to_string()));
        Some(match answer {
            Ok(answer) => Fate::Repeat(answer),
            Err(why) => Fate::Failed(Failure::Unavailable(format!("a stored answer cannot be read: {why}"))),
        })
    }

    fn keep_answer(&mut self, shared: &Shared, key: AnswerKey, fingerprint: [u8; 32], answer: Answer, now: i64) {
        // Answers may hold a secret that is shown once, so they are sealed like secrets.
        let clear = serde_json::to_vec(&answer).expect("an answer is plain data");
        let sealed = shared.master_key.seal(shared.random(), &key.team, &key.key, "answer", &clear);
        let status = i64::from(answer.status);
        self.batch.answers.push(AnswerRow { key: key.clone(), fingerprint, status, sealed, created_at: now });
        self.given.insert(key, (fingerprint, answer));
    }

    /// Evolves the folds that read an event; returns its stream and the stream's version after it.
    fn evolve(&mut self, job: &dyn Job, event: &Event) -> Option<(StreamId, u64, Vec<StreamId>)> {
        let stream = event.stream()?;
        let links = event.links();
        let mut stream_version = 1;
        for of in std::iter::once(&stream).chain(&links) {
            let key = (job.team().clone(), of.clone());
            let is_own = *of == stream;
            let fold = match self.working.entry(key.clone()) {
                Entry::Occupied(fold) => fold.into_mut(),
                Entry::Vacant(slot) if is_own => {
                    if !self.trust_fresh || !job.is_fresh(of) {
                        self.needed.insert(key.clone());
                    }
                    slot.insert(empty(of))
                }
                Entry::Vacant(_) => {
                    self.stale.push(key);
                    continue;
                }
            };
            Arc::make_mut(&mut fold.state).evolve(event);
            if is_own {
                fold.version += 1;
                stream_version = fold.version;
            }
            self.touched.insert(key);
        }
        Some((stream, stream_version, links))
    }

    /// Puts an event into its place: position, stream version, chain. Events of unknown kinds are never written.
    fn record(&mut self, shared: &Shared, job: &dyn Job, event: Event) -> Option<Recorded> {
        let (stream, stream_version, links) = self.evolve(job, &event)?;
        let team = job.team().clone();
        let (_, head) = self.heads.get_mut(&team)?;
        let position: Position = head.position + 1;
        let encoded = event.encode();
        let left_out = shared.failpoints.left_out();
        let (facts, personal) = match left_out.personal_half {
            true => (undivided(encoded.facts, encoded.personal.as_deref()), None),
            false => (encoded.facts, personal_half(shared, encoded.personal.as_deref(), job.client_ip())),
        };
        let mut record = StoredRecord {
            team: team.clone(),
            position,
            epoch: head.epoch,
            stream: stream.to_string(),
            stream_version,
            name: encoded.name,
            version: encoded.version,
            facts,
            personal_digest: personal.as_ref().map(chain::personal_digest),
            personal,
            actor: String::new(),
            causation: None,
            correlation: String::new(),
            at: 0,
            hash: chain::GENESIS,
        };
        job.sign(&mut record);
        if !left_out.chain {
            record.hash = chain::hash(&head.hash, &record);
        }
        *head = Head { epoch: head.epoch, position, hash: record.hash };
        self.batch.links.extend(links.into_iter().map(|link| (team.clone(), link.to_string(), position)));
        let recorded = Recorded {
            team,
            position,
            epoch: record.epoch,
            stream: Some(stream),
            stream_version,
            event,
            actor: record.actor.clone(),
            causation: record.causation.clone(),
            correlation: record.correlation.clone(),
            client_ip: job.client_ip(),
            at: record.at,
            hash: record.hash,
        };
        self.batch.records.push(record);
        Some(recorded)
    }

    /// Completes the batch once every command is decided.
    pub(super) fn seal(&mut self) {
        let moved = self.heads.iter().filter(|(_, (from, head))| head.position != from.head.position);
        self.batch.heads = moved.map(|(team, (_, head))| (team.clone(), *head)).collect();
        // Writers that take row locks take them in one order, so that no two wait for each other.
        self.batch.heads.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.batch.claims = std::mem::take(&mut self.claimed).into_iter().collect();
        self.batch.releases = std::mem::take(&mut self.released).into_iter().collect();
    }
}

/// Puts a personal half among the facts, as a bench writes it that leaves the division out.
fn undivided(mut facts: String, personal: Option<&str>) -> String {
    if let (Some(personal), Some('}')) = (personal, facts.pop()) {
        facts.push_str(",\"personal\":");
        facts.push_str(personal);
    }
    facts.push('}');
    facts
}

fn personal_half(shared: &Shared, event: Option<&str>, client_ip: Option<String>) -> Option<StoredPersonal> {
    if event.is_none() && client_ip.is_none() {
        return None;
    }
    let event = event.map(|json| {
        serde_json::from_str::<&serde_json::value::RawValue>(json).expect("an encoded personal half is valid JSON")
    });
    let json = serde_json::to_string(&PersonalHalf { event, client_ip }).expect("a personal half is plain data");
    Some(StoredPersonal { salt: shared.random(), json })
}
