//! The two halves of every event: facts that stay for ever, and what identifies a person.
//!
//! Facts are immutable and contain no personal data. The personal half (addresses, names, subjects,
//! snippets) is stored apart and can be erased later without breaking the hash chain, because the chain
//! covers only a salted digest of it.

use serde::{Deserialize, Serialize};

/// The personal half of an event: known, or erased on request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Personal<P> {
    /// Still stored.
    Known(P),
    /// Erased; only the salted digest remains in the chain.
    #[default]
    Erased,
}

impl<P> Personal<P> {
    /// Returns the personal half, or `None` after erasure.
    pub fn known(&self) -> Option<&P> {
        match self {
            Self::Known(p) => Some(p),
            Self::Erased => None,
        }
    }
}

/// The personal half of events that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nothing {}

/// One event's payload: facts `F` and personal half `P`.
///
/// Dereferences to the facts, since most readers need only those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halves<F, P = Nothing> {
    /// Immutable, hashed as stored, free of personal data.
    pub facts: F,
    /// Erasable.
    pub personal: Personal<P>,
}

impl<F, P> Halves<F, P> {
    /// Returns an event payload with both halves known.
    pub fn new(facts: F, personal: P) -> Self {
        Self { facts, personal: Personal::Known(personal) }
    }
}

impl<F> From<F> for Halves<F, Nothing> {
    fn from(facts: F) -> Self {
        Self { facts, personal: Personal::Known(Nothing {}) }
    }
}

impl<F, P> std::ops::Deref for Halves<F, P> {
    type Target = F;
    fn deref(&self) -> &F {
        &self.facts
    }
}
