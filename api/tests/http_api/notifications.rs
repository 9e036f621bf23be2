//! Notifications of Amazon SES over Amazon SNS: what is signed by Amazon counts, once; everything else changes nothing.

use std::sync::{Arc, Mutex, OnceLock};

use api::Config;
use api::sns::{Fetch, FetchError, Fetched};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::id::{OutboundId, ProviderId};
use domain::outbound::report::Report;
use domain::outbound::{BeginAttempt, Outbound, Outcome, RecordResults, Results, Status};
use domain::{StreamId, Versioned};
use mail::auth::DkimKey;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use serde_json::{Value, json};

use crate::harness::{Answer, SECOND, Team, World};
use crate::sending::{mail, sender};

const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:mail";
const CERTIFICATE: &str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem";
/// How digests are named inside of signatures (RFC 8017 §9.2).
const SHA1_PREFIX: &[u8] = &[0x30, 0x21, 0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 0x14];
const SHA256_PREFIX: &[u8] = &[0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20];

/// Makes RSA keys take no time but once.
fn key(n: usize) -> &'static RsaPrivateKey {
    static KEYS: [OnceLock<RsaPrivateKey>; 2] = [OnceLock::new(), OnceLock::new()];
    KEYS[n].get_or_init(|| {
        let made = DkimKey::generate_rsa(2048, |out| eventlog::Allot::system().entropy()(out)).unwrap();
        RsaPrivateKey::from_pkcs1_der(made.to_der()).unwrap()
    })
}

/// Returns a certificate of a key for a name, valid in some years.
fn certificate(key: &RsaPrivateKey, name: &str, years: (i32, i32)) -> String {
    let pkcs8 = key.to_pkcs8_der().unwrap();
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8.as_bytes());
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    params.self_signed(&pair).unwrap().pem()
}

/// Amazon SNS as the world sees it: it signs, shows its certificates and takes confirmations.
struct Amazon {
    pages: Mutex<Vec<(String, u16, Vec<u8>)>>,
    fetched: Mutex<Vec<String>>,
}

impl Amazon {
    fn new() -> Arc<Self> {
        let amazon = Self { pages: Mutex::default(), fetched: Mutex::default() };
        amazon.show(CERTIFICATE, 200, certificate(key(0), "sns.amazonaws.com", (2026, 2027)));
        amazon.show("https://sns.eu-west-1.amazonaws.com/?", 200, "<ConfirmSubscriptionResponse/>".to_owned());
        Arc::new(amazon)
    }

    /// Shows something under all URLs that begin so.
    fn show(&self, url: &str, status: u16, page: String) {
        self.pages.lock().unwrap().insert(0, (url.to_owned(), status, page.into_bytes()));
    }

    fn fetched(&self) -> Vec<String> {
        self.fetched.lock().unwrap().clone()
    }
}

#[async_trait]
impl Fetch for Amazon {
    async fn get(&self, url: &str) -> Result<Fetched, FetchError> {
        self.fetched.lock().unwrap().push(url.to_owned());
        let pages = self.pages.lock().unwrap();
        let (_, status, body) = pages.iter().find(|(start, ..)| url.starts_with(start)).ok_or(FetchError::NoAnswer)?;
        Ok(Fetched { status: *status, body: body.clone().into() })
    }
}

fn rfc3339(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).unwrap().to_string()
}

/// Signs a message as its version says.
fn sign(mut message: Value, key: &RsaPrivateKey) -> Value {
    let names: &[&str] = match message["Type"].as_str().unwrap() {
        "Notification" => &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
        _ => &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"],
    };
    let lines = names.iter().filter_map(|name| Some(format!("{name}\n{}\n", message[*name].as_str()?)));
    let text = lines.collect::<String>();
    let (algorithm, prefix) = match message["SignatureVersion"].as_str() {
        Some("1") => (&SHA1_FOR_LEGACY_USE_ONLY, SHA1_PREFIX),
        _ => (&SHA256, SHA256_PREFIX),
    };
    let hashed = digest(algorithm, text.as_bytes());
    let scheme = Pkcs1v15Sign { hash_len: Some(hashed.as_ref().len()), prefix: prefix.into() };
    message["Signature"] = json!(BASE64.encode(key.sign(scheme, hashed.as_ref()).unwrap()));
    message
}

