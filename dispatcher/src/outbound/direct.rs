//! Straight to the recipients' mail exchangers (RFC 5321 §5.1): who they are, how hard they are tried, and what they said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::bounce::{Category, Verdict};
use domain::outbound::Outbound;
use domain::outbound::Outcome;
use domain::site::{Lesson, Refusal, Site, SitePolicy};
use mail::address::Address;
use mail::auth::{DnsError, MxRecord, Resolver};
use mail::smtp::client::{Mail, RecipientResult};

use super::letter::{Letter, addresses};
use super::results::{Carried, Judge};
use crate::smtp::{Mailer, Peer, Protection, Unreachable};

/// Most exchangers of a domain that are tried.
const HOSTS_MAX: usize = 5;
/// Sites remembered; with more, those that nothing happens at are forgotten.
const SITES_MAX: usize = 10_000;
/// How long a mail waits for a connection that others hold.
const BUSY_MICROS: i64 = 200_000;

/// What is remembered of all sites.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sites(Arc<Mutex<BTreeMap<String, Site>>>);

impl Sites {
    fn with<T>(&self, key: &str, policy: &SitePolicy, now: i64, act: impl FnOnce(&mut Site) -> T) -> T {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sites.len() >= SITES_MAX && !sites.contains_key(key) {
            let new = Site::new(policy, now);
            sites.retain(|_, site| site.limit() != new.limit());
        }
        act(sites.entry(key.to_owned()).or_insert_with(|| Site::new(policy, now)))
    }

    fn open(&self, key: &str, policy: &SitePolicy, now: i64) -> Result<Opened, Refusal> {
        self.with(key, policy, now, |site| site.open(policy, now))?;
        Ok(Opened { sites: self.clone(), key: key.to_owned(), policy: *policy })
    }
}

/// A connection that a site allows; given back when dropped.
#[derive(Debug)]
pub(crate) struct Opened {
    sites: Sites,
    key: String,
    policy: SitePolicy,
}

impl Opened {
    fn learn(&self, lesson: Lesson, now: i64) {
        self.sites.with(&self.key, &self.policy, now, |site| site.learn(&self.policy, lesson, now));
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut sites = self.sites.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = sites.get_mut(&self.key) {
            site.close();
        }
    }
}

/// What is done for the recipients of one domain.
#[derive(Debug)]
enum Fate {
    /// They are handed to these hosts.
    Hosts(Vec<String>, Opened),
    /// They are refused, or wait, without a word to anybody.
    Known { verdict: Verdict, text: &'static str, permanent: bool },
}

/// The recipients of one domain.
#[derive(Debug)]
pub(crate) struct Group {
    numbers: Vec<u8>,
    addresses: Vec<Address>,
    fate: Fate,
}

/// What is done for the recipients of a mail now.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    groups: Vec<Group>,
    /// Recipients that can be tried.
    pub(crate) numbers: Vec<u8>,
    /// When the first of the others can, microseconds since the Unix epoch.
    pub(crate) later: Option<i64>,
    /// Whether these wait because their site is left alone.
    pub(crate) parked: bool,
}

impl Plan {
    /// Leaves only these recipients: the others came on the suppression list meanwhile.
    pub(crate) fn retain(&mut self, going: &[u8]) {
        for group in &mut self.groups {
            let both = group.numbers.drain(..).zip(group.addresses.drain(..));
            let (numbers, addresses) = both.filter(|(n, _)| going.contains(n)).unzip::<_, _, Vec<_>, Vec<_>>();
            (group.numbers, group.addresses) = (numbers, addresses);
        }
        self.groups.retain(|group| !group.numbers.is_empty());
    }
}

/// Looks up who takes the mail, and opens what may be opened.
pub(crate) async fn plan(
    resolver: &dyn Resolver,
    sites: &Sites,
    policy: &SitePolicy,
    mail: &Outbound,
    numbers: &[u8],
    now: i64,
) -> Option<Plan> {
    let mut domains: BTreeMap<String, Vec<(u8, Address)>> = BTreeMap::new();
    for (number, address) in numbers.iter().zip(addresses(mail, numbers)?) {
        domains.entry(address.domain().to_ascii_lowercase()).or_default().push((*number, address));
    }
    let mut plan = Plan::default();
    for (domain, recipients) in domains {
        let fate = match exchangers(resolver, &domain).await {
            Ok(hosts) => match sites.open(&hosts.join(" "), policy, now) {
                Ok(opened) => Fate::Hosts(hosts, opened),
                Err(refusal) => {
                    plan.parked |= matches!(refusal, Refusal::Parked { .. });
                    let until = match refusal {
                        Refusal::Busy => now + BUSY_MICROS,
                        Refusal::TooFast { until } | Refusal::Parked { until } => until,
                    };
                    plan.later = Some(plan.later.map_or(until, |later| later.min(until)));
                    continue;
                }
            },
            Err(known) => known,
        };
        plan.numbers.extend(recipients.iter().map(|(number, _)| *number));
        let (numbers, addresses) = recipients.into_iter().unzip();
        plan.groups.push(Group { numbers, addresses, fate });
    }
    plan.numbers.sort_unstable();
    Some(plan)
}

