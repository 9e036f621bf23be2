//! Samples of sending.

use super::{
    NOW, address_id, blob_id, domain_id, group_id, key_id, limit_request_id, mailbox_id, message_id, outbound_id,
    payment_id, provider_id, received_halves, secret_id, team_created, thread_id,
};
use crate::balance::{self, Booking};
use crate::billing::{Meter, PriceBook};
use crate::bounce::{Category, Kind, Source, Verdict};
use crate::mailbox::{FilterMode, Rules, SendScope, SenderRule};
use crate::message::{self, Folder, Person};
use crate::money::Nanos;
use crate::outbound::{
    self as ob, AcceptMail, AttemptTrouble, Complaint, Labels, Letter, Machine, Mail, NewRecipient, NoticeAction,
    NoticeOf, NoticeOutcome, Origin, Parties, PostponeReason, RecipientKind, RejectReason, Stage, To, UnitPrices,
    UnsubscribeMethod, Words,
};
use crate::personal::Halves;
use crate::provider::quota::Range;
use crate::provider::{self, Identity, Quotas, Settings, Transport};
use crate::sending_domain::{self as sd, Checks, Found, records::RecordKind};
use crate::suppression::{self, Cause, Purpose, Reason, Whom};
use crate::{Event, api_key, delivery_group, routing, team};

/// Returns the event that creates sending account `n`, which reaches the recipients' own servers.
#[must_use]
pub fn provider_created(n: u8) -> Event {
    let settings = Settings { transport: Transport::DirectMx, percentage: Some(100), quotas: Quotas::default() };
    let facts = provider::Created { provider: provider_id(n), settings, managed: false, secret: None };
    let identity = Identity { name: format!("p{n}"), ..Identity::default() };
    Event::Provider(provider::Event::Created(Halves::new(facts, identity)))
}

/// Returns the event that creates sending account `n` at Amazon SES.
#[must_use]
pub fn ses_created(n: u8) -> Event {
    let transport = Transport::Ses { region: "eu-west-1".into(), configuration_set: None };
    let settings = Settings { transport, percentage: Some(100), quotas: Quotas::default() };
    let facts = provider::Created { provider: provider_id(n), settings, managed: false, secret: Some(secret_id(n)) };
    let identity = Identity { name: format!("p{n}"), ..Identity::default() };
    Event::Provider(provider::Event::Created(Halves::new(facts, identity)))
}

/// Returns the history of a team with sending account 1 and a dollar.
#[must_use]
pub fn with_money() -> Vec<Event> {
    let paid =
        balance::ToppedUp { payment: payment_id(1), kind: balance::PaymentKind::Purchase, amount_nanos: Nanos::DOLLAR };
    let paid = Event::Balance(balance::Event::ToppedUp(Halves::new(paid, balance::Note { note: None })));
    team_created().into_iter().chain([provider_created(1), paid]).collect()
}

/// Returns the command that accepts mail `n` from `ann@example.org` to the recipients of these numbers.
///
/// # Panics
/// Never: the addresses are valid.
#[must_use]
pub fn accept(n: u8, recipients: &[u8]) -> AcceptMail {
    let address = |text: &str| mail::address::Address::parse(text).expect("a valid address");
    let recipient = |n: &u8| NewRecipient {
        address: address_id(*n),
        person: Person { name: None, email: format!("r{n}@example.net") },
        kind: RecipientKind::To,
    };
    AcceptMail {
        outbound: outbound_id(n),
        origin: Origin::Http,
        key: None,
        mailbox: None,
        from: address("ann@example.org"),
        from_name: Some("Ann".into()),
        return_path: None,
        reply_to: vec![],
        subject: Some("Hello".into()),
        rfc5322_message_id: format!("m{n}@example.org"),
        labels: Labels::default(),
        recipients: recipients.iter().map(recipient).collect(),
        notices: None,
        blob: blob_id(n),
        size_bytes: 1_000,
        sha256: format!("{n:064x}"),
        groups: vec![],
        purpose: Purpose::Transactional,
        topic: None,
        forced: false,
        track_opens: false,
        send_at: None,
        lifetime_micros: 72 * 3_600_000_000,
        prices: PriceBook::default(),
        copy: None,
    }
}

