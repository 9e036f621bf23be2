//! The DNS records of a sending domain: which there must be, and whether what was found is right.

use serde::{Deserialize, Serialize};

use super::{Mode, SigningKey};
use crate::id::TeamId;

/// The most values that are kept of a check.
pub const FOUND_MAX: usize = 64;
/// The most characters that are kept of a value.
pub const VALUE_CHARACTERS_MAX: usize = 1_024;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// Shows who controls the domain.
    Verification,
    /// Says who may send (RFC 7208).
    Spf,
    /// Says what to do with mail that fails (RFC 7489).
    Dmarc,
    /// A signing key (RFC 6376).
    Dkim,
    /// Where mail to the domain goes.
    Mx,
    /// Where bounces go.
    MailFromMx,
    /// Who may send with the bounce domain.
    MailFromSpf,
}

impl RecordKind {
    /// Returns whether it names a mail exchanger; all others are texts.
    #[must_use]
    pub fn is_exchanger(self) -> bool {
        match self {
            Self::Mx | Self::MailFromMx => true,
            Self::Verification | Self::Spf | Self::Dmarc | Self::Dkim | Self::MailFromSpf => false,
        }
    }

    /// Returns the type in the DNS.
    #[must_use]
    pub fn record_type(self) -> &'static str {
        if self.is_exchanger() { "MX" } else { "TXT" }
    }
}

/// A record that there must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// What it is for.
    pub kind: RecordKind,
    /// Its name, without the trailing dot.
    pub name: String,
    /// The text, or the host of an MX record.
    pub value: String,
    /// The preference of an MX record.
    pub priority: Option<u16>,
}

/// What was found under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What it is for.
    pub kind: RecordKind,
    /// The name that was looked up.
    pub name: String,
    /// The texts or hosts, sorted.
    pub values: Vec<String>,
}

/// Makes what was found small enough to keep, and the same for the same records in any order.
#[must_use]
pub fn bounded(mut found: Vec<Found>) -> Vec<Found> {
    let mut left = FOUND_MAX;
    for record in &mut found {
        record.values.sort();
        record.values.truncate(left);
        left -= record.values.len();
        for value in &mut record.values {
            let clean: String = value.chars().filter(|c| !c.is_control()).take(VALUE_CHARACTERS_MAX).collect();
            *value = clean;
        }
    }
    found.truncate(FOUND_MAX);
    found
}

/// What is right with a domain's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checks {
    /// See [`RecordKind::Verification`].
    pub verification_txt: bool,
    /// See [`RecordKind::Spf`].
    pub spf: bool,
    /// See [`RecordKind::Dmarc`].
    pub dmarc: bool,
    /// All keys that sign are published, and there is one.
    pub dkim: bool,
    /// See [`RecordKind::Mx`]; always right for a domain that only sends.
    pub mx: bool,
    /// See [`RecordKind::MailFromMx`].
    pub mail_from_mx: bool,
    /// See [`RecordKind::MailFromSpf`].
    pub mail_from_spf: bool,
}

impl Checks {
    /// Returns whether everything is right.
    #[must_use]
    pub fn are_complete(&self) -> bool {
        let Self { verification_txt, spf, dmarc, dkim, mx, mail_from_mx, mail_from_spf } = *self;
        verification_txt && spf && dmarc && dkim && mx && mail_from_mx && mail_from_spf
    }
}

/// What this installation is called in the DNS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Installation {
    /// The host that receives mail.
    pub mx_host: String,
    /// The preference of its MX record.
    pub mx_priority: u16,
    /// The SPF mechanism that names our source addresses, for example `include:_spf.example.com` or `a:mx.example.com`.
    pub spf_mechanism: String,
}

impl Default for Installation {
    fn default() -> Self {
        let mx_host = "localhost".to_owned();
        Self { spf_mechanism: format!("a:{mx_host}"), mx_host, mx_priority: 10 }
    }
}

impl Installation {
    /// Returns everything that is wrong with the section, each naming its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        if mail::address::normalise_domain(&self.mx_host).is_err() {
            problems.push("dns.mx_host must be a host name".to_owned());
        }
        let term = &self.spf_mechanism;
        if term.is_empty() || term.len() > 200 || !term.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
            problems.push("dns.spf_mechanism must be one term of an SPF record, such as a:mx.example.com".to_owned());
        }
        problems
    }
}

/// A name that is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it is for.
    pub kind: RecordKind,
    /// The name, without the trailing dot.
    pub name: String,
}

/// Returns what must be looked up to judge records, each name and kind once.
#[must_use]
pub fn questions(expected: &[Expected]) -> Vec<Question> {
    let mut questions: Vec<Question> = vec![];
    for record in expected {
        let question = Question { kind: record.kind, name: record.name.clone() };
        if !questions.contains(&question) {
            questions.push(question);
        }
    }
    questions
}

