//! What is needed to hand a mail over: its bytes, signed; its envelope; the account's server and password.

use std::sync::{Arc, PoisonError};

use domain::StreamId;
use domain::Versioned;
use domain::id::{OutboundId, ProviderId, TeamId};
use domain::outbound::{Notices, Outbound, ReturnPath};
use domain::provider::credentials::{Credentials, PURPOSE};
use domain::provider::{Provider, Security, Transport};
use domain::sending_domain::{Algorithm, SIGNING_KEY_PURPOSE, SendingDomain, SigningKey};
use mail::address::{Address, ReversePath};
use mail::auth::{DkimKey, DkimSigner, KeyType, sign_dkim};
use mail::smtp::client::{Content, Login, Mail};
use mail::smtp::{Notify, Return};

use super::Unready;
use super::reactor::Context;
use crate::smtp::{Peer, Protection};

/// Signers kept in memory; with more, all are read anew.
const SIGNERS_MAX: usize = 1_024;
/// Credentials kept in memory; with more, all are read anew.
const CREDENTIALS_MAX: usize = 1_024;

/// A mail as it leaves.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) mail_from: ReversePath,
    /// The sender asked for that return path.
    pub(crate) own_return_path: bool,
    pub(crate) content: Content,
    pub(crate) smtputf8: bool,
    /// What was asked of reports about its delivery.
    pub(crate) notices: Option<Notices>,
}

/// Why a mail cannot be made ready.
#[derive(Debug)]
pub(crate) enum Unsendable {
    /// Something is not there for good: the bytes, the addresses, a key that opens.
    Never(String),
    /// Something could not be read now.
    Now(Unready),
}

impl From<eventlog::LogError> for Unsendable {
    fn from(error: eventlog::LogError) -> Self {
        Self::Now(error.into())
    }
}

/// Makes a mail ready, signed by its domain's keys where `signs`.
pub(crate) async fn prepare(
    context: &Context,
    team: &TeamId,
    mail: &Outbound,
    signs: bool,
) -> Result<Letter, Unsendable> {
    let never = |what: &str| Unsendable::Never(what.to_owned());
    let accepted = mail.accepted.as_ref().ok_or_else(|| never("the mail was not accepted"))?;
    let letter = mail.letter.as_ref().ok_or_else(|| never("what names people was erased"))?;
    let raw = context.log.blob(team, &accepted.blob).await?.ok_or_else(|| never("the mail's bytes were erased"))?;
    let sender = letter.return_path.as_deref().unwrap_or(&letter.from.email);
    let mail_from = ReversePath::parse(&format!("<{sender}>")).map_err(|_| never("the sender is no address"))?;
    let mut signers = vec![];
    if let Some(id) = accepted.domain.as_ref().filter(|_| signs) {
        let domain: Versioned<SendingDomain> = context.log.state(team, &[StreamId::Domain(id.clone())]).await?;
        for key in domain.signing_keys() {
            signers.push(signer(context, team, &domain.name, key).await?);
        }
    }
    let now_seconds = context.allot.now().div_euclid(1_000_000);
    let signers: Vec<&DkimSigner> = signers.iter().map(AsRef::as_ref).collect();
    let content: Content = match sign_dkim(&raw, &signers, now_seconds) {
        Ok(signed) if !signers.is_empty() => signed.into(),
        Ok(_) => Arc::from(&raw[..]),
        Err(error) => return Err(Unsendable::Never(format!("the mail cannot be signed: {error}"))),
    };
    let header = content.windows(4).position(|w| w == b"\r\n\r\n").map_or(&content[..], |end| &content[..end]);
    let smtputf8 = !header.is_ascii();
    let own_return_path = letter.return_path.is_some();
    Ok(Letter { mail_from, own_return_path, content, smtputf8, notices: letter.notices.clone() })
}

/// One transaction: from where, and for whom.
#[derive(Debug, Clone)]
pub(crate) struct Envelope {
    pub(crate) mail_from: ReversePath,
    /// Reports come back to us.
    pub(crate) returns_here: bool,
    pub(crate) numbers: Vec<u8>,
    pub(crate) addresses: Vec<Address>,
}

impl Letter {
    /// Returns one transaction from the sender's own address.
    pub(crate) fn envelope(&self, numbers: Vec<u8>, addresses: Vec<Address>) -> Envelope {
        Envelope { mail_from: self.mail_from.clone(), returns_here: false, numbers, addresses }
    }

