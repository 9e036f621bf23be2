//! Given these events, when this command, then those events or that rejection.
//!
//! Every scenario is also a property: the events survive storage, and deciding the same command again on
//! the state after them adds nothing.

use std::collections::{BTreeMap, BTreeSet};

mod sending;

pub use sending::{accept, domain_found, provider_created, ses_created, with_money};

use crate::entity::{Entity, State, Versioned};
use crate::id::{
    AddressId, BlobId, DomainId, GroupId, KeyId, LimitRequestId, MailboxId, MessageId, OutboundId, PaymentId,
    ProviderId, SecretId, TeamId, ThreadId, WebhookId,
};
use crate::permission::Permissions;
use crate::personal::Halves;
use crate::published::WebhookEventType;
use crate::team::Limits;
use crate::{Command, Event, Moment, StreamId, api_key, mailbox, message, sending_domain, team, webhook_endpoint};

/// The time at which every scenario takes place, microseconds since the Unix epoch.
pub const NOW: i64 = 1_700_000_000_000_000;

/// A command that writes an event as it is, whatever happened before.
#[derive(Debug, Clone)]
pub struct Put(pub Event);

impl Command for Put {
    type State = ();
    type Rejected = std::convert::Infallible;

    fn streams(&self) -> Vec<StreamId> {
        self.0.stream().into_iter().collect()
    }

    fn decide(&self, (): &(), _: &Moment) -> Result<Vec<Event>, Self::Rejected> {
        Ok(vec![self.0.clone()])
    }
}

/// Returns the state of a command's streams after a history.
pub fn fold<S: State>(streams: &[StreamId], history: &[Event]) -> S {
    let mut folds: BTreeMap<StreamId, Versioned<Entity>> = BTreeMap::new();
    for event in history {
        let own = event.stream();
        for stream in own.iter().cloned().chain(event.links()) {
            let fold = folds.entry(stream.clone()).or_insert_with(|| empty(&stream));
            std::sync::Arc::make_mut(&mut fold.state).evolve(event);
            if own.as_ref() == Some(&stream) {
                fold.version += 1;
            }
        }
    }
    S::from_entities(&mut streams.iter().map(|s| folds.get(s).cloned().unwrap_or_else(|| empty(s))))
}

fn empty(stream: &StreamId) -> Versioned<Entity> {
    Versioned { version: 0, state: std::sync::Arc::new(Entity::of_stream(stream)) }
}

/// A history.
pub struct Given(Vec<Event>);

/// A history and a wish.
pub struct When<C: Command> {
    history: Vec<Event>,
    command: C,
}

/// Starts a scenario from a history.
pub fn given(history: impl IntoIterator<Item = Event>) -> Given {
    Given(history.into_iter().collect())
}

impl Given {
    /// Adds the wish.
    pub fn when<C: Command>(self, command: C) -> When<C> {
        When { history: self.0, command }
    }
}

impl<C: Command> When<C> {
    fn decide(&self, history: &[Event]) -> Result<Vec<Event>, C::Rejected> {
        let state: C::State = fold(&self.command.streams(), history);
        self.command.decide(&state, &Moment { team: team_id(), now: NOW })
    }

    /// Returns the events the wish leads to, after checking that they survive storage and that repeating it adds none.
    ///
    /// # Panics
    /// The wish is refused, storage changes an event, or the repetition adds something.
    pub fn then_events(self) -> Vec<Event> {
        let events = self.decide(&self.history).expect("the scenario expects the command to be accepted");
        for event in &events {
            let e = event.encode();
            let back = Event::decode(&e.name, e.version, &e.facts, e.personal.as_deref()).expect("decodes");
            assert_eq!(&back, event, "an event changed in storage");
        }
        let after: Vec<_> = self.history.iter().chain(&events).cloned().collect();
        let again = self.decide(&after).expect("the same command again is accepted");
        assert!(again.is_empty(), "the same command again added {again:?}");
        events
    }

    /// Returns the events the wish leads to, for wishes that are new each time (a test delivery).
    ///
    /// # Panics
    /// The wish is refused.
    pub fn then_events_each_time(self) -> Vec<Event> {
        self.decide(&self.history).expect("the scenario expects the command to be accepted")
    }

    /// Checks that nothing happens.
    ///
    /// # Panics
    /// Something happens.
    pub fn then_nothing(self) {
        assert!(self.then_events().is_empty());
    }

    /// Checks that the wish is refused for this reason.
    ///
    /// # Panics
    /// It is accepted or refused for another.
    pub fn then_rejected(self, reason: &C::Rejected)
    where
        C::Rejected: PartialEq,
    {
        assert_eq!(&self.decide(&self.history).expect_err("the scenario expects a rejection"), reason);
    }
}

macro_rules! sample_ids {
    ($($name:ident: $id:ty;)+) => {$(
        #[doc = concat!("Returns a sample [`", stringify!($id), "`] made from a number.")]
        #[must_use]
        pub fn $name(n: u8) -> $id {
            <$id>::new(NOW, [n; 9])
        }
    )+};
}

