//! The outcome of sender verification, as data and as a header field (RFC 8601).

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The result of one method (RFC 8601 section 2.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthResult {
    /// Nothing was published or signed.
    #[default]
    None,
    /// Verified.
    Pass,
    /// Refuted.
    Fail,
    /// SPF: probably not authorised.
    Softfail,
    /// No statement either way.
    Neutral,
    /// Valid, but not acceptable to us.
    Policy,
    /// An answer could not be had; another try may help.
    Temperror,
    /// What was published or signed is malformed.
    Permerror,
}

impl AuthResult {
    /// Returns the keyword of RFC 8601.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthResult::None => "none",
            AuthResult::Pass => "pass",
            AuthResult::Fail => "fail",
            AuthResult::Softfail => "softfail",
            AuthResult::Neutral => "neutral",
            AuthResult::Policy => "policy",
            AuthResult::Temperror => "temperror",
            AuthResult::Permerror => "permerror",
        }
    }
}

/// Which identity SPF was checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpfScope {
    /// The envelope sender.
    Mailfrom,
    /// The name the peer gave itself.
    Helo,
}

/// An SPF result (RFC 7208).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpfVerdict {
    /// The result.
    pub result: AuthResult,
    /// The domain whose policy was asked.
    pub domain: String,
    /// The identity the domain came from.
    pub scope: SpfScope,
    /// Why, for a log or a person; free of control characters.
    pub reason: Option<String>,
}

/// The result of one DKIM signature (RFC 6376).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DkimVerdict {
    /// The result.
    pub result: AuthResult,
    /// The signing domain (`d=`).
    pub domain: String,
    /// The selector (`s=`).
    pub selector: String,
    /// The algorithm (`a=`).
    pub alg: String,
    /// Bits of an RSA key.
    pub bits: Option<u32>,
    /// Whether the signature covers only the beginning of the body (`l=`).
    pub body_partial: bool,
    /// Whether the domain says that it is only testing (`t=y`).
    pub testing: bool,
    /// Why it did not pass.
    pub reason: Option<String>,
}

/// What a domain asks to be done with mail that fails (RFC 9989).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DmarcPolicy {
    /// Nothing.
    #[default]
    None,
    /// Treat with suspicion.
    Quarantine,
    /// Refuse.
    Reject,
}

/// The DMARC result (RFC 9989).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmarcVerdict {
    /// The result.
    pub result: AuthResult,
    /// The policy that applies to the author domain; `None` when no record was found.
    pub policy: Option<DmarcPolicy>,
    /// The author domain.
    pub domain: Option<String>,
    /// Whether SPF passed for an aligned domain.
    pub aligned_spf: bool,
    /// Whether a DKIM signature of an aligned domain passed.
    pub aligned_dkim: bool,
    /// Why there is no pass.
    pub reason: Option<String>,
}

impl DmarcVerdict {
    fn to_method(&self) -> String {
        let policy = match self.policy {
            Some(DmarcPolicy::None) => " (p=none)",
            Some(DmarcPolicy::Quarantine) => " (p=quarantine)",
            Some(DmarcPolicy::Reject) => " (p=reject)",
            None => "",
        };
        let domain = self.domain.as_deref().map(|domain| format!(" header.from={}", value(domain)));
        format!("dmarc={}{policy}{}", self.result.as_str(), domain.unwrap_or_default())
    }
}

/// The result of the ARC chain (RFC 8617).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArcVerdict {
    /// `none` without a chain, else `pass`, `fail` or an error.
    pub result: AuthResult,
    /// Number of sets.
    pub sets: u32,
    /// The domains that sealed, oldest first.
    pub sealers: Vec<String>,
    /// Why it did not pass.
    pub reason: Option<String>,
}

/// Whether the peer's address has a name that leads back to it (RFC 8601 section 2.7.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IprevVerdict {
    /// The result.
    pub result: AuthResult,
    /// The name that was confirmed.
    pub name: Option<String>,
}

/// Everything verification found out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthResults {
    /// Whether verification ran; all methods are absent if not.
    pub checked: bool,
    /// The peer's name.
    pub iprev: Option<IprevVerdict>,
    /// SPF of the envelope sender (of `postmaster@helo` for the null sender).
    pub spf: Option<SpfVerdict>,
    /// SPF of the name the peer gave itself.
    pub spf_helo: Option<SpfVerdict>,
    /// One entry per DKIM signature, in the order of the header.
    pub dkim: Vec<DkimVerdict>,
    /// DMARC of the author domain.
    pub dmarc: Option<DmarcVerdict>,
    /// The ARC chain.
    pub arc: Option<ArcVerdict>,
    /// The author domain if, and only if, DMARC passed. It says nothing about the local part or the person.
    pub verified_domain: Option<String>,
}