    /// Parts recipients into transactions: one for all, or one for each where bounces come back to addresses of ours.
    pub(crate) fn envelopes(
        &self,
        context: &Context,
        (team, outbound): (&TeamId, &OutboundId),
        numbers: Vec<u8>,
        addresses: Vec<Address>,
    ) -> Vec<Envelope> {
        let domain = context.config.bounce_domain.as_str();
        let key = context.return_path_key.as_ref().filter(|_| !domain.is_empty() && !self.own_return_path);
        let Some(key) = key else { return vec![self.envelope(numbers, addresses)] };
        let one = |(number, address): (u8, Address)| {
            let token = ReturnPath::token(team, outbound, Some(number));
            let named = token.address(key, domain).ok().and_then(|a| ReversePath::parse(&format!("<{a}>")).ok());
            let returns_here = named.is_some();
            let mail_from = named.unwrap_or_else(|| self.mail_from.clone());
            Envelope { mail_from, returns_here, numbers: vec![number], addresses: vec![address] }
        };
        numbers.into_iter().zip(addresses).map(one).collect()
    }

    /// Returns what is handed over in a transaction.
    pub(crate) fn mail(&self, envelope: &Envelope) -> Mail {
        let mut mail = Mail::new(envelope.mail_from.clone(), envelope.addresses.clone(), self.content.clone());
        mail.smtputf8 = self.smtputf8;
        if let Some(notices) = &self.notices {
            mail.ret = notices.ret;
            mail.envelope_id.clone_from(&notices.envid);
            let asked = |number: &u8| notices.recipients.get(usize::from(*number)).cloned().unwrap_or_default();
            mail.parameters = envelope.numbers.iter().map(asked).collect();
            if envelope.returns_here {
                mail.ret = mail.ret.map(|_| Return::Headers);
                mail.parameters.iter_mut().for_each(|to| to.notify = to.notify.map(reported_here));
            }
        }
        mail
    }
}

/// Returns what is asked of a server whose reports come to us. Whoever wants to hear nothing is not written to; but what
/// comes of a mail is always told here, or addresses that do not exist would be written to for ever.
fn reported_here(asked: Notify) -> Notify {
    let success = matches!(asked, Notify::On { success: true, .. });
    Notify::On { success, failure: true, delay: true }
}

