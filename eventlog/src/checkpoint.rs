//! Signed checkpoints: a note that says how long a team's log was and which [`crate::merkle`] root it had.
//!
//! The forms are those of transparency logs (C2SP signed-note and tlog-checkpoint), so that their tools and witnesses read
//! them. The text is three lines, the origin, the size and the root; a blank line and the signature follow:
//!
//! ```text
//! postlog/0123456789abcdef/team_06bqmn3t0d4gq2v8xk1hz7sw
//! 4711
//! 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=
//!
//! — postlog/0123456789abcdef 5KVtbW9k…
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::id::TeamId;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::merkle::Hash;

/// The algorithm's number in keys and key ids: Ed25519.
const ALGORITHM: u8 = 1;
/// Longest note that is read.
const NOTE_BYTES_MAX: usize = 1024 * 1024;
/// Longest name of a key.
const NAME_BYTES_MAX: usize = 200;
/// Most signatures of a note.
const SIGNATURES_MAX: usize = 32;
/// What a signature's line begins with: an em dash and a space.
const SIGNED_BY: &str = "— ";

/// A key or its name is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Names are 1 to 200 visible ASCII characters without a plus sign.
    #[error("{0:?} is not a name of a key: 1 to 200 visible ASCII characters without +")]
    Name(String),
    /// `<name>+<hash>+<base64>`, the hash being that of name and key.
    #[error("not a public key of the form NAME+HASH+KEY, as `postlog checkpoint key` prints it")]
    Form,
}

/// A note does not say what it should, or nobody trusted says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadNote {
    /// It is not a signed note.
    #[error("it is not a signed note")]
    Form,
    /// No signature is by this key.
    #[error("it is not signed by {0}")]
    Unsigned(String),
    /// The text is not what the key signed.
    #[error("the signature by {0} does not fit: it was changed")]
    Forged(String),
    /// The text is not that of a checkpoint.
    #[error("it is signed, but it is not a checkpoint")]
    NotACheckpoint,
}

/// Four bytes that tell keys apart.
type KeyId = [u8; 4];

fn key_id(name: &str, public: &[u8; 32]) -> KeyId {
    let hash: Hash =
        Sha256::new().chain_update(name).chain_update([b'\n', ALGORITHM]).chain_update(public).finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

/// What signatures are verified with. Its text is `NAME+HASH+KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: Arc<str>,
    id: KeyId,
    public: [u8; 32],
}

impl VerifyingKey {
    /// Returns the key's name: what the origins of its checkpoints begin with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the first line of a team's checkpoints.
    #[must_use]
    pub fn origin(&self, team: &TeamId) -> String {
        format!("{}/{team}", self.name)
    }

    /// Returns the text of a note that this key has signed, its last line break included. Signatures by others are passed over.
    ///
    /// # Errors
    /// It is no note, this key has not signed it, or it was changed since.
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, BadNote> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(BadNote::Form);
        }
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(BadNote::Form)?;
        let text = &note[..=text.len()];
        let signatures = signatures.strip_suffix('\n').ok_or(BadNote::Form)?;
        if text.bytes().any(|b| b < 0x20 && b != b'\n') || signatures.split('\n').count() > SIGNATURES_MAX {
            return Err(BadNote::Form);
        }
        let mut is_signed = false;
        for line in signatures.split('\n') {
            let (name, signature) =
                line.strip_prefix(SIGNED_BY).and_then(|l| l.split_once(' ')).ok_or(BadNote::Form)?;
            let bytes = BASE64_STANDARD.decode(signature).map_err(|_| BadNote::Form)?;
            let (id, signature) = bytes.split_first_chunk::<4>().ok_or(BadNote::Form)?;
            if !is_name(name) || signature.is_empty() {
                return Err(BadNote::Form);
            }
            if name == &*self.name && *id == self.id {
                let key = UnparsedPublicKey::new(&ED25519, self.public);
                key.verify(text.as_bytes(), signature).map_err(|_| BadNote::Forged(self.name.to_string()))?;
                is_signed = true;
            }
        }
        if is_signed { Ok(text) } else { Err(BadNote::Unsigned(self.name.to_string())) }
    }

    /// Returns the checkpoint that a note is, if this key has signed it.
    ///
    /// # Errors
    /// See [`VerifyingKey::open`]; or the note is about something else.
    pub fn checkpoint(&self, note: &str) -> Result<Checkpoint, BadNote> {
        Checkpoint::parse(self.open(note)?).ok_or(BadNote::NotACheckpoint)
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = [ALGORITHM; 33];
        key[1..].copy_from_slice(&self.public);
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id), BASE64_STANDARD.encode(key))
    }
}

impl FromStr for VerifyingKey {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Self, BadKey> {
        let (name, rest) = text.split_once('+').ok_or(BadKey::Form)?;
        let (id, key) = rest.split_once('+').ok_or(BadKey::Form)?;
        if !is_name(name) {
            return Err(BadKey::Name(name.to_owned()));
        }
        let key = BASE64_STANDARD.decode(key).map_err(|_| BadKey::Form)?;
        let [ALGORITHM, public @ ..] = key.as_slice() else { return Err(BadKey::Form) };
        let public: [u8; 32] = public.try_into().map_err(|_| BadKey::Form)?;
        let expected = key_id(name, &public);
        if id.len() != 8 || u32::from_str_radix(id, 16) != Ok(u32::from_be_bytes(expected)) {
            return Err(BadKey::Form);
        }
        Ok(Self { name: name.into(), id: expected, public })
    }
}

