//! How a sending domain is shown: its state in the words of the contract, and its DNS records.

use domain::Versioned;
use domain::id::{DomainId, TeamId};
use domain::published::rfc3339;
use domain::sending_domain::records::{Expected, Installation, RecordKind, expected};
use domain::sending_domain::{Checks, Mode, RETIRED_STAYS_MICROS, SendingDomain, SigningKey, Status};
use projections::domains::Row;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a domain is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum DomainMode {
    /// Only as sender.
    SendOnly,
    /// As sender and for mailboxes.
    SendReceive,
}

impl From<DomainMode> for Mode {
    fn from(mode: DomainMode) -> Self {
        match mode {
            DomainMode::SendOnly => Self::SendOnly,
            DomainMode::SendReceive => Self::SendReceive,
        }
    }
}

impl From<Mode> for DomainMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::SendOnly => Self::SendOnly,
            Mode::SendReceive => Self::SendReceive,
        }
    }
}

/// Where a domain is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum VerificationStatus {
    Pending,
    Verified,
    Failed,
}

impl VerificationStatus {
    pub(super) fn of(status: Status) -> Self {
        match status {
            Status::Verified => Self::Verified,
            Status::Failed => Self::Failed,
            Status::Absent | Status::Pending | Status::Removed => Self::Pending,
        }
    }

    pub(super) fn filter(self) -> Status {
        match self {
            Self::Pending => Status::Pending,
            Self::Verified => Status::Verified,
            Self::Failed => Status::Failed,
        }
    }

    /// Returns the state of one part of the identity, given whether its records are right.
    fn of_part(self, right: bool) -> &'static str {
        match (right, self) {
            (true, _) => "success",
            (false, Self::Failed) => "failed",
            (false, Self::Pending | Self::Verified) => "pending",
        }
    }

    fn of_identity(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "success",
            Self::Failed => "failed",
        }
    }
}

/// A text record.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomainNameValueRecord {
    #[schema(example = "_sendmux.example.com")]
    name: String,
    value: String,
}

/// A mail exchanger of the domain itself.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomainMxRecord {
    priority: u16,
    target: String,
}

/// A mail exchanger of a name below the domain.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomainNamedMxRecord {
    name: String,
    priority: u16,
    target: String,
}

/// The records of the name that bounces go to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomainMailFromRecords {
    mx: MailboxDomainNamedMxRecord,
    spf: MailboxDomainNameValueRecord,
}

/// The records to publish.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomainDnsRecords {
    /// Empty for a domain that only sends.
    mx: Vec<MailboxDomainMxRecord>,
    mail_from: MailboxDomainMailFromRecords,
    spf: MailboxDomainNameValueRecord,
    dmarc: MailboxDomainNameValueRecord,
    /// One text record per signing key.
    dkim: Vec<MailboxDomainNameValueRecord>,
    verification: MailboxDomainNameValueRecord,
}

impl MailboxDomainDnsRecords {
    fn of(records: &[Expected]) -> Self {
        let of_kind = |kind: RecordKind| records.iter().filter(move |r| r.kind == kind);
        let text = |kind| {
            let mut records = of_kind(kind).map(named_text);
            records.next().unwrap_or_else(|| MailboxDomainNameValueRecord { name: String::new(), value: String::new() })
        };
        let bounces = of_kind(RecordKind::MailFromMx).next();
        Self {
            mx: of_kind(RecordKind::Mx)
                .map(|r| MailboxDomainMxRecord { priority: r.priority.unwrap_or_default(), target: r.value.clone() })
                .collect(),
            mail_from: MailboxDomainMailFromRecords {
                mx: MailboxDomainNamedMxRecord {
                    name: bounces.map(|r| r.name.clone()).unwrap_or_default(),
                    priority: bounces.and_then(|r| r.priority).unwrap_or_default(),
                    target: bounces.map(|r| r.value.clone()).unwrap_or_default(),
                },
                spf: text(RecordKind::MailFromSpf),
            },
            spf: text(RecordKind::Spf),
            dmarc: text(RecordKind::Dmarc),
            dkim: of_kind(RecordKind::Dkim).map(named_text).collect(),
            verification: text(RecordKind::Verification),
        }
    }
}

fn named_text(record: &Expected) -> MailboxDomainNameValueRecord {
    MailboxDomainNameValueRecord { name: record.name.clone(), value: record.value.clone() }
}

/// A sending domain.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomain {
    #[schema(example = "mdom_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    #[schema(example = "mail.example.com")]
    domain: String,
    mode: DomainMode,
    verification_status: VerificationStatus,
    /// `success`, `pending` or `failed`; null before the first check.
    #[schema(required)]
    ses_identity_verification_status: Option<&'static str>,
    /// Whether mail may be sent from it.
    #[schema(required)]
    ses_verified_for_sending: Option<bool>,
    /// Whether the signing keys are published: `success`, `pending`, `failed`, `not_started`.
    #[schema(required)]
    ses_dkim_status: Option<&'static str>,
    /// Whether its mail is signed.
    #[schema(required)]
    ses_dkim_signing_enabled: Option<bool>,
    /// When its records were last found changed.
    #[schema(required)]
    ses_identity_checked_at: Option<String>,
    /// Whether the records of the bounce name are right.
    #[schema(required)]
    ses_mail_from_status: Option<&'static str>,
    #[schema(required)]
    verified_at: Option<String>,
    created_at: String,
    /// Mailboxes on it that are not closed.
    mailbox_count: u32,
    dns_records: MailboxDomainDnsRecords,
}

