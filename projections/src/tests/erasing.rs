//! What is erased from the log is erased from the views, without anybody asking for it.

use std::time::Duration;

use domain::id::{Position, SecretId, ThreadId, WebhookId};
use domain::message::{Correspondence, Person, Received};
use domain::permission::Preset;
use domain::published::WebhookEventType;
use domain::testing::received_halves;
use domain::webhook_endpoint::{CreateWebhook, Subscription};
use domain::{Actor, api_key, mailbox, message};
use eventlog::{EventLog, Submission};
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::history::{Op, START, Story, ops, told};
use super::properties::{Place, block_on};
use super::world::{apply, memory_log, wish};
use crate::{Runner, Views, erasure};

const MARKER: &str = "zqmarkerqz";
const WAIT: Duration = Duration::from_secs(30);

/// Writes the marker wherever an event has room for something personal.
async fn plant(log: &EventLog, story: &Story) {
    let team = &story.team;
    let mailbox = story.mailbox(1);
    let operator = Actor::Operator;
    let open = mailbox::OpenMailbox {
        mailbox: mailbox.clone(),
        email: mail::address::Address::parse(&format!("{MARKER}@team1.example")).unwrap(),
        display_name: Some(MARKER.into()),
        quota_bytes: 1 << 30,
        send_scope: mailbox::SendScope::All,
        credential: None,
    };
    wish(log, team, START, operator.clone(), open).await;
    let rules = vec![mailbox::SenderRule { pattern: format!("{MARKER}.example"), note: Some(MARKER.into()) }];
    let rules = mailbox::ReplaceSenderRules {
        mailbox: mailbox.clone(),
        mode: mailbox::FilterMode::Denylist,
        rules,
        if_version: None,
    };
    wish(log, team, START, operator.clone(), rules).await;
    let minted = api_key::Minted {
        key: domain::id::KeyId::new(START, [77; 9]),
        lookup: format!("{:064x}", 77),
        prefix: "smx_inf_ab".into(),
        suffix: "wxyz".into(),
    };
    let key = api_key::CreateTeamKey {
        minted,
        kind: api_key::Kind::Infrastructure,
        name: MARKER.into(),
        permissions: Preset::Full.permissions(),
    };
    wish(log, team, START, operator.clone(), key).await;
    let webhook = CreateWebhook {
        webhook: WebhookId::new(START, [77; 9]),
        url: format!("https://{MARKER}.example/hook"),
        name: Some(MARKER.into()),
        subscription: Subscription { event_types: WebhookEventType::ALL.into(), mailboxes: Default::default() },
        enabled: true,
        secret: SecretId::new(START, [77; 9]),
        deliver_after: None,
    };
    wish(log, team, START, operator, webhook).await;
    let thread = ThreadId::rooted_at(&mailbox, "t");
    let facts = Received { message: story.message(200), thread, ..received_halves(200, &mailbox).0 };
    let person = Person { name: Some(MARKER.into()), email: format!("{MARKER}@example.net") };
    let personal = Correspondence {
        mail_from: Some(person.email.clone()),
        rcpt_to: vec![format!("{MARKER}@team1.example")],
        from: Some(person.clone()),
        to: vec![person.clone()],
        cc: vec![person],
        subject: Some(format!("Re: about {MARKER}")),
        preview: MARKER.into(),
        rfc5322_message_id: format!("{MARKER}@example.net"),
        references: vec![format!("parent-{MARKER}@example.net")],
        helo: MARKER.into(),
        peer_ip: MARKER.into(),
        verified_domain: Some(format!("{MARKER}.example")),
    };
    let receive = message::ReceiveMessage { facts, personal, mail_from: None };
    let submission = Submission::new(team.clone(), START, Actor::Smtp, "req_x", receive).from_ip(MARKER);
    log.transact(submission).await.unwrap();
}

async fn markers(views: &Views, story: &Story) -> usize {
    let dump = views.dump(&story.team).await.unwrap();
    dump.values().flatten().filter(|row| row.contains(MARKER)).count()
}

#[tokio::test]
async fn a_planted_marker_is_in_no_view_once_it_was_erased() {
    let log = memory_log().await;
    let story = told(&log, 1, &[]).await;
    let views = Views::memory().await.unwrap();
    plant(&log, &story).await;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let runner = Runner::new(log.clone(), views.clone());
    let until = stop.clone();
    tasks.spawn(async move { runner.run(until).await.unwrap() });
    let head = log.head(&story.team).await.unwrap().position;
    assert!(views.wait_for(&story.team, head, WAIT).await);
    assert!(markers(&views, &story).await >= 6, "the marker must be there before");
    log.erase_personal(&story.team, &(1..=head).collect::<Vec<_>>()).await.unwrap();
    tasks.spawn(erasure::follow(views.clone(), log.clone(), || true, stop.clone()));
    let gone = async {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while markers(&views, &story).await > 0 {
            pace.tick().await;
        }
    };
    tokio::time::timeout(WAIT, gone).await.expect("an erasure reaches the views by itself");
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    views.close().await;
}

#[tokio::test]
async fn views_are_made_anew_once_per_erasure_and_team() {
    let log = memory_log().await;
    let (a, b) = (told(&log, 1, &[(Op::CreateWebhook(0, true), 1)]).await, told(&log, 2, &[]).await);
    let views = Views::memory().await.unwrap();
    assert_eq!(erasure::catch_up(&views, &log).await.unwrap(), 0);
    log.erase_personal(&a.team, &[1]).await.unwrap();
    assert_eq!(erasure::catch_up(&views, &log).await.unwrap(), 1);
    assert_eq!(erasure::catch_up(&views, &log).await.unwrap(), 0);
    log.erase_personal(&a.team, &[2]).await.unwrap();
    log.erase_personal(&b.team, &[2]).await.unwrap();
    assert_eq!(erasure::catch_up(&views, &log).await.unwrap(), 2);
    assert_eq!(erasure::catch_up(&views, &log).await.unwrap(), 0);
    views.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_after_an_erasure_are_the_fold_of_what_is_left(ops in ops(1..80, true), erased in prop::collection::vec(1..80_u64, 1..20)) {
        block_on(erased_is_folded_anew(Place::Memory, &ops, &erased));
    }
}

pub async fn erased_is_folded_anew(place: Place<'_>, ops: &[(Op, i64)], erased: &[Position]) {
    let log = memory_log().await;
    let story = told(&log, 1, ops).await;
    let views = place.views(0).await;
    apply(&log, &views, &story.team, &[7], Position::MAX).await;
    log.erase_personal(&story.team, erased).await.unwrap();
    erasure::catch_up(&views, &log).await.unwrap();
    let fresh = place.views(1).await;
    apply(&log, &fresh, &story.team, &[1_000], Position::MAX).await;
    assert_eq!(views.dump(&story.team).await.unwrap(), fresh.dump(&story.team).await.unwrap());
    views.close().await;
    fresh.close().await;
}
