//! Whether a message is a report at all, and of which kind.

use serde::{Deserialize, Serialize};

use super::original::Original;
use super::report::{Status, recipient};
use super::text::{Words, copied_header, outcomes};
use super::{Action, Bounce, Incoming, Outcome, codes};
use crate::address::Address;
use crate::message::{HeaderField, ParseLimits, ParsedMessage, attachment_bytes, headers, parse};

/// Reports inside of forwarded messages are looked for this deep.
const DEPTH_MAX: usize = 2;

/// Why a message is no bounce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotABounce {
    /// A machine answered for somebody: out of office, ticket systems.
    AutoReply,
    /// A machine wants proof that a person wrote.
    Challenge,
    /// A receipt (RFC 8098).
    Receipt,
    /// A complaint (RFC 5965); see [`report`](crate::report).
    Complaint,
    /// A list holds the message for its moderator, or wants a subscription confirmed.
    List,
    /// Somebody wrote, or it cannot be told.
    Message,
}

pub(super) fn read(raw: &[u8], depth: usize) -> Incoming {
    let limits =
        ParseLimits { decoded_bytes_max: 4 * 1024 * 1024, body_bytes_max: 256 * 1024, ..ParseLimits::default() };
    let parsed = parse(raw, &limits);
    let fields = headers(raw, &limits);
    let mail = Mail { raw, limits: &limits, parsed: &parsed, fields: &fields };
    if crate::report::read_complaint(raw).is_some() {
        return Incoming::NotABounce(NotABounce::Complaint);
    }
    if mail.has_part("message/disposition-notification") {
        return Incoming::NotABounce(NotABounce::Receipt);
    }
    if let Some(bounce) = mail.standard() {
        return Incoming::Bounce(bounce);
    }
    if depth < DEPTH_MAX
        && let Some(inner) = mail.inner_report(depth)
    {
        return Incoming::Bounce(inner);
    }
    if mail.is_notice() {
        return Incoming::Bounce(mail.by_words());
    }
    Incoming::NotABounce(mail.kind())
}

struct Mail<'a> {
    raw: &'a [u8],
    limits: &'a ParseLimits,
    parsed: &'a ParsedMessage,
    fields: &'a [HeaderField],
}

/// Subjects of reports, in lower case.
const REPORT_SUBJECTS: &[&str] = &[
    "undeliver",
    "delivery status notification",
    "delivery failure",
    "delivery has failed",
    "delivery failed",
    "mail delivery",
    "message delivery",
    "failure notice",
    "returned mail",
    "returned to sender",
    "returned message",
    "mail system error",
    "could not be delivered",
    "couldn't be delivered",
    "nondeliverable",
    "non-deliverable",
    "non delivery",
    "non-delivery",
    "not deliverable",
    "delivery error",
    "delivery report",
    "delivery problem",
    "failed mail",
    "mail failure",
    "failed delivery",
    "message status - undeliverable",
    "unable to deliver",
    "undelivered mail",
    "unzustellbar",
    "nicht zustellbar",
    "non remis",
    "non distribu",
    "no se puede entregar",
    "error de entrega",
    "mancata consegna",
    "niet bezorgd",
    "onbestelbaar",
    "配信",
    "配送不能",
    "送信エラー",
    "delivery notification",
    "returning message to sender",
    "mail could not be",
    "was not delivered",
    "not delivered",
    "rejected:",
    "message rejected",
    "rejected mail",
    "bounce",
    "send failure",
    "failed to deliver",
    "undeliverable",
    "mdaemon warning",
    "mdaemon notification",
    "message undeliverable",
    "problems delivering",
    "problem with your mail",
    "mailer-daemon",
    "user unknown",
    "delivery incomplete",
    "недоставлен",
    "не доставлен",
    "退信",
    "系统退信",
    "returned",
    "postmaster notify",
    "mail error",
    "warning: message",
    "delivery delayed",
];

