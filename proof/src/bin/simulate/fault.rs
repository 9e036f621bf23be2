//! Mistakes that a simulation must find: a harness that cannot fail proves nothing.

/// A mistake built into the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An append is answered before it is written.
    AnsweredBeforeCommit,
    /// The answers to requests with idempotency keys are not written with their events.
    AnswersNotKept,
    /// Records are read from a copy of the store that lags.
    ReadsALaggingCopy,
    /// What a receiver refused counts as delivered.
    RefusalsTakenForSuccess,
    /// What was delivered is not written down, though the database says so.
    ResultsNotWritten,
    /// Leases end as soon as they are taken: nodes take each other's work away at any time.
    LeasesDoNotLast,
}

impl Fault {
    /// All of them, with the names they are asked for by.
    pub const ALL: [(&str, Self); 6] = [
        ("answered-before-commit", Self::AnsweredBeforeCommit),
        ("answers-not-kept", Self::AnswersNotKept),
        ("reads-a-lagging-copy", Self::ReadsALaggingCopy),
        ("refusals-taken-for-success", Self::RefusalsTakenForSuccess),
        ("results-not-written", Self::ResultsNotWritten),
        ("leases-do-not-last", Self::LeasesDoNotLast),
    ];

    /// Returns the mistake of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, fault)| fault)
    }
}
