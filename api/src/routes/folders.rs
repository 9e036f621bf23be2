//! Folders of one mailbox. Every mailbox has the same ones.

use axum::extract::State;
use domain::message::Folder;
use projections::folders::{self, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Scoped, guards};
use crate::envelope::{Data, List, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::openapi::{IfNoneMatchHeader, MailboxSelection, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::query::{Limit, Query};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(list_folders)).with(door!(get_folder))
}

/// A folder.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxFolder {
    #[schema(example = "inbox")]
    id: String,
    name: String,
    #[schema(required)]
    parent_id: Option<String>,
    /// What a built-in folder is for.
    #[schema(required)]
    role: Option<String>,
    #[schema(required)]
    sort_order: Option<u32>,
    total_messages: u64,
    unread_messages: u64,
    can_add_items: bool,
}

impl MailboxFolder {
    fn new(row: &Row) -> Self {
        let id = row.folder.as_str();
        let order = Folder::ALL.iter().position(|folder| *folder == row.folder).unwrap_or(0);
        Self {
            id: id.to_owned(),
            name: name(row.folder).to_owned(),
            parent_id: None,
            role: Some(id.to_owned()),
            sort_order: u32::try_from(order).ok(),
            total_messages: row.messages,
            unread_messages: row.unread,
            can_add_items: true,
        }
    }
}

fn name(folder: Folder) -> &'static str {
    match folder {
        Folder::Inbox => "Inbox",
        Folder::Drafts => "Drafts",
        Folder::Sent => "Sent",
        Folder::Junk => "Junk",
        Folder::Trash => "Trash",
        Folder::Archive => "Archive",
    }
}

/// A folder's id in a path.
struct FolderId(Folder);

impl std::str::FromStr for FolderId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Folder::parse(text).map(Self).ok_or(())
    }
}

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// How many at most.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 50)]
    limit: Limit<100, 50>,
}

/// List folders
///
/// With how much is in them.
#[utoipa::path(
    get,
    path = "/mailbox/folders",
    tag = "Mailbox API",
    operation_id = "mailboxListFolders",
    params(ListQuery, MailboxSelection),
    responses((status = 200, description = "Folders", body = List<MailboxFolder>)),
)]
async fn list_folders(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Reply<List<MailboxFolder>>, Problem> {
    let rows = folders::list(&app.views, &call.caller.team, call.mailbox()?).await?;
    // The cursor is the last folder that was shown.
    let after = query.cursor.as_deref().map(|cursor| {
        let unknown = || Problem::invalid("cursor", "invalid_value", "the cursor is not one of this list");
        Folder::parse(cursor).ok_or_else(unknown)
    });
    let after = after.transpose()?;
    let mut shown: Vec<_> = rows.iter().filter(|row| after.is_none_or(|after| row.folder > after)).collect();
    let more = shown.len() > query.limit.get();
    shown.truncate(query.limit.get());
    let next_cursor = shown.last().filter(|_| more).map(|row| row.folder.as_str().to_owned());
    Ok(Reply::ok(call.list(shown.into_iter().map(MailboxFolder::new).collect(), next_cursor)))
}

/// Get a folder
#[utoipa::path(
    get,
    path = "/mailbox/folders/{folder_id}",
    tag = "Mailbox API",
    operation_id = "mailboxGetFolder",
    params(("folder_id" = String, Path, description = "Folder id", example = "inbox"), IfNoneMatchHeader, MailboxSelection),
    responses(
        (status = 200, description = "The folder", body = Data<MailboxFolder>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such folder", body = crate::problem::Body),
    ),
)]
async fn get_folder(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    Id(FolderId(folder)): Id<FolderId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxFolder>>, Problem> {
    let found = folders::get(&app.views, &call.caller.team, call.mailbox()?, folder).await?;
    let row = found.ok_or_else(Problem::not_found)?;
    let tag = ETag::of_version(row.changed_position);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(MailboxFolder::new(&row))).tagged(&tag))
}
