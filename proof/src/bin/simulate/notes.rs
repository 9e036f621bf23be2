//! What happened, in order: a digest that tells two runs apart, and the lines themselves when somebody reads them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
struct Kept {
    digest: DefaultHasher,
    count: u64,
    lines: Option<Vec<String>>,
}

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub struct Notes {
    kept: Arc<Mutex<Kept>>,
}

impl Notes {
    /// Returns notes that keep their lines, or only their digest.
    pub fn new(keeps_lines: bool) -> Self {
        let kept = Kept { lines: keeps_lines.then(Vec::new), ..Kept::default() };
        Self { kept: Arc::new(Mutex::new(kept)) }
    }

    /// Notes something that happens now.
    pub fn add(&self, line: impl FnOnce() -> String) {
        let line = format!("{:>9.3} {}", crate::line::now().as_secs_f64(), line());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        line.hash(&mut kept.digest);
        kept.count += 1;
        if let Some(lines) = &mut kept.lines {
            lines.push(line);
        }
    }

    /// Returns the digest of all that was noted, and how much that was.
    pub fn digest(&self) -> (u64, u64) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.digest.finish(), kept.count)
    }

    /// Returns the lines, if they are kept.
    pub fn lines(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).lines.clone().unwrap_or_default()
    }
}
