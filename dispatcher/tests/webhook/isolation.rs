//! One team's dead endpoints do not slow another team.

use std::time::{Duration, Instant};

use domain::id::TeamId;

use super::world::{Manner, NOW, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_hanging_endpoints_of_one_team_do_not_slow_another() {
    let world = World::new().await;
    let tar = world.receiver(|seen| if seen.path == "/quick" { Manner::Answer(200) } else { Manner::Hang }).await;
    let quick = world.receiver(|_| Manner::Answer(200)).await;
    let mailbox = world.mailbox().await;
    for n in 0..200 {
        let url = format!("http://127.0.0.1:{}/hang{n}", tar.port);
        world.webhook_at(&world.team, &url, |_| {}).await;
    }
    let other = TeamId::new(NOW, world.allot.random());
    world.create_team(&other).await;
    let neighbour = world.mailbox_of(&other).await;
    // The neighbour has an endpoint of its own and one on the very host that hangs for the first team.
    for url in [format!("http://127.0.0.1:{}/own", quick.port), format!("http://127.0.0.1:{}/quick", tar.port)] {
        world.webhook_at(&other, &url, |_| {}).await;
    }
    let running = world.start();
    world.receive(&mailbox).await;
    tar.wait(6).await;
    let mut slowest = Duration::ZERO;
    for n in 1..=40 {
        world.receive(&mailbox).await;
        let started = Instant::now();
        world.receive_of(&other, &neighbour).await;
        quick.wait(n).await;
        while tar.seen().iter().filter(|s| s.path == "/quick").count() < n {
            tar.wait(tar.count() + 1).await;
        }
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "the neighbour waited for {slowest:?}");
    let hanging = tar.seen().iter().filter(|s| s.path != "/quick").count();
    assert!(hanging <= world.config.concurrency_per_host_and_team_max * 2, "{hanging} hanging requests");
    running.crash().await;
}
