//! Return paths that say what they are the return path of: VERP with a MAC (RFC 5321 §4.4 lets a sender choose).
//!
//! `b+<token>@<bounce domain>`: the token is base32 of (team, mail, recipient) and 80 bits of HMAC over them. A bounce
//! that arrives there names its message without a guess, and a forged one names nothing.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use crate::address::{Address, AddressError};

/// What an address of ours is for.
struct Use {
    context: &'static [u8],
    /// What the local part of every such address begins with.
    prefix: &'static str,
}

const RETURN_PATH: Use = Use { context: b"postlog verp v1", prefix: "b+" };
const UNSUBSCRIBE: Use = Use { context: b"postlog unsubscribe address v1", prefix: "u+" };
const MAC_OCTETS: usize = 10;
/// Octets of a token's content: 62 characters of base32 hold 38 octets, less the MAC.
const FIELDS_OCTETS: usize = 28;

/// A secret key for message authentication codes. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct MacKey([u8; 32]);

impl Drop for MacKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey")
    }
}

impl MacKey {
    /// Makes a key of 32 random octets.
    #[must_use]
    pub fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// Returns the MAC over octets; the context keeps the uses of one key apart.
    pub(crate) fn mac(&self, context: &[u8], octets: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(&(context.len() as u64).to_be_bytes());
        mac.update(context);
        mac.update(octets);
        mac.finalize().into_bytes().into()
    }

    /// Tells whether a MAC, which may be cut short, is the right one, in constant time.
    pub(crate) fn verify(&self, context: &[u8], octets: &[u8], mac: &[u8]) -> bool {
        let expected = self.mac(context, octets);
        !mac.is_empty() && expected.get(..mac.len()).is_some_and(|expected| bool::from(expected.ct_eq(mac)))
    }
}

/// What a return path names: one copy of one mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verp {
    /// The team, as 64 bits that stand for it.
    pub team: u64,
    /// The mail, as the 128 bits of its id.
    pub mail: u128,
    /// Which of its recipients, from 0.
    pub recipient: u32,
}

impl Verp {
    /// Returns the return path at a bounce domain; its local part has 64 octets at most.
    ///
    /// # Errors
    /// Where `bounce_domain` is no domain.
    pub fn address(&self, key: &MacKey, bounce_domain: &str) -> Result<Address, AddressError> {
        self.address_for(&RETURN_PATH, key, bounce_domain)
    }

    /// Returns the address at a bounce domain to which the recipient writes to get no more mail of this kind (RFC 2369
    /// §3.2): of the same form as the return path, and neither is good for the other's use.
    ///
    /// # Errors
    /// Where `bounce_domain` is no domain.
    pub fn unsubscribe_address(&self, key: &MacKey, bounce_domain: &str) -> Result<Address, AddressError> {
        self.address_for(&UNSUBSCRIBE, key, bounce_domain)
    }

    fn address_for(&self, of: &Use, key: &MacKey, bounce_domain: &str) -> Result<Address, AddressError> {
        let mut octets = self.fields().to_vec();
        let mac = key.mac(of.context, &octets);
        octets.extend_from_slice(&mac[..MAC_OCTETS]);
        let token = BASE32_NOPAD.encode(&octets).to_ascii_lowercase();
        Address::parse(&format!("{}{token}@{bounce_domain}", of.prefix))
    }

    /// Reads a return path of ours; `None` where the MAC is wrong or the address is another kind of address. The
    /// domain is the caller's to check; letters count in any case.
    #[must_use]
    pub fn parse(local_part: &str, key: &MacKey) -> Option<Self> {
        Self::parse_for(&RETURN_PATH, local_part, key)
    }

    /// Reads an address that unsubscribes, as [`Verp::parse`] reads a return path.
    #[must_use]
    pub fn parse_unsubscribe(local_part: &str, key: &MacKey) -> Option<Self> {
        Self::parse_for(&UNSUBSCRIBE, local_part, key)
    }

