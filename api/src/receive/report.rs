//! What a report says of which recipients of a mail: pure, from bytes to feedback.

use std::panic::{AssertUnwindSafe, catch_unwind};

use domain::bounce::{self, Kind, Source, Verdict};
use domain::id::OutboundId;
use domain::outbound::{Complaint, Feedback, Outbound, ReturnPath, report};
use mail::address::Address;
use mail::bounce::{Action, Bounce, BounceType, Classification, Incoming, NotABounce, Original, Outcome};
use mail::report::{FeedbackType, read_complaint};
use mail::submission::MAIL_ID_FIELD;
use mail::verp::{MacKey, Verp};

/// Most return paths and ids of one report that are looked at.
const HINTS_MAX: usize = 50;

/// What a mail turned out to be.
#[derive(Debug)]
pub(super) enum Reading {
    /// A report about mail that was sent.
    Report(Box<Report>),
    /// A machine answered: nothing follows from it.
    Automatic,
    /// Somebody wrote.
    Message,
}

/// What is told.
#[derive(Debug)]
enum Told {
    /// What became of recipients.
    Outcomes(Bounce),
    /// That somebody complained.
    Complaint(mail::report::Complaint),
}

/// A report, with what in it leads to its mail.
#[derive(Debug)]
pub(super) struct Report {
    told: Told,
    /// Return paths of ours that it names.
    pub(super) tokens: Vec<ReturnPath>,
    /// Ids of ours that it names; anybody can write them.
    pub(super) ids: Vec<OutboundId>,
}

/// One thing heard of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) recipient: u8,
    pub(super) feedback: Feedback,
    pub(super) source: Source,
    pub(super) report: report::Report,
}

/// Reads a mail; what defeats the reader is a message.
pub(super) fn read(raw: &[u8], key: &MacKey) -> Reading {
    let reading = catch_unwind(AssertUnwindSafe(|| {
        if let Some(complaint) = read_complaint(raw) {
            let named = complaint.mail_from.iter().map(String::as_str);
            let report = Report::new(&complaint.original, named, key);
            return Reading::Report(Box::new(Report { told: Told::Complaint(complaint), ..report }));
        }
        match mail::bounce::read(raw) {
            Incoming::Bounce(bounce) => {
                let report = Report::new(&bounce.original, std::iter::empty(), key);
                Reading::Report(Box::new(Report { told: Told::Outcomes(bounce), ..report }))
            }
            Incoming::NotABounce(NotABounce::Message) => Reading::Message,
            Incoming::NotABounce(
                NotABounce::AutoReply
                | NotABounce::Challenge
                | NotABounce::Receipt
                | NotABounce::Complaint
                | NotABounce::List,
            ) => Reading::Automatic,
        }
    }));
    reading.unwrap_or_else(|_| {
        tracing::error!("a mail defeated the reader of reports");
        Reading::Message
    })
}

impl Report {
    fn new<'a>(original: &'a Original, named: impl Iterator<Item = &'a str>, key: &MacKey) -> Self {
        let paths = named.chain(original.return_paths.iter().map(String::as_str)).take(HINTS_MAX);
        let tokens = paths.filter_map(|path| {
            let local = path.rsplit_once('@').map_or(path, |(local, _)| local);
            ReturnPath::read(&Verp::parse(local, key)?)
        });
        let own_field = original.id_fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(MAIL_ID_FIELD));
        let in_fields = own_field.map(|(_, id)| id.trim()).chain(original.envelope_id.as_deref());
        // The Message-IDs that we make begin with our id of the mail.
        let in_message_id = original.message_id.iter().filter_map(|id| id.split_once('@')).map(|(left, _)| left);
        let ids = in_fields.chain(in_message_id).filter_map(|id| id.parse().ok());
        let bounce = Bounce { recipients: vec![], original: Original::default(), reporting_mta: None, standard: false };
        Self { told: Told::Outcomes(bounce), tokens: tokens.collect(), ids: ids.take(HINTS_MAX).collect() }
    }

    /// Returns whom a report in the standard's form (RFC 3464) is about, and the Message-ID that it quotes; `None` where it
    /// names a mail by an id or a return path of ours, and for what is no such report.
    pub(super) fn hearsay(&self) -> Option<(Vec<&Address>, Option<&str>)> {
        let Told::Outcomes(bounce) = &self.told else { return None };
        let named = !self.tokens.is_empty() || !self.ids.is_empty();
        if !bounce.standard || named || bounce.recipients.len() > domain::outbound::RECIPIENTS_MAX {
            return None;
        }
        let about = |outcome: &Outcome| outcome.original_address.is_some() || outcome.address.is_some();
        if !bounce.recipients.iter().all(about) {
            return None;
        }
        let addresses = bounce.recipients.iter().filter_map(|o| o.original_address.as_ref().or(o.address.as_ref()));
        Some((addresses.collect(), bounce.original.message_id.as_deref()))
    }

    /// Returns whether it is a complaint.
    pub(super) fn is_complaint(&self) -> bool {
        matches!(self.told, Told::Complaint(_))
    }

    /// Returns what is heard of the recipients of a mail; of one of them alone where the return path says which.
    pub(super) fn heard(&self, mail: &Outbound, only: Option<u8>) -> Vec<Heard> {
        match &self.told {
            Told::Outcomes(bounce) => outcomes(bounce, mail, only),
            Told::Complaint(complaint) => complained(complaint, mail, only),
        }
    }
}

