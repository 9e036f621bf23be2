//! What a mail is: its bytes as they are stored, and the view of them that goes into the event.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::id::RequestId;
use domain::message::{Authentication, Correspondence};
use mail::address::Address;
use mail::auth::{AuthResult, AuthResults};
use mail::message::{ParseLimits, parse};
use mail::smtp::{Transaction, trace};
use mail::spam::{EnvelopeFacts, SpamPolicy};
use mail::thread::{minted_message_id, normalize_subject, references_for_threading, usable_message_id};
use sha2::{Digest, Sha256};

use super::{Inner, Refusal, bounds, origin};

/// Larger mails are worked on by threads of their own: an executor thread is not held for longer than this takes.
pub(super) const INLINE_OCTETS_MAX: usize = 64 * 1024;
/// A view that takes longer is given up; the mail is stored without it.
const VIEW_TIME_MAX: Duration = Duration::from_secs(2);

/// A mail, read once for all its copies.
pub(super) struct Content {
    /// Trace fields and the client's bytes.
    pub(super) raw: Bytes,
    /// Lower-case hex of the SHA-256 of `raw`.
    pub(super) sha256: String,
    /// What a repetition has in common with it: the digest of its Message-ID and of the client's bytes.
    pub(super) identity: [u8; 32],
    /// The envelope sender.
    pub(super) mail_from: Option<Address>,
    pub(super) is_spam: bool,
    pub(super) spam_score: i64,
    pub(super) spam_rules: Vec<String>,
    pub(super) attachments: u32,
    pub(super) authentication: Authentication,
    /// Whether the author's domain asks to refuse it: DMARC failed under `p=reject`. A look-up that failed never says so.
    pub(super) is_forged: bool,
    pub(super) sent_at: Option<i64>,
    /// Whether the subject begins as replies and forwards do.
    pub(super) is_reply_by_subject: bool,
    /// Whether it looks like a report of a mail system.
    pub(super) may_be_report: bool,
    /// Postlog wrote it itself.
    pub(super) own_report: bool,
    /// The personal half, but for the recipients, which differ by copy.
    pub(super) correspondence: Correspondence,
}

/// The stored bytes of a mail.
struct Stored {
    raw: Bytes,
    sha256: [u8; 32],
    /// SHA-256 of what the client sent.
    client_sha256: [u8; 32],
}

/// What parsing shows of a mail; empty for a mail that defeats the parser.
#[derive(Default)]
struct View {
    message_id: Option<String>,
    is_spam: bool,
    spam_score: i64,
    spam_rules: Vec<String>,
    attachments: u32,
    sent_at: Option<i64>,
    from: Option<domain::message::Person>,
    to: Vec<domain::message::Person>,
    cc: Vec<domain::message::Person>,
    subject: Option<String>,
    preview: String,
    references: Vec<String>,
    may_be_report: bool,
}

impl Content {
    /// Reads a mail: puts the trace fields on top, takes its digests, parses and judges it.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the program is stopping.
    pub(super) async fn read(
        inner: &Inner,
        verifies: bool,
        mut transaction: Transaction,
        request: &RequestId,
    ) -> Result<Self, Refusal> {
        let data = Bytes::from(std::mem::take(&mut transaction.data));
        let auth = match verifies {
            true => origin::check(inner, &transaction, &data).await,
            false => AuthResults::unchecked(),
        };
        let confirmed = auth.iprev.as_ref().filter(|iprev| iprev.result == AuthResult::Pass);
        if let Some(name) = confirmed.and_then(|iprev| iprev.name.clone()) {
            transaction.peer.reverse_name = Some(name);
        }
        let top = trace_fields(&transaction, &auth, &inner.options.hostname, request);
        let hostname = inner.options.hostname.clone();
        let large = data.len() > INLINE_OCTETS_MAX;
        let stored = if large {
            let assembled = tokio::task::spawn_blocking(move || assemble(&top, data, &hostname)).await;
            // The only way to fail is that the program is stopping.
            assembled.map_err(|_| Refusal::Unavailable)?
        } else {
            assemble(&top, data, &hostname)
        };
        let envelope = EnvelopeFacts {
            mail_from: transaction.reverse_path.address().map(|a| a.as_str().to_owned()),
            helo: transaction.helo.clone(),
        };
        let judge = Judge {
            policy: SpamPolicy { threshold_tenths: inner.options.spam_threshold_tenths },
            auth: auth.clone(),
            envelope,
        };
        let view =
            if large { view_apart(inner, stored.raw.clone(), judge).await } else { guarded_view(&stored.raw, &judge) };
        Ok(Self::new(inner, &transaction, &auth, stored, view.unwrap_or_default()))
    }

