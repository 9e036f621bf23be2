//! What comes back: reports at return paths and in mailboxes.

use domain::bounce::{Category, Source};
use domain::id::{OutboundId, TeamId};
use domain::outbound::report::Report;
use domain::outbound::{BeginAttempt, Event as OutboundEvent, Outcome, RecordResults, Results, ReturnPath, Status};
use domain::{Actor, Event, StreamId, Versioned, suppression};
use eventlog::Submission;

use super::harness::{Office, hand_over, id_in, mail};
use crate::harness::{Client, STORES, Store};

impl Office {
    /// Hands a mail in as a mailbox and has it carried out: taken by a provider, or by the recipients' servers.
    async fn sent(&self, team: &TeamId, secret: &str, to: &[&str], delivered: bool) -> OutboundId {
        self.sent_at(team, secret, to, delivered, self.door.allot.now()).await
    }

    async fn sent_at(&self, team: &TeamId, secret: &str, to: &[&str], delivered: bool, at: i64) -> OutboundId {
        let mut client = self.login(secret).await;
        let from = "box@a.test";
        let content = mail(&format!("m{}", self.head(team).await), from);
        let id = id_in(&hand_over(&mut client, from, to, &content).await);
        let account = self.door.log.state::<Versioned<domain::routing::Routing>>(team, &[StreamId::Routing]).await;
        let account = account.unwrap().accounts.keys().next().unwrap().clone();
        let state = self.state(team, &id).await;
        let numbers: Vec<u8> = (0..u8::try_from(to.len()).unwrap()).collect();
        self.door.run(team, BeginAttempt::of(id.clone(), &state, account, numbers.clone())).await;
        let results = Results { recipients: numbers, outcome: Outcome::Taken { delivered }, report: Report::default() };
        let state = self.state(team, &id).await;
        let record = RecordResults::of(id.clone(), &state, 1, vec![results]);
        self.door.log.transact(Submission::new(team.clone(), at, Actor::Operator, "test", record)).await.unwrap();
        id
    }

    fn return_path(&self, team: &TeamId, id: &OutboundId, recipient: Option<u8>) -> String {
        let key = self.app.auth.pepper().return_path_key();
        ReturnPath::token(team, id, recipient).address(&key, "bounce.test").unwrap().to_string()
    }

    /// Brings a mail to the receiving door; returns the answer to it, or to the recipient that is refused.
    async fn bring(&self, from: &str, to: &str, content: &str) -> String {
        let mut client: Client<_> = self.door.hello().await;
        client.say(&format!("MAIL FROM:<{from}>"), "250").await;
        client.send(format!("RCPT TO:<{to}>\r\n")).await;
        let reply = client.reply().await;
        if !reply.starts_with("250") {
            return reply;
        }
        client.say("DATA", "354").await;
        client.send(format!("{}\r\n.\r\n", content.replace('\n', "\r\n"))).await;
        client.reply().await
    }

    async fn status(&self, team: &TeamId, id: &OutboundId, number: u8) -> Status {
        self.state(team, id).await.recipient(number).unwrap().status
    }

    /// Returns whether an address is on the suppression list.
    async fn suppressed(&self, team: &TeamId, address: &str) -> bool {
        let address = self.app.outbox.address(team, &address.parse().unwrap());
        let listed: Versioned<suppression::Suppression> =
            self.door.log.state(team, &[StreamId::Suppression(address)]).await.unwrap();
        listed.stops(suppression::Purpose::Transactional, None, false, self.door.allot.now()).is_some()
    }
}

