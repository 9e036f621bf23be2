//! Threads of one mailbox.

use axum::extract::State;
use domain::id::{MessageId, ThreadId};
use domain::message::Folder;
use projections::messages::{self, Sort, SortBy};
use projections::threads::{self, Filter, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::message_view::{MailboxAddress, MailboxMessageSummary, people, state_token};
use super::messages::Direction;
use crate::auth::{Call, Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::openapi::{IfNoneMatchHeader, MailboxSelection, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, flag, page, time};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(list_threads)).with(door!(get_thread)).with(door!(list_thread_messages))
}

/// The most message ids a thread shows; longer threads are read by their messages.
const MESSAGE_IDS_MAX: usize = 1_000;

/// The states of a thread and of its messages.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ThreadStates {
    #[schema(required)]
    thread_state: Option<String>,
    #[schema(required)]
    email_state: Option<String>,
}

/// A thread as it is listed.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxThreadSummary {
    #[schema(example = "thr_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[schema(required)]
    subject: Option<String>,
    message_count: u64,
    unread_count: u64,
    has_attachments: bool,
    folder_ids: Vec<String>,
    /// Who wrote or was written to, in order of appearance.
    participants: Vec<MailboxAddress>,
    #[schema(required)]
    last_message: Option<MailboxMessageSummary>,
    states: ThreadStates,
}

/// A thread.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxThread {
    #[serde(flatten)]
    summary: MailboxThreadSummary,
    /// Oldest first; the first thousand.
    message_ids: Vec<String>,
}

impl MailboxThreadSummary {
    fn new(app: &App, call: &Call, row: &Row) -> Self {
        let state = state_token(app, call, row.changed_position);
        Self {
            id: row.id.to_string(),
            subject: row.subject.clone(),
            message_count: row.messages,
            unread_count: row.unread,
            has_attachments: row.has_attachments,
            folder_ids: row.folders.iter().map(|folder| folder.as_str().to_owned()).collect(),
            participants: people(&row.participants),
            last_message: row.last_message.as_ref().map(MailboxMessageSummary::new),
            states: ThreadStates { thread_state: Some(state.clone()), email_state: Some(state) },
        }
    }
}

/// The meta object of the thread list.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxQueryMeta {
    /// The request's id.
    request_id: String,
    /// The state of the mailbox's threads, for `GET /mailbox/changes`.
    query_state: String,
}

/// Parameters of the thread list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// How many at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 50)]
    limit: Limit<100, 50>,
    /// Only where each word is in one of its messages.
    q: Option<String>,
    /// Only where name or address of a participant contains this.
    participant: Option<String>,
    /// Only with messages in this folder.
    folder_id: Option<String>,
    /// Only where the latest message was received at or after this time.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    after: Option<i64>,
    /// Only where the latest message was received before this time.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    before: Option<i64>,
    /// Only with, or without, attachments.
    #[serde(default, deserialize_with = "flag")]
    has_attachment: Option<bool>,
    /// Only with, or without, unread messages.
    #[serde(default, deserialize_with = "flag")]
    is_unread: Option<bool>,
    /// `desc` by default.
    #[param(inline)]
    sort_direction: Option<Direction>,
}

