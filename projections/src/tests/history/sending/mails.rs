//! What happens to a mail, from acceptance to the last that is heard of it.

use domain::billing::PriceBook;
use domain::bounce::{Category, Source, Verdict};
use domain::id::{BlobId, OutboundId, ThreadId};
use domain::message::{Filed, Folder, Person};
use domain::outbound::report::Report;
use domain::outbound::{self as ob, Feedback, Outbound, Outcome, Results, SentCopy, Stage, Status};
use domain::routing::Routing;
use domain::suppression::Purpose;
use domain::testing::address_id;
use domain::{Actor, StreamId, Versioned};
use eventlog::EventLog;
use mail::smtp::{Notify, RcptParameters};

use super::super::super::world::wish;
use super::super::{MAILBOXES, START, Story, correspondence, key};
use super::{ADDRESSES, COPIES, HOUR, MAILS, Sending, email_of, group};

fn mail(n: u8) -> OutboundId {
    OutboundId::new(START, [n; 9])
}

impl Story {
    pub(super) async fn accept(&self, log: &EventLog, op: &Sending) {
        let Sending::Accept { mail: n, recipients, as_mailbox, bulk, later, group: in_group } = op else {
            unreachable!("not about acceptance")
        };
        let mailbox = n % MAILBOXES;
        let local = if *as_mailbox { format!("box{mailbox}") } else { "ann".to_owned() };
        let from = mail::address::Address::parse(&format!("{local}@team{}.example", self.number)).unwrap();
        let kinds = [ob::RecipientKind::To, ob::RecipientKind::Cc, ob::RecipientKind::Bcc];
        let recipient = |r: u8| ob::NewRecipient {
            // Every now and then somebody is named twice.
            address: address_id((n + r % 3) % ADDRESSES),
            person: Person { name: (r == 0).then(|| "Bob".into()), email: email_of((n + r % 3) % ADDRESSES) },
            kind: kinds[usize::from(r % 3)],
        };
        let all = Some(Notify::On { success: true, failure: true, delay: true });
        let wish_of = |r: u8| RcptParameters { notify: all.filter(|_| r < 3), original: None };
        let recipients_asking = (0..*recipients).map(wish_of).collect();
        // Some programs that hand mail in want to be told by mail.
        let notices = (n.is_multiple_of(2) && !as_mailbox)
            .then(|| ob::Notices { recipients: recipients_asking, ..ob::Notices::default() });
        let command = ob::AcceptMail {
            outbound: mail(*n),
            origin: match (as_mailbox, notices.is_some()) {
                (true, _) => ob::Origin::Mailbox,
                (false, true) => ob::Origin::Smtp,
                (false, false) => ob::Origin::Http,
            },
            key: (*n % 5 == 4).then(|| key(0)),
            mailbox: as_mailbox.then(|| self.mailbox(mailbox)),
            from,
            from_name: None,
            return_path: None,
            reply_to: vec![],
            subject: Some(format!("Offer {n}")),
            rfc5322_message_id: format!("out{n}@example.org"),
            labels: ob::Labels { tags: vec![format!("tag{}", n % 2)], ..ob::Labels::default() },
            recipients: (0..*recipients).map(recipient).collect(),
            notices,
            blob: BlobId::new(START, [100 + n; 9]),
            size_bytes: 2_000 + i64::from(*n),
            sha256: format!("{n:064x}"),
            groups: if *in_group { vec![group(n % 3)] } else { vec![] },
            purpose: if *bulk { Purpose::Bulk } else { Purpose::Transactional },
            topic: bulk.then(|| "news".into()),
            forced: *n == 7,
            track_opens: *bulk,
            send_at: later.then_some(self.now + HOUR),
            lifetime_micros: 72 * HOUR,
            prices: PriceBook::default(),
            copy: as_mailbox.then(|| self.sent_copy(*n)),
        };
        wish(log, &self.team, self.now, Actor::ApiKey(key(0)), command).await;
    }