/// Returns a report with one block for each of (recipient, action, status, diagnostic), and a header of the mail.
fn dsn(blocks: &[(&str, &str, &str, &str)], returned: &str) -> String {
    let mut status = String::from("Reporting-MTA: dns; mx.example.net\n");
    for (recipient, action, code, diagnostic) in blocks {
        status.push_str(&format!(
            "\nFinal-Recipient: rfc822; {recipient}\nAction: {action}\nStatus: {code}\n\
             Remote-MTA: dns; mx.example.net\nDiagnostic-Code: smtp; {diagnostic}\n"
        ));
    }
    format!(
        "From: Mail Delivery System <MAILER-DAEMON@mx.example.net>\nTo: x@bounce.test\nSubject: Undelivered Mail\n\
         Message-ID: <{}@mx.example.net>\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\n\n--b\n\nYour mail.\n\n--b\n\
         Content-Type: message/delivery-status\n\n{status}\n--b\nContent-Type: text/rfc822-headers\n\n{returned}\n--b--",
        blocks.len() + status.len() + returned.len()
    )
}

fn gone(recipient: &str) -> (&str, &'static str, &'static str, &'static str) {
    (recipient, "failed", "5.1.1", "550 5.1.1 no such user")
}

#[tokio::test]
async fn a_report_at_a_return_path_bounces_its_recipient_even_after_delivery() {
    for store in STORES {
        for delivered in [false, true] {
            let office = Office::open(store).await;
            let team = office.team("a.test").await;
            let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
            let to = ["bob@example.net", "carl@example.net"];
            let id = office.sent(&team, &secret, &to, delivered).await;
            let path = office.return_path(&team, &id, Some(1));
            // The mail was forwarded: the report names an address that was never written to.
            let report = dsn(&[gone("carl@forwarded.example")], "Subject: Hello");
            let before = office.head(&team).await;
            let reply = office.bring("", &path.to_uppercase(), &report).await;
            assert!(reply.starts_with("250"), "{reply}");
            assert_eq!(office.names(&team, before).await[..2], ["outbound.bounced", "suppression.added"]);
            let record = office.door.log.read(&team, before, 1).await.unwrap().remove(0);
            let Event::Outbound(OutboundEvent::Bounced(bounced)) = &record.event else { panic!("{record:?}") };
            assert_eq!((bounced.recipient, bounced.late, bounced.source), (1, delivered, Source::Dsn));
            assert_eq!(bounced.verdict.category, Category::UserUnknown);
            assert_eq!(bounced.personal.known().unwrap().remote_mta.as_deref(), Some("mx.example.net"));
            assert_eq!(office.status(&team, &id, 1).await, Status::Bounced);
            assert_ne!(office.status(&team, &id, 0).await, Status::Bounced);
            assert!(office.suppressed(&team, "carl@example.net").await);
            // Told again, nothing changes; and nobody was answered.
            let head = office.head(&team).await;
            assert!(office.bring("", &path, &report).await.starts_with("250"));
            assert_eq!(office.head(&team).await, head);
            assert_eq!(office.door.mails(&team).await.len(), 0);
        }
    }
}

#[tokio::test]
async fn one_return_path_for_all_recipients_is_told_apart_by_the_report() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    let id = office.sent(&team, &secret, &["bob@example.net", "carl@example.net", "dora@example.net"], false).await;
    let blocks = [
        ("Bob@example.net", "delayed", "4.4.1", "connection timed out"),
        ("carl@example.net", "delivered", "2.0.0", "250 ok"),
        ("dora@example.net", "failed", "4.2.2", "452 4.2.2 mailbox full"),
        gone("stranger@example.net"),
    ];
    let before = office.head(&team).await;
    let path = office.return_path(&team, &id, None);
    assert!(office.bring("", &path, &dsn(&blocks, "")).await.starts_with("250"));
    let names = office.names(&team, before).await;
    assert_eq!(names[..3], ["outbound.delayed", "outbound.delivered", "outbound.bounced"]);
    // A full mailbox may have room again.
    assert!(!office.suppressed(&team, "dora@example.net").await);
}

