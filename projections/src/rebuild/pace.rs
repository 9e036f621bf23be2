//! Making way for those who append.
//!
//! A rebuild has the night, a writer has somebody waiting. So the folding rests in proportion to its work and to how many
//! events are appended meanwhile, in whatever process: on an idle log not at all, on a busy one most of the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use eventlog::EventLog;
use tokio::time::Instant;

/// How often the log is asked how far it has come.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How soon it is asked for the second time, before any work is done.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// From how many appended events a second on somebody is kept waiting.
const BUSY_AT: f64 = 50.0;
/// At how many appended events a second a rest is as long as the work before it.
const EVEN_AT: f64 = 500.0;
/// The longest rest, in lengths of the work before it: with three shadows on two cores a busy log keeps most of them.
const REST_MAX: f64 = 9.0;

/// How busy the writers are. See the module.
pub(super) struct Pace {
    log: EventLog,
    load: Mutex<Load>,
    hurries: AtomicBool,
}

#[derive(Clone, Copy, Default)]
struct Load {
    /// When the log was asked last, and how many events it had.
    asked: Option<(Instant, u64)>,
    events_per_second: f64,
}

impl Pace {
    /// Returns the pace of work that is about to begin.
    pub(super) async fn begin(log: &EventLog) -> Self {
        let pace = Self { log: log.clone(), load: Mutex::default(), hurries: AtomicBool::new(false) };
        pace.ask().await;
        tokio::time::sleep(ASK_AGAIN).await;
        pace.ask().await;
        pace
    }

    /// Says whether to go on without rests. What was appended during the work is caught up with in a hurry: at the pace of
    /// the rest, a busy log might never be.
    pub(super) fn hurry(&self, yes: bool) {
        self.hurries.store(yes, Ordering::Relaxed);
    }

    /// Returns whether somebody appends, who should not wait for a long piece of work.
    pub(super) async fn is_busy(&self) -> bool {
        !self.hurries.load(Ordering::Relaxed) && self.load().await >= BUSY_AT
    }

    /// Rests after work of a given length.
    pub(super) async fn rest(&self, worked: Duration) {
        let mut rested = Duration::ZERO;
        loop {
            let rest = worked.mul_f64((self.load().await / EVEN_AT).min(REST_MAX));
            if rest <= rested || self.hurries.load(Ordering::Relaxed) {
                return;
            }
            let next = (rest - rested).min(ASK_EVERY);
            tokio::time::sleep(next).await;
            rested += next;
        }
    }

    /// Returns how many events are appended a second.
    async fn load(&self) -> f64 {
        let known = *self.lock();
        match known.asked {
            Some((at, _)) if Instant::now() < at + ASK_EVERY => known.events_per_second,
            _ => self.ask().await,
        }
    }

    async fn ask(&self) -> f64 {
        let known = *self.lock();
        // If it does not answer, whoever reads it next says so.
        let Ok(appended) = self.log.appended().await else { return known.events_per_second };
        let now = Instant::now();
        let mut load = self.lock();
        if let Some((at, before)) = known.asked {
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
            let grown = appended.saturating_sub(before) as f64;
            load.events_per_second = grown / (now - at).as_secs_f64().max(0.001);
        }
        load.asked = Some((now, appended));
        load.events_per_second
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
