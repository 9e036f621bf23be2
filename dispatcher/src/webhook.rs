//! Webhooks: events sent to endpoints that teams have named.

pub mod sign;
#[expect(dead_code, reason = "used from the next commit on")]
mod window;
