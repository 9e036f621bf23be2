//! Mails that are taken: their bytes, their events, their copies.

use std::sync::Arc;

use api::smtp::Config;
use domain::Event;
use domain::message::{Event as MessageEvent, Folder};
use domain::sending_domain::Mode;
use mail::auth::Zone;
use sha2::{Digest, Sha256};

use crate::harness::{Door, STORES, Store, config, mail};

#[tokio::test]
async fn a_mail_is_stored_with_our_trace_fields_on_top_of_the_clients_bytes() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        let mailbox = door.mailbox(&team, "box@team.test").await;
        let mut client = door.hello().await;
        let reply = client.deliver("ann@sender.test", &["box@team.test"], &mail("m1", "Hi")).await;
        client.say("QUIT", "221 2.0.0").await;
        client.expect_end().await;

        let mails = door.mails(&team).await;
        assert_eq!(mails.len(), 1);
        let (facts, people) = &mails[0];
        let raw = door.raw(&team, &facts.blob).await;
        let text = std::str::from_utf8(&raw).unwrap();
        let request = reply.trim_end().rsplit(' ').next().unwrap();
        assert!(request.starts_with("req_"), "{reply}");
        assert!(text.starts_with("Return-Path: <ann@sender.test>\r\nReceived: from client.test (unknown [127.0.0.1])"));
        assert!(text.contains(&format!("id {request}")) && text.contains("for <box@team.test>"), "{text}");
        assert!(text.ends_with(&mail("m1", "Hi")));
        assert_eq!(facts.sha256, hex::encode(Sha256::digest(&raw)));
        assert_eq!(facts.size_bytes, i64::try_from(raw.len()).unwrap());
        assert_eq!((&facts.mailbox, facts.folder, facts.is_spam), (&mailbox, Folder::Inbox, false));
        assert_eq!(facts.authentication.spf, "unchecked");
        assert_eq!(facts.sent_at, Some(1_788_256_800_000_000));
        assert_eq!(people.mail_from.as_deref(), Some("ann@sender.test"));
        assert_eq!(people.rcpt_to, ["box@team.test"]);
        assert_eq!(people.from.as_ref().unwrap().name.as_deref(), Some("Ann"));
        assert_eq!(people.subject.as_deref(), Some("Hi"));
        assert_eq!(people.preview, "Hello there.");
        assert_eq!(people.rfc5322_message_id, "m1@sender.test");
        assert_eq!((people.helo.as_str(), people.peer_ip.as_str()), ("client.test", "127.0.0.1"));
        let records = door.log.read(&team, 0, 100).await.unwrap();
        let record = records.last().unwrap();
        assert_eq!((record.actor.as_str(), record.correlation.as_str()), ("smtp", request));
        assert_eq!(record.client_ip.as_deref(), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_whole_mail_in_three_segments_is_taken_and_many_in_one_session() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.mailbox(&team, "box@team.test").await;
        let mut client = door.connect().await;
        client.expect("220").await;
        client.say("EHLO client.test", "250").await;
        for n in 0..20 {
            client
                .send("MAIL FROM:<a@sender.test>\r\nRCPT TO:<box@team.test>\r\nRCPT TO:<no@team.test>\r\nDATA\r\n")
                .await;
            client.expect("250 2.1.0").await;
            client.expect("250 2.1.5").await;
            client.expect("550 5.1.1").await;
            client.expect("354").await;
            client.send(format!("{}.\r\n", mail(&format!("p{n}"), "Hi"))).await;
            client.expect("250 2.0.0").await;
        }
        assert_eq!(door.mails(&team).await.len(), 20);
    }
}