    pub(super) fn sent_copy(&self, n: u8) -> SentCopy {
        let mailbox = self.mailbox(n % MAILBOXES);
        // A message belongs to the mailbox of its number modulo their count, and so does a mail.
        let number = COPIES + n;
        let facts = Filed {
            message: self.message(number),
            thread: ThreadId::rooted_at(&mailbox, &format!("sent{}", n % 4)),
            mailbox,
            folder: Folder::Sent,
            blob: BlobId::new(START, [100 + n; 9]),
            size_bytes: 2_000 + i64::from(n),
            sha256: format!("{n:064x}"),
            attachments: u32::from(n % 2),
            sent_at: Some(self.now),
            parser_version: 1,
            keywords: ["$seen".to_owned()].into(),
            outbound: Some(mail(n)),
        };
        SentCopy { facts, personal: correspondence(60 + n, 1, n) }
    }

    pub(super) async fn mail_state(&self, log: &EventLog, n: u8) -> Versioned<Outbound> {
        log.state(&self.team, &[StreamId::Outbound(mail(n))]).await.unwrap()
    }

    pub(super) async fn control(&self, log: &EventLog, n: u8, what: u8) {
        let outbound = mail(n);
        match what {
            0 => {
                let send_at = self.now + 2 * HOUR;
                self.operator(log, ob::RescheduleMail { outbound, send_at, if_version: None }).await;
            }
            1 => self.operator(log, ob::SwitchMail { outbound, paused: true }).await,
            2 => self.operator(log, ob::SwitchMail { outbound, paused: false }).await,
            3 => self.operator(log, ob::CancelMail { outbound }).await,
            4 => self.operator(log, ob::RetryMail { outbound, resend_uncertain: n.is_multiple_of(2) }).await,
            5 => {
                let reason = ob::PostponeReason::QuotaReached;
                let command = ob::PostponeMail { outbound, reason, until: Some(self.now + HOUR) };
                wish(log, &self.team, self.now, Actor::System("outbound"), command).await;
            }
            _ => {
                let command = ob::RejectWaiting { outbound, reason: ob::RejectReason::NotSendable };
                wish(log, &self.team, self.now, Actor::System("outbound"), command).await;
            }
        }
    }

