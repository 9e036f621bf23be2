//! Signing keys and how they are published (RFC 6376 section 3.6.1, RFC 8301, RFC 8463).

use data_encoding::BASE64;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey as _};
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use rsa::rand_core::{CryptoRng, Error as RandomError, RngCore};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Smallest RSA key made or taken: what receivers are required to verify and senders to use (RFC 8301 section 3.2).
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 4096;
/// An Ed25519 key in PKCS #8 is this and the seed (RFC 8410 section 7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// `AlgorithmIdentifier` of rsaEncryption (RFC 8017 appendix C).
const RSA_ENCRYPTION: [u8; 15] = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// The kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// RSA with SHA-256, which every receiver verifies.
    Rsa,
    /// Ed25519 (RFC 8463), which many do.
    Ed25519,
}

impl KeyType {
    /// Returns the `a=` of a signature.
    pub(super) fn algorithm(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        }
    }

    /// Returns the `k=` of a key record.
    fn name(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// Why a key is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// RSA keys have 2048 to 4096 bits.
    #[error("an RSA key needs {RSA_BITS_MIN} to {RSA_BITS_MAX} bits")]
    Bits,
    /// The bytes are no private key of the type.
    #[error("the bytes are not a private key of this type")]
    Malformed,
    /// A key could not be made.
    #[error("no key could be made")]
    Generation,
}

enum Inner {
    Rsa(RsaKey<Sha256>),
    Ed25519(Ed25519Key),
}

/// A private key. Its `Debug` shows its type alone.
#[derive(Clone)]
pub struct DkimKey {
    der: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for DkimKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DkimKey({})", self.key_type().name())
    }
}

impl DkimKey {
    /// Makes an RSA key of 2048 to 4096 bits. `random` fills its argument with bytes from a cryptographic source.
    /// Takes a second or so of computation: not for a task that others wait for.
    ///
    /// # Errors
    /// `Bits`; `Generation` where no key was found.
    pub fn generate_rsa(bits: usize, random: impl FnMut(&mut [u8])) -> Result<Self, KeyError> {
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) || !bits.is_multiple_of(8) {
            return Err(KeyError::Bits);
        }
        let key = rsa::RsaPrivateKey::new(&mut Random(random), bits).map_err(|_| KeyError::Generation)?;
        let der = key.to_pkcs1_der().map_err(|_| KeyError::Generation)?;
        Self::from_der(KeyType::Rsa, der.as_bytes())
    }

    /// Makes an Ed25519 key of 32 bytes from a cryptographic source.
    ///
    /// # Errors
    /// `Malformed`, which does not happen.
    pub fn generate_ed25519(seed: [u8; 32]) -> Result<Self, KeyError> {
        let der = Zeroizing::new([&ED25519_PKCS8_PREFIX[..], &seed].concat());
        Self::from_der(KeyType::Ed25519, &der)
    }

    /// Reads a key that [`DkimKey::to_der`] gave: PKCS #1 for RSA, PKCS #8 for Ed25519.
    ///
    /// # Errors
    /// `Malformed`, `Bits`.
    pub fn from_der(key_type: KeyType, der: &[u8]) -> Result<Self, KeyError> {
        let (inner, public) = match key_type {
            KeyType::Rsa => {
                let key = PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der));
                let key = RsaKey::<Sha256>::from_key_der(key).map_err(|_| KeyError::Malformed)?;
                let public = rsa_public(&key.public_key());
                (Inner::Rsa(key), public)
            }
            KeyType::Ed25519 => {
                let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(der).map_err(|_| KeyError::Malformed)?;
                let public = key.public_key();
                (Inner::Ed25519(key), public)
            }
        };
        Ok(Self { der: Zeroizing::new(der.to_vec()), public, inner: Arc::new(inner) })
    }

    /// Returns the private key's bytes, to be sealed.
    #[must_use]
    pub fn to_der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the kind of key.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        match &*self.inner {
            Inner::Rsa(_) => KeyType::Rsa,
            Inner::Ed25519(_) => KeyType::Ed25519,
        }
    }

    /// Returns the public key in base64, as `p=` shows it.
    #[must_use]
    pub fn public_key(&self) -> String {
        BASE64.encode(&self.public)
    }

    /// Returns the text of the TXT record; see [`txt_strings`] for its form in a zone file.
    #[must_use]
    pub fn record(&self) -> String {
        format!("v=DKIM1; k={}; h=sha256; p={}", self.key_type().name(), self.public_key())
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match &*self.inner {
            Inner::Rsa(key) => key.sign(bytes).ok(),
            Inner::Ed25519(key) => key.sign(bytes).ok(),
        }
    }
}

/// Wraps an `RSAPublicKey` as the `SubjectPublicKeyInfo` that key records hold in practice (RFC 6376 appendix C).
fn rsa_public(key: &[u8]) -> Vec<u8> {
    let bits = tagged(3, &[&[0], key].concat());
    tagged(0x30, &[&RSA_ENCRYPTION[..], &bits].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut out = vec![tag];
    if content.len() >= 0x80 {
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(u8::MAX));
    }
    out.extend_from_slice(significant);
    out.extend_from_slice(content);
    out
}

/// Returns the strings that a TXT record of this text is made of: at most 255 octets each (RFC 1035 section 3.3.14).
#[must_use]
pub fn txt_strings(record: &str) -> Vec<&str> {
    let mut strings = Vec::new();
    let mut rest = record;
    while !rest.is_empty() {
        let (string, more) = rest.split_at(rest.floor_char_boundary(rest.len().min(255)));
        strings.push(string);
        rest = more;
    }
    strings
}

/// The caller's source of random bytes, as the key generator wants it.
struct Random<F>(F);

impl<F: FnMut(&mut [u8])> RngCore for Random<F> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        (self.0)(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        (self.0)(out);
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        (self.0)(out);
        Ok(())
    }
}

impl<F: FnMut(&mut [u8])> CryptoRng for Random<F> {}
