//! Lists: pages partition them, filters mean what they say, cursors of others are refused.

use domain::id::{Position, ThreadId};
use domain::message::Folder;
use domain::testing as sample;
use proptest::prelude::*;

use super::history::{Op, Story, ops, told};
use super::properties::{Place, block_on};
use super::world::{apply, memory_log};
use crate::messages::{Filter, Sort, SortBy};
use crate::{Error, Page, Paged, Views, api_keys, audit, inbox_logs, mailboxes, messages, threads, usage, webhooks};

/// Reads a list page by page and checks that the pages together are the whole.
macro_rules! partitions {
    ($limit:expr, |$page:ident| $list:expr) => {{
        let $page = &Page::first(1_000);
        let whole: Paged<_> = $list.await.unwrap();
        assert_eq!(whole.next_cursor, None);
        let (mut rows, mut after) = (vec![], None);
        loop {
            let $page = &Page { after, limit: $limit };
            let part = $list.await.unwrap();
            assert!(part.rows.len() <= $limit);
            rows.extend(part.rows);
            after = part.next_cursor;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(rows, whole.rows);
        rows
    }};
}

pub const SORTS: [SortBy; 6] =
    [SortBy::ReceivedAt, SortBy::SentAt, SortBy::Subject, SortBy::From, SortBy::To, SortBy::SizeBytes];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pages_partition_every_list(ops in ops(1..100, true), limit in 1..7_usize) {
        block_on(pages_partition(Place::Memory, &ops, limit));
    }
}

pub async fn pages_partition(place: Place<'_>, ops: &[(Op, i64)], limit: usize) {
    let log = memory_log().await;
    let story = told(&log, 1, ops).await;
    let views = &place.views(0).await;
    let team = &story.team;
    apply(&log, views, team, &[17], Position::MAX).await;
    let keys = api_keys::Filter { include_revoked: true, ..Default::default() };
    partitions!(limit, |page| api_keys::list(views, team, &keys, page));
    partitions!(limit, |page| webhooks::list(views, team, page));
    let closed = mailboxes::Filter { include_closed: true, search: None };
    partitions!(limit, |page| mailboxes::list(views, team, &closed, page));
    let events = partitions!(limit, |page| audit::list(views, team, &Default::default(), page));
    assert_eq!(u64::try_from(events.len()).unwrap(), log.head(team).await.unwrap().position);
    partitions!(limit, |page| inbox_logs::list(views, team, &Default::default(), page));
    let days = usage::Filter::days(i64::MIN, i64::MAX);
    partitions!(limit, |page| usage::by_day(views, team, &days, page));
    let mailbox = &story.mailbox(0);
    for by in SORTS {
        for ascending in [false, true] {
            let sort = Sort { by, ascending };
            let rows = partitions!(limit, |page| messages::list(views, team, mailbox, &Filter::default(), sort, page));
            let keys: Vec<_> = rows.iter().map(|row| sort_key(row, by)).collect();
            assert!(keys.is_sorted_by(|a, b| if ascending { a <= b } else { a >= b }), "{by:?} {keys:?}");
        }
    }
    for ascending in [false, true] {
        partitions!(limit, |page| threads::list(views, team, mailbox, &Default::default(), ascending, page));
    }
    views.close().await;
}

/// What a list is sorted by, so that texts and numbers sort as such.
fn sort_key(row: &messages::Row, by: SortBy) -> (i64, String) {
    let [subject, from, to] = row.sort_texts.clone();
    match by {
        SortBy::ReceivedAt => (row.received_at, String::new()),
        SortBy::SentAt => (row.sent_at.unwrap_or(row.received_at), String::new()),
        SortBy::SizeBytes => (row.size_bytes, String::new()),
        SortBy::Subject => (0, subject),
        SortBy::From => (0, from),
        SortBy::To => (0, to),
    }
}

/// A story with three messages in mailbox 0: 0 and 3 read and flagged by turns, 6 destroyed.
async fn three_messages(place: Place<'_>) -> (Views, Story) {
    let log = memory_log().await;
    let receive = |message, thread, subject, spam, attachments| {
        (Op::Receive { message, thread, subject, refers_to: message, spam, attachments }, 1)
    };
    let ops = [
        receive(0, 0, 1, false, 0),
        receive(3, 0, 2, false, 2),
        receive(6, 1, 3, true, 0),
        receive(9, 2, 0, false, 0),
        (Op::Keyword { message: 0, keyword: 0, set: true }, 1),
        (Op::Keyword { message: 3, keyword: 1, set: true }, 1),
        (Op::Trash(9), 1),
    ];
    let story = told(&log, 1, &ops).await;
    let views = place.views(0).await;
    apply(&log, &views, &story.team, &[1_000], Position::MAX).await;
    (views, story)
}

