//! The certificates that messages of Amazon SNS are signed with: fetched from Amazon, checked, and kept for a while.
//!
//! Amazon publishes the certificate alone, without those above it, so the chain that vouches for it is that of the host it
//! is fetched from. The certificate itself must be one of Amazon SNS by its names, and valid today.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::Semaphore;

use super::envelope::of_sns;
use super::{Fetch, FetchError, unsigned};
use crate::problem::Problem;

/// How many certificates are kept; Amazon has one per region and year.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// How long a certificate is used before it is fetched anew, microseconds.
const KEPT_MICROS: i64 = 24 * 60 * 60 * 1_000_000;
/// How long a URL that led to no certificate is left alone, microseconds.
const FAILED_MICROS: i64 = 60 * 1_000_000;
/// How many are fetched at the same time.
const FETCHED_AT_ONCE: usize = 4;
/// Longest certificate, in PEM.
const PEM_BYTES_MAX: usize = 32 * 1024;
const PATH_OCTETS_MAX: usize = 200;

/// A key that a certificate vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey(Arc<[u8]>);

impl PublicKey {
    /// Returns it as RSA keys are written (RFC 8017 appendix A.1.1).
    pub(super) fn as_rsa_der(&self) -> &[u8] {
        &self.0
    }
}

/// What is known of a URL.
#[derive(Debug, Clone)]
enum Known {
    /// A key, valid until then.
    Key { key: PublicKey, until: i64 },
    /// There was none; it is asked again then.
    Nothing { until: i64 },
}

/// Certificates that were fetched.
pub(super) struct Certificates {
    known: Mutex<LruCache<String, Known>>,
    permits: Semaphore,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { known: Mutex::new(LruCache::new(KEPT_MAX)), permits: Semaphore::new(FETCHED_AT_ONCE) }
    }
}

impl Certificates {
    /// Returns the key of the certificate at a URL, at a time in microseconds since the Unix epoch.
    pub(super) async fn key(&self, fetch: &dyn Fetch, url: &str, now: i64) -> Result<PublicKey, Problem> {
        let is_certificate = of_sns(url).is_some_and(|url| {
            let path = url.path();
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
            url.query().is_none() && path.len() <= PATH_OCTETS_MAX && path.ends_with(".pem") && path.bytes().all(plain)
        });
        if !is_certificate {
            return Err(unsigned());
        }
        if let Some(known) = self.known(url, now) {
            return known;
        }
        let _permit = self.permits.acquire().await.map_err(|_| Problem::unavailable())?;
        // Somebody else may have fetched it meanwhile.
        if let Some(known) = self.known(url, now) {
            return known;
        }
        let fetched = fetch.get(url).await;
        let found = match &fetched {
            Ok(answer) if answer.status == 200 => read(&answer.body, now),
            Ok(_) | Err(FetchError::Refused | FetchError::NoAnswer) => None,
        };
        let known = match &found {
            Some((key, expires_at)) => Known::Key { key: key.clone(), until: (now + KEPT_MICROS).min(*expires_at) },
            None => Known::Nothing { until: now + FAILED_MICROS },
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).put(url.to_owned(), known);
        match (found, fetched) {
            (Some((key, _)), _) => Ok(key),
            (None, Ok(answer)) if answer.status == 200 => Err(unsigned()),
            (None, _) => Err(Problem::unavailable()),
        }
    }

    fn known(&self, url: &str, now: i64) -> Option<Result<PublicKey, Problem>> {
        match self.known.lock().unwrap_or_else(PoisonError::into_inner).get(url)? {
            Known::Key { key, until } if now < *until => Some(Ok(key.clone())),
            Known::Nothing { until } if now < *until => Some(Err(Problem::unavailable())),
            Known::Key { .. } | Known::Nothing { .. } => None,
        }
    }
}

/// Returns whether a certificate of this name signs for Amazon SNS.
fn is_sns(name: &str) -> bool {
    let Some(label) = name.strip_suffix(".amazonaws.com").or_else(|| name.strip_suffix(".amazonaws.com.cn")) else {
        return false;
    };
    label == "sns" || label.starts_with("sns.") || label.starts_with("sns-")
}

/// Returns the RSA key of a certificate and until when it is valid, microseconds since the Unix epoch; nothing where it is
/// no certificate of Amazon SNS, or not valid at this time.
fn read(pem: &[u8], now: i64) -> Option<(PublicKey, i64)> {
    if pem.len() > PEM_BYTES_MAX {
        return None;
    }
    let der = CertificateDer::from_pem_slice(pem).ok()?;
    let certificate = webpki::EndEntityCert::try_from(&der).ok()?;
    if !certificate.valid_dns_names().any(is_sns) {
        return None;
    }
    let (not_before, not_after) = validity(&der)?;
    if !(not_before..not_after).contains(&now) {
        return None;
    }
    let spki = certificate.subject_public_key_info();
    let (_, fields, _) = element(&spki)?;
    let (_, _algorithm, rest) = element(fields)?;
    let (tag, bits, _) = element(rest)?;
    // The first octet of a bit string counts the bits that are not used.
    let (unused, key) = bits.split_first()?;
    (tag == BIT_STRING && *unused == 0).then(|| (PublicKey(key.into()), not_after))
}

const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// Takes one element of DER apart (X.690 §8.1): tag, content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(*short), rest),
        long @ 0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (octets.iter().fold(0usize, |n, octet| n << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Returns from when until when a certificate is valid, microseconds since the Unix epoch (RFC 5280 §4.1.2.5).
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, signed, _) = element(certificate)?;
    let (_, mut fields, _) = element(signed)?;
    if element(fields)?.0 == VERSION {
        fields = element(fields)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, dates, _) = element(fields)?;
    let (tag, not_before, rest) = element(dates)?;
    let not_before = time(tag, not_before)?;
    let (tag, not_after, _) = element(rest)?;
    Some((not_before, time(tag, not_after)?))
}

fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let year_digits = match tag {
        UTC_TIME => 2,
        GENERALIZED_TIME => 4,
        _ => return None,
    };
    if text.len() != year_digits + 10 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, digits: usize| text.get(from..from + digits)?.parse::<i16>().ok();
    let pair = |n: usize| number(year_digits + 2 * n, 2).and_then(|n| i8::try_from(n).ok());
    let year = match (tag, number(0, year_digits)?) {
        (UTC_TIME, year @ 0..50) => 2000 + year,
        (UTC_TIME, year) => 1900 + year,
        (_, year) => year,
    };
    let civil = jiff::civil::DateTime::new(year, pair(0)?, pair(1)?, pair(2)?, pair(3)?, pair(4)?, 0).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_signs_for_amazon_sns_by_name() {
        for good in ["sns.amazonaws.com", "sns.eu-west-1.amazonaws.com", "sns-cn-north-1.amazonaws.com.cn"] {
            assert!(is_sns(good), "{good}");
        }
        for bad in [
            "amazonaws.com",
            "xsns.amazonaws.com",
            "sns.amazonaws.com.evil.example",
            "s3.amazonaws.com",
            "snsx.amazonaws.com",
        ] {
            assert!(!is_sns(bad), "{bad}");
        }
    }

    #[test]
    fn times_of_certificates_are_read() {
        let seconds = |tag, text: &str| time(tag, text.as_bytes()).map(|micros| micros / 1_000_000);
        assert_eq!(seconds(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(seconds(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        for bad in ["", "Z", "700101000001", "7001010000Z", "701301000000Z", "70010100000xZ"] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = validity(&bytes);
            proptest::prop_assert!(read(&bytes, 0).is_none());
        }
    }
}