sample_ids! {
    key_id: KeyId;
    mailbox_id: MailboxId;
    domain_id: DomainId;
    message_id: MessageId;
    thread_id: ThreadId;
    blob_id: BlobId;
    secret_id: SecretId;
    webhook_id: WebhookId;
    provider_id: ProviderId;
    group_id: GroupId;
    outbound_id: OutboundId;
    payment_id: PaymentId;
    limit_request_id: LimitRequestId;
    address_id: AddressId;
}

/// Returns the team of every scenario.
#[must_use]
pub fn team_id() -> TeamId {
    TeamId::new(NOW, [0; 9])
}

/// Returns the history of a team with these limits and the verified domain `example.org`.
#[must_use]
pub fn with_limits(limits: Limits) -> Vec<Event> {
    vec![
        Event::Team(team::Event::Created(Halves::new(
            team::Created { team: team_id(), limits },
            team::TeamName { name: "Acme".into() },
        ))),
        Event::SendingDomain(sending_domain::Event::Added(
            sending_domain::Added {
                domain: domain_id(1),
                name: "example.org".into(),
                mode: sending_domain::Mode::SendReceive,
            }
            .into(),
        )),
        Event::SendingDomain(sending_domain::Event::Verified(
            sending_domain::Verified { domain: domain_id(1), proof: sending_domain::Proof::Operator }.into(),
        )),
    ]
}

/// Returns the history of a team with default limits.
#[must_use]
pub fn team_created() -> Vec<Event> {
    with_limits(Limits::default())
}

/// Returns the event that opens mailbox `n` as `box<n>@example.org`.
#[must_use]
pub fn opened(n: u8) -> Event {
    Event::Mailbox(mailbox::Event::Opened(Halves::new(
        mailbox::Opened {
            mailbox: mailbox_id(n),
            domain: domain_id(1),
            quota_bytes: 1 << 30,
            send_scope: mailbox::SendScope::All,
        },
        mailbox::Owner { email: format!("box{n}@example.org"), display_name: None },
    )))
}

/// Returns the event of message `n` arriving in mailbox 1.
#[must_use]
pub fn received(n: u8) -> Event {
    let (facts, personal) = received_halves(n, &mailbox_id(1));
    Event::Message(message::Event::Received(Halves::new(facts, personal)))
}

/// Returns both halves of message `n` arriving in a mailbox.
#[must_use]
pub fn received_halves(n: u8, mailbox: &MailboxId) -> (message::Received, message::Correspondence) {
    let facts = message::Received {
        message: message_id(n),
        mailbox: mailbox.clone(),
        thread: thread_id(n % 4),
        folder: message::Folder::Inbox,
        blob: blob_id(n),
        size_bytes: 1_000 + i64::from(n),
        sha256: format!("{n:064x}"),
        is_spam: false,
        spam_score: 0,
        spam_rules: vec![],
        attachments: 0,
        authentication: message::Authentication::default(),
        sent_at: Some(NOW),
        parser_version: 1,
        own_report: false,
    };
    let person = |email: &str| message::Person { name: None, email: email.into() };
    let personal = message::Correspondence {
        mail_from: Some("ann@example.net".into()),
        rcpt_to: vec!["box1@example.org".into()],
        from: Some(person("ann@example.net")),
        to: vec![person("box1@example.org")],
        cc: vec![],
        subject: Some(format!("Hello {n}")),
        preview: "Hello".into(),
        rfc5322_message_id: format!("m{n}@example.net"),
        references: vec![],
        helo: "mx.example.net".into(),
        peer_ip: "192.0.2.1".into(),
        verified_domain: None,
    };
    (facts, personal)
}

/// Returns the event that creates webhook `n`, told of everything in every mailbox.
#[must_use]
pub fn webhook_created(n: u8) -> Event {
    Event::Webhook(webhook_endpoint::Event::Created(Halves::new(
        webhook_endpoint::Created {
            webhook: webhook_id(n),
            subscription: webhook_endpoint::Subscription {
                event_types: WebhookEventType::ALL.into_iter().collect(),
                mailboxes: BTreeSet::new(),
            },
            enabled: true,
            secret: secret_id(n),
            deliver_after: None,
        },
        webhook_endpoint::Destination { url: format!("https://hooks.example.com/{n}"), name: None },
    )))
}

/// Returns the event that creates infrastructure key `n`.
///
/// # Panics
/// Never: the permissions stand in the catalogue.
#[must_use]
pub fn key_created(n: u8) -> Event {
    let minted = api_key::Minted {
        key: key_id(n),
        lookup: format!("{n:064x}"),
        prefix: "smx_inf_ab".into(),
        suffix: "wxyz".into(),
    };
    // A list of its own: presets grow, and what was recorded does not.
    let permissions = Permissions::parse([
        "analytics.*",
        "audit.read",
        "billing.*",
        "domain.*",
        "event.read",
        "key.*",
        "logs.*",
        "mailbox.admin.*",
        "provider.*",
        "routing.*",
        "team.*",
        "webhook.*",
    ]);
    let permissions = permissions.expect("the names stand in the catalogue");
    minted.created(api_key::Kind::Infrastructure, "ci", permissions, None, None)
}