async fn found(views: &Views, story: &Story, filter: Filter) -> Vec<u8> {
    let mailbox = story.mailbox(0);
    let page = Page::first(100);
    let rows =
        messages::list(views, &story.team, &mailbox, &filter, Sort { ascending: true, ..Sort::default() }, &page);
    let rows = rows.await.unwrap().rows;
    assert_eq!(
        messages::count(views, &story.team, &mailbox, &filter).await.unwrap(),
        u64::try_from(rows.len()).unwrap()
    );
    let number = |row: messages::Row| (0..40).find(|n| story.message(*n) == row.id).unwrap();
    rows.into_iter().map(number).collect()
}

#[test]
fn a_message_list_is_narrowed_by_each_filter() {
    block_on(filters_narrow(Place::Memory));
}

pub async fn filters_narrow(place: Place<'_>) {
    let (views, story) = three_messages(place).await;
    let text = |s: &str| Some(s.to_owned());
    let thread = ThreadId::rooted_at(&story.mailbox(0), "t0");
    let received = messages::get(&views, &story.team, &story.mailbox(0), &story.message(3)).await.unwrap().unwrap();
    let cases: Vec<(Filter, &[u8])> = vec![
        (Filter::default(), &[0, 3, 6, 9]),
        (Filter { folder: Some(Folder::Inbox), ..Filter::default() }, &[0, 3]),
        (Filter { folder: Some(Folder::Trash), ..Filter::default() }, &[9]),
        (Filter { thread: Some(thread), ..Filter::default() }, &[0, 3]),
        (Filter { q: text("GRÖSSE kiste"), ..Filter::default() }, &[]),
        (Filter { q: text("GRÖßE kiste"), ..Filter::default() }, &[0, 3]),
        (Filter { q: text("\"quoted\"\\ 6"), ..Filter::default() }, &[6]),
        (Filter { subject: text("100% _SURE_"), ..Filter::default() }, &[6]),
        (Filter { subject: text("%"), ..Filter::default() }, &[6]),
        (Filter { from: text("ÄNNA"), ..Filter::default() }, &[6]),
        (Filter { from: text("anna3@example.net"), ..Filter::default() }, &[3]),
        (Filter { to: text("box0@"), ..Filter::default() }, &[0, 3, 6, 9]),
        (Filter { cc: text("copy"), ..Filter::default() }, &[]),
        (Filter { bcc: text("box0"), ..Filter::default() }, &[]),
        (Filter { rfc5322_message_id: text("m6@example.net"), ..Filter::default() }, &[6]),
        (Filter { keyword: text("$Seen"), ..Filter::default() }, &[0]),
        (Filter { keyword: text("$see"), ..Filter::default() }, &[]),
        (Filter { not_keyword: text("$flagged"), ..Filter::default() }, &[0, 6, 9]),
        (Filter { after: Some(received.received_at), ..Filter::default() }, &[3, 6, 9]),
        (Filter { before: Some(received.received_at), ..Filter::default() }, &[0]),
        (Filter { min_size_bytes: Some(1_060), ..Filter::default() }, &[6, 9]),
        (Filter { max_size_bytes: Some(1_030), ..Filter::default() }, &[0]),
        (Filter { has_attachment: Some(true), ..Filter::default() }, &[3]),
        (Filter { has_attachment: Some(false), ..Filter::default() }, &[0, 6, 9]),
        (Filter { is_unread: Some(true), ..Filter::default() }, &[3, 6, 9]),
        (Filter { is_unread: Some(false), ..Filter::default() }, &[0]),
        (Filter { is_unread: Some(true), q: text("nul\0l"), ..Filter::default() }, &[]),
    ];
    for (filter, expected) in cases {
        assert_eq!(found(&views, &story, filter.clone()).await, expected, "{filter:?}");
    }
    narrowed_threads(&views, &story).await;
    narrowed_logs(&views, &story).await;
    views.close().await;
}

