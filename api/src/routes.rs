//! The native routes, one file per resource.

use crate::openapi::Routes;

mod attachments;
mod audit;
mod balance;
mod billing;
mod changes;
mod checkpoints;
mod connection;
mod delivery_groups;
mod domain_filters;
mod domain_keys;
mod domain_records;
mod domain_view;
mod domains;
mod email_body;
mod email_control;
mod email_links;
mod email_logs;
mod email_metrics;
mod email_uploads;
mod email_view;
mod emails;
mod folders;
mod inboxes;
mod keys;
mod mailbox_availability;
mod mailbox_filters;
mod mailbox_keys;
mod mailbox_send;
mod mailbox_session;
mod mailbox_uploads;
mod mailbox_view;
mod mailboxes;
mod message_content;
mod message_search;
mod message_view;
mod messages;
mod provider_body;
mod provider_limits;
mod provider_notifications;
mod provider_state;
mod providers;
mod submissions;
mod suppressions;
mod threads;
mod webhook_deliveries;
mod webhooks;

/// Returns all of them.
pub(crate) fn all() -> Routes {
    Routes::new()
        .and(attachments::routes())
        .and(audit::routes())
        .and(balance::routes())
        .and(billing::routes())
        .and(changes::routes())
        .and(checkpoints::routes())
        .and(connection::routes())
        .and(delivery_groups::routes())
        .and(email_control::routes())
        .and(email_logs::routes())
        .and(email_metrics::routes())
        .and(domain_filters::routes())
        .and(domain_keys::routes())
        .and(domain_records::routes())
        .and(domains::routes())
        .and(emails::routes())
        .and(email_uploads::routes())
        .and(folders::routes())
        .and(inboxes::routes())
        .and(keys::routes())
        .and(mailbox_availability::routes())
        .and(mailbox_filters::routes())
        .and(mailbox_keys::routes())
        .and(mailbox_send::routes())
        .and(mailbox_session::routes())
        .and(mailbox_uploads::routes())
        .and(mailboxes::routes())
        .and(message_content::routes())
        .and(messages::routes())
        .and(provider_limits::routes())
        .and(provider_notifications::routes())
        .and(provider_state::routes())
        .and(providers::routes())
        .and(submissions::routes())
        .and(suppressions::routes())
        .and(threads::routes())
        .and(webhook_deliveries::routes())
        .and(webhooks::routes())
}
