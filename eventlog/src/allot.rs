//! Time and randomness, as one handle that the program hands out: tests and simulations bring their own.

use std::sync::Arc;

use crate::log::Entropy;

/// Hands out the time and random bytes. Cheap to clone.
#[derive(Clone)]
pub struct Allot {
    clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    entropy: Entropy,
}

impl std::fmt::Debug for Allot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Allot")
    }
}

impl Allot {
    /// Returns a handle over a clock (microseconds since the Unix epoch, UTC) and a source of random bytes.
    pub fn new(clock: impl Fn() -> i64 + Send + Sync + 'static, entropy: Entropy) -> Self {
        Self { clock: Arc::new(clock), entropy }
    }

    /// Returns a handle over the machine's clock and its secure random source.
    #[must_use]
    pub fn system() -> Self {
        use rand::Rng as _;
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        };
        Self::new(now, Arc::new(|bytes: &mut [u8]| rand::rng().fill_bytes(bytes)))
    }

    /// Returns the time, microseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> i64 {
        (self.clock)()
    }

    /// Returns random bytes. Ids are made like `MailboxId::new(allot.now(), allot.random())`.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.entropy)(&mut bytes);
        bytes
    }

    /// Returns the source of random bytes.
    #[must_use]
    pub fn entropy(&self) -> Entropy {
        Arc::clone(&self.entropy)
    }
}
