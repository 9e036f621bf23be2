//! Straight to the recipients' mail exchangers (RFC 5321 §5.1): who they are, how hard they are tried, and what they said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::bounce::{Category, Verdict};
use domain::id::{OutboundId, TeamId};
use domain::outbound::report::Report;
use domain::outbound::{Onward, Outbound, Outcome};
use domain::site::{Lesson, Refusal, Site, SitePolicy};
use futures_util::stream::{self, StreamExt as _};
use mail::address::Address;
use mail::auth::{DnsError, MxRecord, Resolver};
use mail::bounce::Stage;
use mail::smtp::client::RecipientResult;
use tokio::sync::mpsc;

use super::letter::{Envelope, Letter, addresses};
use super::reactor::Context;
use super::results::{Carried, Judge};
use crate::smtp::{Peer, Protection, Submitted, Unreachable};

/// Most exchangers of a domain that are tried.
const HOSTS_MAX: usize = 5;
/// Most hosts of one attempt that answer at all.
const SESSIONS_MAX: u32 = 2;
/// Sites that one mail is carried to at the same time.
const SITES_AT_ONCE: usize = 8;
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

    fn reused(&self, now: i64) {
        self.sites.with(&self.key, &self.policy, now, |site| site.reused(&self.policy));
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
pub(crate) async fn plan(context: &Context, mail: &Outbound, numbers: &[u8], now: i64) -> Option<Plan> {
    let (sites, policy) = (&context.sites, &context.config.sites);
    let mut domains: BTreeMap<String, Vec<(u8, Address)>> = BTreeMap::new();
    for (number, address) in numbers.iter().zip(addresses(mail, numbers)?) {
        domains.entry(address.domain().to_ascii_lowercase()).or_default().push((*number, address));
    }
    let mut plan = Plan::default();
    for (domain, recipients) in domains {
        let fate = match exchangers(&*context.resolver, &domain).await {
            Ok(found) => match sites.open(&site_of(&found), policy, now) {
                Ok(opened) => Fate::Hosts(in_turn(found, context.allot.random()), opened),
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

/// Returns what the servers of a domain are counted under: their names, whatever the order they came in.
fn site_of(found: &[MxRecord]) -> String {
    let mut names: Vec<&str> = found.iter().map(|mx| mx.exchange.as_str()).collect();
    names.sort_unstable();
    names.join(" ")
}

/// Returns hosts in the order they are tried: by preference, equal ones in a new order each time (RFC 5321 §5.1).
fn in_turn(mut found: Vec<MxRecord>, random: [u8; 9]) -> Vec<String> {
    let start = usize::from(random[0]);
    let n = found.len().max(1);
    found.rotate_left(start % n);
    if random[1] % 2 == 1 {
        found.reverse();
    }
    found.sort_by_key(|mx| mx.preference);
    found.into_iter().take(HOSTS_MAX).map(|mx| mx.exchange).collect()
}

/// Returns the hosts that take a domain's mail, with lower-case names.
async fn exchangers(resolver: &dyn Resolver, domain: &str) -> Result<Vec<MxRecord>, Fate> {
    let itself = |host: &str| Ok(vec![MxRecord { preference: 0, exchange: host.to_owned() }]);
    let known = |code, enhanced, category, text, permanent| Fate::Known {
        verdict: verdict(code, enhanced, category),
        text,
        permanent,
    };
    if domain.starts_with('[') {
        return itself(domain.trim_start_matches("[IPv6:"));
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
        return itself(domain);
    }
    if found.iter().all(|mx| mx.exchange.is_empty()) {
        let text = "556 5.1.10 the domain takes no mail";
        return Err(known(556, (5, 1, 10), Category::DomainUnknown, text, true));
    }
    found.retain(|mx| !mx.exchange.is_empty());
    found.iter_mut().for_each(|mx| mx.exchange.make_ascii_lowercase());
    Ok(found)
}

/// Carries a mail to the sites of its plan, some at the same time, and tells what came of each transaction. The next
/// one of a site waits until somebody has taken note.
pub(crate) async fn carry(
    context: &Context,
    judge: Judge<'_>,
    letter: &Letter,
    names: (&TeamId, &OutboundId),
    plan: Plan,
    tell: mpsc::Sender<Carried>,
) {
    let carrier = Carrier { context, judge, letter };
    let groups = stream::iter(plan.groups);
    let each = |group: Group| carrier.to_group(group, names, tell.clone());
    groups.for_each_concurrent(SITES_AT_ONCE, each).await;
}

/// Carries one mail.
struct Carrier<'a> {
    context: &'a Context,
    judge: Judge<'a>,
    letter: &'a Letter,
}

/// What came of a transaction at a site.
struct Passed {
    /// The last host that was tried.
    host: String,
    /// `Err` where no host accepted a connection.
    results: Result<Vec<RecipientResult>, Unreachable>,
    /// Who tells the sender what becomes of mail that it took.
    onward: Option<Onward>,
}

impl Carrier<'_> {
    async fn to_group(&self, group: Group, names: (&TeamId, &OutboundId), tell: mpsc::Sender<Carried>) {
        let Group { numbers, addresses, fate } = group;
        let mut carried = Carried::default();
        match fate {
            Fate::Known { verdict, text, permanent } => {
                self.all_alike(&numbers, verdict, permanent, text, &mut carried);
                let _ = tell.send(carried).await;
            }
            Fate::Hosts(hosts, opened) => {
                let mut envelopes = self.letter.envelopes(self.context, names, numbers, addresses).into_iter();
                while let Some(envelope) = envelopes.next() {
                    let mut carried = Carried::default();
                    let passed = self.to_site(&hosts, &opened, &envelope, &mut carried.transcript).await;
                    let closed = self.note(&passed, &envelope.numbers, &mut carried);
                    if closed {
                        // The others would be told the same, at the price of all the waits.
                        envelopes.by_ref().for_each(|rest| {
                            self.note(&passed, &rest.numbers, &mut carried);
                        });
                    }
                    let _ = tell.send(carried).await;
                }
            }
        }
    }

    /// Writes what came of it into `carried`; returns whether nobody can be handed anything there now.
    fn note(&self, passed: &Passed, numbers: &[u8], carried: &mut Carried) -> bool {
        let judge = Judge { host: &passed.host, onward: passed.onward, ..self.judge };
        match &passed.results {
            Ok(results) => {
                let closed = results.iter().all(|r| matches!(r, RecipientResult::NotSent(_)));
                let first = results.first().cloned();
                let alike = || first.into_iter().cycle().take(numbers.len()).collect::<Vec<_>>();
                let own = results.len() == numbers.len();
                judge.all(numbers, &if own { results.clone() } else { alike() }, carried);
                closed
            }
            Err(Unreachable::NoHost) => {
                let verdict = verdict(550, (5, 4, 4), Category::DomainUnknown);
                self.all_alike(numbers, verdict, true, "550 5.4.4 the domain has no mail server", carried);
                true
            }
            Err(Unreachable::Forbidden) => {
                let verdict = verdict(550, (5, 4, 6), Category::RoutingLoop);
                let text = "550 5.4.6 the domain's mail servers are not on the public network";
                self.all_alike(numbers, verdict, true, text, carried);
                true
            }
            Err(error) => {
                self.all_alike(numbers, Verdict::of(Category::Network), false, &error.to_string(), carried);
                true
            }
        }
    }

    fn all_alike(&self, numbers: &[u8], verdict: Verdict, permanent: bool, text: &str, carried: &mut Carried) {
        for number in numbers {
            let outcome = match permanent {
                true => Outcome::Bounced { verdict },
                false => self.judge.later(*number, verdict, false),
            };
            carried.tell(*number, outcome, Report::of(text, None));
        }
    }

    /// Tries the hosts of a site until one has heard the envelope. What fails before that moves on to the next host;
    /// what a host says of sender, recipients or content is the answer.
    async fn to_site(&self, hosts: &[String], opened: &Opened, envelope: &Envelope, said: &mut String) -> Passed {
        let now = || self.context.allot.now();
        let mut last = Passed { host: String::new(), results: Err(Unreachable::NoHost), onward: None };
        let mut sessions = 0;
        for host in hosts {
            let submitted = match self.to_host(host, envelope, said).await {
                Ok(submitted) => submitted,
                Err(error) => {
                    let results = Err(error);
                    if hope(&results) >= hope(&last.results) {
                        last = Passed { host: host.clone(), results, onward: None };
                    }
                    continue;
                }
            };
            if !submitted.connected {
                opened.reused(now());
            }
            let began = !never_began(&submitted.recipients);
            let onward = Some(Onward::at_server(submitted.dsn, envelope.returns_here));
            last = Passed { host: host.clone(), results: Ok(submitted.recipients), onward };
            sessions += 1;
            if began || sessions >= SESSIONS_MAX {
                break;
            }
        }
        let lesson = last.results.as_ref().map_or(Lesson::Unreachable, |results| lesson(results));
        opened.learn(lesson, now());
        last
    }

    /// Opportunistic: where TLS cannot be had, the mail goes without (RFC 7435).
    async fn to_host(&self, host: &str, envelope: &Envelope, said: &mut String) -> Result<Submitted, Unreachable> {
        let (key, host, port) = (format!("mx/{host}"), host.to_owned(), self.context.config.direct_port);
        let mut peer = Peer { key, host, port, protection: Protection::Opportunistic, login: None };
        let submitted = self.context.mailer.submit(&peer, self.letter.mail(envelope)).await?;
        said.push_str(&submitted.transcript);
        if !failed_at_tls(&submitted.recipients) {
            return Ok(submitted);
        }
        peer.protection = Protection::None;
        let submitted = self.context.mailer.submit(&peer, self.letter.mail(envelope)).await?;
        said.push_str(&submitted.transcript);
        Ok(submitted)
    }
}

/// Returns how much hope there is at a host that took nothing: what may be back tomorrow counts more than what does not
/// exist, and what it said counts most.
fn hope(results: &Result<Vec<RecipientResult>, Unreachable>) -> u8 {
    match results {
        Err(Unreachable::NoHost) => 0,
        Err(Unreachable::Forbidden) => 1,
        Err(Unreachable::Lookup | Unreachable::Connect | Unreachable::Hostname) => 2,
        Ok(_) => 3,
    }
}

fn verdict(code: u16, enhanced: (u8, u16, u16), category: Category) -> Verdict {
    Verdict { category, smtp_code: Some(code), enhanced_code: Some(enhanced) }
}

/// Tells whether a server refused all recipients before it had greeted us as one that takes mail.
fn never_began(results: &[RecipientResult]) -> bool {
    let early = |result: &RecipientResult| match result {
        RecipientResult::NotSent(failure) => {
            matches!(failure.stage, Stage::Connect | Stage::Greeting | Stage::Hello | Stage::StartTls)
        }
        _ => false,
    };
    results.iter().all(early)
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
