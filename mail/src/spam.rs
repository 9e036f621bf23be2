//! A small score that can be explained rule by rule.
//!
//! It is not meant to catch all spam; it catches what is certain (a test string, a failed DMARC policy) and adds up
//! what is odd. Points are tenths, so that no float decides; the threshold is 5.0 unless configured otherwise.
//!
//! | rule | points | fires when |
//! |---|---|---|
//! | `GTUBE` | 100.0 | the generic test string is in subject or body |
//! | `DMARC_FAIL_POLICY` | 5.0 | DMARC failed and the author domain asks for quarantine or rejection |
//! | `DMARC_FAIL` | 1.0 | DMARC failed and the domain asks for nothing |
//! | `SPF_FAIL`, `SPF_SOFTFAIL` | 1.5, 0.5 | the peer may not send for the envelope domain, and DMARC did not pass |
//! | `DKIM_INVALID` | 0.5 | there are signatures and none passes |
//! | `IPREV_FAIL` | 0.5 | the peer's address has no name that leads back to it |
//! | `HELO_NOT_A_NAME` | 0.5 | the peer calls itself by a bare word or an address without brackets |
//! | `FROM_MISSING`, `FROM_SEVERAL` | 2.0, 2.0 | there is no author, or more than one `From` |
//! | `DATE_MISSING`, `MESSAGE_ID_MISSING` | 0.8, 0.5 | the field is absent |
//! | `FIELDS_DOUBLED` | 0.5 | `Date`, `Message-ID` or `Subject` occur more than once |
//! | `REPLY_TO_FREEMAIL` | 1.5 | answers go to a free mail provider although the author is elsewhere |
//! | `NAME_FORGED` | 2.0 | the display name shows an address of another domain |
//! | `NAME_DECEPTIVE` | 1.0 | invisible or direction characters in subject or display name |
//! | `HIDDEN_TEXT` | 1.5 | more text is hidden than shown, and not little |
//! | `TAG_CHARACTERS` | 3.0 | text spelled in invisible tag characters |
//! | `SUBJECT_SHOUTS` | 0.8 | the subject is long and all capitals |
//! | `ATTACHMENT_EXECUTABLE` | 2.5 | a program or script is attached |
//! | `ATTACHMENT_DISGUISED` | 2.5 | a double extension, or a program declared as something else |
//! | `LINK_DISGUISED` | 1.5 | the words of a link name another host than the link |
//! | `RECIPIENTS_UNDISCLOSED` | 0.3 | no recipient is named |

use serde::{Deserialize, Serialize};

use crate::auth::{AuthResult, AuthResults, DmarcPolicy};
use crate::content::{self, strip_invisible};
use crate::header::EmailAddress;
use crate::html::{RenderOptions, render};
use crate::message::{Attachment, ParsedMessage};

/// What the SMTP session knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvelopeFacts {
    /// The envelope sender; `None` for the null sender.
    pub mail_from: Option<String>,
    /// The name the peer gave itself.
    pub helo: String,
}

/// How to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpamPolicy {
    /// Points, in tenths, from which a message is spam.
    pub threshold_tenths: i32,
}

impl Default for SpamPolicy {
    fn default() -> Self {
        SpamPolicy { threshold_tenths: 50 }
    }
}

/// A rule that fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its stable name.
    pub name: String,
    /// Its points in tenths.
    pub points: i32,
    /// What it saw, in words; no content of the message.
    pub description: String,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the score reached the threshold.
    pub is_spam: bool,
    /// The sum of the rules, in tenths.
    pub score: i32,
    /// The rules that fired, in the order of the table.
    pub rules: Vec<Rule>,
}

/// The generic test string for unsolicited bulk email, in two halves so that this source is not one.
const GTUBE: [&str; 2] = ["XJS*C4JDBQADN1.NSBN3*2IDNEN", "*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"];

/// Judges a message by the default policy.
pub fn score(parsed: &ParsedMessage, auth: &AuthResults, envelope: &EnvelopeFacts) -> Verdict {
    SpamPolicy::default().score(parsed, auth, envelope)
}

