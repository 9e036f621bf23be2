//! What a mailbox's credential can do here, and where the mailbox stands.

use axum::extract::State;
use domain::StreamId;
use domain::Versioned;
use domain::mailbox::Mailbox;
use mail::content::{BODY_CHARS_DEFAULT, BODY_CHARS_MAX};
use serde::Serialize;
use utoipa::ToSchema;

use super::changes::{Feed, MailboxStates};
use super::mailbox_send::INLINE_BYTES_MAX;
use super::mailbox_uploads::BYTES_MAX;
use super::messages::KEYWORDS_PER_UPDATE_MAX;
use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::etag::{ETag, IfNoneMatch};
use crate::openapi::{IfNoneMatchHeader, MailboxSelection, Routes};
use crate::problem::Problem;
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_session))
}

/// The most octets of a composed message.
const RAW_MESSAGE_BYTES_MAX: usize = 26_214_400;
const TYPES: [&str; 6] = ["messages", "folders", "threads", "submissions", "identities", "quotas"];

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident { $($flag:ident: $value:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, ToSchema)]
        struct $name {
            $($flag: bool,)+
        }

        impl $name {
            const NOW: Self = Self { $($flag: $value,)+ };
        }
    )+};
}

flags! {
    /// What can be done with attachments.
    SessionAttachments {
        upload: true, download: true, range_download: true, metadata: true, parsing: false,
        send_with_uploaded_blob: true,
    }
    /// What can be done with folders.
    SessionFolders {
        list: true, detail: true, create: false, update: false, delete: false, changes: true, query_changes: false,
    }
    /// What can be done with identities.
    SessionIdentities { list: false, changes: true, create: false, update: false, delete: false }
    /// What can be done with quotas.
    SessionQuotas { list: false, usage: false, changes: true, update: false }
    /// What can be done with submissions.
    SessionSubmissions { list: true, detail: true, changes: true, send: true }
    /// What can be done with threads.
    SessionThreads { list: true, detail: true, messages: true, clean_content: false, changes: true }
    /// What is left out on purpose.
    SessionGated {
        identity_mutation: true, quota_mutation: true, vacation_response: true, filter_script_writes: true,
        events: false, raw_protocol: true, attachment_parsing: true, message_copy: true, message_import: true,
        message_parse: true, blob_lookup: true, blob_copy: true,
    }
}

/// What can be done with messages.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SessionMessages {
    list: bool,
    detail: bool,
    raw_body: bool,
    clean_content: bool,
    batch_get: bool,
    count: bool,
    search_snippets: bool,
    changes: bool,
    query_changes: bool,
    update_fields: [&'static str; 3],
    keywords: bool,
    batch_update: bool,
    delete: bool,
    permanent_delete: bool,
}

/// How a mailbox is kept in step.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SessionSync {
    typed_changes: bool,
    types: [&'static str; 6],
    query_changes: [&'static str; 0],
}

/// What can be done.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SessionCapabilities {
    messages: SessionMessages,
    threads: SessionThreads,
    folders: SessionFolders,
    submissions: SessionSubmissions,
    identities: SessionIdentities,
    quotas: SessionQuotas,
    attachments: SessionAttachments,
    sync: SessionSync,
}

/// How much of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SessionLimits {
    list_limit_max: u32,
    changes_limit_max: u32,
    batch_ids_max: u32,
    message_body_chars_default: usize,
    thread_body_chars_default: usize,
    body_chars_max: usize,
    inline_attachment_bytes_max: usize,
    attachment_upload_bytes_max: usize,
    outbound_raw_message_bytes_max: usize,
    keywords_per_update_max: usize,
}

/// Where it is done, below the API's own path.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SessionEndpoints {
    mailbox: Vec<&'static str>,
    messages: Vec<&'static str>,
    threads: Vec<&'static str>,
    folders: Vec<&'static str>,
    submissions: Vec<&'static str>,
    usage: Vec<&'static str>,
    sync: Vec<&'static str>,
}

/// The mailbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct SessionMailbox {
    #[schema(example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    email: String,
    #[schema(required)]
    display_name: Option<String>,
}