/// Returns the hosts that take a domain's mail, best first.
async fn exchangers(resolver: &dyn Resolver, domain: &str) -> Result<Vec<String>, Fate> {
    let known = |code, enhanced, category, text, permanent| {
        let verdict = Verdict { category, smtp_code: Some(code), enhanced_code: Some(enhanced) };
        Fate::Known { verdict, text, permanent }
    };
    if domain.starts_with('[') {
        return Ok(vec![domain.trim_start_matches("[IPv6:").to_owned()]);
    }
    let mut found: Vec<MxRecord> = match resolver.mx(domain).await {
        Ok(found) => found,
        Err(DnsError::NxDomain) => {
            let text = "550 5.1.2 the domain does not exist";
            return Err(known(550, (5, 1, 2), Category::DomainUnknown, text, true));
        }
        Err(DnsError::Temporary) => {
            let text = "451 4.4.3 the domain's mail exchangers could not be looked up";
            return Err(known(451, (4, 4, 3), Category::Network, text, false));
        }
    };
    if found.is_empty() {
        // RFC 5321 §5.1: a domain without MX records is its own exchanger.
        return Ok(vec![domain.to_owned()]);
    }
    if found.iter().all(|mx| mx.exchange.is_empty()) {
        let text = "556 5.1.10 the domain takes no mail";
        return Err(known(556, (5, 1, 10), Category::DomainUnknown, text, true));
    }
    found.retain(|mx| !mx.exchange.is_empty());
    found.sort_by(|a, b| (a.preference, &a.exchange).cmp(&(b.preference, &b.exchange)));
    Ok(found.into_iter().take(HOSTS_MAX).map(|mx| mx.exchange.to_ascii_lowercase()).collect())
}

/// Carries a mail to the sites of its plan, one after another.
pub(crate) async fn carry(mailer: &Mailer, port: u16, judge: Judge<'_>, letter: &Letter, plan: Plan) -> Carried {
    let mut carried = Carried::default();
    for group in plan.groups {
        match &group.fate {
            Fate::Known { verdict, text, permanent } => {
                for number in &group.numbers {
                    let outcome = match permanent {
                        true => Outcome::Bounced { verdict: *verdict },
                        false => judge.later(*number, *verdict, false),
                    };
                    carried.tell(*number, outcome, domain::outbound::report::Report::of(text, None));
                }
            }
            Fate::Hosts(hosts, opened) => {
                to_site(mailer, port, judge, letter, &group, (hosts, opened), &mut carried).await;
            }
        }
    }
    carried
}

async fn to_site(
    mailer: &Mailer,
    port: u16,
    judge: Judge<'_>,
    letter: &Letter,
    group: &Group,
    (hosts, opened): (&[String], &Opened),
    carried: &mut Carried,
) {
    let mut unreachable = Unreachable::Connect;
    for host in hosts {
        let mut protection = Protection::Opportunistic;
        loop {
            let key = format!("mx/{host}");
            let peer = Peer { key, host: host.clone(), port, protection, login: None };
            let mut mail = Mail::new(letter.mail_from.clone(), group.addresses.clone(), letter.content.clone());
            mail.smtputf8 = letter.smtputf8;
            let submitted = match mailer.submit(&peer, mail).await {
                Ok(submitted) => submitted,
                Err(error) => {
                    unreachable = error;
                    break;
                }
            };
            carried.transcript.push_str(&submitted.transcript);
            if protection == Protection::Opportunistic && failed_at_tls(&submitted.recipients) {
                // Opportunistic: where TLS cannot be had, the mail goes without.
                protection = Protection::None;
                continue;
            }
            opened.learn(lesson(&submitted.recipients), judge.now);
            return Judge { host, ..judge }.all(&group.numbers, &submitted.recipients, carried);
        }
    }
    opened.learn(Lesson::Unreachable, judge.now);
    let verdict = Verdict::of(Category::Network);
    for number in &group.numbers {
        carried.tell(*number, judge.later(*number, verdict, false), judge.report(&unreachable.to_string()));
    }
}

fn failed_at_tls(results: &[RecipientResult]) -> bool {
    use mail::smtp::client::Cause;
    let tls = |r: &RecipientResult| matches!(r, RecipientResult::NotSent(f) if f.cause == Cause::TlsHandshake);
    results.iter().all(tls)
}

fn lesson(results: &[RecipientResult]) -> Lesson {
    let pushes = |r: &RecipientResult| match r {
        RecipientResult::Rejected { reply, .. } => {
            reply.code == 421 || reply.enhanced.as_deref().is_some_and(|e| e.starts_with("4.7."))
        }
        RecipientResult::NotSent(failure) => failure.reply.is_some(),
        _ => false,
    };
    if results.iter().any(RecipientResult::is_accepted) {
        Lesson::Took
    } else if results.iter().any(pushes) {
        Lesson::PushedBack
    } else if results.iter().all(|r| matches!(r, RecipientResult::NotSent(_))) {
        Lesson::Unreachable
    } else {
        Lesson::Answered
    }
}