impl SpamPolicy {
    /// Judges a message.
    pub fn score(&self, parsed: &ParsedMessage, auth: &AuthResults, envelope: &EnvelopeFacts) -> Verdict {
        let mut sheet = Sheet { rules: Vec::new() };
        let gtube = sheet.test_string(parsed);
        if auth.checked {
            sheet.authentication(auth);
        }
        sheet.envelope(envelope);
        sheet.fields(parsed);
        sheet.people(parsed);
        sheet.body(parsed);
        sheet.attachments(&parsed.attachments);
        let score = sheet.rules.iter().map(|rule| rule.points).sum();
        Verdict { is_spam: gtube || score >= self.threshold_tenths, score, rules: sheet.rules }
    }
}

struct Sheet {
    rules: Vec<Rule>,
}

impl Sheet {
    fn when(&mut self, fires: bool, name: &str, points: i32, description: &str) {
        if fires {
            self.rules.push(Rule { name: name.to_owned(), points, description: description.to_owned() });
        }
    }

    fn test_string(&mut self, parsed: &ParsedMessage) -> bool {
        let wanted = GTUBE.concat();
        let found =
            [&parsed.subject, &parsed.text, &parsed.html].into_iter().flatten().any(|text| text.contains(&wanted));
        self.when(found, "GTUBE", 1000, "Contains the generic test string for unsolicited bulk email");
        found
    }

    fn authentication(&mut self, auth: &AuthResults) {
        let dmarc = auth.dmarc.as_ref();
        let failed = dmarc.is_some_and(|dmarc| dmarc.result == AuthResult::Fail);
        let passed = dmarc.is_some_and(|dmarc| dmarc.result == AuthResult::Pass);
        let policy = dmarc.and_then(|dmarc| dmarc.policy);
        let strict = matches!(policy, Some(DmarcPolicy::Quarantine | DmarcPolicy::Reject));
        self.when(
            failed && strict,
            "DMARC_FAIL_POLICY",
            50,
            "DMARC failed and the author domain asks to refuse such mail",
        );
        self.when(failed && !strict, "DMARC_FAIL", 10, "DMARC failed");
        let spf = auth.spf.as_ref().map(|spf| spf.result).filter(|_| !passed);
        self.when(spf == Some(AuthResult::Fail), "SPF_FAIL", 15, "The peer may not send for the envelope domain");
        self.when(
            spf == Some(AuthResult::Softfail),
            "SPF_SOFTFAIL",
            5,
            "The peer probably may not send for the envelope domain",
        );
        let invalid = !auth.dkim.is_empty() && auth.dkim.iter().all(|dkim| dkim.result != AuthResult::Pass);
        self.when(invalid, "DKIM_INVALID", 5, "None of the signatures is valid");
        let nameless =
            auth.iprev.as_ref().is_some_and(|iprev| matches!(iprev.result, AuthResult::Fail | AuthResult::Permerror));
        self.when(nameless, "IPREV_FAIL", 5, "The peer's address has no name that leads back to it");
    }

    fn envelope(&mut self, envelope: &EnvelopeFacts) {
        let helo = envelope.helo.trim();
        let bare = !helo.is_empty()
            && !helo.starts_with('[')
            && (!helo.contains('.') || helo.parse::<std::net::IpAddr>().is_ok());
        let local = helo.eq_ignore_ascii_case("localhost");
        self.when(bare && !local, "HELO_NOT_A_NAME", 5, "The peer does not call itself by a full host name");
    }

    fn fields(&mut self, parsed: &ParsedMessage) {
        let facts = &parsed.facts;
        self.when(parsed.from.is_none(), "FROM_MISSING", 20, "No usable author address");
        self.when(facts.from_fields > 1 || parsed.from_all.len() > 1, "FROM_SEVERAL", 20, "Several authors");
        self.when(facts.date_fields == 0, "DATE_MISSING", 8, "No Date field");
        self.when(facts.message_id_fields == 0, "MESSAGE_ID_MISSING", 5, "No Message-ID field");
        let doubled = facts.date_fields > 1 || facts.message_id_fields > 1 || facts.subject_fields > 1;
        self.when(doubled, "FIELDS_DOUBLED", 5, "A field occurs twice that must be single");
        self.when(facts.undisclosed_recipients, "RECIPIENTS_UNDISCLOSED", 3, "No recipient is named");
        let subject = parsed.subject.as_deref().unwrap_or_default();
        self.when(shouts(subject), "SUBJECT_SHOUTS", 8, "The subject is all capitals");
    }