async fn signer(
    context: &Context,
    team: &TeamId,
    domain: &str,
    key: &SigningKey,
) -> Result<Arc<DkimSigner>, Unsendable> {
    let known = context.signers.lock().unwrap_or_else(PoisonError::into_inner).get(&key.secret).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let bad = |what: String| Unsendable::Never(format!("signing key {}: {what}", key.selector));
    let secret = match context.log.secret(team, &key.secret, SIGNING_KEY_PURPOSE).await {
        Ok(Some(secret)) => secret,
        Ok(None) => return Err(bad("it is not there".to_owned())),
        Err(eventlog::LogError::Seal(error)) => return Err(bad(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let key_type = match key.algorithm {
        Algorithm::Rsa => KeyType::Rsa,
        Algorithm::Ed25519 => KeyType::Ed25519,
    };
    let private = DkimKey::from_der(key_type, secret.expose()).map_err(|e| bad(e.to_string()))?;
    let signer = Arc::new(DkimSigner::new(domain, &key.selector, private).map_err(|e| bad(e.to_string()))?);
    let mut signers = context.signers.lock().unwrap_or_else(PoisonError::into_inner);
    if signers.len() >= SIGNERS_MAX {
        signers.clear();
    }
    signers.insert(key.secret.clone(), Arc::clone(&signer));
    Ok(signer)
}

/// Returns an account's server; `Err` says why the account cannot work.
pub(crate) async fn peer(
    context: &Context,
    team: &TeamId,
    account: &ProviderId,
) -> Result<Result<Peer, String>, Unready> {
    let provider: Versioned<Provider> = context.log.state(team, &[StreamId::Provider(account.clone())]).await?;
    let Some(Transport::CustomSmtp { host, port, security }) = provider.settings.as_ref().map(|s| &s.transport) else {
        return Ok(Err("the account has no server".to_owned()));
    };
    let login = match credentials(context, team, &provider).await? {
        Ok(login) => login.map(|Credentials { username, password }| Login { username, password }),
        Err(why) => return Ok(Err(why)),
    };
    let protection = match security {
        Security::None => Protection::None,
        Security::Starttls => Protection::Starttls,
        Security::Tls => Protection::Tls,
    };
    Ok(Ok(Peer { key: format!("{team}/{account}"), host: host.clone(), port: *port, protection, login }))
}

/// Returns an account's access key; `Err` says why the account cannot work.
pub(crate) async fn access_key(
    context: &Context,
    team: &TeamId,
    account: &ProviderId,
) -> Result<Result<Credentials, String>, Unready> {
    let provider: Versioned<Provider> = context.log.state(team, &[StreamId::Provider(account.clone())]).await?;
    let opened = credentials(context, team, &provider).await?;
    Ok(opened.and_then(|key| key.ok_or_else(|| "the account has no access key".to_owned())))
}

/// Opens an account's credentials; `None` if it needs none, `Err` says why the account cannot work.
async fn credentials(
    context: &Context,
    team: &TeamId,
    provider: &Provider,
) -> Result<Result<Option<Credentials>, String>, Unready> {
    let Some(secret) = &provider.secret else { return Ok(Ok(None)) };
    // New credentials are another secret: what one opened to never changes.
    let known = context.credentials.lock().unwrap_or_else(PoisonError::into_inner).get(secret).cloned();
    if let Some(known) = known {
        return Ok(Ok(Some(known)));
    }
    let text = match context.log.secret(team, secret, PURPOSE).await {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(Err("the account's credentials are not there".to_owned())),
        Err(eventlog::LogError::Seal(error)) => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let Ok(read) = serde_json::from_slice::<Credentials>(text.expose()) else {
        return Ok(Err("the account's credentials cannot be read".to_owned()));
    };
    let mut kept = context.credentials.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= CREDENTIALS_MAX {
        kept.clear();
    }
    kept.insert(secret.clone(), read.clone());
    Ok(Ok(Some(read)))
}

/// Returns the addresses of recipients; `None` if one of them was erased or is none.
pub(crate) fn addresses(mail: &Outbound, numbers: &[u8]) -> Option<Vec<Address>> {
    let address = |n: &u8| Address::parse(mail.recipient(*n)?.email.as_deref()?).ok();
    numbers.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use mail::smtp::{OriginalRecipient, RcptParameters};

    use super::*;

    fn handed_over(returns_here: bool) -> Mail {
        let original = OriginalRecipient { address_type: "rfc822".into(), address: "bob@old.example".into() };
        let bob = RcptParameters { notify: Some(Notify::Never), original: Some(original) };
        let carl = RcptParameters::default();
        let on = Notify::On { success: true, failure: false, delay: false };
        let dora = RcptParameters { notify: Some(on), original: None };
        let notices = Notices { ret: Some(Return::Full), envid: Some("QQ".into()), recipients: vec![bob, carl, dora] };
        let letter = Letter {
            mail_from: ReversePath::parse("<ann@a.test>").unwrap(),
            own_return_path: !returns_here,
            content: Arc::from(&b"Subject: Hello\r\n\r\n"[..]),
            smtputf8: false,
            notices: Some(notices),
        };
        let addresses = ["bob@b.test", "dora@b.test"].map(|a| Address::parse(a).unwrap()).to_vec();
        letter.mail(&Envelope { returns_here, ..letter.envelope(vec![0, 2], addresses) })
    }

    #[test]
    fn what_is_asked_of_reports_goes_on_as_it_came_to_the_senders_own_provider() {
        let mail = handed_over(false);
        assert_eq!((mail.ret, mail.envelope_id.as_deref()), (Some(Return::Full), Some("QQ")));
        let on = Notify::On { success: true, failure: false, delay: false };
        assert_eq!(mail.parameters.iter().map(|to| to.notify).collect::<Vec<_>>(), [Some(Notify::Never), Some(on)]);
        assert_eq!(mail.parameters[0].original.as_ref().unwrap().address, "bob@old.example");
    }

    #[test]
    fn reports_that_come_to_us_tell_of_failures_whatever_was_asked() {
        let mail = handed_over(true);
        assert_eq!((mail.ret, mail.envelope_id.as_deref()), (Some(Return::Headers), Some("QQ")));
        let on = |success| Some(Notify::On { success, failure: true, delay: true });
        assert_eq!(mail.parameters.iter().map(|to| to.notify).collect::<Vec<_>>(), [on(false), on(true)]);
    }
}
