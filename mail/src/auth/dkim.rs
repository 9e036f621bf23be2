//! DKIM signatures, verified (RFC 6376, 8301, 8463).

use mail_auth::common::crypto::Algorithm;
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;

use super::resolver::{DnsError, Resolver};
use super::results::{AuthResult, DkimVerdict};
use super::signed::{Form, RawField, SignedMessage, canonical_signature};
use super::tags::{TagList, base64};

/// Signatures evaluated; further ones are ignored.
const SIGNATURES_MAX: usize = 10;
/// Smallest RSA key accepted, in bits (RFC 8301 section 3.2).
const RSA_BITS_MIN: usize = 1024;
/// Largest RSA key accepted: verifying grows with the square of it.
const RSA_BITS_MAX: usize = 4096;
/// Fields a signature may name.
const SIGNED_FIELDS_MAX: usize = 200;

/// Verifies every signature of a message, up to ten, from the top of the header.
pub async fn verify_dkim(message: &SignedMessage<'_>, now: i64, resolver: &dyn Resolver) -> Vec<DkimVerdict> {
    let mut verdicts = Vec::new();
    for field in message.fields.iter().filter(|field| field.is("DKIM-Signature")).take(SIGNATURES_MAX) {
        verdicts.push(verify_one(message, *field, now, resolver).await);
    }
    verdicts
}

async fn verify_one(
    message: &SignedMessage<'_>,
    field: RawField<'_>,
    now: i64,
    resolver: &dyn Resolver,
) -> DkimVerdict {
    let mut verdict = DkimVerdict::default();
    let signature = match Signature::parse(field, Kind::Dkim, &mut verdict) {
        Ok(signature) => signature,
        Err(stop) => return stop.into_verdict(verdict),
    };
    let outcome = match signature.check_content(message, now, &mut verdict) {
        Ok(()) => signature.check_key(message, field, resolver, &mut verdict).await,
        Err(stop) => Err(stop),
    };
    match outcome {
        Ok(()) => DkimVerdict { result: AuthResult::Pass, ..verdict },
        Err(stop) => stop.into_verdict(verdict),
    }
}

/// Why a signature does not pass.
pub(super) struct Stop {
    pub result: AuthResult,
    pub reason: &'static str,
}

impl Stop {
    pub(super) fn malformed(reason: &'static str) -> Self {
        Stop { result: AuthResult::Permerror, reason }
    }

    pub(super) fn failed(reason: &'static str) -> Self {
        Stop { result: AuthResult::Fail, reason }
    }

    fn into_verdict(self, verdict: DkimVerdict) -> DkimVerdict {
        DkimVerdict { result: self.result, reason: Some(self.reason.to_owned()), ..verdict }
    }
}

/// The two kinds of signatures over a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dkim,
    /// `ARC-Message-Signature`: the same with `i=` as the instance and without `v=` (RFC 8617 section 4.1.2).
    Arc,
}

/// A well-formed signature.
pub(super) struct Signature {
    tags: TagList,
    pub domain: String,
    pub selector: String,
    algorithm: Algorithm,
    signature: Vec<u8>,
    body_hash: Vec<u8>,
    header_form: Form,
    body_form: Form,
    fields: Vec<String>,
    length: Option<u64>,
    expires: Option<u64>,
}

impl Signature {
    pub(super) fn parse(field: RawField<'_>, kind: Kind, verdict: &mut DkimVerdict) -> Result<Self, Stop> {
        let tags = TagList::parse(field.value).ok_or(Stop::malformed("bad tag list"))?;
        verdict.domain = domain_name(tags.get("d")).unwrap_or_default();
        verdict.selector = domain_name(tags.get("s")).unwrap_or_default();
        verdict.alg = tags.get("a").unwrap_or_default().to_ascii_lowercase();
        if kind == Kind::Dkim && tags.get("v") != Some("1") {
            return Err(Stop::malformed("bad version"));
        }
        let algorithm = algorithm(&verdict.alg)?;
        let missing = || Stop::malformed("missing or bad tag");
        let fields = tags.items("h").ok_or_else(missing)?;
        let (header_form, body_form) = forms(tags.get("c"))?;
        let decoded =
            |name: &str| tags.compact(name).and_then(|value| base64(&value)).filter(|bytes| !bytes.is_empty());
        let number = |name: &str| tags.number(name).map_err(|()| Stop::malformed("bad number"));
        let (length, expires, signed_at) = (number("l")?, number("x")?, number("t")?);
        let signature = Signature {
            domain: Some(verdict.domain.clone()).filter(|domain| domain.contains('.')).ok_or_else(missing)?,
            selector: Some(verdict.selector.clone()).filter(|selector| !selector.is_empty()).ok_or_else(missing)?,
            algorithm,
            signature: decoded("b").ok_or_else(missing)?,
            body_hash: decoded("bh").ok_or_else(missing)?,
            header_form,
            body_form,
            length,
            expires,
            fields,
            tags,
        };
        signature.check_tags(kind, signed_at)?;
        Ok(signature)
    }

