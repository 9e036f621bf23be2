//! Mails: per-recipient results, loss at each stage, negotiation, reuse.

use crate::script::*;
use mail::bounce::{Category, Stage};
use mail::smtp::client::{ClientConfig, LocalRefusal, RecipientResult};
use mail::smtp::{Notify, OriginalRecipient, RcptParameters, Return};

const BODY: &str = "Subject: x\r\n\r\n.dot\r\nend\r\n";
const DATA: Peer = Peer::Says("354 go\r\n");
const TAKEN: Peer = Peer::Says("250 2.0.0 queued as 1\r\n");

fn one_by_one() -> ClientConfig {
    ClientConfig { pipelining: false, ..config() }
}

fn results(config: &ClientConfig, recipients: &[&str], peer: &[Peer]) -> Vec<String> {
    let seen = play(config, &[mail(recipients, BODY)], peer);
    assert_eq!(seen.outcomes.len(), 1, "{seen:?}");
    words(&seen.outcomes[0])
}

#[test]
fn a_mail_goes_out_in_one_group_of_commands() {
    let group = Peer::Says("250 ok\r\n250 ok\r\n550 5.1.1 no such user\r\n354 go\r\n");
    let seen =
        play(&config(), &[mail(&["a@remote.example", "b@remote.example"], BODY)], &[GREETING, EHLO, group, TAKEN, BYE]);
    let expected = "EHLO mail.sender.example\r\nMAIL FROM:<b+1@sender.example> SIZE=25\r\nRCPT TO:<a@remote.example>\r\n\
                    RCPT TO:<b@remote.example>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\nend\r\n.\r\nQUIT\r\n";
    assert_eq!(seen.said, expected);
    assert_eq!(words(&seen.outcomes[0]), ["accepted 250", "rejected 550 at Rcpt for good"]);
    let classified = seen.outcomes[0].recipients[1].classify().unwrap();
    assert_eq!(classified.category, Category::UserUnknown);
    assert!(seen.waits.contains(&timeouts().end_of_data));
}

#[test]
fn without_pipelining_each_command_waits_for_its_reply() {
    let ok = Peer::Says("250 ok\r\n");
    let peer = [GREETING, PLAIN_EHLO, ok, Peer::Says("450 4.2.1 busy\r\n"), ok, DATA, TAKEN, BYE];
    let seen = play(&config(), &[mail(&["a@remote.example", "b@remote.example"], BODY)], &peer);
    assert_eq!(words(&seen.outcomes[0]), ["rejected 450 at Rcpt for now", "accepted 250"]);
    assert!(seen.said.contains("MAIL FROM:<b+1@sender.example>\r\nRCPT"), "SIZE is not offered: {}", seen.said);
}

#[test]
fn where_nobody_is_accepted_nothing_is_sent() {
    let none = [GREETING, EHLO, Peer::Says("250 ok\r\n550 5.1.1 no\r\n554 5.5.1 no valid recipients\r\n"), BYE];
    assert_eq!(results(&config(), &["a@remote.example"], &none), ["rejected 550 at Rcpt for good"]);
    // A peer that says 354 all the same gets the end alone.
    let open = [GREETING, EHLO, Peer::Says("250 ok\r\n550 no\r\n354 go\r\n"), Peer::Says("554 nobody\r\n"), BYE];
    let seen = play(&config(), &[mail(&["a@remote.example"], BODY)], &open);
    assert!(seen.said.contains("DATA\r\n.\r\n") && !seen.said.contains("Subject"), "{}", seen.said);
    assert_eq!(words(&seen.outcomes[0]), ["rejected 550 at Rcpt for good"]);
    let sender = [GREETING, EHLO, Peer::Says("550 5.7.1 no\r\n503 no\r\n503 no\r\n"), BYE];
    assert_eq!(results(&config(), &["a@remote.example"], &sender), ["rejected 550 at Mail for good"]);
    let sender = [GREETING, PLAIN_EHLO, Peer::Says("451 4.3.0 later\r\n"), BYE];
    assert_eq!(results(&config(), &["a@remote.example"], &sender), ["rejected 451 at Mail for now"]);
}

