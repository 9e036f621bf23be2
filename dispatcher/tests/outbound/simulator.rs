//! The recipients that Postlog plays, and mail between mailboxes of this installation.

use domain::outbound::{Outbound, Status};
use domain::provider::{Quotas, Transport};
use domain::suppression::{Purpose, Suppression};
use domain::{StreamId, Versioned};

use crate::gate::Fate;
use crate::reactor::eventually;
use crate::world::{SECOND, World};

async fn sandbox() -> World {
    let world = World::new().await;
    world.account_by(&world.team, Transport::Sandbox, Quotas::default(), 100).await;
    world
}

fn at(name: &str) -> String {
    format!("{name}@simulator.postlog.test")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recipient_has_its_chain_of_events() {
    let world = sandbox().await;
    let reactor = world.start();
    let taken = ["accepted", "attempt_started", "delivered"];
    let then = |last: &'static str| taken.into_iter().chain([last]).collect::<Vec<_>>();
    let ends = |last: &'static str| vec!["accepted", "attempt_started", last];
    let chains = [
        ("delivered", taken.to_vec()),
        ("Delivered+label", taken.to_vec()),
        ("bounce.hard", ends("bounced")),
        ("bounce.soft+x", ends("bounced")),
        ("bounce.async", then("bounced")),
        ("complaint", then("complained")),
        ("suppressed", ends("rejected")),
        ("defer", vec!["accepted", "attempt_started", "deferred", "attempt_started", "delivered"]),
        ("slow", taken.to_vec()),
        ("reply", taken.to_vec()),
        ("ooo", taken.to_vec()),
        ("loop", ends("bounced")),
        ("anybody", ends("bounced")),
    ];
    let mut mails = vec![];
    for (name, _) in &chains {
        mails.push(world.accept(&[&at(name)]).await);
    }
    let defer = &mails[7];
    world.until(defer, "deferred", |m| m.recipients[0].deferrals == 1).await;
    world.advance(61 * SECOND);
    for ((name, chain), mail) in chains.iter().zip(&mails) {
        let chain: Vec<_> = chain.iter().map(|name| format!("outbound.{name}")).collect();
        eventually(&format!("{name}: {chain:?}"), || async { world.chain(mail).await == chain }).await;
    }
    let listed = |n: usize| {
        let (world, mail) = (&world, &mails[n]);
        async move {
            let address = world.state(mail).await.recipients[0].address.clone();
            let found: Versioned<Suppression> =
                world.log.state(&world.team, &[StreamId::Suppression(address)]).await.unwrap();
            found.stops(Purpose::Transactional, None, false, world.now()).is_some()
        }
    };
    assert!(listed(2).await && listed(4).await && listed(5).await, "hard bounces and complaints suppress");
    assert!(!listed(0).await && !listed(3).await && !listed(11).await);
    reactor.stop().await;
}

#[tokio::test]
async fn recipients_that_write_back_answer_the_senders_mailbox() {
    let world = sandbox().await;
    let reactor = world.start();
    let mail = world.accept(&[&at("reply"), &at("ooo")]).await;
    world.until_status(&mail, &[Status::Delivered, Status::Delivered]).await;
    let taken = world.mailboxes.taken.lock().unwrap().clone();
    assert_eq!(taken.len(), 2);
    let state = taken.iter().map(|(from, _, text)| (from.to_string(), text.contains("Auto-Submitted: auto-replied")));
    let expected = [("<reply@simulator.postlog.test>".to_owned(), false), ("<>".to_owned(), true)];
    assert_eq!(state.collect::<Vec<_>>(), expected);
    for (_, to, text) in &taken {
        assert!(to[0].to_string().starts_with("ann@d"));
        assert!(text.contains("In-Reply-To: <m1@example.org>") && text.contains("References: <m1@example.org>"));
    }
    reactor.stop().await;
}

#[tokio::test]
async fn an_answer_that_the_mailbox_cannot_take_now_comes_later_and_once() {
    let world = sandbox().await;
    *world.mailboxes.code.lock().unwrap() = 452;
    let reactor = world.start();
    let mail = world.accept(&[&at("reply")]).await;
    world.until(&mail, "deferred", |m| m.recipients[0].deferrals == 1).await;
    *world.mailboxes.code.lock().unwrap() = 250;
    world.gate.stop("outbound.delivered", Fate::Lost);
    world.advance(61 * SECOND);
    eventually("the answer is there and nobody knows", || async { world.gate.has_stopped() }).await;
    reactor.crash().await;
    world.gate.open();
    let reactor = world.start();
    world.until(&mail, "deferred again", |m| m.recipients[0].deferrals == 2).await;
    world.advance(301 * SECOND);
    world.until_status(&mail, &[Status::Delivered]).await;
    assert_eq!(world.mailboxes.taken.lock().unwrap().len(), 1);
    reactor.stop().await;
}

#[tokio::test]
async fn what_is_heard_later_is_heard_after_a_restart_too() {
    for (name, event) in [("bounce.async", "outbound.bounced"), ("complaint", "outbound.complained")] {
        let world = sandbox().await;
        world.gate.stop(event, Fate::Lost);
        let reactor = world.start();
        let mail = world.accept(&[&at(name)]).await;
        eventually("it is about to be heard", || async { world.gate.has_stopped() }).await;
        assert_eq!(world.chain(&mail).await.last().unwrap(), "outbound.delivered");
        reactor.crash().await;
        world.gate.open();
        let reactor = world.start();
        let heard = |m: &Outbound| m.recipients[0].status == Status::Bounced || m.recipients[0].complained;
        world.until(&mail, event, heard).await;
        eventually("the row is gone", || async { world.queue.waiting(&world.team).await.unwrap() == 0 }).await;
        let count = world.chain(&mail).await.into_iter().filter(|name| name == event).count();
        assert_eq!(count, 1);
        reactor.stop().await;
    }
}

#[tokio::test]
async fn mail_to_mailboxes_here_is_delivered_and_to_the_outside_it_is_not() {
    let world = sandbox().await;
    let reactor = world.start();
    let mail = world.accept(&["bob@here.example", "eve@nowhere.example"]).await;
    world.until_status(&mail, &[Status::Delivered, Status::Bounced]).await;
    let taken = world.mailboxes.taken.lock().unwrap().clone();
    assert!(taken[0].0.to_string().starts_with("<ann@d") && taken[0].2.contains("Subject: Hello"));
    reactor.stop().await;
}
