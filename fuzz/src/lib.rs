//! Hostile input: what any bytes whatever must not do to the code that reads them first.
//!
//! A *target* is a function of bytes that panics where a promise is broken: not only "no panic", but bounds on what
//! comes out, the same result however the input is cut, and that what was written can be read again. The inputs in
//! `corpus/<target>/` are run by the ordinary tests, so that whatever was found once stays found; `fuzz/run <target>`
//! looks for more of them with libFuzzer.
//!
//! Invariants:
//! - A target is a function of its input: it keeps nothing between two runs that the next could notice.
//! - Nothing here is part of the program.

mod address;
#[cfg(feature = "doors")]
mod doors;
mod html;
mod input;
mod mime;
mod returned;
mod signatures;
mod smtp_client;
mod smtp_data;
mod smtp_server;
mod submission;
mod webhook_url;

/// A function of bytes, with its name.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its corpus.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "smtp_server", run: smtp_server::run },
    Target { name: "smtp_data", run: smtp_data::run },
    Target { name: "smtp_client", run: smtp_client::run },
    Target { name: "mime", run: mime::run },
    Target { name: "returned", run: returned::run },
    Target { name: "html", run: html::run },
    Target { name: "signatures", run: signatures::run },
    Target { name: "submission", run: submission::run },
    Target { name: "address", run: address::run },
    Target { name: "webhook_url", run: webhook_url::run },
    #[cfg(feature = "doors")]
    Target { name: "json_bodies", run: doors::bodies },
    #[cfg(feature = "doors")]
    Target { name: "cursors", run: doors::cursors },
    #[cfg(feature = "doors")]
    Target { name: "last_event_id", run: doors::last_event_id },
];

/// Returns the target of that name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