async fn narrowed_threads(views: &Views, story: &Story) {
    let count = async |filter: threads::Filter| {
        let page = Page::first(10);
        threads::list(views, &story.team, &story.mailbox(0), &filter, false, &page).await.unwrap().rows.len()
    };
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(count(threads::Filter::default()).await, 3);
    assert_eq!(count(threads::Filter { q: text("kiste"), ..Default::default() }).await, 1);
    assert_eq!(count(threads::Filter { participant: text("anna3"), ..Default::default() }).await, 1);
    assert_eq!(count(threads::Filter { folder: Some(Folder::Trash), ..Default::default() }).await, 1);
    assert_eq!(count(threads::Filter { has_attachment: Some(true), ..Default::default() }).await, 1);
    assert_eq!(count(threads::Filter { is_unread: Some(false), ..Default::default() }).await, 0);
    let thread = ThreadId::rooted_at(&story.mailbox(0), "t0");
    let row = threads::get(views, &story.team, &story.mailbox(0), &thread).await.unwrap().unwrap();
    assert_eq!((row.messages, row.unread, row.last_message_id), (2, 1, story.message(3)));
    let ids = messages::ids_of_thread(views, &story.team, &story.mailbox(0), &thread, 10).await.unwrap();
    assert_eq!(ids, [story.message(0), story.message(3)]);
    let elsewhere = threads::get(views, &story.team, &story.mailbox(1), &thread).await.unwrap();
    assert_eq!(elsewhere, None);
}

async fn narrowed_logs(views: &Views, story: &Story) {
    let team = &story.team;
    let logs =
        async |filter: inbox_logs::Filter| inbox_logs::list(views, team, &filter, &Page::first(10)).await.unwrap().rows;
    let all = logs(inbox_logs::Filter::default()).await;
    assert_eq!(all.len(), 4);
    assert_eq!(all[0].mailbox_email.as_deref(), Some("box0@team1.example"));
    assert_eq!(inbox_logs::get(views, team, &all[2].id).await.unwrap().as_ref(), Some(&all[2]));
    assert_eq!(inbox_logs::get(views, &sample::team_id(), &all[2].id).await.unwrap(), None);
    assert_eq!(logs(inbox_logs::Filter { is_spam: Some(true), ..Default::default() }).await.len(), 1);
    let mailbox = Some(story.mailbox(1));
    assert_eq!(logs(inbox_logs::Filter { mailbox, ..Default::default() }).await, []);
    for (search, hits) in [("BOX0@TEAM1", 4), ("anna1@example.net", 1), ("M6@", 1), ("größe", 2), ("nobody", 0)] {
        let search = Some(search.to_owned());
        assert_eq!(logs(inbox_logs::Filter { search, ..Default::default() }).await.len(), hits);
    }
    let from = Some(all[1].received_at);
    assert_eq!(logs(inbox_logs::Filter { from, ..Default::default() }).await.len(), 2);
    assert_eq!(logs(inbox_logs::Filter { to: from, ..Default::default() }).await.len(), 2);
    let named = async |filter: audit::Filter| audit::list(views, team, &filter, &Page::first(100)).await.unwrap().rows;
    let smtp = named(audit::Filter { actor: Some("smtp".into()), ..Default::default() }).await;
    assert_eq!(smtp.len(), 4);
    assert_eq!(smtp[0].client_ip.as_deref(), Some("198.51.100.7"));
    let moved = named(audit::Filter { name: Some("message.moved".into()), ..Default::default() }).await;
    assert_eq!(moved.len(), 1);
    let stream = Some(domain::StreamId::Message(story.message(9)));
    assert_eq!(named(audit::Filter { stream, ..Default::default() }).await.len(), 2);
    assert_eq!(named(audit::Filter { from: Some(moved[0].at), ..Default::default() }).await.len(), 1);
}

#[tokio::test]
async fn a_cursor_of_another_order_is_refused() {
    let (views, story) = three_messages(Place::Memory).await;
    let mailbox = story.mailbox(0);
    let list =
        async |sort, page: Page| messages::list(&views, &story.team, &mailbox, &Filter::default(), sort, &page).await;
    let first = list(Sort::default(), Page::first(1)).await.unwrap();
    let page = Page { after: first.next_cursor, limit: 1 };
    let refused = list(Sort { by: SortBy::Subject, ascending: false }, page.clone()).await;
    assert!(matches!(refused, Err(Error::BadCursor)));
    let refused = threads::list(&views, &story.team, &mailbox, &Default::default(), false, &page).await;
    assert!(matches!(refused, Err(Error::BadCursor)));
}

