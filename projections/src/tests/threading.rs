//! Which messages are one thread does not depend on the order in which they came.

use std::collections::BTreeSet;

use domain::id::{MessageId, Position, ThreadId};
use domain::message::{Correspondence, Person, ReceiveMessage, Received};
use domain::testing::received_halves;
use domain::{Actor, message};
use eventlog::EventLog;
use proptest::prelude::*;

use super::history::{START, Story, told};
use super::properties::{Place, block_on};
use super::world::{apply, memory_log, wish};
use crate::{Page, Views, messages, rebuild, threads};

/// A mail: its number, and the numbers of those it refers to, the nearest first. Not all of them need ever come.
pub type Mail = (u8, Vec<u8>);

/// Returns the thread that a door names which knows nothing but the mail.
fn named(story: &Story, (n, references): &Mail) -> ThreadId {
    let root = references.last().unwrap_or(n);
    ThreadId::rooted_at(&story.mailbox(0), &format!("m{root}@example.net"))
}

async fn receive(log: &EventLog, story: &Story, mail: &Mail, thread: ThreadId) {
    let (n, references) = mail;
    let mailbox = story.mailbox(0);
    let facts = Received { message: story.message(*n), thread, ..received_halves(*n, &mailbox).0 };
    let personal = Correspondence {
        mail_from: None,
        rcpt_to: vec![],
        from: Some(Person { name: None, email: format!("p{n}@example.net") }),
        to: vec![],
        cc: vec![],
        subject: Some(format!("Subject {n}")),
        preview: String::new(),
        rfc5322_message_id: format!("m{n}@example.net"),
        references: references.iter().map(|n| format!("m{n}@example.net")).collect(),
        helo: String::new(),
        peer_ip: String::new(),
        verified_domain: None,
    };
    wish(log, &story.team, START, Actor::Smtp, ReceiveMessage { facts, personal, mail_from: None }).await;
}

/// Returns the sets of messages that are one thread.
async fn partition(views: &Views, story: &Story) -> BTreeSet<BTreeSet<MessageId>> {
    let (team, mailbox) = (&story.team, &story.mailbox(0));
    let page = &Page::first(1_000);
    let rows = threads::list(views, team, mailbox, &Default::default(), false, page).await.unwrap().rows;
    let mut sets = BTreeSet::new();
    for row in rows {
        let ids = messages::ids_of_thread(views, team, mailbox, &row.id, 1_000).await.unwrap();
        assert_eq!(u64::try_from(ids.len()).unwrap(), row.messages);
        sets.insert(ids.into_iter().collect());
    }
    sets
}

/// Returns the sets of mails that have a Message-ID in common, directly or through others.
fn components(mails: &[Mail], story: &Story) -> BTreeSet<BTreeSet<MessageId>> {
    let mut sets: Vec<(BTreeSet<u8>, BTreeSet<MessageId>)> = vec![];
    for (n, references) in mails {
        let mut ids: BTreeSet<u8> = references.iter().copied().chain([*n]).collect();
        let mut members = BTreeSet::from([story.message(*n)]);
        sets.retain(|(others, with)| {
            let apart = others.is_disjoint(&ids);
            if !apart {
                ids.extend(others);
                members.extend(with.iter().cloned());
            }
            apart
        });
        sets.push((ids, members));
    }
    sets.into_iter().map(|(_, members)| members).collect()
}

