//! A message of Amazon SNS: what is signed, by which certificate, and what it asks for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
};
use serde::Deserialize;
use url::Url;

use super::certificate::PublicKey;
use super::unsigned;
use crate::problem::Problem;

/// Longest name of a region.
const REGION_OCTETS_MAX: usize = 32;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It asks whether the topic may be subscribed to.
    Confirmation,
    /// It brings something.
    Notification,
    /// It says that the subscription ended.
    Unsubscribed,
}

/// A message as it is sent.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope {
    #[serde(rename = "Type")]
    kind: String,
    message_id: String,
    pub(super) topic_arn: String,
    subject: Option<String>,
    pub(super) message: String,
    timestamp: String,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL", alias = "SigningCertUrl")]
    pub(super) signing_cert_url: String,
    token: Option<String>,
    #[serde(rename = "SubscribeURL", alias = "SubscribeUrl")]
    subscribe_url: Option<String>,
}

impl Envelope {
    pub(super) fn kind(&self) -> Result<Kind, Problem> {
        match self.kind.as_str() {
            "Notification" => Ok(Kind::Notification),
            "SubscriptionConfirmation" => Ok(Kind::Confirmation),
            "UnsubscribeConfirmation" => Ok(Kind::Unsubscribed),
            _ => Err(Problem::invalid("Type", "invalid_value", "it is no type of message")),
        }
    }

    /// Returns when it was sent, microseconds since the Unix epoch.
    pub(super) fn sent_at(&self) -> Result<i64, Problem> {
        let at: Result<jiff::Timestamp, _> = self.timestamp.parse();
        at.map(|at| at.as_microsecond()).map_err(|_| Problem::invalid("Timestamp", "invalid_value", "it is no time"))
    }

    /// Returns whether the signature is that of the key.
    pub(super) fn is_signed_with(&self, key: &PublicKey) -> bool {
        let algorithm: &'static RsaParameters = match self.signature_version.as_str() {
            // The default of Amazon's topics; a second pre-image of SHA-1 is out of reach.
            "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            "2" => &RSA_PKCS1_2048_8192_SHA256,
            _ => return false,
        };
        let Ok(signature) = BASE64.decode(&self.signature) else { return false };
        let key = UnparsedPublicKey::new(algorithm, key.as_rsa_der());
        key.verify(self.signed_text().as_bytes(), &signature).is_ok()
    }

    /// Returns what the signature is over: some of the fields, by name, each name and value on a line of its own.
    fn signed_text(&self) -> String {
        let is_notification = self.kind == "Notification";
        let fields = [
            ("Message", Some(&self.message)),
            ("MessageId", Some(&self.message_id)),
            ("Subject", self.subject.as_ref().filter(|_| is_notification)),
            ("SubscribeURL", self.subscribe_url.as_ref().filter(|_| !is_notification)),
            ("Timestamp", Some(&self.timestamp)),
            ("Token", self.token.as_ref().filter(|_| !is_notification)),
            ("TopicArn", Some(&self.topic_arn)),
            ("Type", Some(&self.kind)),
        ];
        let mut text = String::with_capacity(self.message.len() + 512);
        for (name, value) in fields {
            if let Some(value) = value {
                text.push_str(name);
                text.push('\n');
                text.push_str(value);
                text.push('\n');
            }
        }
        text
    }

    /// Returns where the subscription is confirmed: at Amazon SNS, and for nothing else.
    pub(super) fn confirmation_url(&self) -> Result<&str, Problem> {
        let given = self.subscribe_url.as_deref().unwrap_or_default();
        let url = of_sns(given).filter(|url| {
            let has = |name: &str, value: &str| url.query_pairs().any(|(n, v)| n == name && v == value);
            url.path() == "/" && has("Action", "ConfirmSubscription") && has("TopicArn", &self.topic_arn)
        });
        url.map(|_| given).ok_or_else(unsigned)
    }
}

/// Reads a URL of Amazon SNS: `https://sns.<region>.amazonaws.com/…`, on its usual port.
pub(super) fn of_sns(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?;
    let region = host.strip_prefix("sns.")?;
    let region = region.strip_suffix(".amazonaws.com").or_else(|| region.strip_suffix(".amazonaws.com.cn"))?;
    let is_region = !region.is_empty()
        && region.len() <= REGION_OCTETS_MAX
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let is_plain = url.username().is_empty() && url.password().is_none() && url.port().is_none();
    // What is fetched is the text: nothing in it may be read otherwise than here.
    let is_canonical = url.as_str() == text && url.fragment().is_none();
    (url.scheme() == "https" && is_region && is_plain && is_canonical).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_of_amazon_sns_are_fetched_from() {
        for good in [
            "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem",
            "https://sns.cn-north-1.amazonaws.com.cn/x.pem",
            "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:us-east-1:123456789012:a&Token=2",
        ] {
            assert!(of_sns(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "http://sns.eu-west-1.amazonaws.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
            "https://sns.eu-west-1.amazonaws.com@evil.example/x.pem",
            "https://a@sns.eu-west-1.amazonaws.com/x.pem",
            "https://evil.example/sns.eu-west-1.amazonaws.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem",
            "https://sns.evil.example.amazonaws.com/x.pem",
            "https://sns..amazonaws.com/x.pem",
            "https://sns.amazonaws.com/x.pem",
            "https://bucket.s3.eu-west-1.amazonaws.com/x.pem",
            "https://sns-eu-west-1.amazonaws.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com/a/../x.pem",
            "https://sns.eu-west-1.amazonaws.com/x.pem#a",
            "https://SNS.eu-west-1.amazonaws.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com\\@evil.example/x.pem",
            " https://sns.eu-west-1.amazonaws.com/x.pem",
            "file:///etc/passwd",
        ] {
            assert!(of_sns(bad).is_none(), "{bad}");
        }
    }
}
