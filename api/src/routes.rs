//! The native routes, one file per resource.

use crate::openapi::Routes;

mod audit;
mod billing;
mod connection;
mod inboxes;
mod keys;
mod mailbox_filters;
mod mailbox_keys;
mod mailboxes;
mod webhooks;

/// Returns all of them.
pub(crate) fn all() -> Routes {
    Routes::new()
        .and(audit::routes())
        .and(billing::routes())
        .and(connection::routes())
        .and(inboxes::routes())
        .and(keys::routes())
        .and(mailbox_filters::routes())
        .and(mailbox_keys::routes())
        .and(mailboxes::routes())
        .and(webhooks::routes())
}