#[test]
fn loss_is_safe_before_the_end_and_uncertain_after_it() {
    let ok = Peer::Says("250 ok\r\n");
    let to_end = [GREETING, PLAIN_EHLO, ok, ok, DATA];
    for (stage, lost_after) in [(Stage::Mail, 2), (Stage::Rcpt, 3), (Stage::Data, 4)] {
        for (last, cause) in [(Peer::Closes, "Lost"), (Peer::Sleeps, "TimedOut"), (Peer::Says("%&!\r\n"), "Garbage")] {
            let peer = [&to_end[..lost_after], &[last]].concat();
            let seen = play(&one_by_one(), &[mail(&["a@remote.example"], BODY)], &peer);
            assert_eq!(words(&seen.outcomes[0]), [format!("not sent: {cause}")], "{stage:?}");
            let RecipientResult::NotSent(failure) = &seen.outcomes[0].recipients[0] else { panic!() };
            assert_eq!(failure.stage, stage);
            assert!(seen.closed && seen.failures.is_empty());
        }
    }
    for (last, cause) in [(Peer::Closes, "Lost"), (Peer::Sleeps, "TimedOut"), (Peer::Says("what?\r\n"), "Garbage")] {
        let peer = [&to_end[..], &[last]].concat();
        assert_eq!(results(&one_by_one(), &["a@remote.example"], &peer), [format!("uncertain: {cause}")]);
    }
    // Half a reply is no reply.
    let half = [&to_end[..], &[Peer::Says("250 2.0"), Peer::Closes]].concat();
    assert_eq!(results(&one_by_one(), &["a@remote.example"], &half), ["uncertain: Lost"]);
}

#[test]
fn a_421_ends_the_connection_wherever_it_comes() {
    let bye = Peer::Says("421 4.3.2 going down\r\n");
    let ok = Peer::Says("250 ok\r\n");
    for (lost_after, expected) in
        [(2, "not sent: Reply"), (3, "not sent: Reply"), (4, "not sent: Reply"), (5, "rejected 421 at Data for now")]
    {
        let peer = [&[GREETING, PLAIN_EHLO, ok, ok, DATA][..lost_after], &[bye]].concat();
        let seen = play(&one_by_one(), &[mail(&["a@remote.example"], BODY), mail(&["b@remote.example"], BODY)], &peer);
        assert_eq!(words(&seen.outcomes[0]), [expected]);
        assert!(seen.closed && seen.outcomes.len() == 1, "no second mail on it");
    }
    // Between mails nobody asked for it.
    let mut client = mail::smtp::client::Client::new(config());
    client.feed(b"220 mx\r\n250 mx\r\n");
    while !matches!(client.next_action(), mail::smtp::client::Action::Ready) {}
    client.feed(b"421 4.4.2 idle\r\n");
    let mail::smtp::client::Action::Failed(failure) = client.next_action() else { panic!() };
    assert_eq!(failure.reply.unwrap().code, 421);
    assert!(client.submit(mail(&["a@remote.example"], BODY)).is_err());
}

#[test]
fn the_final_reply_is_for_everyone_accepted() {
    let group = Peer::Says("250 ok\r\n250 ok\r\n452 4.2.2 full\r\n354 go\r\n");
    let peer = [GREETING, EHLO, group, Peer::Says("554-5.7.1 spam\r\n554 5.7.1 really\r\n"), BYE];
    let found = results(&config(), &["a@remote.example", "b@remote.example"], &peer);
    assert_eq!(found, ["rejected 554 at Data for good", "rejected 452 at Rcpt for now"]);
    let too_many = Peer::Says("250 ok\r\n250 ok\r\n552 too many recipients\r\n354 go\r\n");
    let found = results(&config(), &["a@remote.example", "b@remote.example"], &[GREETING, EHLO, too_many, TAKEN, BYE]);
    assert_eq!(found, ["accepted 250", "rejected 552 at Rcpt for now"]);
    let early = [GREETING, EHLO, Peer::Says("250 ok\r\n250 ok\r\n354 go\r\n552 5.3.4 too much\r\n"), BYE];
    let seen = play(&config(), &[mail(&["a@remote.example"], &"x\r\n".repeat(30_000))], &early[..2]);
    assert_eq!(words(&seen.outcomes[0]), ["not sent: Lost"]);
}

