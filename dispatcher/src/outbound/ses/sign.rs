//! Signatures of requests to Amazon Web Services, version 4 (`AWS4-HMAC-SHA256`).

use std::fmt::Write as _;

use domain::provider::credentials::Credentials;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A request as it is signed. Path and query are encoded already; the query's parameters are sorted.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    /// Lower-case names in alphabetical order, all of them before `x-amz-date`.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// What a signed request carries.
pub(super) struct Signed {
    /// Header `x-amz-date`.
    pub(super) date: String,
    /// Header `authorization`.
    pub(super) authorization: String,
}

impl Request<'_> {
    /// Signs the request for one service of one region. `now` is in microseconds since the Unix epoch.
    pub(super) fn sign(&self, key: &Credentials, region: &str, service: &str, now: i64) -> Signed {
        let at = jiff::Timestamp::from_microsecond(now).unwrap_or_default();
        let date = at.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let mut canonical = format!("{}\n{}\n{}\n", self.method, self.path, self.query);
        let mut names = String::new();
        for (name, value) in self.headers.iter().copied().chain([("x-amz-date", date.as_str())]) {
            let _ = writeln!(canonical, "{name}:{}", value.trim());
            let separator = if names.is_empty() { "" } else { ";" };
            let _ = write!(names, "{separator}{name}");
        }
        let _ = write!(canonical, "\n{names}\n{}", digest(self.body));
        let text = format!("{ALGORITHM}\n{date}\n{scope}\n{}", digest(canonical.as_bytes()));
        let secret = format!("AWS4{}", key.password);
        let parts = [day, region, service, "aws4_request", &text];
        let signature = parts.iter().fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
        let authorization = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            key.username,
            hex::encode(signature)
        );
        Signed { date, authorization }
    }
}

fn digest(octets: &[u8]) -> String {
    hex::encode(Sha256::digest(octets))
}

fn mac(key: &[u8], octets: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(octets);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of the scheme's specification.
    #[test]
    fn the_published_example_has_its_published_signature() {
        let key =
            Credentials { username: "AKIDEXAMPLE".into(), password: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into() };
        let request = Request {
            method: "GET",
            path: "/",
            query: "Action=ListUsers&Version=2010-05-08",
            headers: &[
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("host", "iam.amazonaws.com"),
            ],
            body: b"",
        };
        let now = "2015-08-30T12:36:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let signed = request.sign(&key, "us-east-1", "iam", now);
        assert_eq!(signed.date, "20150830T123600Z");
        assert_eq!(
            signed.authorization,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }
}
