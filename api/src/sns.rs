//! Notifications of Amazon SES, as Amazon SNS brings them: what became of mail after Amazon took it.
//!
//! Each account at Amazon SES has a URL of its own that nobody can guess. What comes there counts only if it is signed by
//! Amazon SNS ([`envelope`], [`certificate`]), is not old, and is of the one topic that the account is bound to: the first
//! whose subscription was confirmed there, or the one its owner names. The mail is found by our ids, which the
//! notification repeats, or by Amazon's own id of it; whether it was given to this account says the mail's own stream.
//!
//! Invariants:
//! - Nothing is fetched but from hosts of Amazon SNS, by `https`, and nothing for a message that is not expected.
//! - A repeated, reordered or replayed notification adds nothing: what is heard goes through the command that all other
//!   reports go through, too.

mod certificate;
mod envelope;
mod notification;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use domain::bounce::Source;
use domain::id::{OutboundId, ProviderId, RequestId, TeamId};
use domain::outbound::{Outbound, RecordFeedback, Rejected};
use domain::provider::{BindTopic, Provider, Status, Transport, is_topic};
use domain::{Actor, StreamId, Versioned};
use eventlog::{Submission, TransactError};
use mail::unsubscribe::Subscription;
use mail::verp::MacKey;
use projections::sent_mail;

use crate::App;
use crate::auth::secret::Pepper;
use crate::problem::{Code, Problem};
use crate::receive::numbers;

use certificate::Certificates;
use envelope::{Envelope, Kind};
use notification::Notification;

const KEY: &[u8] = b"postlog/notification-key/1\0";
/// Longest message: Amazon's are 256 KiB at most, before they are written as JSON.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How deep a message may be nested; it is flat.
const DEPTH_MAX: usize = 8;
/// The oldest message that counts, microseconds: Amazon repeats for an hour at most.
const AGE_MICROS_MAX: u64 = 60 * 60 * 1_000_000;
/// For how long a mail that is not known may yet become known, microseconds: it was taken, but not written down.
const UNRECORDED_MICROS_MAX: i64 = 2 * 60 * 1_000_000;

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

/// Nothing was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL leads to where nothing is fetched from.
    #[error("the URL is not one that is fetched")]
    Refused,
    /// There was no whole answer of a bounded size in time.
    #[error("there was no answer that could be used")]
    NoAnswer,
}

/// Fetches a URL by GET: bounded in time and size, from public addresses only, without following redirects.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// Returns what is at a URL.
    ///
    /// # Errors
    /// [`FetchError`] where there is no answer.
    async fn get(&self, url: &str) -> Result<Fetched, FetchError>;
}

/// What the door of notifications has. Cheap to clone.
#[derive(Clone)]
pub struct Notifications {
    key: MacKey,
    origin: String,
    fetch: Option<Arc<dyn Fetch>>,
    certificates: Arc<Certificates>,
}

impl std::fmt::Debug for Notifications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifications").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// The account that a URL is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) team: TeamId,
    pub(crate) provider: ProviderId,
}

impl Notifications {
    /// Returns the door of an installation that is reached under this origin. It takes nothing until it can fetch.
    #[must_use]
    pub fn new(origin: &str, pepper: &Pepper) -> Self {
        Self {
            key: MacKey::new(pepper.mac(KEY, &[])),
            origin: origin.trim_end_matches('/').to_owned(),
            fetch: None,
            certificates: Arc::default(),
        }
    }

    /// Returns the same door, which fetches certificates and confirms subscriptions.
    #[must_use]
    pub fn with_fetch(mut self, fetch: Arc<dyn Fetch>) -> Self {
        self.fetch = Some(fetch);
        self
    }

    /// Returns the URL that an account's topic is subscribed to.
    pub(crate) fn url(&self, team: &TeamId, provider: &ProviderId) -> Option<String> {
        let (team, recipient) = (team.to_string(), provider.to_string());
        let token = Subscription { team, stream: String::new(), recipient }.token(&self.key)?;
        Some(format!("{}/api/v1/provider-notifications/{token}", self.origin))
    }

