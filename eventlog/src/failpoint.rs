//! Places on the way of an append where a test can make it fail. Without the feature `failpoints` they are nothing.

use crate::backend::AppendError;

/// A place on the way of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The lane has taken a batch.
    LaneBeforeDecide,
    /// The batch is decided and not yet handed to the store.
    LaneBeforeAppend,
    /// The store has the batch; nobody was told yet.
    LaneAfterAppend,
    /// SQLite: before statement `n` of the transaction, `BEGIN` and `COMMIT` included.
    Statement(usize),
    /// SQLite: after `COMMIT`.
    AfterCommit,
}

/// What happens at a failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step fails.
    Error,
    /// The task panics.
    Panic,
    /// The process dies on the spot.
    Abort,
    /// The disk does not take the flush.
    Flush,
}

/// What a bench leaves out of an append, to see what it costs. A log that was written so does not verify.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Records are not chained: their hash is zero.
    pub chain: bool,
    /// What identifies people is written among the facts, and has no digest.
    pub personal_half: bool,
}

/// Failpoints of one log or store: at most one is armed, and it fires once. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Failpoints {
    #[cfg(feature = "failpoints")]
    armed: std::sync::Arc<std::sync::Mutex<Option<(Point, Fault)>>>,
    #[cfg(feature = "failpoints")]
    observer: Option<Observer>,
    #[cfg(feature = "failpoints")]
    left_out: LeftOut,
}

/// Is told of every point that is passed.
#[cfg(feature = "failpoints")]
#[derive(Clone)]
struct Observer(std::sync::Arc<dyn Fn(Point) + Send + Sync>);

#[cfg(feature = "failpoints")]
impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

#[cfg(feature = "failpoints")]
impl Failpoints {
    fn armed(&self) -> std::sync::MutexGuard<'_, Option<(Point, Fault)>> {
        self.armed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes a point fail the next time it is passed.
    pub fn arm(&self, point: Point, fault: Fault) {
        *self.armed() = Some((point, fault));
    }

    /// Returns failpoints that tell a function of every point that is passed, and pass it when the function returns.
    #[must_use]
    pub fn observed(observer: impl Fn(Point) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Observer(std::sync::Arc::new(observer))), ..Self::default() }
    }

    /// Returns failpoints that leave something out of every append.
    #[must_use]
    pub fn leaving_out(left_out: LeftOut) -> Self {
        Self { left_out, ..Self::default() }
    }

    pub(crate) fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Returns whether the armed point has not fired yet.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed().is_some()
    }

    /// Returns whether each statement is passed by itself.
    pub(crate) fn goes_step_by_step(&self) -> bool {
        self.is_armed() || self.observer.is_some()
    }

    pub(crate) fn hit(&self, point: Point) -> Result<(), AppendError> {
        if let Some(Observer(observer)) = &self.observer {
            observer(point);
        }
        let fault = self.armed().take_if(|(armed, _)| *armed == point);
        match fault {
            None => Ok(()),
            Some((_, Fault::Error)) => Err(AppendError::Unavailable(format!("failpoint {point:?}"))),
            Some((_, Fault::Panic)) => panic!("failpoint {point:?}"),
            Some((_, Fault::Abort)) => std::process::abort(),
            Some((_, Fault::Flush)) => Err(AppendError::Flush(format!("failpoint {point:?}"))),
        }
    }
}

#[cfg(not(feature = "failpoints"))]
impl Failpoints {
    pub(crate) fn left_out(&self) -> LeftOut {
        LeftOut::default()
    }

    pub(crate) fn goes_step_by_step(&self) -> bool {
        false
    }

    pub(crate) fn hit(&self, _: Point) -> Result<(), AppendError> {
        Ok(())
    }
}
