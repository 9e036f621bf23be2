//! DKIM and ARC: the vectors of RFC 8463, signatures made here, and what must not pass.
#![expect(clippy::unwrap_used, reason = "tests")]

use mail::auth::{ArcVerdict, AuthResult, DkimVerdict, SignedMessage, Zone, verify_arc, verify_dkim};
use mail_auth::common::crypto::{Ed25519Key, SigningKey as _};
use sha2::{Digest as _, Sha256};

/// The key pair of RFC 8032 section 7.1 test 1, which RFC 8463 uses too.
const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
/// The RSA key of RFC 8463 appendix A.2 (1024 bits), and one of 512 bits.
const RSA_1024: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";
const RSA_512: &str = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALshmZZDvXa2dVeH+dtWgN6m498VNooA6WKmz3VKHpY0M98bUhJ3gke8LEXr8tbY/R8ePB2yuBDGBKxbXqrnF+MCAwEAAQ==";
const NOW: i64 = 1_700_000_000;

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// An independent relaxed canonicalisation: by words, unlike the one under test.
fn relaxed(field: &str) -> String {
    let (name, value) = field.split_once(':').unwrap();
    format!("{}:{}", name.trim_end().to_ascii_lowercase(), value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

fn sign(bytes: &str) -> String {
    let key = Ed25519Key::from_seed_and_public_key(
        &mail::message::decode_base64(SEED.as_bytes()),
        &mail::message::decode_base64(PUBLIC.as_bytes()),
    );
    base64(&key.unwrap().sign(bytes.as_bytes()).unwrap())
}

/// A message with unfolded fields and a body that is canonical already.
#[derive(Clone)]
struct Mail {
    fields: Vec<String>,
    body: String,
}

impl Mail {
    fn new() -> Self {
        let fields = ["From: Joe <joe@a.example>", "To: ann@b.example", "Subject: Dinner  ready?"];
        Mail { fields: fields.map(str::to_owned).to_vec(), body: "Hi.\r\n\r\nWe lost.\r\n".to_owned() }
    }

    fn raw(&self) -> String {
        format!("{}\r\n\r\n{}", self.fields.join("\r\n"), self.body)
    }

    fn body_hash(&self) -> String {
        base64(&Sha256::digest(self.body.as_bytes()))
    }

    /// Signs the named fields with a field that begins with `start` and puts it on top.
    fn signed(mut self, start: &str, names: &[&str]) -> Self {
        let mut used = vec![false; self.fields.len()];
        let mut covered = String::new();
        for name in names {
            let found = (0..self.fields.len())
                .rev()
                .find(|i| !used[*i] && self.fields[*i].to_ascii_lowercase().starts_with(&format!("{name}:")));
            if let Some(index) = found {
                used[index] = true;
                covered.push_str(&relaxed(&self.fields[index]));
                covered.push_str("\r\n");
            }
        }
        let field = format!("{start}; b=");
        covered.push_str(&relaxed(&field));
        self.fields.insert(0, format!("{field}{}", sign(&covered)));
        self
    }

    fn dkim(self, extra: &str) -> Self {
        let bh = self.body_hash();
        let start = format!(
            "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=a.example; s=sel; h=from:to:subject:from; bh={bh}{extra}"
        );
        self.signed(&start, &["from", "to", "subject", "from"])
    }
}

fn key_zone(record: &str) -> Zone {
    Zone::new().with_txt("sel._domainkey.a.example", record)
}

fn good_zone() -> Zone {
    key_zone(&format!("v=DKIM1; k=ed25519; p={PUBLIC}"))
}

async fn dkim(raw: &str, zone: &Zone) -> Vec<DkimVerdict> {
    verify_dkim(&SignedMessage::split(raw.as_bytes()), NOW, zone).await
}

async fn one(raw: &str, zone: &Zone) -> (AuthResult, String) {
    let verdicts = dkim(raw, zone).await;
    assert_eq!(verdicts.len(), 1);
    (verdicts[0].result, verdicts[0].reason.clone().unwrap_or_default())
}

#[tokio::test]
async fn the_vectors_of_the_standard_pass_and_any_change_fails() {
    let raw = include_str!("data/rfc8463-appendix-a.eml").replace("\r\n", "\n").replace('\n', "\r\n");
    let zone = Zone::new()
        .with_txt("brisbane._domainkey.football.example.com", format!("v=DKIM1; k=ed25519; p={PUBLIC}"))
        .with_txt("test._domainkey.football.example.com", format!("v=DKIM1; k=rsa; p={RSA_1024}"));
    let verdicts = dkim(&raw, &zone).await;
    let seen: Vec<_> =
        verdicts.iter().map(|v| (v.result, v.alg.as_str(), v.bits, v.domain.as_str(), v.selector.as_str())).collect();
    assert_eq!(
        seen,
        [
            (AuthResult::Pass, "ed25519-sha256", None, "football.example.com", "brisbane"),
            (AuthResult::Pass, "rsa-sha256", Some(1024), "football.example.com", "test"),
        ]
    );
    for (from, to) in [
        ("Joe SixPack", "Eve SixPack"),
        ("dinner ready?", "dinner steady?"),
        ("hungry yet", "hungry now"),
        ("Fri, 11", "Fri, 12"),
    ] {
        let verdicts = dkim(&raw.replace(from, to), &zone).await;
        assert!(verdicts.iter().all(|v| v.result == AuthResult::Fail), "{from} -> {to}");
    }
    // White space may change on the way, and fields outside the signature may be added.
    let travelled = format!(
        "X-Trace: 1\r\n{}",
        raw.replace("Subject: Is", "Subject:\r\n  Is").replace("Joe.\r\n", "Joe.  \r\n\r\n\r\n")
    );
    assert!(dkim(&travelled, &zone).await.iter().all(|v| v.result == AuthResult::Pass));
    // An oversigned field must not be added.
    let doubled = dkim(&format!("From: Eve <eve@evil.example>\r\n{raw}"), &zone).await;
    assert!(doubled.iter().all(|v| v.result == AuthResult::Fail));
}

#[tokio::test]
async fn signatures_made_here_pass_by_the_same_rules() {
    assert_eq!(one(&Mail::new().dkim("").raw(), &good_zone()).await, (AuthResult::Pass, String::new()));
    let later = format!("; t=1600000000; x={}", NOW + 10);
    assert_eq!(one(&Mail::new().dkim(&later).raw(), &good_zone()).await.0, AuthResult::Pass);
    for identity in ["@a.example", "joe@a.example", "@sub.a.example"] {
        let raw = Mail::new().dkim(&format!("; i={identity}")).raw();
        assert_eq!(one(&raw, &good_zone()).await.0, AuthResult::Pass, "{identity}");
    }
    let partial = Mail::new().dkim("; l=17");
    assert!(!dkim(&partial.raw(), &good_zone()).await[0].body_partial, "covers all there is");
    let appended = Mail { body: format!("{}Buy now\r\n", partial.body), ..partial };
    let verdict = dkim(&appended.raw(), &good_zone()).await.remove(0);
    assert_eq!((verdict.result, verdict.body_partial), (AuthResult::Pass, true));
    let testing = key_zone(&format!("v=DKIM1; k=ed25519; t=y:x; p={PUBLIC}"));
    assert!(dkim(&Mail::new().dkim("").raw(), &testing).await[0].testing);
}

#[tokio::test]
async fn malformed_signatures_never_pass() {
    let cases = [
        ("expired", Mail::new().dkim(&format!("; x={}", NOW - 1)).raw(), AuthResult::Fail),
        ("expires before signed", Mail::new().dkim("; t=1800000000; x=1750000000").raw(), AuthResult::Permerror),
        ("foreign identity", Mail::new().dkim("; i=@evil.example").raw(), AuthResult::Permerror),
        ("identity suffix", Mail::new().dkim("; i=@eva.example").raw(), AuthResult::Permerror),
        ("body longer than there is", Mail::new().dkim("; l=99999").raw(), AuthResult::Permerror),
        ("number with sign", Mail::new().dkim("; l=-1").raw(), AuthResult::Permerror),
        ("tag twice", Mail::new().dkim("; s=sel").raw(), AuthResult::Permerror),
        ("unknown query", Mail::new().dkim("; q=http").raw(), AuthResult::Permerror),
        ("empty tag", Mail::new().dkim(";").raw(), AuthResult::Permerror),
    ];
    for (name, raw, expected) in cases {
        assert_eq!(one(&raw, &good_zone()).await.0, expected, "{name}");
    }
    let good = Mail::new().dkim("").raw();
    for (from, to) in [
        ("v=1;", ""),
        ("v=1;", "v=2;"),
        ("a=ed25519-sha256", "a=rsa-sha1"),
        ("a=ed25519-sha256", "a=none"),
        ("d=a.example;", ""),
        ("d=a.example", "d=example"),
        ("s=sel;", ""),
        ("h=from:to:subject:from", "h=to:subject"),
        ("h=from:to", "h=from::to"),
        ("c=relaxed/relaxed", "c=relaxed/nothing"),
        ("b=", "b=!"),
        ("bh=", "bh=!"),
        ("; bh=", "; x="),
    ] {
        let result = one(&good.replacen(from, to, 1), &good_zone()).await.0;
        assert_eq!(result, AuthResult::Permerror, "{from} -> {to}");
    }
    let unsigned_from = Mail::new();
    let bh = unsigned_from.body_hash();
    let start =
        format!("DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=a.example; s=sel; h=to:subject; bh={bh}");
    let raw = unsigned_from.signed(&start, &["to", "subject"]).raw();
    assert_eq!(one(&raw, &good_zone()).await, (AuthResult::Permerror, "From is not signed".to_owned()));
    assert!(dkim("From: a@b\r\n\r\nx", &good_zone()).await.is_empty());
    let many = format!("{}From: a@b\r\n\r\nx", "DKIM-Signature: x\r\n".repeat(50));
    assert_eq!(dkim(&many, &good_zone()).await.len(), 10);
}

#[tokio::test]
async fn keys_are_checked_before_they_are_used() {
    let raw = Mail::new().dkim("").raw();
    let cases = [
        ("no key", Zone::new(), AuthResult::Permerror),
        ("servers down", Zone::new().with_failure("sel._domainkey.a.example"), AuthResult::Temperror),
        ("revoked", key_zone("v=DKIM1; k=ed25519; p="), AuthResult::Permerror),
        ("no p", key_zone("v=DKIM1; k=ed25519"), AuthResult::Permerror),
        ("another version", key_zone(&format!("v=DKIM2; k=ed25519; p={PUBLIC}")), AuthResult::Permerror),
        ("version not first", key_zone(&format!("k=ed25519; v=DKIM1; p={PUBLIC}")), AuthResult::Permerror),
        ("no version", key_zone(&format!("k=ed25519; p={PUBLIC}")), AuthResult::Pass),
        ("other type", key_zone(&format!("v=DKIM1; k=rsa; p={RSA_1024}")), AuthResult::Permerror),
        ("other hash", key_zone(&format!("v=DKIM1; k=ed25519; h=sha1; p={PUBLIC}")), AuthResult::Permerror),
        ("right hash", key_zone(&format!("v=DKIM1; k=ed25519; h=sha1:sha256; p={PUBLIC}")), AuthResult::Pass),
        ("other service", key_zone(&format!("v=DKIM1; k=ed25519; s=tlsrpt; p={PUBLIC}")), AuthResult::Permerror),
        ("email service", key_zone(&format!("v=DKIM1; k=ed25519; s=email; p={PUBLIC}")), AuthResult::Pass),
        ("any service", key_zone(&format!("v=DKIM1; k=ed25519; s=*; p={PUBLIC}")), AuthResult::Pass),
        ("short key", key_zone("v=DKIM1; k=ed25519; p=AAAA"), AuthResult::Permerror),
        ("another key", key_zone(&format!("v=DKIM1; k=ed25519; p={}", base64(&[7; 32]))), AuthResult::Fail),
        ("tag twice", key_zone(&format!("v=DKIM1; k=ed25519; p={PUBLIC}; p=")), AuthResult::Permerror),
        (
            "noise beside",
            key_zone("hello").with_txt("sel._domainkey.a.example", format!("k=ed25519; p={PUBLIC}")),
            AuthResult::Pass,
        ),
    ];
    for (name, zone, expected) in cases {
        assert_eq!(one(&raw, &zone).await.0, expected, "{name}");
    }
    let strict = key_zone(&format!("v=DKIM1; k=ed25519; t=s; p={PUBLIC}"));
    assert_eq!(one(&Mail::new().dkim("; i=@a.example").raw(), &strict).await.0, AuthResult::Pass);
    assert_eq!(one(&Mail::new().dkim("; i=@x.a.example").raw(), &strict).await.0, AuthResult::Permerror);
    let weak = include_str!("data/rfc8463-appendix-a.eml").replace("\r\n", "\n").replace('\n', "\r\n");
    let zone = Zone::new().with_txt("test._domainkey.football.example.com", format!("v=DKIM1; p={RSA_512}"));
    assert_eq!(dkim(&weak, &zone).await[1].reason.as_deref(), Some("key too short"));
}

/// Adds one ARC set as a forwarder would.
fn forwarded(mail: Mail, instance: usize, chain: &str) -> Mail {
    let bh = mail.body_hash();
    let before: Vec<String> = (1..instance)
        .flat_map(|i| ["ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"].map(|name| (name, i)))
        .map(|(name, i)| mail.fields.iter().find(|f| f.starts_with(&format!("{name}: i={i};"))).unwrap().clone())
        .collect();
    let start = format!(
        "ARC-Message-Signature: i={instance}; a=ed25519-sha256; c=relaxed/relaxed; d=f{instance}.example; s=sel; h=from:to:subject; bh={bh}"
    );
    let mut mail = mail.signed(&start, &["from", "to", "subject"]);
    let results = format!("ARC-Authentication-Results: i={instance}; f{instance}.example; spf=pass; dkim=none");
    let seal =
        format!("ARC-Seal: i={instance}; a=ed25519-sha256; t=12345; cv={chain}; d=f{instance}.example; s=sel; b=");
    let covered: Vec<String> =
        before.iter().chain([&results, &mail.fields[0], &seal]).map(|field| relaxed(field)).collect();
    let seal = format!("{seal}{}", sign(&covered.join("\r\n")));
    mail.fields.splice(0..0, [seal, results]);
    mail
}

fn arc_zone() -> Zone {
    (1..=3).fold(Zone::new(), |zone, i| {
        zone.with_txt(&format!("sel._domainkey.f{i}.example"), format!("v=DKIM1; k=ed25519; p={PUBLIC}"))
    })
}

async fn arc(mail: &Mail, zone: &Zone) -> ArcVerdict {
    verify_arc(&SignedMessage::split(mail.raw().as_bytes()), NOW, zone).await
}

#[tokio::test]
async fn an_arc_chain_is_verified_hop_by_hop() {
    assert_eq!(arc(&Mail::new(), &arc_zone()).await, ArcVerdict::default());
    let once = forwarded(Mail::new(), 1, "none");
    let mut listed = once.clone();
    // A mailing list changes the subject and then signs what it made.
    listed.fields.iter_mut().find(|f| f.starts_with("Subject")).unwrap().insert_str(9, "[list] ");
    assert_eq!(arc(&listed, &arc_zone()).await.result, AuthResult::Fail, "changed after the last seal");
    let thrice = forwarded(forwarded(listed, 2, "pass"), 3, "pass");
    let verdict = arc(&thrice, &arc_zone()).await;
    assert_eq!((verdict.result, verdict.sets), (AuthResult::Pass, 3), "{verdict:?}");
    assert_eq!(verdict.sealers, ["f1.example", "f2.example", "f3.example"]);
    assert_eq!(arc(&once, &arc_zone()).await.result, AuthResult::Pass);
    let down = arc_zone().with_failure("sel._domainkey.f1.example");
    assert_eq!(arc(&thrice, &down).await.result, AuthResult::Temperror);
}

#[tokio::test]
async fn a_broken_arc_chain_fails() {
    let good = || forwarded(forwarded(Mail::new(), 1, "none"), 2, "pass");
    assert_eq!(arc(&good(), &arc_zone()).await.result, AuthResult::Pass);
    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut mail = good();
        change(&mut mail.fields);
        mail
    };
    let drop = |name: &'static str| changed(&|fields| fields.retain(|field| !field.starts_with(name)));
    let edit = |name: &'static str, from: &'static str, to: &'static str| {
        changed(&|fields| {
            let field = fields.iter_mut().find(|field| field.starts_with(name)).unwrap();
            *field = field.replacen(from, to, 1);
        })
    };
    let cases = [
        (
            "first set missing",
            changed(&|fields| fields.retain(|field| !(field.starts_with("ARC") && field.contains("i=1;")))),
        ),
        ("a seal missing", drop("ARC-Seal: i=2")),
        ("results missing", drop("ARC-Authentication-Results: i=1")),
        ("a signature missing", drop("ARC-Message-Signature: i=1")),
        ("instance twice", changed(&|fields| fields.push(fields[0].clone()))),
        ("results changed", edit("ARC-Authentication-Results: i=1", "spf=pass", "spf=fail")),
        ("wrong first cv", forwarded(Mail::new(), 1, "pass")),
        ("second cv none", forwarded(forwarded(Mail::new(), 1, "none"), 2, "none")),
        ("cv fail", forwarded(forwarded(Mail::new(), 1, "none"), 2, "fail")),
        ("seal names fields", edit("ARC-Seal: i=2", "t=12345", "h=from")),
        ("tag twice", edit("ARC-Seal: i=2", "t=12345", "t=12345; t=12345")),
        ("no cv", edit("ARC-Seal: i=2", "cv=pass; ", "")),
        ("instance zero", edit("ARC-Seal: i=2", "i=2", "i=0")),
        ("instance too large", edit("ARC-Seal: i=2", "i=2", "i=51")),
        ("instance of letters", edit("ARC-Authentication-Results: i=2", "i=2", "i=two")),
        ("rsa-sha1", edit("ARC-Seal: i=1", "ed25519-sha256", "rsa-sha1")),
        ("body changed", Mail { body: "Bye.\r\n".to_owned(), ..good() }),
        ("no keys", good()),
    ];
    for (name, mail) in cases {
        let zone = if name == "no keys" { Zone::new() } else { arc_zone() };
        let verdict = arc(&mail, &zone).await;
        assert_eq!(verdict.result, AuthResult::Fail, "{name}: {verdict:?}");
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// A change of any byte that is signed makes the signature fail.
        #[test]
        fn no_flipped_byte_passes(at in any::<prop::sample::Index>(), flip in 1_u8..=127) {
            let raw = Mail::new().dkim("").raw().into_bytes();
            let mut changed = raw.clone();
            let at = at.index(raw.len());
            changed[at] ^= flip;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let verdicts = runtime.block_on(verify_dkim(&SignedMessage::split(&changed), NOW, &good_zone()));
            let letters = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_ascii_lowercase().split_ascii_whitespace().collect::<String>();
            // Names are compared without case and white space is collapsed: such a change is none.
            if letters(&changed) != letters(&raw) {
                prop_assert!(verdicts.iter().all(|verdict| verdict.result != AuthResult::Pass), "{}", String::from_utf8_lossy(&changed));
            }
        }
    }
}
