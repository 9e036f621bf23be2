//! Servers that fail in every way: nothing is lost, and nothing is sent twice.

use domain::id::TeamId;
use domain::outbound::{Outbound, PostponeReason, Status};
use domain::provider::{Provider, Quotas, Trouble};
use domain::{StreamId, Versioned};

use crate::gate::Fate;
use crate::reactor::eventually;
use crate::server::{End, Manner, Server};
use crate::world::{SECOND, World};

fn is_uncertain(mail: &Outbound) -> bool {
    matches!(mail.recipients[0].status, Status::Uncertain { .. })
}

/// Sends a mail to each of several servers with their manners, then lets them mend their ways: each has it once.
async fn mended(manners: &[Manner], session_seconds: u64) {
    let mut world = World::new().await;
    world.config.session_seconds = session_seconds;
    let reactor = world.start();
    let mut mails = vec![];
    for manner in manners {
        let (server, team) = (Server::start(manner.clone()).await, TeamId::new(world.now(), [world.next(); 9]));
        world.create_team(&team).await;
        world.account_of(&team, server.port, Quotas::default(), 100).await;
        let mail = world.accept_of(&team, &["bob@example.net"], None).await;
        mails.push((server, team, mail));
    }
    for ((server, team, mail), manner) in mails.iter().zip(manners) {
        eventually(&format!("waiting after {manner:?}"), || async {
            let state = world.state_of(team, mail).await;
            state.attempts == 1 && state.recipients[0].status == Status::Waiting
        })
        .await;
        assert_eq!(server.count(), 0, "{manner:?}");
        server.behave(Manner::default());
    }
    world.advance(61 * SECOND);
    for ((server, team, mail), manner) in mails.iter().zip(manners) {
        eventually(&format!("sent after {manner:?}"), || async {
            world.state_of(team, mail).await.recipients[0].status == Status::Sent
        })
        .await;
        assert_eq!(server.count(), 1, "{manner:?}");
    }
    reactor.stop().await;
}

#[tokio::test]
async fn a_server_that_says_come_again_gets_the_mail_later_and_once() {
    let say = |change: fn(&mut Manner)| {
        let mut manner = Manner::default();
        change(&mut manner);
        manner
    };
    let manners = [
        say(|m| m.greeting = "421 4.3.2 too busy"),
        say(|m| m.greeting = "451 4.3.0 in trouble"),
        say(|m| m.hello = "421 4.7.0 slow down"),
        say(|m| m.auth = "454 4.7.0 Throttling failure: maximum sending rate exceeded"),
        say(|m| m.mail = "450 4.7.1 too many messages"),
        say(|m| m.mail = "421 4.7.0 closing"),
        say(|m| m.rcpt = vec![("bob@", "451 4.3.0 local error")]),
        say(|m| m.rcpt = vec![("bob@", "452 4.5.3 too many recipients")]),
        say(|m| m.rcpt = vec![("bob@", "552 5.5.3 too many recipients")]),
        say(|m| m.data = "452 4.3.1 no space"),
        say(|m| m.end = End::Say("452 4.3.1 no space")),
        say(|m| m.end = End::Say("421 4.3.0 try later")),
    ];
    mended(&manners, 600).await;
}

#[tokio::test]
async fn a_server_that_talks_garbage_or_hangs_before_the_mail_is_over_gets_it_later_and_once() {
    let say = |change: fn(&mut Manner)| {
        let mut manner = Manner::default();
        change(&mut manner);
        manner
    };
    let manners = [
        say(|m| m.greeting = "SSH-2.0-OpenSSH_9.7"),
        say(|m| m.greeting = "HTTP/1.1 400 Bad Request"),
        say(|m| m.hello = "\u{1}\u{2}\u{3}"),
        say(|m| m.mail = "what do you want?"),
        say(|m| m.data = "250 sure"),
        say(|m| m.silent_at = Some("GREETING")),
        say(|m| m.silent_at = Some("EHLO")),
        say(|m| m.silent_at = Some("AUTH")),
        say(|m| m.silent_at = Some("MAIL")),
        say(|m| m.silent_at = Some("RCPT")),
        say(|m| m.silent_at = Some("DATA")),
    ];
    mended(&manners, 3).await;
}

#[tokio::test]
async fn garbage_or_silence_after_the_final_dot_is_uncertain() {
    let mut world = World::new().await;
    world.config.final_reply_seconds = 3;
    for end in [End::Say("thanks"), End::Say("354 go on"), End::Hang, End::Drop] {
        let server = Server::start(Manner { end: end.clone(), ..Manner::default() }).await;
        let other = Server::start(Manner::default()).await;
        let team = TeamId::new(world.now(), [world.next(); 9]);
        world.create_team(&team).await;
        world.account_of(&team, server.port, Quotas::default(), 100).await;
        world.account_of(&team, other.port, Quotas::default(), 0).await;
        let reactor = world.start();
        let mail = world.accept_of(&team, &["bob@example.net"], None).await;
        eventually("uncertain", || async { is_uncertain(&*world.state_of(&team, &mail).await) }).await;
        world.advance(3_600 * SECOND);
        reactor.stop().await;
        assert_eq!((server.count(), other.count()), (1, 0), "{end:?}: not sent again, through no account");
    }
}