/// Words by which reports begin, in lower case.
const REPORT_WORDS: &[&str] = &[
    "could not be delivered",
    "couldn't be delivered",
    "could not deliver",
    "couldn't deliver",
    "wasn't able to deliver",
    "was not able to deliver",
    "unable to deliver",
    "not been delivered",
    "was not delivered",
    "wasn't delivered",
    "delivery to the following",
    "delivery failed",
    "failed to deliver",
    "did not reach",
    "undeliverable",
    "permanent error",
    "permanent fatal error",
    "fatal errors",
    "returned to sender",
    "delivery has failed",
    "delivery to these recipients",
    "was undeliverable",
    "message was rejected",
    "mail was rejected",
    "cannot be delivered",
    "can not be delivered",
    "can't be delivered",
    "unable to send",
    "user unknown",
    "no such user",
    "could not be sent",
    "non-delivery",
    "not deliverable",
    "was not accepted",
    "were not delivered",
    "not be delivered",
    "delivery failure",
    "did not receive this message",
    "delivery error",
    "undelivered",
    "rejected by",
    "配信できませんでした",
    "届けることができません",
    "送信できませんでした",
    "配送できません",
    "konnte nicht zugestellt",
    "n'a pas pu être",
    "no se ha podido entregar",
    "recipients of your message",
];

const AUTO_REPLY_SUBJECTS: &[&str] = &[
    "out of office",
    "out of the office",
    "automatic reply",
    "auto reply",
    "autoreply",
    "auto-reply",
    "auto response",
    "autoresponse",
    "auto:",
    "automatische antwort",
    "abwesenheit",
    "réponse automatique",
    "respuesta automática",
    "risposta automatica",
    "vacation",
    "on holiday",
    "away from my mail",
    "i am away",
    "自動返信",
    "自动回复",
    "自动答复",
    "automatisch antwoord",
    "absence",
    "thank you for contacting",
    "ticket received",
    "we have received your",
    "request received",
    "[ticket",
];

const CHALLENGES: &[&str] = &[
    "confirm that you are",
    "confirm your message",
    "please verify your",
    "verify your email",
    "verify yourself",
    "prove you are",
    "prove that you",
    "challenge-response",
    "challenge response",
    "spam arrest",
    "spamarrest",
    "boxtrapper",
    "tmda",
    "click here to verify",
    "click on the link below to confirm",
    "to be delivered, you must",
    "qurb",
    "anti-spam confirmation",
    "confirm your identity",
    "your message is being held",
];

const LISTS: &[&str] = &[
    "awaits moderator approval",
    "is being held",
    "moderator approval",
    "confirm subscription",
    "confirm your subscription",
    "subscription confirmation",
    "welcome to the",
    "your confirmation is required",
    "post to the list",
    "subscribe",
];

