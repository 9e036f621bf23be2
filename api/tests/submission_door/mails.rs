//! What becomes of a submitted mail, and what a client is told of one that is not taken.

use ::mail::smtp::{Notify, Return};
use domain::api_key::Kind;
use domain::balance::ChangeCreditLimit;
use domain::money::Nanos;
use domain::outbound::{Origin, RecipientKind};
use domain::suppression::{Cause, Reason, SuppressAddress};

use super::harness::{Office, hand_over, id_in, mail};
use crate::backends::Fault;
use crate::harness::{STORES, Store};

#[tokio::test]
async fn a_submitted_mail_goes_the_way_of_every_other() {
    for store in STORES {
        let office = Office::open(store).await;
        let team = office.team("a.test").await;
        let (key, secret) = office.key(&team, Kind::Sending).await;
        let mut client = office.login(&secret).await;
        let content = "Cc: \"Carl C.\" <carl@example.net>\r\nBcc: dora@example.net\r\nFrom: Ann <ann@a.test>\r\n\
                       To: Bob <BOB@example.net>\r\nReply-To: office@a.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
                       In-Reply-To: <one@example.net>\r\n\r\n..body\r\n";
        let to = ["bob@example.net", "carl@example.net", "dora@example.net"];
        let reply = hand_over(&mut client, "bounces@a.test", &to, content).await;
        assert!(reply.starts_with("250 2.0.0 accepted as eml_"), "{reply}");
        let id = id_in(&reply);
        let state = office.state(&team, &id).await;
        let (accepted, letter) = (state.accepted.as_ref().unwrap(), state.letter.as_ref().unwrap());
        assert_eq!((accepted.origin, accepted.mail.key.as_ref()), (Origin::Smtp, Some(&key)));
        let kinds: Vec<_> = accepted.recipients.iter().map(|r| r.kind).collect();
        assert_eq!(kinds, [RecipientKind::To, RecipientKind::Cc, RecipientKind::Bcc]);
        assert!(accepted.booking.held_nanos > Nanos(0));
        assert_eq!(letter.return_path.as_deref(), Some("bounces@a.test"));
        assert_eq!((letter.from.name.as_deref(), letter.subject.as_deref()), (Some("Ann"), Some("Grüße")));
        assert_eq!(letter.recipients[1].name.as_deref(), Some("Carl C."));
        assert_eq!(letter.rfc5322_message_id, format!("{id}@a.test"));
        let text = office.text(&team, &id).await;
        assert!(
            text.starts_with("Received: from client.test (unknown [127.0.0.1])\r\n\tby mx.test with ESMTPA\r\n"),
            "{text}"
        );
        assert!(text.contains(&format!("\r\nX-Postlog-ID: {id}\r\nMessage-ID: <{id}@a.test>\r\nDate: ")), "{text}");
        assert!(!text.contains("dora@") && text.ends_with("\r\n\r\n.body\r\n"), "{text}");
    }
}

#[tokio::test]
async fn a_mailbox_sends_as_itself_and_keeps_a_copy() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (mailbox, _, secret) = office.mailbox(&team, "box@a.test").await;
    let mut client = office.login(&secret).await;
    let before = office.head(&team).await;
    let id = id_in(&hand_over(&mut client, "box@a.test", &["bob@example.net"], &mail("one", "Box@a.test")).await);
    assert_eq!(office.names(&team, before).await, ["outbound.accepted", "message.filed"]);
    let state = office.state(&team, &id).await;
    assert_eq!(state.accepted.as_ref().unwrap().mail.mailbox, Some(mailbox));
    // The author is the return path: nothing else was asked for.
    assert_eq!(state.letter.as_ref().unwrap().return_path, None);
    client.say("MAIL FROM:<other@a.test>", "550 5.7.1").await;
    assert!(
        hand_over(&mut client, "box+tag@a.test", &["bob@example.net"], &mail("two", "box@a.test"))
            .await
            .starts_with("250")
    );
    for (from, sender) in [("other@a.test", ""), ("box@a.test", "Sender: boss@a.test\r\n")] {
        let content = format!("{sender}{}", mail("three", from));
        let reply = hand_over(&mut client, "box@a.test", &["bob@example.net"], &content).await;
        assert!(reply.starts_with("550 5.7.1"), "{reply}");
    }
}

