//! The text of a key: a label, 256 random bits in base32, and a checksum.
//!
//! `smx_inf_` + 52 characters + 6 characters. The label says what the key is for, in either of two spellings; the
//! checksum lets a mistyped key be refused, and a leaked one be found in a text, without asking anybody.

use std::sync::{Arc, LazyLock};

use data_encoding::{Encoding, Specification};
use domain::api_key::{Kind, Minted};
use domain::id::{AddressId, KeyId, TeamId};
use eventlog::{Allot, SecretText};
use hmac::{Hmac, KeyInit, Mac};
use mail::verp::MacKey;
use sha2::{Digest, Sha256};

/// Characters of the random part: 256 bits, five to a character.
const RANDOM_CHARS: usize = 52;
/// Characters of the checksum.
const CHECKSUM_CHARS: usize = 6;
/// How many characters at either end a listing shows.
const SHOWN_CHARS: usize = 4;
const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";
const CHECKSUM_TAG: &[u8] = b"postlog/key-checksum/1\0";

static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str(ALPHABET);
    specification.encoding().expect("thirty-two different symbols are a base32 alphabet")
});

/// The key under which secrets are digested. It is kept outside the database, so that a stolen database authenticates
/// nobody. Never shown by `Debug`. Cheap to clone.
#[derive(Clone)]
pub struct Pepper(Arc<[u8; 32]>);

impl Pepper {
    /// Returns the pepper made of 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Arc::new(bytes))
    }

    /// Returns the digest under which the directory knows a secret: lower-case hex of HMAC-SHA-256 over its random part.
    #[must_use]
    pub fn lookup(&self, random: &str) -> String {
        hex::encode(self.mac(b"postlog/key-lookup/1\0", &[random.as_bytes()]))
    }

    /// Returns the id of an address within a team, see [`AddressId::of`].
    #[must_use]
    pub fn address(&self, team: &TeamId, address: &mail::address::Address) -> AddressId {
        AddressId::of(&self.mac(b"postlog/address-key/1\0", &[]), team, address)
    }

    /// Returns the key under which return paths are made and recognised, see [`mail::verp`].
    #[must_use]
    pub fn return_path_key(&self) -> MacKey {
        MacKey::new(self.mac(b"postlog/return-path-key/1\0", &[]))
    }

    /// Returns HMAC-SHA-256 over parts, each with its length before it, for a purpose of its own.
    #[must_use]
    pub fn mac(&self, purpose: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes a key of any length");
        mac.update(purpose);
        for part in parts {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for Pepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// A new secret: shown once, then only its digest remains.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// What the domain may know of it.
    pub minted: Minted,
    /// The secret under the label that documents use.
    pub secret: SecretText,
    /// The same secret under the label that client libraries expect.
    pub alternate: SecretText,
}

/// Mints a key of a kind.
#[must_use]
pub fn mint(allot: &Allot, pepper: &Pepper, kind: Kind) -> Fresh {
    let random = BASE32.encode(&allot.random::<32>());
    let checksum = checksum(&random);
    let text = |label: &str| SecretText::new(format!("{label}{random}{checksum}").into_bytes());
    let minted = Minted {
        key: KeyId::new(allot.now(), allot.random()),
        lookup: pepper.lookup(&random),
        prefix: format!("{}{}", kind.label(), &random[..SHOWN_CHARS]),
        suffix: checksum[CHECKSUM_CHARS - SHOWN_CHARS..].to_owned(),
    };
    Fresh { minted, secret: text(kind.label()), alternate: text(kind.other_label()) }
}

/// A text that has the shape of a key and the right checksum. Whether anybody holds it is another question.
#[derive(Clone)]
pub struct Presented<'a> {
    label: &'a str,
    random: &'a str,
}

impl<'a> Presented<'a> {
    /// Reads a presented secret; `None` when it cannot be one.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let split = text.len().checked_sub(RANDOM_CHARS + CHECKSUM_CHARS)?;
        let (label, rest) = text.split_at_checked(split)?;
        let (random, given) = rest.split_at_checked(RANDOM_CHARS)?;
        let labelled = [Kind::Infrastructure, Kind::Sending, Kind::Mailbox]
            .iter()
            .any(|kind| label == kind.label() || label == kind.other_label());
        let known = random.bytes().all(|b| ALPHABET.as_bytes().contains(&b));
        (labelled && known && given == checksum(random)).then_some(Self { label, random })
    }

    /// Returns the random part, which alone is digested.
    #[must_use]
    pub fn random(&self) -> &'a str {
        self.random
    }

    /// Returns whether the label is one of a kind's.
    #[must_use]
    pub fn names(&self, kind: Kind) -> bool {
        self.label == kind.label() || self.label == kind.other_label()
    }
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Presented({}…)", self.label)
    }
}

fn checksum(random: &str) -> String {
    let digest = Sha256::new().chain_update(CHECKSUM_TAG).chain_update(random).finalize();
    let mut text = BASE32.encode(&digest[..5]);
    text.truncate(CHECKSUM_CHARS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fresh(kind: Kind) -> Fresh {
        mint(&Allot::system(), &Pepper::new([7; 32]), kind)
    }

    #[test]
    fn a_minted_secret_is_read_back_under_both_labels_of_its_kind() {
        for kind in [Kind::Infrastructure, Kind::Sending, Kind::Mailbox] {
            let fresh = fresh(kind);
            for text in [&fresh.secret, &fresh.alternate] {
                let presented = Presented::parse(text.expose_str()).unwrap();
                assert!(presented.names(kind));
                assert_eq!(Pepper::new([7; 32]).lookup(presented.random()), fresh.minted.lookup);
            }
            assert!(fresh.secret.expose_str().starts_with(&fresh.minted.prefix));
            assert_eq!(fresh.secret.expose_str().len(), kind.label().len() + RANDOM_CHARS + CHECKSUM_CHARS);
        }
    }

    #[test]
    fn a_label_of_another_kind_is_noticed() {
        let fresh = fresh(Kind::Infrastructure);
        let moved = fresh.secret.expose_str().replace("smx_inf_", "smx_mbx_");
        assert!(!Presented::parse(&moved).unwrap().names(Kind::Infrastructure));
    }

    #[test]
    fn another_pepper_gives_another_digest() {
        assert_ne!(Pepper::new([1; 32]).lookup("x"), Pepper::new([2; 32]).lookup("x"));
        assert_eq!(format!("{:?}", Pepper::new([1; 32])), "Pepper(…)");
    }

    proptest! {
        #[test]
        fn a_changed_character_is_noticed(at in 8usize..66, by in 1usize..32) {
            let text = fresh(Kind::Infrastructure).secret.expose_str().to_owned();
            let mut bytes = text.into_bytes();
            let old = ALPHABET.bytes().position(|b| b == bytes[at]).unwrap();
            bytes[at] = ALPHABET.as_bytes()[(old + by) % 32];
            // Thirty bits of checksum: one in a thousand million typing errors would pass.
            prop_assert!(Presented::parse(std::str::from_utf8(&bytes).unwrap()).is_none());
        }

        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,80}") {
            let _ = Presented::parse(&text);
        }
    }
}
