//! Every number of the receiving side, with its unit in its name.

use serde::{Deserialize, Serialize};

/// No configuration may accept larger messages, in octets: one is held in memory while it arrives.
pub const MESSAGE_OCTETS_CEILING: u64 = 52_428_800;

/// Sizes, counts and times of receiving sessions (floors: RFC 5321 §4.5.3).
///
/// Lengths of addresses are not here: they are part of the grammar ([`crate::address`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest command line, CRLF included; RFC 5321 asks for 512.
    pub command_octets_max: usize,
    /// Longest line of an AUTH exchange, CRLF included (RFC 4954 §4).
    pub auth_line_octets_max: usize,
    /// This many over-long lines end the connection.
    pub long_lines_max: u32,
    /// Largest message. Twice as much content ends the connection.
    pub message_octets_max: u64,
    /// Largest header block of a message.
    pub header_octets_max: usize,
    /// Most header fields of a message.
    pub header_fields_max: usize,
    /// Most `Received` fields of a message: more is a loop (RFC 5321 §6.3).
    pub received_fields_max: usize,
    /// Most recipients of a transaction; RFC 5321 asks for 100.
    pub recipients_max: usize,
    /// Most refused recipients of a connection. They are no protocol errors, but each costs a lookup.
    pub refused_recipients_max: u32,
    /// Most transactions of a connection.
    pub transactions_max: u32,
    /// Most connections of one client address. Counted by the listener.
    pub connections_per_peer_max: usize,
    /// Most connections in all. Counted by the listener.
    pub connections_max: usize,
    /// From this share of `connections_max` on, sessions are told that they are under load.
    pub overload_connections_percent: u8,
    /// From this many protocol errors on, every reply is delayed.
    pub errors_before_delay: u32,
    /// How long.
    pub error_delay_millis: u64,
    /// This many protocol errors end the connection.
    pub errors_max: u32,
    /// Most NOOP, RSET, VRFY, EXPN, HELP, HELO and EHLO without a message accepted between them.
    pub idle_commands_max: u32,
    /// This many wrong credentials end the connection.
    pub auth_failures_max: u32,
    /// Longest wait for a command.
    pub command_idle_seconds: u32,
    /// The same under load.
    pub overload_command_idle_seconds: u32,
    /// Longest pause inside DATA or a BDAT chunk.
    pub content_idle_seconds: u32,
    /// Slowest content under load, in octets per second.
    pub overload_content_rate_min: u32,
    /// Longest session; it ends at the next command boundary.
    pub session_seconds_max: u32,
    /// Longest TLS handshake. Timed by the listener.
    pub tls_handshake_seconds: u32,
    /// Longest work on a message after its end before the listener answers `451`.
    pub delivery_seconds_max: u32,
    /// Pause before the greeting, in which a client must keep silent.
    pub greeting_delay_millis: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_octets_max: 2048,
            auth_line_octets_max: 12_288,
            long_lines_max: 3,
            message_octets_max: 26_214_400,
            header_octets_max: 256 * 1024,
            header_fields_max: 2000,
            received_fields_max: 50,
            recipients_max: 1000,
            refused_recipients_max: 100,
            transactions_max: 1000,
            connections_per_peer_max: 50,
            connections_max: 10_000,
            overload_connections_percent: 80,
            errors_before_delay: 10,
            error_delay_millis: 1000,
            errors_max: 20,
            idle_commands_max: 100,
            auth_failures_max: 3,
            command_idle_seconds: 300,
            overload_command_idle_seconds: 10,
            content_idle_seconds: 180,
            overload_content_rate_min: 500,
            session_seconds_max: 3600,
            tls_handshake_seconds: 30,
            delivery_seconds_max: 30,
            greeting_delay_millis: 0,
        }
    }
}

/// A limit outside the range in which the protocol still works.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be from {least} to {most}, not {given}")]
pub struct LimitError {
    /// The field of [`Limits`].
    pub field: &'static str,
    /// Its smallest sensible value.
    pub least: u64,
    /// Its largest sensible value.
    pub most: u64,
    /// What it was set to.
    pub given: u64,
}

impl Limits {
    /// Checks every limit, so that all mistakes of a configuration are reported together.
    ///
    /// # Errors
    /// One [`LimitError`] per field that is out of range.
    pub fn validate(&self) -> Result<(), Vec<LimitError>> {
        const DAY_SECONDS: u64 = 86_400;
        const MANY: u64 = 1_000_000;
        let mut errors = Vec::new();
        macro_rules! check {
            ($($field:ident: $least:expr, $most:expr;)*) => {$(
                let (given, least, most) = (self.$field as u64, $least, $most);
                if !(least..=most).contains(&given) {
                    errors.push(LimitError { field: stringify!($field), least, most, given });
                }
            )*};
        }
        check! {
            command_octets_max: 512, 65_536;
            auth_line_octets_max: 512, 65_536;
            long_lines_max: 1, MANY;
            message_octets_max: 65_536, MESSAGE_OCTETS_CEILING;
            header_octets_max: 1024, MESSAGE_OCTETS_CEILING;
            header_fields_max: 50, MANY;
            received_fields_max: 1, MANY;
            recipients_max: 100, MANY;
            refused_recipients_max: 1, MANY;
            transactions_max: 1, MANY;
            connections_per_peer_max: 1, MANY;
            connections_max: 1, MANY;
            overload_connections_percent: 1, 100;
            errors_before_delay: 1, MANY;
            error_delay_millis: 0, 60_000;
            errors_max: 1, MANY;
            idle_commands_max: 1, MANY;
            auth_failures_max: 1, MANY;
            command_idle_seconds: 1, DAY_SECONDS;
            overload_command_idle_seconds: 1, DAY_SECONDS;
            content_idle_seconds: 1, DAY_SECONDS;
            overload_content_rate_min: 1, MANY;
            session_seconds_max: 1, DAY_SECONDS;
            tls_handshake_seconds: 1, DAY_SECONDS;
            delivery_seconds_max: 1, 600;
            greeting_delay_millis: 0, 60_000;
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}