#[tokio::test]
async fn two_teams_get_a_copy_each_and_neither_sees_the_others_recipient() {
    for store in STORES {
        let door = Door::open(store).await;
        let (a, b) = (door.team("a.test").await, door.team("b.test").await);
        door.mailbox(&a, "ann@a.test").await;
        door.mailbox(&b, "bob@b.test").await;
        let mut client = door.hello().await;
        client.deliver("x@sender.test", &["ann@a.test", "bob@b.test"], &mail("two", "Both")).await;
        for (team, own, other) in [(&a, "ann@a.test", "bob@b.test"), (&b, "bob@b.test", "ann@a.test")] {
            let mails = door.mails(team).await;
            assert_eq!(mails.len(), 1);
            assert_eq!(mails[0].1.rcpt_to, [own]);
            let raw = door.raw(team, &mails[0].0.blob).await;
            let text = String::from_utf8(raw.to_vec()).unwrap();
            assert!(!text.contains(other) && !text.contains("for <"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_mailbox_named_twice_gets_one_message_that_lists_both_names() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.deliver("a@sender.test", &["Box@team.test", "box+shop@team.test"], &mail("twice", "Hi")).await;
    let mails = door.mails(&team).await;
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].1.rcpt_to, ["Box@team.test", "box+shop@team.test"]);
}

#[tokio::test]
async fn the_same_mail_again_is_answered_without_a_second_event() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.mailbox(&team, "box@team.test").await;
        door.mailbox(&team, "other@team.test").await;
        let mut client = door.hello().await;
        let (once, other) = (mail("same", "Hi"), mail("same", "Another text under the same id"));
        client.deliver("a@sender.test", &["box@team.test"], &once).await;
        client.deliver("a@sender.test", &["box@team.test"], &once).await;
        let mut another = door.hello().await;
        another.deliver("a@sender.test", &["box@team.test"], &once).await;
        assert_eq!(door.mails(&team).await.len(), 1);
        client.deliver("a@sender.test", &["box@team.test"], &other).await;
        assert_eq!(door.mails(&team).await.len(), 2, "another content is another mail");
        client.deliver("a@sender.test", &["other@team.test", "box@team.test"], &once).await;
        assert_eq!(door.mails(&team).await.len(), 3, "another mailbox has not had it");
        // Each repetition is on record, with the message that it repeats.
        let first = door.mails(&team).await[0].0.clone();
        let records = door.log.read(&team, 0, 1_000).await.unwrap();
        let again = records.iter().filter_map(|record| match &record.event {
            Event::Message(MessageEvent::DuplicateReceived(e)) => Some((e.message.clone(), e.mailbox.clone())),
            _ => None,
        });
        assert_eq!(again.collect::<Vec<_>>(), vec![(first.message.clone(), first.mailbox.clone()); 3]);
    }
}

#[tokio::test]
async fn copies_sent_over_many_connections_at_once_are_one_message() {
    for store in STORES {
        let door = Door::open(store).await;
        let team = door.team("team.test").await;
        door.mailbox(&team, "box@team.test").await;
        let content = mail("storm", "Hi");
        let deliveries = (0..10).map(|_| async {
            let mut client = door.hello().await;
            client.deliver("a@sender.test", &["box@team.test"], &content).await
        });
        futures_util::future::join_all(deliveries).await;
        assert_eq!(door.mails(&team).await.len(), 1);
    }
}

#[tokio::test]
async fn eight_bit_content_and_internationalised_addresses_are_kept() {
    let door = Door::open(Store::Sqlite).await;
    let team = door.team("xn--mnchen-3ya.test").await;
    door.mailbox(&team, "box@xn--mnchen-3ya.test").await;
    let mut client = door.hello().await;
    let content = "From: Jörg <jörg@sender.test>\r\nSubject: Grüße\r\n\r\nWörter und \u{1f4e8}\r\n";
    client.say("MAIL FROM:<jörg@sender.test>", "553 5.6.7").await;
    client.say("MAIL FROM:<jörg@sender.test> SMTPUTF8 BODY=8BITMIME", "250").await;
    client.say("RCPT TO:<box@münchen.test>", "250").await;
    client.say("DATA", "354").await;
    client.send(format!("{content}.\r\n")).await;
    client.expect("250").await;
    let mails = door.mails(&team).await;
    let raw = door.raw(&team, &mails[0].0.blob).await;
    assert!(raw.ends_with(content.as_bytes()));
    assert!(String::from_utf8(raw.to_vec()).unwrap().contains("with UTF8SMTP"));
    assert_eq!(mails[0].1.subject.as_deref(), Some("Grüße"));
    assert_eq!(mails[0].1.mail_from.as_deref(), Some("jörg@sender.test"));
    // Octets that are no text at all.
    client.say("MAIL FROM:<>", "250").await;
    client.say("RCPT TO:<box@xn--mnchen-3ya.test>", "250").await;
    client.say("DATA", "354").await;
    client.send(b"Subject: \xff\xfe\r\n\r\n\x00\x80\xff\r\n.\r\n").await;
    client.expect("250").await;
    let mails = door.mails(&team).await;
    let raw = door.raw(&team, &mails[1].0.blob).await;
    assert!(raw.starts_with(b"Return-Path: <>\r\n") && raw.ends_with(b"\x00\x80\xff\r\n"));
    assert_eq!(mails[1].1.mail_from, None);
    assert!(mails[1].1.rfc5322_message_id.ends_with("@mx.test"), "an id is minted");
}