    pub(super) async fn tell_of_a_mail(&mut self, log: &EventLog, op: &Sending) {
        let system = Actor::System("outbound");
        match op {
            Sending::Begin(n, account) => {
                let state = self.mail_state(log, *n).await;
                self.now = self.now.max(state.next_due_at().unwrap_or(self.now));
                let due = state.waiting(self.now);
                let routing: Versioned<Routing> = log.state(&self.team, &[StreamId::Routing]).await.unwrap();
                let eligible = state.asking(|asks| routing.eligible(asks, &state.left));
                let Some(chosen) = eligible.get(usize::from(*account) % eligible.len().max(1)) else { return };
                let command = ob::BeginAttempt::of(mail(*n), &state, chosen.account.clone(), due);
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::Results(n, seed) => {
                let state = self.mail_state(log, *n).await;
                let results = self.results(&state, *seed);
                let command = ob::RecordResults::of(mail(*n), &state, state.attempts, results);
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::FailAttempt(n, trouble) => {
                let state = self.mail_state(log, *n).await;
                let Some((attempt, open)) = state.open.last_key_value() else { return };
                let troubles = [
                    ob::AttemptTrouble::LoginRefused,
                    ob::AttemptTrouble::Unreachable,
                    ob::AttemptTrouble::Throttled,
                    ob::AttemptTrouble::Abandoned,
                ];
                let command = ob::FailAttempt {
                    outbound: mail(*n),
                    attempt: *attempt,
                    account: open.account.clone(),
                    trouble: troubles[usize::from(*trouble)],
                    leaves_account: *trouble == 0,
                    retry_at: self.now + 1_000_000,
                    report: Report::of("535 no", None),
                };
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::Feedback(n, recipient, what) => {
                let state = self.mail_state(log, *n).await;
                let Some(to) = state.recipient(*recipient) else { return };
                let command = ob::RecordFeedback {
                    outbound: mail(*n),
                    recipient: *recipient,
                    address: to.address.clone(),
                    feedback: feedback(*what),
                    source: Source::Dsn,
                    report: Report::of("550 5.1.1 nobody", Some("mx.example.net")),
                };
                wish(log, &self.team, self.now, system, command).await;
            }
            Sending::Notice(n, what) => self.settle_notice(log, *n, *what).await,
            Sending::Release => {
                self.now += 25 * HOUR;
                for n in 0..MAILS {
                    wish(log, &self.team, self.now, system.clone(), ob::ReleaseUncertain { outbound: mail(n) }).await;
                }
            }
            _ => unreachable!("not about a mail"),
        }
    }

    /// Returns an outcome for each recipient of the attempt that is under way.
    pub(super) fn results(&self, state: &Outbound, seed: u8) -> Vec<Results> {
        let flying = |status| matches!(status, Status::InFlight { attempt } if attempt == state.attempts);
        let numbers = (0..5_u8).filter(|n| state.recipient(*n).is_some_and(|r| flying(r.status)));
        let later = Verdict { category: Category::Greylisted, smtp_code: Some(451), enhanced_code: Some((4, 7, 1)) };
        let nobody = Verdict { category: Category::UserUnknown, smtp_code: Some(550), enhanced_code: Some((5, 1, 1)) };
        let full = Verdict { category: Category::MailboxFull, smtp_code: Some(552), enhanced_code: Some((5, 2, 2)) };
        let outcome = |n: u8| match seed.wrapping_add(n.wrapping_mul(3)) % 11 {
            10 => Outcome::Bounced { verdict: full },
            0 | 1 => Outcome::Taken { delivered: false },
            2..=4 => Outcome::Taken { delivered: true },
            5 => Outcome::Deferred { verdict: later, uncertain: false, retry_at: Some(self.now + 60_000_000) },
            6 => Outcome::Deferred { verdict: later, uncertain: false, retry_at: None },
            7 => Outcome::Bounced { verdict: nobody },
            8 => Outcome::Rejected { reason: ob::RejectReason::Provider, verdict: Some(nobody) },
            _ => Outcome::Uncertain { stage: Stage::NoAnswer },
        };
        let report = Report::of("250 2.0.0 queued as 1", Some("mx.example.net")).with_provider_message_id("0100");
        let ways = [
            ob::Onward::Delivered,
            ob::Onward::Promised,
            ob::Onward::PromisedHere,
            ob::Onward::Silent,
            ob::Onward::SilentHere,
        ];
        let report = |n: u8| report.clone().handed_on(Some(ways[usize::from(seed.wrapping_add(n) % 5)]));
        numbers.map(|n| Results { recipients: vec![n], outcome: outcome(n), report: report(n) }).collect()
    }

    /// Tells the sender the next thing that it is to be told.
    pub(super) async fn settle_notice(&self, log: &EventLog, n: u8, what: u8) {
        let state = self.mail_state(log, n).await;
        let Some(number) = state.notices.first().map(|notice| notice.number) else { return };
        let (outbound, system) = (mail(n), Actor::System("outbound"));
        if what > 1 {
            let dropped = (what == 2).then_some(ob::DropReason::Refused);
            wish(log, &self.team, self.now, system, ob::SettleNotice { outbound, number, dropped }).await;
            return;
        }
        let own = START + i64::from(number);
        let report = ob::NewReport {
            outbound: OutboundId::new(own, [100 + n; 9]),
            from: Person { name: None, email: format!("mailer-daemon@team{}.example", self.number) },
            subject: "Undelivered mail returned to sender".into(),
            to: format!("ann@team{}.example", self.number).parse().unwrap(),
            address: address_id(ADDRESSES),
            rfc5322_message_id: format!("notice{n}.{number}@example.org"),
            blob: BlobId::new(own, [150 + n; 9]),
            size_bytes: 1_500,
            sha256: format!("{number:064x}"),
        };
        wish(log, &self.team, self.now, system, ob::SendNotice { outbound, number, report }).await;
    }
}

fn feedback(what: u8) -> Feedback {
    let verdict = |category| Verdict { category, smtp_code: Some(550), enhanced_code: Some((5, 1, 1)) };
    match what {
        0 | 1 => Feedback::Delivered,
        2 => Feedback::Bounced { verdict: verdict(Category::UserUnknown), kind: None },
        3 => Feedback::Bounced { verdict: verdict(Category::MailboxFull), kind: None },
        4 => Feedback::Delayed { verdict: verdict(Category::Network), expires_at: None },
        5 => Feedback::Rejected { reason: ob::RejectReason::Provider },
        6 => Feedback::Complained { complaint: ob::Complaint::Abuse },
        7 => Feedback::Opened { machine: ob::Machine::Unknown },
        _ => Feedback::Unsubscribed { method: ob::UnsubscribeMethod::OneClick },
    }
}
