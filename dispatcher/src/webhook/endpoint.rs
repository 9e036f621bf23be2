//! What is known of a webhook endpoint, and how its changes are noticed.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::id::{Position, TeamId, WebhookId};
use domain::team::Team;
use domain::webhook_endpoint::{Status, Subscription, WebhookEndpoint};
use domain::{StreamId, Versioned};
use eventlog::LogError;
use projections::webhooks;

use super::reactor::Context;
use super::sign::Secret;
use crate::egress::{Refused, Target};
use crate::queue::Key;

/// Longest wait for the projection of webhooks to be as new as an event.
const PROJECTED_WITHIN: Duration = Duration::from_secs(1);
/// Pause before a projection that is still behind is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// An endpoint at one version of its stream.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The version; another one means that this is to be loaded anew.
    pub(crate) version: u64,
    /// Whether deliveries are made: enabled and not failing.
    pub(crate) is_on: bool,
    /// How often it was switched on again.
    pub(crate) times_enabled: u32,
    /// Which events it is told of.
    pub(crate) subscription: Subscription,
    /// Where deliveries go, or why the URL is not called.
    pub(crate) target: Result<Target, Refused>,
    /// What signs them, or why there is none.
    pub(crate) secret: Result<Secret, String>,
    /// Where it was last switched on without its backlog.
    pub(crate) skipped_at: Option<Position>,
}

impl Endpoint {
    /// Returns the key to limit concurrency by.
    pub(crate) fn origin(&self) -> std::sync::Arc<str> {
        match &self.target {
            Ok(target) => std::sync::Arc::clone(target.origin()),
            // Nothing is sent there, so that it does not count against anybody.
            Err(_) => std::sync::Arc::from(""),
        }
    }
}

/// Loads an endpoint; `None` if it is gone.
///
/// # Errors
/// The log or the projection cannot be read, or the projection is behind.
pub(crate) async fn load(context: &Context, key: &Key) -> Result<Option<Endpoint>, Unready> {
    let state = state(context, key).await?;
    match state.status {
        Status::Absent | Status::Deleted => return Ok(None),
        Status::Enabled | Status::Disabled => {}
    }
    let row = webhooks::get(&context.views, &key.team, &key.webhook).await.map_err(|e| Unready(e.to_string()))?;
    // What is asked of the row, where the backlog was last left out, may be newer than the state but not older.
    let row = row.filter(|row| row.version >= state.version);
    let row = row.ok_or_else(|| Unready("the projection of webhooks is behind".to_owned()))?;
    let secret = match &state.secret {
        None => Err("the webhook has no secret".to_owned()),
        Some(id) => match context.log.secret(&key.team, id, "webhook").await {
            Ok(Some(text)) => Secret::parse(text.expose_str()).map_err(|e| e.to_string()),
            Ok(None) => Err("the signing secret is not there".to_owned()),
            Err(LogError::Seal(e)) => Err(e.to_string()),
            Err(e) => return Err(e.into()),
        },
    };
    let url = state.url.as_deref().unwrap_or_default();
    Ok(Some(Endpoint {
        version: state.version,
        is_on: is_on(&state),
        times_enabled: state.times_enabled,
        subscription: state
            .subscription
            .clone()
            .unwrap_or(Subscription { event_types: [].into(), mailboxes: [].into() }),
        target: Target::parse(url, context.client.policy()),
        secret,
        skipped_at: row.backlog_skipped_at,
    }))
}

/// Something could not be read now; it is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unready(String);

impl From<LogError> for Unready {
    fn from(error: LogError) -> Self {
        Self(error.to_string())
    }
}

/// Returns the state of a webhook as this node knows it; usually from memory.
pub(crate) async fn state(context: &Context, key: &Key) -> Result<Versioned<WebhookEndpoint>, LogError> {
    context.log.state(&key.team, &[StreamId::Webhook(key.webhook.clone())]).await
}

/// Returns whether deliveries are made.
pub(crate) fn is_on(state: &WebhookEndpoint) -> bool {
    state.status == Status::Enabled && !state.failing
}

/// A webhook as a visit finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The version of its stream.
    pub(crate) version: u64,
    /// Whether deliveries are made.
    pub(crate) is_on: bool,
    /// Behind which position its deliveries begin.
    pub(crate) begin: Position,
}

/// What a visit to a team finds.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Where its log ends, at least.
    pub(crate) head: Position,
    /// Its webhooks, if they are not all as they were.
    pub(crate) webhooks: Option<BTreeMap<WebhookId, Seen>>,
    /// Whether the projection was behind, so that another visit is needed.
    pub(crate) again: bool,
}

/// Looks whether a team's webhooks are still as they were.
///
/// # Errors
/// The log or the projection cannot be read.
pub(crate) async fn visit(
    context: &Context,
    team: &TeamId,
    head: Position,
    known: &BTreeMap<WebhookId, Seen>,
) -> Result<Visit, Unready> {
    let head = if head == 0 { context.log.head(team).await?.position } else { head };
    // Committed already, and perhaps not yet known to whoever folds states here.
    if context.log.known_head(team).await? < head {
        context.log.note_moved(team, head);
    }
    let count = context.log.state::<Versioned<Team>>(team, &[StreamId::Team]).await?.webhooks;
    let mut changed = usize::try_from(count).ok() != Some(known.len());
    for (webhook, seen) in known {
        if changed {
            break;
        }
        let key = Key { team: team.clone(), webhook: webhook.clone() };
        changed = state(context, &key).await?.version != seen.version;
    }
    if !changed {
        return Ok(Visit { head, webhooks: None, again: false });
    }
    let reached = context.views.wait_for(team, head, PROJECTED_WITHIN).await;
    let rows = webhooks::of_team(&context.views, team).await.map_err(|e| Unready(e.to_string()))?;
    let mut found = BTreeMap::new();
    for row in rows {
        let key = Key { team: team.clone(), webhook: row.id.clone() };
        let state = state(context, &key).await?;
        if state.status != Status::Deleted {
            let seen = Seen { version: state.version, is_on: is_on(&state), begin: row.deliver_after };
            found.insert(row.id, seen);
        }
    }
    if !reached {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(Visit { head, webhooks: Some(found), again: !reached })
}