#[tokio::test]
async fn a_message_repeated_after_a_lost_answer_is_one_mail() {
    for store in STORES {
        let office = Office::open(store).await;
        let team = office.team("a.test").await;
        let (_, secret) = office.key(&team, Kind::Sending).await;
        let content = mail("same", "ann@a.test");
        // The answer is lost: nobody reads it.
        let mut lost = office.login(&secret).await;
        lost.submit("ann@a.test", &["bob@example.net"], &content).await;
        drop(lost);
        let mut client = office.login(&secret).await;
        let first = id_in(&hand_over(&mut client, "ann@a.test", &["bob@example.net"], &content).await);
        let again = id_in(&hand_over(&mut client, "ann@a.test", &["bob@example.net"], &content).await);
        assert_eq!(first, again);
        let other = id_in(&hand_over(&mut client, "ann@a.test", &["carl@example.net"], &content).await);
        let changed = content.replace("there", "here");
        let changed = id_in(&hand_over(&mut client, "ann@a.test", &["bob@example.net"], &changed).await);
        assert!(first != other && first != changed && other != changed);
        let accepted = || async { office.names(&team, 0).await.iter().filter(|n| *n == "outbound.accepted").count() };
        assert_eq!(accepted().await, 3);
        // Nothing says that two mails without a Message-ID are one.
        let nameless = "From: ann@a.test\r\nTo: bob@example.net\r\nSubject: disk full\r\n\r\nagain\r\n";
        for _ in 0..2 {
            hand_over(&mut client, "ann@a.test", &["bob@example.net"], nameless).await;
        }
        assert_eq!(accepted().await, 5);
    }
}

#[tokio::test]
async fn every_refusal_has_its_reply() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let mut client = office.login(&secret).await;
    let before = office.head(&team).await;
    client.say("MAIL FROM:<>", "550 5.1.7").await;
    client.say("MAIL FROM:<ann@a.test> RET=SOME", "501 5.5.4").await;
    client.say("MAIL FROM:<ann@a.test>", "250").await;
    client.say("RCPT TO:<postmaster>", "550 5.1.3").await;
    client.say("RCPT TO:<bob@example.net> NOTIFY=NEVER,SUCCESS", "501 5.5.4").await;
    client.say(&format!("RCPT TO:<bob@example.net> ORCPT=rfc822;{}", "x".repeat(501)), "501 5.5.4").await;
    for n in 0..50 {
        client.say(&format!("RCPT TO:<bob{n}@example.net>"), "250").await;
    }
    client.say("RCPT TO:<bob50@example.net>", "452 4.5.3").await;
    client.say("RSET", "250").await;
    let long = format!("From: ann@a.test\r\n\r\n{}\r\n", "x".repeat(1200));
    let rows = [
        ("ann@a.test", mail("x", "ann@elsewhere.test"), "550 5.7.1"),
        ("ann@elsewhere.test", mail("x", "ann@a.test"), "550 5.7.1"),
        ("ann@a.test", "Subject: nobody wrote this\r\n\r\nx\r\n".to_owned(), "550 5.6.0"),
        ("ann@a.test", "From: ann@a.test\r\nno field\r\n\r\nx\r\n".to_owned(), "554 5.6.0"),
        ("ann@a.test", long, "554 5.6.0"),
    ];
    for (from, content, expected) in rows {
        let reply = hand_over(&mut client, from, &["bob@example.net"], &content).await;
        assert!(reply.starts_with(expected), "{expected}: {reply}");
    }
    office.door.faults.set(Fault::Full);
    let content = mail("full", "ann@a.test");
    let reply = hand_over(&mut client, "ann@a.test", &["bob@example.net"], &content).await;
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    office.door.faults.set(Fault::None);
    assert_eq!(office.head(&team).await, before, "nothing was written");
    // The same mail is welcome now.
    let reply = hand_over(&mut client, "ann@a.test", &["bob@example.net"], &content).await;
    assert!(reply.starts_with("250"), "{reply}");
    office.door.run(&team, ChangeCreditLimit { credit_limit: Nanos(0) }).await;
    let reply = hand_over(&mut client, "ann@a.test", &["bob@example.net"], &mail("poor", "ann@a.test")).await;
    assert!(reply.starts_with("550 5.7.0") && reply.contains("balance"), "{reply}");
    // A team without an account to send through.
    let poor = office.door.team("b.test").await;
    let (_, secret) = office.key(&poor, Kind::Sending).await;
    let mut client = office.login(&secret).await;
    let reply = hand_over(&mut client, "ann@b.test", &["bob@example.net"], &mail("none", "ann@b.test")).await;
    assert!(reply.starts_with("451 4.3.5"), "{reply}");
}

