//! Recipients that are refused, and why.

use api::receive::{Asked, Receiver, Refusal};
use api::smtp::{GreylistConfig, HarvestConfig};
use domain::mailbox::{
    ChangeMailbox, CloseMailbox, FilterMode, Mailbox, ReplaceSenderRules, ResumeMailbox, SenderRule, SuspendMailbox,
};
use domain::sending_domain::{Mode, ReplaceDomainRules};
use domain::team::Team;
use domain::{StreamId, Versioned};
use mail::address::{ForwardPath, ReversePath};

use crate::backends::Fault;
use crate::harness::{Door, STORES, Store, config, mail};

#[tokio::test]
async fn every_recipient_that_is_not_a_mailbox_is_refused_at_rcpt() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.domain(&team, "sendonly.test", Mode::SendOnly).await;
        door.mailbox(&team, "box@team.test").await;
        let mut client = door.hello().await;
        client.say("MAIL FROM:<a@sender.test>", "250").await;
        for (recipient, expected) in [
            ("box@team.test", "250 2.1.5"),
            ("BOX@TEAM.TEST", "250 2.1.5"),
            ("\"box\"@team.test", "250 2.1.5"),
            ("box+tag+more@team.test", "250 2.1.5"),
            ("@relay.test,@other.test:box@team.test", "250 2.1.5"),
            ("nobody@team.test", "550 5.1.1"),
            ("+tag@team.test", "550 5.1.1"),
            ("postmaster@team.test", "550 5.1.1"),
            ("postmaster", "550 5.1.1"),
            ("box@sub.team.test", "550 5.7.1"),
            ("box@elsewhere.test", "550 5.7.1"),
            ("box%elsewhere.test@team.test", "550 5.1.1"),
            ("elsewhere.test!box@team.test", "550 5.1.1"),
            ("box@elsewhere.test@team.test", "501"),
            ("box@sendonly.test", "550 5.1.2"),
            ("box@[192.0.2.1]", "550 5.1.2"),
            ("", "501"),
        ] {
            client.say(&format!("RCPT TO:<{recipient}>"), expected).await;
        }
        client.say("VRFY box@team.test", "252").await;
        client.say("RSET", "250").await;
        client.say("MAIL FROM:<a@sender.test>", "250").await;
        client.say("RCPT TO:<nobody@team.test>", "550 5.1.1").await;
        client.say("DATA", "554 5.5.1").await;
        assert_eq!(door.mails(&team).await.len(), 0);
    }
}

#[tokio::test]
async fn postmaster_goes_to_the_configured_mailbox() {
    let mut config = config();
    config.postmaster_mailbox = Some("operator@team.test".into());
    let door = Door::with(Store::Memory, config, None).await;
    let (team, other) = (door.team("team.test").await, door.team("other.test").await);
    door.mailbox(&team, "operator@team.test").await;
    let mut client = door.hello().await;
    client.deliver("a@sender.test", &["postmaster", "Postmaster@other.test"], &mail("pm", "Help")).await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    client.say("RCPT TO:<postmaster@elsewhere.test>", "550 5.7.1").await;
    let mails = door.mails(&team).await;
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].1.rcpt_to, ["postmaster", "Postmaster@other.test"]);
    assert_eq!(door.mails(&other).await.len(), 0);
    // A team's own mailbox of that name comes first.
    door.mailbox(&other, "postmaster@other.test").await;
    client.say("RSET", "250").await;
    client.deliver("a@sender.test", &["postmaster@other.test"], &mail("pm2", "Help")).await;
    assert_eq!(door.mails(&other).await.len(), 1);
}

