//! What outsiders see of sending: outgoing mail, accounts, groups, domains, money and the suppression list.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{WebhookData, WebhookEventType, rfc3339};
use crate::bounce::{Category, Source, Verdict};
use crate::outbound::{Event, Labels, Parties};
use crate::{Personal, api_key, balance, delivery_group, provider, routing, sending_domain, suppression};

/// Stored names of outgoing mail and the names they are published under, where no webhook type says otherwise.
const NAMES: &[(&str, &str)] = &[
    ("outbound.accepted", "message.queued"),
    ("outbound.rescheduled", "message.rescheduled"),
    ("outbound.paused", "message.paused"),
    ("outbound.resumed", "message.resumed"),
    ("outbound.cancelled", "message.cancelled"),
    ("outbound.retry_requested", "message.retry_requested"),
    ("outbound.postponed", "message.postponed"),
    ("outbound.attempt_started", "message.attempt_started"),
    ("outbound.attempt_failed", "message.attempt_failed"),
    ("outbound.sent", "message.sent"),
    ("outbound.delivered", "message.delivered"),
    ("outbound.deferred", "message.deferred"),
    ("outbound.delayed", "message.delivery_delayed"),
    ("outbound.uncertain", "message.uncertain"),
    ("outbound.rejected", "message.rejected"),
    ("outbound.bounced", "message.bounced"),
    ("outbound.complained", "message.complained"),
    ("outbound.opened", "message.opened"),
    ("outbound.unsubscribed", "message.unsubscribed"),
    ("outbound.released", "message.released"),
];

/// Returns the published name behind a stored one.
pub(super) fn name_of(stored: &str) -> Option<&'static str> {
    NAMES.iter().find(|(name, _)| *name == stored).map(|(_, published)| *published)
}

/// Returns the type under which webhooks are told of an outgoing mail.
pub(super) fn webhook_type(event: &Event) -> Option<WebhookEventType> {
    match event {
        Event::Delivered(_) => Some(WebhookEventType::Delivered),
        Event::Bounced(_) => Some(WebhookEventType::Bounced),
        Event::Complained(_) => Some(WebhookEventType::Complained),
        Event::Rejected(_) => Some(WebhookEventType::Rejected),
        Event::Delayed(_) => Some(WebhookEventType::DeliveryDelayed),
        Event::Deferred(e) if e.announced => Some(WebhookEventType::DeliveryDelayed),
        Event::Accepted(_)
        | Event::Rescheduled(_)
        | Event::Paused(_)
        | Event::Resumed(_)
        | Event::Cancelled(_)
        | Event::RetryRequested(_)
        | Event::Postponed(_)
        | Event::AttemptStarted(_)
        | Event::AttemptFailed(_)
        | Event::Sent(_)
        | Event::Deferred(_)
        | Event::Uncertain(_)
        | Event::Opened(_)
        | Event::Unsubscribed(_)
        | Event::Released(_)
        | Event::NoticePlanned(_)
        | Event::NoticeSettled(_) => None,
    }
}

/// What a webhook about an outgoing mail says beyond the contract's fifteen keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SendingDetails {
    /// What a refusal is about, see [`Category`].
    pub category: Option<String>,
    /// The SMTP reply code.
    pub smtp_code: Option<u16>,
    /// The enhanced status code (RFC 3463).
    pub enhanced_code: Option<String>,
    /// What the server said.
    pub diagnostic: Option<String>,
    /// The server that said it.
    pub remote_mta: Option<String>,
    /// Who told us: `smtp`, `dsn`, `provider` or `postlog`.
    pub source: Option<String>,
    /// The Message-ID, without angle brackets.
    pub rfc5322_message_id: Option<String>,
    /// What the caller wrote on the mail.
    pub labels: Labels,
}

fn source_name(source: Source) -> String {
    match source {
        Source::Smtp => "smtp",
        Source::Dsn => "dsn",
        Source::Provider => "provider",
        Source::Postlog => "postlog",
    }
    .to_owned()
}

fn delay_type(category: Category) -> &'static str {
    match category {
        Category::MailboxFull => "MailboxFull",
        Category::Network => "TransientCommunicationFailure",
        Category::ContentRejected => "SpamDetected",
        Category::PolicyBlocked => "IPFailure",
        Category::RateLimited | Category::Greylisted => "RecipientServerError",
        _ => "General",
    }
}