/// What checkpoints are signed with. Never shown by `Debug`. Cheap to clone.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<Ed25519KeyPair>,
    public: VerifyingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public)
    }
}

impl SigningKey {
    /// Returns the key made of 32 random bytes, under a name.
    ///
    /// # Errors
    /// The name is not one.
    pub fn new(seed: &[u8; 32], name: &str) -> Result<Self, BadKey> {
        if !is_name(name) {
            return Err(BadKey::Name(name.to_owned()));
        }
        Ok(Self::named(seed, |_| name.to_owned()))
    }

    /// Returns the key made of 32 random bytes, under a name made of itself: `postlog/` and 16 hex digits.
    #[must_use]
    pub fn unnamed(seed: &[u8; 32]) -> Self {
        Self::named(seed, |public| format!("postlog/{}", &hex::encode(Sha256::digest(public))[..16]))
    }

    fn named(seed: &[u8; 32], name: impl FnOnce(&[u8; 32]) -> String) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed (RFC 8032 section 5.1.5)");
        let public: [u8; 32] = pair.public_key().as_ref().try_into().expect("a public key has 32 bytes");
        let name = name(&public);
        let public = VerifyingKey { id: key_id(&name, &public), name: name.into(), public };
        Self { pair: Arc::new(pair), public }
    }

    /// Returns what its signatures are verified with.
    #[must_use]
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs a text: lines without control characters, each ended by a line break, none of them empty.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let signature = BASE64_STANDARD.encode([&self.public.id, signature.as_ref()].concat());
        format!("{text}\n{SIGNED_BY}{} {signature}\n", self.public.name)
    }

    /// Signs how long a team's log is and which root it has.
    #[must_use]
    pub fn sign_checkpoint(&self, team: &TeamId, size: u64, root: Hash) -> String {
        let checkpoint = Checkpoint { origin: self.public.origin(team), size, root };
        self.sign(&checkpoint.to_string())
    }
}

/// How long a log was, and its root. Its text is the three lines that are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many records.
    pub size: u64,
    /// The Merkle root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// Returns the checkpoint of this text; lines behind the root are for others. `None` if it is something else.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let number: u64 = size.parse().ok()?;
        let root = BASE64_STANDARD.decode(root).ok()?.try_into().ok()?;
        let is_whole = !origin.is_empty() && size == number.to_string() && lines.all(|line| !line.is_empty());
        is_whole.then(|| Self { origin: origin.to_owned(), size: number, root })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, BASE64_STANDARD.encode(self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team() -> TeamId {
        TeamId::new(1, [1; 9])
    }

    /// The example key of the Go implementation of signed notes, and what it signs.
    #[test]
    fn the_published_example_of_a_signed_note_opens() {
        let key: VerifyingKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let signature = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert_eq!(key.open(&format!("{text}\n{signature}")), Ok(text));
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn a_checkpoint_says_what_was_signed_and_nothing_else_opens() {
        let key = SigningKey::unnamed(&[7; 32]);
        let note = key.sign_checkpoint(&team(), 4_711, [9; 32]);
        let public = key.public();
        let expected = Checkpoint { origin: public.origin(&team()), size: 4_711, root: [9; 32] };
        assert_eq!(public.checkpoint(&note), Ok(expected));
        assert_eq!(public.to_string().parse(), Ok(public.clone()));
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut changed = note.clone().into_bytes();
                changed[at] ^= 1 << bit;
                let Ok(changed) = String::from_utf8(changed) else { continue };
                assert!(public.checkpoint(&changed).is_err(), "bit {bit} of byte {at}");
            }
            assert!(note.get(..at).is_none_or(|short| public.checkpoint(short).is_err()));
        }
        let other = SigningKey::new(&[8; 32], public.name()).unwrap();
        assert_eq!(other.public().checkpoint(&note), Err(BadNote::Unsigned(public.name().to_owned())));
        assert_eq!(public.checkpoint(&key.sign("hello\n")), Err(BadNote::NotACheckpoint));
        assert_eq!(
            public.checkpoint(&key.sign("x\n01\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n")),
            Err(BadNote::NotACheckpoint)
        );
    }

    #[test]
    fn signatures_by_witnesses_are_passed_over() {
        let (key, witness) = (SigningKey::unnamed(&[7; 32]), SigningKey::new(&[8; 32], "witness.example/w").unwrap());
        let note = key.sign_checkpoint(&team(), 1, [9; 32]);
        let text = key.public().open(&note).unwrap();
        let second = witness.sign(text);
        let both = format!("{note}{}", second.rsplit_once("\n\n").unwrap().1);
        assert!(key.public().checkpoint(&both).is_ok() && witness.public().checkpoint(&both).is_ok());
    }

    #[test]
    fn a_key_has_a_name_that_fits_a_line() {
        for name in ["", "a b", "a+b", "a\nb", "ä", &"x".repeat(201)] {
            assert_eq!(SigningKey::new(&[7; 32], name).unwrap_err(), BadKey::Name(name.to_owned()));
        }
        let shown = SigningKey::new(&[7; 32], "mail.example.com").unwrap();
        assert_eq!(format!("{shown:?}"), format!("SigningKey({})", shown.public()));
        for wrong in
            ["", "a", "a+b", "a+00000000+AQ==", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
        {
            assert!(wrong.parse::<VerifyingKey>().is_err(), "{wrong}");
        }
    }
}
