//! Senders who asked for it are told by mail what became of theirs (RFC 3461), once, whenever a crash comes.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::Ordering;

use dispatcher::outbound::Filing;
use domain::Event as Any;
use domain::bounce::Source;
use domain::id::OutboundId;
use domain::outbound::report::Report;
use domain::outbound::{Event, Feedback, NoticeOutcome, Notices, Origin, RecordFeedback, Status};
use domain::provider::{Quotas, Transport};
use mail::smtp::{Notify, OriginalRecipient, RcptParameters, Return};

use crate::gate::Fate;
use crate::reactor::eventually;
use crate::server::{Manner, Server};
use crate::world::{SECOND, World};

async fn direct(manner: Manner) -> (World, Server) {
    let mut world = World::new().await;
    let server = Server::start(manner).await;
    world.config.direct_port = server.port;
    world.zone = mail::auth::Zone::default();
    for domain in ["example.net", "d1.example.org"] {
        world.zone = world.zone.with_mx(domain, 10, "mx.example.net");
    }
    world.zone = world.zone.with_address("mx.example.net", std::net::Ipv4Addr::LOCALHOST.into());
    world.account_by(&world.team, Transport::DirectMx, Quotas::default(), 100).await;
    (world, server)
}

/// Hands a mail in whose sender wants to hear of everything.
async fn asking(world: &World, to: &[&str]) -> OutboundId {
    let original = OriginalRecipient { address_type: "rfc822".into(), address: "robert@old.example".into() };
    let notify = Some(Notify::On { success: true, failure: true, delay: true });
    let recipients = to.iter().map(|_| RcptParameters { notify, original: Some(original.clone()) }).collect();
    let notices = Notices { ret: Some(Return::Full), envid: Some("QQ+1".into()), recipients };
    world
        .accept_with(&world.team, to, |command| (command.origin, command.notices) = (Origin::Smtp, Some(notices)))
        .await
}

/// Returns what became of the reports about a mail.
async fn outcomes(world: &World, id: &OutboundId) -> Vec<NoticeOutcome> {
    let records = world.log.read(&world.team, 0, 1_000).await.unwrap();
    let of = |event: &Any| match event {
        Any::Outbound(Event::NoticeSettled(e)) if e.mail.outbound == *id => Some(e.outcome.clone()),
        _ => None,
    };
    records.iter().filter_map(|record| of(&record.event)).collect()
}

fn has(report: &str, lines: &[&str]) {
    for line in lines {
        assert!(report.contains(&format!("{line}\r\n")), "{line}\n{report}");
    }
}

#[tokio::test]
async fn a_failure_is_filed_once_whenever_a_crash_comes() {
    for (event, fate) in [
        ("outbound.bounced", Fate::Lost),
        ("outbound.bounced", Fate::Written),
        ("outbound.notice_settled", Fate::Lost),
        ("outbound.notice_settled", Fate::Written),
    ] {
        let (world, _server) = direct(Manner { rcpt: vec![("bob@", "550 5.1.1 no bob")], ..Manner::default() }).await;
        world.gate.stop(event, fate);
        let reactor = world.start();
        let mail = asking(&world, &["bob@example.net"]).await;
        eventually("it is about to be written", || async { world.gate.has_stopped() }).await;
        reactor.crash().await;
        world.gate.open();
        let reactor = world.start();
        // What was lost with its attempt is tried again, as ever.
        if (event, fate) == ("outbound.bounced", Fate::Lost) {
            world.until(&mail, "deferred", |m| m.recipients[0].deferrals == 1).await;
            world.advance(61 * SECOND);
        }
        world.until(&mail, "told", |m| m.is_settled() && m.notices.is_empty() && m.notices_planned == 1).await;
        assert_eq!(outcomes(&world, &mail).await, [NoticeOutcome::Filed], "{event} {fate:?}");
        let reports = world.mailboxes.reports.lock().unwrap().clone();
        assert_eq!(reports.len(), 1, "{event} {fate:?}: {reports:?}");
        has(
            &reports[0],
            &[
                "From: Mail Delivery System <mailer-daemon@d1.example.org>",
                "To: <ann@d1.example.org>",
                "Auto-Submitted: auto-replied",
                "Original-Envelope-Id: QQ+1",
                "Original-Recipient: rfc822; robert@old.example",
                "Final-Recipient: rfc822; bob@example.net",
                "Action: failed",
                "Status: 5.1.1",
                "Remote-MTA: dns; mx.example.net",
                "Diagnostic-Code: smtp; 550 5.1.1 no bob",
            ],
        );
        assert!(reports[0].contains("\r\nHi\r\n"), "RET=FULL: {}", reports[0]);
        reactor.stop().await;
    }
}