    fn people(&mut self, parsed: &ParsedMessage) {
        let from_domain = parsed.from.as_ref().map(EmailAddress::domain).unwrap_or_default();
        let elsewhere = parsed.reply_to.iter().any(|reply| {
            let domain = reply.domain();
            domain != from_domain && is_freemail(&domain)
        });
        let odd = elsewhere && !from_domain.is_empty() && !is_freemail(&from_domain);
        self.when(odd, "REPLY_TO_FREEMAIL", 15, "Answers go to a free mail provider, the author is elsewhere");
        let forged = parsed.from_all.iter().any(is_forged_name);
        self.when(forged, "NAME_FORGED", 20, "The display name shows an address of another domain");
        let names = parsed.from_all.iter().filter_map(|from| from.name.as_deref());
        let deceptive = names.chain(parsed.subject.as_deref()).any(|text| {
            let (_, counts) = strip_invisible(text);
            // A single mark of direction is normal in right-to-left languages, joiners are normal in emoji.
            counts.bidi > 2 || counts.tag_chars > 6 || counts.zero_width > 3
        });
        self.when(deceptive, "NAME_DECEPTIVE", 10, "Invisible characters in subject or display name");
    }

    fn body(&mut self, parsed: &ParsedMessage) {
        let html = parsed.html.as_deref().filter(|_| !parsed.html_derived);
        let rendered = html.map(|html| render(html, RenderOptions { strip_quotes: false, include_html: false }));
        let shown =
            rendered.as_ref().map_or(0, |rendered| rendered.text.chars().filter(|c| !c.is_whitespace()).count());
        let hidden = rendered.as_ref().map_or(0, |rendered| rendered.hidden_chars);
        self.when(hidden > 400 && hidden > shown, "HIDDEN_TEXT", 15, "More text is hidden than shown");
        let bodies = [parsed.text.as_deref(), rendered.as_ref().map(|rendered| rendered.text.as_str())];
        // A flag of a region takes six tag characters.
        let tags = bodies.into_iter().flatten().map(|text| strip_invisible(text).1.tag_chars).max().unwrap_or(0);
        self.when(tags > 20, "TAG_CHARACTERS", 30, "Text spelled in invisible tag characters");
        let disguised = rendered.is_some_and(|rendered| rendered.links.iter().any(is_disguised));
        self.when(disguised, "LINK_DISGUISED", 15, "The words of a link name another host than the link");
    }

    fn attachments(&mut self, attachments: &[Attachment]) {
        let executable = attachments.iter().any(|attachment| extension(attachment).is_some_and(|e| is_executable(&e)));
        self.when(executable, "ATTACHMENT_EXECUTABLE", 25, "A program or script is attached");
        let disguised =
            attachments.iter().any(|attachment| has_double_extension(attachment) || is_hidden_program(attachment));
        self.when(disguised, "ATTACHMENT_DISGUISED", 25, "A program is attached under another name");
    }
}

fn shouts(subject: &str) -> bool {
    let letters: Vec<char> = subject.chars().filter(|c| c.is_uppercase() || c.is_lowercase()).collect();
    letters.len() >= 12 && letters.iter().all(|c| c.is_uppercase()) && subject.contains(' ')
}

fn is_freemail(domain: &str) -> bool {
    const PROVIDERS: [&str; 24] = [
        "gmail.com",
        "googlemail.com",
        "yahoo.com",
        "ymail.com",
        "hotmail.com",
        "outlook.com",
        "live.com",
        "msn.com",
        "aol.com",
        "gmx.com",
        "gmx.de",
        "gmx.net",
        "web.de",
        "mail.com",
        "mail.ru",
        "yandex.com",
        "yandex.ru",
        "qq.com",
        "163.com",
        "126.com",
        "proton.me",
        "protonmail.com",
        "icloud.com",
        "zoho.com",
    ];
    PROVIDERS.contains(&domain)
        || ["yahoo.", "hotmail.", "outlook.", "live."].iter().any(|start| domain.starts_with(start))
}

