//! Stories: the real program on real sockets, seen from outside.
#![expect(clippy::unwrap_used, reason = "stories may fail loudly")]

mod architecture;
mod cells;
mod crash;
mod cut_commits;
mod domains_are_verified;
mod erasure_reaches_everything;
mod every_route_is_guarded;
mod exports_are_verifiable;
mod failover;
mod first_minute;
mod full_disk;
mod harness;
mod idle;
mod interrupted_mails;
mod judges;
mod judges_rust;
mod key_files;
mod mail_leaves_by_an_own_account;
mod master_key_rotation;
mod nodes;
mod operator_commands;
mod paused;
mod postgres;
mod proxy;
mod readme;
mod rebuild_changes_nothing;
mod smtp_client;
mod stream_client;
mod streams_resume_without_gap;
mod submitted_mail_comes_back;
mod takeover;
mod tenants_are_strangers;
mod usage_adds_up;
mod webhook_sink;
mod webhooks_survive_a_dead_endpoint;
