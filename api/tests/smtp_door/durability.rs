//! `250` means durable, for every copy; anything less leaves the mail with its sender.

use domain::mailbox::SuspendMailbox;
use tokio::io::AsyncReadExt;

use crate::backends::Fault;
use crate::harness::{Door, PATIENCE, STORES, Store, mail};

#[tokio::test]
async fn the_reply_waits_for_the_append() {
    for store in STORES {
        let mut door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.mailbox(&team, "box@team.test").await;
        let mut client = door.hello().await;
        door.faults.set(Fault::Gated);
        client.submit("a@sender.test", &["box@team.test"], &mail("gated", "Hi")).await;
        door.waits.recv().await.unwrap();
        // The append is under way and held. Others are served meanwhile, so a reply had every chance to be sent; but not
        // one octet of it may be on the wire.
        drop(door.hello().await);
        let mut octet = [0];
        tokio::select! {
            biased;
            read = client.stream.read(&mut octet) => panic!("a reply before the append: {read:?}"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(door.mails(&team).await.len(), 0);
        door.faults.gate.add_permits(1);
        client.expect("250 2.0.0").await;
        assert_eq!(door.mails(&team).await.len(), 1);
    }
}

#[tokio::test]
async fn a_connection_cut_before_the_end_of_the_mail_leaves_nothing() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.mailbox(&team, "box@team.test").await;
        let whole = format!("{}.\r\n", mail("cut", "Hi"));
        for octets in [0, 1, 100, whole.len() - 5, whole.len() - 2, whole.len() - 1] {
            let mut client = door.hello().await;
            client.say("MAIL FROM:<a@sender.test>", "250").await;
            client.say("RCPT TO:<box@team.test>", "250").await;
            client.say("DATA", "354").await;
            client.send(&whole[..octets]).await;
        }
        // A later mail is answered only after everything before it was.
        let mut client = door.hello().await;
        client.deliver("a@sender.test", &["box@team.test"], &mail("after", "Hi")).await;
        assert_eq!(door.mails(&team).await.len(), 1);
    }
}

#[tokio::test]
async fn a_connection_cut_after_the_end_of_the_mail_loses_nothing_and_the_repetition_is_folded() {
    for store in STORES {
        let mut door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.mailbox(&team, "box@team.test").await;
        let content = mail("cut", "Hi");
        let mut client = door.hello().await;
        door.faults.set(Fault::Gated);
        client.submit("a@sender.test", &["box@team.test"], &content).await;
        door.waits.recv().await.unwrap();
        drop(client);
        door.faults.set(Fault::None);
        door.faults.gate.add_permits(1);
        let mut client = door.hello().await;
        client.deliver("a@sender.test", &["box@team.test"], &content).await;
        assert_eq!(door.mails(&team).await.len(), 1);
    }
}

#[tokio::test]
async fn a_full_store_is_a_temporary_failure_and_later_there_is_room() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.mailbox(&team, "box@team.test").await;
        let mut client = door.hello().await;
        for (fault, expected) in [(Fault::Full, "452 4.3.1"), (Fault::Unavailable, "4")] {
            client.say("MAIL FROM:<a@sender.test>", "250").await;
            client.say("RCPT TO:<box@team.test>", "250").await;
            client.say("DATA", "354").await;
            door.faults.set(fault);
            client.send(format!("{}.\r\n", mail("full", "Hi"))).await;
            client.expect(expected).await;
            door.faults.set(Fault::None);
        }
        assert_eq!(door.mails(&team).await.len(), 0);
        client.deliver("a@sender.test", &["box@team.test"], &mail("full", "Hi")).await;
        assert_eq!(door.mails(&team).await.len(), 1);
    }
}

#[tokio::test]
async fn a_mail_that_only_some_mailboxes_took_is_tried_again_and_folded() {
    for store in STORES {
        let door = Door::open(store).await;
        let (a, b) = (door.team("a.test").await, door.team("b.test").await);
        door.mailbox(&a, "ann@a.test").await;
        let bob = door.mailbox(&b, "bob@b.test").await;
        let content = mail("partial", "Hi");
        let mut client = door.hello().await;
        client.say("MAIL FROM:<x@sender.test>", "250").await;
        client.say("RCPT TO:<ann@a.test>", "250").await;
        client.say("RCPT TO:<bob@b.test>", "250").await;
        door.run(&b, SuspendMailbox { mailbox: bob }).await;
        client.say("DATA", "354").await;
        client.send(format!("{content}.\r\n")).await;
        client.expect("451 4.3.0").await;
        assert_eq!((door.mails(&a).await.len(), door.mails(&b).await.len()), (1, 0));
        // What the sender's queue does next: the same mail to both; one is refused by name, the other has it.
        client.say("MAIL FROM:<x@sender.test>", "250").await;
        client.say("RCPT TO:<ann@a.test>", "250").await;
        client.say("RCPT TO:<bob@b.test>", "550 5.2.1").await;
        client.say("DATA", "354").await;
        client.send(format!("{content}.\r\n")).await;
        client.expect("250").await;
        assert_eq!(door.mails(&a).await.len(), 1);
    }
}

#[tokio::test]
async fn an_append_that_takes_too_long_is_put_off_and_never_doubled() {
    let mut config = crate::harness::config();
    config.limits.delivery_seconds_max = 1;
    let mut door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    door.faults.set(Fault::Gated);
    let content = mail("slow", "Hi");
    client.submit("a@sender.test", &["box@team.test"], &content).await;
    client.expect("451 4.3.0").await;
    door.waits.recv().await.unwrap();
    door.faults.set(Fault::None);
    door.faults.gate.add_permits(1);
    client.deliver("a@sender.test", &["box@team.test"], &content).await;
    assert_eq!(door.mails(&team).await.len(), 1);
}

#[tokio::test]
async fn a_stopping_door_finishes_the_mail_under_way_and_ends_the_others() {
    let mut door = Door::open(Store::Sqlite).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut idle = door.hello().await;
    let mut busy = door.hello().await;
    busy.say("MAIL FROM:<a@sender.test>", "250").await;
    busy.say("RCPT TO:<box@team.test>", "250").await;
    busy.say("DATA", "354").await;
    busy.send("Subject: half\r\n\r\n").await;
    door.stop.cancel();
    idle.expect("421 4.3.2").await;
    idle.expect_end().await;
    busy.send("the other half\r\n.\r\n").await;
    busy.expect("250").await;
    busy.expect("421 4.3.2").await;
    busy.expect_end().await;
    drop((idle, busy));
    tokio::time::timeout(PATIENCE, door.tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!(door.mails(&team).await.len(), 1);
    assert!(tokio::net::TcpStream::connect(door.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_session_that_does_not_end_is_cut_after_the_grace_period() {
    let mut config = crate::harness::config();
    config.drain_seconds = 1;
    let mut door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    client.say("RCPT TO:<box@team.test>", "250").await;
    client.say("DATA", "354").await;
    door.stop.cancel();
    tokio::time::timeout(PATIENCE, door.tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    client.expect_end().await;
    assert_eq!(door.mails(&team).await.len(), 0);
}
