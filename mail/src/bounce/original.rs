//! What a report says of the mail it is about.

use serde::{Deserialize, Serialize};

use crate::header::{Block, BlockLimits, addresses, message_ids};

const LIMITS: BlockLimits = BlockLimits { fields_max: 500, bytes_max: 128 * 1024 };
/// Recipients of the original that are kept.
const RECIPIENTS_MAX: usize = 100;
/// Id fields kept.
const ID_FIELDS_MAX: usize = 20;

/// The mail that a report is about, as far as the report returned it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Its `Message-ID` without brackets.
    pub message_id: Option<String>,
    /// Its envelope id (`Original-Envelope-Id`, RFC 3461 §4.4).
    pub envelope_id: Option<String>,
    /// Its author's address.
    pub from: Option<String>,
    /// The addresses in its `To` and `Cc`.
    pub to: Vec<String>,
    /// Its subject.
    pub subject: Option<String>,
    /// Its `X-…` fields whose names end in `ID`: systems that change the `Message-ID` leave these alone.
    pub id_fields: Vec<(String, String)>,
    /// Addresses that the report or the original names as return path, for [`Verp`](crate::verp::Verp) to read.
    pub return_paths: Vec<String>,
}

impl Original {
    /// Reads the returned header.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let block = Block::scan(bytes, LIMITS);
        let list = |name: &str| {
            let fields = block.all(name).flat_map(|field| addresses(&field.unfolded(), RECIPIENTS_MAX).0);
            fields.map(|person| person.email).take(RECIPIENTS_MAX).collect::<Vec<_>>()
        };
        let mut to = list("To");
        to.extend(list("Cc"));
        let ids = block.fields.iter().filter(|field| {
            let name = field.name.to_ascii_lowercase();
            name.starts_with("x-") && name.ends_with("id")
        });
        Self {
            message_id: block.first("Message-ID").and_then(|field| message_ids(field.value).into_iter().next()),
            envelope_id: None,
            from: list("From").into_iter().next(),
            to,
            subject: block.first("Subject").map(|field| field.text()).filter(|text| !text.is_empty()),
            id_fields: ids.take(ID_FIELDS_MAX).map(|field| (field.name.to_owned(), field.text())).collect(),
            return_paths: list("Return-Path"),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.message_id.is_none() && self.from.is_none() && self.to.is_empty()
    }
}
