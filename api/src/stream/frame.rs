//! Frames: events as the lines of an event stream (WHATWG HTML, section 9.2).
//!
//! A frame is `event`, `data`, `id`, in this order, so that a client that was cut inside a frame never keeps the id of
//! an event it has not dispatched. What is not an event (the reconnection hint, heartbeats, the farewell) is a line
//! without a blank line after it: several widespread clients take each blank line for the end of an event, and would
//! hand their callers an empty one.

use std::borrow::Cow;

use bytes::Bytes;
use domain::id::{EventId, MailboxId};
use serde::Serialize;

/// An event, ready for every client that wants it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Encoded {
    /// The published type.
    pub event_type: Cow<'static, str>,
    /// The mailbox it is about.
    pub mailbox: Option<MailboxId>,
    /// The whole frame.
    pub frame: Bytes,
}

/// Returns an event as a frame.
///
/// # Errors
/// The data does not serialise.
pub(super) fn event(event_type: &str, data: &impl Serialize, id: EventId) -> Result<Bytes, serde_json::Error> {
    let mut frame = Vec::with_capacity(1_024);
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(event_type.as_bytes());
    frame.extend_from_slice(b"\ndata: ");
    // JSON escapes line ends, so that it is always one line.
    serde_json::to_writer(&mut frame, data)?;
    frame.extend_from_slice(b"\nid: ");
    frame.extend_from_slice(id.to_string().as_bytes());
    frame.extend_from_slice(b"\n\n");
    frame.shrink_to_fit();
    Ok(frame.into())
}

/// Returns what opens a stream: something to flush, and how long to wait before reconnecting.
pub(super) fn opening(retry_milliseconds: u64) -> Bytes {
    format!(": open\nretry: {retry_milliseconds}\n").into()
}

/// The heartbeat.
pub(super) const HEARTBEAT: Bytes = Bytes::from_static(b": ping\n");

/// Returns what ends a stream, with the reason for whoever looks at the bytes.
pub(super) fn farewell(reason: &'static str) -> Bytes {
    format!(": goodbye, {reason}\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::testing::team_id;
    use serde_json::json;

    #[test]
    fn a_frame_ends_with_its_id_and_has_one_data_line() {
        let id = EventId::new(&team_id(), 1, 7);
        let frame = event("message.received", &json!({"subject": "a\nb\r\u{2028}"}), id).unwrap();
        let text = std::str::from_utf8(&frame).unwrap();
        assert_eq!(text, format!("event: message.received\ndata: {{\"subject\":\"a\\nb\\r\u{2028}\"}}\nid: {id}\n\n"));
        assert_eq!(text.matches('\n').count(), 4);
    }

    #[test]
    fn what_is_no_event_has_no_blank_line() {
        for bytes in [opening(2_000), HEARTBEAT, farewell("x")] {
            assert!(!bytes.windows(2).any(|w| w == b"\n\n"));
            assert!(bytes.ends_with(b"\n"));
        }
    }
}