fn mails() -> impl Strategy<Value = Vec<Mail>> {
    // References up to 14 of which 0..10 come.
    prop::collection::vec(prop::collection::vec(0..15_u8, 0..3), 1..10)
        .prop_map(|all| (0..).zip(all).collect::<Vec<Mail>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_arrival_does_not_change_the_threads(
        (mails, order) in mails().prop_flat_map(|mails| {
            let order: Vec<usize> = (0..mails.len()).collect();
            (Just(mails), Just(order).prop_shuffle())
        }),
        page in 1..6_usize,
    ) {
        block_on(order_does_not_matter(Place::Memory, &mails, &order, page));
    }
}

pub async fn order_does_not_matter(place: Place<'_>, mails: &[Mail], order: &[usize], page: usize) {
    for looks in [false, true] {
        let log = memory_log().await;
        let story = told(&log, 1, &[]).await;
        let views = place.views(0).await;
        let mut told_of = vec![];
        for n in order {
            let mail = &mails[*n];
            let mut thread = named(&story, mail);
            if looks {
                // A door whose views are up to date.
                apply(&log, &views, &story.team, &[1_000], Position::MAX).await;
                let ids: Vec<_> = mail.1.iter().map(|n| format!("m{n}@example.net")).collect();
                let found = messages::thread_of_references(&views, &story.team, &story.mailbox(0), &ids).await.unwrap();
                thread = found.unwrap_or(thread);
            }
            receive(&log, &story, mail, thread.clone()).await;
            told_of.push((mail.0, thread));
        }
        apply(&log, &views, &story.team, &[page], Position::MAX).await;
        assert_eq!(partition(&views, &story).await, components(mails, &story), "a door that looks: {looks}");
        let before = views.dump(&story.team).await.unwrap();
        rebuild(&views, &log, None, None, |_| {}).await.unwrap();
        assert_eq!(views.dump(&story.team).await.unwrap(), before);
        for (n, thread) in told_of {
            // Whatever thread an event named leads to where the message is.
            let (team, mailbox) = (&story.team, &story.mailbox(0));
            let now = threads::resolve(&views, team, mailbox, &thread).await.unwrap();
            let row = messages::get(&views, team, mailbox, &story.message(n)).await.unwrap().unwrap();
            assert_eq!(row.thread, now);
        }
        views.close().await;
    }
}

#[test]
fn a_parent_that_comes_late_joins_two_threads() {
    block_on(two_threads_become_one(Place::Memory));
}

pub async fn two_threads_become_one(place: Place<'_>) {
    let log = memory_log().await;
    let story = told(&log, 1, &[]).await;
    let views = place.views(0).await;
    let (team, mailbox) = (&story.team, &story.mailbox(0));
    // 1 answers 0, 3 answers 2; neither 0 nor 2 is here yet.
    for mail in [(1, vec![0]), (3, vec![2])] {
        receive(&log, &story, &mail, named(&story, &mail)).await;
    }
    let read = message::ChangeKeywords {
        message: story.message(3),
        mailbox: mailbox.clone(),
        add: ["$seen".to_owned()].into(),
        remove: Default::default(),
        if_version: None,
    };
    wish(&log, team, START, Actor::Operator, read).await;
    apply(&log, &views, team, &[1_000], Position::MAX).await;
    let since = views.position(team).await.unwrap();
    let (first, second) = (named(&story, &(0, vec![])), named(&story, &(2, vec![])));
    assert_eq!(partition(&views, &story).await.len(), 2);
    // 2 answers 0: now it shows.
    let late = (2, vec![0]);
    receive(&log, &story, &late, second.clone()).await;
    apply(&log, &views, team, &[1_000], Position::MAX).await;
    assert_eq!(threads::get(&views, team, mailbox, &second).await.unwrap(), None);
    assert_eq!(threads::resolve(&views, team, mailbox, &second).await.unwrap(), first);
    let row = threads::get(&views, team, mailbox, &first).await.unwrap().unwrap();
    assert_eq!((row.messages, row.unread, row.subject.as_deref()), (3, 2, Some("Subject 1")));
    let people: Vec<_> = row.participants.iter().map(|p| p.email.as_str()).collect();
    assert_eq!(people, ["p1@example.net", "p3@example.net", "p2@example.net"]);
    // Who was away hears of the messages that moved and of the thread that ended.
    let changes = threads::changes(&views, team, mailbox, since, 10).await.unwrap();
    assert_eq!((changes.updated, changes.destroyed), (vec![first.clone()], vec![second]));
    let changes = messages::changes(&views, team, mailbox, since, 10).await.unwrap();
    assert_eq!((changes.created, changes.updated), (vec![story.message(2)], vec![story.message(3)]));
    let ids = ["m3@example.net".to_owned()];
    assert_eq!(messages::thread_of_references(&views, team, mailbox, &ids).await.unwrap(), Some(first));
    views.close().await;
}
