//! Mail through Amazon SES, played by a server on loopback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use domain::outbound::{PostponeReason, RejectReason, Status};
use domain::provider::{Provider, Quotas, Transport, Trouble};
use domain::{StreamId, Versioned};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::reactor::eventually;
use crate::world::{SECOND, World};

#[derive(Debug, Clone)]
struct Asked {
    head: BTreeMap<String, String>,
    line: String,
    body: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Answer {
    Say(u16, &'static str, &'static str),
    /// Closes the connection, before or after it has read the request.
    Drop,
    Hang,
}

struct Ses {
    port: u16,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

const TAKEN: Answer = Answer::Say(200, "", r#"{"MessageId":"0102018f-abc"}"#);

impl Ses {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(vec![])));
        let (a, b) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&a), Arc::clone(&b)));
            }
        });
        Self { port, answer, asked }
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn behave(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Mutex<Answer>>, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut octets = vec![];
    let head_end = loop {
        if let Some(end) = octets.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut octets).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let text = String::from_utf8(octets[..head_end].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let fields = lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_lowercase(), v.to_owned()));
    let head: BTreeMap<_, _> = fields.collect();
    let length: usize = head["content-length"].parse().unwrap();
    let mut body = octets[head_end + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.unwrap_or(0) == 0 {
            return;
        }
    }
    asked.lock().unwrap().push(Asked { head, line, body });
    let now = answer.lock().unwrap().clone();
    match now {
        Answer::Say(status, kind, body) => {
            let text = format!(
                "HTTP/1.1 {status} X\r\nx-amzn-ErrorType: {kind}:http://internal.amazon.com/\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(text.as_bytes()).await;
        }
        Answer::Drop => {}
        Answer::Hang => std::future::pending().await,
    }
}

async fn world(ses: &Ses) -> (World, domain::id::ProviderId) {
    let mut world = World::new().await;
    world.config.ses_endpoint = format!("http://127.0.0.1:{}", ses.port);
    let transport = Transport::Ses { region: "eu-west-1".into(), configuration_set: Some("events".into()) };
    let account = world.account_by(&world.team, transport, Quotas::default(), 100).await;
    (world, account)
}

async fn provider(world: &World, account: domain::id::ProviderId) -> Versioned<Provider> {
    world.log.state(&world.team, &[StreamId::Provider(account)]).await.unwrap()
}

#[tokio::test]
async fn a_mail_is_handed_over_with_one_signed_request_for_all_its_recipients() {
    let ses = Ses::start(TAKEN).await;
    let (world, _) = world(&ses).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net", "eve@example.net"]).await;
    world.until_status(&mail, &[Status::Sent, Status::Sent]).await;
    assert_eq!(ses.count(), 1);
    let asked = ses.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.line, "POST /v2/email/outbound-emails HTTP/1.1");
    let authorization = &asked.head["authorization"];
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=ann/20231114/eu-west-1/ses/aws4_request, "));
    assert_eq!(signature(&asked, "secret"), authorization.rsplit('=').next().unwrap());
    assert!(!authorization.contains("secret"));
    let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(body["Destination"]["ToAddresses"], serde_json::json!(["bob@example.net", "eve@example.net"]));
    assert_eq!(body["ConfigurationSetName"], "events");
    assert_eq!(body["EmailTags"][1], serde_json::json!({ "Name": "postlog_mail", "Value": mail }));
    let raw = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        body["Content"]["Raw"]["Data"].as_str().unwrap(),
    );
    assert!(String::from_utf8(raw.unwrap()).unwrap().contains("Subject: Hello"));
    let said = world.queue.transcripts(&world.team, &mail).await.unwrap();
    assert!(said.is_empty() || said[0].said.contains("0102018f-abc"));
    let events = world.log.read(&world.team, 0, 1_000).await.unwrap();
    let sent = events.iter().find_map(|r| match &r.event {
        domain::Event::Outbound(domain::outbound::Event::Sent(e)) => e.personal.known().cloned(),
        _ => None,
    });
    assert_eq!(sent.unwrap().provider_message_id.as_deref(), Some("0102018f-abc"));
    reactor.stop().await;
}

/// The signature as the service computes it, written down a second time.
fn signature(asked: &Asked, secret: &str) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mac = |key: &[u8], text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let names = ["content-type", "host", "x-amz-date"];
    let fields: String = names.iter().map(|n| format!("{n}:{}\n", asked.head[*n])).collect();
    let canonical = format!(
        "POST\n/v2/email/outbound-emails\n\n{fields}\ncontent-type;host;x-amz-date\n{}",
        hex::encode(Sha256::digest(&asked.body))
    );
    let date = &asked.head["x-amz-date"];
    let scope = format!("{}/eu-west-1/ses/aws4_request", &date[..8]);
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let mut key = mac(format!("AWS4{secret}").as_bytes(), &date[..8]);
    for part in ["eu-west-1", "ses", "aws4_request", &text] {
        key = mac(&key, part);
    }
    hex::encode(key)
}

