//! Which way a mail takes, and what is written on it.

use std::net::Ipv4Addr;

use domain::id::SecretId;
use domain::outbound::{ReturnPath, Status};
use domain::provider::{Quotas, Transport};
use domain::sending_domain::{Algorithm, Event, KeyAdded, KeySubject, SIGNING_KEY_PURPOSE};
use eventlog::SecretText;
use mail::address::Address;
use mail::auth::{AuthResult, DkimKey, DkimSigner, SignedMessage, Zone, verify_dkim};
use mail::verp::{MacKey, Verp};

use crate::reactor::eventually;
use crate::server::{Manner, Server};
use crate::world::{SECOND, World};
use domain::testing::Put;

fn one_exchanger() -> Zone {
    Zone::default()
        .with_mx("example.net", 10, "mx.example.net")
        .with_address("mx.example.net", Ipv4Addr::LOCALHOST.into())
}

async fn direct(world: &mut World, server: &Server) {
    world.config.direct_port = server.port;
    world.account_by(&world.team, Transport::DirectMx, Quotas::default(), 100).await;
}

#[tokio::test]
async fn each_recipient_is_written_to_from_a_return_path_that_names_it() {
    let mut world = World::new().await;
    let server = Server::start(Manner { rcpt: vec![("eve@", "550 5.1.1 no")], ..Manner::default() }).await;
    (world.zone, world.config.bounce_domain) = (one_exchanger(), "bounce.example.com".into());
    world.return_paths = Some(MacKey::new([3; 32]));
    direct(&mut world, &server).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net", "eve@example.net", "joe@example.net"]).await;
    world.until_status(&mail, &[Status::Delivered, Status::Bounced, Status::Delivered]).await;
    let taken = server.taken.lock().unwrap().clone();
    assert_eq!(taken.len(), 2, "one transaction each");
    for (copy, (number, to)) in taken.iter().zip([(0, "bob@example.net"), (2, "joe@example.net")]) {
        assert_eq!(copy.recipients, [to]);
        let (local, domain) = copy.sender.split_once('@').unwrap();
        assert_eq!(domain, "bounce.example.com");
        let read = ReturnPath::read(&Verp::parse(local, &MacKey::new([3; 32])).unwrap()).unwrap();
        assert_eq!((&read.outbound, read.recipient), (&mail, Some(number)));
        assert!(read.may_be_of(&world.team));
    }
    assert_eq!(*server.connections.lock().unwrap(), 1);
    reactor.stop().await;
}

#[tokio::test]
async fn a_return_path_of_the_senders_own_is_used_as_it_is() {
    let mut world = World::new().await;
    let server = Server::start(Manner::default()).await;
    (world.zone, world.config.bounce_domain) = (one_exchanger(), "bounce.example.com".into());
    world.return_paths = Some(MacKey::new([3; 32]));
    direct(&mut world, &server).await;
    let reactor = world.start();
    let to = ["bob@example.net", "eve@example.net"];
    let own = |c: &mut domain::outbound::AcceptMail| c.return_path = Address::parse("bounces@own.example").ok();
    let mail = world.accept_with(&world.team, &to, own).await;
    world.until_status(&mail, &[Status::Delivered; 2]).await;
    let taken = server.taken.lock().unwrap().clone();
    assert_eq!((taken.len(), taken[0].sender.as_str()), (1, "bounces@own.example"));
    reactor.stop().await;
}

#[tokio::test]
async fn accounts_get_the_senders_address_unless_they_take_our_return_paths() {
    for through in [false, true] {
        let mut world = World::new().await;
        let server = Server::start(Manner::default()).await;
        (world.config.bounce_domain, world.config.bounce_domain_through_accounts) = ("b.example.com".into(), through);
        world.return_paths = Some(MacKey::new([3; 32]));
        world.account(server.port).await;
        let reactor = world.start();
        let mail = world.accept(&["bob@example.net", "eve@example.net"]).await;
        world.until_status(&mail, &[Status::Sent; 2]).await;
        let taken = server.taken.lock().unwrap().clone();
        assert_eq!(taken.len(), if through { 2 } else { 1 });
        assert_eq!(taken[0].sender.ends_with("@b.example.com"), through, "{}", taken[0].sender);
        reactor.stop().await;
    }
}

