//! What changed in a mailbox since a state that the caller has seen.
//!
//! A state is a place in the team's log, written like an event's id. One that was made before the log was restored from
//! a backup, or lies beyond its end, is answered with `sync_required`: the caller reads the lists again.

use axum::extract::State;
use domain::id::{EventId, Position};
use domain::message::Folder;
use projections::messages::Changes;
use projections::{folders, mailboxes, messages, outbound, threads};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::message_view::state_token;
use super::submissions::submission_id;
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::openapi::{MailboxSelection, Routes};
use crate::problem::Problem;
use crate::query::{Limit, Query};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_changes))
}

/// What changed since a state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxChanges {
    /// The state asked about; null when none was.
    #[schema(required)]
    old_state: Option<String>,
    new_state: String,
    /// Whether to ask again with `new_state`.
    has_more: bool,
    created: Vec<String>,
    updated: Vec<String>,
    destroyed: Vec<String>,
    /// True when the lists must be read again instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sync_required: Option<bool>,
    /// Which properties of the updated things can have changed, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    updated_properties: Option<Vec<&'static str>>,
}

/// Where everything in a mailbox stands.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxStates {
    messages: String,
    folders: String,
    threads: String,
    submissions: String,
    identities: String,
    quotas: String,
}

/// What changed, by type; only the types that were asked about.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxTypedChanges {
    types: ChangesByType,
}

/// Changes by type.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
struct ChangesByType {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    messages: Option<MailboxChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    folders: Option<MailboxChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    threads: Option<MailboxChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    submissions: Option<MailboxChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    identities: Option<MailboxChanges>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    quotas: Option<MailboxChanges>,
}

/// Either shape of the answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
enum MailboxChangesOrTyped {
    /// Without `types`: changes of messages.
    Messages(MailboxChanges),
    /// With `types`.
    Typed(MailboxTypedChanges),
}

/// Parameters of the changes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ChangesQuery {
    /// The state of messages to start from, when `types` is absent.
    since_state: Option<String>,
    /// Comma-separated: messages, folders, threads, submissions, identities, quotas.
    types: Option<String>,
    messages_since_state: Option<String>,
    folders_since_state: Option<String>,
    threads_since_state: Option<String>,
    submissions_since_state: Option<String>,
    identities_since_state: Option<String>,
    quotas_since_state: Option<String>,
    /// How many changes of a type at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500, default = 50)]
    limit: Limit<500, 50>,
}

/// Where the caller stands.
enum Since {
    /// Nowhere yet.
    Start,
    /// At a place.
    At(Position),
    /// At a place that is none any more.
    Lost,
}

/// What a caller asks about.
pub(super) struct Feed<'a> {
    app: &'a App,
    call: &'a Call,
    limit: usize,
    head: Position,
}

impl<'a> Feed<'a> {
    /// Returns the changes as far as the log has come.
    pub(super) async fn new(app: &'a App, call: &'a Call, limit: usize) -> Result<Self, Problem> {
        let head = app.log.head(&call.caller.team).await?.position;
        Ok(Self { app, call, limit, head })
    }

    /// Returns where everything stands.
    pub(super) async fn states(&self) -> Result<MailboxStates, Problem> {
        Ok(MailboxStates {
            messages: self.messages("since_state", None).await?.new_state,
            folders: self.folders(None).await?.new_state,
            threads: self.threads(None).await?.new_state,
            submissions: self.submissions("since_state", None).await?.new_state,
            identities: self.identities(None).await?.new_state,
            quotas: self.quotas(None).await?.new_state,
        })
    }