    /// Returns the account whose URL ends in this token.
    pub(crate) fn account(&self, token: &str) -> Option<Account> {
        let Subscription { team, recipient, .. } = Subscription::from_token(token, &self.key)?;
        Some(Account { team: team.parse().ok()?, provider: recipient.parse().ok()? })
    }
}

fn refused(message: &'static str) -> Problem {
    Problem::forbidden(message)
}

fn told(kind: &'static str) {
    metrics::counter!("provider_notifications_total", "kind" => kind).increment(1);
}

/// Takes a message that came to an account's URL.
///
/// # Errors
/// It is not taken: for good (4xx), or Amazon is to try again (5xx).
pub(crate) async fn take(app: &App, account: &Account, body: &[u8], request: &RequestId) -> Result<(), Problem> {
    let fetch = app.notifications.fetch.as_ref().ok_or_else(Problem::unavailable)?;
    let state = provider(app, account).await?;
    let envelope: Envelope = crate::body::parse(body, DEPTH_MAX)?;
    let kind = envelope.kind()?;
    if !is_topic(&envelope.topic_arn) {
        return Err(Problem::invalid("TopicArn", "invalid_value", "it is not the name of a topic"));
    }
    let bound = match (&state.topic, kind) {
        (Some(bound), _) => *bound == envelope.topic_arn,
        (None, Kind::Confirmation) => true,
        (None, Kind::Notification | Kind::Unsubscribed) => false,
    };
    if !bound {
        told("foreign");
        return Err(refused("The account's notifications do not come from this topic."));
    }
    let now = app.allot.now();
    if envelope.sent_at()?.checked_sub(now).is_none_or(|ahead| ahead.unsigned_abs() > AGE_MICROS_MAX) {
        told("late");
        return Err(refused("The message is not of this hour."));
    }
    let key = app.notifications.certificates.key(fetch.as_ref(), &envelope.signing_cert_url, now).await?;
    if !envelope.is_signed_with(&key) {
        told("forged");
        return Err(refused("The signature does not fit."));
    }
    match kind {
        Kind::Confirmation => confirm(app, fetch.as_ref(), account, &envelope, request).await,
        Kind::Notification => hear(app, account, &envelope.message, request).await,
        Kind::Unsubscribed => {
            told("unsubscribed");
            tracing::warn!(team.id = %account.team, "the notifications of a sending account were unsubscribed");
            Ok(())
        }
    }
}

async fn provider(app: &App, account: &Account) -> Result<Versioned<Provider>, Problem> {
    let stream = [StreamId::Provider(account.provider.clone())];
    let state: Versioned<Provider> = app.log.state(&account.team, &stream).await?;
    let is_ses = state.settings.as_ref().is_some_and(|s| matches!(s.transport, Transport::Ses { .. }));
    let exists = matches!(state.status, Status::Active | Status::Inactive);
    if exists && is_ses { Ok(state) } else { Err(Problem::not_found()) }
}

/// Confirms a subscription, then binds the account to its topic. Should the second fail, Amazon asks again.
async fn confirm(
    app: &App,
    fetch: &dyn Fetch,
    account: &Account,
    envelope: &Envelope,
    request: &RequestId,
) -> Result<(), Problem> {
    let url = envelope.confirmation_url()?;
    match fetch.get(url).await {
        Ok(answer) if (200..300).contains(&answer.status) => {}
        Ok(_) | Err(FetchError::NoAnswer) => return Err(Problem::unavailable()),
        Err(FetchError::Refused) => return Err(refused("The subscription cannot be confirmed from here.")),
    }
    let command = BindTopic { provider: account.provider.clone(), topic: envelope.topic_arn.clone() };
    app.log.transact(submission(app, account, request, command)).await?;
    told("confirmed");
    Ok(())
}