/// Returns the records a domain needs.
#[must_use]
pub fn expected(team: &TeamId, name: &str, mode: Mode, keys: &[SigningKey], at: &Installation) -> Vec<Expected> {
    let txt = |kind, name: String, value: String| Expected { kind, name, value, priority: None };
    let mx = |kind, name: String| Expected { kind, name, value: at.mx_host.clone(), priority: Some(at.mx_priority) };
    let spf = format!("v=spf1 {} ~all", at.spf_mechanism);
    let bounce = format!("bounce.{name}");
    let mut all = vec![
        txt(RecordKind::Verification, format!("_sendmux.{name}"), format!("sendmux-verify={team}")),
        txt(RecordKind::Spf, name.to_owned(), spf.clone()),
        txt(RecordKind::Dmarc, format!("_dmarc.{name}"), "v=DMARC1; p=none".to_owned()),
    ];
    all.extend(keys.iter().map(|key| {
        let value = format!("v=DKIM1; k={}; p={}", key.algorithm.tag(), key.public_key);
        txt(RecordKind::Dkim, key_name(&key.selector, name), value)
    }));
    all.push(mx(RecordKind::MailFromMx, bounce.clone()));
    all.push(txt(RecordKind::MailFromSpf, bounce, spf));
    if mode == Mode::SendReceive {
        all.push(mx(RecordKind::Mx, name.to_owned()));
    }
    all
}

/// Returns the name of a key's record (RFC 6376 §3.6.2.1).
#[must_use]
pub fn key_name(selector: &str, domain: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// Returns whether what was found does what an expected record must do.
///
/// Somebody else's senders in the SPF record and a stricter DMARC policy are welcome.
#[must_use]
pub fn satisfies(expected: &Expected, values: &[String]) -> bool {
    let of_version = |version: &str| -> Vec<&String> {
        values
            .iter()
            .filter(|v| v.split([';', ' ']).next().is_some_and(|t| t.trim().eq_ignore_ascii_case(version)))
            .collect()
    };
    match expected.kind {
        RecordKind::Verification => values.iter().any(|v| v.trim() == expected.value),
        RecordKind::Mx | RecordKind::MailFromMx => {
            values.iter().any(|host| host.trim_end_matches('.').eq_ignore_ascii_case(&expected.value))
        }
        RecordKind::Spf | RecordKind::MailFromSpf => {
            // Two SPF records are an error that makes both worthless (RFC 7208 §4.5).
            let [record] = of_version("v=spf1")[..] else { return false };
            let wanted: Vec<&str> = expected.value.split_ascii_whitespace().collect();
            let ours = wanted.get(1).copied().unwrap_or_default();
            let terms = record.split_ascii_whitespace().map(|t| t.strip_prefix('+').unwrap_or(t));
            terms.into_iter().any(|term| term.eq_ignore_ascii_case(ours))
        }
        RecordKind::Dmarc => of_version("v=DMARC1").len() == 1,
        RecordKind::Dkim => {
            let key = |text: &str| {
                let tags = text.split(';').filter_map(|tag| tag.split_once('='));
                let p = tags.into_iter().find(|(name, _)| name.trim() == "p").map(|(_, value)| value);
                p.map(|p| p.chars().filter(|c| !c.is_whitespace()).collect::<String>())
            };
            let wanted = key(&expected.value);
            values.iter().any(|v| key(v) == wanted)
        }
    }
}

/// Returns what is right, and the selectors whose keys are published.
#[must_use]
pub fn judge(expected: &[Expected], found: &[Found], keys: &[SigningKey], domain: &str) -> (Checks, Vec<String>) {
    let right = |e: &Expected| {
        let values = found.iter().filter(|f| f.kind == e.kind && f.name.eq_ignore_ascii_case(&e.name));
        values.into_iter().any(|f| satisfies(e, &f.values))
    };
    let all = |kind| expected.iter().filter(|e| e.kind == kind).all(right);
    let published: Vec<String> = keys
        .iter()
        .filter(|key| {
            let name = key_name(&key.selector, domain);
            expected.iter().any(|e| e.kind == RecordKind::Dkim && e.name == name && right(e))
        })
        .map(|key| key.selector.clone())
        .collect();
    let is_published = |key: &SigningKey| published.contains(&key.selector);
    let active: Vec<_> = keys.iter().filter(|k| k.status == super::KeyStatus::Active).collect();
    let dkim = if active.is_empty() { !published.is_empty() } else { active.into_iter().all(is_published) };
    let checks = Checks {
        verification_txt: all(RecordKind::Verification),
        spf: all(RecordKind::Spf),
        dmarc: all(RecordKind::Dmarc),
        dkim,
        mx: all(RecordKind::Mx),
        mail_from_mx: all(RecordKind::MailFromMx),
        mail_from_spf: all(RecordKind::MailFromSpf),
    };
    (checks, published)
}

/// Returns the records as a fragment of a zone file (RFC 1035 §5). Long texts are cut into strings of 255 characters.
#[must_use]
pub fn zone_file(records: &[Expected]) -> String {
    let mut out = String::new();
    for record in records {
        let data = match record.priority {
            Some(priority) => format!("{priority} {}.", record.value),
            None => {
                let escaped = record.value.replace('\\', "\\\\").replace('"', "\\\"");
                let characters: Vec<char> = escaped.chars().collect();
                let parts = characters.chunks(255).map(|part| format!("\"{}\"", part.iter().collect::<String>()));
                parts.collect::<Vec<_>>().join(" ")
            }
        };
        out.push_str(&format!("{}.\t3600\tIN\t{}\t{data}\n", record.name, record.kind.record_type()));
    }
    out
}
