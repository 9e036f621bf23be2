//! What codes mean where no text says more (RFC 3463, RFC 7505, RFC 7372, and what large hosts made of them).

use super::codes::Enhanced;
use super::{Category, Stage};

/// Returns what an enhanced status code means; nothing for those that say nothing.
pub(super) fn category(code: Enhanced) -> Option<Category> {
    use Category as C;
    let permanent = code.class == 5;
    let found = match (code.subject, code.detail) {
        (1, 2 | 10) => C::DomainUnknown,
        (1, 7 | 8) => C::SenderRejected,
        (1, _) => C::UserUnknown,
        (2, 0) if !permanent => C::Greylisted,
        (2, 0 | 1) => C::MailboxInactive,
        (2, 2) => C::MailboxFull,
        (2, 3) | (3, 4) => C::MessageTooLarge,
        (3, 1) => C::MailboxFull,
        (3, 2) if !permanent => C::RateLimited,
        // About the system that refused, whatever its reply code says of mailboxes.
        (3, 2 | 3 | 5) => C::Undetermined,
        (4, 4) if permanent => C::DomainUnknown,
        (4, 310) => C::DomainUnknown,
        (4, 5) => C::RateLimited,
        (4, 6 | 14) => C::RoutingLoop,
        (4, 7 | 300) => C::Expired,
        (4, _) => C::Network,
        (5, 3) => C::RateLimited,
        (5, 0) => return None,
        (5, _) => C::Protocol,
        (6, _) => C::ContentRejected,
        (7, 17) => C::UserUnknown,
        (7, 13) => C::MailboxInactive,
        (7, 25) => C::PolicyBlocked,
        (7, 27) => C::SenderRejected,
        (7, 28) => C::RateLimited,
        (7, 20..=30) => C::AuthFailure,
        (7, 1) if !permanent => C::Greylisted,
        (7, _) if !permanent => C::RateLimited,
        (7, _) => C::PolicyBlocked,
        _ => return None,
    };
    Some(found)
}

/// Returns what a reply code alone means (RFC 5321 §4.2.3).
pub(super) fn by_reply_code(code: u16, stage: Option<Stage>) -> Option<Category> {
    use Category as C;
    // Before MAIL nothing has been said that could be about a recipient or a message.
    let about_us = matches!(stage, Some(Stage::Connect | Stage::Greeting | Stage::Hello));
    match code {
        421 => Some(C::RateLimited),
        _ if about_us && code >= 500 => Some(C::PolicyBlocked),
        _ if about_us => Some(C::RateLimited),
        450 | 451 if stage == Some(Stage::Rcpt) => Some(C::Greylisted),
        452 => Some(C::MailboxFull),
        550 | 551 | 553 if matches!(stage, None | Some(Stage::Rcpt)) => Some(C::UserUnknown),
        550 | 553 if stage == Some(Stage::Mail) => Some(C::SenderRejected),
        552 if stage == Some(Stage::Data) => Some(C::MessageTooLarge),
        552 => Some(C::MailboxFull),
        550 | 554 if stage == Some(Stage::Data) => Some(C::ContentRejected),
        554 if stage == Some(Stage::Mail) => Some(C::PolicyBlocked),
        500..=504 => Some(C::Protocol),
        530 | 535 | 538 => Some(C::RelayDenied),
        521 | 556 => Some(C::DomainUnknown),
        _ => None,
    }
}