/// `"service@bank.example" <x@evil.example>`
fn is_forged_name(from: &EmailAddress) -> bool {
    let Some(name) = &from.name else { return false };
    let (name, _) = strip_invisible(name);
    let shown = name.split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '(' | ')' | '"' | ',' | ';'));
    let own = from.domain();
    shown.filter_map(|word| word.rsplit_once('@')).any(|(local, domain)| {
        let domain = domain.trim_end_matches('.').to_lowercase();
        !local.is_empty() && domain.contains('.') && !is_same_site(&domain, &own)
    })
}

fn is_same_site(one: &str, other: &str) -> bool {
    one == other || one.ends_with(&format!(".{other}")) || other.ends_with(&format!(".{one}"))
}

/// The words of a link are an address of another host than its target.
fn is_disguised(link: &content::Link) -> bool {
    let words = link.words.trim();
    if words.contains(char::is_whitespace) || words.contains('@') || !link.url.starts_with("http") {
        return false;
    }
    let shown = host(words.split_once("://").map_or(words, |(_, rest)| rest));
    let target = host(link.url.split_once("://").map_or("", |(_, rest)| rest));
    let looks_like_host = shown.contains('.')
        && shown.rsplit('.').next().is_some_and(|tld| tld.len() >= 2 && tld.bytes().all(|b| b.is_ascii_alphabetic()));
    looks_like_host && (words.contains("://") || words.starts_with("www.")) && !shares_site(&shown, &target)
}

fn host(text: &str) -> String {
    let authority = text.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    authority.split(':').next().unwrap_or_default().to_lowercase()
}

/// Without a list of public suffixes the last two labels stand for the site: mild enough for a rule of 1.5 points.
fn shares_site(one: &str, other: &str) -> bool {
    let site = |host: &str| host.rsplit('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    site(one) == site(other)
}

fn extension(attachment: &Attachment) -> Option<String> {
    let name = attachment.filename.as_deref()?;
    name.rsplit_once('.').map(|(_, extension)| extension.trim_end_matches([' ', '.']).to_lowercase())
}

fn is_executable(extension: &str) -> bool {
    const PROGRAMS: [&str; 33] = [
        "exe",
        "scr",
        "com",
        "pif",
        "bat",
        "cmd",
        "msi",
        "msp",
        "dll",
        "cpl",
        "hta",
        "js",
        "jse",
        "vbs",
        "vbe",
        "wsf",
        "wsh",
        "ps1",
        "psm1",
        "jar",
        "lnk",
        "reg",
        "chm",
        "iso",
        "img",
        "vhd",
        "vhdx",
        "application",
        "gadget",
        "inf",
        "scf",
        "xll",
        "apk",
    ];
    PROGRAMS.contains(&extension)
}

fn has_double_extension(attachment: &Attachment) -> bool {
    const DOCUMENTS: [&str; 12] =
        ["pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "txt", "jpg", "png", "zip", "html"];
    let Some(name) = attachment.filename.as_deref() else {
        return false;
    };
    let mut parts = name.rsplit('.').map(|part| part.trim().to_lowercase());
    let (Some(last), Some(before)) = (parts.next(), parts.next()) else {
        return false;
    };
    is_executable(&last) && DOCUMENTS.contains(&before.as_str())
}

fn is_hidden_program(attachment: &Attachment) -> bool {
    let program = attachment.sniffed_type.as_deref().is_some_and(|kind| {
        matches!(
            kind,
            "application/vnd.microsoft.portable-executable"
                | "application/x-executable"
                | "application/x-mach-binary"
                | "application/x-msdownload"
                | "application/x-sharedlib"
        )
    });
    program && !extension(attachment).is_some_and(|extension| is_executable(&extension))
}