#[tokio::test]
async fn a_suspended_or_closed_mailbox_takes_nothing_from_that_moment() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        let mailbox = door.mailbox(&team, "box@team.test").await;
        let mut client = door.hello().await;
        client.deliver("a@sender.test", &["box@team.test"], &mail("before", "Hi")).await;
        door.run(&team, SuspendMailbox { mailbox: mailbox.clone() }).await;
        client.say("MAIL FROM:<a@sender.test>", "250").await;
        client.say("RCPT TO:<box@team.test>", "550 5.2.1").await;
        door.run(&team, ResumeMailbox { mailbox: mailbox.clone() }).await;
        client.say("RCPT TO:<box@team.test>", "250").await;
        // Between RCPT and the end of the mail.
        door.run(&team, SuspendMailbox { mailbox: mailbox.clone() }).await;
        client.say("DATA", "354").await;
        client.send(format!("{}.\r\n", mail("late", "Hi"))).await;
        client.expect("550 5.2.1").await;
        door.run(&team, CloseMailbox { mailbox }).await;
        client.say("MAIL FROM:<a@sender.test>", "250").await;
        client.say("RCPT TO:<box@team.test>", "550 5.1.1").await;
        // The address may be opened anew, as another mailbox.
        let again = door.mailbox(&team, "box@team.test").await;
        client.say("RCPT TO:<box@team.test>", "250").await;
        client.say("RSET", "250").await;
        client.deliver("a@sender.test", &["box@team.test"], &mail("again", "Hi")).await;
        let mails = door.mails(&team).await;
        assert_eq!((mails.len(), &mails[1].0.mailbox), (2, &again));
    }
}

#[tokio::test]
async fn sender_rules_are_read_at_rcpt() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    let mailbox = door.mailbox(&team, "box@team.test").await;
    let rule = |pattern: &str| SenderRule { pattern: pattern.into(), note: None };
    let rules = vec![rule("friend.test"), rule("one@sender.test")];
    for (mode, expected) in [
        (
            FilterMode::Allowlist,
            [("one@sender.test", true), ("x@FRIEND.test", true), ("x@sender.test", false), ("", false)],
        ),
        (
            FilterMode::Denylist,
            [("one@sender.test", false), ("x@friend.test", false), ("x@sender.test", true), ("", true)],
        ),
        (FilterMode::Off, [("one@sender.test", true), ("x@friend.test", true), ("x@sender.test", true), ("", true)]),
    ] {
        let (mailbox, rules) = (mailbox.clone(), rules.clone());
        door.run(&team, ReplaceSenderRules { mailbox, mode, rules, if_version: None }).await;
        let mut client = door.hello().await;
        for (sender, admitted) in expected {
            client.say(&format!("MAIL FROM:<{sender}>"), "250").await;
            client.say("RCPT TO:<box@team.test>", if admitted { "250" } else { "550 5.7.1" }).await;
            client.say("RSET", "250").await;
        }
    }
}

#[tokio::test]
async fn rules_of_a_domain_are_for_mailboxes_that_have_none() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    let (box_, own) = (door.mailbox(&team, "box@team.test").await, door.mailbox(&team, "own@team.test").await);
    let rules = |pattern: &str| vec![SenderRule { pattern: pattern.into(), note: None }];
    let owner: Versioned<Team> = door.log.state(&team, &[StreamId::Team]).await.unwrap();
    let domain = owner.domains["team.test"].id.clone();
    let mode = FilterMode::Denylist;
    door.run(&team, ReplaceDomainRules { domain, mode, rules: rules("spam.test"), if_version: None }).await;
    let mode = FilterMode::Allowlist;
    door.run(&team, ReplaceSenderRules { mailbox: own, mode, rules: rules("spam.test"), if_version: None }).await;
    let mut client = door.hello().await;
    let rows = [
        ("x@spam.test", "box", false),
        ("x@friend.test", "box", true),
        ("x@spam.test", "own", true),
        ("x@friend.test", "own", false),
        ("x@spam.test", "box+tag", false),
    ];
    for (sender, local, admitted) in rows {
        client.say(&format!("MAIL FROM:<{sender}>"), "250").await;
        client.say(&format!("RCPT TO:<{local}@team.test>"), if admitted { "250" } else { "550 5.7.1" }).await;
        client.say("RSET", "250").await;
    }
    let state: Versioned<Mailbox> = door.log.state(&team, &[StreamId::Mailbox(box_)]).await.unwrap();
    assert_eq!(state.filter_mode, FilterMode::Off);
}

