//! Sealed secrets: what must be used again (webhook, provider and signing keys) is encrypted under a master key
//! that lives outside the database.

use std::sync::Arc;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use domain::id::TeamId;
use zeroize::Zeroizing;

/// A secret in clear. Never shown by `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<Vec<u8>>);

impl SecretText {
    /// Returns a secret made of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the secret as text; empty if it is not UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// A sealed secret could not be opened: another master key, or the bytes were moved or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed secret cannot be opened with this master key")]
pub struct SealError;

/// The key that seals secrets, and those it came after, which still open them. Never shown by `Debug`. Cheap to clone.
#[derive(Clone)]
pub struct MasterKey {
    current: Arc<XChaCha20Poly1305>,
    previous: Vec<Arc<XChaCha20Poly1305>>,
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

const NONCE_BYTES: usize = 24;

impl MasterKey {
    /// Returns the master key made of 32 random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self { current: cipher(bytes), previous: vec![] }
    }

    /// Adds a key that opens what was sealed with it, and seals nothing any more: the one before a rotation, or on a
    /// node whose turn has not come yet, the one after it.
    #[must_use]
    pub fn with_previous(mut self, bytes: &[u8; 32]) -> Self {
        self.previous.push(cipher(bytes));
        self
    }

    /// Seals bytes for one place: they open only for the same team, id and purpose.
    #[must_use]
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], team: &TeamId, id: &str, purpose: &str, clear: &[u8]) -> Vec<u8> {
        let aad = place(team, id, purpose);
        let sealed = self
            .current
            .encrypt(&XNonce::from(nonce), Payload { msg: clear, aad: &aad })
            .expect("XChaCha20-Poly1305 seals any text below 256 GiB");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Opens sealed bytes of one place.
    ///
    /// # Errors
    /// They were sealed with another key or for another place, or were changed.
    pub fn open(&self, team: &TeamId, id: &str, purpose: &str, sealed: &[u8]) -> Result<SecretText, SealError> {
        let place = place(team, id, purpose);
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        keys.find_map(|key| open(key, &place, sealed)).ok_or(SealError)
    }

    /// Returns the same secret sealed with the current key; `None` where it is already.
    ///
    /// # Errors
    /// As [`MasterKey::open`].
    pub fn reseal(
        &self,
        nonce: [u8; NONCE_BYTES],
        team: &TeamId,
        id: &str,
        purpose: &str,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, SealError> {
        if open(&self.current, &place(team, id, purpose), sealed).is_some() {
            return Ok(None);
        }
        let clear = self.open(team, id, purpose, sealed)?;
        Ok(Some(self.seal(nonce, team, id, purpose, clear.expose())))
    }
}

fn cipher(bytes: &[u8; 32]) -> Arc<XChaCha20Poly1305> {
    Arc::new(XChaCha20Poly1305::new(bytes.into()))
}

fn open(key: &XChaCha20Poly1305, place: &[u8], sealed: &[u8]) -> Option<SecretText> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
    key.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: place }).ok().map(SecretText::new)
}

fn place(team: &TeamId, id: &str, purpose: &str) -> Vec<u8> {
    format!("postlog/sealed/1\0{team}\0{id}\0{purpose}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_in_its_place() {
        let key = MasterKey::new(&[7; 32]);
        let (a, b) = (TeamId::new(1, [1; 9]), TeamId::new(1, [2; 9]));
        let sealed = key.seal([3; 24], &a, "sec_1", "webhook", b"whsec_x");
        assert_eq!(key.open(&a, "sec_1", "webhook", &sealed).unwrap().expose(), b"whsec_x");
        assert!(key.open(&b, "sec_1", "webhook", &sealed).is_err());
        assert!(key.open(&a, "sec_2", "webhook", &sealed).is_err());
        assert!(key.open(&a, "sec_1", "dkim", &sealed).is_err());
        assert!(MasterKey::new(&[8; 32]).open(&a, "sec_1", "webhook", &sealed).is_err());
        assert!(key.open(&a, "sec_1", "webhook", &sealed[..10]).is_err());
        assert_eq!(format!("{:?}", SecretText::new(b"x".to_vec())), "SecretText(…)");
    }

    #[test]
    fn a_rotated_key_opens_what_the_one_before_sealed_and_seals_it_anew_once() {
        let team = TeamId::new(1, [1; 9]);
        let (old, new) = (MasterKey::new(&[7; 32]), MasterKey::new(&[8; 32]));
        let sealed = old.seal([3; 24], &team, "sec_1", "webhook", b"whsec_x");
        assert!(new.reseal([4; 24], &team, "sec_1", "webhook", &sealed).is_err());
        let rotated = MasterKey::new(&[8; 32]).with_previous(&[7; 32]);
        assert_eq!(rotated.open(&team, "sec_1", "webhook", &sealed).unwrap().expose(), b"whsec_x");
        assert!(rotated.open(&team, "sec_2", "webhook", &sealed).is_err());
        let again = rotated.reseal([4; 24], &team, "sec_1", "webhook", &sealed).unwrap().unwrap();
        assert_eq!(new.open(&team, "sec_1", "webhook", &again).unwrap().expose(), b"whsec_x");
        assert!(old.open(&team, "sec_1", "webhook", &again).is_err());
        assert_eq!(rotated.reseal([5; 24], &team, "sec_1", "webhook", &again).unwrap(), None);
        assert!(rotated.reseal([5; 24], &team, "sec_1", "dkim", &sealed).is_err());
    }
}
