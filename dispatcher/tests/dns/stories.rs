//! What becomes of a domain whose records are looked up again and again.

use domain::id::{DomainId, SecretId};
use domain::sending_domain::{AddSigningKey, Algorithm, NewKey, RemoveDomain, Status};

use crate::reactor::eventually;
use crate::world::World;

/// Waits for questions beyond those asked before.
async fn asked_again(world: &World, before: usize) {
    eventually("a look", || async { world.dns.asked() > before }).await;
}

#[tokio::test]
async fn a_new_domain_is_verified_soon_after_its_records_are_there() {
    let world = World::new().await;
    let running = world.start("node");
    eventually("a first look", || async { world.state().await.checks.is_some() }).await;
    world.shown().await;
    assert_eq!(world.state().await.status, Status::Pending);
    world.dns.serve(world.zone_without("").await);
    world.advance(world.config.pending_interval_seconds + 1);
    world.until(Status::Verified).await;
    assert_eq!(world.state().await.signing_keys().count(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_verified_domain_fails_at_the_second_bad_look_and_comes_back() {
    let world = World::new().await;
    world.dns.serve(world.zone_without("").await);
    let running = world.start("node");
    world.until(Status::Verified).await;
    world.dns.serve(world.zone_without("_dmarc.mail.example.com").await);
    world.advance(world.config.interval_seconds + 1);
    eventually("a first bad look", || async { world.state().await.failures == 1 }).await;
    world.shown().await;
    assert_eq!(world.state().await.status, Status::Verified);
    world.advance(world.config.interval_seconds + 1);
    world.until(Status::Failed).await;
    world.dns.serve(world.zone_without("").await);
    world.advance(world.config.interval_seconds + 1);
    world.until(Status::Verified).await;
    running.stop().await;
}

#[tokio::test]
async fn a_look_without_an_answer_records_nothing_and_is_made_up_for() {
    let world = World::new().await;
    world.dns.serve(world.zone_without("").await.with_failure("bounce.mail.example.com"));
    let head = world.log.head(&world.team).await.unwrap();
    let running = world.start("node");
    asked_again(&world, 0).await;
    running.stop().await;
    assert_eq!(world.log.head(&world.team).await.unwrap(), head);
    world.dns.serve(world.zone_without("").await);
    world.advance(world.config.retry_seconds + 1);
    let running = world.start("node");
    world.until(Status::Verified).await;
    running.stop().await;
}

#[tokio::test]
async fn what_is_unchanged_is_looked_up_and_not_written_down_again() {
    let world = World::new().await;
    world.dns.serve(world.zone_without("").await);
    let running = world.start("node");
    world.until(Status::Verified).await;
    let head = world.log.head(&world.team).await.unwrap();
    for _ in 0..3 {
        let asked = world.dns.asked();
        world.advance(world.config.interval_seconds + 1);
        asked_again(&world, asked).await;
    }
    running.stop().await;
    assert_eq!(world.log.head(&world.team).await.unwrap(), head);
}

#[tokio::test]
async fn of_two_nodes_one_looks() {
    let world = World::new().await;
    world.dns.serve(world.zone_without("").await);
    let nodes = [world.start("a"), world.start("b")];
    world.until(Status::Verified).await;
    // Six names: proof, SPF, DMARC, key, and two for bounces.
    assert_eq!(world.dns.asked(), 6);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn the_team_of_a_node_that_died_is_taken_over() {
    let world = World::new().await;
    world.dns.serve(world.zone_without("").await);
    world.dns.hang(true);
    let dead = world.start("dead");
    asked_again(&world, 0).await;
    dead.crash().await;
    world.dns.hang(false);
    let alive = world.start("alive");
    world.advance(world.config.lease_seconds + 1);
    world.until(Status::Verified).await;
    alive.stop().await;
}

#[tokio::test]
async fn a_node_that_is_started_again_does_not_wait_for_itself() {
    let world = World::new().await;
    world.dns.serve(world.zone_without("").await);
    world.dns.hang(true);
    let crashed = world.start("node");
    asked_again(&world, 0).await;
    crashed.crash().await;
    world.dns.hang(false);
    let again = world.start("node");
    world.until(Status::Verified).await;
    again.stop().await;
}

#[tokio::test]
async fn a_domain_that_was_given_up_is_looked_up_no_more() {
    let world = World::new().await;
    world.tell(RemoveDomain { domain: world.domain.clone() }).await;
    world.add(DomainId::new(world.now(), [9; 9]), "kept.example.com").await;
    let running = world.start("node");
    eventually("a look at the other", || async { world.dns.was_asked_of("_dmarc.kept.example.com") }).await;
    running.stop().await;
    assert!(!world.dns.was_asked_of("_dmarc.mail.example.com"));
}

#[tokio::test]
async fn a_look_that_meets_a_view_behind_the_log_goes_by_the_log_at_once() {
    let mut world = World::new().await;
    world.stop_views().await;
    let key = NewKey {
        selector: "pl2".into(),
        algorithm: Algorithm::Ed25519,
        public_key: "b2xk".into(),
        secret: SecretId::new(world.now(), [2; 9]),
    };
    world.tell_the_log(AddSigningKey { domain: world.domain.clone(), key }).await;
    world.dns.serve(world.zone_without("").await);
    let running = world.start("node");
    // The clock stands still: nothing is looked up a second time because time passed.
    eventually("verified", || async { world.state().await.status == Status::Verified }).await;
    running.stop().await;
}
