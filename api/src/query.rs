//! Query parameters: known ones are read strictly, unknown ones are ignored.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::body::explain;
use crate::problem::{Code, FieldError, Problem};

/// The query parameters of a request.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

/// The longest query that is read.
const QUERY_BYTES_MAX: usize = 8 * 1024;

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

pub(crate) fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(Problem::invalid("query", "too_long", "the query is too long"));
    }
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    if let Some((name, _)) = pairs.clone().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(Problem::invalid(name.replace('\0', ""), "invalid_value", "NUL characters are not accepted"));
    }
    let parameters = serde_urlencoded::Deserializer::new(pairs);
    serde_path_to_error::deserialize(parameters).map_err(|error| {
        let (field, code, message) = explain(&error.path().to_string(), &error.inner().to_string());
        if code == "required" {
            return Problem::missing(field);
        }
        let shown = format!("The request is not valid: {field}: {message}");
        Problem::new(Code::InvalidParameter, shown).with_errors(vec![FieldError {
            field,
            code: code.to_owned(),
            message,
        }])
    })
}

/// A number of things wanted: 1 to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<const MAX: u32, const DEFAULT: u32>(u32);

impl<const MAX: u32, const DEFAULT: u32> Limit<MAX, DEFAULT> {
    /// Returns the number.
    #[must_use]
    pub fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const MAX: u32, const DEFAULT: u32> Default for Limit<MAX, DEFAULT> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<'de, const MAX: u32, const DEFAULT: u32> Deserialize<'de> for Limit<MAX, DEFAULT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<u32>() {
            Ok(n) if (1..=MAX).contains(&n) => Ok(Self(n)),
            _ => Err(serde::de::Error::custom(format!("must be a whole number from 1 to {MAX}"))),
        }
    }
}

/// Returns which page of a list is wanted.
#[must_use]
pub fn page<const MAX: u32, const DEFAULT: u32>(
    cursor: Option<String>,
    limit: Limit<MAX, DEFAULT>,
) -> projections::Page {
    projections::Page { after: cursor, limit: limit.get() }
}

/// Reads `true` or `false`.
///
/// # Errors
/// It is something else.
pub fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "true" => Ok(Some(true)),
        "false" => Ok(Some(false)),
        _ => Err(serde::de::Error::custom("must be true or false")),
    }
}

/// Returns the time of an RFC 3339 timestamp, or of the start of a date (UTC), microseconds since the Unix epoch.
#[must_use]
pub fn instant(text: &str) -> Option<i64> {
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Some(timestamp.as_microsecond());
    }
    day(text)
}

/// Returns the start of a date `YYYY-MM-DD` (UTC), microseconds since the Unix epoch.
#[must_use]
pub fn day(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = (text.len() == 10).then(|| text.parse().ok()).flatten()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

/// Microseconds of a day.
pub const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// Reads a time, microseconds since the Unix epoch.
///
/// # Errors
/// It is neither a timestamp nor a date.
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    instant(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom("must be an RFC 3339 timestamp or a date (YYYY-MM-DD)"))
}

/// Reads the end of a period: a date alone stands for its whole day. Returns the first moment after it.
///
/// # Errors
/// It is neither a timestamp nor a date.
pub fn end_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match day(&text) {
        Some(start) => Ok(Some(start + DAY_MICROS)),
        None => instant(&text)
            .map(|at| Some(at.saturating_add(1)))
            .ok_or_else(|| serde::de::Error::custom("must be an RFC 3339 timestamp or a date (YYYY-MM-DD)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        #[serde(default)]
        limit: Limit<100, 50>,
        cursor: Option<String>,
        #[serde(default, deserialize_with = "flag")]
        permanent: Option<bool>,
        #[serde(default, deserialize_with = "time")]
        from: Option<i64>,
        #[serde(default, deserialize_with = "end_time")]
        to: Option<i64>,
    }

    #[test]
    fn known_parameters_are_read_and_unknown_ones_ignored() {
        let s: Sample = parse("limit=7&cursor=a%20b&x=y&permanent=true&from=2024-01-02&to=2024-01-02").unwrap();
        assert_eq!((s.limit.get(), s.cursor.as_deref(), s.permanent), (7, Some("a b"), Some(true)));
        assert_eq!(s.to.unwrap() - s.from.unwrap(), DAY_MICROS);
        assert_eq!(parse::<Sample>("").unwrap().limit.get(), 50);
        assert!(parse::<Sample>("from=2024-01-02T03:04:05Z").unwrap().from.is_some());
    }

    #[test]
    fn a_faulty_parameter_is_named() {
        let faulty = [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("limit=1&limit=2", "limit"),
            ("permanent=yes", "permanent"),
            ("from=yesterday", "from"),
            ("from=2024-13-02", "from"),
            ("cursor=%00", "cursor"),
        ];
        for (query, field) in faulty {
            assert_eq!(parse::<Sample>(query).unwrap_err().errors()[0].field, field, "{query}");
        }
    }
}
