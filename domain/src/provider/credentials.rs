//! What a sending account's server wants to hear, as it is sealed. Never part of an event.

use serde::{Deserialize, Serialize};

/// What credentials are sealed for.
pub const PURPOSE: &str = "provider";

/// A login: name and password of a submission server, or id and secret of an access key of Amazon SES.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The login name, or the access key's id.
    pub username: String,
    /// The password, or the access key's secret.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}
