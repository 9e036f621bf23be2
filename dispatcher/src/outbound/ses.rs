//! Amazon SES, API version 2, as a way out: one signed `SendEmail` per mail, with the bytes as they are.
//!
//! The service writes `Message-ID` and `Date` anew and signs the mail itself, so it gets the mail unsigned. What becomes
//! of the mail later it tells by notifications.
//!
//! A request is made once, on a connection of its own: a kept connection that turns out to be closed would have to be
//! replaced, and nobody could say whether the first request was carried out.

mod sign;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use domain::bounce::{Category, Verdict};
use domain::id::{OutboundId, TeamId};
use domain::outbound::AttemptTrouble;
use domain::provider::credentials::Credentials;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use mail::address::Address;
use mail::bounce::classify_failure;
use serde::Deserialize;
use serde_json::json;

use super::config::Config;
use super::letter::Letter;
use super::results::verdict_of;
use crate::egress::policy::Policy;
use crate::egress::{Answer, AttemptError, Client, Limits, Phase, SystemResolver, Target};

use sign::Request;

const PATH: &str = "/v2/email/outbound-emails";
/// What notifications say whose mail it is, and which.
const TEAM_TAG: &str = "postlog_team";
const MAIL_TAG: &str = "postlog_mail";
/// Longest wait for an answer: a mail of 25 MiB takes its time.
const WITHIN: Duration = Duration::from_secs(120);
/// Longest name of a region.
const REGION_BYTES_MAX: usize = 32;

/// An account at Amazon SES.
pub(crate) struct Account {
    /// The region's name, such as `eu-west-1`.
    pub(crate) region: String,
    /// The configuration set.
    pub(crate) set: Option<String>,
    pub(crate) key: Credentials,
}

/// What came of a mail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was taken, under this id.
    Taken(String),
    /// It was refused for good.
    Refused(Verdict),
    /// It may have been taken.
    Uncertain,
    /// Nothing was taken.
    Failed(AttemptTrouble),
    /// Nothing was taken: the account is suspended, or sending is paused.
    Closed,
}

/// What was said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) outcome: Outcome,
    /// In one line.
    pub(crate) text: String,
    /// For the delivery log, without keys and content.
    pub(crate) transcript: String,
}

/// Sends through Amazon SES.
#[derive(Debug)]
pub(crate) struct Ses {
    client: Option<Client>,
    config: Config,
}

/// Returns where a region's service answers, or why not.
pub(super) fn endpoint(config: &Config, region: &str) -> Result<Target, String> {
    let named = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if region.is_empty() || region.len() > REGION_BYTES_MAX || !region.bytes().all(named) {
        return Err("the region is not one of Amazon's".to_owned());
    }
    let tail = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let origin = match config.ses_endpoint.trim_end_matches('/') {
        "" => format!("https://email.{region}.{tail}"),
        given => given.to_owned(),
    };
    Target::parse(&format!("{origin}{PATH}"), &policy(config)).map_err(|refused| refused.to_string())
}

/// Amazon is asked on its port, or an emulator where loopback is allowed.
fn policy(config: &Config) -> Policy {
    Policy { ports: vec![443], ..config.policy() }
}

impl Ses {
    pub(crate) fn new(config: &Config) -> Self {
        let limits = Limits {
            attempt_seconds: WITHIN.as_secs(),
            connect_seconds: config.connect_seconds.clamp(1, 120),
            pool_idle_max: 0,
            pool_idle_per_origin_max: 0,
            ..Limits::default()
        };
        let client = Client::new(policy(config), limits, Arc::new(SystemResolver::default()));
        Self { client: client.ok(), config: config.clone() }
    }

    /// Hands a mail over. `now` is in microseconds since the Unix epoch; the names come back with every notification.
    pub(crate) async fn send(
        &self,
        account: &Account,
        letter: &Letter,
        names: (&TeamId, &OutboundId),
        to: &[Address],
        now: i64,
    ) -> Said {
        let target = endpoint(&self.config, &account.region);
        let (client, target) = match (&self.client, target) {
            (Some(client), Ok(target)) => (client, target),
            (None, _) => return failed(AttemptTrouble::Unreachable, "there is no HTTP client".to_owned()),
            (_, Err(why)) => return failed(AttemptTrouble::Unreachable, why),
        };
        let body = Bytes::from(body(account, letter, names, to).to_string());
        let mut said = format!("C: POST {} [{} octets]\n", target.origin(), body.len());
        let answered = match headers(account, &target, &body, now) {
            Some(headers) => client.post(&target, headers, body, WITHIN).await,
            None => return failed(AttemptTrouble::LoginRefused, "the access key cannot be sent".to_owned()),
        };
        let (outcome, text) = match &answered {
            Ok(answer) => heard(answer),
            Err(error) => (lost(error), error.to_string()),
        };
        said.push_str(&format!("S: {text}\n"));
        Said { outcome, text, transcript: said }
    }
}

fn failed(trouble: AttemptTrouble, text: String) -> Said {
    Said { outcome: Outcome::Failed(trouble), text, transcript: String::new() }
}

fn body(
    account: &Account,
    letter: &Letter,
    (team, outbound): (&TeamId, &OutboundId),
    to: &[Address],
) -> serde_json::Value {
    let to: Vec<&str> = to.iter().map(Address::as_str).collect();
    let mut body = json!({
        "Destination": { "ToAddresses": to },
        "Content": { "Raw": { "Data": BASE64.encode(&letter.content) } },
        "EmailTags": [{ "Name": TEAM_TAG, "Value": team }, { "Name": MAIL_TAG, "Value": outbound }],
    });
    if let Some(set) = &account.set {
        body["ConfigurationSetName"] = json!(set);
    }
    if let Some(address) = letter.mail_from.address().filter(|_| letter.own_return_path) {
        body["FeedbackForwardingEmailAddress"] = json!(address.as_str());
    }
    body
}

