//! STARTTLS: the upgrade, what is forgotten by it, and what must not be injected before it.

use std::sync::Arc;

use api::smtp::{Tls, TlsConfig, self_signed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Client, Door, PATIENCE, Store, config, mail};

async fn door(required: bool) -> (Door, TlsConnector) {
    let made = self_signed("mx.test").unwrap();
    let tls = Tls::from_pem(&made.certificate_pem, &made.key_pem).unwrap();
    let mut config = config();
    config.tls = TlsConfig { required, ..TlsConfig::default() };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Door::with(Store::Memory, config, Some(tls)).await, TlsConnector::from(Arc::new(client)))
}

async fn upgrade(client: Client<TcpStream>, connector: &TlsConnector) -> Client<TlsStream<TcpStream>> {
    let name = ServerName::try_from("mx.test").unwrap();
    let upgrade = connector.connect(name, client.stream);
    Client::over(tokio::time::timeout(PATIENCE, upgrade).await.unwrap().unwrap())
}

#[tokio::test]
async fn a_session_goes_on_under_tls_and_forgets_what_was_said_before() {
    let (door, connector) = door(true).await;
    let team = door.team("team.test").await;
    door.mailbox(&team, "box@team.test").await;
    let mut client = door.connect().await;
    client.expect("220").await;
    assert!(client.say("EHLO client.test", "250").await.contains("STARTTLS"));
    client.say("MAIL FROM:<a@sender.test>", "530 5.7.0").await;
    client.say("STARTTLS now", "501").await;
    client.say("STARTTLS", "220 2.0.0").await;
    let mut client = upgrade(client, &connector).await;
    client.say("MAIL FROM:<a@sender.test>", "503").await;
    assert!(!client.say("EHLO client.test", "250").await.contains("STARTTLS"));
    client.say("STARTTLS", "503").await;
    client.deliver("a@sender.test", &["box@team.test"], &mail("tls", "Hi")).await;
    // A mail larger than any buffer on the way.
    let body = "0123456789abcdef\r\n".repeat(20_000);
    client.deliver("a@sender.test", &["box@team.test"], &format!("{}{body}", mail("tls2", "Hi"))).await;
    client.say("QUIT", "221").await;
    let mails = door.mails(&team).await;
    let text = String::from_utf8(door.raw(&team, &mails[0].0.blob).await.to_vec()).unwrap();
    assert!(text.contains("with ESMTPS\r\n\t(TLSv1.3 TLS_"), "{text}");
    assert!(door.raw(&team, &mails[1].0.blob).await.ends_with(body.as_bytes()));
}

#[tokio::test]
async fn commands_injected_before_the_handshake_are_never_answered() {
    let (door, connector) = door(false).await;
    // In one segment with STARTTLS.
    let mut client = door.hello().await;
    client.send("STARTTLS\r\nRSET\r\n").await;
    client.expect("554 5.5.0").await;
    client.expect_end().await;
    // Right behind it.
    let mut client = door.hello().await;
    client.say("STARTTLS", "220").await;
    client.send("MAIL FROM:<evil@sender.test>\r\n").await;
    let name = ServerName::try_from("mx.test").unwrap();
    assert!(tokio::time::timeout(PATIENCE, connector.connect(name, client.stream)).await.unwrap().is_err());
}

#[tokio::test]
async fn a_handshake_that_never_comes_ends_the_connection() {
    let made = self_signed("mx.test").unwrap();
    let tls = Tls::from_pem(&made.certificate_pem, &made.key_pem).unwrap();
    let mut config = config();
    config.limits.tls_handshake_seconds = 1;
    let door = Door::with(Store::Memory, config, Some(tls)).await;
    let mut client = door.hello().await;
    client.say("STARTTLS", "220").await;
    client.expect_end().await;
}

#[tokio::test]
async fn without_a_certificate_tls_is_not_offered() {
    let door = Door::open(Store::Memory).await;
    let mut client = door.connect().await;
    client.expect("220").await;
    assert!(!client.say("EHLO client.test", "250").await.contains("STARTTLS"));
    client.say("STARTTLS", "454 4.7.0").await;
}