#[tokio::test]
async fn a_mailbox_without_room_refuses_for_now() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    let mailbox = door.mailbox(&team, "box@team.test").await;
    let quota = |quota_bytes| ChangeMailbox {
        mailbox: mailbox.clone(),
        display_name: None,
        quota_bytes: Some(quota_bytes),
        send_scope: None,
        if_version: None,
    };
    door.run(&team, quota(2_000)).await;
    let mut client = door.hello().await;
    client.say("MAIL FROM:<a@sender.test> SIZE=2001", "250").await;
    client.say("RCPT TO:<box@team.test>", "452 4.2.2").await;
    client.say("RSET", "250").await;
    let body = "x".repeat(900);
    client.deliver("a@sender.test", &["box@team.test"], &format!("{}{body}", mail("fits", "Hi"))).await;
    // Announced, it is refused before it is sent; not announced, as soon as its size is known, and nothing of it stays.
    client.say("MAIL FROM:<a@sender.test> SIZE=1500", "250").await;
    client.say("RCPT TO:<box@team.test>", "452 4.2.2").await;
    client.say("RSET", "250").await;
    let second = format!("{}{body}", mail("too much", "Hi"));
    for _ in 0..2 {
        client.submit("a@sender.test", &["box@team.test"], &second).await;
        client.expect("452 4.2.2").await;
    }
    assert_eq!(door.mails(&team).await.len(), 1);
    // What was refused takes no room.
    client.deliver("a@sender.test", &["box@team.test"], &mail("small", "Hi")).await;
    door.run(&team, quota(1_000_000)).await;
    client.deliver("a@sender.test", &["box@team.test"], &second).await;
    let stored: i64 = door.mails(&team).await.iter().map(|(facts, _)| facts.size_bytes).sum();
    door.run(&team, quota(stored)).await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    client.say("RCPT TO:<box@team.test>", "452 4.2.2").await;
    door.run(&team, quota(stored + 1)).await;
    client.say("RCPT TO:<box@team.test>", "250").await;
}

#[tokio::test]
async fn mails_that_come_at_the_same_time_do_not_exceed_the_quota_together() {
    let mut door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    let mailbox = door.mailbox(&team, "box@team.test").await;
    let mut first = door.hello().await;
    first.deliver("a@sender.test", &["box@team.test"], &mail("n0", "Hi")).await;
    // Room for three of them, and for no fourth.
    let size = door.mails(&team).await[0].0.size_bytes;
    let quota_bytes = Some(size * 3 + size / 2);
    let change = ChangeMailbox { mailbox, display_name: None, quota_bytes, send_scope: None, if_version: None };
    door.run(&team, change).await;
    let mut clients = vec![];
    for _ in 0..5 {
        let mut client = door.hello().await;
        client.say("MAIL FROM:<a@sender.test>", "250").await;
        client.say("RCPT TO:<box@team.test>", "250").await;
        client.say("DATA", "354").await;
        clients.push(client);
    }
    // All of them are on their way before the first is written.
    door.faults.set(Fault::Gated);
    for (n, client) in (1..).zip(&mut clients) {
        client.send(format!("{}.\r\n", mail(&format!("n{n}"), "Hi"))).await;
    }
    door.waits.recv().await.unwrap();
    door.faults.set(Fault::None);
    door.faults.gate.add_permits(100);
    let mut taken = 1;
    for client in &mut clients {
        let reply = client.reply().await;
        assert!(reply.starts_with("250") || reply.starts_with("452 4.2.2"), "{reply}");
        taken += usize::from(reply.starts_with("250"));
    }
    assert_eq!((taken, door.mails(&team).await.len()), (3, 3));
}

#[tokio::test]
async fn more_mail_than_the_rate_allows_is_put_off() {
    let mut config = config();
    config.rates.mails_per_minute_per_mailbox_and_peer = 3;
    let door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    door.mailbox(&team, "other@team.test").await;
    let mut client = door.hello().await;
    for n in 0..3 {
        client.deliver("a@sender.test", &["box@team.test"], &mail(&format!("rate{n}"), "Hi")).await;
    }
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    client.say("RCPT TO:<box@team.test>", "451 4.7.1").await;
    client.say("RCPT TO:<other@team.test>", "250").await;
}