/// Returns one sample of every event there is.
#[must_use]
pub fn one_of_each() -> Vec<Event> {
    use {mailbox as mb, message as ms, webhook_endpoint as wh};
    let mut all = team_created();
    all.push(Event::Team(team::Event::LimitsChanged(team::LimitsChanged { limits: Limits::default() }.into())));
    let erased = team::PersonalDataErased { subject: team::ErasureSubject::Mailbox, events: 3, bodies: 1 };
    all.push(Event::Team(team::Event::PersonalDataErased(erased.into())));
    all.extend([key_created(1), revoked_key(1), opened(1), received(1), webhook_created(1)]);
    let mailbox = mailbox_id(1);
    let subject = mb::Subject { mailbox: mailbox.clone() };
    let owner = mb::Owner { email: "box1@example.org".into(), display_name: Some("Box".into()) };
    let rule = mb::SenderRule { pattern: "example.net".into(), note: Some("partner".into()) };
    let rules_facts = mb::RulesReplaced { mailbox: mailbox.clone(), mode: mb::FilterMode::Allowlist, count: 1 };
    let scope = mb::SendScope::Group { group_public_ids: vec!["dgrp_1".into()] };
    all.extend(
        [
            mb::Event::Renamed(Halves::new(subject.clone(), mb::DisplayName { display_name: None })),
            mb::Event::QuotaChanged(mb::QuotaChanged { mailbox: mailbox.clone(), quota_bytes: 5 << 30 }.into()),
            mb::Event::SendScopeChanged(mb::SendScopeChanged { mailbox: mailbox.clone(), send_scope: scope }.into()),
            mb::Event::RulesReplaced(Halves::new(rules_facts, mb::Rules { rules: vec![rule] })),
            mb::Event::Suspended(subject.clone().into()),
            mb::Event::Resumed(subject.into()),
            mb::Event::Closed(Halves::new(mb::Closed { mailbox: mailbox.clone(), domain: Some(domain_id(1)) }, owner)),
        ]
        .map(Event::Mailbox),
    );
    let message = message_id(1);
    let keywords = ms::KeywordsChanged {
        message: message.clone(),
        mailbox: mailbox.clone(),
        added: ["$seen".to_owned()].into(),
        removed: ["$flagged".to_owned()].into(),
    };
    let duplicate = ms::DuplicateReceived { message: message.clone(), mailbox: mailbox.clone() };
    let moved = ms::Moved { message: message.clone(), mailbox: mailbox.clone(), folder: ms::Folder::Trash };
    all.extend(
        [
            ms::Event::KeywordsChanged(keywords.into()),
            ms::Event::Moved(moved.into()),
            ms::Event::DuplicateReceived(duplicate.into()),
            ms::Event::Destroyed(ms::Destroyed { message, mailbox, blob: blob_id(1), size_bytes: 1_001 }.into()),
        ]
        .map(Event::Message),
    );
    let webhook = webhook_id(1);
    let subject = wh::Subject { webhook: webhook.clone() };
    let destination = wh::Destination { url: "https://hooks.example.com/x".into(), name: Some("x".into()) };
    let subscription =
        wh::Subscription { event_types: [WebhookEventType::Received].into(), mailboxes: [mailbox_id(1)].into() };
    all.extend(
        [
            wh::Event::Redirected(Halves::new(subject.clone(), destination)),
            wh::Event::SubscriptionChanged(wh::SubscriptionChanged { webhook: webhook.clone(), subscription }.into()),
            wh::Event::Disabled(wh::Disabled { webhook: webhook.clone(), reason: wh::DisableReason::Requested }.into()),
            wh::Event::Enabled(wh::Enabled { webhook: webhook.clone(), backlog: wh::Backlog::Deliver }.into()),
            wh::Event::SecretRotated(wh::SecretRotated { webhook: webhook.clone(), secret: secret_id(2) }.into()),
            wh::Event::Tested(subject.clone().into()),
            wh::Event::DeliveryExhausted(
                wh::DeliveryExhausted { webhook: webhook.clone(), event_position: 9, attempts: 8 }.into(),
            ),
            wh::Event::DeliverySkipped(
                wh::DeliverySkipped { webhook, event_position: 9, reason: "no body".into() }.into(),
            ),
            wh::Event::Failing(subject.clone().into()),
            wh::Event::Deleted(subject.into()),
        ]
        .map(Event::Webhook),
    );
    all.extend(sending::one_of_each());
    all
}

/// Returns the event that ends infrastructure key `n`.
#[must_use]
pub fn revoked_key(n: u8) -> Event {
    Event::ApiKey(api_key::Event::Revoked(
        api_key::Revoked {
            key: key_id(n),
            lookup: format!("{n:064x}"),
            mailbox: None,
            reason: api_key::RevokeReason::Requested,
        }
        .into(),
    ))
}