/// List threads
///
/// By their latest message, newest first.
#[utoipa::path(
    get,
    path = "/mailbox/threads",
    tag = "Mailbox API",
    operation_id = "mailboxListThreads",
    params(ListQuery, MailboxSelection),
    responses(
        (status = 200, description = "Threads", body = List<MailboxThreadSummary, MailboxQueryMeta>),
        (status = 400, description = "Invalid filter", body = crate::problem::Body),
    ),
)]
async fn list_threads(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<MailboxThreadSummary, MailboxQueryMeta>>, Problem> {
    let (team, mailbox) = (&call.caller.team, call.mailbox()?);
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let folder_id = text(query.folder_id);
    let folder = folder_id.as_deref().map(Folder::parse);
    let state = threads::state(&app.views, team, mailbox).await?;
    let (rows, next_cursor) = if folder == Some(None) {
        (vec![], None)
    } else {
        let filter = Filter {
            q: text(query.q),
            participant: text(query.participant),
            folder: folder.flatten(),
            after: query.after,
            before: query.before,
            has_attachment: query.has_attachment,
            is_unread: query.is_unread,
        };
        let ascending = query.sort_direction == Some(Direction::Asc);
        let page = page(query.cursor, query.limit);
        let paged = threads::list(&app.views, team, mailbox, &filter, ascending, &page).await?;
        (paged.rows, paged.next_cursor)
    };
    Ok(Reply::ok(List {
        ok: true,
        data: rows.iter().map(|row| MailboxThreadSummary::new(&app, &call, row)).collect(),
        pagination: next_cursor.into(),
        meta: MailboxQueryMeta { request_id: call.request.to_string(), query_state: state_token(&app, &call, state) },
    }))
}

async fn existing(app: &App, call: &Call, id: &ThreadId) -> Result<Row, Problem> {
    let (team, mailbox) = (&call.caller.team, call.mailbox()?);
    if let Some(row) = threads::get(&app.views, team, mailbox, id).await? {
        return Ok(row);
    }
    // It may have been joined to an older thread; who knows its old id is led there.
    let now = threads::resolve(&app.views, team, mailbox, id).await?;
    threads::get(&app.views, team, mailbox, &now).await?.ok_or_else(Problem::not_found)
}

/// Get a thread
#[utoipa::path(
    get,
    path = "/mailbox/threads/{thread_id}",
    tag = "Mailbox API",
    operation_id = "mailboxGetThread",
    params(("thread_id" = String, Path, description = "Thread id", example = "thr_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader, MailboxSelection),
    responses(
        (status = 200, description = "The thread", body = Data<MailboxThread>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such thread", body = crate::problem::Body),
    ),
)]
async fn get_thread(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Id(id): Id<ThreadId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxThread>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(row.changed_position);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    let (team, mailbox) = (&call.caller.team, call.mailbox()?);
    let ids = messages::ids_of_thread(&app.views, team, mailbox, &row.id, MESSAGE_IDS_MAX).await?;
    let thread = MailboxThread {
        summary: MailboxThreadSummary::new(&app, &call, &row),
        message_ids: ids.iter().map(MessageId::to_string).collect(),
    };
    Ok(Reply::ok(call.data(thread)).tagged(&tag))
}

/// The meta object of the messages of a thread.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxThreadMessagesMeta {
    /// The request's id.
    request_id: String,
    thread_id: String,
    /// The state of the mailbox's messages, for `GET /mailbox/changes`.
    sync_state: String,
}

/// Parameters of the messages of a thread.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct MessagesQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// How many at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 50)]
    limit: Limit<100, 50>,
    /// `asc`, oldest first, by default.
    #[param(inline)]
    sort: Option<Direction>,
}

/// List the messages of a thread
///
/// Oldest first, unless sorted otherwise.
#[utoipa::path(
    get,
    path = "/mailbox/threads/{thread_id}/messages",
    tag = "Mailbox API",
    operation_id = "mailboxListThreadMessages",
    params(("thread_id" = String, Path, description = "Thread id", example = "thr_06bqmn3t0d4gq2v8xk1hz7sw"), MessagesQuery, MailboxSelection),
    responses(
        (status = 200, description = "Messages", body = List<MailboxMessageSummary, MailboxThreadMessagesMeta>),
        (status = 400, description = "Invalid parameter", body = crate::problem::Body),
        (status = 404, description = "No such thread", body = crate::problem::Body),
    ),
)]
async fn list_thread_messages(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Id(id): Id<ThreadId>,
    Query(query): Query<MessagesQuery>,
) -> Result<Reply<List<MailboxMessageSummary, MailboxThreadMessagesMeta>>, Problem> {
    let id = existing(&app, &call, &id).await?.id;
    let (team, mailbox) = (&call.caller.team, call.mailbox()?);
    let filter = messages::Filter { thread: Some(id.clone()), ..messages::Filter::default() };
    let sort = Sort { by: SortBy::ReceivedAt, ascending: query.sort != Some(Direction::Desc) };
    let state = messages::state(&app.views, team, mailbox).await?;
    let page = page(query.cursor, query.limit);
    let paged = messages::list(&app.views, team, mailbox, &filter, sort, &page).await?;
    Ok(Reply::ok(List {
        ok: true,
        data: paged.rows.iter().map(MailboxMessageSummary::new).collect(),
        pagination: paged.next_cursor.into(),
        meta: MailboxThreadMessagesMeta {
            request_id: call.request.to_string(),
            thread_id: id.to_string(),
            sync_state: state_token(&app, &call, state),
        },
    }))
}