/// A team with an account at Amazon SES whose topic is subscribed.
struct Story {
    world: World,
    amazon: Arc<Amazon>,
    team: Team,
    sending: String,
    account: ProviderId,
    /// Where its notifications are posted.
    path: String,
}

impl Story {
    async fn new() -> Self {
        let mut world = World::with(Config::default()).await;
        let amazon = Amazon::new();
        world.app = world.app.clone().with_fetch(Arc::<Amazon>::clone(&amazon));
        world.router = api::router(world.app.clone());
        let (team, sending) = sender(&world, "a.test").await;
        let body = json!({
            "name": "SES", "type": "amazon_ses", "ses_region": "eu-west-1", "ses_access_key_id": "AK",
            "ses_secret_access_key": "secret",
        });
        let made = world.post("/providers").key(&team.root).json(&body).send().await.data();
        let url = made["ses_notifications_url"].as_str().unwrap().to_owned();
        let path = url.strip_prefix("http://127.0.0.1:8080/api/v1").unwrap().to_owned();
        let account = made["id"].as_str().unwrap().parse().unwrap();
        Self { world, amazon, team, sending, account, path }
    }

    async fn subscribed() -> Self {
        let story = Self::new().await;
        let answer = story.post(&sign(story.confirmation(TOPIC), key(0))).await;
        assert_eq!(answer.status, 204, "{:?}", answer.body);
        story
    }

    fn confirmation(&self, topic: &str) -> Value {
        json!({
            "Type": "SubscriptionConfirmation", "MessageId": "m-0", "Token": "2336412f", "TopicArn": topic,
            "Message": "You have chosen to subscribe.", "Timestamp": rfc3339(self.world.now()),
            "SubscribeURL": format!(
                "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn={topic}&Token=2336412f"
            ),
            "SignatureVersion": "1", "SigningCertURL": CERTIFICATE,
        })
    }

    fn notification(&self, message: &Value) -> Value {
        json!({
            "Type": "Notification", "MessageId": "m-1", "TopicArn": TOPIC, "Subject": "Amazon SES Email Event",
            "Message": message.to_string(), "Timestamp": rfc3339(self.world.now()), "SignatureVersion": "2",
            "SigningCertURL": CERTIFICATE, "UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
        })
    }

    /// Posts as Amazon does: JSON that is called text.
    async fn post(&self, message: &Value) -> Answer {
        let call = self.world.post(&self.path).header("content-type", "text/plain; charset=UTF-8");
        call.body(message.to_string()).send().await
    }

    async fn tell(&self, message: &Value) -> Answer {
        self.post(&sign(self.notification(message), key(0))).await
    }

    async fn state(&self, id: &OutboundId) -> Versioned<Outbound> {
        self.world.app.log.state(&self.team.id, &[StreamId::Outbound(id.clone())]).await.unwrap()
    }

    async fn statuses(&self, id: &OutboundId) -> Vec<Status> {
        self.state(id).await.recipients.iter().map(|r| r.status).collect()
    }

    /// Sends a mail to Bob and Eve, which Amazon takes under an id of its own.
    async fn sent(&self, message_id: &str) -> OutboundId {
        let mut body = mail();
        body["to"] = json!([{"email": "Bob@example.net"}, {"email": "eve@example.net"}]);
        let answer = self.world.post("/emails/send").key(&self.sending).json(&body).send().await;
        let id: OutboundId = answer.data()["message_id"].as_str().unwrap().parse().unwrap();
        let waiting = self.state(&id).await;
        let begin = BeginAttempt::of(id.clone(), &waiting, self.account.clone(), vec![0, 1]);
        self.world.command(&self.team.id, begin).await;
        let (outcome, report) = (Outcome::Taken { delivered: false }, Report::of("200", None));
        let report = report.with_provider_message_id(message_id);
        let results = Results { recipients: vec![0, 1], outcome, report };
        let given = self.state(&id).await;
        let record = RecordResults::of(id.clone(), &given, 1, vec![results]);
        self.world.command(&self.team.id, record).await;
        id
    }