#[tokio::test]
async fn a_mail_is_signed_with_its_domains_keys() {
    let world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.account(server.port).await;
    let team: domain::Versioned<domain::team::Team> =
        world.log.state(&world.team, &[domain::StreamId::Team]).await.unwrap();
    let (name, domain) = team.domains.iter().next().map(|(name, owned)| (name.clone(), owned.id.clone())).unwrap();
    let key = DkimKey::generate_ed25519([42; 32]).unwrap();
    let signer = DkimSigner::new(&name, "s1", key.clone()).unwrap();
    let secret = SecretId::new(world.now(), [5; 9]);
    let added = KeyAdded {
        domain: domain.clone(),
        selector: "s1".into(),
        algorithm: Algorithm::Ed25519,
        public_key: String::new(),
        secret: secret.clone(),
    };
    let sealed = SecretText::new(key.to_der().to_vec());
    let event = domain::Event::SendingDomain(Event::KeyAdded(added.into()));
    world.tell_sealed(Put(event), (secret, SIGNING_KEY_PURPOSE, sealed)).await;
    let subject = KeySubject { domain, selector: "s1".into() };
    world.tell(&world.team, Put(domain::Event::SendingDomain(Event::KeyActivated(subject.into())))).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    world.until_status(&mail, &[Status::Sent]).await;
    let raw = server.taken.lock().unwrap()[0].content.clone();
    let zone = Zone::new().with_txt(&signer.record_name(), signer.record());
    let verdicts = verify_dkim(&SignedMessage::split(raw.as_bytes()), world.now() / SECOND, &zone).await;
    assert_eq!(verdicts.iter().map(|v| v.result).collect::<Vec<_>>(), [AuthResult::Pass], "{raw}");
    reactor.stop().await;
}

#[tokio::test]
async fn a_host_that_does_not_greet_is_left_for_the_next() {
    let mut world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.config.idle_seconds = 0;
    world.zone = Zone::default()
        .with_mx("example.net", 5, "gone.example.net")
        .with_mx("example.net", 10, "mx.example.net")
        .with_address("mx.example.net", Ipv4Addr::LOCALHOST.into());
    direct(&mut world, &server).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    world.until_status(&mail, &[Status::Delivered]).await;
    server.behave(Manner { greeting: "554 5.7.1 go away", ..Manner::default() });
    world.advance(20 * SECOND);
    let refused = world.accept(&["eve@example.net"]).await;
    world.until(&refused, "deferred", |m| m.recipients[0].deferrals == 1).await;
    reactor.stop().await;
}

#[tokio::test]
async fn a_domain_without_a_server_bounces_and_one_that_could_not_be_looked_up_waits() {
    let mut world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.zone = Zone::default()
        .with_name("empty.example")
        .with_mx("inside.example", 10, "inside.example")
        .with_address("inside.example", Ipv4Addr::new(10, 0, 0, 1).into())
        .with_failure("broken.example");
    direct(&mut world, &server).await;
    let reactor = world.start();
    let mail = world.accept(&["a@empty.example", "b@inside.example", "c@broken.example", "d@gone.example"]).await;
    use Status::{Bounced, Waiting};
    let state = world.until_status(&mail, &[Bounced, Bounced, Waiting, Bounced]).await;
    assert_eq!(state.recipients[2].deferrals, 1);
    assert_eq!(server.count(), 0);
    reactor.stop().await;
}

#[tokio::test]
async fn more_mail_than_connects_goes_to_a_site_through_kept_connections() {
    let mut world = World::new().await;
    let server = Server::start(Manner::default()).await;
    world.zone = one_exchanger();
    world.config.sites.connects_per_minute = 5;
    direct(&mut world, &server).await;
    let mut mails = vec![];
    for n in 0..40 {
        mails.push(world.accept(&[&format!("r{n}@example.net")]).await);
    }
    let reactor = world.start();
    eventually("all are delivered", || async {
        // Whoever finds the site busy comes again after a fifth of a second.
        world.advance(SECOND / 10);
        server.count() == 40
    })
    .await;
    assert!(*server.connections.lock().unwrap() <= 6);
    reactor.stop().await;
}