#[tokio::test]
async fn a_large_mail_goes_to_the_object_store_and_is_parsed_apart() {
    let door = Door::open(Store::Sqlite).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    let body = "All work and no play makes Jack a dull boy.\r\n".repeat(50_000);
    client.deliver("a@sender.test", &["box@team.test"], &format!("{}{body}", mail("large", "Large"))).await;
    let mails = door.mails(&team).await;
    let raw = door.raw(&team, &mails[0].0.blob).await;
    assert!(raw.len() > body.len() && raw.ends_with(body.as_bytes()));
    assert_eq!(mails[0].1.subject.as_deref(), Some("Large"));
}

#[tokio::test]
async fn a_mail_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let mut config = config();
    config.limits.message_octets_max = 65_536;
    let door = Door::with(Store::Memory, config, None).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.say("MAIL FROM:<a@sender.test> SIZE=65537", "552 5.3.4").await;
    client.submit("a@sender.test", &["box@team.test"], &"x".repeat(100_000)).await;
    client.expect("552 5.3.4").await;
    client.deliver("a@sender.test", &["box@team.test"], &mail("small", "Hi")).await;
    client.submit("a@sender.test", &["box@team.test"], &"x".repeat(140_000)).await;
    client.expect("421 4.3.4").await;
    assert_eq!(door.mails(&team).await.len(), 1);
}

#[tokio::test]
async fn a_smuggled_mail_is_never_a_second_one() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    for end in
        ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\n", "\n.\r", "\r\n.\r", "\r.\r\n", "\r\n.\r\r\n", "\r\r\n.\r\r\n"]
    {
        let mut client = door.hello().await;
        let smuggled = "MAIL FROM:<admin@team.test>\r\nRCPT TO:<box@team.test>\r\nDATA\r\nSubject: evil\r\n\r\nx";
        let content = format!("{}{end}{smuggled}", mail("smuggle", "Hi"));
        client.submit("a@sender.test", &["box@team.test"], &content).await;
        client.expect("550 5.6.0").await;
        client.say("QUIT", "221").await;
        assert_eq!(door.mails(&team).await.len(), 0, "{end:?}");
    }
    // Through BDAT a dot is a dot.
    let mut client = door.hello().await;
    client.say("MAIL FROM:<a@sender.test>", "250").await;
    client.say("RCPT TO:<box@team.test>", "250").await;
    client.send("BDAT 23 LAST\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n").await;
    client.expect("250").await;
    let mails = door.mails(&team).await;
    assert_eq!(mails.len(), 1);
    assert!(door.raw(&team, &mails[0].0.blob).await.ends_with(b"\r\n\r\n.\r\nQUIT\r\n"));
}

#[tokio::test]
async fn forged_trace_fields_go_and_others_stay() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    let forged = "Return-Path: <ceo@bank.test>\r\nAuthentication-Results: MX.test; dmarc=pass\r\n\
                  Authentication-Results: other.test; spf=fail\r\n";
    client.deliver("a@sender.test", &["box@team.test"], &format!("{forged}{}", mail("forged", "Hi"))).await;
    let mails = door.mails(&team).await;
    let text = String::from_utf8(door.raw(&team, &mails[0].0.blob).await.to_vec()).unwrap();
    assert!(!text.contains("bank.test") && !text.contains("dmarc=pass"), "{text}");
    assert!(text.contains("other.test; spf=fail"));
    assert_eq!(mails[0].1.verified_domain, None);
}

