//! Making way for those who append.
//!
//! A rebuild has the night, a writer has somebody waiting. So the folding rests in proportion to its work and to how many
//! events are appended meanwhile, in whatever process: on an idle log not at all, on a busy one most of the time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use eventlog::EventLog;
use tokio::time::Instant;

/// How often the log is asked how far it has come.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How soon it is asked for the second time, so that the first work is followed by a rest already.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// At how many appended events a second a rest is as long as the work before it.
const EVEN_AT: f64 = 500.0;
/// The longest rest, in lengths of the work before it: with two shadows on two cores a busy log keeps nine tenths of them.
const REST_MAX: f64 = 9.0;

/// How busy the writers are. See the module.
pub(super) struct Pace {
    log: EventLog,
    load: Mutex<Load>,
}

#[derive(Clone, Copy, Default)]
struct Load {
    /// When the log was asked last, and how many events it had.
    asked: Option<(Instant, u64)>,
    /// `None` before it was asked twice.
    events_per_second: Option<f64>,
}

impl Pace {
    pub(super) async fn begin(log: &EventLog) -> Self {
        let pace = Self { log: log.clone(), load: Mutex::default() };
        pace.load().await;
        pace
    }

    /// Rests after work of a given length.
    pub(super) async fn rest(&self, worked: Duration) {
        let mut rested = Duration::ZERO;
        loop {
            let rest = worked.mul_f64((self.load().await / EVEN_AT).min(REST_MAX));
            if rest <= rested {
                return;
            }
            let next = (rest - rested).min(ASK_EVERY);
            tokio::time::sleep(next).await;
            rested += next;
        }
    }

    async fn load(&self) -> f64 {
        let now = Instant::now();
        let known = *self.lock();
        let (rate, next) = known.events_per_second.map_or((0.0, ASK_AGAIN), |rate| (rate, ASK_EVERY));
        if known.asked.is_some_and(|(at, _)| now < at + next) {
            return rate;
        }
        // If it does not answer, whoever reads it next says so.
        let Ok(appended) = self.log.appended().await else { return rate };
        let now = Instant::now();
        let mut load = self.lock();
        if let Some((at, before)) = known.asked {
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
            let grown = appended.saturating_sub(before) as f64;
            load.events_per_second = Some(grown / (now - at).as_secs_f64().max(0.001));
        }
        load.asked = Some((now, appended));
        load.events_per_second.unwrap_or(0.0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
