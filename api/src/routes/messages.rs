//! Messages of one mailbox.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use domain::id::{MessageId, ThreadId};
use domain::message::{ChangeKeywords, ChangeMessage, DeleteMessage, Deletion, Folder, Message as Fold};
use domain::{StreamId, Versioned};
use projections::messages::{self, Filter, Sort, SortBy};
use projections::threads;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::message_search::{self, Wanted};
use super::message_view::{MailboxMessage, MailboxMessageSummary, existing, parsed, state_token};
use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Deleted, List, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::field::present;
use crate::openapi::{IfMatchHeader, IfNoneMatchHeader, MailboxSelection, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query, flag, page, time};
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new()
        .with(door!(list_messages))
        .with(door!(get_message))
        .with(door!(update_message))
        .with(door!(delete_message))
}

/// The meta object of lists that have a state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxSyncMeta {
    /// The request's id.
    pub(super) request_id: String,
    /// The state of the mailbox's messages, for `GET /mailbox/changes`.
    pub(super) sync_state: String,
}

/// What messages are sorted by.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SortName {
    #[default]
    ReceivedAt,
    SentAt,
    Subject,
    From,
    To,
    SizeBytes,
}

impl From<SortName> for SortBy {
    fn from(name: SortName) -> Self {
        match name {
            SortName::ReceivedAt => Self::ReceivedAt,
            SortName::SentAt => Self::SentAt,
            SortName::Subject => Self::Subject,
            SortName::From => Self::From,
            SortName::To => Self::To,
            SortName::SizeBytes => Self::SizeBytes,
        }
    }
}

/// In which direction a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    Asc,
    Desc,
}

/// Parameters of the message list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// How many at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 50)]
    limit: Limit<100, 50>,
    /// Only in this folder.
    folder_id: Option<String>,
    /// Only of this thread; not together with other filters.
    thread_id: Option<String>,
    /// Only where each word is in subject, sender, recipients or preview.
    q: Option<String>,
    /// Only where name or address of the sender contains this.
    from: Option<String>,
    /// Only where name or address of a `To` recipient contains this.
    to: Option<String>,
    /// Only where name or address of a `Cc` recipient contains this.
    cc: Option<String>,
    /// Only where name or address of a `Bcc` recipient contains this.
    bcc: Option<String>,
    /// Only where the subject contains this.
    subject: Option<String>,
    /// Only where the body, as it is read, contains this. No read model keeps bodies, so mails are read one by one: a page
    /// may hold fewer messages than its limit, or none, and still have more.
    body: Option<String>,
    /// A header to look into. Other than `Message-ID`, `Subject`, `From`, `To` and `Cc`, it is found by reading mails one by
    /// one, as `body` is.
    header_name: Option<String>,
    /// What the header named by `header_name` contains.
    header_value: Option<String>,
    /// Only with at least so many bytes.
    #[param(minimum = 0)]
    min_size_bytes: Option<u32>,
    /// Only with fewer bytes.
    #[param(minimum = 0)]
    max_size_bytes: Option<u32>,
    /// Only with this keyword.
    keyword: Option<String>,
    /// Only without this keyword.
    not_keyword: Option<String>,
    /// Only received at or after this time.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    after: Option<i64>,
    /// Only received before this time.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    before: Option<i64>,
    /// Only with, or without, attachments.
    #[serde(default, deserialize_with = "flag")]
    has_attachment: Option<bool>,
    /// Only unread, or read.
    #[serde(default, deserialize_with = "flag")]
    is_unread: Option<bool>,
    #[param(inline)]
    sort_by: Option<SortName>,
    /// `desc` by default.
    #[param(inline)]
    sort_direction: Option<Direction>,
}

