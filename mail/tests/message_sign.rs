//! DKIM signing, judged by our verifier and by an independent one.
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::auth::{AuthResult, DkimKey, DkimSigner, KeyError, KeyType, SignError, SignedMessage, Zone};
use mail::auth::{sign_dkim, txt_strings, verify_dkim};
use mail::compose::{Draft, Limits, ListUnsubscribe, Person, Stamp};
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;
use std::sync::OnceLock;

const NOW: i64 = 1_751_367_157;

/// A generator with a fixed seed: keys of tests may be known to everyone.
fn random() -> impl FnMut(&mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |out| {
        for byte in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[3];
        }
    }
}

fn rsa() -> DkimSigner {
    static KEY: OnceLock<DkimKey> = OnceLock::new();
    let key = KEY.get_or_init(|| DkimKey::generate_rsa(2048, random()).unwrap()).clone();
    DkimSigner::new("Example.com", "s1", key).unwrap()
}

fn ed25519() -> DkimSigner {
    DkimSigner::new("example.com", "s2", DkimKey::generate_ed25519([42; 32]).unwrap()).unwrap()
}

fn message(from: &str) -> Vec<u8> {
    let draft = Draft {
        from: Person { email: from.to_owned(), name: Some("Ann Müller".to_owned()) },
        to: vec![Person { email: "bob@example.org".to_owned(), name: None }],
        subject: "Signed".to_owned(),
        text: Some("Hello  \r\n\r\nworld\t\r\n\r\n\r\n".to_owned()),
        html: Some("<p>Hello</p>".to_owned()),
        unsubscribe: Some(ListUnsubscribe { url: "https://example.com/u/1".to_owned(), mailto: None }),
        ..Draft::default()
    };
    let stamp = Stamp { message_id: "eml_1@example.com", at_micros: NOW * 1_000_000 };
    draft.check(&Limits::default()).unwrap().compose(&stamp).unwrap()
}

fn zone() -> Zone {
    Zone::new().with_txt(&rsa().record_name(), rsa().record()).with_txt(&ed25519().record_name(), ed25519().record())
}

async fn results(raw: &[u8], now: i64) -> Vec<(AuthResult, String)> {
    let verdicts = verify_dkim(&SignedMessage::split(raw), now, &zone()).await;
    verdicts.into_iter().map(|verdict| (verdict.result, verdict.alg)).collect()
}

const BOTH: [(AuthResult, &str); 2] = [(AuthResult::Pass, "rsa-sha256"), (AuthResult::Pass, "ed25519-sha256")];

fn is(found: &[(AuthResult, String)], expected: &[(AuthResult, &str)]) -> bool {
    found.iter().map(|(result, alg)| (*result, alg.as_str())).eq(expected.iter().copied())
}

#[tokio::test]
async fn a_composed_message_is_signed_twice_and_verifies() {
    let raw = message("ann@example.com");
    let signed = sign_dkim(&raw, &[&rsa(), &ed25519()], NOW).unwrap();
    assert!(signed.ends_with(&raw), "signing adds fields on top and changes nothing");
    assert!(is(&results(&signed, NOW).await, &BOTH));
    assert_eq!(sign_dkim(&raw, &[&rsa(), &ed25519()], NOW).unwrap(), signed, "the same time gives the same bytes");
    assert!(signed.split(|byte| *byte == b'\n').all(|line| line.len() <= 80));
    let sub = sign_dkim(&message("ann@mail.example.com"), &[&rsa()], NOW).unwrap();
    assert!(is(&results(&sub, NOW).await, &BOTH[..1]), "a domain above the author's is aligned");
    let week = 7 * 24 * 3600;
    assert!(is(&results(&signed, NOW + week - 1).await, &BOTH));
    assert!(results(&signed, NOW + week).await.iter().all(|(result, _)| *result == AuthResult::Fail), "expired");
}

