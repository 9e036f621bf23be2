//! Who may write to a mailbox.

use std::collections::BTreeMap;

use axum::extract::State;
use domain::id::MailboxId;
use domain::mailbox::{FilterMode, Mailbox, ReplaceSenderRules, SenderRule, Status};
use domain::{StreamId, Versioned};
use mail::address::SenderPattern;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::etag::{ETag, IfMatch, IfNoneMatch};
use crate::field::{required_list, text_or_null};
use crate::openapi::{IfMatchHeader, IfNoneMatchHeader, Routes};
use crate::path::Id;
use crate::problem::Problem;
use crate::{App, Json, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_mailbox_filters)).with(door!(set_mailbox_filters))
}

/// The sender rules of a mailbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct FilterState {
    mode: FilterModeName,
    /// Sorted by pattern.
    rules: Vec<FilterRule>,
}

/// How sender rules are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FilterModeName {
    Off,
    Allowlist,
    Denylist,
}

/// What a rule does to senders it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FilterRuleType {
    Allow,
    Deny,
}

/// One sender rule.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FilterRule {
    /// `allow` in an allowlist, `deny` in a denylist.
    #[serde(rename = "type")]
    kind: FilterRuleType,
    /// An address, a domain, or `*@domain`, which means the domain.
    #[schema(example = "example.com")]
    pattern: String,
    /// For people.
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>, max_length = 255)]
    note: Option<Option<String>>,
}

/// The sender rules a mailbox is to have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetFilterStateBody {
    pub(super) mode: FilterModeName,
    /// Replaces all rules.
    #[serde(deserialize_with = "required_list::<_, 0, 1_000, _>")]
    #[schema(max_items = 1000)]
    rules: Vec<FilterRule>,
}

impl FilterModeName {
    fn rule_type(self) -> Option<FilterRuleType> {
        match self {
            Self::Off => None,
            Self::Allowlist => Some(FilterRuleType::Allow),
            Self::Denylist => Some(FilterRuleType::Deny),
        }
    }
}

impl From<FilterMode> for FilterModeName {
    fn from(mode: FilterMode) -> Self {
        match mode {
            FilterMode::Off => Self::Off,
            FilterMode::Allowlist => Self::Allowlist,
            FilterMode::Denylist => Self::Denylist,
        }
    }
}

impl From<FilterModeName> for FilterMode {
    fn from(mode: FilterModeName) -> Self {
        match mode {
            FilterModeName::Off => Self::Off,
            FilterModeName::Allowlist => Self::Allowlist,
            FilterModeName::Denylist => Self::Denylist,
        }
    }
}

impl FilterState {
    pub(super) fn new(mode: FilterMode, rules: &[SenderRule]) -> Self {
        let mode = FilterModeName::from(mode);
        let rule = |rule: &SenderRule| FilterRule {
            kind: mode.rule_type().unwrap_or(FilterRuleType::Allow),
            pattern: rule.pattern.clone(),
            note: Some(rule.note.clone()),
        };
        Self { mode, rules: rules.iter().map(rule).collect() }
    }
}

/// Returns the rules in the form in which they are kept: normalised, sorted, each pattern once.
pub(super) fn normalised(body: &SetFilterStateBody) -> Result<Vec<SenderRule>, Problem> {
    let mut rules = BTreeMap::new();
    for (i, rule) in body.rules.iter().enumerate() {
        if Some(rule.kind) != body.mode.rule_type() {
            let field = format!("rules.{i}.type");
            let message = match body.mode {
                FilterModeName::Off => "rules need the mode allowlist or denylist",
                FilterModeName::Allowlist => "an allowlist has rules of type allow",
                FilterModeName::Denylist => "a denylist has rules of type deny",
            };
            return Err(Problem::unacceptable(field, "mode_mismatch", message));
        }
        let pattern = SenderPattern::parse(&rule.pattern)
            .map_err(|e| Problem::unacceptable(format!("rules.{i}.pattern"), "invalid_pattern", e.to_string()))?;
        let note = rule.note.clone().flatten().filter(|note| !note.is_empty());
        rules.insert(pattern.as_str().to_owned(), note);
    }
    Ok(rules.into_iter().map(|(pattern, note)| SenderRule { pattern, note }).collect())
}

async fn open_mailbox(app: &App, call: &crate::auth::Call, id: &MailboxId) -> Result<Versioned<Mailbox>, Problem> {
    let mailbox: Versioned<Mailbox> = app.log.state(&call.caller.team, &[StreamId::Mailbox(id.clone())]).await?;
    match mailbox.status {
        Status::Active | Status::Suspended => Ok(mailbox),
        Status::Absent | Status::Closed => Err(Problem::not_found()),
    }
}

/// Get sender rules
///
/// Who may write to the mailbox.
#[utoipa::path(
    get,
    path = "/mailboxes/{public_id}/filters",
    tag = "Mailboxes",
    operation_id = "managementGetMailboxFilters",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"), IfNoneMatchHeader),
    responses(
        (status = 200, description = "The rules", body = Data<FilterState>, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
    ),
)]
async fn get_mailbox_filters(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
    known: IfNoneMatch,
) -> Result<Reply<Data<FilterState>>, Problem> {
    let mailbox = open_mailbox(&app, &call, &id).await?;
    let tag = ETag::of_version(mailbox.version);
    if known.has(&tag) {
        return Ok(Reply::not_modified(&tag));
    }
    Ok(Reply::ok(call.data(FilterState::new(mailbox.filter_mode, &mailbox.rules))).tagged(&tag))
}

/// Set sender rules
///
/// Replaces the whole set at once. Senders are matched before their mail is accepted.
#[utoipa::path(
    put,
    path = "/mailboxes/{public_id}/filters",
    tag = "Mailboxes",
    operation_id = "managementSetMailboxFilters",
    params(("public_id" = String, Path, description = "Mailbox id", example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw"), IfMatchHeader),
    request_body = SetFilterStateBody,
    responses(
        (status = 200, description = "The rules", body = Data<FilterState>, headers(("ETag" = String))),
        (status = 400, description = "Invalid body", body = crate::problem::Body),
        (status = 404, description = "No such mailbox", body = crate::problem::Body),
        (status = 409, description = "It has changed since it was read", body = crate::problem::Body),
        (status = 422, description = "A rule does not fit its mode, or its pattern is none", body = crate::problem::Body),
    ),
)]
async fn set_mailbox_filters(
    call: Scoped<guards::MailboxAdminManage>,
    State(app): State<App>,
    Id(id): Id<MailboxId>,
    expected: IfMatch,
    Json(body): Json<SetFilterStateBody>,
) -> Result<Reply<Data<FilterState>>, Problem> {
    let mailbox = open_mailbox(&app, &call, &id).await?;
    let command = ReplaceSenderRules {
        mailbox: id,
        mode: body.mode.into(),
        rules: normalised(&body)?,
        if_version: expected.version(mailbox.version),
    };
    let answered = call.clone().into_call();
    app.submit(&call, call.submission(command), None, move |appended| {
        let tag = ETag::of_version(appended.state.version);
        let mailbox = &appended.state;
        Reply::ok(answered.data(FilterState::new(mailbox.filter_mode, &mailbox.rules))).tagged(&tag)
    })
    .await
}
