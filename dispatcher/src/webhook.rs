//! Webhooks: events sent to endpoints that teams have named.

pub mod sign;