#[tokio::test]
async fn given_up_after_temporary_failures_is_no_proof_that_an_address_does_not_exist() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    let id = office.sent(&team, &secret, &["bob@example.net"], false).await;
    let report = dsn(&[("bob@example.net", "failed", "4.1.1", "450 4.1.1 user unknown")], "");
    assert!(office.bring("", &office.return_path(&team, &id, Some(0)), &report).await.starts_with("250"));
    assert_eq!(office.status(&team, &id, 0).await, Status::Bounced);
    assert!(!office.suppressed(&team, "bob@example.net").await);
}

#[tokio::test]
async fn a_forged_return_path_is_refused_and_changes_nothing() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    let id = office.sent(&team, &secret, &["bob@example.net"], false).await;
    let path = office.return_path(&team, &id, Some(0));
    let before = office.head(&team).await;
    let mut forged = path.clone();
    forged.replace_range(40..41, if &path[40..41] == "a" { "b" } else { "a" });
    let report = dsn(&[gone("bob@example.net")], "");
    for to in [forged.as_str(), "b+x@bounce.test", "bob@bounce.test", "postmaster@bounce.test"] {
        assert!(office.bring("", to, &report).await.starts_with("550 5.1.1"), "{to}");
    }
    // No report at all: a person is told, a machine is not.
    let person = "From: Eve <eve@example.net>\nSubject: Hello\nMessage-ID: <p@example.net>\n\nCan you read this?\n";
    assert!(office.bring("eve@example.net", &path, person).await.starts_with("550 5.7.1"));
    let machine = "From: Bob <bob@example.net>\nSubject: Out of office\nAuto-Submitted: auto-replied\n\nAway.\n";
    assert!(office.bring("", &path, machine).await.starts_with("250"));
    // A token of a mail that is on no record.
    let unknown = office.return_path(&team, &OutboundId::new(1, [1; 9]), Some(0));
    assert!(office.bring("", &unknown, &report).await.starts_with("250"));
    assert_eq!(office.head(&team).await, before);
}

#[tokio::test]
async fn a_report_in_the_authors_mailbox_counts_and_one_in_anybody_elses_does_not() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    office.mailbox(&team, "other@a.test").await;
    let to = ["bob@example.net", "carl@example.net"];
    let id = office.sent(&team, &secret, &to, false).await;
    // A provider that changed the Message-ID and left our own field alone.
    let returned =
        format!("From: box@a.test\nMessage-ID: <changed@provider.example>\nX-Postlog-ID: {id}\nSubject: Hello");
    let report = dsn(&[gone("carl@example.net")], &returned);
    assert!(office.bring("", "other@a.test", &report).await.starts_with("250"));
    assert_eq!(office.status(&team, &id, 1).await, Status::Sent);
    assert!(office.bring("", "box@a.test", &report).await.starts_with("250"));
    assert_eq!(office.status(&team, &id, 1).await, Status::Bounced);
    assert_eq!(office.status(&team, &id, 0).await, Status::Sent);
    // Whoever reads the mailbox sees the report as well.
    assert_eq!(office.door.mails(&team).await.len(), 2);
    // Brought again after a lost answer: one mail, one bounce.
    let head = office.head(&team).await;
    assert!(office.bring("", "box@a.test", &report).await.starts_with("250"));
    assert_eq!(office.names(&team, head).await, ["message.duplicate_received"]);
    // Ids of other teams' mail mean nothing here.
    let foreign = office.team("b.test").await;
    office.mailbox(&foreign, "box@b.test").await;
    let report = dsn(&[gone("bob@example.net")], &returned);
    assert!(office.bring("", "box@b.test", &report).await.starts_with("250"));
    assert_eq!(office.status(&team, &id, 0).await, Status::Sent);
}

