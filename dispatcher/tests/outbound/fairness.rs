//! One team's trouble is not another's.

use domain::id::TeamId;
use domain::outbound::Status;
use domain::provider::{Quotas, Transport};

use crate::reactor::eventually;
use crate::server::{End, Manner, Server};
use crate::world::World;

async fn another_team(world: &World, port: u16) -> TeamId {
    let team = TeamId::new(world.now(), [world.next(); 9]);
    world.create_team(&team).await;
    world.account_of(&team, port, Quotas::default(), 100).await;
    team
}

#[tokio::test]
async fn many_teams_whose_servers_hang_leave_room_for_one_more() {
    let mut world = World::new().await;
    (world.config.concurrency_per_team_max, world.config.concurrency_max, world.config.drain_seconds) = (8, 16, 0);
    let dead = Server::start(Manner { end: End::Hang, ..Manner::default() }).await;
    let alive = Server::start(Manner::default()).await;
    for _ in 0..5 {
        let team = another_team(&world, dead.port).await;
        for n in 0..10 {
            world.accept_of(&team, &[&format!("r{n}@example.net")], None).await;
        }
    }
    let reactor = world.start();
    eventually("the servers hang", || async { dead.count() >= 10 }).await;
    let team = another_team(&world, alive.port).await;
    let mail = world.accept_of(&team, &["bob@example.net"], None).await;
    eventually("the other team's mail is sent", || async {
        world.state_of(&team, &mail).await.recipients[0].status == Status::Sent
    })
    .await;
    reactor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_queue_to_a_dead_host_does_not_delay_another_teams_first_attempt() {
    let mut world = World::new().await;
    // Nobody listens on port 1.
    world.config.direct_port = 1;
    world.zone = mail::auth::Zone::default()
        .with_mx("example.net", 10, "mx.example.net")
        .with_address("mx.example.net", std::net::Ipv4Addr::LOCALHOST.into());
    world.account_by(&world.team, Transport::DirectMx, Quotas::default(), 100).await;
    let alive = Server::start(Manner::default()).await;
    let mut dead = vec![];
    for _ in 0..400 {
        dead.push(world.accept(&["bob@example.net"]).await);
    }
    let team = another_team(&world, alive.port).await;
    let mail = world.accept_of(&team, &["bob@example.net"], None).await;
    let reactor = world.start();
    eventually("the other team's mail is sent", || async {
        world.state_of(&team, &mail).await.recipients[0].status == Status::Sent
    })
    .await;
    // What happens while it is counted is not the question.
    reactor.crash().await;
    let mut untouched = 0;
    for mail in &dead {
        let state = world.state(mail).await;
        untouched += usize::from(state.attempts == 0 && state.postponed.is_none());
    }
    assert!(untouched > 100, "only {untouched} of the long queue still waited for their first look");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_a_long_queue_sends_each_mail_once() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let mut mails = vec![];
    for n in 0..300 {
        mails.push(world.accept(&[&format!("r{n}@example.net")]).await);
    }
    let reactor = world.start();
    eventually("some are sent", || async { server.count() >= 20 }).await;
    reactor.stop().await;
    let reactor = world.start();
    for mail in &mails {
        world.until_status(mail, &[Status::Sent]).await;
    }
    assert_eq!(server.count(), 300);
    eventually("no row is left", || async { world.queue.waiting(&world.team).await.unwrap() == 0 }).await;
    reactor.stop().await;
}