impl ListQuery {
    /// Returns the conditions, or `None` where no message can meet them.
    fn filter(&self) -> Result<Option<(Filter, Wanted)>, Problem> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut wanted = Wanted { body: text(&self.body), header: None };
        let mut filter = Filter {
            folder: None,
            thread: None,
            q: text(&self.q),
            from: text(&self.from),
            to: text(&self.to),
            cc: text(&self.cc),
            bcc: text(&self.bcc),
            subject: text(&self.subject),
            rfc5322_message_id: None,
            keyword: text(&self.keyword),
            not_keyword: text(&self.not_keyword),
            after: self.after,
            before: self.before,
            min_size_bytes: self.min_size_bytes.map(i64::from),
            max_size_bytes: self.max_size_bytes.map(i64::from),
            has_attachment: self.has_attachment,
            is_unread: self.is_unread,
        };
        match (text(&self.header_name), text(&self.header_value)) {
            (None, None) => {}
            (Some(name), Some(value)) => header(&mut filter, &mut wanted, name, value)?,
            (Some(_), None) => return Err(Problem::missing("header_value")),
            (None, Some(_)) => return Err(Problem::missing("header_name")),
        }
        if let Some(id) = text(&self.folder_id) {
            let Some(folder) = Folder::parse(&id) else { return Ok(None) };
            filter.folder = Some(folder);
        }
        if let Some(id) = text(&self.thread_id) {
            if filter != Filter::default() || !wanted.is_nothing() {
                let message = "thread_id cannot be combined with other filters";
                return Err(Problem::invalid("thread_id", "conflict", message));
            }
            let Ok(thread) = id.parse::<ThreadId>() else { return Ok(None) };
            filter.thread = Some(thread);
        }
        Ok(Some((filter, wanted)))
    }
}

/// The longest name of a header field that is looked for.
const HEADER_NAME_CHARS_MAX: usize = 76;

/// Adds a condition on one header to a filter.
fn header(filter: &mut Filter, wanted: &mut Wanted, name: String, value: String) -> Result<(), Problem> {
    let slot = match name.to_ascii_lowercase().as_str() {
        "message-id" => {
            filter.rfc5322_message_id = Some(value.trim().trim_matches(['<', '>']).to_owned());
            return Ok(());
        }
        "subject" => &mut filter.subject,
        "from" => &mut filter.from,
        "to" => &mut filter.to,
        "cc" => &mut filter.cc,
        _ if name.len() > HEADER_NAME_CHARS_MAX || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') => {
            let message = "header_name must be the name of a header field: visible ASCII characters, no colon";
            return Err(Problem::invalid("header_name", "invalid_value", message));
        }
        _ => {
            wanted.header = Some((name, value));
            return Ok(());
        }
    };
    if slot.is_some() {
        let message = "the same header cannot be filtered twice";
        return Err(Problem::invalid("header_name", "conflict", message));
    }
    *slot = Some(value);
    Ok(())
}