#[tokio::test]
async fn a_mail_that_goes_round_in_circles_is_refused() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    let hops = "Received: from a by b; Tue, 1 Sep 2026 10:00:00 +0000\r\n".repeat(51);
    client.submit("a@sender.test", &["box@team.test"], &format!("{hops}{}", mail("loop", "Hi"))).await;
    client.expect("554 5.4.6").await;
    assert_eq!(door.mails(&team).await.len(), 0);
}

#[tokio::test]
async fn the_test_string_for_spam_goes_to_the_junk_folder() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    let gtube = ["XJS*C4JDBQADN1.NSBN3*2IDNEN", "*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"].concat();
    client.deliver("a@sender.test", &["box@team.test"], &format!("{}{gtube}\r\n", mail("spam", "Buy"))).await;
    let (facts, _) = &door.mails(&team).await[0];
    assert!(facts.is_spam && facts.folder == Folder::Junk && facts.spam_score >= 1000, "{facts:?}");
    assert!(facts.spam_rules.iter().any(|rule| rule == "GTUBE"));
}

#[tokio::test]
async fn replies_meet_in_the_thread_of_what_they_answer_in_any_order() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    door.mailbox(&team, "other@team.test").await;
    let mut client = door.hello().await;
    let reply = |id: &str| {
        format!("References: <root@sender.test>\r\nIn-Reply-To: <root@sender.test>\r\n{}", mail(id, "Re: Plan"))
    };
    client.deliver("a@sender.test", &["box@team.test"], &reply("r1")).await;
    client.deliver("a@sender.test", &["box@team.test"], &mail("root", "Plan")).await;
    client.deliver("b@sender.test", &["box@team.test", "other@team.test"], &reply("r2")).await;
    let mails = door.mails(&team).await;
    let threads: Vec<_> = mails.iter().map(|(facts, _)| (facts.mailbox.clone(), facts.thread.clone())).collect();
    assert_eq!(threads.len(), 4);
    let of = |place: usize| &threads[place];
    let mut in_first: Vec<_> = threads.iter().filter(|(mailbox, _)| *mailbox == of(0).0).map(|(_, t)| t).collect();
    in_first.dedup();
    assert_eq!(in_first.len(), 1, "one thread in the mailbox");
    let elsewhere = threads.iter().find(|(mailbox, _)| *mailbox != of(0).0).unwrap();
    assert_ne!(elsewhere.1, of(0).1, "another mailbox has its own");
}

#[tokio::test]
async fn threads_are_found_by_the_book() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    let mailbox = door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    let with = |id: &str, subject: &str, fields: &str| {
        mail(id, subject).replace("Message-ID:", &format!("{fields}Message-ID:"))
    };
    let no_id = mail("x", "Bare words only").replace("Message-ID: <x@sender.test>\r\n", "");
    let mails = [
        // A child is here before its parent, and a grandchild that only names both of them.
        ("child", with("child", "Re: Budget of spring", "In-Reply-To: <parent@sender.test>\r\n"), 'a'),
        ("parent", mail("parent", "Budget of spring"), 'a'),
        (
            "grandchild",
            with("grandchild", "Something else now", "References: <parent@sender.test> <child@sender.test>\r\n"),
            'a',
        ),
        // The same subject without a prefix begins anew; with one and nothing else it goes to the latest.
        ("new", mail("new", "Budget of spring"), 'b'),
        ("by subject", with("subject", "AW: Budget of spring", ""), 'b'),
        // The same Message-ID over another content: two messages, one thread.
        ("twin", mail("parent", "Budget of spring, corrected"), 'a'),
        // No Message-ID at all, twice with different words: each gets one of its own.
        ("no id", no_id.clone(), 'c'),
        ("no id either", no_id.replace("Hello", "Howdy"), 'd'),
        // Two threads that nothing connected until somebody answers both.
        ("left", with("left", "Left", "In-Reply-To: <l@sender.test>\r\n"), 'e'),
        ("right", with("right", "Right", "In-Reply-To: <r@sender.test>\r\n"), 'e'),
        ("both", with("both", "Both", "References: <l@sender.test> <r@sender.test>\r\n"), 'e'),
    ];
    for (_, content, _) in &mails {
        client.deliver("ann@sender.test", &["box@team.test"], content).await;
        door.projected(&team).await;
    }
    let mut threads = std::collections::BTreeMap::new();
    for ((facts, _), (name, _, thread)) in door.mails(&team).await.iter().zip(&mails) {
        let row = projections::messages::get(&door.views, &team, &mailbox, &facts.message).await.unwrap().unwrap();
        let expected = threads.entry(*thread).or_insert_with(|| row.thread.clone());
        assert_eq!(row.thread, *expected, "{name}");
    }
    let apart: std::collections::BTreeSet<_> = threads.values().collect();
    assert_eq!(apart.len(), threads.len(), "different conversations are different threads");
}