#[tokio::test]
async fn pythons_parser_reads_a_report_as_what_it_is() {
    const SCRIPT: &str = "import sys\n\
        from email import message_from_bytes, policy\n\
        m = message_from_bytes(sys.stdin.buffer.read(), policy=policy.SMTP)\n\
        assert m.get_content_type() == 'multipart/report' and m.get_param('report-type') == 'delivery-status', m.keys()\n\
        assert m['Auto-Submitted'] == 'auto-replied' and m['References'] == m['In-Reply-To'], m.items()\n\
        text, status, mail = m.get_payload()\n\
        assert [p.get_content_type() for p in (text, status, mail)] == \
            ['text/plain', 'message/delivery-status', 'message/rfc822']\n\
        whole, bob, eve = status.get_payload()\n\
        assert whole['Original-Envelope-Id'] == 'QQ+1' and whole['Reporting-MTA'] == 'dns; localhost', whole.items()\n\
        for one, who in ((bob, 'bob'), (eve, 'eve')):\n\
        \x20   assert one['Final-Recipient'] == 'rfc822; ' + who + '@example.net', one.items()\n\
        \x20   assert one['Action'] == 'failed' and one['Status'] == '5.7.1', one.items()\n\
        \x20   assert one['Diagnostic-Code'] == 'smtp; 554 5.7.1 go away', one.items()\n\
        inner = mail.get_payload(0)\n\
        assert inner['Subject'] == 'Hello' and inner.get_content() == 'Hi\\r\\n', inner.as_string()\n";
    let (world, _server) = direct(Manner { mail: "554 5.7.1 go away", ..Manner::default() }).await;
    let reactor = world.start();
    let mail = asking(&world, &["bob@example.net", "eve@example.net"]).await;
    world.until(&mail, "told", |m| m.is_settled() && m.notices.is_empty()).await;
    reactor.stop().await;
    let reports = world.mailboxes.reports.lock().unwrap().clone();
    assert_eq!(reports.len(), 1, "who came to the same end at once is told of at once: {reports:?}");
    let mut python = std::process::Command::new("python3");
    let python = python.args(["-c", SCRIPT]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut python = python.expect("python3 is there: the judges need it");
    python.stdin.take().unwrap().write_all(reports[0].as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), reports[0]);
}

#[tokio::test]
async fn who_has_no_mailbox_here_gets_a_mail_from_the_null_sender_that_costs_nothing() {
    for fate in [None, Some(Fate::Lost), Some(Fate::Written)] {
        let (world, server) = direct(Manner { rcpt: vec![("bob@", "550 5.1.1 no bob")], ..Manner::default() }).await;
        *world.mailboxes.filing.lock().unwrap() = Filing::Elsewhere;
        let balance = || async {
            let state: domain::Versioned<domain::balance::Balance> =
                world.log.state(&world.team, &[domain::StreamId::Balance]).await.unwrap();
            (state.held, state.consumed)
        };
        let before = balance().await;
        let mut reactor = world.start();
        if let Some(fate) = fate {
            world.gate.stop("outbound.notice_settled", fate);
        }
        let mail = asking(&world, &["bob@example.net"]).await;
        if fate.is_some() {
            eventually("it is about to be written", || async { world.gate.has_stopped() }).await;
            reactor.crash().await;
            world.gate.open();
            reactor = world.start();
        }
        world.until(&mail, "told", |m| m.is_settled() && m.notices.is_empty()).await;
        let told = outcomes(&world, &mail).await;
        let [NoticeOutcome::Sent { outbound }] = told.as_slice() else { panic!("{told:?}") };
        world.until_status(outbound, &[Status::Delivered]).await;
        let taken = server.taken.lock().unwrap().clone();
        assert_eq!(taken.len(), 1, "{fate:?}");
        assert_eq!((taken[0].sender.as_str(), &taken[0].recipients[0][..]), ("", "ann@d1.example.org"));
        has(&taken[0].content, &["Action: failed", "Final-Recipient: rfc822; bob@example.net"]);
        assert_eq!(balance().await, before);
        reactor.stop().await;
    }
}

#[tokio::test]
async fn a_report_that_comes_back_is_not_reported_on() {
    let refusals = vec![("bob@", "550 5.1.1 no bob"), ("ann@", "550 5.1.1 no ann")];
    let (world, _server) = direct(Manner { rcpt: refusals, ..Manner::default() }).await;
    *world.mailboxes.filing.lock().unwrap() = Filing::Elsewhere;
    let reactor = world.start();
    let mail = asking(&world, &["bob@example.net"]).await;
    world.until(&mail, "told", |m| m.is_settled() && m.notices.is_empty()).await;
    let told = outcomes(&world, &mail).await;
    let [NoticeOutcome::Sent { outbound }] = told.as_slice() else { panic!("{told:?}") };
    let report = world.until_status(outbound, &[Status::Bounced]).await;
    assert_eq!(report.notices_planned, 0);
    reactor.stop().await;
}