#[tokio::test]
async fn complaints_are_recorded_where_the_mail_proves_to_be_ours() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    let id = office.sent(&team, &secret, &["bob@example.net", "carl@example.net"], true).await;
    let arf = |feedback: &str, path: &str| {
        format!(
            "From: fbl@isp.example\nTo: fbl@bounce.test\nSubject: FW: Hello\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nAn abuse report.\n--b\n\
             Content-Type: message/feedback-report\n\nFeedback-Type: {feedback}\nUser-Agent: ISP/1.0\nVersion: 1\n\
             Original-Mail-From: <{path}>\nOriginal-Rcpt-To: <redacted@example.net>\n--b\n\
             Content-Type: message/rfc822\n\nFrom: box@a.test\nTo: undisclosed@example.net\nSubject: Hello\n\nHello\n--b--"
        )
    };
    let path = office.return_path(&team, &id, Some(1));
    let before = office.head(&team).await;
    // Who may have written it says nothing.
    assert!(
        office.bring("fbl@isp.example", "fbl@bounce.test", &arf("abuse", "box@a.test")).await.starts_with("550 5.7.1")
    );
    // Good news, and news for the operator.
    assert!(office.bring("fbl@isp.example", "fbl@bounce.test", &arf("auth-failure", &path)).await.starts_with("250"));
    assert_eq!(office.head(&team).await, before);
    assert!(office.bring("fbl@isp.example", "fbl@bounce.test", &arf("abuse", &path)).await.starts_with("250"));
    assert_eq!(office.names(&team, before).await, ["outbound.complained", "suppression.added"]);
    assert!(office.suppressed(&team, "carl@example.net").await);
    assert!(!office.suppressed(&team, "bob@example.net").await);
    // In any order and any number of times: one entry.
    let report = dsn(&[gone("carl@example.net")], "");
    assert!(office.bring("", &path, &report).await.starts_with("250"));
    assert!(office.bring("fbl@isp.example", &path, &arf("abuse", &path)).await.starts_with("250"));
    assert_eq!(office.status(&team, &id, 1).await, Status::Bounced);
}

#[tokio::test]
async fn a_report_that_names_no_mail_counts_where_one_mail_alone_can_be_meant() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    office.mailbox(&team, "eve@a.test").await;
    let to = ["bob@example.net", "carl@example.net"];
    let id = office.sent(&team, &secret, &to, false).await;
    let report = |who: &str| dsn(&[gone(who)], "Subject: Hello");
    // Somebody's word, a stranger's mail, another team's mailbox, a mail that we did not send.
    let other = office.team("b.test").await;
    office.mailbox(&other, "box@b.test").await;
    let quoting = dsn(&[gone("bob@example.net")], "Message-ID: <other@client.test>\nSubject: Hello");
    let rows = [
        ("eve@example.net", "box@a.test", report("bob@example.net")),
        ("", "box@a.test", report("dora@example.net")),
        ("", "box@b.test", report("bob@example.net")),
        ("", "box@a.test", quoting),
        ("", "box@a.test", dsn(&[gone("bob@example.net"), gone("dora@example.net")], "Subject: Hello")),
    ];
    for (from, at, report) in &rows {
        assert!(office.bring(from, at, report).await.starts_with("250"), "{at}");
        assert_eq!(office.status(&team, &id, 0).await, Status::Sent, "{from} {at}");
    }
    let before = office.head(&team).await;
    assert!(office.bring("", "box@a.test", &report("Bob@example.net")).await.starts_with("250"));
    assert_eq!(office.status(&team, &id, 0).await, Status::Bounced);
    assert_eq!(office.status(&team, &id, 1).await, Status::Sent);
    assert!(office.suppressed(&team, "bob@example.net").await);
    assert!(office.names(&team, before).await.contains(&"outbound.bounced".to_owned()));
}

