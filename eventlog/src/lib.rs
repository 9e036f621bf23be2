//! The truth: one append-only, hash-chained log per team, for every backend alike.
//!
//! [`EventLog`] is the handle everyone uses. It reads, it follows, and it has exactly one way to write:
//! [`EventLog::transact`], which folds the streams a command names, lets the command decide and appends its
//! events. Projections, streams, dispatch and billing are built on reading; this crate knows none of them.
//!
//! What every backend promises (each promise is a test in the conformance suite):
//! 1. Positions of a team are 1, 2, 3 … without holes; commit order is position order.
//! 2. A batch's events, answers, secrets, bodies and directory rows appear together or not at all.
//! 3. Two writers cannot both take a position: the later one gets a conflict and nothing of it is written.
//! 4. Who has seen position n can never later see a new event below n.
//! 5. Teams never meet: no read of one team returns anything of another.
//! 6. Bytes come back equal; reopening loses nothing that was answered.
//! 7. After `append` returns, its events are durable.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests may fail loudly"))]

mod allot;
mod backend;
mod blob;
mod bodies;
mod catch_up;
pub mod chain;
pub mod checkpoint;
#[cfg(feature = "conformance")]
#[expect(clippy::unwrap_used, reason = "a broken promise may fail loudly")]
pub mod conformance;
mod directory;
pub mod export;
mod failpoint;
mod fold_cache;
mod lane;
mod log;
mod memory;
pub mod merkle;
pub mod postgres;
mod record;
mod rows;
mod secret;
pub mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;
mod transact;
mod tree;
mod wake;

pub use allot::Allot;
pub use backend::{
    AnswerKey, AnswerRow, AppendError, Backend, Batch, BlobRow, Head, Hold, SecretRow, SnapshotRow, StoreError,
    StreamHistory,
};
pub use blob::{BlobStore, INLINE_BYTES_MAX, StagedBlob};
pub use bodies::{MovedBodies, Orphans};
pub use directory::{DirectoryEntry, DirectoryKey, DirectoryTarget};
pub use failpoint::{Failpoints, Fault, LeftOut, Point};
#[cfg(feature = "model")]
pub use lane::model;
pub use log::{Entropy, EventLog, LogError, Options, Resealed};
pub use memory::MemoryBackend;
pub use record::{CorruptRecord, Recorded, StoredPersonal, StoredRecord};
pub use secret::{MasterKey, SealError, SecretText};
pub use transact::{Answer, Appended, Idempotency, Outcome, Submission, TransactError};
pub use tree::{CheckpointRow, Growth, Proof, Refusal, SignError, Signed, Signer, Trees};
pub use wake::{Hint, Wake, WakeListener};