impl Mail<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.as_str())
    }

    fn subject(&self) -> String {
        self.parsed.subject.as_deref().unwrap_or_default().to_lowercase()
    }

    fn parts(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = Vec<u8>> {
        let parts = self.parsed.attachments.iter().filter(move |part| wanted(&part.content_type));
        parts.filter_map(|part| attachment_bytes(self.raw, part.part_id, self.limits))
    }

    fn has_part(&self, content_type: &str) -> bool {
        self.parsed.attachments.iter().any(|part| part.content_type == content_type)
            || self.field("Content-Type").is_some_and(|value| value.to_ascii_lowercase().starts_with(content_type))
    }

    fn returned(&self) -> Original {
        let returned = |kind: &str| {
            matches!(
                kind,
                "message/rfc822"
                    | "message/global"
                    | "text/rfc822-headers"
                    | "text/rfc822-header"
                    | "message/rfc822-headers"
                    | "message/global-headers"
                    | "message/partial"
            )
        };
        let found = self.parts(returned).map(|bytes| Original::read(&bytes)).find(|original| !original.is_empty());
        let mut original = found.unwrap_or_default();
        for name in ["To", "Delivered-To", "X-Original-To", "Envelope-To"] {
            let values = self.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
            let found =
                values.flat_map(|field| crate::header::addresses(&field.value, 20).0).map(|person| person.email);
            original.return_paths.extend(found);
        }
        original.return_paths.truncate(50);
        original
    }

    /// Reads a report with a machine-readable part. Some have it as plain text.
    fn standard(&self) -> Option<Bounce> {
        let status = self.parts(|kind| {
            matches!(
                kind,
                "message/delivery-status"
                    | "message/global-delivery-status"
                    | "text/delivery-status"
                    | "message/delivery-status-report"
            )
        });
        let mut status: Vec<Status> = status.map(|bytes| Status::read(&bytes)).collect();
        if status.is_empty()
            && self.field("Content-Type").is_some_and(|value| value.to_ascii_lowercase().contains("delivery-status"))
        {
            // A report whose parts cannot be told apart, or whose only part it is.
            status.push(Status::read(self.parsed.text.as_deref().unwrap_or_default().as_bytes()));
        }
        if !status.iter().any(|status| !status.recipients.is_empty()) {
            return None;
        }
        let mut original = self.returned();
        let text = self.parsed.text.as_deref().unwrap_or_default();
        let words = Words::split(text);
        if original.is_empty() {
            let copied = Original::read(copied_header(words.copy).as_bytes());
            original = Original { return_paths: original.return_paths, ..copied };
        }
        original.envelope_id = status.iter().find_map(|status| status.envelope_id.clone());
        let several = status.iter().map(|status| status.recipients.len()).sum::<usize>() > 1;
        let mut recipients: Vec<Outcome> = Vec::new();
        for recipient in status.iter().flat_map(|status| &status.recipients) {
            // What is said for people may be about any of several recipients.
            let said =
                recipient.address.as_ref().filter(|_| several).map(|address| about(words.notice, address.as_str()));
            let mut outcome = recipient.outcome(said.as_deref().unwrap_or(words.notice));
            if outcome.address.is_none() {
                outcome.address = self.unnamed(&original, &words, outcome.original_address.as_ref());
            }
            recipients.push(outcome);
        }
        let reporting_mta = status.iter().find_map(|status| status.reporting_mta.clone());
        Some(Bounce { recipients, original, reporting_mta, standard: true })
    }

    /// The recipient of a block that names none we can read.
    fn unnamed(&self, original: &Original, words: &Words<'_>, named: Option<&Address>) -> Option<Address> {
        if let Some(named) = named {
            return Some(named.clone());
        }
        let ours = self.ours(original);
        let found = outcomes(words, original, &self.failed_recipients(), &ours);
        found.into_iter().find_map(|outcome| outcome.address)
    }

    /// Tells whether a message without a machine-readable part is a report all the same.
    fn is_notice(&self) -> bool {
        if self.field("X-Failed-Recipients").is_some() {
            return true;
        }
        let subject = self.subject();
        let text = self.parsed.text.as_deref().unwrap_or_default();
        let words = Words::split(text).notice.to_lowercase();
        let begins: String = words.chars().take(4000).collect();
        let begins = begins.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_machine = self.is_machine();
        let by_subject = REPORT_SUBJECTS.iter().any(|known| subject.contains(known));
        let by_words = REPORT_WORDS.iter().any(|known| begins.contains(known));
        let auto = AUTO_REPLY_SUBJECTS.iter().any(|known| subject.contains(known))
            || CHALLENGES.iter().any(|known| subject.contains(known) || !by_subject && begins.contains(known));
        let vacation = self.parsed.automatic.auto_reply_header || self.field("X-Autorespond").is_some();
        if auto || vacation && !by_words || LISTS.iter().any(|known| subject.contains(known)) && !by_words {
            return false;
        }
        let copied = Original::read(copied_header(Words::split(text).copy).as_bytes());
        let has_original = !self.returned().is_empty() || !copied.is_empty();
        // What a machine says with a code in it is about a failure.
        let by_code = is_machine && (codes::enhanced(&begins).is_some() || codes::smtp_code(&begins).is_some());
        let weight = usize::from(by_code)
            + usize::from(is_machine)
            + usize::from(by_subject)
            + usize::from(by_words)
            + usize::from(has_original && by_subject);
        weight >= 2
    }

    fn is_machine(&self) -> bool {
        const MACHINES: [&str; 16] = [
            "mailer-daemon",
            "mailer_daemon",
            "postmaster",
            "mail-daemon",
            "maildaemon",
            "mdaemon",
            "mail-system",
            "mailsystem",
            "mailerdaemon",
            "mailadmin",
            "mail delivery",
            "mail administrator",
            "system administrator",
            "mail system",
            "systemadministrator",
            "daemon",
        ];
        // Some write `MAILER-DAEMON <>`, which is no address.
        let from = self.field("From").map(str::to_lowercase);
        self.parsed.automatic.null_return_path
            || from.is_some_and(|from| MACHINES.iter().any(|name| from.contains(name)))
    }

    fn failed_recipients(&self) -> Vec<Address> {
        let fields = self.fields.iter().filter(|field| {
            ["X-Failed-Recipients", "X-Failed-Recipient", "X-Rcpt-To", "X-Failed-To"]
                .iter()
                .any(|name| field.name.eq_ignore_ascii_case(name))
        });
        fields.flat_map(|field| field.value.split(',')).filter_map(recipient).take(super::RECIPIENTS_MAX).collect()
    }

    /// Everyone who cannot be the recipient.
    fn ours(&self, original: &Original) -> Vec<String> {
        let people = self.parsed.from_all.iter().chain(&self.parsed.to).map(|person| person.email.clone());
        let all = people.chain(original.from.clone()).chain(original.return_paths.iter().cloned());
        // Some name the recipient where others name us.
        all.filter(|address| !original.to.iter().any(|to| to.eq_ignore_ascii_case(address))).collect()
    }

    fn by_words(&self) -> Bounce {
        let text = self.parsed.text.as_deref().unwrap_or_default();
        let words = Words::split(text);
        let mut original = self.returned();
        if original.is_empty() {
            let copied = Original::read(copied_header(words.copy).as_bytes());
            original = Original { return_paths: original.return_paths, ..copied };
        }
        let ours = self.ours(&original);
        let mut recipients = outcomes(&words, &original, &self.failed_recipients(), &ours);
        if self.is_warning(words.notice) {
            recipients.iter_mut().for_each(|outcome| outcome.action = Action::Delayed);
        }
        Bounce { recipients, original, reporting_mta: None, standard: false }
    }

    /// Tells whether the mail is still being tried.
    fn is_warning(&self, notice: &str) -> bool {
        const SUBJECTS: [&str; 6] = [
            "delayed",
            "(delay)",
            "delay notification",
            "warning: could not send",
            "still being retried",
            "temporary delivery",
        ];
        const WORDS: [&str; 12] = [
            "delivery attempts will continue",
            "still being retried",
            "will keep trying",
            "you do not need to resend",
            "no action is required on your part",
            "will continue to try",
            "will be retried",
            "will retry for",
            "will try again for",
            "this is a warning message only",
            "this is a warning only",
            "continue to attempt delivery",
        ];
        const OVER: [&str; 4] = ["given up", "permanent error", "permanently", "permanent fatal"];
        let notice = notice.to_lowercase();
        let notice = notice.split_whitespace().collect::<Vec<_>>().join(" ");
        let subject = self.subject();
        let warned =
            SUBJECTS.iter().any(|word| subject.contains(word)) || WORDS.iter().any(|word| notice.contains(word));
        warned && !OVER.iter().any(|word| notice.contains(word))
    }

    /// Looks for a report that somebody's rule forwarded.
    fn inner_report(&self, depth: usize) -> Option<Bounce> {
        let inner = self.parts(|kind| kind == "message/rfc822").next()?;
        match read(&inner, depth + 1) {
            Incoming::Bounce(bounce) if bounce.standard => Some(bounce),
            _ => None,
        }
    }

    fn kind(&self) -> NotABounce {
        let subject = self.subject();
        let text = self.parsed.text.as_deref().unwrap_or_default().to_lowercase();
        let begins: String = text.chars().take(2000).collect();
        let automatic = &self.parsed.automatic;
        let any = |known: &[&str], text: &str| known.iter().any(|known| text.contains(known));
        if any(CHALLENGES, &subject) || any(CHALLENGES, &begins) {
            NotABounce::Challenge
        } else if any(LISTS, &subject)
            && (automatic.list || automatic.precedence.is_some() || self.parsed.automatic.is_automatic())
        {
            NotABounce::List
        } else if any(AUTO_REPLY_SUBJECTS, &subject)
            || automatic.auto_reply_header
            || automatic.auto_submitted.is_some()
        {
            NotABounce::AutoReply
        } else {
            NotABounce::Message
        }
    }
}

/// The paragraphs that name an address, and the one behind each.
fn about(text: &str, address: &str) -> String {
    let lower = address.to_lowercase();
    let paragraphs: Vec<&str> = text.split("\n\n").collect();
    let named = paragraphs.iter().enumerate().filter(|(_, paragraph)| paragraph.to_lowercase().contains(&lower));
    let mut kept = String::new();
    for (at, paragraph) in named.take(3) {
        kept.push_str(paragraph);
        kept.push('\n');
        let next = paragraphs.get(at + 1).filter(|next| !next.contains('@'));
        kept.push_str(next.copied().unwrap_or_default());
        kept.push('\n');
    }
    kept
}