/// Returns what a look at the records of a domain may find.
#[must_use]
pub fn domain_found() -> Vec<Found> {
    vec![Found {
        kind: RecordKind::Verification,
        name: "_sendmux.example.org".into(),
        values: vec!["sendmux-verify=team_x".into()],
    }]
}

/// Returns one sample of every event of sending.
pub(super) fn one_of_each() -> Vec<Event> {
    let mut all = vec![];
    all.extend(team_events());
    all.extend(domain_events());
    all.extend(provider_events());
    all.extend(routing_events());
    all.extend(balance_events());
    all.extend(suppression_events());
    all.extend(outbound_events());
    all.push(filed());
    all
}

fn team_events() -> Vec<Event> {
    let (request, resource) = (limit_request_id(1), team::Resource::SendingAccounts);
    let requested = team::LimitIncreaseRequested { request: request.clone(), resource, current: 200 };
    let decided = team::LimitIncreaseDecided { request, resource, decision: team::Decision::Approved };
    let send_scope = SendScope::Providers { provider_public_ids: vec![provider_id(1).to_string()] };
    let scope = api_key::SendScopeChanged { key: key_id(1), send_scope };
    vec![
        Event::Team(team::Event::LimitIncreaseRequested(requested.into())),
        Event::Team(team::Event::LimitIncreaseDecided(decided.into())),
        Event::ApiKey(api_key::Event::SendScopeChanged(scope.into())),
    ]
}

fn domain_events() -> Vec<Event> {
    let domain = domain_id(1);
    let checks = Checks { verification_txt: true, spf: true, ..Checks::default() };
    let checked = sd::Checked { domain: domain.clone(), checks, found: domain_found(), failures: 1, checked_at: NOW };
    let key = sd::KeyAdded {
        domain: domain.clone(),
        selector: "pl1".into(),
        algorithm: sd::Algorithm::Ed25519,
        public_key: "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".into(),
        secret: secret_id(3),
    };
    let subject = sd::KeySubject { domain: domain.clone(), selector: "pl1".into() };
    let rules = Rules { rules: vec![SenderRule { pattern: "example.net".into(), note: None }] };
    let replaced = sd::RulesReplaced { domain: domain.clone(), mode: FilterMode::Denylist, count: 1 };
    [
        sd::Event::Checked(checked.into()),
        sd::Event::Failed(sd::Failed { domain: domain.clone(), checks }.into()),
        sd::Event::ModeChanged(sd::ModeChanged { domain: domain.clone(), mode: sd::Mode::SendReceive }.into()),
        sd::Event::KeyAdded(key.into()),
        sd::Event::KeyActivated(subject.clone().into()),
        sd::Event::KeyRetired(subject.into()),
        sd::Event::RulesReplaced(Halves::new(replaced, rules)),
        sd::Event::Removed(sd::Removed { domain, name: "example.org".into() }.into()),
    ]
    .map(Event::SendingDomain)
    .into()
}