impl AuthResults {
    /// Returns the results of verification that was turned off.
    pub fn unchecked() -> Self {
        AuthResults::default()
    }

    /// Returns the `Authentication-Results` field (RFC 8601 section 2.2), folded, with its final CRLF.
    pub fn authentication_results_header(&self, authserv_id: &str) -> String {
        let mut methods = Vec::new();
        if let Some(iprev) = &self.iprev {
            let name = iprev.name.as_deref().map(|name| format!(" ({})", comment(name))).unwrap_or_default();
            methods.push(format!("iprev={}{name}", iprev.result.as_str()));
        }
        for spf in [&self.spf_helo, &self.spf].into_iter().flatten() {
            let property = match spf.scope {
                SpfScope::Mailfrom => "smtp.mailfrom",
                SpfScope::Helo => "smtp.helo",
            };
            methods.push(format!(
                "spf={}{} {property}={}",
                spf.result.as_str(),
                reason(&spf.reason),
                value(&spf.domain)
            ));
        }
        if self.checked && self.dkim.is_empty() {
            methods.push("dkim=none".to_owned());
        }
        for dkim in &self.dkim {
            let mut text = format!("dkim={}{}", dkim.result.as_str(), reason(&dkim.reason));
            for (property, content) in
                [("header.d", &dkim.domain), ("header.s", &dkim.selector), ("header.a", &dkim.alg)]
            {
                if !content.is_empty() {
                    let _ = write!(text, " {property}={}", value(content));
                }
            }
            methods.push(text);
        }
        methods.extend(self.dmarc.as_ref().map(DmarcVerdict::to_method));
        if let Some(arc) = &self.arc {
            methods.push(format!("arc={}{}", arc.result.as_str(), reason(&arc.reason)));
        }
        let mut field = format!("Authentication-Results: {}", value(authserv_id));
        if methods.is_empty() {
            field.push_str("; none");
        }
        for method in methods {
            field.push_str(";\r\n ");
            field.push_str(&method);
        }
        field.push_str("\r\n");
        field
    }
}

/// A comment may hold nothing that ends it or the line.
fn comment(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .filter(|c| !matches!(c, '(' | ')' | '\\'))
        .take(100)
        .collect()
}

fn reason(reason: &Option<String>) -> String {
    reason.as_deref().map(|reason| format!(" ({})", comment(reason))).unwrap_or_default()
}

/// A value of the field: what is not a token (or an IDN in UTF-8) is dropped, so that nobody injects a result.
fn value(text: &str) -> String {
    let kept =
        text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+' | '=' | '/' | ':'));
    let kept: String = kept.take(255).collect();
    if kept.is_empty() { "unknown".to_owned() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchecked_results_say_none() {
        let results = AuthResults::unchecked();
        assert_eq!(results.authentication_results_header("mx.example"), "Authentication-Results: mx.example; none\r\n");
        assert_eq!(results.verified_domain, None);
    }

    #[test]
    fn the_header_names_every_method_and_injects_nothing() {
        let results = AuthResults {
            checked: true,
            iprev: Some(IprevVerdict { result: AuthResult::Pass, name: Some("mx.sender.example".to_owned()) }),
            spf: Some(SpfVerdict {
                result: AuthResult::Fail,
                domain: "evil.example; dkim=pass\r\nX: y".to_owned(),
                scope: SpfScope::Mailfrom,
                reason: Some("no (match)\r\n".to_owned()),
            }),
            dmarc: Some(DmarcVerdict {
                result: AuthResult::Fail,
                policy: Some(DmarcPolicy::Reject),
                domain: Some("a.example".to_owned()),
                ..DmarcVerdict::default()
            }),
            arc: Some(ArcVerdict::default()),
            ..AuthResults::default()
        };
        let expected = "Authentication-Results: mx.example;\r\n iprev=pass (mx.sender.example);\r\n spf=fail (no match) \
                        smtp.mailfrom=evil.exampledkim=passX:y;\r\n dkim=none;\r\n dmarc=fail (p=reject) \
                        header.from=a.example;\r\n arc=none\r\n";
        assert_eq!(results.authentication_results_header("mx.example"), expected);
    }
}
