//! Whatever the moment of a crash, no mail is lost and none is sent twice by itself.

use std::time::Duration;

use domain::outbound::{Outbound, Status};
use domain::provider::{Quotas, Transport};

use crate::gate::Fate;
use crate::reactor::eventually;
use crate::server::{End, Manner, Server};
use crate::world::{SECOND, World};

fn is_uncertain(mail: &Outbound) -> bool {
    matches!(mail.recipients[0].status, Status::Uncertain { .. })
}

#[tokio::test]
async fn a_crash_within_the_dialogue_leaves_the_mail_uncertain_and_not_sent_again() {
    for verb in ["GREETING", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"] {
        let world = World::new().await;
        let server = Server::start(Manner { silent_at: Some(verb), ..Manner::default() }).await;
        world.account(server.port).await;
        let reactor = world.start();
        let mail = world.accept(&["bob@example.net"]).await;
        eventually("it is connected", || async { *server.connections.lock().unwrap() == 1 }).await;
        reactor.crash().await;
        server.behave(Manner::default());
        let reactor = world.start();
        world.until(&mail, "uncertain", is_uncertain).await;
        world.advance(3_600 * SECOND);
        let next = world.accept(&["eve@example.net"]).await;
        world.until_status(&next, &[Status::Sent]).await;
        assert!(is_uncertain(&*world.state(&mail).await), "{verb}");
        assert_eq!(server.count(), 1, "{verb}: only the second mail");
        reactor.stop().await;
    }
}

#[tokio::test]
async fn a_crash_before_an_attempt_is_written_down_sends_the_mail_once() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    world.gate.stop("outbound.attempt_started", Fate::Lost);
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    eventually("the attempt is about to be written", || async { world.gate.has_stopped() }).await;
    reactor.crash().await;
    world.gate.open();
    let reactor = world.start();
    world.until_status(&mail, &[Status::Sent]).await;
    assert_eq!(server.count(), 1);
    reactor.stop().await;
}

#[tokio::test]
async fn a_crash_after_an_attempt_is_written_down_makes_it_uncertain() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    world.gate.stop("outbound.attempt_started", Fate::Written);
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    eventually("the attempt is about to be written", || async { world.gate.has_stopped() }).await;
    reactor.crash().await;
    world.gate.open();
    let reactor = world.start();
    world.until(&mail, "uncertain", is_uncertain).await;
    assert_eq!(server.count(), 0, "nobody can know that");
    reactor.stop().await;
}

#[tokio::test]
async fn a_crash_after_the_server_took_the_mail_never_sends_it_again() {
    for (fate, expected) in [(Fate::Written, Some(Status::Sent)), (Fate::Lost, None)] {
        let world = World::new().await;
        let server = Server::start(Manner::default()).await;
        world.account(server.port).await;
        world.gate.stop("outbound.sent", fate);
        let reactor = world.start();
        let mail = world.accept(&["bob@example.net"]).await;
        eventually("the outcome is about to be written", || async { world.gate.has_stopped() }).await;
        reactor.crash().await;
        world.gate.open();
        let reactor = world.start();
        match expected {
            Some(status) => world.until_status(&mail, &[status]).await,
            None => world.until(&mail, "uncertain", is_uncertain).await,
        };
        eventually("it is looked at", || async { world.queue.waiting(&world.team).await.unwrap() <= 1 }).await;
        assert_eq!(server.count(), 1, "{fate:?}");
        reactor.stop().await;
    }
}

#[tokio::test]
async fn a_crash_on_the_way_to_the_recipients_own_server_doubles_a_mail_at_most_once() {
    let mut world = World::new().await;
    let server = Server::start(Manner { end: End::Hang, ..Manner::default() }).await;
    world.config.direct_port = server.port;
    world.zone = mail::auth::Zone::default()
        .with_mx("example.net", 10, "mx.example.net")
        .with_address("mx.example.net", std::net::Ipv4Addr::LOCALHOST.into());
    world.account_by(&world.team, Transport::DirectMx, Quotas::default(), 100).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    eventually("the mail is handed over", || async { server.count() == 1 }).await;
    reactor.crash().await;
    server.behave(Manner::default());
    let reactor = world.start();
    let state = world.until(&mail, "deferred", |m| m.recipients[0].status == Status::Waiting).await;
    assert_eq!(state.recipients[0].deferrals, 1);
    world.advance(61 * SECOND);
    world.until_status(&mail, &[Status::Delivered]).await;
    let taken = server.taken.lock().unwrap().clone();
    let ids: Vec<_> = taken.iter().filter_map(|t| t.content.lines().find(|l| l.starts_with("Message-ID"))).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1], "by which the second is recognised");
    reactor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_at_any_moment_lose_nothing_and_double_nothing() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let mut mails = vec![];
    for n in 0..60 {
        mails.push(world.accept(&[&format!("r{n}@example.net")]).await);
    }
    // From "has not begun" to "has done nearly all", in uneven steps.
    for millis in [0, 1, 3, 7, 12, 2, 18, 5, 25, 9, 33, 4] {
        let reactor = world.start();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        reactor.crash().await;
    }
    let reactor = world.start();
    for (n, mail) in mails.iter().enumerate() {
        let done = |m: &Outbound| m.recipients[0].status == Status::Sent || is_uncertain(m);
        let state = world.until(mail, "sent or uncertain", done).await;
        let to = format!("r{n}@example.net");
        let copies = server.taken.lock().unwrap().iter().filter(|t| t.recipients[0] == to).count();
        assert!(copies <= 1, "{to} got {copies}");
        assert!(copies == 1 || is_uncertain(&state), "{to} is said to be sent and was not");
        assert_eq!(state.attempts, 1);
    }
    reactor.stop().await;
}
