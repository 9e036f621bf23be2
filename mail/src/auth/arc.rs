//! The chain of custody that forwarders sign (RFC 8617), verified.

use std::collections::BTreeMap;

use mail_auth::common::crypto::Algorithm;

use super::dkim::{Kind, PublicKey, Signature, Stop, algorithm, domain_name};
use super::resolver::Resolver;
use super::results::{ArcVerdict, AuthResult, DkimVerdict};
use super::signed::{Form, RawField, SignedMessage, canonical_field, canonical_signature};
use super::tags::{TagList, base64};

/// Sets in a chain (RFC 8617 section 5.1.1.1).
const SETS_MAX: u64 = 50;

/// The three fields of one instance, as far as they have been found.
#[derive(Default)]
struct Found<'a> {
    results: Option<RawField<'a>>,
    signature: Option<RawField<'a>>,
    seal: Option<RawField<'a>>,
}

struct Set<'a> {
    results: RawField<'a>,
    signature: RawField<'a>,
    seal: RawField<'a>,
    parsed: Seal,
}

struct Seal {
    domain: String,
    selector: String,
    algorithm: Algorithm,
    signature: Vec<u8>,
    chain: String,
}

/// Verifies the chain: its structure, the newest message signature, and every seal.
pub async fn verify_arc(message: &SignedMessage<'_>, now: i64, resolver: &dyn Resolver) -> ArcVerdict {
    let mut verdict = ArcVerdict::default();
    let checked = match collect(message, &mut verdict) {
        Ok(sets) if sets.is_empty() => return verdict,
        Ok(sets) => check(message, &sets, now, resolver).await,
        Err(stop) => Err(stop),
    };
    match checked {
        Ok(()) => verdict.result = AuthResult::Pass,
        Err(stop) => {
            // Whatever breaks a chain makes it fail for good; only a missing answer may come later (section 5.2).
            verdict.result =
                if stop.result == AuthResult::Temperror { AuthResult::Temperror } else { AuthResult::Fail };
            verdict.reason = Some(stop.reason.to_owned());
        }
    }
    verdict
}

fn collect<'a>(message: &SignedMessage<'a>, verdict: &mut ArcVerdict) -> Result<Vec<Set<'a>>, Stop> {
    let mut found: BTreeMap<u64, Found<'a>> = BTreeMap::new();
    for field in &message.fields {
        let results = field.is("ARC-Authentication-Results");
        let signature = field.is("ARC-Message-Signature");
        if !(results || signature || field.is("ARC-Seal")) {
            continue;
        }
        let instance = instance(*field, results).ok_or(Stop::failed("bad instance"))?;
        let entry = found.entry(instance).or_default();
        let slot = match (results, signature) {
            (true, _) => &mut entry.results,
            (_, true) => &mut entry.signature,
            _ => &mut entry.seal,
        };
        if slot.replace(*field).is_some() {
            return Err(Stop::failed("instance given twice"));
        }
    }
    let mut sets = Vec::new();
    for (position, (instance, entry)) in found.into_iter().enumerate() {
        let (Some(results), Some(signature), Some(seal)) = (entry.results, entry.signature, entry.seal) else {
            return Err(Stop::failed("incomplete set"));
        };
        if instance != position as u64 + 1 {
            return Err(Stop::failed("set missing"));
        }
        let parsed = Seal::parse(seal)?;
        verdict.sealers.push(parsed.domain.clone());
        verdict.sets += 1;
        sets.push(Set { results, signature, seal, parsed });
    }
    Ok(sets)
}

/// The `i=` of a field. In `ARC-Authentication-Results` it is the first thing, and what follows is no tag list.
fn instance(field: RawField<'_>, results: bool) -> Option<u64> {
    let number = if results {
        let first = field.value.split(|byte| *byte == b';').next()?;
        let (name, value) = std::str::from_utf8(first).ok()?.split_once('=')?;
        let value = value.trim();
        let fine = name.trim() == "i"
            && !value.is_empty()
            && value.len() <= 2
            && value.bytes().all(|byte| byte.is_ascii_digit());
        value.parse().ok().filter(|_| fine)?
    } else {
        TagList::parse(field.value)?.number("i").ok()??
    };
    (1..=SETS_MAX).contains(&number).then_some(number)
}

impl Seal {
    fn parse(field: RawField<'_>) -> Result<Self, Stop> {
        let missing = || Stop::failed("missing or bad tag in a seal");
        let tags = TagList::parse(field.value).ok_or_else(missing)?;
        if tags.get("h").is_some() || tags.get("bh").is_some() {
            return Err(Stop::failed("a seal must not name fields"));
        }
        let name = tags.get("a").ok_or_else(missing)?.to_ascii_lowercase();
        Ok(Seal {
            domain: domain_name(tags.get("d")).filter(|domain| domain.contains('.')).ok_or_else(missing)?,
            selector: domain_name(tags.get("s")).ok_or_else(missing)?,
            algorithm: algorithm(&name)?,
            signature: tags.compact("b").and_then(|b| base64(&b)).filter(|b| !b.is_empty()).ok_or_else(missing)?,
            chain: tags.get("cv").ok_or_else(missing)?.to_ascii_lowercase(),
        })
    }
}

async fn check(message: &SignedMessage<'_>, sets: &[Set<'_>], now: i64, resolver: &dyn Resolver) -> Result<(), Stop> {
    for (position, set) in sets.iter().enumerate() {
        let expected = if position == 0 { "none" } else { "pass" };
        if set.parsed.chain != expected {
            return Err(Stop::failed("a forwarder found the chain broken"));
        }
        // Only the newest message signature can still be valid, but all must be well-formed.
        Signature::parse(set.signature, Kind::Arc, &mut DkimVerdict::default())?;
    }
    let Some(newest) = sets.last() else {
        return Ok(());
    };
    let mut scratch = DkimVerdict::default();
    let signature = Signature::parse(newest.signature, Kind::Arc, &mut scratch)?;
    signature.check_content(message, now, &mut scratch)?;
    signature.check_key(message, newest.signature, resolver, &mut scratch).await?;
    for position in (0..sets.len()).rev() {
        check_seal(&sets[..=position], resolver).await?;
    }
    Ok(())
}

/// A seal covers all sets up to its own (RFC 8617 section 5.1.1), always in relaxed form.
async fn check_seal(sets: &[Set<'_>], resolver: &dyn Resolver) -> Result<(), Stop> {
    let Some((last, before)) = sets.split_last() else {
        return Ok(());
    };
    let seal = &last.parsed;
    let key = PublicKey::fetch(&seal.domain, &seal.selector, seal.algorithm, resolver).await?;
    let mut covered = Vec::new();
    for set in before {
        for field in [set.results, set.signature, set.seal] {
            canonical_field(&mut covered, field, Form::Relaxed);
        }
    }
    canonical_field(&mut covered, last.results, Form::Relaxed);
    canonical_field(&mut covered, last.signature, Form::Relaxed);
    canonical_signature(&mut covered, last.seal, Form::Relaxed);
    key.verify(&covered, &seal.signature, seal.algorithm)
}
