//! The hash chain that makes a log tamper-evident.
//!
//! `hash(n) = SHA-256(tag ‖ hash(n-1) ‖ every field of record n, each with its length before it)`. The facts are
//! hashed as the bytes that are stored. Of the personal half only a salted digest is hashed, so that erasing
//! it later leaves the chain whole. The hash before the first record is 32 zero bytes.

use domain::id::{Position, TeamId};
use sha2::{Digest, Sha256};

use crate::record::{StoredPersonal, StoredRecord};

/// The hash before the first record.
pub const GENESIS: [u8; 32] = [0; 32];

const RECORD_TAG: &[u8] = b"postlog/record/1\0";
const PERSONAL_TAG: &[u8] = b"postlog/personal/1\0";

/// Returns the digest of a personal half that goes into the chain.
#[must_use]
pub fn personal_digest(personal: &StoredPersonal) -> [u8; 32] {
    Sha256::new()
        .chain_update(PERSONAL_TAG)
        .chain_update(personal.salt)
        .chain_update(personal.json.as_bytes())
        .finalize()
        .into()
}

/// Returns the hash of a record that follows one with hash `previous`. The record's own `hash` is not read.
#[must_use]
pub fn hash(previous: &[u8; 32], record: &StoredRecord) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(RECORD_TAG);
    hasher.update(previous);
    fields(record, |bytes| {
        hasher.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(bytes);
    });
    hasher.finalize().into()
}

/// Tells every field of a record that is hashed, in this order. What they are is part of the chain for ever.
pub(crate) fn fields(record: &StoredRecord, mut field: impl FnMut(&[u8])) {
    field(record.team.as_str().as_bytes());
    field(&record.epoch.to_be_bytes());
    field(&record.position.to_be_bytes());
    field(record.stream.as_bytes());
    field(&record.stream_version.to_be_bytes());
    field(record.name.as_bytes());
    field(&record.version.to_be_bytes());
    field(record.facts.as_bytes());
    field(record.personal_digest.as_ref().map_or(&[], |d| d.as_slice()));
    field(record.actor.as_bytes());
    // Nothing and an empty text are two things.
    field(&[u8::from(record.causation.is_some())]);
    field(record.causation.as_deref().unwrap_or_default().as_bytes());
    field(record.correlation.as_bytes());
    field(&record.at.to_be_bytes());
}

/// The first place where a log is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A position is missing or out of order.
    #[error("{team}: expected position {expected}, found {found}")]
    Gap {
        /// The team.
        team: TeamId,
        /// The position that should be there.
        expected: Position,
        /// What is there.
        found: Position,
    },
    /// A record's content does not give its hash.
    #[error("{team}: the record at position {position} was changed")]
    Changed {
        /// The team.
        team: TeamId,
        /// The place.
        position: Position,
    },
    /// A personal half does not give its digest.
    #[error("{team}: the personal half at position {position} was changed")]
    PersonalChanged {
        /// The team.
        team: TeamId,
        /// The place.
        position: Position,
    },
    /// The log ends before or after what its head row says, or with another hash.
    #[error("{team}: the log ends at {found}, its head says {head}")]
    Head {
        /// The team.
        team: TeamId,
        /// What the head row says.
        head: Position,
        /// Where the log ends.
        found: Position,
    },
}

/// Walks a log from its start and stops at the first record that is not what was written.
#[derive(Debug, Clone)]
pub struct Verifier {
    team: TeamId,
    position: Position,
    hash: [u8; 32],
}

impl Verifier {
    /// Returns a verifier at the start of a team's log.
    #[must_use]
    pub fn new(team: TeamId) -> Self {
        Self { team, position: 0, hash: GENESIS }
    }

    /// Returns a verifier that goes on behind a record that was verified before, as [`Verifier::verified`] said.
    #[must_use]
    pub fn resume(team: TeamId, position: Position, hash: [u8; 32]) -> Self {
        Self { team, position, hash }
    }

    /// Returns how far the walk has come: the last verified position and its hash.
    #[must_use]
    pub fn verified(&self) -> (Position, [u8; 32]) {
        (self.position, self.hash)
    }

    /// Checks the next record.
    ///
    /// # Errors
    /// The record is not what was written at this place.
    pub fn next(&mut self, record: &StoredRecord) -> Result<(), Broken> {
        let expected = self.position + 1;
        if record.position != expected || record.team != self.team {
            return Err(Broken::Gap { team: self.team.clone(), expected, found: record.position });
        }
        if record.hash != hash(&self.hash, record) {
            return Err(Broken::Changed { team: self.team.clone(), position: expected });
        }
        if record.personal.as_ref().is_some_and(|p| Some(personal_digest(p)) != record.personal_digest) {
            return Err(Broken::PersonalChanged { team: self.team.clone(), position: expected });
        }
        (self.position, self.hash) = (expected, record.hash);
        Ok(())
    }

    /// Checks that the log ends where its head row says.
    ///
    /// # Errors
    /// It does not.
    pub fn end(&self, head: &crate::Head) -> Result<(), Broken> {
        if head.position == self.position && head.hash == self.hash {
            return Ok(());
        }
        Err(Broken::Head { team: self.team.clone(), head: head.position, found: self.position })
    }
}
