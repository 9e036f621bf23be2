//! Stories: the real program on real sockets, seen from outside.
#![expect(clippy::unwrap_used, reason = "stories may fail loudly")]

mod architecture;
mod cells;
mod crash;
mod domains_are_verified;
mod erasure_reaches_everything;
mod every_route_is_guarded;
mod first_minute;
mod harness;
mod idle;
mod interrupted_mails;
mod judges;
mod judges_rust;
mod mail_leaves_by_an_own_account;
mod nodes;
mod operator_commands;
mod paused;
mod postgres;
mod readme;
mod rebuild_changes_nothing;
mod smtp_client;
mod statements_name_their_team;
mod stream_client;
mod streams_resume_without_gap;
mod submitted_mail_comes_back;
mod tenants_are_strangers;
mod usage_adds_up;
mod webhook_sink;
mod webhooks_survive_a_dead_endpoint;