/// A mailbox and what its credential can do.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MailboxSession {
    mailbox: SessionMailbox,
    states: MailboxStates,
    capabilities: SessionCapabilities,
    limits: SessionLimits,
    /// True where something is left out on purpose.
    gated: SessionGated,
    endpoints: SessionEndpoints,
}

fn capabilities() -> SessionCapabilities {
    SessionCapabilities {
        messages: SessionMessages {
            list: true,
            detail: true,
            raw_body: true,
            clean_content: true,
            batch_get: false,
            count: false,
            search_snippets: false,
            changes: true,
            query_changes: false,
            update_fields: ["seen", "flagged", "keywords"],
            keywords: true,
            batch_update: false,
            delete: true,
            permanent_delete: true,
        },
        threads: SessionThreads::NOW,
        folders: SessionFolders::NOW,
        submissions: SessionSubmissions::NOW,
        identities: SessionIdentities::NOW,
        quotas: SessionQuotas::NOW,
        attachments: SessionAttachments::NOW,
        sync: SessionSync { typed_changes: true, types: TYPES, query_changes: [] },
    }
}

fn endpoints() -> SessionEndpoints {
    SessionEndpoints {
        mailbox: vec!["GET /mailbox/me", "GET /mailbox/connection", "GET /mailbox/session"],
        messages: vec![
            "GET /mailbox/messages",
            "GET /mailbox/messages/{message_id}",
            "GET /mailbox/messages/{message_id}/body",
            "GET /mailbox/messages/{message_id}/content",
            "GET /mailbox/messages/{message_id}/attachments/{attachment_id}",
            "PATCH /mailbox/messages/{message_id}",
            "DELETE /mailbox/messages/{message_id}",
            "POST /mailbox/messages/send",
            "POST /mailbox/attachments:upload",
            "POST /mailbox/attachment-uploads",
        ],
        threads: vec![
            "GET /mailbox/threads",
            "GET /mailbox/threads/{thread_id}",
            "GET /mailbox/threads/{thread_id}/messages",
        ],
        folders: vec!["GET /mailbox/folders", "GET /mailbox/folders/{folder_id}"],
        submissions: vec![
            "GET /mailbox/submissions",
            "GET /mailbox/submissions/{submission_id}",
            "GET /mailbox/submissions/changes",
        ],
        usage: vec![],
        sync: vec!["GET /mailbox/changes", "GET /mailbox/events"],
    }
}

/// Get the session
///
/// What can be done with the mailbox, how much of it, and the state tokens of everything in it.
#[utoipa::path(
    get,
    path = "/mailbox/session",
    tag = "Mailbox API",
    operation_id = "mailboxGetSession",
    params(IfNoneMatchHeader, MailboxSelection),
    responses(
        (status = 200, description = "The session", body = Data<MailboxSession>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
    ),
)]
async fn get_session(
    call: Scoped<guards::MailboxRead>,
    State(app): State<App>,
    known: IfNoneMatch,
) -> Result<Reply<Data<MailboxSession>>, Problem> {
    let id = call.mailbox()?;
    let mailbox: Versioned<Mailbox> = app.log.state(&call.caller.team, &[StreamId::Mailbox(id.clone())]).await?;
    let session = MailboxSession {
        mailbox: SessionMailbox {
            id: id.to_string(),
            email: mailbox.email.clone().unwrap_or_default(),
            display_name: mailbox.display_name.clone(),
        },
        states: Feed::new(&app, &call, 1).await?.states().await?,
        capabilities: capabilities(),
        limits: SessionLimits {
            list_limit_max: 100,
            changes_limit_max: 500,
            batch_ids_max: 100,
            message_body_chars_default: BODY_CHARS_DEFAULT,
            thread_body_chars_default: 25_000,
            body_chars_max: BODY_CHARS_MAX,
            inline_attachment_bytes_max: INLINE_BYTES_MAX,
            attachment_upload_bytes_max: BYTES_MAX,
            outbound_raw_message_bytes_max: RAW_MESSAGE_BYTES_MAX,
            keywords_per_update_max: KEYWORDS_PER_UPDATE_MAX,
        },
        gated: SessionGated::NOW,
        endpoints: endpoints(),
    };
    let tag = ETag::of_json(&session);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(session)).tagged(&tag))
}