#[test]
fn a_connection_is_used_again_and_cleaned_up_before() {
    let first = Peer::Says("250 ok\r\n250 ok\r\n354 go\r\n");
    let refused = Peer::Says("250 ok\r\n550 5.1.1 no\r\n554 no\r\n");
    let after_refusal = Peer::Says("250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    let mails = ["a", "b", "c"].map(|who| mail(&[&format!("{who}@remote.example")], BODY));
    let seen = play(&config(), &mails, &[GREETING, EHLO, first, TAKEN, refused, after_refusal, TAKEN, BYE]);
    let found: Vec<_> = seen.outcomes.iter().flat_map(words).collect();
    assert_eq!(found, ["accepted 250", "rejected 550 at Rcpt for good", "accepted 250"]);
    assert_eq!(seen.said.matches("RSET\r\n").count(), 1, "only where a transaction may be open");
}

#[test]
fn what_the_peer_cannot_take_is_not_offered() {
    let refused = |mail, expected: LocalRefusal, peer: &[Peer]| {
        let seen = play(&config(), &[mail], peer);
        assert_eq!(seen.outcomes[0].recipients[0], RecipientResult::Refused(expected), "{seen:?}");
        assert!(!seen.said.contains("MAIL"), "{}", seen.said);
        seen.outcomes[0].recipients[0].classify().unwrap()
    };
    let small = Peer::Says("250-mx\r\n250 SIZE 10\r\n");
    let found = refused(
        mail(&["a@remote.example"], BODY),
        LocalRefusal::TooLarge { octets: 25, most: 10 },
        &[GREETING, small, BYE],
    );
    assert_eq!(
        (found.category, found.smtp_code, found.enhanced_code.as_deref()),
        (Category::MessageTooLarge, Some(552), Some("5.3.4"))
    );
    let _ = refused(mail(&["a@remote.example"], "\u{e9}\r\n"), LocalRefusal::EightBit, &[GREETING, PLAIN_EHLO, BYE]);
    let _ = refused(mail(&["a@remote.example"], "a\nb\r\n"), LocalRefusal::LineEnds, &[GREETING, EHLO, BYE]);
    let found = refused(mail(&["j\u{fc}rgen@remote.example"], BODY), LocalRefusal::Smtputf8, &[GREETING, EHLO, BYE]);
    assert_eq!(found.enhanced_code.as_deref(), Some("5.6.7"));
    // The others are mailed all the same.
    let group = Peer::Says("250 ok\r\n250 ok\r\n354 go\r\n");
    let found =
        results(&config(), &["j\u{fc}rgen@remote.example", "b@remote.example"], &[GREETING, EHLO, group, TAKEN, BYE]);
    assert_eq!(found, ["refused", "accepted 250"]);
    let utf8 = Peer::Says("250-mx\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n");
    let ok = Peer::Says("250 ok\r\n");
    let seen = play(
        &config(),
        &[mail(&["j\u{fc}rgen@remote.example"], "\u{e9}\r\n")],
        &[GREETING, utf8, ok, ok, DATA, TAKEN, BYE],
    );
    assert!(seen.said.contains("MAIL FROM:<b+1@sender.example> BODY=8BITMIME SMTPUTF8\r\n"), "{}", seen.said);
}

#[test]
fn chunks_need_no_stuffing() {
    let chunking = ClientConfig { chunking: true, ..config() };
    let ehlo = Peer::Says("250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    let seen = play(
        &chunking,
        &[mail(&["a@remote.example"], BODY)],
        &[GREETING, ehlo, Peer::Says("250 ok\r\n250 ok\r\n"), TAKEN, BYE],
    );
    assert!(seen.said.contains(&format!("BDAT 25 LAST\r\n{BODY}QUIT")), "{}", seen.said);
    assert_eq!(words(&seen.outcomes[0]), ["accepted 250"]);
    let lost = [GREETING, ehlo, Peer::Says("250 ok\r\n250 ok\r\n"), Peer::Closes];
    assert_eq!(results(&chunking, &["a@remote.example"], &lost), ["uncertain: Lost"]);
}

#[test]
fn what_is_asked_of_reports_is_said_to_peers_that_offer_dsn_and_to_no_others() {
    let original = |address: &str| OriginalRecipient { address_type: "rfc822".into(), address: address.into() };
    let on = Notify::On { success: true, failure: false, delay: true };
    let mut asking = mail(&["a@remote.example", "b@remote.example", "c@remote.example"], BODY);
    (asking.ret, asking.envelope_id) = (Some(Return::Headers), Some("a b+c".to_owned()));
    asking.parameters = vec![
        RcptParameters { notify: Some(on), original: Some(original("A+x=y@old.example")) },
        RcptParameters { notify: Some(Notify::Never), original: Some(original(&"x".repeat(500))) },
    ];
    let replies = Peer::Says("250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    let offers = Peer::Says("250-mx.remote.example\r\n250-PIPELINING\r\n250 DSN\r\n");
    let seen = play(&config(), &[asking.clone()], &[GREETING, offers, replies, TAKEN, BYE]);
    let expected = "MAIL FROM:<b+1@sender.example> RET=HDRS ENVID=a+20b+2Bc\r\n\
                    RCPT TO:<a@remote.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;A+2Bx+3Dy@old.example\r\n\
                    RCPT TO:<b@remote.example> NOTIFY=NEVER\r\nRCPT TO:<c@remote.example>\r\n";
    assert!(seen.said.contains(expected), "{}", seen.said);
    let silent = Peer::Says("250-mx.remote.example\r\n250 PIPELINING\r\n");
    let seen = play(&config(), &[asking], &[GREETING, silent, replies, TAKEN, BYE]);
    let plain = "MAIL FROM:<b+1@sender.example>\r\nRCPT TO:<a@remote.example>\r\nRCPT TO:<b@remote.example>\r\n";
    assert!(seen.said.contains(plain), "{}", seen.said);
}
