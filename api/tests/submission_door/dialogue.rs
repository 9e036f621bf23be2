//! Who gets past authentication, and how.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::api_key::{Kind, RevokeKey};
use domain::mailbox::SuspendMailbox;
use tokio::net::TcpStream;

use super::harness::{Office, config, hand_over, mail, plain};
use crate::harness::{Client, Store};

#[tokio::test]
async fn a_key_is_taken_under_tls_and_nowhere_else() {
    let mut strict = config();
    strict.auth_on_loopback = false;
    let office = Office::with(Store::Memory, strict, api::Config::default()).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let mut client = Client::over(TcpStream::connect(office.address).await.unwrap());
    client.expect("220").await;
    let offers = client.say("EHLO client.test", "250").await;
    assert!(offers.contains("STARTTLS") && !offers.contains("AUTH") && offers.contains("DSN"), "{offers}");
    client.say(&plain("ann", &secret), "538 5.7.11").await;
    client.say("MAIL FROM:<ann@a.test>", "530 5.7.0").await;
    client.say("STARTTLS", "220").await;
    let mut client = office.secured(client.stream).await;
    let offers = client.say("EHLO client.test", "250").await;
    assert!(offers.contains("AUTH PLAIN LOGIN") && offers.contains("RCPTMAX=50"), "{offers}");
    client.say("MAIL FROM:<ann@a.test>", "530 5.7.0").await;
    client.say(&plain("ann", &secret), "235 2.7.0").await;
    assert!(
        hand_over(&mut client, "ann@a.test", &["bob@example.net"], &mail("tls", "ann@a.test")).await.starts_with("250")
    );
    let last = office.names(&team, 0).await;
    assert_eq!(last.last().unwrap(), "outbound.accepted");
}

#[tokio::test]
async fn a_session_may_begin_with_tls() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let mut client = office.secured(TcpStream::connect(office.tls_address).await.unwrap()).await;
    client.expect("220").await;
    let offers = client.say("EHLO client.test", "250").await;
    assert!(offers.contains("AUTH") && !offers.contains("STARTTLS"), "{offers}");
    client.say("AUTH LOGIN", "334 VXNlcm5hbWU6").await;
    client.say(&BASE64_STANDARD.encode("ann@a.test"), "334 UGFzc3dvcmQ6").await;
    client.say(&BASE64_STANDARD.encode(&secret), "235").await;
    client.say("AUTH LOGIN", "503").await;
    let reply = hand_over(&mut client, "ann@a.test", &["bob@example.net"], &mail("tls", "ann@a.test")).await;
    let text = office.text(&team, &super::harness::id_in(&reply)).await;
    assert!(text.contains("with ESMTPSA\r\n\t(TLSv1.3"), "{text}");
    // Whoever speaks in the clear there hears nothing but the end.
    let mut deaf = Client::over(TcpStream::connect(office.tls_address).await.unwrap());
    deaf.send("EHLO x\r\n").await;
    assert!(!deaf.try_reply().await.unwrap_or_default().starts_with('2'));
}

#[tokio::test]
async fn the_client_is_known_behind_a_proxy_that_passes_tls_on() {
    let mut proxied = config();
    proxied.proxy_peers = vec!["127.0.0.0/8".parse().unwrap()];
    let office = Office::with(Store::Memory, proxied, api::Config::default()).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let mut stream = TcpStream::connect(office.tls_address).await.unwrap();
    let header = b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 465\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, header).await.unwrap();
    let mut client = office.secured(stream).await;
    client.expect("220").await;
    client.say("EHLO client.test", "250").await;
    client.say(&plain("ann", &secret), "235").await;
    let reply = hand_over(&mut client, "ann@a.test", &["bob@example.net"], &mail("proxy", "ann@a.test")).await;
    let text = office.text(&team, &super::harness::id_in(&reply)).await;
    assert!(text.contains("(unknown [192.0.2.9])"), "{text}");
    // The sandbox's leave to speak in the clear is for this machine, and the client is another.
    let mut stream = TcpStream::connect(office.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, header).await.unwrap();
    let mut client = Client::over(stream);
    client.expect("220").await;
    assert!(!client.say("EHLO client.test", "250").await.contains("AUTH"));
}

#[tokio::test]
async fn who_guesses_keys_is_slowed_down_and_cut_off() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, secret) = office.key(&team, Kind::Sending).await;
    let mut wrong = secret.clone();
    wrong.replace_range(20..21, if &secret[20..21] == "0" { "1" } else { "0" });
    let mut client = office.hello().await;
    client.say(&plain("ann", &wrong), "535 5.7.8").await;
    client.say(&plain("ann", "smx_snd_nonsense"), "535 5.7.8").await;
    // The third wrong one of a connection ends it.
    client.say(&plain("ann", ""), "535 5.7.8").await;
    client.expect("421").await;
    client.expect_end().await;
    let mut client = office.hello().await;
    client.say(&plain("ann", &wrong), "421 4.7.0").await;
    client.expect_end().await;
    // From there nobody authenticates any more, whoever it is.
    let mut client = office.hello().await;
    client.say(&plain("ann", &secret), "421 4.7.0").await;
}

#[tokio::test]
async fn keys_that_may_not_send_are_told_so() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (_, root) = office.key(&team, Kind::Infrastructure).await;
    let (mailbox, _, boxed) = office.mailbox(&team, "box@a.test").await;
    let mut client = office.hello().await;
    assert!(client.say(&plain("api", &root), "535 5.7.8").await.contains("not for sending"));
    client.say(&plain("box@a.test", &boxed), "235").await;
    // A mailbox that is suspended sends no more, not even in a session that is open.
    office.door.run(&team, SuspendMailbox { mailbox }).await;
    client.say("MAIL FROM:<box@a.test>", "525 5.7.13").await;
    let mut client = office.hello().await;
    client.say(&plain("box@a.test", &boxed), "525 5.7.13").await;
}

#[tokio::test]
async fn a_revoked_key_ends_its_session() {
    let office = Office::open(Store::Memory).await;
    let team = office.team("a.test").await;
    let (key, secret) = office.key(&team, Kind::Sending).await;
    let mut client = office.login(&secret).await;
    assert!(
        hand_over(&mut client, "ann@a.test", &["bob@example.net"], &mail("one", "ann@a.test")).await.starts_with("250")
    );
    office.door.run(&team, RevokeKey { key, mailbox: None }).await;
    client.say("MAIL FROM:<ann@a.test>", "421 4.7.0").await;
    client.expect_end().await;
    let mut client = office.hello().await;
    client.say(&plain("ann", &secret), "535 5.7.8").await;
}

#[tokio::test]
async fn a_key_has_one_rate_over_all_doors() {
    let mut http = api::Config::default();
    http.rate_limits.mailbox_requests = 2;
    let office = Office::with(Store::Memory, config(), http).await;
    let team = office.team("a.test").await;
    let (key, secret) = office.key(&team, Kind::Sending).await;
    let _ = office.app.limiter.take(&key, Kind::Sending, office.door.allot.now());
    let mut client = office.login(&secret).await;
    client.say("MAIL FROM:<ann@a.test>", "250").await;
    client.say("RSET", "250").await;
    assert!(client.say("MAIL FROM:<ann@a.test>", "451 4.7.1").await.contains(" s"));
}