/// List messages
///
/// Newest received first, unless sorted otherwise.
#[utoipa::path(
    get,
    path = "/mailbox/messages",
    tag = "Mailbox API",
    operation_id = "mailboxListMessages",
    params(ListQuery, MailboxSelection),
    responses(
        (status = 200, description = "Messages", body = List<MailboxMessageSummary, MailboxSyncMeta>),
        (status = 400, description = "Invalid filter", body = crate::problem::Body),
    ),
)]
async fn list_messages(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<MailboxMessageSummary, MailboxSyncMeta>>, Problem> {
    let (team, mailbox) = (&call.caller.team, call.mailbox()?);
    let filter = query.filter()?;
    let sort =
        Sort { by: query.sort_by.unwrap_or_default().into(), ascending: query.sort_direction == Some(Direction::Asc) };
    // The state is read first: what changes between the two is told again by the changes since then, never left out.
    let state = messages::state(&app.views, team, mailbox).await?;
    let (rows, next_cursor) = match filter {
        None => (vec![], None),
        Some((mut filter, wanted)) => {
            if let Some(thread) = &mut filter.thread {
                *thread = threads::resolve(&app.views, team, mailbox, thread).await?;
            }
            let page = page(query.cursor, query.limit);
            let paged = if wanted.is_nothing() {
                messages::list(&app.views, team, mailbox, &filter, sort, &page).await?
            } else {
                message_search::list(&app, &call, mailbox, (&filter, &wanted), sort, page).await?
            };
            (paged.rows, paged.next_cursor)
        }
    };
    Ok(Reply::ok(List {
        ok: true,
        data: rows.iter().map(MailboxMessageSummary::new).collect(),
        pagination: next_cursor.into(),
        meta: MailboxSyncMeta { request_id: call.request.to_string(), sync_state: state_token(&app, &call, state) },
    }))
}

/// Get a message
///
/// With bodies, threading headers and attachments. Download URLs are new in each answer, so a message with attachments
/// is answered in full even where it is unchanged.
#[utoipa::path(
    get,
    path = "/mailbox/messages/{message_id}",
    tag = "Mailbox API",
    operation_id = "mailboxGetMessage",
    params(("message_id" = String, Path, description = "Message id", example = "msg_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader, MailboxSelection),
    responses(
        (status = 200, description = "The message", body = Data<MailboxMessage>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such message", body = crate::problem::Body),
    ),
)]
async fn get_message(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Id(id): Id<MessageId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxMessage>>, Problem> {
    let row = existing(&app, &call, &id).await?;
    let tag = ETag::of_version(row.version);
    if known.has(&tag) && row.attachments == 0 {
        return Ok(Reply::not_modified(&tag));
    }
    let parsed = parsed(&app, &call, &row).await?;
    Ok(Reply::ok(call.data(MailboxMessage::new(&app, &call, &row, parsed))).tagged(&tag))
}

/// What to change of a message; what is absent stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PatchMailboxMessageBody {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    seen: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    flagged: Option<bool>,
    /// True sets a keyword, false clears it. At most 50; `$draft` cannot be changed.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    keywords: Option<BTreeMap<String, bool>>,
    /// The folder it goes to: `inbox`, `drafts`, `sent`, `junk`, `trash` or `archive`. Out of `trash` restores it.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    folder_id: Option<String>,
}

pub(super) const KEYWORDS_PER_UPDATE_MAX: usize = 50;
const KEYWORD_CHARS_MAX: usize = 255;

impl PatchMailboxMessageBody {
    /// Returns the folder to move to.
    fn folder(&self) -> Result<Option<Folder>, Problem> {
        let Some(id) = &self.folder_id else { return Ok(None) };
        let message = "folder_id must be inbox, drafts, sent, junk, trash or archive";
        Folder::parse(id).map(Some).ok_or_else(|| Problem::invalid("folder_id", "invalid_value", message))
    }

    /// Returns the keywords to set and to clear.
    fn read(self) -> Result<(BTreeSet<String>, BTreeSet<String>), Problem> {
        let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
        let named = [("seen", "$seen", self.seen), ("flagged", "$flagged", self.flagged)];
        let named =
            named.into_iter().filter_map(|(field, keyword, on)| Some((field.to_owned(), keyword.to_owned(), on?)));
        let keywords = self.keywords.unwrap_or_default();
        if keywords.len() > KEYWORDS_PER_UPDATE_MAX {
            let message = format!("at most {KEYWORDS_PER_UPDATE_MAX} keywords can be changed at once");
            return Err(Problem::invalid("keywords", "too_many", message));
        }
        let given = keywords.into_iter().map(|(keyword, on)| (format!("keywords.{keyword}"), keyword, on));
        for (field, keyword, on) in named.chain(given) {
            let keyword = keyword.to_ascii_lowercase();
            if !is_keyword(&keyword) {
                let message = "a keyword has 1 to 255 visible ASCII characters, none of ( ) { ] % * \" \\";
                return Err(Problem::invalid(field, "invalid_value", message));
            }
            if keyword == "$draft" {
                return Err(Problem::invalid(field, "read_only", "$draft cannot be changed"));
            }
            if wanted.insert(keyword, on).is_some_and(|before| before != on) {
                return Err(Problem::invalid(field, "conflict", "the same keyword is both set and cleared"));
            }
        }
        let pick = |on: bool| wanted.iter().filter(|(_, o)| **o == on).map(|(k, _)| k.clone()).collect();
        Ok((pick(true), pick(false)))
    }
}

/// Returns whether a text can be a keyword (RFC 8621 §4.1.1).
fn is_keyword(text: &str) -> bool {
    (1..=KEYWORD_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"(){]%*\"\\".contains(&b))
}

/// Update a message
///
/// Sets and clears keywords, of which `seen` and `flagged` are two, and moves it to another folder, in one step.
#[utoipa::path(
    patch,
    path = "/mailbox/messages/{message_id}",
    tag = "Mailbox API",
    operation_id = "mailboxUpdateMessage",
    params(("message_id" = String, Path, description = "Message id", example = "msg_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader, MailboxSelection),
    request_body = PatchMailboxMessageBody,
    responses(
        (status = 200, description = "The message", body = Data<MailboxMessage>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such message", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
    ),
)]
async fn update_message(
    call: Scoped<guards::MailboxSettingsUpdate>,
    State(app): State<App>,
    Id(id): Id<MessageId>,
    expected: IfMatch,
    Json(body): Json<PatchMailboxMessageBody>,
) -> Result<Reply<Data<MailboxMessage>>, Problem> {
    let mut row = existing(&app, &call, &id).await?;
    let fold: Versioned<Fold> = app.log.state(&call.caller.team, &[StreamId::Message(id.clone())]).await?;
    let folder = body.folder()?;
    let (add, remove) = body.read()?;
    let if_version = expected.version(fold.version);
    let keywords = ChangeKeywords { message: id, mailbox: call.mailbox()?.clone(), add, remove, if_version };
    let command = ChangeMessage { keywords, folder };
    let appended = app.append(&call, call.submission(command)).await?;
    // The row was read before; what the command knows is newer.
    let stored = appended.state.stored.as_ref().ok_or_else(Problem::not_found)?;
    row.keywords.clone_from(&stored.keywords);
    row.folder = stored.folder;
    let parsed = parsed(&app, &call, &row).await?;
    let tag = ETag::of_version(appended.state.version);
    Ok(Reply::ok(call.data(MailboxMessage::new(&app, &call, &row, parsed))).tagged(&tag))
}

/// Parameters of the deletion.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// With `true` the message is destroyed; otherwise it goes to the trash.
    #[serde(default, deserialize_with = "flag")]
    permanent: Option<bool>,
}

/// Delete a message
///
/// Moves it to the trash, from where it can be restored, or destroys it.
#[utoipa::path(
    delete,
    path = "/mailbox/messages/{message_id}",
    tag = "Mailbox API",
    operation_id = "mailboxDeleteMessage",
    params(("message_id" = String, Path, description = "Message id", example = "msg_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader, DeleteQuery, MailboxSelection),
    responses(
        (status = 200, description = "Deleted", body = Data<Deleted>),
        (status = 404, description = "No such message", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
    ),
)]
async fn delete_message(
    call: Scoped<guards::MailboxSettingsUpdate>,
    State(app): State<App>,
    Id(id): Id<MessageId>,
    Query(query): Query<DeleteQuery>,
    expected: IfMatch,
) -> Result<Reply<Data<Deleted>>, Problem> {
    let fold: Versioned<Fold> = app.log.state(&call.caller.team, &[StreamId::Message(id.clone())]).await?;
    let command = DeleteMessage {
        message: id.clone(),
        mailbox: call.mailbox()?.clone(),
        mode: if query.permanent == Some(true) { Deletion::Permanent } else { Deletion::ToTrash },
        if_version: expected.version(fold.version),
    };
    app.append(&call, call.submission(command)).await?;
    Ok(Reply::ok(call.data(Deleted::new(&id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let body: PatchMailboxMessageBody = serde_json::from_str(json).unwrap();
        let lists = body.read().map_err(|p| p.errors()[0].field.clone())?;
        Ok((lists.0.into_iter().collect(), lists.1.into_iter().collect()))
    }

    #[test]
    fn keywords_are_set_and_cleared_in_lower_case() {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(read("{}"), Ok((vec![], vec![])));
        assert_eq!(
            read(r#"{"seen":true,"flagged":false,"keywords":{"Todo":true,"$Seen":true}}"#),
            Ok((strings(&["$seen", "todo"]), strings(&["$flagged"])))
        );
    }

    #[test]
    fn a_faulty_keyword_is_named() {
        for (json, field) in [
            (r#"{"keywords":{"":true}}"#, "keywords."),
            (r#"{"keywords":{"a b":true}}"#, "keywords.a b"),
            (r#"{"keywords":{"a(":true}}"#, "keywords.a("),
            (r#"{"keywords":{"$draft":true}}"#, "keywords.$draft"),
            (r#"{"seen":true,"keywords":{"$SEEN":false}}"#, "keywords.$SEEN"),
        ] {
            assert_eq!(read(json), Err(field.to_owned()), "{json}");
        }
        let many: Vec<_> = (0..51).map(|n| format!("\"k{n}\":true")).collect();
        assert_eq!(read(&format!("{{\"keywords\":{{{}}}}}", many.join(","))), Err("keywords".to_owned()));
    }
}
