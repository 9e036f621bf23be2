//! How mailboxes are shown, and how what is said about them is read.

use domain::id::MailboxId;
use domain::mailbox::{Mailbox as Fold, SendScope, Status};
use domain::published::rfc3339;
use mail::address::Address;
use projections::mailboxes::Row;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::secret::Fresh;
use crate::config::MailServer;
use crate::problem::Problem;

/// The storage tiers, bytes.
pub(super) const QUOTA_TIERS: [i64; 3] = [1 << 30, 5 << 30, 50 << 30];
/// The most ids in a send scope.
const SCOPE_IDS_MAX: usize = 1_000;
const SHORT_CHARS: std::ops::RangeInclusive<usize> = 5..=254;

/// A mailbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Mailbox {
    #[schema(example = "mbx_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    /// The address, lower case.
    email: String,
    #[schema(required)]
    display_name: Option<String>,
    #[schema(required)]
    quota_bytes: Option<i64>,
    #[schema(required)]
    send_scope: Option<MailboxSendScope>,
    /// `active`, `suspended` or `deleted`.
    #[schema(example = "active")]
    status: &'static str,
    /// What its id says, so that row and fold say the same.
    created_at: String,
}

/// Which sending accounts a mailbox may send through.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MailboxSendScope {
    #[serde(rename = "type")]
    kind: ScopeType,
    /// Only for `providers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider_public_ids: Option<Vec<String>>,
    /// Only for `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_public_ids: Option<Vec<String>>,
}

/// How a send scope is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ScopeType {
    All,
    Providers,
    Group,
}

impl From<SendScope> for MailboxSendScope {
    fn from(scope: SendScope) -> Self {
        let (kind, provider_public_ids, group_public_ids) = match scope {
            SendScope::All => (ScopeType::All, None, None),
            SendScope::Providers { provider_public_ids } => (ScopeType::Providers, Some(provider_public_ids), None),
            SendScope::Group { group_public_ids } => (ScopeType::Group, None, Some(group_public_ids)),
        };
        Self { kind, provider_public_ids, group_public_ids }
    }
}

impl MailboxSendScope {
    pub(super) fn read(self) -> Result<SendScope, Problem> {
        let ids = |field: &str, ids: Option<Vec<String>>| {
            let field = format!("send_scope.{field}");
            let ids = ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
                Problem::unacceptable(field.clone(), "required", format!("{field} must name at least one"))
            })?;
            let sound = ids.len() <= SCOPE_IDS_MAX && ids.iter().all(|id| (1..=128).contains(&id.chars().count()));
            if sound {
                Ok(ids)
            } else {
                let message = format!("{field} must have at most {SCOPE_IDS_MAX} ids of 1 to 128 characters");
                Err(Problem::invalid(field, "invalid_length", message))
            }
        };
        Ok(match self.kind {
            ScopeType::All => SendScope::All,
            ScopeType::Providers => {
                SendScope::Providers { provider_public_ids: ids("provider_public_ids", self.provider_public_ids)? }
            }
            ScopeType::Group => SendScope::Group { group_public_ids: ids("group_public_ids", self.group_public_ids)? },
        })
    }
}

/// Returns the name of a status on the wire.
fn status_name(status: Status) -> &'static str {
    match status {
        Status::Absent | Status::Closed => "deleted",
        Status::Active => "active",
        Status::Suspended => "suspended",
    }
}

impl Mailbox {
    pub(super) fn of_row(row: &Row) -> Self {
        Self {
            id: row.id.to_string(),
            email: row.email.clone().unwrap_or_default(),
            display_name: row.display_name.clone(),
            quota_bytes: Some(row.quota_bytes),
            send_scope: Some(row.send_scope.clone().into()),
            status: status_name(row.status),
            created_at: rfc3339(row.id.allotted_at()),
        }
    }

    pub(super) fn of_fold(id: &MailboxId, fold: &Fold) -> Self {
        Self {
            id: id.to_string(),
            email: fold.email.clone().unwrap_or_default(),
            display_name: fold.display_name.clone(),
            quota_bytes: Some(fold.quota_bytes),
            send_scope: Some(fold.send_scope.clone().into()),
            status: status_name(fold.status),
            created_at: rfc3339(id.allotted_at()),
        }
    }
}

/// A mailbox credential, shown once.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxCredential {
    #[schema(example = "smx_06bqmn3t0d4gq2v8xk1hz7sw")]
    public_id: String,
    /// Bearer token for the API and password for IMAP and SMTP submission. Shown exactly once.
    secret: String,
    key_prefix: String,
    key_suffix: String,
    /// Mail server.
    server: String,
    imap_port: u16,
    smtp_port: u16,
    /// The mailbox's address.
    username: String,
}

impl MailboxCredential {
    pub(super) fn new(fresh: &Fresh, server: &MailServer, email: &str) -> Self {
        Self {
            public_id: fresh.minted.key.to_string(),
            secret: fresh.secret.expose_str().to_owned(),
            key_prefix: fresh.minted.prefix.clone(),
            key_suffix: fresh.minted.suffix.clone(),
            server: server.host.clone(),
            imap_port: server.imap_port,
            smtp_port: server.smtp_port,
            username: email.to_owned(),
        }
    }
}

/// Returns a quota that is one of the tiers.
pub(super) fn quota(bytes: i64) -> Result<i64, Problem> {
    if QUOTA_TIERS.contains(&bytes) {
        return Ok(bytes);
    }
    let message = format!("quota_bytes must be one of {}, {} and {}", QUOTA_TIERS[0], QUOTA_TIERS[1], QUOTA_TIERS[2]);
    Err(if bytes < 1 {
        Problem::invalid("quota_bytes", "invalid_value", message)
    } else {
        Problem::unacceptable("quota_bytes", "invalid_value", message)
    })
}

/// Returns the address if a mailbox can have it: a host name behind the `@` and an unquoted ASCII local part.
pub(super) fn mailbox_address(email: &str) -> Result<Address, String> {
    if !SHORT_CHARS.contains(&email.chars().count()) {
        return Err("the address must have 5 to 254 characters".to_owned());
    }
    let address = Address::parse(email).map_err(|e| e.to_string())?;
    if address.is_literal() || address.local().starts_with('"') || !address.local().is_ascii() {
        return Err("a mailbox's address has a plain local part and a domain name".to_owned());
    }
    Ok(address)
}