#[tokio::test]
async fn who_is_on_the_suppression_list_is_refused_and_on_record() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let bob = "bob@example.net";
    let suppress = SuppressAddress {
        address: office.app.outbox.address(&team, &bob.parse().unwrap()),
        email: bob.to_owned(),
        cause: Cause { reason: Reason::Manual, topic: None },
        note: None,
        expires_at: None,
    };
    office.door.run(&team, suppress).await;
    let mut client = office.login(&secret).await;
    let content = mail("listed", "ann@a.test");
    for _ in 0..2 {
        let reply = hand_over(&mut client, "ann@a.test", &[bob], &content).await;
        assert!(reply.starts_with("550 5.7.1") && reply.contains("suppression"), "{reply}");
    }
    let names = office.names(&team, 0).await;
    assert_eq!(names[names.len() - 2..], ["outbound.accepted", "outbound.rejected"]);
    // With others beside it the mail goes out, to them.
    let reply = hand_over(&mut client, "ann@a.test", &[bob, "carl@example.net"], &content).await;
    assert!(reply.starts_with("250"), "{reply}");
}

#[tokio::test]
async fn the_reply_waits_for_the_append() {
    for store in STORES {
        let mut office = Office::open(store).await;
        let team = office.team("a.test").await;
        let (_, secret) = office.key(&team, Kind::Sending).await;
        let mut client = office.login(&secret).await;
        let before = office.head(&team).await;
        office.door.faults.set(Fault::Gated);
        client.submit("ann@a.test", &["bob@example.net"], &mail("gated", "ann@a.test")).await;
        office.door.waits.recv().await.unwrap();
        drop(office.hello().await);
        let mut octet = [0];
        tokio::select! {
            biased;
            read = tokio::io::AsyncReadExt::read(&mut client.stream, &mut octet) => panic!("a reply before the append: {read:?}"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(office.head(&team).await, before);
        office.door.faults.gate.add_permits(1);
        client.expect("250 2.0.0").await;
    }
}

#[tokio::test]
async fn large_mails_come_in_chunks_and_pipelined() {
    let office = Office::open(Store::Sqlite).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let mut client = office.login(&secret).await;
    let body = "0123456789abcdef\r\n".repeat(60_000);
    let content = format!("{}{body}", mail("large", "ann@a.test"));
    let (one, two) = content.split_at(content.len() / 3);
    client
        .send(format!(
            "MAIL FROM:<ann@a.test> SIZE={}\r\nRCPT TO:<bob@example.net>\r\nBDAT {}\r\n{one}",
            content.len(),
            one.len()
        ))
        .await;
    for _ in 0..3 {
        client.expect("250").await;
    }
    client.send(format!("BDAT {} LAST\r\n{two}", two.len())).await;
    let id = id_in(&client.expect("250").await);
    assert!(office.text(&team, &id).await.ends_with(&body));
    client.say("MAIL FROM:<ann@a.test> SIZE=99999999999", "552 5.3.4").await;
    // Bare line feeds are mended before anybody signs.
    let bare = mail("bare", "ann@a.test").replace("Hello there.\r\n", "one\ntwo\r\n");
    let id = id_in(&hand_over(&mut client, "ann@a.test", &["bob@example.net"], &bare).await);
    assert!(office.text(&team, &id).await.ends_with("\r\n\r\none\r\ntwo\r\n"));
}

#[tokio::test]
async fn what_is_asked_of_delivery_reports_is_kept_with_the_mail() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let mut client = office.login(&secret).await;
    client.say("MAIL FROM:<ann@a.test> RET=HDRS ENVID=QQ+3D1", "250").await;
    client.say("RCPT TO:<bob@example.net> NOTIFY=success,DELAY ORCPT=rfc822;Bob+2Bx@old.example", "250").await;
    client.say("RCPT TO:<carl@example.net>", "250").await;
    client.say("RCPT TO:<dora@example.net> NOTIFY=NEVER", "250").await;
    client.say("DATA", "354").await;
    client.send(format!("{}.\r\n", mail("n1", "ann@a.test"))).await;
    let id = id_in(&client.reply().await);
    let state = office.state(&team, &id).await;
    let notices = state.letter.as_ref().unwrap().notices.clone().unwrap();
    assert_eq!((notices.ret, notices.envid.as_deref()), (Some(Return::Headers), Some("QQ=1")));
    let asked: Vec<_> = notices.recipients.iter().map(|to| to.notify).collect();
    let on = Notify::On { success: true, failure: false, delay: true };
    assert_eq!(asked, [Some(on), None, Some(Notify::Never)]);
    assert_eq!(notices.recipients[0].original.as_ref().unwrap().address, "Bob+x@old.example");
    // Who asks for nothing leaves nothing behind.
    let id = id_in(&hand_over(&mut client, "ann@a.test", &["bob@example.net"], &mail("n2", "ann@a.test")).await);
    assert_eq!(office.state(&team, &id).await.letter.as_ref().unwrap().notices, None);
}