    fn since(&self, field: &str, token: Option<&str>) -> Result<Since, Problem> {
        let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(Since::Start) };
        let malformed = || Problem::invalid(field, "invalid_state", format!("{field} is not a state of this mailbox"));
        let event: EventId = token.parse().map_err(|_| malformed())?;
        if !event.is_of(&self.call.caller.team) {
            return Err(malformed());
        }
        if event.epoch != self.app.log.epoch() || event.position > self.head {
            return Ok(Since::Lost);
        }
        Ok(Since::At(event.position))
    }

    fn token(&self, position: Position) -> String {
        state_token(self.app, self.call, position)
    }

    /// Returns the answer that only says where things stand.
    fn standing(&self, old: Option<&str>, state: Position, lost: bool) -> MailboxChanges {
        MailboxChanges {
            old_state: old.map(str::to_owned),
            new_state: self.token(state),
            has_more: false,
            created: vec![],
            updated: vec![],
            destroyed: vec![],
            sync_required: lost.then_some(true),
            updated_properties: None,
        }
    }

    fn told<Id>(&self, old: Option<&str>, changes: Changes<Id>, name: impl Fn(&Id) -> String) -> MailboxChanges {
        let names = |ids: Vec<Id>| ids.iter().map(&name).collect();
        MailboxChanges {
            old_state: old.map(str::to_owned),
            new_state: self.token(changes.new_state),
            has_more: changes.has_more,
            created: names(changes.created),
            updated: names(changes.updated),
            destroyed: names(changes.destroyed),
            sync_required: None,
            updated_properties: None,
        }
    }

    async fn messages(&self, field: &str, token: Option<&str>) -> Result<MailboxChanges, Problem> {
        let (views, team, mailbox) = (&self.app.views, &self.call.caller.team, self.call.mailbox()?);
        match self.since(field, token)? {
            Since::At(since) => {
                let changes = messages::changes(views, team, mailbox, since, self.limit).await?;
                Ok(self.told(token, changes, ToString::to_string))
            }
            since => {
                let state = messages::state(views, team, mailbox).await?;
                Ok(self.standing(token, state, matches!(since, Since::Lost)))
            }
        }
    }

    async fn threads(&self, token: Option<&str>) -> Result<MailboxChanges, Problem> {
        let (views, team, mailbox) = (&self.app.views, &self.call.caller.team, self.call.mailbox()?);
        match self.since("threads_since_state", token)? {
            Since::At(since) => {
                let changes = threads::changes(views, team, mailbox, since, self.limit).await?;
                Ok(self.told(token, changes, ToString::to_string))
            }
            since => {
                let state = threads::state(views, team, mailbox).await?;
                Ok(self.standing(token, state, matches!(since, Since::Lost)))
            }
        }
    }

    async fn folders(&self, token: Option<&str>) -> Result<MailboxChanges, Problem> {
        let (views, team, mailbox) = (&self.app.views, &self.call.caller.team, self.call.mailbox()?);
        match self.since("folders_since_state", token)? {
            Since::At(since) => {
                let changes = folders::changes(views, team, mailbox, since).await?;
                let mut told = self.told(token, changes, |folder: &Folder| folder.as_str().to_owned());
                told.updated_properties = Some(vec!["total_messages", "unread_messages"]);
                Ok(told)
            }
            since => {
                let state = folders::state(views, team, mailbox).await?;
                Ok(self.standing(token, state, matches!(since, Since::Lost)))
            }
        }
    }

    /// The one identity of a mailbox is the mailbox itself: it changes with its name.
    async fn identities(&self, token: Option<&str>) -> Result<MailboxChanges, Problem> {
        let row = self.mailbox().await?;
        self.single("identities_since_state", token, (&row, row.identity_position), "id_")
    }

    /// The one quota of a mailbox is its storage: its use changes with every mail, its limit seldom.
    async fn quotas(&self, token: Option<&str>) -> Result<MailboxChanges, Problem> {
        const FIELD: &str = "quotas_since_state";
        let row = self.mailbox().await?;
        let changed = row.limit_position.max(row.usage_position);
        let mut told = self.single(FIELD, token, (&row, changed), "quota_")?;
        let only_use = matches!(self.since(FIELD, token)?, Since::At(since) if since >= row.limit_position);
        told.updated_properties = (only_use && !told.updated.is_empty()).then(|| vec!["used"]);
        Ok(told)
    }

    async fn mailbox(&self) -> Result<mailboxes::Row, Problem> {
        let found = mailboxes::get(&self.app.views, &self.call.caller.team, self.call.mailbox()?).await?;
        found.ok_or_else(Problem::not_found)
    }

    /// Answers for a type of which a mailbox has exactly one, which begins with the mailbox and is named after it.
    fn single(
        &self,
        field: &str,
        token: Option<&str>,
        (row, changed): (&mailboxes::Row, Position),
        prefix: &str,
    ) -> Result<MailboxChanges, Problem> {
        let since = match self.since(field, token)? {
            Since::At(since) => since,
            since => return Ok(self.standing(token, changed, matches!(since, Since::Lost))),
        };
        let id = row.id.as_str();
        let name = format!("{prefix}{}", id.split_once('_').map_or(id, |(_, rest)| rest));
        let mut told = self.standing(token, changed.max(since), false);
        if row.created_position > since {
            told.created.push(name);
        } else if changed > since {
            told.updated.push(name);
        }
        Ok(told)
    }

    /// What the mailbox sent: it changes with every outcome.
    pub(super) async fn submissions(&self, field: &str, token: Option<&str>) -> Result<MailboxChanges, Problem> {
        let (views, team, mailbox) = (&self.app.views, &self.call.caller.team, Some(self.call.mailbox()?));
        match self.since(field, token)? {
            Since::At(since) => {
                let changes = outbound::changes(views, team, mailbox, since, self.limit).await?;
                Ok(self.told(token, changes, submission_id))
            }
            since => {
                let state = outbound::state(views, team, mailbox).await?;
                Ok(self.standing(token, state, matches!(since, Since::Lost)))
            }
        }
    }
}

