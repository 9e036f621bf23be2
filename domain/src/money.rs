//! Money as an integer count of nano-dollars: sums are exact, and no float ever touches a bill.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Billionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub i64);

impl Nanos {
    /// One dollar.
    pub const DOLLAR: Self = Self(1_000_000_000);

    /// Returns the price of a count of units.
    ///
    /// The product is taken in 128 bits; a bill beyond nine thousand million dollars saturates.
    #[must_use]
    pub fn times(self, units: i64) -> Self {
        let product = i128::from(self.0) * i128::from(units);
        Self(i64::try_from(product).unwrap_or(if product < 0 { i64::MIN } else { i64::MAX }))
    }

    /// Returns the amount with exactly six decimals, rounded half away from zero, as the native API shows it.
    #[must_use]
    pub fn to_six_decimals(self) -> String {
        let negative = self.0 < 0;
        let micros = (self.0.unsigned_abs() + 500) / 1_000;
        let sign = if negative && micros > 0 { "-" } else { "" };
        format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:09}", n / 1_000_000_000, n % 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_at_fifteen_cents_per_thousand_is_exact() {
        let unit = Nanos(150_000);
        assert_eq!(unit.to_six_decimals(), "0.000150");
        assert_eq!(unit.times(1_000).to_string(), "0.150000000");
        assert_eq!(Nanos(-1_500).to_six_decimals(), "-0.000002");
        assert_eq!(Nanos(-400).to_six_decimals(), "0.000000");
    }
}
