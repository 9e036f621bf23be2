//! Connections: how many, how slow, how rude, and on whose behalf.

use crate::harness::{Door, Store, config, mail};

#[tokio::test]
async fn one_peer_may_not_take_all_connections_and_all_peers_not_more_than_there_are() {
    let mut config = config();
    config.limits.connections_per_peer_max = 2;
    let door = Door::with(Store::Memory, config.clone(), None).await;
    let (first, _second) = (door.hello().await, door.hello().await);
    let mut third = door.connect().await;
    third.expect("421 4.7.0").await;
    third.expect_end().await;
    drop(first);
    // Room again, as soon as the door has noticed.
    loop {
        let mut next = door.connect().await;
        if next.reply().await.starts_with("220") {
            break;
        }
    }

    config.limits.connections_per_peer_max = 50;
    config.limits.connections_max = 2;
    let door = Door::with(Store::Memory, config, None).await;
    let _open = (door.hello().await, door.hello().await);
    let mut third = door.connect().await;
    third.expect("421 4.3.2").await;
    third.expect_end().await;
}

#[tokio::test]
async fn whoever_does_not_wait_for_the_greeting_is_sent_away() {
    let mut config = config();
    for delay in [0, 5_000] {
        config.limits.greeting_delay_millis = delay;
        let door = Door::with(Store::Memory, config.clone(), None).await;
        let mut client = door.connect().await;
        client.send("EHLO early.test\r\n").await;
        client.expect("554 5.5.0").await;
        client.expect_end().await;
    }

    config.limits.greeting_delay_millis = 50;
    config.trusted_peers = vec!["127.0.0.0/8".parse().unwrap()];
    let door = Door::with(Store::Memory, config, None).await;
    let mut client = door.connect().await;
    client.send("EHLO early.test\r\n").await;
    client.expect("220").await;
    client.expect("250").await;
}

#[tokio::test]
async fn silence_ends_a_session_and_load_ends_it_sooner() {
    let mut config = config();
    config.limits.command_idle_seconds = 1;
    let door = Door::with(Store::Memory, config.clone(), None).await;
    let mut client = door.hello().await;
    client.expect("421 4.4.2").await;
    client.expect_end().await;

    config.limits.command_idle_seconds = 300;
    config.limits.overload_command_idle_seconds = 1;
    config.limits.connections_max = 10;
    config.limits.overload_connections_percent = 20;
    let door = Door::with(Store::Memory, config, None).await;
    let mut waiting = door.hello().await;
    let _second = door.hello().await;
    waiting.expect("421 4.4.2").await;
}

#[tokio::test]
async fn a_listed_proxy_speaks_for_its_clients() {
    let mut config = config();
    config.proxy_peers = vec!["127.0.0.1".parse().unwrap()];
    config.limits.connections_per_peer_max = 1;
    let door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;

    let mut first = door.connect().await;
    first.send("PROXY TCP4 192.0.2.77 198.51.100.1 40000 25\r\n").await;
    first.expect("220").await;
    first.say("EHLO client.test", "250").await;
    first.deliver("a@sender.test", &["box@team.test"], &mail("v1", "Hi")).await;
    // The limit counts the client, not the proxy.
    let mut same = door.connect().await;
    same.send("PROXY TCP4 192.0.2.77 198.51.100.1 40001 25\r\n").await;
    same.expect("421 4.7.0").await;

    let mut second = door.connect().await;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend([192, 0, 2, 78, 198, 51, 100, 1, 0x9c, 0x40, 0, 25]);
    second.send(&header[..10]).await;
    second.send(&header[10..]).await;
    second.expect("220").await;
    second.say("EHLO client.test", "250").await;
    second.deliver("a@sender.test", &["box@team.test"], &mail("v2", "Hi")).await;

    let peers: Vec<_> = door.mails(&team).await.into_iter().map(|(_, people)| people.peer_ip).collect();
    assert_eq!(peers, ["192.0.2.77", "192.0.2.78"]);

    // A proxy without a header, and a client that talks ahead behind one.
    let mut bad = door.connect().await;
    bad.send("EHLO client.test\r\n").await;
    bad.expect_end().await;
    let mut early = door.connect().await;
    early.send("PROXY TCP4 192.0.2.79 198.51.100.1 40000 25\r\nEHLO early.test\r\n").await;
    early.expect("554 5.5.0").await;
}

#[tokio::test]
async fn nobody_else_speaks_for_others() {
    let door = Door::open(Store::Memory).await;
    for header in [&b"PROXY TCP4 192.0.2.77 198.51.100.1 40000 25\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let mut client = door.connect().await;
        client.expect("220").await;
        client.send(header).await;
        client.expect_end().await;
    }
}

#[tokio::test]
async fn unfinished_mail_beyond_the_memory_for_it_is_put_off() {
    let mut config = config();
    config.limits.message_octets_max = 65_536;
    config.held_octets_max = 150_000;
    let door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut unfinished = vec![];
    let refused = loop {
        let mut client = door.hello().await;
        client.send("MAIL FROM:<a@sender.test>\r\n").await;
        let reply = client.reply().await;
        if !reply.starts_with("250") {
            break reply;
        }
        client.say("RCPT TO:<box@team.test>", "250").await;
        client.send(format!("BDAT 60000\r\n{}", "x".repeat(60_000))).await;
        client.expect("250").await;
        unfinished.push(client);
    };
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    assert!((2..=3).contains(&unfinished.len()), "{} mails were begun", unfinished.len());
    // What was begun is finished, and then there is room again.
    for client in &mut unfinished {
        client.say("BDAT 0 LAST", "250").await;
    }
    unfinished[0].say("MAIL FROM:<a@sender.test>", "250").await;
}

#[tokio::test]
async fn strange_first_words_end_politely() {
    let door = Door::open(Store::Memory).await;
    let mut client = door.connect().await;
    client.expect("220").await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.expect("421 4.7.0").await;
    client.expect_end().await;
}