fn provider_events() -> Vec<Event> {
    let provider = provider_id(1);
    let subject = provider::Subject { provider: provider.clone() };
    let transport =
        Transport::CustomSmtp { host: "smtp.example.net".into(), port: 587, security: provider::Security::Starttls };
    let quotas = Quotas { per_hour: Some(Range { min: 90, max: 110 }), ..Quotas::default() };
    let settings = Settings { transport, percentage: Some(50), quotas };
    let identity = Identity {
        name: "Main".into(),
        username: Some("ann".into()),
        from_email: Some("ann@example.net".into()),
        ..Identity::default()
    };
    let said = provider::Said { message: "235 2.7.0 Authentication successful".into() };
    let tested =
        provider::Tested { provider: provider.clone(), success: true, latency_milliseconds: 12, tested_at: NOW };
    let broken = provider::Broken { provider: provider.clone(), trouble: provider::Trouble::LoginRefused };
    let topic = "arn:aws:sns:eu-west-1:123456789012:mail".into();
    let bound = provider::TopicBound { provider: provider.clone(), topic };
    let all = [
        provider::Event::Reconfigured(Halves::new(
            provider::Reconfigured { provider: provider.clone(), settings },
            identity,
        )),
        provider::Event::CredentialsReplaced(provider::CredentialsReplaced { provider, secret: secret_id(4) }.into()),
        provider::Event::Tested(Halves::new(tested, said.clone())),
        provider::Event::Broken(Halves::new(broken, said)),
        provider::Event::Mended(subject.clone().into()),
        provider::Event::Deactivated(subject.clone().into()),
        provider::Event::Activated(subject.clone().into()),
        provider::Event::TopicBound(bound.into()),
        provider::Event::TopicReleased(subject.clone().into()),
        provider::Event::Deleted(subject.into()),
    ];
    std::iter::once(provider_created(1)).chain(all.map(Event::Provider)).collect()
}

fn routing_events() -> Vec<Event> {
    use delivery_group as dg;
    let subject = dg::Subject { group: group_id(1) };
    let composed = dg::Composed { group: group_id(1), members: [(provider_id(1), 100)].into() };
    let name = dg::Name { name: "Marketing".into() };
    let groups = [
        dg::Event::Created(Halves::new(composed.clone(), name.clone())),
        dg::Event::Renamed(Halves::new(subject.clone(), name)),
        dg::Event::MembersChanged(composed.into()),
        dg::Event::MadeDefault(subject.clone().into()),
        dg::Event::DefaultCleared(subject.clone().into()),
        dg::Event::Deleted(subject.into()),
    ];
    let part = routing::Switched { part: routing::Part::Domain(domain_id(1)) };
    let paused = routing::Event::Paused(part.clone().into());
    let switched = [paused, routing::Event::Resumed(part.into())];
    groups.map(Event::DeliveryGroup).into_iter().chain(switched.map(Event::Routing)).collect()
}

fn balance_events() -> Vec<Event> {
    use balance as ba;
    let note = ba::Note { note: Some("invoice 7".into()) };
    let topped_up =
        ba::ToppedUp { payment: payment_id(2), kind: ba::PaymentKind::Purchase, amount_nanos: Nanos(5_000_000_000) };
    let adjusted =
        ba::Adjusted { payment: payment_id(3), kind: ba::AdjustmentKind::Refund, amount_nanos: Nanos(-1_000) };
    let usage = ba::UsageCharged { meter: Meter::InboundMessages, day: 19_675, units: 3, amount_nanos: Nanos(450_000) };
    let limit = ba::CreditLimitChanged { credit_limit_nanos: Nanos(1_000_000_000) };
    [
        ba::Event::ToppedUp(Halves::new(topped_up, note.clone())),
        ba::Event::Adjusted(Halves::new(adjusted, note)),
        ba::Event::UsageCharged(usage.into()),
        ba::Event::CreditLimitChanged(limit.into()),
    ]
    .map(Event::Balance)
    .into()
}

fn suppression_events() -> Vec<Event> {
    let whom = Whom { email: "r1@example.net".into(), note: Some("asked".into()) };
    let cause = Cause { reason: Reason::Manual, topic: Some("news".into()) };
    let added = suppression::Added {
        address: address_id(1),
        cause: cause.clone(),
        expires_at: Some(NOW + 1),
        outbound: Some(outbound_id(1)),
    };
    let removed = suppression::Removed { address: address_id(1), causes: vec![cause] };
    [
        suppression::Event::Added(Halves::new(added, whom.clone())),
        suppression::Event::Removed(Halves::new(removed, whom)),
        suppression::Event::EvidenceCleared(suppression::Subject { address: address_id(1) }.into()),
    ]
    .map(Event::Suppression)
    .into()
}