    async fn names(&self) -> Vec<String> {
        let all = self.world.app.log.read(&self.team.id, 0, 1_000).await.unwrap();
        all.iter().map(|record| record.event.name().to_owned()).collect()
    }

    async fn count(&self, name: &str) -> usize {
        self.names().await.iter().filter(|found| *found == name).count()
    }

    async fn is_suppressed(&self, email: &str) -> bool {
        self.world.get(&format!("/suppressions/{email}")).key(&self.team.root).send().await.status == 200
    }

    fn mailed(&self, message_id: &str) -> Value {
        json!({"messageId": message_id, "timestamp": rfc3339(self.world.now() - 600 * SECOND), "destination": []})
    }
}

fn bounce(mail: Value, kind: &str, sub: &str, to: &str) -> Value {
    let to = json!({"emailAddress": to, "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 user unknown"});
    json!({
        "notificationType": "Bounce", "mail": mail,
        "bounce": {"bounceType": kind, "bounceSubType": sub, "bouncedRecipients": [to], "reportingMTA": "dns; mx.amazonses.com"},
    })
}

#[tokio::test]
async fn a_bounce_by_amazons_own_id_suppresses_once_however_often_it_comes() {
    let story = Story::subscribed().await;
    let id = story.sent("0102-a").await;
    let told = bounce(story.mailed("0102-a"), "Permanent", "General", "bob@EXAMPLE.net");
    for _ in 0..3 {
        assert_eq!(story.tell(&told).await.status, 204);
    }
    assert_eq!(story.statuses(&id).await, [Status::Bounced, Status::Sent]);
    assert_eq!((story.count("outbound.bounced").await, story.count("suppression.added").await), (1, 1));
    assert!(story.is_suppressed("bob@example.net").await);
    // Who is taken off the list stays off it, whatever is repeated.
    story.world.delete("/suppressions/bob@example.net").key(&story.team.root).send().await.data();
    assert_eq!(story.tell(&told).await.status, 204);
    assert!(!story.is_suppressed("bob@example.net").await);
    let log = story.world.get("/emails/logs").key(&story.team.root).send().await.data();
    let path = format!("/emails/logs/{}", log[0]["id"].as_str().unwrap());
    let log = story.world.get(&path).key(&story.team.root).send().await.data();
    assert_eq!(log["outcomes"][0]["status"], "bounced", "{log}");
    assert!(story.amazon.fetched().iter().filter(|url| *url == CERTIFICATE).count() == 1, "it is kept");
}

#[tokio::test]
async fn events_of_a_configuration_set_name_the_mail_by_our_tag() {
    let story = Story::subscribed().await;
    let id = story.sent("0102-a").await;
    let mail = json!({"messageId": "another", "tags": {"postlog_mail": [id], "postlog_team": [story.team.id]}});
    let delivered = json!({
        "eventType": "Delivery", "mail": mail,
        "delivery": {"recipients": ["bob@example.net", "eve@example.net"], "smtpResponse": "250 2.0.0 ok"},
    });
    let delayed = json!({
        "eventType": "DeliveryDelay", "mail": mail,
        "deliveryDelay": {"delayType": "MailboxFull", "delayedRecipients": [{"emailAddress": "bob@example.net"}],
                          "expirationTime": rfc3339(story.world.now() + 3_600 * SECOND)},
    });
    let complained = json!({
        "eventType": "Complaint", "mail": mail,
        "complaint": {"complainedRecipients": [{"emailAddress": "eve@example.net"}], "complaintFeedbackType": "abuse"},
    });
    for told in [&delayed, &delivered, &complained, &delayed, &complained, &delivered] {
        assert_eq!(story.tell(told).await.status, 204);
    }
    assert_eq!(story.statuses(&id).await, [Status::Delivered, Status::Delivered]);
    for name in ["outbound.delayed", "outbound.complained", "suppression.added"] {
        assert_eq!(story.count(name).await, 1, "{name}");
    }
    assert!(story.is_suppressed("eve@example.net").await && !story.is_suppressed("bob@example.net").await);
    // A bounce after the delivery counts, too.
    let late = bounce(mail, "Permanent", "NoEmail", "bob@example.net");
    assert_eq!(story.tell(&late).await.status, 204);
    assert_eq!(story.statuses(&id).await, [Status::Bounced, Status::Delivered]);
}

