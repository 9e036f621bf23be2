//! What a team's providers took, as those call it who report about it later: by the provider's own id of the mail, and by
//! recipient. It only leads to a mail; whether a report may count for it is decided from the mail's own stream.
//!
//! Mail that was handed to the recipients' own servers is not here: it has return paths of ours.

use std::collections::BTreeMap;

use domain::Event;
use domain::id::{OutboundId, ProviderId, TeamId};
use domain::outbound::Event as OutboundEvent;
use eventlog::Recorded;
use mail::address::Address;

use crate::db::{Select, Tx};
use crate::table::Kind::{Int, Text};
use crate::table::{Existing, Rows, Table, cells};
use crate::{Error, Projection, Views, folded};

/// The projection's name.
pub const NAME: &str = "sent_mail";

/// The most mails one look-up answers with: who finds so many has found nothing.
pub const FOUND_MAX: usize = 100;

const SENT_AS: Table = Table {
    name: "sent_as",
    key: &[("provider_id", Text), ("message_id", Text), ("outbound_id", Text)],
    rest: &[("sent_at", Int)],
};

const SENT_TO: Table =
    Table { name: "sent_to", key: &[("email", Text), ("outbound_id", Text)], rest: &[("sent_at", Int)] };

/// Returns the mails that an account took under an id of its own; at most [`FOUND_MAX`].
///
/// # Errors
/// The database does not answer.
pub async fn under_id(
    views: &Views,
    team: &TeamId,
    provider: &ProviderId,
    message_id: &str,
) -> Result<Vec<OutboundId>, Error> {
    let mut select = Select::new("SELECT outbound_id FROM sent_as WHERE team_id = ");
    select.text(team.as_str()).push(" AND provider_id = ").text(provider.as_str());
    select.push(" AND message_id = ").text(message_id.replace('\0', ""));
    found(views, select).await
}

/// Returns the mails that some account took for a recipient at or after a time, microseconds since the Unix epoch, newest
/// first; at most [`FOUND_MAX`].
///
/// # Errors
/// The database does not answer.
pub async fn to(views: &Views, team: &TeamId, email: &str, since: i64) -> Result<Vec<OutboundId>, Error> {
    let mut select = Select::new("SELECT outbound_id FROM sent_to WHERE team_id = ");
    select.text(team.as_str()).push(" AND email = ").text(spelt(email).replace('\0', ""));
    select.push(" AND sent_at >= ").int(since).push(" ORDER BY sent_at DESC, outbound_id");
    found(views, select).await
}

async fn found(views: &Views, mut select: Select) -> Result<Vec<OutboundId>, Error> {
    select.push(" LIMIT ").int(i64::try_from(FOUND_MAX).unwrap_or(i64::MAX));
    let rows = select.fetch(&mut views.read().await?).await?;
    rows.iter().map(|cells| cells.parsed("outbound_id")).collect()
}

/// Returns an address in the one spelling that is compared.
fn spelt(email: &str) -> String {
    Address::parse(email).map_or_else(|_| folded(email), |address| address.canonical())
}

/// See the module.
#[derive(Debug)]
pub struct SentMail;

#[async_trait::async_trait]
impl Projection for SentMail {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> i64 {
        1
    }

    fn schema(&self) -> &'static str {
        include_str!("sent_mail.sql")
    }

    fn tables(&self) -> &'static [&'static Table] {
        &[&SENT_AS, &SENT_TO]
    }

    async fn apply(&self, tx: &mut Tx<'_>, team: &TeamId, events: &[Recorded]) -> Result<(), Error> {
        // A mail may be sent in several attempts, and name a recipient twice.
        let (mut under, mut to) = (BTreeMap::new(), BTreeMap::new());
        for record in events {
            let Event::Outbound(OutboundEvent::Sent(e)) = &record.event else { continue };
            let Some(parties) = e.personal.known() else { continue };
            let outbound = &e.mail.outbound;
            if let Some(id) = parties.provider_message_id.as_ref().filter(|id| !id.is_empty()) {
                under.insert((&e.account, id, outbound), e.at);
            }
            parties.recipients.iter().for_each(|email| {
                to.insert((spelt(email), outbound), e.at);
            });
        }
        let (mut as_rows, mut to_rows) = (Rows::new(), Rows::new());
        for ((provider, id, outbound), at) in under {
            as_rows.push(cells![provider.as_str(), id.as_str(), outbound.as_str(), at]);
        }
        for ((email, outbound), at) in to {
            to_rows.push(cells![email.as_str(), outbound.as_str(), at]);
        }
        SENT_AS.insert(tx, team, as_rows, Existing::Replace).await?;
        SENT_TO.insert(tx, team, to_rows, Existing::Replace).await
    }
}