fn filed() -> Event {
    let (_, personal) = received_halves(9, &mailbox_id(1));
    let facts = message::Filed {
        message: message_id(9),
        mailbox: mailbox_id(1),
        thread: thread_id(1),
        folder: Folder::Sent,
        blob: blob_id(9),
        size_bytes: 1_000,
        sha256: format!("{:064x}", 9),
        attachments: 0,
        sent_at: Some(NOW),
        parser_version: 1,
        keywords: ["$seen".to_owned()].into(),
        outbound: Some(outbound_id(1)),
    };
    Event::Message(message::Event::Filed(Halves::new(facts, personal)))
}

fn accepted(mail: &Mail) -> ob::Event {
    let facts = ob::Accepted {
        mail: mail.clone(),
        origin: Origin::Mailbox,
        recipients: vec![To { address: address_id(1), kind: RecipientKind::To }],
        blob: blob_id(1),
        size_bytes: 1_000,
        sha256: format!("{:064x}", 1),
        scopes: vec![SendScope::Group { group_public_ids: vec![group_id(1).to_string()] }],
        groups: vec![group_id(1)],
        domain: Some(domain_id(1)),
        purpose: Purpose::Bulk,
        topic: Some("news".into()),
        forced: false,
        track_opens: true,
        prices: UnitPrices { own_nanos: Nanos(150_000), managed_nanos: Nanos(250_000), held_nanos: Nanos(250_000) },
        booking: Booking { held_nanos: Nanos(250_000), ..Booking::default() },
        accepted_at: NOW,
        send_at: Some(NOW + 60_000_000),
        lifetime_micros: 72 * 3_600_000_000,
        copy: Some(message_id(9)),
        thread: Some(thread_id(1)),
    };
    let person = |email: &str| Person { name: None, email: email.into() };
    let letter = Letter {
        from: person("box1@example.org"),
        return_path: Some("bounce@example.org".into()),
        recipients: vec![person("r1@example.net")],
        reply_to: vec![person("help@example.org")],
        subject: Some("Hello".into()),
        rfc5322_message_id: "m1@example.org".into(),
        labels: labels(),
        notices: None,
    };
    ob::Event::Accepted(Halves::new(facts, letter))
}

fn labels() -> Labels {
    Labels { tags: vec!["welcome".into()], metadata: [("order".to_owned(), "7".to_owned())].into() }
}

