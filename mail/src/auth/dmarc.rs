//! DMARC: does a verified domain belong to the author's (RFC 9989).

use super::dkim::{domain_name, is_same_or_below};
use super::resolver::{DnsError, Resolver};
use super::results::{AuthResult, DkimVerdict, DmarcPolicy, DmarcVerdict, SpfVerdict};

/// What DMARC builds on.
#[derive(Debug, Clone, Copy)]
pub struct DmarcInput<'a> {
    /// Number of `From` fields; with several, readers and signatures may mean different ones.
    pub from_fields: usize,
    /// The domains of the `From` addresses.
    pub authors: &'a [String],
    /// SPF of the envelope sender.
    pub spf: &'a SpfVerdict,
    /// The DKIM signatures.
    pub dkim: &'a [DkimVerdict],
}

/// A policy record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    policy: DmarcPolicy,
    subdomain_policy: Option<DmarcPolicy>,
    missing_policy: Option<DmarcPolicy>,
    strict_dkim: bool,
    strict_spf: bool,
    testing: bool,
    public_suffix: Option<bool>,
}

impl Record {
    /// Parses a record; `None` where it is to be treated as if it were not there (section 4.7).
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        // What is malformed behind the version is ignored tag by tag, not record by record.
        let tags: Vec<(&str, &str)> = text
            .split(';')
            .skip(1)
            .filter_map(|tag| tag.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let get = |wanted: &str| tags.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let policy = |name: &str| match get(name)?.to_ascii_lowercase().as_str() {
            "none" => Some(DmarcPolicy::None),
            "quarantine" => Some(DmarcPolicy::Quarantine),
            "reject" => Some(DmarcPolicy::Reject),
            _ => None,
        };
        let reports = get("rua")
            .is_some_and(|rua| rua.split(',').any(|uri| uri.trim().to_ascii_lowercase().starts_with("mailto:")));
        let is = |name: &str, wanted: &str| get(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted));
        Some(Record {
            // A domain that wants reports but states no valid policy is one that only watches.
            policy: policy("p").or(reports.then_some(DmarcPolicy::None))?,
            subdomain_policy: policy("sp"),
            missing_policy: policy("np"),
            strict_dkim: is("adkim", "s"),
            strict_spf: is("aspf", "s"),
            testing: is("t", "y"),
            public_suffix: if is("psd", "y") { Some(true) } else { is("psd", "n").then_some(false) },
        })
    }
}

/// Labels from which the walk jumps instead of climbing (section 4.10).
const LABELS_MAX: usize = 8;
/// Where the jump lands.
const LABELS_AFTER_JUMP: usize = 7;

/// A record and the name it was found at.
struct Step {
    name: String,
    record: Record,
}

/// Checks a message against the policy of its author's domain.
pub async fn check_dmarc(input: &DmarcInput<'_>, resolver: &dyn Resolver) -> DmarcVerdict {
    let mut verdict = DmarcVerdict::default();
    let author = match author(input) {
        Ok(author) => author,
        Err(reason) => {
            return DmarcVerdict { result: AuthResult::Permerror, reason: Some(reason.to_owned()), ..verdict };
        }
    };
    verdict.domain = Some(author.clone());
    let unavailable = |verdict: DmarcVerdict| DmarcVerdict {
        result: AuthResult::Temperror,
        reason: Some("no answer for the policy".to_owned()),
        ..verdict
    };
    let Ok(walked) = walk(&author, resolver).await else {
        return unavailable(verdict);
    };
    let organization = organization(&author, &walked);
    let Some(applying) = applying(&author, &organization, &walked) else {
        return verdict;
    };
    let Ok(policy) = policy(&author, applying, resolver).await else {
        return unavailable(verdict);
    };
    verdict.policy = Some(policy);
    let temporary = align(&mut verdict, input, &author, &organization, &applying.record, resolver).await;
    verdict.result = match (verdict.aligned_spf || verdict.aligned_dkim, temporary) {
        (true, _) => AuthResult::Pass,
        (false, true) => AuthResult::Temperror,
        (false, false) => AuthResult::Fail,
    };
    if verdict.result == AuthResult::Fail {
        verdict.reason = Some("no aligned identity".to_owned());
    }
    verdict
}

/// Looks for an aligned identity; returns whether an answer that mattered is missing.
async fn align(
    verdict: &mut DmarcVerdict,
    input: &DmarcInput<'_>,
    author: &str,
    organization: &str,
    record: &Record,
    resolver: &dyn Resolver,
) -> bool {
    let mut temporary = false;
    if input.spf.result == AuthResult::Pass {
        match aligned(&input.spf.domain, author, organization, record.strict_spf, resolver).await {
            Ok(aligned) => verdict.aligned_spf = aligned,
            Err(()) => temporary = true,
        }
    }
    // An answer that is missing matters only where it could have led to alignment: else anyone could turn a `fail`
    // into a `temperror` by adding a signature of a domain without working name servers.
    let could_align = |domain: &str| is_same_or_below(domain, organization);
    temporary |= input.spf.result == AuthResult::Temperror && could_align(&input.spf.domain);
    for signature in input.dkim {
        match signature.result {
            AuthResult::Pass if !verdict.aligned_dkim => {
                match aligned(&signature.domain, author, organization, record.strict_dkim, resolver).await {
                    Ok(aligned) => verdict.aligned_dkim |= aligned,
                    Err(()) => temporary = true,
                }
            }
            AuthResult::Temperror if could_align(&signature.domain) => temporary = true,
            _ => {}
        }
    }
    temporary
}