#[tokio::test]
async fn a_mail_without_an_author_or_with_several_is_taken() {
    let door = Door::verifying(Store::Memory, config(), None, Some(Arc::new(Zone::new()))).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    let none = mail("none", "Hi").replace("From: Ann <ann@sender.test>\r\n", "");
    let two = mail("two", "Hi").replace("From: Ann", "From: Bob <bob@other.test>\r\nFrom: Ann");
    for content in [&none, &two] {
        client.deliver("a@sender.test", &["box@team.test"], content).await;
    }
    let mails = door.mails(&team).await;
    assert_eq!(mails[0].1.from, None);
    for (facts, people) in &mails {
        assert!(["permerror", "fail", "none"].contains(&facts.authentication.dmarc.as_str()), "{facts:?}");
        assert_eq!(people.verified_domain, None);
    }
}

#[tokio::test]
async fn with_a_resolver_the_origin_is_checked_and_written_on_top() {
    let zone = Zone::new()
        .with_txt("sender.test", "v=spf1 ip4:127.0.0.1 -all")
        .with_txt("_dmarc.sender.test", "v=DMARC1; p=reject")
        .with_txt("other.test", "v=spf1 -all")
        .with_txt("_dmarc.other.test", "v=DMARC1; p=reject")
        .with_ptr("127.0.0.1".parse().unwrap(), "mx.sender.test")
        .with_address("mx.sender.test", "127.0.0.1".parse().unwrap());
    let door = Door::verifying(Store::Memory, config(), None, Some(Arc::new(zone))).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    client.deliver("ann@sender.test", &["box@team.test"], &mail("true", "Hi")).await;
    let forged = mail("forged", "Hi").replace("ann@sender.test", "ceo@other.test");
    client.deliver("ann@sender.test", &["box@team.test"], &forged).await;
    // A large one is checked all the same.
    client
        .deliver("ann@sender.test", &["box@team.test"], &format!("{}{}", mail("big", "Hi"), "x\r\n".repeat(50_000)))
        .await;
    let mails = door.mails(&team).await;
    let (facts, people) = &mails[0];
    assert_eq!((facts.authentication.spf.as_str(), facts.authentication.dmarc.as_str()), ("pass", "pass"));
    assert_eq!(people.verified_domain.as_deref(), Some("sender.test"));
    let text = String::from_utf8(door.raw(&team, &facts.blob).await.to_vec()).unwrap();
    assert!(
        text.starts_with("Return-Path: <ann@sender.test>\r\nAuthentication-Results: mx.test;\r\n iprev=pass"),
        "{text}"
    );
    assert!(text.contains("Received: from client.test (mx.sender.test [127.0.0.1])"), "{text}");
    let (facts, people) = &mails[1];
    assert_eq!((facts.authentication.dmarc.as_str(), people.verified_domain.as_deref()), ("fail", None));
    assert!(facts.is_spam && facts.spam_rules.iter().any(|rule| rule == "DMARC_FAIL_POLICY"), "{facts:?}");
    assert_eq!(mails[2].0.authentication.dmarc, "pass");
}