#[tokio::test]
async fn a_sender_that_is_new_to_a_mailbox_is_asked_to_come_again() {
    let mut config = config();
    config.greylist = GreylistConfig { on: true, delay_seconds: 0, window_seconds: 60, pass_days: 1 };
    let door = Door::with(Store::Memory, config.clone(), None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    client.say("RCPT TO:<nobody@team.test>", "550 5.1.1").await;
    client.say("RCPT TO:<box@team.test>", "451 4.7.1").await;
    client.say("RSET", "250").await;
    client.deliver("a@sender.test", &["box@team.test"], &mail("again", "Hi")).await;
    client.say("MAIL FROM:<>", "250").await;
    client.say("RCPT TO:<box@team.test>", "451 4.7.1").await;
    assert_eq!(door.mails(&team).await.len(), 1);
    // Whom the operator trusts does not wait.
    config.trusted_peers = vec!["127.0.0.0/8".parse().unwrap()];
    let door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    door.hello().await.deliver("a@sender.test", &["box@team.test"], &mail("trusted", "Hi")).await;
}

#[tokio::test]
async fn a_guesser_that_waits_keeps_nobody_else_waiting() {
    let mut config = config();
    config.limits.connections_per_peer_max = 300;
    config.harvest = HarvestConfig {
        unknown_recipients_free: 0,
        unknown_recipients_max: 1_000,
        delay_min_millis: 60_000,
        delay_max_millis: 60_000,
    };
    let door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut waiting = vec![];
    for _ in 0..200 {
        let mut client = door.hello().await;
        client.say("MAIL FROM:<a@sender.test>", "250").await;
        client.send("RCPT TO:<nobody@team.test>\r\n").await;
        waiting.push(client);
    }
    let mut client = door.hello().await;
    for n in 0..20 {
        client.deliver("a@sender.test", &["box@team.test"], &mail(&format!("free{n}"), "Hi")).await;
    }
    assert_eq!(door.mails(&team).await.len(), 20);
}

#[tokio::test]
async fn whoever_guesses_addresses_waits_and_is_then_shown_the_door() {
    let mut config = config();
    config.harvest = HarvestConfig {
        unknown_recipients_free: 2,
        unknown_recipients_max: 4,
        delay_min_millis: 30,
        delay_max_millis: 60,
    };
    let door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    for (guess, least) in [(1, 0), (2, 0), (3, 30), (4, 60)] {
        let begun = std::time::Instant::now();
        client.say(&format!("RCPT TO:<guess{guess}@team.test>"), "550 5.1.1").await;
        assert!(begun.elapsed().as_millis() >= least, "guess {guess}");
    }
    client.say("RCPT TO:<guess5@team.test>", "421 4.7.0").await;
    client.expect_end().await;
    // Counted over connections; real mailboxes stay reachable.
    let mut client = door.hello().await;
    client.deliver("a@sender.test", &["box@team.test"], &mail("honest", "Hi")).await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    client.say("RCPT TO:<guess6@team.test>", "421 4.7.0").await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_a_temporary_failure() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    door.faults.set(Fault::Unavailable);
    client.say("RCPT TO:<box@team.test>", "451 4.3.0").await;
    door.faults.set(Fault::None);
    client.say("RCPT TO:<box@team.test>", "250").await;
}

#[tokio::test]
async fn how_full_a_mailbox_is_comes_from_its_projection() {
    let door = Door::open(Store::Sqlite).await;
    let team = door.team("team.test").await;
    let mailbox = door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.deliver("a@sender.test", &["box@team.test"], &mail("full", "Hi")).await;
    let quota = door.mails(&team).await[0].0.size_bytes;
    let change =
        ChangeMailbox { mailbox, display_name: None, quota_bytes: Some(quota), send_scope: None, if_version: None };
    door.run(&team, change).await;
    door.projected(&team).await;
    // A node that has not received that mail itself.
    let options = config().receive_options();
    let receiver = Receiver::new(door.log.clone(), door.views.clone(), door.allot.clone(), options, None);
    let (path, sender) = (ForwardPath::parse("<box@team.test>").unwrap(), ReversePath::Null);
    let peer = "192.0.2.1".parse().unwrap();
    let asked = Asked { path: &path, sender: &sender, size_octets: None, peer, trusted: false };
    assert_eq!(receiver.recipient(asked).await, Err(Refusal::OverQuota));
}
