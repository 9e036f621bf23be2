//! What a return path of ours stands for: a mail, and which of its recipients (VERP).
//!
//! The token in the address holds the mail's whole id and the first 64 bits of its team's. Ids sort by these bits, so a
//! look into the list of teams finds the team; whose log holds the mail is then certain.

use mail::verp::Verp;

use crate::id::{OutboundId, TeamId};

/// Bits of a team's id that are not in a token.
const TEAM_BITS_CUT: u32 = 56;
/// The recipient's number in a token that stands for all recipients of its mail.
const ALL: u32 = u32::MAX;

/// What a report that comes to a return path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnPath {
    team_start: u64,
    /// The mail.
    pub outbound: OutboundId,
    /// The recipient's number; `None` where the mail went to several under one return path.
    pub recipient: Option<u8>,
}

impl ReturnPath {
    /// Returns the token of a mail on its way to one recipient, or to all in one transaction.
    #[must_use]
    pub fn token(team: &TeamId, outbound: &OutboundId, recipient: Option<u8>) -> Verp {
        let team = u64::try_from(team.to_bits() >> TEAM_BITS_CUT).unwrap_or(u64::MAX);
        Verp { team, mail: outbound.to_bits(), recipient: recipient.map_or(ALL, u32::from) }
    }

    /// Reads a token; `None` where it stands for nothing that exists.
    #[must_use]
    pub fn read(token: &Verp) -> Option<Self> {
        let recipient = match token.recipient {
            ALL => None,
            number => Some(u8::try_from(number).ok()?),
        };
        Some(Self { team_start: token.team, outbound: OutboundId::from_bits(token.mail)?, recipient })
    }

    /// Returns the id behind which the mail's team stands in the order of teams.
    #[must_use]
    pub fn team_after(&self) -> Option<TeamId> {
        let first = u128::from(self.team_start) << TEAM_BITS_CUT;
        first.checked_sub(1).and_then(TeamId::from_bits)
    }

    /// Returns whether the mail may be of this team.
    #[must_use]
    pub fn may_be_of(&self, team: &TeamId) -> bool {
        team.to_bits() >> TEAM_BITS_CUT == u128::from(self.team_start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_mail_and_its_team(
            at in 0i64..4_000_000_000_000_000, team in any::<[u8; 9]>(), mail in any::<[u8; 9]>(),
            recipient in proptest::option::of(any::<u8>()),
        ) {
            let (team, outbound) = (TeamId::new(at, team), OutboundId::new(at, mail));
            let read = ReturnPath::read(&ReturnPath::token(&team, &outbound, recipient)).unwrap();
            prop_assert_eq!(&read.outbound, &outbound);
            prop_assert_eq!(read.recipient, recipient);
            prop_assert!(read.may_be_of(&team));
            prop_assert!(read.team_after().is_none_or(|after| after < team));
        }

        #[test]
        fn any_token_is_read_or_refused_without_panic(team in any::<u64>(), mail in any::<u128>(), recipient in any::<u32>()) {
            if let Some(read) = ReturnPath::read(&Verp { team, mail, recipient }) {
                prop_assert!(read.team_after().is_some() || team == 0);
            }
        }
    }
}