    fn new(inner: &Inner, transaction: &Transaction, auth: &AuthResults, stored: Stored, view: View) -> Self {
        let own_id = view.message_id.as_deref().unwrap_or_default();
        let identity = Sha256::new()
            .chain_update(b"postlog/mail/1\0")
            .chain_update(stored.client_sha256)
            .chain_update(own_id)
            .finalize()
            .into();
        let mail_from = transaction.reverse_path.address().cloned();
        let rfc5322_message_id = match &view.message_id {
            Some(id) => id.clone(),
            // Made from what the client sent, so that a repetition gets the same.
            None => minted_message_id(&stored.client_sha256, &inner.options.hostname),
        };
        Self {
            sha256: hex::encode(stored.sha256),
            raw: stored.raw,
            identity,
            is_spam: view.is_spam,
            spam_score: view.spam_score,
            spam_rules: view.spam_rules,
            attachments: view.attachments,
            authentication: origin::summary(auth),
            is_forged: origin::is_forged(auth),
            sent_at: view.sent_at,
            is_reply_by_subject: view.subject.as_deref().is_some_and(|s| normalize_subject(s).had_prefix),
            may_be_report: view.may_be_report,
            own_report: false,
            correspondence: Correspondence {
                mail_from: mail_from.as_ref().map(|a| a.as_str().to_owned()),
                rcpt_to: vec![],
                from: view.from,
                to: view.to,
                cc: view.cc,
                subject: view.subject,
                preview: view.preview,
                rfc5322_message_id,
                references: view.references,
                helo: transaction.helo.clone(),
                peer_ip: transaction.peer.address.to_canonical().to_string(),
                verified_domain: auth.verified_domain.clone(),
            },
            mail_from,
        }
    }
}

/// Returns the fields of this hop, in the order of RFC 5321 §4.4.
fn trace_fields(transaction: &Transaction, auth: &AuthResults, hostname: &str, request: &RequestId) -> String {
    let mut top = format!("Return-Path: {}\r\n", transaction.reverse_path);
    if auth.checked {
        top.push_str(&auth.authentication_results_header(hostname));
    }
    top.push_str(&transaction.received(hostname, request.as_str()).to_string());
    top
}

/// Puts the trace fields on top of what the client sent, without what nobody but us may claim.
fn assemble(top: &str, data: Bytes, hostname: &str) -> Stored {
    let client_sha256 = Sha256::digest(&data).into();
    let kept = trace::without_untrusted_trace(&data, hostname);
    let mut raw = Vec::with_capacity(top.len() + kept.len());
    raw.extend_from_slice(top.as_bytes());
    raw.extend_from_slice(&kept);
    Stored { sha256: Sha256::digest(&raw).into(), client_sha256, raw: raw.into() }
}

/// What a verdict on a mail needs besides the mail.
struct Judge {
    policy: SpamPolicy,
    auth: AuthResults,
    envelope: EnvelopeFacts,
}

fn view(raw: &[u8], judge: &Judge) -> View {
    let parsed = parse(raw, &ParseLimits::default());
    let verdict = judge.policy.score(&parsed, &judge.auth, &judge.envelope);
    let automatic = &parsed.automatic;
    View {
        message_id: usable_message_id(&parsed).and_then(bounds::message_id).map(str::to_owned),
        is_spam: verdict.is_spam,
        spam_score: verdict.score.into(),
        spam_rules: verdict.rules.into_iter().map(|rule| rule.name).collect(),
        attachments: u32::try_from(parsed.attachments.iter().filter(|a| !a.inline).count()).unwrap_or(u32::MAX),
        sent_at: parsed.sent_at,
        from: parsed.from.as_ref().map(bounds::person),
        to: bounds::people(&parsed.to),
        cc: bounds::people(&parsed.cc),
        subject: parsed.subject.as_deref().map(bounds::subject),
        references: bounds::references(references_for_threading(&parsed)),
        may_be_report: automatic.report || automatic.null_return_path || automatic.sender_is_robot,
        preview: parsed.preview,
    }
}

/// A mail that makes the parser panic is stored without a view: refusing it would have it sent again and again.
fn guarded_view(raw: &[u8], judge: &Judge) -> Option<View> {
    match catch_unwind(AssertUnwindSafe(|| view(raw, judge))) {
        Ok(view) => Some(view),
        Err(_) => {
            without_view("panic");
            None
        }
    }
}

/// Parses a large mail on a thread of its own, a bounded number of them at the same time.
async fn view_apart(inner: &Inner, raw: Bytes, judge: Judge) -> Option<View> {
    let permit = Arc::clone(&inner.parsers).acquire_owned().await.ok()?;
    let parsing = tokio::task::spawn_blocking(move || {
        // A view that is given up goes on until it ends; its place is free only then.
        let _permit = permit;
        guarded_view(&raw, &judge)
    });
    match tokio::time::timeout(VIEW_TIME_MAX, parsing).await {
        Ok(view) => view.ok().flatten(),
        Err(_) => {
            without_view("timeout");
            None
        }
    }
}

fn without_view(reason: &'static str) {
    metrics::counter!("smtp_messages_without_view_total", "reason" => reason).increment(1);
    tracing::error!(reason, "a mail defeated the parser and is stored without a view");
}
