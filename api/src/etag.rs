//! Entity tags: the version of what was read (RFC 9110 §8.8.3), always weak.
//!
//! For an entity with a stream of its own the tag is the stream's version. What is put together from several places is
//! tagged by a digest of what is shown.

use axum::extract::FromRequestParts;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// A tag, without its quotes and weakness mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(String);

impl ETag {
    /// Returns the tag of a version.
    #[must_use]
    pub fn of_version(version: u64) -> Self {
        Self(version.to_string())
    }

    /// Returns the tag of a version that is shown with a number that changes by itself.
    #[must_use]
    pub fn of_version_beside(version: u64, number: u64) -> Self {
        Self(format!("{version}-{number}"))
    }

    /// Returns the tag of something by the JSON that is shown of it.
    pub fn of_json(shown: &impl serde::Serialize) -> Self {
        // What cannot be serialised cannot be answered either; its tag does not matter.
        Self::of_bytes(&serde_json::to_vec(shown).unwrap_or_default())
    }

    /// Returns the tag of bytes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(hex::encode(&Sha256::digest(bytes)[..8]))
    }

    /// Returns the header value.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        HeaderValue::try_from(format!("W/\"{}\"", self.0)).expect("tags are digits and letters")
    }
}

/// The longest header of tags that is read.
const HEADER_BYTES_MAX: usize = 8 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    Any,
    These(Vec<String>),
}

/// Reads `*` or a list of entity tags; comparison is weak, so the mark is dropped.
fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut tags = vec![];
    let mut any = false;
    for value in headers.get_all(name) {
        let malformed = || Problem::invalid(name.as_str(), "malformed", "the header is not a list of entity tags");
        let mut rest = value.to_str().ok().filter(|v| v.len() <= HEADER_BYTES_MAX).ok_or_else(malformed)?.trim();
        if rest == "*" {
            any = true;
            continue;
        }
        while !rest.is_empty() {
            let quoted = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"').ok_or_else(malformed)?;
            let (tag, after) = quoted.split_once('"').ok_or_else(malformed)?;
            tags.push(tag.to_owned());
            rest = after.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(more) => more.trim_start(),
                None if rest.is_empty() => rest,
                None => return Err(malformed()),
            };
        }
    }
    Ok(if any { Some(Tags::Any) } else { (!tags.is_empty()).then_some(Tags::These(tags)) })
}

/// What a reader has already (`If-None-Match`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfNoneMatch(Option<Tags>);

impl IfNoneMatch {
    /// Returns whether the reader has this already.
    #[must_use]
    pub fn has(&self, current: &ETag) -> bool {
        match &self.0 {
            None => false,
            Some(Tags::Any) => true,
            Some(Tags::These(tags)) => tags.contains(&current.0),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(read(&parts.headers, &IF_NONE_MATCH)?))
    }
}

/// What a writer has read (`If-Match`). Without it a write is unconditional.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfMatch(Option<Tags>);

/// A version no entity ever has.
const NEVER: u64 = u64::MAX;

impl IfMatch {
    /// Returns the version a command must find, given the current one; `None` when any will do.
    #[must_use]
    pub fn version(&self, current: u64) -> Option<u64> {
        let version = |tag: &String| tag.split('-').next().and_then(|version| version.parse().ok());
        match &self.0 {
            None | Some(Tags::Any) => None,
            Some(Tags::These(tags)) if tags.iter().any(|tag| version(tag) == Some(current)) => Some(current),
            // Named in the command all the same, so that the refusal is decided in one place.
            Some(Tags::These(tags)) => Some(tags.iter().find_map(version).unwrap_or(NEVER)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(read(&parts.headers, &IF_MATCH)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(value: &str) -> Option<Option<Tags>> {
        let headers = HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_str(value).unwrap())]);
        read(&headers, &IF_MATCH).ok()
    }

    #[test]
    fn lists_of_tags_are_read() {
        let these = |t: &[&str]| Some(Some(Tags::These(t.iter().map(|t| (*t).to_owned()).collect())));
        let rows = [
            ("*", Some(Some(Tags::Any))),
            ("W/\"7\"", these(&["7"])),
            ("\"7\"", these(&["7"])),
            ("W/\"7\", \"8\"", these(&["7", "8"])),
            ("\"a,b\",W/\"c\" ", these(&["a,b", "c"])),
            ("\"\"", these(&[""])),
            ("7", None),
            ("\"7", None),
            ("\"7\" \"8\"", None),
        ];
        for (text, expected) in rows {
            assert_eq!(tags(text), expected, "{text}");
        }
    }

    #[test]
    fn a_tag_of_another_shape_never_matches_a_version() {
        let of = |text: &str| IfMatch(tags(text).unwrap());
        assert_eq!(of("W/\"7\"").version(7), Some(7));
        assert_eq!(of("W/\"6\", W/\"7\"").version(7), Some(7));
        assert_eq!(of("W/\"6\"").version(7), Some(6));
        assert_eq!(of("W/\"abc\"").version(7), Some(NEVER));
        assert_eq!(of("*").version(7), None);
    }
}