    fn check_tags(&self, kind: Kind, signed_at: Option<u64>) -> Result<(), Stop> {
        let named = |name: &str| self.fields.iter().any(|field| field.eq_ignore_ascii_case(name));
        if self.fields.len() > SIGNED_FIELDS_MAX || self.fields.iter().any(String::is_empty) {
            return Err(Stop::malformed("bad list of signed fields"));
        }
        if !named("from") {
            return Err(Stop::malformed("From is not signed"));
        }
        if kind == Kind::Arc && named("arc-seal") {
            return Err(Stop::malformed("ARC-Seal must not be signed"));
        }
        if kind == Kind::Dkim && self.tags.get("i").is_some_and(|identity| !self.covers_identity(identity)) {
            return Err(Stop::malformed("identity outside the domain"));
        }
        if self
            .tags
            .items("q")
            .is_some_and(|methods| !methods.iter().any(|method| method == "dns/txt" || method == "dns"))
        {
            return Err(Stop::malformed("unknown query method"));
        }
        if let (Some(signed), Some(expires)) = (signed_at, self.expires)
            && expires <= signed
        {
            return Err(Stop::malformed("expires before it was signed"));
        }
        Ok(())
    }

    fn covers_identity(&self, identity: &str) -> bool {
        let Some((_, domain)) = identity.rsplit_once('@') else {
            return false;
        };
        is_same_or_below(&domain.to_ascii_lowercase(), &self.domain)
    }

    /// Checks what needs no DNS: expiry and body.
    pub(super) fn check_content(
        &self,
        message: &SignedMessage<'_>,
        now: i64,
        verdict: &mut DkimVerdict,
    ) -> Result<(), Stop> {
        if self.expires.is_some_and(|expires| i64::try_from(expires).is_ok_and(|expires| expires <= now)) {
            return Err(Stop::failed("signature expired"));
        }
        // An `l=` that covers the whole body today is still one under which text can be added.
        verdict.body_partial = self.length.is_some_and(|length| message.has_more_than(self.body_form, length));
        let hash = message.body_hash(self.body_form, self.length).ok_or(Stop::malformed("body shorter than signed"))?;
        if hash[..] != self.body_hash[..] {
            return Err(Stop::failed("body hash does not match"));
        }
        Ok(())
    }

    /// Looks the key up and checks the signature over the header.
    pub(super) async fn check_key(
        &self,
        message: &SignedMessage<'_>,
        field: RawField<'_>,
        resolver: &dyn Resolver,
        verdict: &mut DkimVerdict,
    ) -> Result<(), Stop> {
        let key = PublicKey::fetch(&self.domain, &self.selector, self.algorithm, resolver).await?;
        verdict.bits = key.bits;
        verdict.testing = key.testing;
        if key.strict_identity
            && let Some((_, domain)) = self.tags.get("i").and_then(|identity| identity.rsplit_once('@'))
            && !domain.eq_ignore_ascii_case(&self.domain)
        {
            return Err(Stop::malformed("identity below the domain is not allowed"));
        }
        let mut covered = message.canonical_fields(&self.fields, self.header_form);
        canonical_signature(&mut covered, field, self.header_form);
        key.verify(&covered, &self.signature, self.algorithm)
    }
}

pub(super) fn algorithm(name: &str) -> Result<Algorithm, Stop> {
    match name {
        "rsa-sha256" => Ok(Algorithm::RsaSha256),
        "ed25519-sha256" => Ok(Algorithm::Ed25519Sha256),
        "rsa-sha1" => Err(Stop::malformed("rsa-sha1 is no longer valid")),
        _ => Err(Stop::malformed("unknown algorithm")),
    }
}

fn forms(tag: Option<&str>) -> Result<(Form, Form), Stop> {
    let Some(tag) = tag else {
        return Ok((Form::Simple, Form::Simple));
    };
    let (header, body) = tag.split_once('/').unwrap_or((tag, "simple"));
    let form =
        |text: &str| Form::parse(&text.trim().to_ascii_lowercase()).ok_or(Stop::malformed("unknown canonicalization"));
    Ok((form(header)?, form(body)?))
}