/// Returns the numbers of the recipients that an address is.
pub(crate) fn numbers(mail: &Outbound, address: Option<&Address>) -> Vec<u8> {
    let Some(canonical) = address.map(Address::canonical) else { return vec![] };
    let is = |email: &str| Address::parse(email).is_ok_and(|of| of.canonical() == canonical);
    let found = mail.recipients.iter().zip(0u8..).filter(|(r, _)| r.email.as_deref().is_some_and(is));
    found.map(|(_, number)| number).collect()
}

fn outcomes(bounce: &Bounce, mail: &Outbound, only: Option<u8>) -> Vec<Heard> {
    // As we named it, or as it was called in the end.
    let about = |outcome: &Outcome| {
        let original = numbers(mail, outcome.original_address.as_ref());
        if original.is_empty() { numbers(mail, outcome.address.as_ref()) } else { original }
    };
    let alone = only.or_else(|| (mail.recipients.len() == 1).then_some(0));
    let mut heard: Vec<Heard> = vec![];
    let mut add = |recipient: u8, outcome: &Outcome| {
        let Some(found) = of_outcome(outcome).map(|found| Heard { recipient, ..found }) else { return };
        match heard.iter_mut().find(|known| known.recipient == recipient) {
            // Of several words about one recipient the worst counts: forwarded to many, it may have reached some.
            Some(known) if rank(&found.feedback) > rank(&known.feedback) => *known = found,
            Some(_) => {}
            None => heard.push(found),
        }
    };
    let named = bounce.recipients.iter().any(|outcome| alone.is_some_and(|n| about(outcome).contains(&n)));
    for outcome in &bounce.recipients {
        let found = about(outcome);
        match alone {
            // Forwarded mail comes back under an address that we never wrote to.
            Some(number) if found.contains(&number) || !named => add(number, outcome),
            Some(_) => {}
            None => found.into_iter().for_each(|number| add(number, outcome)),
        }
    }
    heard
}

fn rank(feedback: &Feedback) -> u8 {
    match feedback {
        Feedback::Bounced { .. } => 2,
        Feedback::Delayed { .. } => 1,
        _ => 0,
    }
}

/// Returns what an outcome is, for recipient 0; nothing for those that say nothing.
fn of_outcome(outcome: &Outcome) -> Option<Heard> {
    let found = &outcome.classification;
    let verdict = verdict_of(found);
    let feedback = match outcome.action {
        Action::Failed => {
            let kind = match found.bounce_type {
                BounceType::Hard => Kind::Hard,
                BounceType::Soft => Kind::Soft,
                BounceType::Undetermined => Kind::Undetermined,
            };
            Feedback::Bounced { verdict, kind: Some(kind) }
        }
        Action::Delayed => Feedback::Delayed { verdict, expires_at: None },
        Action::Delivered | Action::Expanded => Feedback::Delivered,
        // Handed to a system that tells no more: that is where the mail was before.
        Action::Relayed => return None,
    };
    let report = report::Report::of(&found.diagnostic, outcome.remote_mta.as_deref());
    Some(Heard { recipient: 0, feedback, source: Source::Dsn, report })
}

/// Returns a classification in the words of the log.
pub(crate) fn verdict_of(found: &Classification) -> Verdict {
    let mut parts = found.enhanced_code.as_deref().unwrap_or_default().split('.').map(str::parse::<u16>);
    let enhanced_code = match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(class)), Some(Ok(subject)), Some(Ok(detail))) => {
            u8::try_from(class).ok().map(|class| (class, subject, detail))
        }
        _ => None,
    };
    let category = bounce::Category::parse(found.category.as_str()).unwrap_or(bounce::Category::Undetermined);
    // What was refused for the time being until somebody gave up is no proof that an address does not exist.
    let given_up = found.bounce_type != BounceType::Hard && category.kind() == Kind::Hard;
    let category = if given_up { bounce::Category::Expired } else { category };
    Verdict { category, smtp_code: found.smtp_code, enhanced_code }
}

fn complained(complaint: &mail::report::Complaint, mail: &Outbound, only: Option<u8>) -> Vec<Heard> {
    let what = match complaint.feedback_type {
        FeedbackType::Abuse => Complaint::Abuse,
        FeedbackType::Fraud => Complaint::Fraud,
        FeedbackType::Virus => Complaint::Virus,
        FeedbackType::NotSpam => Complaint::NotSpam,
        FeedbackType::OptOut => Complaint::OptOut,
        FeedbackType::Other => Complaint::Other,
        FeedbackType::AuthFailure => {
            // For whoever runs this installation, and no complaint (RFC 6591).
            metrics::counter!("auth_failure_reports_total").increment(1);
            return vec![];
        }
    };
    let mut who: Vec<u8> = match only {
        Some(number) => vec![number],
        None => complaint.recipients.iter().flat_map(|address| numbers(mail, Some(address))).collect(),
    };
    if who.is_empty() && mail.recipients.len() == 1 {
        who.push(0);
    }
    who.sort_unstable();
    who.dedup();
    let said = complaint.user_agent.as_deref().unwrap_or("feedback report");
    let heard = |recipient| Heard {
        recipient,
        feedback: Feedback::Complained { complaint: what },
        source: Source::Provider,
        report: report::Report::of(said, complaint.reported_domain.as_deref()),
    };
    who.into_iter().map(heard).collect()
}