#[tokio::test]
async fn forged_mail_is_refused_where_every_recipients_domain_wants_that() {
    let zone = || {
        Zone::new()
            .with_txt("other.test", "v=spf1 -all")
            .with_txt("_dmarc.other.test", "v=DMARC1; p=reject")
            .with_txt("mild.test", "v=spf1 -all")
            .with_txt("_dmarc.mild.test", "v=DMARC1; p=quarantine")
            .with_txt("trying.test", "v=spf1 -all")
            .with_txt("_dmarc.trying.test", "v=DMARC1; p=reject; t=y")
            .with_failure("_dmarc.broken.test")
    };
    let forged = |author: &str| mail("forged", "Hi").replace("ann@sender.test", &format!("ceo@{author}"));
    for (wanted, strict, mixed, plain) in [
        (vec!["strict.test".to_owned()], "550 5.7.26", "250", "250"),
        (vec!["*".to_owned()], "550 5.7.26", "550 5.7.26", "550 5.7.26"),
        (vec![], "250", "250", "250"),
    ] {
        let config = Config { verify_senders: true, dmarc_reject_domains: wanted.clone(), ..config() };
        let door = Door::verifying(Store::Memory, config, None, Some(Arc::new(zone()))).await;
        let team = door.team("strict.test").await;
        door.domain(&team, "plain.test", Mode::SendReceive).await;
        door.mailbox(&team, "box@strict.test").await;
        door.mailbox(&team, "box@plain.test").await;
        let mut client = door.hello().await;
        for (to, expected) in [
            (&["box@strict.test"][..], strict),
            (&["box@strict.test", "box@plain.test"], mixed),
            (&["box@plain.test"], plain),
        ] {
            client.submit("x@other.test", to, &forged("other.test")).await;
            let reply = client.reply().await;
            assert!(reply.starts_with(expected), "{wanted:?} {to:?}: {reply}");
        }
        // What is taken all the same says what it is.
        assert!(door.mails(&team).await.iter().all(|(facts, _)| facts.is_spam && facts.authentication.dmarc == "fail"));
        // Milder policies, a domain that only tries, a policy that cannot be looked up: never refused.
        for author in ["mild.test", "trying.test", "broken.test", "none.test"] {
            client.deliver("x@other.test", &["box@strict.test"], &forged(author)).await;
        }
    }
}

#[tokio::test]
async fn a_reply_finds_its_thread_through_any_mail_of_it_or_by_its_subject() {
    let door = Door::open(Store::Memory).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.hello().await;
    let subject = "Quarterly figures for the board";
    let to_box = ["box@team.test"];
    client.deliver("a@sender.test", &to_box, &mail("one", subject)).await;
    let answer = |id: &str, parent: &str| format!("In-Reply-To: <{parent}@sender.test>\r\n{}", mail(id, "Re: x"));
    client.deliver("a@sender.test", &to_box, &answer("two", "one")).await;
    door.projected(&team).await;
    // It names only its parent, which is no root.
    client.deliver("a@sender.test", &to_box, &answer("three", "two")).await;
    // It names nothing, as some programs do.
    client.deliver("a@sender.test", &to_box, &mail("four", &format!("AW: {subject}"))).await;
    // A new conversation under the same subject; a reply from somebody who had no part in it.
    client.deliver("a@sender.test", &to_box, &mail("five", subject)).await;
    let stranger = mail("six", &format!("Re: {subject}")).replace("ann@sender.test", "eve@stranger.test");
    client.deliver("e@stranger.test", &to_box, &stranger).await;
    let threads: Vec<_> = door.mails(&team).await.into_iter().map(|(facts, _)| facts.thread).collect();
    assert!(threads[..4].iter().all(|thread| *thread == threads[0]), "{threads:?}");
    assert_ne!(threads[4], threads[0]);
    assert_ne!(threads[5], threads[0]);
}