/// Returns the personal half of what is heard of a mail.
fn parties(event: &Event) -> Option<&Parties> {
    let half: &Personal<Parties> = match event {
        Event::Cancelled(e) => &e.personal,
        Event::AttemptFailed(e) => &e.personal,
        Event::Sent(e) => &e.personal,
        Event::Delivered(e) => &e.personal,
        Event::Deferred(e) => &e.personal,
        Event::Delayed(e) => &e.personal,
        Event::Uncertain(e) => &e.personal,
        Event::Rejected(e) => &e.personal,
        Event::Bounced(e) => &e.personal,
        Event::Complained(e) => &e.personal,
        Event::Opened(e) => &e.personal,
        Event::Unsubscribed(e) => &e.personal,
        Event::Accepted(_)
        | Event::Rescheduled(_)
        | Event::Paused(_)
        | Event::Resumed(_)
        | Event::RetryRequested(_)
        | Event::Postponed(_)
        | Event::AttemptStarted(_)
        | Event::Released(_)
        | Event::NoticePlanned(_)
        | Event::NoticeSettled(_) => return None,
    };
    half.known()
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns what a webhook about an outgoing mail says.
pub(super) fn webhook_data(event: &Event) -> Option<WebhookData> {
    webhook_type(event)?;
    let parties = parties(event);
    let provider_id = parties.and_then(|p| p.provider_message_id.clone());
    let kind = if provider_id.is_some() { "provider" } else { "rfc5322" };
    let message_id = provider_id.or_else(|| parties.and_then(|p| not_empty(&p.rfc5322_message_id)));
    let mut data = WebhookData {
        message_id_kind: message_id.is_some().then(|| kind.to_owned()),
        message_id,
        sendmux_message_id: Some(event.mail().outbound.to_string()),
        sender: parties.and_then(|p| not_empty(&p.sender)),
        recipients: parties.map(|p| p.recipients.clone()).unwrap_or_default(),
        mailbox_id: event.mail().mailbox.as_ref().map(ToString::to_string),
        ..WebhookData::default()
    };
    let mut details = SendingDetails {
        diagnostic: parties.and_then(|p| p.diagnostic.clone()),
        remote_mta: parties.and_then(|p| p.remote_mta.clone()),
        rfc5322_message_id: parties.and_then(|p| not_empty(&p.rfc5322_message_id)),
        labels: parties.map(|p| p.labels.clone()).unwrap_or_default(),
        ..SendingDetails::default()
    };
    let mut said = |verdict: &Verdict, source: Source| {
        details.category = Some(verdict.category.as_str().to_owned());
        details.smtp_code = verdict.smtp_code;
        details.enhanced_code = verdict.enhanced_text();
        details.source = Some(source_name(source));
    };
    match event {
        Event::Delivered(e) => details.source = Some(source_name(e.source)),
        Event::Bounced(e) => {
            data.bounce_type = Some(e.kind.contract_name().to_owned());
            data.bounce_subtype = Some(e.verdict.category.contract_subtype().to_owned());
            said(&e.verdict, e.source);
        }
        Event::Complained(e) => {
            data.complaint_type = Some(e.complaint.as_str().to_owned());
            details.source = Some(source_name(e.source));
        }
        Event::Rejected(e) => {
            data.reject_reason = Some(e.reason.as_str().to_owned());
            e.verdict.iter().for_each(|verdict| said(verdict, Source::Provider));
        }
        Event::Deferred(e) => {
            data.delay_type = Some(delay_type(e.verdict.category).to_owned());
            data.delay_expires_at = Some(rfc3339(e.expires_at));
            said(&e.verdict, Source::Smtp);
        }
        Event::Delayed(e) => {
            data.delay_type = Some(delay_type(e.verdict.category).to_owned());
            data.delay_expires_at = e.expires_at.map(rfc3339);
            said(&e.verdict, e.source);
        }
        _ => {}
    }
    data.details = Some(details);
    Some(data)
}

/// Puts the fields of one object into another.
fn extend(mut into: Value, from: Value) -> Value {
    if let (Value::Object(into), Value::Object(from)) = (&mut into, from) {
        into.extend(from);
    }
    into
}

/// Returns what the team sees of an event of an outgoing mail.
pub(super) fn mail_data(event: &Event) -> Value {
    let mail = event.mail();
    let common = json!({"id": mail.outbound, "mailbox_id": mail.mailbox, "key_id": mail.key});
    let common = match parties(event) {
        Some(p) => extend(
            common,
            json!({
                "sender": not_empty(&p.sender), "recipients": p.recipients, "message_id": not_empty(&p.rfc5322_message_id),
                "message_id_kind": "rfc5322", "provider_message_id": p.provider_message_id, "diagnostic": p.diagnostic,
                "remote_mta": p.remote_mta, "tags": p.labels.tags, "metadata": p.labels.metadata,
            }),
        ),
        None => common,
    };
    let verdict =
        |v: &Verdict| json!({"category": v.category, "smtp_code": v.smtp_code, "enhanced_code": v.enhanced_text()});
    let own = match event {
        Event::Accepted(e) => {
            let p = e.personal.known();
            json!({
                "origin": e.origin, "recipient_count": e.recipients.len(), "size_bytes": e.size_bytes, "sha256": e.sha256,
                "send_at": e.send_at.map(rfc3339), "purpose": e.purpose, "topic": e.topic, "delivery_groups": e.groups,
                "from": p.map(|p| &p.from), "recipients": p.map(|p| &p.recipients), "subject": p.and_then(|p| p.subject.as_ref()),
                "message_id": p.map(|p| &p.rfc5322_message_id), "message_id_kind": "rfc5322",
                "tags": p.map(|p| &p.labels.tags), "metadata": p.map(|p| &p.labels.metadata),
                "held": e.booking.held_nanos.to_six_decimals(),
            })
        }
        Event::Rescheduled(e) => json!({"send_at": rfc3339(e.send_at)}),
        Event::Cancelled(e) => json!({"recipient_numbers": e.recipients}),
        Event::RetryRequested(e) => json!({"recipient_numbers": e.recipients, "may_double": e.uncertain}),
        Event::Postponed(e) => json!({"reason": e.reason, "until": e.until.map(rfc3339)}),
        Event::AttemptStarted(e) => {
            json!({"attempt": e.attempt, "provider_id": e.account, "recipient_numbers": e.recipients})
        }
        Event::AttemptFailed(e) => json!({
            "attempt": e.attempt, "provider_id": e.account, "reason": e.trouble, "leaves_provider": e.leaves_account,
            "retry_at": rfc3339(e.retry_at),
        }),
        Event::Sent(e) => json!({
            "attempt": e.attempt, "provider_id": e.account, "recipient_numbers": e.recipients,
            "charged": e.booking.charged_nanos.to_six_decimals(),
        }),
        Event::Delivered(e) => json!({
            "provider_id": e.account, "source": e.source, "recipient_numbers": e.recipients,
            "charged": e.booking.charged_nanos.to_six_decimals(),
        }),
        Event::Deferred(e) => extend(
            verdict(&e.verdict),
            json!({
                "attempt": e.attempt, "recipient_numbers": e.recipients, "uncertain": e.uncertain,
                "retry_at": rfc3339(e.retry_at), "delay_expires_at": rfc3339(e.expires_at),
                "delay_type": delay_type(e.verdict.category),
            }),
        ),
        Event::Delayed(e) => extend(
            verdict(&e.verdict),
            json!({
                "recipient_numbers": [e.recipient], "source": e.source, "delay_expires_at": e.expires_at.map(rfc3339),
                "delay_type": delay_type(e.verdict.category),
            }),
        ),
        Event::Uncertain(e) => json!({"attempt": e.attempt, "recipient_numbers": e.recipients, "stage": e.stage}),
        Event::Rejected(e) => extend(
            e.verdict.as_ref().map_or_else(|| json!({}), verdict),
            json!({"recipient_numbers": e.recipients, "reject_reason": e.reason}),
        ),
        Event::Bounced(e) => extend(
            verdict(&e.verdict),
            json!({
                "recipient_numbers": [e.recipient], "bounce_kind": e.kind, "bounce_type": e.kind.contract_name(),
                "bounce_subtype": e.verdict.category.contract_subtype(), "source": e.source, "late": e.late,
            }),
        ),
        Event::Complained(e) => {
            json!({"recipient_numbers": [e.recipient], "complaint_type": e.complaint.as_str(), "source": e.source})
        }
        Event::Opened(e) => json!({"recipient_numbers": [e.recipient], "machine": e.machine}),
        Event::Unsubscribed(e) => json!({"recipient_numbers": [e.recipient], "method": e.method, "topic": e.topic}),
        Event::Released(e) => json!({
            "recipient_numbers": e.recipients, "released": e.booking.released_nanos.to_six_decimals(),
        }),
        Event::Paused(_) | Event::Resumed(_) | Event::NoticePlanned(_) | Event::NoticeSettled(_) => json!({}),
    };
    extend(common, own)
}

pub(super) fn domain_data(event: &sending_domain::Event) -> Value {
    use sending_domain::Event as E;
    let id = event.domain();
    match event {
        E::Added(e) => json!({"domain_id": id, "domain": e.name, "mode": e.mode}),
        E::Verified(e) => json!({"domain_id": id, "proof": e.proof}),
        E::Checked(e) => {
            json!({"domain_id": id, "checks": e.checks, "found": e.found, "checked_at": rfc3339(e.checked_at)})
        }
        E::Failed(e) => json!({"domain_id": id, "checks": e.checks}),
        E::ModeChanged(e) => json!({"domain_id": id, "mode": e.mode}),
        E::KeyAdded(e) => json!({
            "domain_id": id, "selector": e.selector, "algorithm": e.algorithm, "public_key": e.public_key,
        }),
        E::KeyActivated(e) | E::KeyRetired(e) => json!({"domain_id": id, "selector": e.selector}),
        E::RulesReplaced(e) => json!({"domain_id": id, "mode": e.mode, "rules": e.count}),
        E::Removed(e) => json!({"domain_id": id, "domain": e.name}),
    }
}

pub(super) fn provider_data(event: &provider::Event) -> Value {
    use provider::Event as E;
    let id = event.provider();
    let shown = |settings: &provider::Settings, identity: Option<&provider::Identity>| {
        json!({
            "provider_id": id, "type": settings.transport.kind(), "percentage": settings.percentage,
            "quotas": settings.quotas, "name": identity.map(|i| &i.name),
            "from_email": identity.and_then(|i| i.from_email.as_ref()),
        })
    };
    match event {
        E::Created(e) => extend(shown(&e.settings, e.personal.known()), json!({"is_shared": e.managed})),
        E::Reconfigured(e) => shown(&e.settings, e.personal.known()),
        E::Tested(e) => json!({
            "provider_id": id, "success": e.success, "latency_ms": e.latency_milliseconds,
            "tested_at": rfc3339(e.tested_at), "message": e.personal.known().map(|p| &p.message),
        }),
        E::Broken(e) => {
            json!({"provider_id": id, "reason": e.trouble, "message": e.personal.known().map(|p| &p.message)})
        }
        E::TopicBound(e) => json!({"provider_id": id, "topic_arn": e.topic}),
        E::CredentialsReplaced(_)
        | E::Mended(_)
        | E::Activated(_)
        | E::Deactivated(_)
        | E::Deleted(_)
        | E::TopicReleased(_) => json!({"provider_id": id}),
    }
}

pub(super) fn group_data(event: &delivery_group::Event) -> Value {
    use delivery_group::Event as E;
    let id = event.group();
    match event {
        E::Created(e) => {
            json!({"group_id": id, "name": e.personal.known().map(|p| &p.name), "members": e.members})
        }
        E::Renamed(e) => json!({"group_id": id, "name": e.personal.known().map(|p| &p.name)}),
        E::MembersChanged(e) => json!({"group_id": id, "members": e.members}),
        E::MadeDefault(_) | E::DefaultCleared(_) | E::Deleted(_) => json!({"group_id": id}),
    }
}

pub(super) fn routing_data(event: &routing::Event) -> Value {
    match event {
        routing::Event::Paused(e) | routing::Event::Resumed(e) => json!({"part": e.part}),
    }
}

pub(super) fn balance_data(event: &balance::Event) -> Value {
    use balance::Event as E;
    match event {
        E::ToppedUp(e) => json!({
            "payment_id": e.payment, "kind": e.kind, "amount": e.amount_nanos.to_six_decimals(),
            "note": e.personal.known().and_then(|p| p.note.as_ref()),
        }),
        E::Adjusted(e) => json!({
            "payment_id": e.payment, "kind": e.kind, "amount": e.amount_nanos.to_six_decimals(),
            "note": e.personal.known().and_then(|p| p.note.as_ref()),
        }),
        E::UsageCharged(e) => json!({
            "meter": e.meter, "day": e.day, "units": e.units, "amount": e.amount_nanos.to_six_decimals(),
        }),
        E::CreditLimitChanged(e) => json!({"credit_limit": e.credit_limit_nanos.to_six_decimals()}),
    }
}

pub(super) fn suppression_data(event: &suppression::Event) -> Value {
    use suppression::Event as E;
    let id = event.address();
    match event {
        E::Added(e) => json!({
            "address_id": id, "email": e.personal.known().map(|p| &p.email), "reason": e.cause.reason,
            "topic": e.cause.topic, "expires_at": e.expires_at.map(rfc3339), "sendmux_message_id": e.outbound,
            "note": e.personal.known().and_then(|p| p.note.as_ref()),
        }),
        E::Removed(e) => {
            json!({"address_id": id, "email": e.personal.known().map(|p| &p.email), "causes": e.causes})
        }
        E::EvidenceCleared(_) => json!({"address_id": id}),
    }
}

pub(super) fn send_scope_data(event: &api_key::SendScopeChanged) -> Value {
    json!({"key_id": event.key, "send_scope": event.send_scope})
}
