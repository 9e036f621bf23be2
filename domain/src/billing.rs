//! What is metered and what a unit costs.

use serde::{Deserialize, Serialize};

use crate::money::Nanos;

/// Bytes of a decimal gigabyte.
const GIGABYTE: i128 = 1_000_000_000;

/// What is counted for a bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// One accepted inbound message in one mailbox.
    InboundMessages,
    /// Bytes of accepted messages; negative when a message is destroyed.
    StoredBytes,
    /// One recipient whose mail the team's own account took, repeats included.
    OutgoingRecipients,
    /// One recipient whose mail a managed account took, repeats included.
    ManagedRecipients,
}

impl Meter {
    /// All meters, in the order they are shown.
    pub const ALL: [Self; 4] =
        [Self::InboundMessages, Self::StoredBytes, Self::OutgoingRecipients, Self::ManagedRecipients];

    /// Returns the meter's name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InboundMessages => "inbound_messages",
            Self::StoredBytes => "stored_bytes",
            Self::OutgoingRecipients => "outgoing_recipients",
            Self::ManagedRecipients => "managed_recipients",
        }
    }

    /// Returns whether its units are charged to the balance one by one, with the mail they belong to.
    #[must_use]
    pub fn is_charged_with_mail(self) -> bool {
        matches!(self, Self::OutgoingRecipients | Self::ManagedRecipients)
    }

    /// Returns the meter of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }
}

/// The price book: what one unit of each meter costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceBook {
    /// Nano-dollars per accepted inbound message.
    pub inbound_message_nanos: Nanos,
    /// Nano-dollars per recipient accepted by the team's own provider.
    pub outgoing_recipient_nanos: Nanos,
    /// Nano-dollars per recipient accepted by a managed provider.
    pub managed_recipient_nanos: Nanos,
    /// Nano-dollars per decimal gigabyte and month of storage.
    pub storage_gb_month_nanos: Nanos,
}

impl Default for PriceBook {
    fn default() -> Self {
        Self {
            inbound_message_nanos: Nanos(150_000),
            outgoing_recipient_nanos: Nanos(150_000),
            managed_recipient_nanos: Nanos(250_000),
            storage_gb_month_nanos: Nanos(20_000_000),
        }
    }
}

impl PriceBook {
    /// Returns the price of keeping bytes for one UTC day (days since 1970-01-01): the month's price divided by the days of
    /// that month, rounded half up to a nano-dollar.
    #[must_use]
    pub fn storage_of_day(&self, day: i64, bytes: i64) -> Nanos {
        let divisor = GIGABYTE * i128::from(days_in_month(day));
        let exact = i128::from(self.storage_gb_month_nanos.0) * i128::from(bytes.max(0));
        Nanos(i64::try_from((exact + divisor / 2) / divisor).unwrap_or(i64::MAX))
    }
}

/// Returns how many days the month of a UTC day has.
fn days_in_month(day: i64) -> i8 {
    let at = jiff::Timestamp::from_second(day.saturating_mul(86_400)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.to_zoned(jiff::tz::TimeZone::UTC).days_in_month()
}

/// A change of a meter that an event causes, attributed to a mailbox and the key that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// What is counted.
    pub meter: Meter,
    /// How many units, negative for releases.
    pub units: i64,
    /// The mailbox it is attributed to, if any.
    pub mailbox: Option<crate::id::MailboxId>,
    /// The key it is attributed to, where that is not who recorded the event.
    pub key: Option<crate::id::KeyId>,
}

/// Returns what an event adds to the meters.
#[must_use]
pub fn metered(event: &crate::Event) -> Vec<Metered> {
    use crate::{Event, message};
    match event {
        Event::Message(message::Event::Received(e)) => vec![
            Metered { meter: Meter::InboundMessages, units: 1, mailbox: Some(e.mailbox.clone()), key: None },
            Metered { meter: Meter::StoredBytes, units: e.size_bytes, mailbox: Some(e.mailbox.clone()), key: None },
        ],
        Event::Message(message::Event::Destroyed(e)) => {
            vec![Metered {
                meter: Meter::StoredBytes,
                units: -e.size_bytes,
                mailbox: Some(e.mailbox.clone()),
                key: None,
            }]
        }
        Event::Message(message::Event::Filed(e)) => {
            vec![Metered {
                meter: Meter::StoredBytes,
                units: e.size_bytes,
                mailbox: Some(e.mailbox.clone()),
                key: None,
            }]
        }
        Event::Outbound(e) if e.booking().charged_units > 0 => {
            let meter = if e.is_managed() { Meter::ManagedRecipients } else { Meter::OutgoingRecipients };
            let units = i64::from(e.booking().charged_units);
            let mail = e.mail();
            vec![Metered { meter, units, mailbox: mail.mailbox.clone(), key: mail.key.clone() }]
        }
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigabyte_for_a_month_costs_its_price() {
        // 2026-11-21 and 2026-10-31: months of 30 and 31 days.
        let (november, october) = (20_778, 20_757);
        let prices = PriceBook::default();
        assert_eq!(prices.storage_of_day(november, 1_000_000_000), Nanos(666_667));
        assert_eq!(prices.storage_of_day(november, 30_000_000_000), Nanos(20_000_000));
        assert_eq!(prices.storage_of_day(october, 31_000_000_000), Nanos(20_000_000));
        assert_eq!(prices.storage_of_day(october, 0), Nanos(0));
        assert_eq!(prices.storage_of_day(october, -5), Nanos(0));
        let dear = PriceBook { storage_gb_month_nanos: Nanos(i64::MAX), ..prices };
        assert_eq!(dear.storage_of_day(i64::MAX, i64::MAX), Nanos(i64::MAX));
    }
}
