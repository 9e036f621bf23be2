//! How a handler writes: one command, one answer, and then the read models are waited for.

use std::sync::Arc;
use std::time::Duration;

use domain::Command;
use domain::id::{Position, TeamId};
use eventlog::{Appended, Idempotency, Outcome, Submission};
use serde::Serialize;

use crate::App;
use crate::auth::Call;
use crate::envelope::Reply;
use crate::problem::Problem;

impl App {
    /// Carries out a command and answers; under an idempotency key the answer is kept with the events, and a repetition
    /// gets it again.
    ///
    /// Waits, bounded, until the read models have what was written, so that a read that follows agrees. Should they be
    /// late, the answer is given all the same: the fact stands.
    ///
    /// # Errors
    /// The command is refused or the log is not available.
    pub(crate) async fn submit<C, B>(
        &self,
        call: &Call,
        submission: Submission<C>,
        idempotency: Option<Idempotency>,
        reply: impl Fn(&Appended<C::State>) -> Reply<B> + Send + Sync + 'static,
    ) -> Result<Reply<B>, Problem>
    where
        C: Command,
        B: Serialize,
        Problem: From<C::Rejected>,
    {
        let Some(idempotency) = idempotency else {
            return Ok(reply(&self.append(call, submission).await?));
        };
        let reply = Arc::new(reply);
        let (render, request) = (Arc::clone(&reply), call.request.clone());
        let submission =
            submission.idempotent(idempotency, move |appended| render(appended).to_answer(request.as_str()));
        match self.log.transact(submission).await? {
            Outcome::Done(appended) => {
                if let Some(last) = appended.records.last() {
                    self.caught_up(&call.caller.team, last.position).await;
                }
                Ok(reply(&appended))
            }
            Outcome::Repeated(answer) => {
                // Whoever repeats a request may never have seen its first answer, so its reads must agree too.
                if let Ok(head) = self.log.head(&call.caller.team).await {
                    self.caught_up(&call.caller.team, head.position).await;
                }
                Ok(Reply::kept(answer))
            }
        }
    }

    /// Carries out a command without an idempotency key and waits, bounded, for the read models.
    ///
    /// # Errors
    /// The command is refused or the log is not available.
    pub(crate) async fn append<C>(&self, call: &Call, submission: Submission<C>) -> Result<Appended<C::State>, Problem>
    where
        C: Command,
        Problem: From<C::Rejected>,
    {
        // A submission without a key is never a repetition.
        let appended = self.log.transact(submission).await?.done().ok_or_else(Problem::internal)?;
        if let Some(last) = appended.records.last() {
            self.caught_up(&call.caller.team, last.position).await;
        }
        Ok(appended)
    }

    /// Waits, bounded, until the read models have reached a position; returns whether they have.
    pub(crate) async fn caught_up(&self, team: &TeamId, position: Position) -> bool {
        let patience = Duration::from_millis(self.config.read_your_writes_milliseconds_max);
        if patience.is_zero() {
            return false;
        }
        let reached = self.views.wait_for(team, position, patience).await;
        if !reached {
            tracing::warn!(log.position = position, "the read models did not catch up in time");
        }
        reached
    }
}

impl From<projections::Error> for Problem {
    fn from(error: projections::Error) -> Self {
        if matches!(error, projections::Error::BadCursor) {
            return Self::invalid("cursor", "invalid_value", "the cursor is not one of this list");
        }
        if error.is_unavailable() {
            tracing::warn!(error = &error as &dyn std::error::Error, "the read models did not answer");
            return Self::unavailable();
        }
        tracing::error!(error = &error as &dyn std::error::Error, "the read models are not readable");
        Self::internal()
    }
}