    fn parse_for(of: &Use, local_part: &str, key: &MacKey) -> Option<Self> {
        let (start, token) = local_part.split_at_checked(of.prefix.len())?;
        if !start.eq_ignore_ascii_case(of.prefix) {
            return None;
        }
        let octets = BASE32_NOPAD.decode(token.to_ascii_uppercase().as_bytes()).ok()?;
        let (fields, mac) = octets.split_at_checked(FIELDS_OCTETS)?;
        if mac.len() != MAC_OCTETS || !key.verify(of.context, fields, mac) {
            return None;
        }
        let (team, rest) = fields.split_first_chunk::<8>()?;
        let (mail, recipient) = rest.split_first_chunk::<16>()?;
        Some(Self {
            team: u64::from_be_bytes(*team),
            mail: u128::from_be_bytes(*mail),
            recipient: u32::from_be_bytes(*recipient.first_chunk()?),
        })
    }

    fn fields(&self) -> [u8; FIELDS_OCTETS] {
        let mut fields = [0; FIELDS_OCTETS];
        fields[..8].copy_from_slice(&self.team.to_be_bytes());
        fields[8..24].copy_from_slice(&self.mail.to_be_bytes());
        fields[24..].copy_from_slice(&self.recipient.to_be_bytes());
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERP: Verp = Verp { team: u64::MAX - 1, mail: 0x0123_4567_89ab_cdef_0011_2233_4455_6677, recipient: 7 };

    #[test]
    fn a_return_path_names_its_mail_and_fits_a_local_part() {
        let key = MacKey::new([1; 32]);
        let address = VERP.address(&key, "bounce.example.com").unwrap();
        assert!(address.local().len() <= 64, "{address}");
        assert_eq!(Verp::parse(address.local(), &key), Some(VERP));
        assert_eq!(Verp::parse(&address.local().to_uppercase(), &key), Some(VERP));
    }

    #[test]
    fn forged_and_foreign_return_paths_name_nothing() {
        let key = MacKey::new([1; 32]);
        let local = VERP.address(&key, "bounce.example.com").unwrap().local().to_owned();
        assert_eq!(Verp::parse(&local, &MacKey::new([2; 32])), None);
        for at in RETURN_PATH.prefix.len()..local.len() {
            for replacement in [b'a', b'b', b'7'] {
                let mut forged = local.clone().into_bytes();
                if forged[at] == replacement {
                    continue;
                }
                forged[at] = replacement;
                // The last character of base32 may hold padding bits: those must be zero to be read at all.
                assert_eq!(Verp::parse(std::str::from_utf8(&forged).unwrap(), &key), None, "{at}");
            }
        }
        for foreign in ["", "b", "b+", "b+x", "\u{e9}+x", "bounce+abc", &local[..local.len() - 1], &format!("{local}a")]
        {
            assert_eq!(Verp::parse(foreign, &key), None, "{foreign}");
        }
    }

    #[test]
    fn an_address_that_unsubscribes_is_no_return_path() {
        let key = MacKey::new([1; 32]);
        let address = VERP.unsubscribe_address(&key, "bounce.example.com").unwrap();
        assert!(address.local().starts_with("u+") && address.local().len() <= 64, "{address}");
        assert_eq!(Verp::parse_unsubscribe(&address.local().to_uppercase(), &key), Some(VERP));
        assert_eq!(Verp::parse(address.local(), &key), None);
        let (as_return_path, back) = (address.local().replacen('u', "b", 1), VERP.address(&key, "x.test").unwrap());
        assert_eq!(Verp::parse(&as_return_path, &key), None, "the token alone is not enough");
        assert_eq!(Verp::parse_unsubscribe(&back.local().replacen('b', "u", 1), &key), None);
        assert_eq!(Verp::parse_unsubscribe(address.local(), &MacKey::new([2; 32])), None);
    }

    #[test]
    fn one_key_has_separate_uses() {
        let key = MacKey::new([1; 32]);
        assert_ne!(key.mac(b"a", b"bc"), key.mac(b"ab", b"c"));
        assert_eq!(format!("{key:?}"), "MacKey");
    }
}
