//! What is found out about an account: tests of its connection, and refusals that break it.

use super::{Broken, Event, Provider, Rejected, Said, Status, Subject, Tested, Trouble, existing};
use crate::entity::Versioned;
use crate::id::ProviderId;
use crate::personal::Halves;
use crate::{Command, Moment, StreamId};

/// Records a test of an account's connection; success mends it, a refused login breaks it.
#[derive(Debug, Clone)]
pub struct RecordProviderTest {
    /// The account.
    pub provider: ProviderId,
    /// When the test ended, microseconds since the Unix epoch.
    pub tested_at: i64,
    /// How long it took, milliseconds.
    pub latency_milliseconds: u32,
    /// What the server said.
    pub message: String,
    /// Whether it let us in, and if not, what that says about the account.
    pub result: Result<(), Option<Trouble>>,
}

impl Command for RecordProviderTest {
    type State = Versioned<Provider>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Provider(self.provider.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        if state.last_tested_at.is_some_and(|at| at >= self.tested_at) {
            return Ok(vec![]);
        }
        let facts = Tested {
            provider: self.provider.clone(),
            success: self.result.is_ok(),
            latency_milliseconds: self.latency_milliseconds,
            tested_at: self.tested_at,
        };
        let said = Said { message: self.message.clone() };
        let tested = Event::Tested(Halves::new(facts, said.clone()));
        let consequence = match self.result {
            Ok(()) if state.trouble.is_some() => {
                Some(Event::Mended(Subject { provider: self.provider.clone() }.into()))
            }
            Err(Some(trouble)) => broken(&self.provider, state, trouble, said),
            _ => None,
        };
        Ok(std::iter::once(tested).chain(consequence).map(crate::Event::Provider).collect())
    }
}

/// Records that an account cannot be used until it is mended.
#[derive(Debug, Clone)]
pub struct BreakProvider {
    /// The account.
    pub provider: ProviderId,
    /// Why.
    pub trouble: Trouble,
    /// What the server said.
    pub message: String,
}

impl Command for BreakProvider {
    type State = Versioned<Provider>;
    type Rejected = Rejected;

    fn streams(&self) -> Vec<StreamId> {
        vec![StreamId::Provider(self.provider.clone())]
    }

    fn decide(&self, state: &Self::State, _: &Moment) -> Result<Vec<crate::Event>, Rejected> {
        existing(state)?;
        let event = broken(&self.provider, state, self.trouble, Said { message: self.message.clone() });
        Ok(event.into_iter().map(crate::Event::Provider).collect())
    }
}

/// Returns the event that marks an account broken, unless it is already.
pub(crate) fn broken(provider: &ProviderId, state: &Provider, trouble: Trouble, said: Said) -> Option<Event> {
    let usable = matches!(state.status, Status::Active | Status::Inactive) && state.trouble.is_none();
    usable.then(|| Event::Broken(Halves::new(Broken { provider: provider.clone(), trouble }, said)))
}