#[tokio::test]
async fn an_opening_is_told_once_and_of_the_recipient_it_is_known_of() {
    let story = Story::subscribed().await;
    let id = story.sent("0102-o").await;
    let opened = |to: Value| {
        let mut mail = story.mailed("0102-o");
        mail["destination"] = to;
        json!({"eventType": "Open", "mail": mail, "open": {"userAgent": "Thunderbird/128"}})
    };
    for to in [json!(["bob@example.net"]), json!(["bob@example.net"]), json!(["bob@example.net", "eve@example.net"])] {
        assert_eq!(story.tell(&opened(to)).await.status, 204);
    }
    assert_eq!(story.count("outbound.opened").await, 1);
    let opened: Vec<_> = story.state(&id).await.recipients.iter().map(|r| r.opened).collect();
    assert_eq!(opened, [(true, false), (false, false)]);
}

#[tokio::test]
async fn refusals_of_the_provider_are_for_the_mail_or_for_who_is_on_its_list() {
    let story = Story::subscribed().await;
    let virus = story.sent("0102-v").await;
    let told = json!({"eventType": "Reject", "mail": story.mailed("0102-v"), "reject": {"reason": "Bad content"}});
    assert_eq!(story.tell(&told).await.status, 204);
    assert_eq!(story.statuses(&virus).await, [Status::Rejected, Status::Rejected]);
    assert!(!story.is_suppressed("bob@example.net").await);
    let listed = story.sent("0102-l").await;
    let told = bounce(story.mailed("0102-l"), "Permanent", "OnAccountSuppressionList", "eve@example.net");
    assert_eq!(story.tell(&told).await.status, 204);
    assert_eq!(story.statuses(&listed).await, [Status::Sent, Status::Rejected]);
    assert!(story.is_suppressed("eve@example.net").await);
}

