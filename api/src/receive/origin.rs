//! Where a mail really came from: SPF, DKIM, DMARC, ARC and the peer's name, if somebody answers DNS queries.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::message::Authentication;
use mail::auth::{AuthRequest, AuthResult, AuthResults, DmarcPolicy, Resolver, verify};
use mail::smtp::Transaction;
use tokio::runtime::Handle;

use super::Inner;
use super::content::INLINE_OCTETS_MAX;

/// All checks of one mail together; what takes longer counts as not checked.
const VERIFY_TIME_MAX: Duration = Duration::from_secs(10);

/// Checks where a mail came from; says that nothing was checked where no resolver was given.
pub(super) async fn check(inner: &Inner, transaction: &Transaction, data: &Bytes) -> AuthResults {
    let Some(resolver) = &inner.resolver else { return AuthResults::unchecked() };
    let asked = Asked {
        resolver: Arc::clone(resolver),
        data: data.clone(),
        peer: transaction.peer.address,
        helo: transaction.helo.clone(),
        mail_from: transaction.reverse_path.address().map(|a| a.as_str().to_owned()),
        receiver: inner.options.hostname.clone(),
        now: transaction.received_at / 1_000_000,
    };
    if data.len() <= INLINE_OCTETS_MAX {
        return asked.answer().await;
    }
    // Hashing a large body for each signature would hold an executor thread; waiting for DNS costs this one little.
    let Ok(permit) = Arc::clone(&inner.verifiers).acquire_owned().await else { return AuthResults::unchecked() };
    let handle = Handle::current();
    let answered = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        handle.block_on(asked.answer())
    });
    answered.await.unwrap_or_else(|_| AuthResults::unchecked())
}

struct Asked {
    resolver: Arc<dyn Resolver>,
    data: Bytes,
    peer: std::net::IpAddr,
    helo: String,
    mail_from: Option<String>,
    receiver: String,
    now: i64,
}

impl Asked {
    async fn answer(self) -> AuthResults {
        let request = AuthRequest {
            raw: &self.data,
            peer: self.peer,
            helo: &self.helo,
            mail_from: self.mail_from.as_deref(),
            receiver: &self.receiver,
            now: self.now,
        };
        let verified = tokio::time::timeout(VERIFY_TIME_MAX, Box::pin(verify(&request, self.resolver.as_ref()))).await;
        verified.unwrap_or_else(|_| {
            metrics::counter!("smtp_verification_timeouts_total").increment(1);
            AuthResults::unchecked()
        })
    }
}

/// Returns whether the author's domain asks to refuse the mail.
pub(super) fn is_forged(auth: &AuthResults) -> bool {
    let fails = |dmarc: &mail::auth::DmarcVerdict| {
        dmarc.result == AuthResult::Fail && dmarc.policy == Some(DmarcPolicy::Reject)
    };
    auth.checked && auth.dmarc.as_ref().is_some_and(fails)
}

/// Returns what the event keeps of the results.
pub(super) fn summary(auth: &AuthResults) -> Authentication {
    if !auth.checked {
        let unchecked = || "unchecked".to_owned();
        return Authentication { spf: unchecked(), dkim: unchecked(), dmarc: unchecked(), arc: unchecked() };
    }
    let none = AuthResult::None;
    // One signature that holds is enough, whatever became of the others.
    let best = auth.dkim.iter().find(|d| d.result == AuthResult::Pass).or(auth.dkim.first());
    let text = |result: AuthResult| result.as_str().to_owned();
    Authentication {
        spf: text(auth.spf.as_ref().map_or(none, |spf| spf.result)),
        dkim: text(best.map_or(none, |dkim| dkim.result)),
        dmarc: text(auth.dmarc.as_ref().map_or(none, |dmarc| dmarc.result)),
        arc: text(auth.arc.as_ref().map_or(none, |arc| arc.result)),
    }
}
