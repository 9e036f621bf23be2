//! Whether a message is a report at all, and of which kind.

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};

use super::original::Original;
use super::report::{Status, recipient};
use super::signs::{SIGNS, place, says};
use super::text::{Words, copied_header, outcomes};
use super::{Action, Bounce, Incoming, Outcome, beginning, codes};
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
        return mail.refused_by_script().map_or(Incoming::NotABounce(NotABounce::Receipt), Incoming::Bounce);
    }
    if let Some(bounce) = mail.standard() {
        if mail.challenges(&bounce) {
            return Incoming::NotABounce(NotABounce::Challenge);
        }
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
        let paragraphs = Paragraphs::of(words.notice);
        let unnamed = OnceCell::new();
        let mut recipients: Vec<Outcome> = Vec::new();
        for recipient in status.iter().flat_map(|status| &status.recipients).take(super::RECIPIENTS_MAX) {
            // What is said for people may be about any of several recipients.
            let said = recipient.address.as_ref().filter(|_| several).map(|address| paragraphs.about(address.as_str()));
            let mut outcome = recipient.outcome(said.as_deref().unwrap_or(words.notice));
            if outcome.address.is_none() {
                let named = || unnamed.get_or_init(|| self.unnamed(&original, &words)).clone();
                outcome.address = outcome.original_address.clone().or_else(named);
            }
            recipients.push(outcome);
        }
        let reporting_mta = status.iter().find_map(|status| status.reporting_mta.clone());
        Some(Bounce { recipients, original, reporting_mta, standard: true })
    }

    /// Tells whether a report only wants proof that a person wrote: nobody refused anything.
    fn challenges(&self, bounce: &Bounce) -> bool {
        let refused = bounce.recipients.iter().any(|outcome| outcome.classification.smtp_code.is_some());
        let notice = Words::split(self.parsed.text.as_deref().unwrap_or_default()).notice.to_lowercase();
        !refused && says(&SIGNS.report_challenges, &notice)
    }

    /// The recipient of a block that names none we can read.
    fn unnamed(&self, original: &Original, words: &Words<'_>) -> Option<Address> {
        let ours = self.ours(original);
        let found = outcomes(words, original, &self.failed_recipients(), &ours, self.home());
        // Who wrote the mail is not meant by a name that cannot be read.
        let author = original.from.as_deref().unwrap_or_default();
        found.into_iter().filter_map(|outcome| outcome.address).find(|to| !to.as_str().eq_ignore_ascii_case(author))
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
        let by_subject = place(&SIGNS.report_subjects, &subject);
        let by_words = says(&SIGNS.report_words, &begins) || self.is_system() && says(&SIGNS.system_words, &begins);
        // A report on an automatic reply says so before it repeats its subject, and an automatic reply to a report after.
        let replies = place(&SIGNS.reply_subjects, &subject);
        let auto = replies.is_some_and(|at| by_subject.is_none_or(|report| at < report))
            || says(&SIGNS.challenges, &subject)
            || by_subject.is_none() && says(&SIGNS.challenges, &begins);
        let vacation = self.parsed.automatic.auto_reply_header || self.field("X-Autorespond").is_some();
        if auto || vacation && !by_words || says(&SIGNS.list_subjects, &subject) && !by_words {
            return false;
        }
        let by_subject = by_subject.is_some();
        let copied = Original::read(copied_header(Words::split(text).copy).as_bytes());
        let has_original = !self.returned().is_empty() || !copied.is_empty();
        // What calls itself a report is one, even if its parts cannot be told apart.
        let by_type =
            self.field("Content-Type").is_some_and(|value| value.to_ascii_lowercase().contains("delivery-status"));
        // What a machine says with a code in it is about a failure.
        let by_code = is_machine && (codes::enhanced(&begins).is_some() || codes::smtp_code(&begins).is_some());
        let weight = usize::from(by_code)
            + usize::from(by_type)
            + usize::from(is_machine)
            + usize::from(by_subject)
            + usize::from(by_words)
            + usize::from(has_original && by_subject);
        weight >= 2
    }

    fn is_machine(&self) -> bool {
        self.parsed.automatic.null_return_path || self.is_system()
    }

    /// Tells whether a system names itself as the author, or nobody does.
    fn is_system(&self) -> bool {
        const MACHINES: [&str; 17] = [
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
            "post_master",
            "daemon",
        ];
        // Some write `MAILER-DAEMON <>`, which is no address.
        let from = self.field("From").map(str::to_lowercase);
        from.is_some_and(|from| from.trim() == "<>" || MACHINES.iter().any(|name| from.contains(name)))
    }

    fn failed_recipients(&self) -> Vec<Address> {
        let fields = self.fields.iter().filter(|field| {
            ["X-Failed-Recipients", "X-Failed-Recipient", "X-Rcpt-To", "X-Failed-To"]
                .iter()
                .any(|name| field.name.eq_ignore_ascii_case(name))
        });
        fields.flat_map(|field| field.value.split(',')).filter_map(recipient).take(super::RECIPIENTS_MAX).collect()
    }

    /// The domain of the system that wrote.
    fn home(&self) -> Option<&str> {
        let author = self.parsed.from_all.first()?;
        author.email.rsplit_once('@').map(|(_, domain)| domain)
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
        let status = Status::in_text(words.notice);
        let told: Vec<Outcome> = status.recipients.iter().map(|recipient| recipient.outcome(words.notice)).collect();
        if told.iter().any(|outcome| outcome.address.is_some()) {
            return Bounce { recipients: told, original, reporting_mta: status.reporting_mta, standard: false };
        }
        let ours = self.ours(&original);
        let mut failed = self.failed_recipients();
        // Some repeat in the header whom they write to.
        failed.retain(|address| !ours.iter().any(|own| own.eq_ignore_ascii_case(address.as_str())));
        let mut recipients = outcomes(&words, &original, &failed, &ours, self.home());
        if self.is_warning(words.notice) {
            recipients.iter_mut().for_each(|outcome| outcome.action = Action::Delayed);
        }
        Bounce { recipients, original, reporting_mta: None, standard: false }
    }

    /// Reads a refusal by the recipient's mail filter, which older systems tell in the form of a receipt (RFC 5429
    /// §2.1.2): nobody saw the mail, and it was thrown away.
    fn refused_by_script(&self) -> Option<Bounce> {
        let receipt = self.parts(|kind| kind == "message/disposition-notification").next()?;
        let receipt = Status::read(&receipt);
        let text = self.parsed.text.as_deref().unwrap_or_default().to_lowercase();
        let refused = receipt.disposition.as_deref().is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            value.starts_with("automatic-action") && value.ends_with("deleted")
        });
        if !refused || !["rejected", "refused", "quota", "not delivered"].iter().any(|word| text.contains(word)) {
            return None;
        }
        let notice = Words::split(self.parsed.text.as_deref().unwrap_or_default()).notice;
        let recipients: Vec<Outcome> = receipt.recipients.iter().map(|recipient| recipient.outcome(notice)).collect();
        if recipients.is_empty() {
            return None;
        }
        Some(Bounce { recipients, original: self.returned(), reporting_mta: receipt.reporting_mta, standard: false })
    }

    /// Tells whether the mail is still being tried.
    fn is_warning(&self, notice: &str) -> bool {
        let notice = notice.to_lowercase();
        let notice = notice.split_whitespace().collect::<Vec<_>>().join(" ");
        let warned = says(&SIGNS.warning_subjects, &self.subject()) || says(&SIGNS.warning_words, &notice);
        warned && !says(&SIGNS.given_up, &notice)
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
        if says(&SIGNS.challenges, &subject) || says(&SIGNS.challenges, &begins) {
            NotABounce::Challenge
        } else if says(&SIGNS.list_subjects, &subject)
            && (automatic.list || automatic.precedence.is_some() || self.parsed.automatic.is_automatic())
        {
            NotABounce::List
        } else if says(&SIGNS.reply_subjects, &subject)
            || automatic.auto_reply_header
            || automatic.auto_submitted.is_some()
        {
            NotABounce::AutoReply
        } else {
            NotABounce::Message
        }
    }
}

/// What a report says for people.
struct Paragraphs<'a>(Vec<(&'a str, String)>);

impl<'a> Paragraphs<'a> {
    fn of(text: &'a str) -> Self {
        Self(text.split("\n\n").map(|paragraph| (paragraph, paragraph.to_lowercase())).collect())
    }

    /// Returns the paragraphs that name an address, and the one behind each.
    fn about(&self, address: &str) -> String {
        let lower = address.to_lowercase();
        let named = self.0.iter().enumerate().filter(|(_, (_, paragraph))| paragraph.contains(&lower));
        let mut kept = String::new();
        for (at, (paragraph, _)) in named.take(3) {
            kept.push_str(beginning(paragraph));
            kept.push('\n');
            let next = self.0.get(at + 1).filter(|(next, _)| !next.contains('@'));
            kept.push_str(next.map_or("", |(next, _)| beginning(next)));
            kept.push('\n');
        }
        kept
    }
}