#[tokio::test]
async fn throttling_delays_mail_and_says_so() {
    for (status, kind) in [(429, "TooManyRequestsException"), (400, "LimitExceededException"), (503, "")] {
        let ses = Ses::start(Answer::Say(status, kind, r#"{"message":"Maximum sending rate exceeded."}"#)).await;
        let (world, _) = world(&ses).await;
        let reactor = world.start();
        let first = world.accept(&["bob@example.net"]).await;
        world.until(&first, "refused", |m| m.attempts == 1 && m.recipients[0].status == Status::Waiting).await;
        let second = world.accept(&["eve@example.net"]).await;
        let state = world.until(&second, "postponed", |m| m.postponed.is_some()).await;
        assert_eq!((state.postponed.unwrap().0, ses.count()), (PostponeReason::Throttled, 1));
        ses.behave(TAKEN);
        world.advance(61 * SECOND);
        world.until_status(&first, &[Status::Sent]).await;
        world.until_status(&second, &[Status::Sent]).await;
        reactor.stop().await;
    }
}

#[tokio::test]
async fn what_the_service_refuses_for_good_is_rejected() {
    let refusals = [
        (400, "MessageRejected", r#"{"message":"Email address is not verified."}"#),
        (400, "MailFromDomainNotVerifiedException", "{}"),
        (400, "BadRequestException", r#"{"message":"bad"}"#),
        (404, "NotFoundException", r#"{"message":"Configuration set events does not exist."}"#),
    ];
    for (status, kind, body) in refusals {
        let ses = Ses::start(Answer::Say(status, kind, body)).await;
        let (world, _) = world(&ses).await;
        let reactor = world.start();
        let mail = world.accept(&["bob@example.net"]).await;
        world.until_status(&mail, &[Status::Rejected]).await;
        let events = world.log.read(&world.team, 0, 1_000).await.unwrap();
        let provider = events.iter().any(|r| {
            matches!(&r.event, domain::Event::Outbound(domain::outbound::Event::Rejected(e)) if e.reason == RejectReason::Provider)
        });
        assert!(provider, "{kind}");
        reactor.stop().await;
    }
}

#[tokio::test]
async fn a_wrong_key_and_a_suspended_account_break_the_account() {
    let cases = [
        (403, "InvalidSignatureException", Trouble::LoginRefused, Status::Rejected),
        (400, "AccountSuspendedException", Trouble::AccountSuspended, Status::Waiting),
        (400, "SendingPausedException", Trouble::AccountSuspended, Status::Waiting),
    ];
    for (status, kind, trouble, becomes) in cases {
        let ses = Ses::start(Answer::Say(status, kind, r#"{"message":"no"}"#)).await;
        let (world, account) = world(&ses).await;
        let reactor = world.start();
        let mail = world.accept(&["bob@example.net"]).await;
        world.until(&mail, kind, |m| m.attempts == 1 && m.recipients[0].status == becomes).await;
        eventually("the account is broken", || async { provider(&world, account.clone()).await.trouble.is_some() })
            .await;
        assert_eq!(provider(&world, account.clone()).await.trouble, Some(trouble));
        assert_eq!(ses.count(), 1);
        if becomes == Status::Waiting {
            ses.behave(TAKEN);
            world.advance(61 * SECOND);
            let state = world.until(&mail, "postponed", |m| m.postponed.is_some()).await;
            assert_eq!(state.postponed.unwrap().0, PostponeReason::NoActiveProviders);
            let switch = domain::provider::SwitchProvider { provider: account, active: true };
            world.tell(&world.team, switch).await;
            world.until_status(&mail, &[Status::Sent]).await;
        }
        reactor.stop().await;
    }
}

#[tokio::test]
async fn a_request_without_an_answer_is_uncertain_and_not_made_again() {
    let ses = Ses::start(Answer::Drop).await;
    let (world, _) = world(&ses).await;
    let reactor = world.start();
    let mail = world.accept(&["bob@example.net"]).await;
    let uncertain = |m: &domain::outbound::Outbound| matches!(m.recipients[0].status, Status::Uncertain { .. });
    world.until(&mail, "uncertain", uncertain).await;
    assert_eq!(ses.count(), 1);
    ses.behave(Answer::Hang);
    let other = world.accept(&["eve@example.net"]).await;
    eventually("it hangs", || async { ses.count() == 2 }).await;
    reactor.crash().await;
    ses.behave(TAKEN);
    let reactor = world.start();
    world.until(&other, "uncertain", uncertain).await;
    world.advance(3_600 * SECOND);
    let third = world.accept(&["joe@example.net"]).await;
    world.until_status(&third, &[Status::Sent]).await;
    assert_eq!(ses.count(), 3);
    reactor.stop().await;
}