#[tokio::test]
async fn no_sealed_field_can_be_added_or_changed() {
    let signed = sign_dkim(&message("ann@example.com"), &[&rsa(), &ed25519()], NOW).unwrap();
    let text = String::from_utf8(signed).unwrap();
    for name in ["From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "In-Reply-To", "References"]
        .into_iter()
        .chain(["MIME-Version", "Content-Type", "List-Unsubscribe", "List-Unsubscribe-Post"])
    {
        let added = format!("{name}: eve@example.net\r\n{text}");
        let found = results(added.as_bytes(), NOW).await;
        assert!(found.iter().all(|(result, _)| *result == AuthResult::Fail), "{name}");
    }
    let travelled = format!("Received: from x by y; now\r\n{}", text.replace("Subject: Signed", "Subject:  Signed"));
    assert!(is(&results(travelled.as_bytes(), NOW).await, &BOTH));
    let changed = text.replace("https://example.com/u/1", "https://example.net/u/1");
    assert!(results(changed.as_bytes(), NOW).await.iter().all(|(result, _)| *result == AuthResult::Fail));
}

/// The library canonicalises by itself; only the key comes from us.
#[tokio::test]
async fn an_independent_verifier_agrees() {
    use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, Txt};
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let signed = sign_dkim(&message("ann@example.com"), &[&rsa(), &ed25519()], i64::try_from(now).unwrap()).unwrap();
    let cache = Records::default();
    for signer in [rsa(), ed25519()] {
        let key = DomainKey::parse(signer.record().as_bytes()).unwrap();
        cache.put(&signer.record_name(), Txt::DomainKey(std::sync::Arc::new(key)));
    }
    let parsed = AuthenticatedMessage::parse(&signed).unwrap();
    let authenticator = MessageAuthenticator::new_cloudflare().unwrap();
    let outputs = authenticator.verify_dkim(Parameters::new(&parsed).with_txt_cache(&cache)).await;
    assert_eq!(outputs.len(), 2);
    for output in outputs {
        assert_eq!(output.result(), &DkimResult::Pass, "{output:?}");
    }
}

/// Key records by name: the library never gets to ask the network.
#[derive(Default)]
struct Records(std::sync::Mutex<std::collections::HashMap<Box<str>, mail_auth::Txt>>);

impl Records {
    fn put(&self, name: &str, record: mail_auth::Txt) {
        let names = [name.to_owned(), format!("{name}.")];
        self.0.lock().unwrap().extend(names.map(|name| (name.into_boxed_str(), record.clone())));
    }
}

impl mail_auth::ResolverCache<Box<str>, mail_auth::Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<mail_auth::Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn remove<Q>(&self, name: &Q) -> Option<mail_auth::Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        self.0.lock().unwrap().remove(name)
    }

    fn insert(&self, name: Box<str>, record: mail_auth::Txt, _until: std::time::Instant) {
        self.0.lock().unwrap().insert(name, record);
    }
}

#[test]
fn what_would_not_arrive_unchanged_or_not_count_is_not_signed() {
    let raw = |text: &str| rsa().sign(text.as_bytes(), NOW).unwrap_err();
    assert_eq!(raw("From: a@example.com\r\n\r\nbare\nline\r\n"), SignError::LineEnds);
    assert_eq!(raw("From: a@example.com\r\n\r\nbare\rline\r\n"), SignError::LineEnds);
    assert_eq!(raw("From: a@example.com\r\n\r\nno end"), SignError::LineEnds);
    assert_eq!(raw("From: a@example.com\r\n\r\nend\r"), SignError::LineEnds);
    assert_eq!(raw("To: a@example.com\r\n\r\n"), SignError::From);
    assert_eq!(raw("From: a@example.com\r\nFrom: b@example.com\r\n\r\n"), SignError::From);
    assert_eq!(raw("From: a@example.net\r\n\r\n"), SignError::NotAligned);
    assert_eq!(raw("From: a@notexample.com\r\n\r\n"), SignError::NotAligned);
    assert_eq!(raw("From: a@example.com, b@example.net\r\n\r\n"), SignError::NotAligned);
    let key = DkimKey::generate_ed25519([1; 32]).unwrap();
    assert_eq!(DkimSigner::new("x y", "s", key.clone()).unwrap_err(), SignError::Name("domain"));
    assert_eq!(DkimSigner::new("example.com", "a b", key).unwrap_err(), SignError::Name("selector"));
}

#[test]
fn keys_are_kept_and_published() {
    let key = DkimKey::generate_ed25519([42; 32]).unwrap();
    let again = DkimKey::from_der(KeyType::Ed25519, key.to_der()).unwrap();
    assert_eq!(again.record(), key.record());
    assert!(key.record().starts_with("v=DKIM1; k=ed25519; h=sha256; p="));
    assert_eq!(format!("{key:?}"), "DkimKey(ed25519)");
    let record = rsa().record();
    assert!(record.starts_with("v=DKIM1; k=rsa; h=sha256; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"), "{record}");
    let strings = txt_strings(&record);
    assert!(strings.len() == 2 && strings.iter().all(|string| string.len() <= 255) && strings.concat() == record);
    for (bits, error) in [(1024, KeyError::Bits), (2049, KeyError::Bits), (8192, KeyError::Bits)] {
        assert_eq!(DkimKey::generate_rsa(bits, random()).unwrap_err(), error);
    }
    assert_eq!(DkimKey::from_der(KeyType::Rsa, b"nonsense").unwrap_err(), KeyError::Malformed);
    assert_eq!(
        DkimKey::from_der(KeyType::Ed25519, key.to_der().split_last().unwrap().1).unwrap_err(),
        KeyError::Malformed
    );
}