#[tokio::test]
async fn handing_on_is_told_where_the_server_will_not_tell_and_passed_on_where_it_does() {
    const WITH_DSN: &str = "250-server\r\n250-DSN\r\n250 PIPELINING";
    let (mut world, server) = direct(Manner::default()).await;
    world.config.bounce_domain = "bounce.example.com".into();
    world.return_paths = Some(mail::verp::MacKey::new([3; 32]));
    let reactor = world.start();
    let silent = asking(&world, &["bob@example.net"]).await;
    world.until(&silent, "told", |m| m.is_settled() && m.notices_planned == 1 && m.notices.is_empty()).await;
    let report = world.mailboxes.reports.lock().unwrap().pop().unwrap();
    has(&report, &["Action: relayed", "Status: 2.0.0"]);
    assert!(!report.contains("\r\nHi\r\n"), "where nothing failed the header is enough: {report}");
    reactor.stop().await;

    server.behave(Manner { hello: WITH_DSN, ..Manner::default() });
    let reactor = world.start();
    let promised = asking(&world, &["bob@example.net"]).await;
    world.until_status(&promised, &[Status::Delivered]).await;
    eventually("it is forgotten", || async { world.queue.waiting(&world.team).await.unwrap() == 0 }).await;
    assert_eq!(world.state(&promised).await.notices_planned, 0, "the server will tell us");
    let address = world.state(&promised).await.recipients[0].address.clone();
    let feedback = RecordFeedback {
        outbound: promised.clone(),
        recipient: 0,
        address,
        feedback: Feedback::Delivered,
        source: Source::Dsn,
        report: Report::of("250 2.0.0 in the mailbox", Some("mail.example.net")),
    };
    world.tell(&world.team.clone(), feedback).await;
    world.until(&promised, "told", |m| m.notices_planned == 1 && m.notices.is_empty()).await;
    has(&world.mailboxes.reports.lock().unwrap()[0], &["Action: delivered", "Remote-MTA: dns; mail.example.net"]);
    reactor.stop().await;
}

#[tokio::test]
async fn a_delay_is_told_once_and_says_until_when_it_is_tried() {
    let (world, _server) = direct(Manner { rcpt: vec![("bob@", "450 4.2.0 later")], ..Manner::default() }).await;
    let reactor = world.start();
    let mail = asking(&world, &["bob@example.net"]).await;
    for deferrals in 1..5 {
        world.until(&mail, "deferred", |m| m.recipients[0].deferrals == deferrals && m.notices.is_empty()).await;
        world.advance(1_800 * SECOND);
    }
    world.until(&mail, "deferred", |m| m.recipients[0].deferrals == 5 && m.notices.is_empty()).await;
    let reports = world.mailboxes.reports.lock().unwrap().clone();
    assert_eq!(reports.len(), 1, "{reports:?}");
    has(&reports[0], &["Action: delayed", "Status: 4.2.0"]);
    assert!(reports[0].contains("Will-Retry-Until: "), "{}", reports[0]);
    reactor.stop().await;
}

#[tokio::test]
async fn a_mailbox_that_takes_no_report_now_is_asked_again_and_holds_up_nobody() {
    let refused = Manner { rcpt: vec![("bob@", "550 5.1.1 no"), ("eve@", "450 4.2.0 later")], ..Manner::default() };
    let (world, server) = direct(refused).await;
    *world.mailboxes.filing.lock().unwrap() = Filing::Later;
    let reactor = world.start();
    let mail = asking(&world, &["bob@example.net", "eve@example.net"]).await;
    world.until(&mail, "bounced", |m| m.recipients[0].status == Status::Bounced && !m.notices.is_empty()).await;
    server.behave(Manner::default());
    world.advance(61 * SECOND);
    world.until(&mail, "delivered", |m| m.recipients[1].status == Status::Delivered).await;
    assert!(world.mailboxes.handed_over.load(Ordering::SeqCst) >= 1);
    *world.mailboxes.filing.lock().unwrap() = Filing::Filed;
    world.advance(3_600 * SECOND);
    world.until(&mail, "told", |m| m.notices.is_empty()).await;
    assert_eq!(outcomes(&world, &mail).await, [NoticeOutcome::Filed, NoticeOutcome::Filed]);
    reactor.stop().await;
}