/// Get mailbox changes
///
/// Without `types`: changes of messages since `since_state`. With `types`: changes of each type since its own state.
/// Without a state: where things stand now.
#[utoipa::path(
    get,
    path = "/mailbox/changes",
    tag = "Mailbox API",
    operation_id = "mailboxGetChanges",
    params(ChangesQuery, MailboxSelection),
    responses(
        (status = 200, description = "What changed", body = Data<MailboxChangesOrTyped>),
        (status = 400, description = "Invalid state", body = crate::problem::Body),
    ),
)]
async fn get_changes(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Query(query): Query<ChangesQuery>,
) -> Result<Reply<Data<MailboxChangesOrTyped>>, Problem> {
    let feed = Feed::new(&app, &call, query.limit.get()).await?;
    let Some(types) = &query.types else {
        let changes = feed.messages("since_state", query.since_state.as_deref()).await?;
        return Ok(Reply::ok(call.data(MailboxChangesOrTyped::Messages(changes))));
    };
    let mut by_type = ChangesByType::default();
    for name in types.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name {
            "messages" => {
                let since = query.messages_since_state.as_deref();
                by_type.messages = Some(feed.messages("messages_since_state", since).await?);
            }
            "folders" => by_type.folders = Some(feed.folders(query.folders_since_state.as_deref()).await?),
            "threads" => by_type.threads = Some(feed.threads(query.threads_since_state.as_deref()).await?),
            "submissions" => {
                let since = query.submissions_since_state.as_deref();
                by_type.submissions = Some(feed.submissions("submissions_since_state", since).await?);
            }
            "identities" => by_type.identities = Some(feed.identities(query.identities_since_state.as_deref()).await?),
            "quotas" => by_type.quotas = Some(feed.quotas(query.quotas_since_state.as_deref()).await?),
            _ => {
                let message = "types is a list of messages, folders, threads, submissions, identities and quotas";
                return Err(Problem::invalid("types", "invalid_value", message));
            }
        }
    }
    Ok(Reply::ok(call.data(MailboxChangesOrTyped::Typed(MailboxTypedChanges { types: by_type }))))
}