#[tokio::test]
async fn a_throttled_account_is_left_alone_and_its_mail_says_why_it_waits() {
    let world = World::new().await;
    let server = Server::start(Manner { greeting: "421 4.3.2 too many connections", ..Manner::default() }).await;
    world.account(server.port).await;
    let reactor = world.start();
    let first = world.accept(&["bob@example.net"]).await;
    world.until(&first, "refused once", |m| m.attempts == 1 && m.recipients[0].status == Status::Waiting).await;
    let connections = *server.connections.lock().unwrap();
    let mut others = vec![];
    for n in 0..20 {
        others.push(world.accept(&[&format!("r{n}@example.net")]).await);
    }
    for mail in &others {
        let state = world.until(mail, "postponed", |m| m.postponed.is_some()).await;
        assert_eq!((state.postponed.unwrap().0, state.attempts), (PostponeReason::Throttled, 0));
    }
    assert_eq!(*server.connections.lock().unwrap(), connections, "it is not asked again");
    assert!(world.chain(&others[0]).await.contains(&"outbound.postponed".to_owned()));
    server.behave(Manner::default());
    world.advance(61 * SECOND);
    for mail in others.iter().chain([&first]) {
        world.until_status(mail, &[Status::Sent]).await;
    }
    assert_eq!(server.count(), 21);
    reactor.stop().await;
}

#[tokio::test]
async fn each_account_that_refuses_the_login_is_tried_once() {
    let world = World::new().await;
    let refuses = || Manner { auth: "535 5.7.8 wrong password", ..Manner::default() };
    let (mut servers, mut accounts) = (vec![], vec![]);
    for _ in 0..3 {
        let server = Server::start(refuses()).await;
        accounts.push(world.account(server.port).await);
        servers.push(server);
    }
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    let state = world.until_status(&mail, &[Status::Rejected]).await;
    assert_eq!(state.attempts, 3);
    for (server, account) in servers.iter().zip(accounts) {
        assert_eq!(*server.connections.lock().unwrap(), 1);
        let provider: Versioned<Provider> = world.log.state(&world.team, &[StreamId::Provider(account)]).await.unwrap();
        assert_eq!(provider.trouble, Some(Trouble::LoginRefused));
    }
    reactor.stop().await;
}

#[tokio::test]
async fn an_unreachable_account_is_left_for_one_that_can_be_reached() {
    let world = World::new().await;
    let open = Server::start(Manner::default()).await;
    // Nobody listens on port 1.
    world.account_of(&world.team, 1, Quotas::default(), 100).await;
    world.account_of(&world.team, open.port, Quotas::default(), 0).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    let state = world.until_status(&mail, &[Status::Sent]).await;
    assert_eq!((state.attempts, state.left.len(), open.count()), (2, 1, 1));
    reactor.stop().await;
}

#[tokio::test]
async fn a_full_disk_delays_what_came_of_a_mail_and_loses_nothing() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let reactor = world.start();
    world.gate.stop("outbound.sent", Fate::DiskFull);
    let mail = world.accept(&["bob@example.net"]).await;
    eventually("the outcome cannot be written", || async { world.gate.has_stopped() }).await;
    assert!(matches!(world.state(&mail).await.recipients[0].status, Status::InFlight { .. }));
    world.gate.open();
    world.until_status(&mail, &[Status::Sent]).await;
    assert_eq!(server.count(), 1);
    reactor.stop().await;
}

#[tokio::test]
async fn an_account_that_cannot_be_reached_is_not_tried_by_every_mail() {
    let world = World::new().await;
    world.account_of(&world.team, 1, Quotas::default(), 100).await;
    let mut mails = vec![];
    for n in 0..60 {
        mails.push(world.accept(&[&format!("r{n}@example.net")]).await);
    }
    let reactor = world.start();
    let looked_at = |m: &Outbound| m.postponed.is_some() || (m.attempts == 1 && m.open.is_empty());
    let (mut attempts, mut parked) = (0, 0);
    for mail in &mails {
        let state = world.until(mail, "looked at", looked_at).await;
        attempts += state.attempts;
        parked += u32::from(state.postponed.is_some_and(|(reason, _)| reason == PostponeReason::TransportParked));
    }
    assert!(attempts <= 20 && parked >= 40, "{attempts} attempts, {parked} parked");
    reactor.stop().await;
}
