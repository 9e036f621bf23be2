//! What people do to mail that is on its way out.

use domain::outbound::{CancelMail, Outbound, PostponeReason, RescheduleMail, RetryMail, Status, SwitchMail};
use domain::routing::{Part, SwitchSending};
use domain::suppression::{Cause, Reason, SuppressAddress};

use crate::gate::Fate;
use crate::reactor::eventually;
use crate::server::{End, Manner, Server};
use crate::world::{SECOND, World};

const HOUR: i64 = 3_600 * SECOND;

#[tokio::test]
async fn mail_of_a_stopped_part_waits_and_goes_when_the_part_goes_on() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let reactor = world.start();
    let site = || Part::Site("example.net".into());
    world.tell(&world.team, SwitchSending { part: site(), paused: true }).await;
    let stopped = world.accept(&["bob@example.net"]).await;
    let other = world.accept(&["bob@example.com"]).await;
    world.until_status(&other, &[Status::Sent]).await;
    assert_eq!(world.state(&stopped).await.attempts, 0);
    world.tell(&world.team, SwitchSending { part: site(), paused: false }).await;
    world.until_status(&stopped, &[Status::Sent]).await;
    reactor.stop().await;
}

#[tokio::test]
async fn a_mail_can_be_paused_resumed_brought_forward_and_cancelled() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let reactor = world.start();
    let mut mails = vec![];
    for _ in 0..4 {
        mails.push(world.accept_of(&world.team, &["bob@example.net"], Some(world.now() + HOUR)).await);
    }
    let [paused, sooner, cancelled, now] = [0, 1, 2, 3].map(|n: usize| mails[n].clone());
    let switch = |paused_now| SwitchMail { outbound: paused.clone(), paused: paused_now };
    world.tell(&world.team, switch(true)).await;
    world.tell(&world.team, CancelMail { outbound: cancelled.clone() }).await;
    world.tell(&world.team, RetryMail { outbound: now.clone(), resend_uncertain: false }).await;
    world.until_status(&now, &[Status::Sent]).await;
    let version = world.state(&sooner).await.version;
    let reschedule =
        RescheduleMail { outbound: sooner.clone(), send_at: world.now() + 60 * SECOND, if_version: Some(version) };
    world.tell(&world.team, reschedule).await;
    world.advance(61 * SECOND);
    world.until_status(&sooner, &[Status::Sent]).await;
    world.advance(2 * HOUR);
    let last = world.accept(&["eve@example.net"]).await;
    world.until_status(&last, &[Status::Sent]).await;
    assert_eq!(world.state(&paused).await.recipients[0].status, Status::Waiting);
    assert_eq!(world.state(&cancelled).await.recipients[0].status, Status::Cancelled);
    world.tell(&world.team, switch(false)).await;
    world.until_status(&paused, &[Status::Sent]).await;
    assert_eq!(server.count(), 4);
    reactor.stop().await;
}

#[tokio::test]
async fn an_uncertain_mail_is_sent_again_only_when_that_is_asked_for() {
    let world = World::new().await;
    let server = Server::start(Manner { end: End::Drop, ..Manner::default() }).await;
    world.account(server.port).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    let uncertain = |m: &Outbound| matches!(m.recipients[0].status, Status::Uncertain { .. });
    world.until(&mail, "uncertain", uncertain).await;
    server.behave(Manner::default());
    world.tell(&world.team, RetryMail { outbound: mail.clone(), resend_uncertain: false }).await;
    let other = world.accept(&["eve@example.net"]).await;
    world.until_status(&other, &[Status::Sent]).await;
    assert!(uncertain(&*world.state(&mail).await));
    world.tell(&world.team, RetryMail { outbound: mail.clone(), resend_uncertain: true }).await;
    world.until_status(&mail, &[Status::Sent]).await;
    assert_eq!(server.count(), 3);
    reactor.stop().await;
}

#[tokio::test]
async fn a_mail_that_is_seen_in_the_log_before_its_acceptance_was_answered_is_sent() {
    let mut world = World::new().await;
    // A poll would also say that the log has moved; here only a hint says so, of whatever it may be.
    world.config.poll_milliseconds = 60_000;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let reactor = world.start();
    let first = world.accept(&["bob@example.net"]).await;
    world.until_status(&first, &[Status::Sent]).await;
    let waiting = || async { world.queue.waiting(&world.team).await.unwrap() };
    eventually("it is settled", || async { waiting().await == 0 }).await;
    world.gate.stop("outbound.accepted", Fate::Late);
    let seen = async {
        eventually("it is written", || async { world.gate.has_stopped() }).await;
        world.log.wake().moved(&world.team, u64::MAX / 2);
        eventually("it is planned", || async { waiting().await == 1 }).await;
        world.gate.open();
    };
    let (second, ()) = tokio::join!(world.accept(&["eve@example.net"]), seen);
    world.until_status(&second, &[Status::Sent]).await;
    assert_eq!(server.count(), 2);
    reactor.stop().await;
}

#[tokio::test]
async fn who_comes_on_the_suppression_list_before_the_attempt_is_not_written_to() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let mail = world.accept(&["bob@example.net", "eve@example.net"]).await;
    let address = world.state(&mail).await.recipients[0].address.clone();
    let cause = Cause { reason: Reason::Manual, topic: None };
    let suppress = SuppressAddress { address, email: "bob@example.net".into(), cause, expires_at: None, note: None };
    world.tell(&world.team, suppress).await;
    let reactor = world.start();
    world.until_status(&mail, &[Status::Rejected, Status::Sent]).await;
    assert_eq!(server.taken.lock().unwrap()[0].recipients, ["eve@example.net"]);
    reactor.stop().await;
}

#[tokio::test]
async fn mail_without_a_usable_account_waits_and_goes_when_one_comes_and_a_mail_gives_up_in_the_end() {
    let world = World::new().await;
    let busy = Server::start(Manner { rcpt: vec![("bob@", "451 4.3.0 later")], ..Manner::default() }).await;
    let account = world.account(busy.port).await;
    let reactor = world.start();
    let refused = world.accept(&["bob@example.net"]).await;
    world.until(&refused, "deferred", |m| m.recipients[0].deferrals == 1).await;
    let switch = |active| domain::provider::SwitchProvider { provider: account.clone(), active };
    world.tell(&world.team, switch(false)).await;
    let waits = world.state(&refused).await;
    assert_eq!(waits.recipients[0].status, Status::Waiting);
    world.advance(61 * SECOND);
    let state = world.until(&refused, "postponed", |m| m.postponed.is_some()).await;
    assert_eq!(state.postponed.unwrap().0, PostponeReason::NoActiveProviders);
    world.tell(&world.team, switch(true)).await;
    world.until(&refused, "deferred again", |m| m.recipients[0].deferrals == 2).await;
    world.advance(80 * HOUR);
    eventually("given up", || async { world.state(&refused).await.is_settled() }).await;
    let state = world.state(&refused).await;
    assert_eq!((state.recipients[0].status, state.recipients[0].held), (Status::Bounced, false));
    reactor.stop().await;
}