/// The one domain of all authors, as A-labels.
fn author(input: &DmarcInput<'_>) -> Result<String, &'static str> {
    if input.from_fields > 1 {
        return Err("several From fields");
    }
    let mut names = input.authors.iter().map(|domain| domain_name(Some(domain)).filter(|name| name.contains('.')));
    let first = names.next().ok_or("no author")?.ok_or("bad author domain")?;
    if names.all(|name| name.as_deref() == Some(&first)) { Ok(first) } else { Err("several author domains") }
}

/// Asks for records from a name up to its top label, at most eight times (section 4.10).
async fn walk(start: &str, resolver: &dyn Resolver) -> Result<Vec<Step>, ()> {
    let mut found = Vec::new();
    let mut name = start;
    loop {
        if let Some(record) = record_at(name, resolver).await? {
            let ends = record.public_suffix.is_some();
            // psd=y at the start describes a suffix that sends mail itself; the walk goes no further either way.
            found.push(Step { name: name.to_owned(), record });
            if ends {
                break;
            }
        }
        let labels = name.split('.').count();
        let skip = if labels >= LABELS_MAX { labels - LABELS_AFTER_JUMP } else { 1 };
        match name.splitn(skip + 1, '.').nth(skip) {
            Some(rest) => name = rest,
            None => break,
        }
    }
    Ok(found)
}

async fn record_at(name: &str, resolver: &dyn Resolver) -> Result<Option<Record>, ()> {
    let texts = match resolver.txt(&format!("_dmarc.{name}")).await {
        Ok(texts) => texts,
        Err(DnsError::NxDomain) => return Ok(None),
        Err(DnsError::Temporary) => return Err(()),
    };
    let mut candidates = texts.iter().filter(|text| is_dmarc(text));
    match (candidates.next(), candidates.next()) {
        (Some(text), None) => Ok(Record::parse(text)),
        // Several records are as good as none.
        _ => Ok(None),
    }
}

fn is_dmarc(text: &[u8]) -> bool {
    let text: Vec<u8> = text.iter().take(32).copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    text.starts_with(b"v=DMARC1") && matches!(text.get(8), None | Some(b';'))
}

/// The organisational domain of a name, given the records above it (section 4.10.2).
fn organization(start: &str, walked: &[Step]) -> String {
    if let Some(step) = walked.iter().find(|step| step.record.public_suffix == Some(false)) {
        return step.name.clone();
    }
    if let Some(step) = walked.iter().find(|step| step.record.public_suffix == Some(true) && step.name != start) {
        return one_label_below(start, &step.name);
    }
    // The name with the fewest labels is the one found last.
    walked.last().map_or_else(|| start.to_owned(), |step| step.name.clone())
}

fn one_label_below(start: &str, suffix: &str) -> String {
    let labels = suffix.split('.').count() + 1;
    let all: Vec<&str> = start.split('.').collect();
    all[all.len().saturating_sub(labels)..].join(".")
}

/// The record that applies: the author domain's own, else the organisation's, else the public suffix's.
fn applying<'a>(author: &str, organization: &str, walked: &'a [Step]) -> Option<&'a Step> {
    let at = |name: &str| walked.iter().find(|step| step.name == name);
    at(author)
        .or_else(|| at(organization))
        .or_else(|| walked.iter().find(|step| step.record.public_suffix == Some(true)))
}

/// The policy for the author domain; one step milder while the domain is testing (section 4.7, `t`).
async fn policy(author: &str, applying: &Step, resolver: &dyn Resolver) -> Result<DmarcPolicy, ()> {
    let record = &applying.record;
    let policy = if applying.name == author {
        record.policy
    } else {
        let inherited = record.subdomain_policy.unwrap_or(record.policy);
        match record.missing_policy {
            Some(missing) if !exists(author, resolver).await? => missing,
            _ => inherited,
        }
    };
    Ok(match (policy, record.testing) {
        (DmarcPolicy::Reject, true) => DmarcPolicy::Quarantine,
        (DmarcPolicy::Quarantine, true) => DmarcPolicy::None,
        (policy, _) => policy,
    })
}

/// A name that has neither addresses nor mail exchangers does not exist for DMARC (section 3.2.13).
async fn exists(name: &str, resolver: &dyn Resolver) -> Result<bool, ()> {
    fn any<T>(answer: Result<Vec<T>, DnsError>) -> Result<bool, ()> {
        match answer {
            Ok(records) => Ok(!records.is_empty()),
            Err(DnsError::NxDomain) => Ok(false),
            Err(DnsError::Temporary) => Err(()),
        }
    }
    Ok(any(resolver.mx(name).await)? || any(resolver.a(name).await)? || any(resolver.aaaa(name).await)?)
}

/// Whether a verified domain is the author's: the same name, or (relaxed) of the same organisation.
async fn aligned(
    verified: &str,
    author: &str,
    organization: &str,
    strict: bool,
    resolver: &dyn Resolver,
) -> Result<bool, ()> {
    let Some(verified) = domain_name(Some(verified)) else {
        return Ok(false);
    };
    if verified == author {
        return Ok(true);
    }
    // Names outside the author's organisation need no walk of their own.
    if strict || !is_same_or_below(&verified, organization) {
        return Ok(false);
    }
    let walked = walk(&verified, resolver).await?;
    Ok(self::organization(&verified, &walked) == organization)
}
