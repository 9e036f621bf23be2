//! What marks a message as sent by a machine or a list (RFC 3834, RFC 5230 section 4.6, RFC 2919, RFC 2369).

use serde::{Deserialize, Serialize};

use crate::header::{Block, EmailAddress};

/// Facts read from the header that forbid an automatic answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutomaticFacts {
    /// `Auto-Submitted` (or the old `Autosubmitted`) other than `no`, lower case, without parameters.
    pub auto_submitted: Option<String>,
    /// `Precedence: bulk`, `list` or `junk`.
    pub precedence: Option<String>,
    /// Any `List-*` field.
    pub list: bool,
    /// `X-Auto-Response-Suppress` with `All`, `AutoReply` or `OOF`.
    pub suppress_requested: bool,
    /// `X-Autoreply`, `X-Autorespond`, `X-Autoresponder` or `X-Auto-Reply`.
    pub auto_reply_header: bool,
    /// The sender's local part is one that only machines use.
    pub sender_is_robot: bool,
    /// The message is a `multipart/report`.
    pub report: bool,
    /// `Return-Path: <>`, as a receiving server wrote it.
    pub null_return_path: bool,
}

impl AutomaticFacts {
    /// Returns whether any fact says that a machine wrote this, so that no machine should answer.
    pub fn is_automatic(&self) -> bool {
        self.auto_submitted.is_some()
            || self.precedence.is_some()
            || self.list
            || self.suppress_requested
            || self.auto_reply_header
            || self.sender_is_robot
            || self.report
            || self.null_return_path
    }

    pub(super) fn read(block: &Block<'_>, sender: Option<&EmailAddress>, content_type: &str) -> Self {
        let token = |name: &str| {
            let value = block.first(name).map(|field| field.text())?;
            Some(value.split([';', '(']).next().unwrap_or_default().trim().to_ascii_lowercase())
        };
        let auto_submitted = token("Auto-Submitted").or_else(|| token("Autosubmitted"));
        let suppress = block.first("X-Auto-Response-Suppress").map(|field| field.text().to_ascii_lowercase());
        let suppressed = |value: &str| value.split([',', ' ']).any(|word| matches!(word, "all" | "autoreply" | "oof"));
        AutomaticFacts {
            auto_submitted: auto_submitted.filter(|value| value != "no" && !value.is_empty()),
            precedence: token("Precedence").filter(|value| matches!(value.as_str(), "bulk" | "list" | "junk")),
            list: block.fields.iter().any(|field| starts_with(field.name, "List-")),
            suppress_requested: suppress.is_some_and(|value| suppressed(&value)),
            auto_reply_header: AUTO_REPLY_FIELDS.iter().any(|name| block.first(name).is_some()),
            sender_is_robot: sender.is_some_and(|sender| is_robot(&sender.email)),
            report: content_type == "multipart/report",
            null_return_path: block.first("Return-Path").is_some_and(|field| field.text() == "<>"),
        }
    }
}

const AUTO_REPLY_FIELDS: [&str; 4] = ["X-Autoreply", "X-Autorespond", "X-Autoresponder", "X-Auto-Reply"];

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Returns whether an address belongs to a program: daemons, no-reply senders, bounce and list machinery.
pub fn is_robot(email: &str) -> bool {
    const EXACT: [&str; 9] = [
        "mailer-daemon",
        "postmaster",
        "noreply",
        "no-reply",
        "no_reply",
        "donotreply",
        "do-not-reply",
        "listserv",
        "majordomo",
    ];
    let local = email.rsplit_once('@').map_or(email, |(local, _)| local).to_ascii_lowercase();
    // `no-reply+case42@` is `no-reply@` with a tag.
    let base = local.split('+').next().unwrap_or_default();
    EXACT.contains(&base)
        || local.starts_with("bounce")
        || local.starts_with("owner-")
        || local.ends_with("-request")
        || local.ends_with("-bounces")
}
