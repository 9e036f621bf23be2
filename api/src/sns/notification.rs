//! What Amazon SES says of a mail, in both of its formats: notifications of identities (`notificationType`) and events of
//! configuration sets (`eventType`). Pure: from text to feedback.

use std::collections::BTreeMap;

use domain::bounce::{Category, Kind, Verdict};
use domain::id::OutboundId;
use domain::outbound::report::Report;
use domain::outbound::{Complaint as About, Feedback, RejectReason, UnsubscribeMethod};
use mail::bounce::classify_reported;
use mail::submission::MAIL_ID_FIELD;
use serde::Deserialize;

use crate::links::Reader;
use crate::receive::verdict_of;

/// The tag in which we name the mail when we hand it over.
const MAIL_TAG: &str = "postlog_mail";
/// Most recipients and fields of one notification that are looked at.
const LISTED_MAX: usize = 200;
/// Longest id of a mail that is Amazon's.
const MESSAGE_ID_OCTETS_MAX: usize = 255;

/// A notification.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Notification {
    event_type: Option<String>,
    notification_type: Option<String>,
    mail: Mail,
    bounce: Bounce,
    complaint: Complaint,
    delivery: Delivery,
    delivery_delay: Delay,
    reject: Reject,
    open: Open,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mail {
    timestamp: Option<String>,
    message_id: Option<String>,
    destination: Vec<String>,
    tags: BTreeMap<String, Vec<String>>,
    headers: Vec<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Field {
    name: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Recipient {
    email_address: String,
    status: Option<String>,
    diagnostic_code: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bounce {
    bounce_type: String,
    bounce_sub_type: String,
    bounced_recipients: Vec<Recipient>,
    #[serde(rename = "reportingMTA")]
    reporting_mta: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Complaint {
    complained_recipients: Vec<Recipient>,
    complaint_feedback_type: Option<String>,
    complaint_sub_type: Option<String>,
    user_agent: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Delivery {
    recipients: Vec<String>,
    smtp_response: Option<String>,
    #[serde(rename = "reportingMTA")]
    reporting_mta: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Delay {
    delay_type: String,
    delayed_recipients: Vec<Recipient>,
    expiration_time: Option<String>,
    #[serde(rename = "reportingMTA")]
    reporting_mta: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reject {
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Open {
    user_agent: Option<String>,
}

/// What is heard of one recipient, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    /// The address; `None` for all recipients.
    pub(super) recipient: Option<String>,
    pub(super) feedback: Feedback,
    pub(super) report: Report,
}

fn micros(time: Option<&String>) -> Option<i64> {
    time?.parse::<jiff::Timestamp>().ok().map(|at| at.as_microsecond())
}

impl Notification {
    /// Reads a notification; `None` where it is none.
    pub(super) fn read(text: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(text).ok()?;
        (read.event_type.is_some() || read.notification_type.is_some()).then_some(read)
    }

    fn name(&self) -> &str {
        self.event_type.as_deref().or(self.notification_type.as_deref()).unwrap_or_default()
    }

    /// Returns its kind as a metric's label.
    pub(super) fn kind(&self) -> &'static str {
        match self.name() {
            "Bounce" => "bounce",
            "Complaint" => "complaint",
            "Delivery" => "delivery",
            "DeliveryDelay" => "delay",
            "Reject" => "reject",
            "Open" => "opening",
            _ => "other",
        }
    }

    /// Returns Amazon's id of the mail.
    pub(super) fn message_id(&self) -> Option<&str> {
        self.mail.message_id.as_deref().filter(|id| (1..=MESSAGE_ID_OCTETS_MAX).contains(&id.len()))
    }

    /// Returns when the mail was handed over, microseconds since the Unix epoch.
    pub(super) fn mailed_at(&self) -> Option<i64> {
        micros(self.mail.timestamp.as_ref())
    }

    /// Returns our ids of the mail, as they came back.
    pub(super) fn own_ids(&self) -> Vec<OutboundId> {
        let tags = self.mail.tags.get(MAIL_TAG).into_iter().flatten();
        let fields = self.mail.headers.iter().take(LISTED_MAX);
        let fields = fields.filter(|field| field.name.eq_ignore_ascii_case(MAIL_ID_FIELD)).map(|field| &field.value);
        tags.chain(fields).filter_map(|id| id.trim().parse().ok()).take(2).collect()
    }

    /// Returns what is heard of which recipients: nothing where the notification says nothing that is recorded.
    pub(super) fn heard(&self) -> Vec<Heard> {
        let mut heard = match self.name() {
            "Bounce" => self.bounced(),
            "Complaint" => self.complained(),
            "Delivery" => self.delivered(),
            "DeliveryDelay" => self.delayed(),
            "Reject" => {
                let report = Report::of(self.reject.reason.as_deref().unwrap_or("rejected"), None);
                let feedback = Feedback::Rejected { reason: RejectReason::Provider };
                vec![Heard { recipient: None, feedback, report }]
            }
            "Open" => self.opened(),
            // Sent, clicked and what may come: not told to the log.
            _ => vec![],
        };
        for one in &mut heard {
            one.report.provider_message_id = self.message_id().map(str::to_owned);
        }
        heard
    }

    fn bounced(&self) -> Vec<Heard> {
        let bounce = &self.bounce;
        let about = |recipient: &Recipient| {
            let found = recipient.classified();
            let diagnostic = match found.diagnostic.is_empty() {
                true => format!("{} {}", bounce.bounce_type, bounce.bounce_sub_type),
                false => found.diagnostic.clone(),
            };
            let report = Report::of(&diagnostic, bounce.reporting_mta.as_deref().map(after_type));
            let feedback = match bounce.bounce_sub_type.as_str() {
                "Suppressed" | "OnAccountSuppressionList" => {
                    vec![Feedback::Rejected { reason: RejectReason::Suppressed }]
                }
                "UnsubscribedRecipient" => {
                    let method = UnsubscribeMethod::Provider;
                    vec![Feedback::Unsubscribed { method }, Feedback::Rejected { reason: RejectReason::Provider }]
                }
                _ => vec![bounce.feedback(verdict_of(&found))],
            };
            let recipient = Some(recipient.email_address.clone());
            feedback.into_iter().map(move |feedback| Heard {
                recipient: recipient.clone(),
                feedback,
                report: report.clone(),
            })
        };
        bounce.bounced_recipients.iter().take(LISTED_MAX).flat_map(about).collect()
    }

    fn complained(&self) -> Vec<Heard> {
        let complaint = &self.complaint;
        let feedback = match (complaint.complaint_sub_type.as_deref(), complaint.complaint_feedback_type.as_deref()) {
            // The mail was not sent, because of a complaint that is known there already.
            (Some("OnAccountSuppressionList"), _) => Feedback::Rejected { reason: RejectReason::Suppressed },
            (_, Some("auth-failure")) => {
                // For whoever runs this installation, and no complaint (RFC 6591).
                metrics::counter!("auth_failure_reports_total").increment(1);
                return vec![];
            }
            (_, kind) => {
                let complaint = match kind {
                    Some("abuse") | None => About::Abuse,
                    Some("fraud") => About::Fraud,
                    Some("virus") => About::Virus,
                    Some("not-spam") => About::NotSpam,
                    Some("opt-out") => About::OptOut,
                    Some(_) => About::Other,
                };
                Feedback::Complained { complaint }
            }
        };
        let report = Report::of(complaint.user_agent.as_deref().unwrap_or("feedback report"), None);
        let about = |to: &Recipient| Heard {
            recipient: Some(to.email_address.clone()),
            feedback: feedback.clone(),
            report: report.clone(),
        };
        complaint.complained_recipients.iter().take(LISTED_MAX).map(about).collect()
    }

    /// Amazon does not say which recipient opened a mail: it is known where the mail went to one alone.
    fn opened(&self) -> Vec<Heard> {
        let [to] = self.mail.destination.as_slice() else { return vec![] };
        let reader = Reader::called(self.open.user_agent.as_deref().unwrap_or_default());
        // What the reader is called is not written down, as with our own pictures.
        let heard = reader.map(|reader| Heard {
            recipient: Some(to.clone()),
            feedback: Feedback::Opened { machine: reader.machine_by_name() },
            report: Report::default(),
        });
        heard.into_iter().collect()
    }

    fn delivered(&self) -> Vec<Heard> {
        let delivery = &self.delivery;
        let said = delivery.smtp_response.as_deref().unwrap_or("delivered");
        let report = Report::of(said, delivery.reporting_mta.as_deref().map(after_type));
        let about =
            |to: &String| Heard { recipient: Some(to.clone()), feedback: Feedback::Delivered, report: report.clone() };
        delivery.recipients.iter().take(LISTED_MAX).map(about).collect()
    }

    fn delayed(&self) -> Vec<Heard> {
        let delay = &self.delivery_delay;
        let expires_at = micros(delay.expiration_time.as_ref());
        let about = |to: &Recipient| {
            let found = to.classified();
            let verdict = verdict_of(&found);
            let told = category(found.category.as_str());
            // What is tried again says nothing about the address.
            let category =
                if told == Category::Undetermined || told.kind() == Kind::Hard { delay.category() } else { told };
            let report = Report::of(&found.diagnostic, delay.reporting_mta.as_deref().map(after_type));
            let feedback = Feedback::Delayed { verdict: Verdict { category, ..verdict }, expires_at };
            Heard { recipient: Some(to.email_address.clone()), feedback, report }
        };
        delay.delayed_recipients.iter().take(LISTED_MAX).map(about).collect()
    }
}

/// Returns the log's word for a category.
fn category(name: &str) -> Category {
    Category::parse(name).unwrap_or(Category::Undetermined)
}

/// Cuts `dns;` off the name of a server.
fn after_type(mta: &str) -> &str {
    mta.split_once(';').map_or(mta, |(_, name)| name).trim()
}

impl Recipient {
    fn classified(&self) -> mail::bounce::Classification {
        classify_reported(self.status.as_deref(), self.diagnostic_code.as_deref().unwrap_or_default())
    }
}

impl Bounce {
    /// Returns the bounce, by its type and by what the recipient's server said. The server's words win where they tell of
    /// something other than the address: who is blocked for its reputation must not lose its recipients.
    fn feedback(&self, said: Verdict) -> Feedback {
        let named = match (self.bounce_type.as_str(), self.bounce_sub_type.as_str()) {
            ("Permanent", "NoEmail") => Some(Category::UserUnknown),
            ("Permanent", "General") if said.category == Category::Undetermined => Some(Category::UserUnknown),
            ("Transient", "MailboxFull") => Some(Category::MailboxFull),
            ("Transient", "MessageTooLarge") => Some(Category::MessageTooLarge),
            ("Transient", "ContentRejected" | "AttachmentRejected") => Some(Category::ContentRejected),
            ("Transient", "CustomTimeoutExceeded") => Some(Category::Expired),
            // Given up, which is no proof that the address does not exist.
            ("Transient", _) if said.category.kind() == Kind::Hard => Some(Category::Expired),
            _ => None,
        };
        let kind = match self.bounce_type.as_str() {
            "Permanent" => Kind::Hard,
            "Transient" => Kind::Soft,
            _ => Kind::Undetermined,
        };
        let verdict = Verdict { category: named.unwrap_or(said.category), ..said };
        Feedback::Bounced { verdict, kind: Some(kind) }
    }
}

impl Delay {
    fn category(&self) -> Category {
        match self.delay_type.as_str() {
            "MailboxFull" => Category::MailboxFull,
            "SpamDetected" => Category::ContentRejected,
            "IPFailure" => Category::PolicyBlocked,
            "TransientCommunicationFailure" | "RecipientServerError" => Category::Network,
            "SendingDeferral" => Category::RateLimited,
            _ => Category::Undetermined,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bounce(kind: &str, sub: &str, diagnostic: Option<&str>) -> Vec<Heard> {
        let to = json!({"emailAddress": "Bob@example.net", "status": "5.0.0", "diagnosticCode": diagnostic});
        let text = json!({
            "notificationType": "Bounce", "mail": {"messageId": "0102"},
            "bounce": {"bounceType": kind, "bounceSubType": sub, "bouncedRecipients": [to]},
        });
        Notification::read(&text.to_string()).unwrap().heard()
    }

    fn verdict(heard: &[Heard]) -> (Category, Option<Kind>) {
        match &heard[0].feedback {
            Feedback::Bounced { verdict, kind } => (verdict.category, *kind),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bounces_are_told_apart_by_type_and_by_what_the_server_said() {
        use Category as C;
        let rows = [
            ("Permanent", "General", None, C::UserUnknown, Kind::Hard),
            ("Permanent", "General", Some("smtp; 550 5.1.1 user unknown"), C::UserUnknown, Kind::Hard),
            ("Permanent", "General", Some("smtp; 554 5.7.1 blocked using a DNSBL"), C::PolicyBlocked, Kind::Hard),
            ("Permanent", "NoEmail", Some("smtp; 550 5.7.1 go away"), C::UserUnknown, Kind::Hard),
            ("Permanent", "SomethingNew", None, C::Undetermined, Kind::Hard),
            ("Transient", "General", None, C::Undetermined, Kind::Soft),
            ("Transient", "General", Some("smtp; 550 5.1.1 user unknown"), C::Expired, Kind::Soft),
            ("Transient", "MailboxFull", None, C::MailboxFull, Kind::Soft),
            ("Transient", "MessageTooLarge", None, C::MessageTooLarge, Kind::Soft),
            ("Transient", "ContentRejected", None, C::ContentRejected, Kind::Soft),
            ("Transient", "AttachmentRejected", None, C::ContentRejected, Kind::Soft),
            ("Transient", "CustomTimeoutExceeded", None, C::Expired, Kind::Soft),
            ("Undetermined", "Undetermined", None, C::Undetermined, Kind::Undetermined),
            ("Undetermined", "Undetermined", Some("smtp; 452 4.2.2 mailbox full"), C::MailboxFull, Kind::Undetermined),
            ("Whatever", "New", None, C::Undetermined, Kind::Undetermined),
        ];
        for (kind, sub, diagnostic, category, told) in rows {
            let heard = bounce(kind, sub, diagnostic);
            assert_eq!(verdict(&heard), (category, Some(told)), "{kind} {sub} {diagnostic:?}");
            assert_eq!(heard[0].report.provider_message_id.as_deref(), Some("0102"));
        }
        let suppressed = Feedback::Rejected { reason: RejectReason::Suppressed };
        for sub in ["Suppressed", "OnAccountSuppressionList"] {
            assert_eq!(bounce("Permanent", sub, None)[0].feedback, suppressed);
        }
        let left = bounce("Permanent", "UnsubscribedRecipient", None);
        assert!(matches!(left[0].feedback, Feedback::Unsubscribed { method: UnsubscribeMethod::Provider }));
    }

    #[test]
    fn delays_name_their_cause_and_their_end() {
        let text = json!({
            "eventType": "DeliveryDelay", "mail": {"messageId": "0102"},
            "deliveryDelay": {
                "delayType": "MailboxFull", "expirationTime": "2026-11-22T10:00:00.000Z",
                "delayedRecipients": [{"emailAddress": "bob@example.net", "status": "4.4.1"}],
            },
        });
        let heard = Notification::read(&text.to_string()).unwrap().heard();
        let Feedback::Delayed { verdict, expires_at } = &heard[0].feedback else { panic!("{heard:?}") };
        assert_eq!(
            (verdict.category, *expires_at),
            (Category::Network, Some(1_795_341_600_000_000)),
            "the server's word wins"
        );
        let text = text.to_string().replace("4.4.1", "4.0.0");
        let heard = Notification::read(&text).unwrap().heard();
        let Feedback::Delayed { verdict, .. } = &heard[0].feedback else { panic!("{heard:?}") };
        assert_eq!(verdict.category, Category::MailboxFull);
    }

    #[test]
    fn complaints_are_of_a_kind() {
        let of = |kind: serde_json::Value, sub: serde_json::Value| {
            let to = json!({"emailAddress": "bob@example.net"});
            let complaint =
                json!({"complainedRecipients": [to], "complaintFeedbackType": kind, "complaintSubType": sub});
            let text = json!({"notificationType": "Complaint", "complaint": complaint, "mail": {}});
            Notification::read(&text.to_string()).unwrap().heard().into_iter().map(|h| h.feedback).next()
        };
        let complained = |complaint| Some(Feedback::Complained { complaint });
        assert_eq!(of(json!("abuse"), json!(null)), complained(About::Abuse));
        assert_eq!(of(json!(null), json!(null)), complained(About::Abuse));
        assert_eq!(of(json!("not-spam"), json!(null)), complained(About::NotSpam));
        assert_eq!(of(json!("new-kind"), json!(null)), complained(About::Other));
        assert_eq!(of(json!("auth-failure"), json!(null)), None);
        let known = of(json!("abuse"), json!("OnAccountSuppressionList"));
        assert_eq!(known, Some(Feedback::Rejected { reason: RejectReason::Suppressed }));
    }

    #[test]
    fn an_opening_is_told_where_it_is_known_who_opened() {
        use domain::outbound::Machine as M;
        let of = |destination: serde_json::Value, agent: Option<&str>| {
            let open = json!({"userAgent": agent, "ipAddress": "192.0.2.1", "timestamp": "2026-11-21T10:00:00.000Z"});
            let mail = json!({"messageId": "0102", "destination": destination});
            let text = json!({"eventType": "Open", "mail": mail, "open": open}).to_string();
            Notification::read(&text).unwrap().heard()
        };
        for (agent, machine) in [
            (Some("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)"), Some(M::No)),
            (Some("Mozilla/5.0"), Some(M::Yes)),
            (Some("Mozilla/5.0 (via ggpht.com GoogleImageProxy)"), Some(M::Unknown)),
            (None, Some(M::Unknown)),
            (Some("SomeScanner/1.0"), None),
        ] {
            let heard = of(json!(["bob@example.net"]), agent);
            let told: Vec<_> = heard.iter().map(|h| (h.recipient.as_deref(), h.feedback.clone())).collect();
            let expected = machine.map(|machine| (Some("bob@example.net"), Feedback::Opened { machine }));
            assert_eq!(told, expected.into_iter().collect::<Vec<_>>(), "{agent:?}");
        }
        assert_eq!(of(json!(["bob@example.net", "eve@example.net"]), None), [], "one of them, but which?");
        assert_eq!(of(json!([]), None), []);
    }

    #[test]
    fn what_is_no_notification_says_nothing() {
        for text in ["", "Successfully validated SNS topic for Amazon SES event publishing.", "{}", "[]", "null"] {
            assert!(Notification::read(text).is_none(), "{text}");
        }
        for name in ["Send", "Open", "Click", "Rendering Failure", "Subscription", "Received", "Tomorrow"] {
            let text = json!({"eventType": name, "mail": {"messageId": "1"}, "extra": [1]}).to_string();
            assert_eq!(Notification::read(&text).unwrap().heard(), [], "{name}");
        }
    }

    #[test]
    fn a_mail_is_named_by_tag_or_by_field() {
        let id = OutboundId::new(1, [1; 9]);
        for mail in [
            json!({"tags": {"postlog_mail": [id], "ses:from-domain": ["a.test"]}}),
            json!({"headers": [{"name": "Subject", "value": "x"}, {"name": "x-postlog-id", "value": id}]}),
        ] {
            let text = json!({"eventType": "Bounce", "mail": mail}).to_string();
            assert_eq!(Notification::read(&text).unwrap().own_ids(), std::slice::from_ref(&id));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,200}") {
            let _ = Notification::read(&text).map(|n| n.heard());
        }
    }
}