fn outbound_events() -> Vec<Event> {
    let mail = Mail { outbound: outbound_id(1), mailbox: Some(mailbox_id(1)), key: Some(key_id(1)) };
    let m = || mail.clone();
    let parties = Parties {
        sender: "bounce@example.org".into(),
        recipients: vec!["r1@example.net".into()],
        rfc5322_message_id: "m1@example.org".into(),
        provider_message_id: Some("0100".into()),
        diagnostic: Some("550 5.1.1 no such user".into()),
        remote_mta: Some("mx.example.net".into()),
        labels: labels(),
    };
    let p = || parties.clone();
    let verdict = Verdict { category: Category::UserUnknown, smtp_code: Some(550), enhanced_code: Some((5, 1, 1)) };
    let later = Verdict { category: Category::Greylisted, smtp_code: Some(451), enhanced_code: Some((4, 7, 1)) };
    let (recipients, account) = (vec![0u8], provider_id(1));
    let released = Booking { released_nanos: Nanos(250_000), ..Booking::default() };
    let charged = Booking { charged_nanos: Nanos(150_000), charged_units: 1, ..released };
    let (attempt, at, managed) = (1, NOW, false);
    let mut all = vec![
        accepted(&mail),
        ob::Event::Rescheduled(ob::Rescheduled { mail: m(), send_at: NOW + 1 }.into()),
        ob::Event::Paused(ob::Subject { mail: m() }.into()),
        ob::Event::Resumed(ob::Subject { mail: m() }.into()),
        ob::Event::Cancelled(Halves::new(
            ob::Cancelled { mail: m(), recipients: recipients.clone(), booking: released },
            p(),
        )),
        ob::Event::RetryRequested(
            ob::RetryRequested { mail: m(), recipients: recipients.clone(), uncertain: true, at }.into(),
        ),
        ob::Event::Postponed(
            ob::Postponed { mail: m(), reason: PostponeReason::QuotaReached, until: Some(NOW + 1) }.into(),
        ),
        ob::Event::AttemptStarted(
            ob::AttemptStarted {
                mail: m(),
                attempt,
                account: account.clone(),
                managed,
                recipients: recipients.clone(),
                at,
            }
            .into(),
        ),
        ob::Event::AttemptFailed(Halves::new(
            ob::AttemptFailed {
                mail: m(),
                attempt,
                account: account.clone(),
                trouble: AttemptTrouble::LoginRefused,
                leaves_account: true,
                retry_at: NOW,
            },
            p(),
        )),
        ob::Event::Sent(Halves::new(
            ob::Sent {
                mail: m(),
                attempt,
                account: account.clone(),
                managed,
                recipients: recipients.clone(),
                booking: charged,
                at,
                onward: None,
            },
            p(),
        )),
    ];
    all.extend([
        ob::Event::Delivered(Halves::new(
            ob::Delivered {
                mail: m(),
                recipients: recipients.clone(),
                source: Source::Smtp,
                account: Some(account),
                managed,
                booking: charged,
                at,
                onward: None,
            },
            p(),
        )),
        ob::Event::Deferred(Halves::new(
            ob::Deferred {
                mail: m(),
                attempt,
                recipients: recipients.clone(),
                verdict: later,
                uncertain: false,
                retry_at: NOW + 60_000_000,
                expires_at: NOW + 72 * 3_600_000_000,
                announced: true,
                at,
            },
            p(),
        )),
        ob::Event::Delayed(Halves::new(
            ob::Delayed { mail: m(), recipient: 0, verdict: later, source: Source::Dsn, expires_at: None },
            p(),
        )),
        ob::Event::Uncertain(Halves::new(
            ob::Uncertain { mail: m(), attempt, recipients: recipients.clone(), stage: Stage::NoAnswer, at },
            p(),
        )),
        ob::Event::Rejected(Halves::new(
            ob::RejectedFacts {
                mail: m(),
                recipients: recipients.clone(),
                reason: RejectReason::Provider,
                verdict: Some(verdict),
                booking: released,
                at,
            },
            p(),
        )),
        ob::Event::Bounced(Halves::new(
            ob::Bounced {
                mail: m(),
                recipient: 0,
                address: address_id(1),
                kind: Kind::Hard,
                verdict,
                source: Source::Dsn,
                late: true,
                managed,
                booking: Booking::default(),
                at,
            },
            p(),
        )),
        ob::Event::Complained(Halves::new(
            ob::Complained { mail: m(), recipient: 0, complaint: Complaint::Abuse, source: Source::Provider },
            p(),
        )),
        ob::Event::Opened(Halves::new(ob::Opened { mail: m(), recipient: 0, machine: Machine::Unknown }, p())),
        ob::Event::Unsubscribed(Halves::new(
            ob::Unsubscribed {
                mail: m(),
                recipient: 0,
                method: UnsubscribeMethod::OneClick,
                topic: Some("news".into()),
            },
            p(),
        )),
        ob::Event::Released(ob::Released { mail: m(), recipients, booking: released }.into()),
        ob::Event::NoticePlanned(Halves::new(
            ob::NoticePlanned {
                mail: m(),
                number: 1,
                action: NoticeAction::Failed,
                recipients: vec![NoticeOf { recipient: 0, status: (5, 1, 1) }],
                at,
            },
            ob::NoticeWords {
                recipients: vec![Words {
                    diagnostic: Some("550 5.1.1 no such user".into()),
                    remote_mta: Some("mx.example.net".into()),
                }],
            },
        )),
        ob::Event::NoticeSettled(
            ob::NoticeSettled { mail: m(), number: 1, outcome: NoticeOutcome::Sent { outbound: outbound_id(2) }, at }
                .into(),
        ),
    ]);
    all.into_iter().map(Event::Outbound).collect()
}