fn headers(account: &Account, target: &Target, body: &[u8], now: i64) -> Option<HeaderMap> {
    let host = target.authority();
    let request = Request {
        method: "POST",
        path: target.path_and_query(),
        query: "",
        headers: &[("content-type", "application/json"), ("host", host)],
        body,
    };
    let signed = request.sign(&account.key, &account.region, "ses", now);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-amz-date", HeaderValue::from_str(&signed.date).ok()?);
    let mut authorization = HeaderValue::from_str(&signed.authorization).ok()?;
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    Some(headers)
}

#[derive(Deserialize)]
struct Taken {
    #[serde(rename = "MessageId")]
    message_id: String,
}

#[derive(Default, Deserialize)]
struct Fault {
    #[serde(alias = "Message", default)]
    message: String,
    #[serde(rename = "__type", alias = "code", default)]
    kind: String,
}

/// Reads an answer: what came of the mail, and what was said.
fn heard(answer: &Answer) -> (Outcome, String) {
    let status = answer.status;
    if answer.is_success() {
        let taken: Option<Taken> = serde_json::from_slice(&answer.body_preview).ok();
        // A yes without an id is still a yes: the mail must not be sent again.
        let id = taken.map(|t| t.message_id).unwrap_or_default();
        return (Outcome::Taken(id.clone()), format!("{status} {id}"));
    }
    let fault: Fault = serde_json::from_slice(&answer.body_preview).unwrap_or_default();
    let named = answer.headers.get("x-amzn-errortype").and_then(|v| v.to_str().ok()).unwrap_or(&fault.kind);
    // `prefix#Name` in bodies, `Name:http://…` in headers.
    let kind = named.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let text = format!("{status} {kind} {}", fault.message);
    (outcome_of(status, kind, &fault.message), text)
}

fn outcome_of(status: u16, kind: &str, message: &str) -> Outcome {
    let refused = |category| Outcome::Refused(Verdict::of(category));
    match kind {
        "TooManyRequestsException" | "LimitExceededException" | "ThrottlingException" | "Throttling" => {
            Outcome::Failed(AttemptTrouble::Throttled)
        }
        "AccountSuspendedException" | "SendingPausedException" => Outcome::Closed,
        "MailFromDomainNotVerifiedException" => refused(Category::SenderRejected),
        "MessageRejected" => Outcome::Refused(verdict_of(&classify_failure(message))),
        "BadRequestException" | "NotFoundException" => refused(Category::Protocol),
        _ => match status {
            401 | 403 => Outcome::Failed(AttemptTrouble::LoginRefused),
            429 => Outcome::Failed(AttemptTrouble::Throttled),
            413 => refused(Category::MessageTooLarge),
            400..=499 => refused(Category::Undetermined),
            // Redirects, and faults of theirs before anything was taken.
            _ => Outcome::Failed(AttemptTrouble::Throttled),
        },
    }
}

/// Says what a request without an answer means: until it was written, nothing; after that, nobody knows.
fn lost(error: &AttemptError) -> Outcome {
    use crate::egress::TlsFault;
    match error {
        AttemptError::Timeout(Phase::Answer)
        | AttemptError::Reset
        | AttemptError::BadResponse(_)
        | AttemptError::Tls(TlsFault::Protocol) => Outcome::Uncertain,
        AttemptError::Refused(_)
        | AttemptError::Dns(_)
        | AttemptError::Connect(_)
        | AttemptError::Tls(_)
        | AttemptError::Timeout(_) => Outcome::Failed(AttemptTrouble::Unreachable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_has_its_host_and_nothing_else_is_one() {
        let of = |region: &str| endpoint(&Config::default(), region).map(|t| t.authority().to_string());
        assert_eq!(of("eu-west-1"), Ok("email.eu-west-1.amazonaws.com".to_owned()));
        assert!(of("cn-north-1").unwrap().ends_with(".amazonaws.com.cn"));
        for bad in ["", "evil.example/", "a.b", "EU", "x@y", &"a".repeat(33)] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let config = Config { ses_endpoint: "http://127.0.0.1:4579".into(), ..Config::default() };
        assert!(endpoint(&config, "eu-west-1").is_err(), "an emulator needs the dangerous switch");
    }

    #[test]
    fn errors_are_told_apart() {
        use AttemptTrouble::{LoginRefused, Throttled};
        for (status, kind, expected) in [
            (429, "TooManyRequestsException", Outcome::Failed(Throttled)),
            (400, "LimitExceededException", Outcome::Failed(Throttled)),
            (400, "AccountSuspendedException", Outcome::Closed),
            (400, "SendingPausedException", Outcome::Closed),
            (400, "MailFromDomainNotVerifiedException", Outcome::Refused(Verdict::of(Category::SenderRejected))),
            (400, "BadRequestException", Outcome::Refused(Verdict::of(Category::Protocol))),
            (404, "NotFoundException", Outcome::Refused(Verdict::of(Category::Protocol))),
            (403, "InvalidSignatureException", Outcome::Failed(LoginRefused)),
            (403, "", Outcome::Failed(LoginRefused)),
            (500, "InternalServiceErrorException", Outcome::Failed(Throttled)),
            (503, "", Outcome::Failed(Throttled)),
            (301, "", Outcome::Failed(Throttled)),
        ] {
            assert_eq!(outcome_of(status, kind, ""), expected, "{status} {kind}");
        }
        assert!(matches!(outcome_of(400, "MessageRejected", "Email address is not verified."), Outcome::Refused(_)));
    }
}
