//! What the door for notifications of sending accounts fetches: through the client for URLs that strangers gave us.

use std::sync::Arc;
use std::time::Duration;

use api::sns::{Fetch, FetchError, Fetched};
use async_trait::async_trait;
use dispatcher::egress::{BodyEnd, Client, Limits, Policy, SystemResolver, Target};

/// The port of `https`.
const PORT: u16 = 443;
/// Longest wait for an answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest answer, bytes: a certificate, or a word of confirmation.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

struct Guarded {
    client: Client,
    policy: Policy,
}

/// Returns what fetches by `https` from public addresses, as far as outgoing mail may reach them.
///
/// # Errors
/// The client cannot be made.
pub fn fetch(outgoing: Policy) -> anyhow::Result<Arc<dyn Fetch>> {
    let policy = Policy { ports: vec![PORT], ..outgoing };
    let limits = Limits {
        attempt_seconds: WITHIN.as_secs(),
        body_preview_bytes: ANSWER_BYTES_MAX,
        pool_idle_max: 0,
        pool_idle_per_origin_max: 0,
        ..Limits::default()
    };
    let resolve = Arc::new(SystemResolver::default());
    let client =
        Client::new(policy.clone(), limits, resolve).map_err(|_| anyhow::anyhow!("the limits make no sense"))?;
    Ok(Arc::new(Guarded { client, policy }))
}

#[async_trait]
impl Fetch for Guarded {
    async fn get(&self, url: &str) -> Result<Fetched, FetchError> {
        let target = Target::parse(url, &self.policy).map_err(|_| FetchError::Refused)?;
        let answer = self.client.get(&target, Default::default(), WITHIN).await.map_err(|error| {
            tracing::warn!(error = %error, "Amazon SNS could not be asked");
            FetchError::NoAnswer
        })?;
        // A part of a certificate is none.
        if answer.body_end != BodyEnd::Complete {
            return Err(FetchError::NoAnswer);
        }
        Ok(Fetched { status: answer.status, body: answer.body_preview })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_public_addresses_are_asked_and_only_by_https() {
        let fetch = fetch(Policy::default()).unwrap();
        for url in ["http://sns.eu-west-1.amazonaws.com/x.pem", "https://127.0.0.1/x.pem", "https://a.test:8443/", "x"]
        {
            assert_eq!(fetch.get(url).await, Err(FetchError::Refused), "{url}");
        }
    }
}