/// Returns a domain name (or selector) in lower case A-label form if it is one.
pub(super) fn domain_name(text: Option<&str>) -> Option<String> {
    let name = text?.trim_end_matches('.');
    let name = if name.is_ascii() { name.to_ascii_lowercase() } else { idna::domain_to_ascii(name).ok()? };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(name)
}

pub(super) fn is_same_or_below(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// A key from the DNS that may verify a signature of the wanted kind.
pub(super) struct PublicKey {
    key: DomainKey,
    pub bits: Option<u32>,
    testing: bool,
    /// `t=s`: the identity must be of the domain itself.
    strict_identity: bool,
}

impl PublicKey {
    /// Fetches the key record (RFC 6376 section 3.6).
    pub(super) async fn fetch(
        domain: &str,
        selector: &str,
        algorithm: Algorithm,
        resolver: &dyn Resolver,
    ) -> Result<Self, Stop> {
        let texts = match resolver.txt(&format!("{selector}._domainkey.{domain}")).await {
            Ok(texts) => texts,
            Err(DnsError::NxDomain) => Vec::new(),
            Err(DnsError::Temporary) => {
                return Err(Stop { result: AuthResult::Temperror, reason: "no answer for the key" });
            }
        };
        let mut stop = Stop::malformed("no key for signature");
        // Several records are undefined (section 3.6.2.2): the first that is a key counts, but only a few are looked at.
        for text in texts.iter().take(3) {
            match Self::parse(text, algorithm) {
                Ok(key) => return Ok(key),
                Err(reason) => stop = reason,
            }
        }
        Err(stop)
    }

    fn parse(text: &[u8], algorithm: Algorithm) -> Result<Self, Stop> {
        let tags = TagList::parse(text).ok_or(Stop::malformed("bad key record"))?;
        if tags.get("v").is_some() && tags.first() != ("v", "DKIM1") {
            return Err(Stop::malformed("bad version of key record"));
        }
        let key_type = tags.get("k").unwrap_or("rsa").to_ascii_lowercase();
        let wanted = if algorithm == Algorithm::Ed25519Sha256 { "ed25519" } else { "rsa" };
        if key_type != wanted {
            return Err(Stop::malformed("key of another type"));
        }
        let allows = |name: &str, wanted: &[&str]| {
            tags.items(name)
                .is_none_or(|items| items.iter().any(|item| wanted.contains(&item.to_ascii_lowercase().as_str())))
        };
        if !allows("h", &["sha256"]) {
            return Err(Stop::malformed("key forbids the hash algorithm"));
        }
        if !allows("s", &["*", "email"]) {
            return Err(Stop::malformed("key is not for email"));
        }
        let public = tags.compact("p").ok_or(Stop::malformed("key record without a key"))?;
        if public.is_empty() {
            return Err(Stop::malformed("key revoked"));
        }
        let bytes = base64(&public).ok_or(Stop::malformed("bad key"))?;
        if wanted == "ed25519" && bytes.len() != 32 {
            return Err(Stop::malformed("bad key"));
        }
        // Rebuilt from checked values, so that the library reads what was checked here and nothing else.
        let record = format!("v=DKIM1; k={wanted}; p={public}");
        let key = DomainKey::parse(record.as_bytes()).map_err(|_| Stop::malformed("bad key"))?;
        let bits = if wanted == "rsa" { Some(key.p.public_key_bits()) } else { None };
        if bits.is_some_and(|bits| bits < RSA_BITS_MIN) {
            return Err(Stop::malformed("key too short"));
        }
        if bits.is_some_and(|bits| bits > RSA_BITS_MAX) {
            return Err(Stop::malformed("key too long"));
        }
        let flags = tags.items("t").unwrap_or_default();
        let bits = bits.and_then(|bits| u32::try_from(bits).ok());
        let flag = |wanted: &str| flags.iter().any(|flag| flag == wanted);
        Ok(PublicKey { key, bits, testing: flag("y"), strict_identity: flag("s") })
    }

    /// Checks a signature over bytes.
    pub(super) fn verify(&self, covered: &[u8], signature: &[u8], algorithm: Algorithm) -> Result<(), Stop> {
        self.key.p.verify_bytes(covered, signature, algorithm).map_err(|_| Stop::failed("signature does not match"))
    }
}
