//! Ids in paths: whatever is not an id of its kind is answered like an id of nothing.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// One id of a path.
#[derive(Debug, Clone)]
pub struct Id<T>(pub T);

/// Two ids of a path.
#[derive(Debug, Clone)]
pub struct Ids<A, B>(pub A, pub B);

async fn segments<S: Send + Sync, T: DeserializeOwned + Send>(parts: &mut Parts, state: &S) -> Result<T, Problem> {
    let path = Path::<T>::from_request_parts(parts, state).await;
    path.map(|Path(segments)| segments).map_err(|_| Problem::not_found())
}

fn read<T: std::str::FromStr>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::not_found())
}

impl<S: Send + Sync, T: std::str::FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text: String = segments(parts, state).await?;
        read(&text).map(Self)
    }
}

impl<S: Send + Sync, A: std::str::FromStr, B: std::str::FromStr> FromRequestParts<S> for Ids<A, B> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (a, b): (String, String) = segments(parts, state).await?;
        Ok(Self(read(&a)?, read(&b)?))
    }
}