#[tokio::test]
async fn a_report_that_may_mean_two_mails_or_an_old_one_says_nothing() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    let week = 7 * 24 * 3_600 * 1_000_000;
    let old = office.sent_at(&team, &secret, &["bob@example.net"], false, office.door.allot.now() - week - 1).await;
    let there = office.sent(&team, &secret, &["bob@example.net"], true).await;
    let report = dsn(&[gone("bob@example.net")], "Subject: Hello");
    assert!(office.bring("", "box@a.test", &report).await.starts_with("250"));
    let statuses = [office.status(&team, &old, 0).await, office.status(&team, &there, 0).await];
    assert_eq!(statuses, [Status::Sent, Status::Delivered], "too old, and delivered with a return path of its own");
    let one = office.sent(&team, &secret, &["bob@example.net"], false).await;
    let two = office.sent(&team, &secret, &["bob@example.net"], false).await;
    let report = dsn(&[gone("bob@example.net")], "Subject: Hello again");
    assert!(office.bring("", "box@a.test", &report).await.starts_with("250"));
    assert_eq!(
        [office.status(&team, &one, 0).await, office.status(&team, &two, 0).await],
        [Status::Sent, Status::Sent]
    );
    // The Message-ID that the client gave it tells them apart.
    let id = office.state(&team, &two).await.letter.as_ref().unwrap().rfc5322_message_id.clone();
    let report = dsn(&[gone("bob@example.net")], &format!("Message-ID: <{id}>\nSubject: Hello again"));
    assert!(office.bring("", "box@a.test", &report).await.starts_with("250"));
    assert_eq!(
        [office.status(&team, &one, 0).await, office.status(&team, &two, 0).await],
        [Status::Sent, Status::Bounced]
    );
}

#[tokio::test]
async fn a_mail_to_the_address_that_unsubscribes_does_so_once_for_the_recipient_it_names() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, _, secret) = office.mailbox(&team, "box@a.test").await;
    let id = office.sent(&team, &secret, &["bob@example.net", "carl@example.net"], true).await;
    let key = office.app.auth.pepper().return_path_key();
    let address = ReturnPath::token(&team, &id, Some(1)).unsubscribe_address(&key, "bounce.test").unwrap().to_string();
    let before = office.head(&team).await;
    let wish = "From: Carl <carl@example.net>\nSubject: unsubscribe\nMessage-ID: <u@example.net>\n\n\n";
    let mut forged = address.clone();
    forged.replace_range(30..31, if &address[30..31] == "a" { "b" } else { "a" });
    assert!(office.bring("carl@example.net", &forged, wish).await.starts_with("550 5.1.1"));
    let as_return_path = address.replacen('u', "b", 1);
    assert!(office.bring("", &as_return_path, &dsn(&[gone("carl@example.net")], "")).await.starts_with("550 5.1.1"));
    // A report is nobody's wish.
    assert!(office.bring("", &address, &dsn(&[gone("carl@example.net")], "")).await.starts_with("250"));
    assert_eq!(office.head(&team).await, before);
    for _ in 0..3 {
        // From wherever it comes: people have several addresses, and the address in the mail is the proof.
        assert!(office.bring("c@elsewhere.example", &address.to_uppercase(), wish).await.starts_with("250"));
    }
    assert_eq!(office.names(&team, before).await, ["outbound.unsubscribed", "suppression.added"]);
    let listed = |email: &str| {
        let address = office.app.outbox.address(&team, &email.parse().unwrap());
        let log = office.door.log.clone();
        let team = team.clone();
        async move {
            let listed: Versioned<suppression::Suppression> =
                log.state(&team, &[StreamId::Suppression(address)]).await.unwrap();
            listed.stops(suppression::Purpose::Bulk, None, false, 0).is_some()
        }
    };
    assert!(listed("carl@example.net").await && !listed("bob@example.net").await);
    assert!(!office.suppressed(&team, "carl@example.net").await, "transactional mail goes on");
    assert_eq!(office.door.mails(&team).await.len(), 0, "it is in nobody's mailbox");
    // A mail that is on no record.
    let unknown = ReturnPath::token(&team, &OutboundId::new(1, [1; 9]), Some(0));
    let unknown = unknown.unsubscribe_address(&key, "bounce.test").unwrap().to_string();
    assert!(office.bring("carl@example.net", &unknown, wish).await.starts_with("250"));
}