#[test]
fn replies_find_their_thread() {
    block_on(threading(Place::Memory));
}

pub async fn threading(place: Place<'_>) {
    let (views, story) = three_messages(place).await;
    let (team, mailbox) = (&story.team, &story.mailbox(0));
    let thread = |n: &str| Some(ThreadId::rooted_at(mailbox, n));
    let of = async |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        messages::thread_of_references(&views, team, mailbox, &ids).await.unwrap()
    };
    assert_eq!(of(&["m6@example.net", "m0@example.net"]).await, thread("t1"), "the first that is known");
    assert_eq!(of(&["nobody@example.net", "m3@example.net"]).await, thread("t0"));
    assert_eq!(
        of(&["shared0@example.net", "m6@example.net"]).await,
        thread("t1"),
        "known goes before only referred to"
    );
    assert_eq!(of(&["shared0@example.net"]).await, thread("t0"), "another one there refers to it");
    assert_eq!(of(&["nobody@example.net"]).await, None);
    assert_eq!(of(&[]).await, None);
    let elsewhere = ["m0@example.net".to_owned()];
    assert_eq!(messages::thread_of_references(&views, team, &story.mailbox(1), &elsewhere).await.unwrap(), None);

    let now = super::history::START + 60_000_000;
    let by = async |subject: &str, who: &[&str], now: i64| {
        messages::thread_by_subject(&views, team, mailbox, subject, who, now).await.unwrap()
    };
    assert_eq!(by("AW: Größe der Kiste", &["anna3@example.net"], now).await, thread("t0"));
    assert_eq!(by("Größe der Kiste", &["anna3@example.net"], now).await, None, "no reply prefix");
    assert_eq!(by("Re: Größe der Kiste", &["stranger@example.net"], now).await, None, "nobody in common");
    assert_eq!(by("Re: Größe", &["anna3@example.net"], now).await, None, "one word says too little");
    let late = now + messages::SUBJECT_MICROS;
    assert_eq!(by("Re: Größe der Kiste", &["anna3@example.net"], late).await, None, "too long ago");
    views.close().await;
}

#[tokio::test]
async fn erased_halves_show_as_absent() {
    let log = memory_log().await;
    let ops = [
        (Op::Receive { message: 0, thread: 0, subject: 1, refers_to: 0, spam: false, attachments: 0 }, 1),
        (Op::CreateWebhook(0, true), 1),
    ];
    let story = told(&log, 1, &ops).await;
    let team = &story.team;
    let views = Views::memory().await.unwrap();
    apply(&log, &views, team, &[1_000], Position::MAX).await;
    let head = log.head(team).await.unwrap().position;
    log.erase_personal(team, &(1..=head).collect::<Vec<_>>()).await.unwrap();
    crate::rebuild(&views, &log, None, Some(team), |_| {}).await.unwrap();
    let dump = format!("{:?}", views.dump(team).await.unwrap());
    // The name of the team's own domain is a fact; the addresses at it are not.
    for trace in ["example.net", "@team1.example", "Kiste", "Hello", "198.51.100", "192.0.2", "Box 0", "hooks.example"]
    {
        assert!(!dump.contains(trace), "{trace} is still there");
    }
    let mailbox = &story.mailbox(0);
    let row = messages::get(&views, team, mailbox, &story.message(0)).await.unwrap().unwrap();
    assert_eq!((row.subject, row.preview, row.correspondence.from), (None, None, None));
    assert_eq!(mailboxes::get(&views, team, mailbox).await.unwrap().unwrap().email, None);
    assert_eq!(webhooks::of_team(&views, team).await.unwrap()[0].url, None);
    assert_eq!(
        inbox_logs::list(&views, team, &Default::default(), &Page::first(1)).await.unwrap().rows[0].subject,
        None
    );
    assert_eq!(
        threads::list(&views, team, mailbox, &Default::default(), false, &Page::first(1)).await.unwrap().rows.len(),
        1
    );
    assert!(
        audit::list(&views, team, &Default::default(), &Page::first(100))
            .await
            .unwrap()
            .rows
            .iter()
            .all(|r| r.client_ip.is_none())
    );
}