/// What is known of a domain beside its own events.
pub(super) struct Beside {
    pub(super) verified_at: Option<i64>,
    pub(super) created_at: i64,
    pub(super) mailboxes: u32,
}

impl Beside {
    pub(super) fn of_row(row: &Row, mailboxes: u32) -> Self {
        Self { verified_at: row.verified_at, created_at: row.created_at, mailboxes }
    }
}

impl MailboxDomain {
    pub(super) fn new(id: &DomainId, domain: &SendingDomain, beside: &Beside, records: &[Expected]) -> Self {
        let status = VerificationStatus::of(domain.status);
        // Whom the operator vouches for needs no check.
        let is_known = domain.checks.is_some() || domain.status == Status::Verified;
        let parts = Parts::of(domain);
        Self {
            id: id.to_string(),
            domain: domain.name.clone(),
            mode: domain.mode.unwrap_or(Mode::SendReceive).into(),
            verification_status: status,
            ses_identity_verification_status: is_known.then(|| status.of_identity()),
            ses_verified_for_sending: is_known.then_some(domain.status == Status::Verified),
            ses_dkim_status: is_known.then_some(parts.dkim),
            ses_dkim_signing_enabled: is_known.then_some(parts.is_signing),
            ses_identity_checked_at: domain.checked_at.map(rfc3339),
            ses_mail_from_status: is_known.then_some(parts.mail_from),
            verified_at: beside.verified_at.map(rfc3339),
            created_at: rfc3339(beside.created_at),
            mailbox_count: beside.mailboxes,
            dns_records: MailboxDomainDnsRecords::of(records),
        }
    }
}

/// The states of the parts of an identity.
struct Parts {
    dkim: &'static str,
    is_signing: bool,
    mail_from: &'static str,
}

impl Parts {
    fn of(domain: &SendingDomain) -> Self {
        let status = VerificationStatus::of(domain.status);
        let checks = domain.checks.unwrap_or_default();
        let dkim = if domain.keys.is_empty() { "not_started" } else { status.of_part(checks.dkim) };
        let mail_from = status.of_part(checks.mail_from_mx && checks.mail_from_spf);
        Self { dkim, is_signing: domain.signing_keys().next().is_some(), mail_from }
    }
}

/// What a check found right.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomainVerifyChecks {
    mx: bool,
    verification_txt: bool,
    spf: bool,
    dmarc: bool,
    mail_from_mx: bool,
    mail_from_spf: bool,
}

/// What came of a check.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MailboxDomainVerifyResult {
    status: VerificationStatus,
    ses_identity_verification_status: &'static str,
    ses_verified_for_sending: bool,
    ses_dkim_status: &'static str,
    ses_dkim_signing_enabled: bool,
    ses_identity_checked_at: String,
    ses_mail_from_status: &'static str,
    checks: MailboxDomainVerifyChecks,
}

impl MailboxDomainVerifyResult {
    pub(super) fn new(domain: &SendingDomain, checks: Checks, checked_at: i64) -> Self {
        let status = VerificationStatus::of(domain.status);
        let parts = Parts::of(domain);
        let Checks { verification_txt, spf, dmarc, dkim: _, mx, mail_from_mx, mail_from_spf } = checks;
        Self {
            status,
            ses_identity_verification_status: status.of_identity(),
            ses_verified_for_sending: domain.status == Status::Verified,
            ses_dkim_status: parts.dkim,
            ses_dkim_signing_enabled: parts.is_signing,
            ses_identity_checked_at: rfc3339(checked_at),
            ses_mail_from_status: parts.mail_from,
            checks: MailboxDomainVerifyChecks { mx, verification_txt, spf, dmarc, mail_from_mx, mail_from_spf },
        }
    }
}

/// Returns the keys whose records have to be there: those that sign or will, and the last ones that did, for as long as
/// mail signed with them may be under way.
pub(super) fn published_keys(domain: &SendingDomain, retired_at: Option<i64>, now: i64) -> Vec<SigningKey> {
    let is_needed = retired_at.is_some_and(|at| now < at.saturating_add(RETIRED_STAYS_MICROS));
    domain.keys.iter().chain(domain.retired.iter().filter(|_| is_needed)).cloned().collect()
}

/// Returns the records that a domain must have now.
pub(super) fn records_of(
    team: &TeamId,
    domain: &Versioned<SendingDomain>,
    retired_at: Option<i64>,
    (at, now): (&Installation, i64),
) -> Vec<Expected> {
    let mode = domain.mode.unwrap_or(Mode::SendReceive);
    expected(team, &domain.name, mode, &published_keys(domain, retired_at, now), at)
}