/// Returns a command in the name of this door.
fn submission<C: domain::Command>(app: &App, account: &Account, request: &RequestId, command: C) -> Submission<C> {
    let actor = Actor::System("provider notifications");
    Submission::new(account.team.clone(), app.allot.now(), actor, request.as_str(), command)
}

/// Records what a notification says of a mail.
async fn hear(app: &App, account: &Account, message: &str, request: &RequestId) -> Result<(), Problem> {
    // Amazon also says hello in plain words, and new kinds of notifications come without notice.
    let Some(notification) = Notification::read(message) else {
        told("unknown");
        return Ok(());
    };
    let heard = notification.heard();
    if heard.is_empty() {
        told("silent");
        return Ok(());
    }
    let Some((id, mail)) = find(app, account, &notification).await? else {
        let is_new = notification.mailed_at().is_some_and(|at| app.allot.now() - at < UNRECORDED_MICROS_MAX);
        told("orphan");
        return if is_new { Err(Problem::unavailable()) } else { Ok(()) };
    };
    told(notification.kind());
    for one in heard {
        let who = match &one.recipient {
            Some(address) => numbers(&mail, mail::address::Address::parse(address).ok().as_ref()),
            None => (0u8..).take(mail.recipients.len()).collect(),
        };
        for number in who {
            let Some(recipient) = mail.recipient(number) else { continue };
            let command = RecordFeedback {
                outbound: id.clone(),
                recipient: number,
                address: recipient.address.clone(),
                feedback: one.feedback.clone(),
                source: Source::Provider,
                report: one.report.clone(),
            };
            match app.log.transact(submission(app, account, request, command)).await {
                // It waits for another attempt, so this is about one that came to nothing.
                Ok(_) | Err(TransactError::Rejected(Rejected::NotSent)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Finds the mail of a notification among those that were given to the account.
async fn find(
    app: &App,
    account: &Account,
    notification: &Notification,
) -> Result<Option<(OutboundId, Versioned<Outbound>)>, Problem> {
    for id in notification.own_ids() {
        if let Some(mail) = mail_of(app, account, &id).await? {
            return Ok(Some((id, mail)));
        }
    }
    let Some(message_id) = notification.message_id() else { return Ok(None) };
    for second in [false, true] {
        if second {
            // The read models may be behind.
            let head = app.log.head(&account.team).await?;
            app.caught_up(&account.team, head.position).await;
        }
        for id in sent_mail::under_id(&app.views, &account.team, &account.provider, message_id).await? {
            if let Some(mail) = mail_of(app, account, &id).await? {
                return Ok(Some((id, mail)));
            }
        }
    }
    Ok(None)
}

/// Returns a mail that was given to the account.
async fn mail_of(app: &App, account: &Account, id: &OutboundId) -> Result<Option<Versioned<Outbound>>, Problem> {
    let mail: Versioned<Outbound> = app.log.state(&account.team, &[StreamId::Outbound(id.clone())]).await?;
    let provider = &account.provider;
    let given = mail.account.as_ref() == Some(provider)
        || mail.left.contains(provider)
        || mail.open.values().any(|attempt| attempt.account == *provider);
    Ok((mail.accepted.is_some() && given).then_some(mail))
}

/// Returns the problem of a message that is signed by nobody we know of.
fn unsigned() -> Problem {
    told("forged");
    Problem::new(Code::InsufficientPermissions, "The message does not come from Amazon SNS.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_of_one_account_and_cannot_be_made_up() {
        let door = Notifications::new("https://mail.example.com/", &Pepper::new([3; 32]));
        let account = Account { team: TeamId::new(1, [1; 9]), provider: ProviderId::new(2, [2; 9]) };
        let url = door.url(&account.team, &account.provider).unwrap();
        let token = url.strip_prefix("https://mail.example.com/api/v1/provider-notifications/").unwrap();
        assert_eq!(door.account(token), Some(account));
        let other = Notifications::new("https://mail.example.com", &Pepper::new([4; 32]));
        assert_eq!(other.account(token), None);
        assert_eq!(door.account(&token[1..]), None);
    }
}