#[tokio::test]
async fn what_amazon_did_not_sign_changes_nothing() {
    let story = Story::subscribed().await;
    story.sent("0102-a").await;
    let told = bounce(story.mailed("0102-a"), "Permanent", "General", "bob@example.net");
    let genuine = sign(story.notification(&told), key(0));
    let with = |field: &str, value: Value| {
        let mut message = genuine.clone();
        message[field] = value;
        message
    };
    let signed_with = |field: &str, value: Value| {
        let mut message = story.notification(&told);
        message[field] = value;
        sign(message, key(0))
    };
    let elsewhere = |url: &str| signed_with("SigningCertURL", json!(url));
    story.amazon.show(
        "https://sns.eu-west-1.amazonaws.com/other.pem",
        200,
        certificate(key(1), "sns.amazonaws.com", (2026, 2027)),
    );
    story.amazon.show(
        "https://sns.eu-west-1.amazonaws.com/name.pem",
        200,
        certificate(key(0), "s3.amazonaws.com", (2026, 2027)),
    );
    story.amazon.show(
        "https://sns.eu-west-1.amazonaws.com/old.pem",
        200,
        certificate(key(0), "sns.amazonaws.com", (2024, 2025)),
    );
    story.amazon.show("https://sns.eu-west-1.amazonaws.com/junk.pem", 200, "junk".to_owned());
    let before = (story.names().await, story.amazon.fetched().len());
    let rows = [
        ("another message", 403, with("Message", json!(told.to_string().replace("bob", "eve")))),
        ("another time", 403, with("Timestamp", json!(rfc3339(story.world.now() - SECOND)))),
        ("another subject", 403, with("Subject", json!("x"))),
        ("no signature", 403, with("Signature", json!(""))),
        ("another signer", 403, sign(story.notification(&told), key(1))),
        ("a version of our own", 403, with("SignatureVersion", json!("3"))),
        ("the other version", 403, with("SignatureVersion", json!("1"))),
        ("a foreign topic", 403, signed_with("TopicArn", json!("arn:aws:sns:eu-west-1:999999999999:mail"))),
        ("no topic", 400, signed_with("TopicArn", json!("mail"))),
        ("an old message", 403, signed_with("Timestamp", json!(rfc3339(story.world.now() - 3_601 * SECOND)))),
        ("a message of tomorrow", 403, signed_with("Timestamp", json!(rfc3339(story.world.now() + 3_601 * SECOND)))),
        ("no time", 400, signed_with("Timestamp", json!("yesterday"))),
        ("a type of our own", 400, with("Type", json!("Order"))),
        ("no JSON", 400, json!("hello")),
        ("foreign host", 403, elsewhere("https://evil.example/SimpleNotificationService-0.pem")),
        ("foreign bucket", 403, elsewhere("https://x.s3.amazonaws.com/SimpleNotificationService-0.pem")),
        ("no certificate", 403, elsewhere("https://sns.eu-west-1.amazonaws.com/x.txt")),
        ("with a query", 403, elsewhere("https://sns.eu-west-1.amazonaws.com/x.pem?y=z.pem")),
        ("by http", 403, elsewhere("http://sns.eu-west-1.amazonaws.com/x.pem")),
    ];
    for (what, status, message) in &rows {
        assert_eq!(story.post(message).await.status.as_u16(), *status, "{what}");
    }
    assert_eq!(story.amazon.fetched().len(), before.1, "nothing was fetched for them");
    let rows = [
        ("another key's certificate", 403, elsewhere("https://sns.eu-west-1.amazonaws.com/other.pem")),
        ("a certificate for another name", 403, elsewhere("https://sns.eu-west-1.amazonaws.com/name.pem")),
        ("a certificate of yesteryear", 403, elsewhere("https://sns.eu-west-1.amazonaws.com/old.pem")),
        ("junk", 403, elsewhere("https://sns.eu-west-1.amazonaws.com/junk.pem")),
        ("a page that is not there", 503, elsewhere("https://sns.eu-west-1.amazonaws.com/none.pem")),
    ];
    for (what, status, message) in &rows {
        assert_eq!(story.post(message).await.status.as_u16(), *status, "{what}");
    }
    assert_eq!(story.names().await, before.0);
    let none = elsewhere("https://sns.eu-west-1.amazonaws.com/none.pem");
    let fetched = story.amazon.fetched().len();
    assert_eq!(story.post(&none).await.status, 503);
    assert_eq!(story.amazon.fetched().len(), fetched, "what was not there is not asked for again at once");
    assert_eq!(story.post(&genuine).await.status, 204);
    assert_eq!(story.count("outbound.bounced").await, 1, "the genuine one counts");
}

