//! The peer's name, the query budget, and all methods together.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use mail::auth::AuthResult::{Fail, None as Nothing, Pass, Permerror, Temperror};
use mail::auth::{AuthRequest, DmarcPolicy, DnsError, MxRecord, Resolver, SpfScope, Zone, check_iprev, verify};

#[tokio::test]
async fn a_peer_is_known_by_a_name_that_leads_back() {
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let (Some(one), Some(two), Some(six)) = (address("192.0.2.1"), address("192.0.2.2"), address("2001:db8::1")) else {
        return;
    };
    let zone = Zone::new()
        .with_ptr(one, "MX.a.example.")
        .with_address("mx.a.example", one)
        .with_ptr(two, "mx.a.example")
        .with_ptr(six, "six.a.example")
        .with_address("six.a.example", six)
        .with_failure("192.0.2.9");
    let ask = |peer: &'static str| {
        let zone = zone.clone();
        async move {
            let Ok(peer) = peer.parse() else {
                return (Nothing, None);
            };
            let verdict = check_iprev(peer, &zone).await;
            (verdict.result, verdict.name)
        }
    };
    assert_eq!(ask("192.0.2.1").await, (Pass, Some("mx.a.example".to_owned())));
    assert_eq!(ask("::ffff:192.0.2.1").await, (Pass, Some("mx.a.example".to_owned())));
    assert_eq!(ask("2001:db8::1").await, (Pass, Some("six.a.example".to_owned())));
    assert_eq!(ask("192.0.2.2").await, (Fail, None));
    assert_eq!(ask("192.0.2.3").await, (Permerror, None));
    assert_eq!(ask("192.0.2.9").await, (Temperror, None));
}

const MESSAGE: &[u8] = b"From: Bob <bob@a.example>\r\nTo: ann@b.example\r\nSubject: x\r\n\r\nhello\r\n";

fn request<'a>(mail_from: Option<&'a str>, helo: &'a str, raw: &'a [u8]) -> AuthRequest<'a> {
    AuthRequest {
        raw,
        peer: IpAddr::from([192, 0, 2, 1]),
        helo,
        mail_from,
        receiver: "mx.b.example",
        now: 1_700_000_000,
    }
}

#[tokio::test]
async fn a_message_is_verified_as_a_whole() {
    let peer = IpAddr::from([192, 0, 2, 1]);
    let zone = Zone::new()
        .with_txt("a.example", "v=spf1 ip4:192.0.2.1 -all")
        .with_txt("mx.a.example", "v=spf1 a -all")
        .with_address("mx.a.example", peer)
        .with_ptr(peer, "mx.a.example")
        .with_txt("_dmarc.a.example", "v=DMARC1; p=reject");
    let results = verify(&request(Some("bounce@a.example"), "mx.a.example", MESSAGE), &zone).await;
    assert_eq!(results.verified_domain.as_deref(), Some("a.example"));
    let header = results.authentication_results_header("mx.b.example");
    let expected = "Authentication-Results: mx.b.example;\r\n iprev=pass (mx.a.example);\r\n spf=pass smtp.helo=mx.a.example;\r\n \
                    spf=pass smtp.mailfrom=a.example;\r\n dkim=none;\r\n dmarc=pass (p=reject) header.from=a.example;\r\n arc=none\r\n";
    assert_eq!(header, expected);
    let null = verify(&request(None, "mx.a.example", MESSAGE), &zone).await;
    let spf = null.spf.map(|spf| (spf.result, spf.domain, spf.scope));
    assert_eq!(spf, Some((Pass, "mx.a.example".to_owned(), SpfScope::Helo)));
    assert_eq!(null.verified_domain.as_deref(), Some("a.example"), "the peer's name is of the author's organisation");
    let forged = verify(&request(Some("x@evil.example"), "evil.example", MESSAGE), &zone).await;
    assert_eq!(forged.dmarc.map(|dmarc| (dmarc.result, dmarc.policy)), Some((Fail, Some(DmarcPolicy::Reject))));
    assert_eq!(forged.verified_domain, None);
    let twice = [b"From: eve@evil.example\r\n", MESSAGE].concat();
    let twice = verify(&request(Some("bounce@a.example"), "mx.a.example", &twice), &zone).await;
    assert_eq!((twice.dmarc.map(|dmarc| dmarc.result), twice.verified_domain), (Some(Permerror), None));
    let international = Zone::new()
        .with_txt("xn--mnchen-3ya.example", "v=spf1 ip4:192.0.2.1 -all")
        .with_txt("_dmarc.xn--mnchen-3ya.example", "v=DMARC1; p=reject");
    let raw = "From: x@münchen.example\r\n\r\nhi\r\n".as_bytes();
    let results = verify(&request(Some("x@münchen.example"), "h.example", raw), &international).await;
    assert_eq!(results.verified_domain.as_deref(), Some("xn--mnchen-3ya.example"));
}

/// Counts queries; every SPF record leads to ten exchangers of ten hosts each.
struct Greedy {
    queries: AtomicUsize,
}

#[async_trait]
impl Resolver for Greedy {
    async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        match name {
            "_dmarc.a.example" => Ok(vec![b"v=DMARC1; p=reject".to_vec()]),
            name if name.starts_with("_dmarc") => Err(DnsError::NxDomain),
            name if name.contains("_domainkey") => Err(DnsError::Temporary),
            _ => Ok(vec![(0..10).fold(b"v=spf1".to_vec(), |record, i| {
                [record, format!(" mx:m{i}.evil.example").into_bytes()].concat()
            })]),
        }
    }

    async fn a(&self, _name: &str) -> Result<Vec<std::net::Ipv4Addr>, DnsError> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        Ok(vec![std::net::Ipv4Addr::new(198, 51, 100, 1)])
    }

    async fn aaaa(&self, _name: &str) -> Result<Vec<std::net::Ipv6Addr>, DnsError> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        Ok(Vec::new())
    }

    async fn mx(&self, name: &str) -> Result<Vec<MxRecord>, DnsError> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        Ok((0..10).map(|i| MxRecord { preference: i, exchange: format!("h{i}.{name}") }).collect())
    }

    async fn ptr(&self, _address: IpAddr) -> Result<Vec<String>, DnsError> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        Ok((0..100).map(|i| format!("p{i}.evil.example")).collect())
    }
}

#[tokio::test]
async fn an_expensive_sender_neither_exceeds_the_budget_nor_escapes_the_policy() {
    let resolver = Greedy { queries: AtomicUsize::new(0) };
    let signatures: String = (0..10)
        .map(|i| format!("DKIM-Signature: v=1; a=rsa-sha256; d=evil{i}.example; s=s; h=from; bh=jt4bnZGEjbhDTEKZqzqpRQXOIOxqpBRwJpoVjjBSCE0=; b=AAAA\r\n"))
        .collect();
    let raw = [signatures.as_bytes(), MESSAGE].concat();
    let results = verify(&request(Some("x@evil.example"), "helo.evil.example", &raw), &resolver).await;
    assert!(resolver.queries.load(Ordering::Relaxed) <= 60);
    assert_eq!(results.spf.map(|spf| spf.result), Some(Permerror));
    assert_eq!(results.dmarc.map(|dmarc| (dmarc.result, dmarc.policy)), Some((Fail, Some(DmarcPolicy::Reject))));
    assert_eq!(results.dkim.len(), 10);
}

#[tokio::test]
async fn verification_can_run_on_any_worker() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let zone = Zone::new();
    let request = request(Some("a@b.example"), "h.example", MESSAGE);
    let results = is_send(verify(&request, &zone)).await;
    assert!(results.checked);
}