#[tokio::test]
async fn a_url_that_was_not_made_here_is_no_url_and_a_huge_body_is_not_read() {
    let story = Story::subscribed().await;
    let message = sign(story.confirmation(TOPIC), key(0)).to_string();
    let (rest, last) = story.path.split_at(story.path.len() - 1);
    let forged = format!("{rest}{}", if last == "a" { "b" } else { "a" });
    for path in [forged.as_str(), "/provider-notifications/x"] {
        let answer = story.world.post(path).body(message.clone()).send().await;
        assert_eq!(answer.refusal(), (404, "not_found".to_owned()), "{path}");
    }
    let huge = story.world.post(&story.path).body(vec![b' '; 2 * 1024 * 1024]).send().await;
    assert_eq!(huge.refusal(), (413, "payload_too_large".to_owned()));
    let deep = story.world.post(&story.path).body("[".repeat(100_000)).send().await;
    assert_eq!(deep.status, 400);
    story.world.delete(&format!("/providers/{}", story.account)).key(&story.team.root).send().await.data();
    assert_eq!(story.post(&sign(story.confirmation(TOPIC), key(0))).await.refusal(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn the_first_confirmed_topic_is_bound_and_its_owner_may_change_it() {
    let story = Story::new().await;
    let told = bounce(story.mailed("0102-a"), "Permanent", "General", "bob@example.net");
    assert_eq!(story.tell(&told).await.status, 403, "no topic is bound yet");
    let confirm = |field: &str, value: &str| {
        let mut message = story.confirmation(TOPIC);
        message[field] = json!(value);
        sign(message, key(0))
    };
    for url in [
        "https://evil.example/?Action=ConfirmSubscription",
        "http://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.eu-west-1.amazonaws.com/?Action=Publish",
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:eu-west-1:9:x",
        "https://169.254.169.254/latest/meta-data",
    ] {
        assert_eq!(story.post(&confirm("SubscribeURL", url)).await.status, 403, "{url}");
    }
    assert_eq!(story.amazon.fetched(), [CERTIFICATE], "nothing was confirmed");
    story.amazon.show("https://sns.eu-west-1.amazonaws.com/?", 500, String::new());
    let genuine = sign(story.confirmation(TOPIC), key(0));
    assert_eq!(story.post(&genuine).await.status, 503, "Amazon is to ask again");
    story.amazon.show("https://sns.eu-west-1.amazonaws.com/?", 200, String::new());
    for _ in 0..2 {
        assert_eq!(story.post(&genuine).await.status, 204);
    }
    assert_eq!(story.count("provider.topic_bound").await, 1);
    let path = format!("/providers/{}", story.account);
    let shown = || story.world.get(&path).key(&story.team.root).send();
    assert_eq!(shown().await.data()["ses_topic_arn"], TOPIC);
    let other = "arn:aws:sns:eu-west-1:123456789012:other";
    let fetched = story.amazon.fetched().len();
    assert_eq!(story.post(&sign(story.confirmation(other), key(0))).await.status, 403);
    assert_eq!(story.amazon.fetched().len(), fetched, "another topic is not confirmed");
    let change =
        |topic: Value| story.world.patch(&path).key(&story.team.root).json(&json!({"ses_topic_arn": topic})).send();
    assert_eq!(change(json!("mail")).await.param(), "ses_topic_arn");
    assert_eq!(change(json!(null)).await.data()["ses_topic_arn"], Value::Null);
    assert_eq!(story.post(&sign(story.confirmation(other), key(0))).await.status, 204);
    assert_eq!(shown().await.data()["ses_topic_arn"], other);
    assert_eq!(change(json!(TOPIC)).await.data()["ses_topic_arn"], TOPIC);
}

#[tokio::test]
async fn mail_that_is_not_known_is_passed_over_and_yet_unrecorded_mail_asked_for_again() {
    let story = Story::subscribed().await;
    let id = story.sent("0102-a").await;
    let before = story.names().await;
    let stranger = bounce(story.mailed("0102-z"), "Permanent", "General", "bob@example.net");
    assert_eq!(story.tell(&stranger).await.status, 204);
    let not_in_it = bounce(story.mailed("0102-a"), "Permanent", "General", "mallory@example.net");
    assert_eq!(story.tell(&not_in_it).await.status, 204);
    let odd = bounce(story.mailed("0102-a"), "Permanent", "General", "not an address");
    assert_eq!(story.tell(&odd).await.status, 204);
    // Amazon says hello in plain words, and of what nobody asked.
    for message in ["Successfully validated SNS topic.", r#"{"eventType":"Open","mail":{"messageId":"0102-a"}}"#] {
        let mut hello = story.notification(&json!({}));
        hello["Message"] = json!(message);
        assert_eq!(story.post(&sign(hello, key(0))).await.status, 204, "{message}");
    }
    let mut young = story.mailed("0102-y");
    young["timestamp"] = json!(rfc3339(story.world.now() - SECOND));
    assert_eq!(story.tell(&bounce(young, "Permanent", "General", "bob@example.net")).await.status, 503);
    // A mail that left by another account is none of this one's.
    let account = story.world.get("/providers").key(&story.team.root).send().await.data();
    let foreign = account.as_array().unwrap().iter().find(|a| a["transport"] == "sandbox").unwrap()["id"].clone();
    assert_ne!(foreign, json!(story.account));
    assert_eq!(story.names().await, before);
    assert_eq!(story.statuses(&id).await, [Status::Sent, Status::Sent]);
    let (team, other) = (&story.team, Story::subscribed().await);
    let theirs = bounce(
        json!({"tags": {"postlog_mail": [id], "postlog_team": [team.id]}}),
        "Permanent",
        "General",
        "bob@example.net",
    );
    assert_eq!(other.tell(&theirs).await.status, 204);
    assert_eq!(story.names().await, before, "another team's topic says nothing about our mail");
}
