//! The session of one connection: what arrived goes in, what to do next comes out.

use std::sync::Arc;
use std::time::Duration;

use super::content::Content;
use super::data::DataDecoder;
use super::reply::Reply;
use super::transaction::{MailParameters, RcptParameters, Recipient, Transaction};
use super::{ChunkDecoder, Config, PeerInfo, StartTls, TlsInfo};
use crate::address::{ForwardPath, ReversePath};

mod answer;
mod auth;
mod content;
mod dispatch;
mod input;

pub use answer::Verdict;
pub use auth::{Credentials, Secret};

use auth::AuthStep;
use input::{Inbox, Line};

/// Replies are handed out once this many octets of them wait, though more input could be processed.
const OUTBOX_OCTETS_MAX: usize = 8192;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Send these octets, one or more replies.
    Reply(Vec<u8>),
    /// Do the TLS handshake, within [`tls_handshake_seconds`](super::Limits::tls_handshake_seconds), then
    /// call [`Session::tls_established`]; close where it fails. Octets read before the handshake but not
    /// yet fed must be fed first: the session then closes, as it has to.
    StartTls,
    /// Answer whether mail from this sender is taken at all (storage, rate limits, the key's scope).
    CheckSender {
        /// The envelope sender.
        path: ReversePath,
        /// The parameters of MAIL.
        parameters: MailParameters,
    },
    /// Answer whether this recipient is ours and takes mail from [`Session::reverse_path`].
    CheckRecipient {
        /// The envelope recipient.
        path: ForwardPath,
        /// The parameters of RCPT.
        parameters: RcptParameters,
    },
    /// Answer whether the credentials are right, in the same time whatever is wrong with them.
    Authenticate(Credentials),
    /// Make the message durable, then answer. Only that answer makes the session say `250`.
    Deliver(Box<Transaction>),
    /// Wait, without holding anything, then ask for the next action.
    Delay(Duration),
    /// Read and [`Session::feed`]; at `deadline`, microseconds since the Unix epoch, call
    /// [`Session::timed_out`]. Where the client closes, drop the session: nothing of it remains.
    NeedInput {
        /// How long to wait.
        deadline: i64,
    },
    /// The last question is not answered yet.
    NeedAnswer,
    /// Close the connection.
    Close,
}

impl Action {
    /// Replies go out before anything slow begins. A lookup of an address is not slow, so that a pipelined
    /// group of commands is answered in one write.
    fn flushes_first(&self) -> bool {
        !matches!(self, Self::CheckSender { .. } | Self::CheckRecipient { .. })
    }
}

/// Where the dialogue stands.
#[derive(Debug)]
enum Phase {
    /// The greeting has not been handed out.
    Greeting,
    /// Between commands.
    Command,
    /// Inside an AUTH exchange.
    Auth(AuthStep),
    /// Inside DATA.
    Data(Box<(DataDecoder, Content)>),
    /// Inside a BDAT chunk.
    Chunk {
        left: u64,
        last: bool,
        /// The octets belong to the message; otherwise they are only skipped.
        kept: bool,
    },
    /// The driver has been asked, or is about to be.
    Asked(Question),
    /// The driver does the handshake. Holds whether octets came in the clear meanwhile.
    Handshake { injected: bool },
    /// What waits is sent, then the connection is closed.
    Closing,
}

/// What the driver has been asked, with what its answer completes.
#[derive(Debug)]
enum Question {
    Sender { path: ReversePath, parameters: MailParameters },
    Recipient(Recipient),
    Credentials { username: String },
    Delivery,
}

/// A transaction before its content.
#[derive(Debug)]
struct Envelope {
    reverse_path: ReversePath,
    parameters: MailParameters,
    recipients: Vec<Recipient>,
    /// RCPT was tried; decides how DATA without recipients is refused.
    rcpt_seen: bool,
    started_at: i64,
    /// BDAT has begun.
    chunks: Option<Box<(ChunkDecoder, Content)>>,
    /// A chunk was refused: only RSET helps (RFC 3030 §2).
    chunk_failed: bool,
}

/// One client's name for itself.
#[derive(Debug)]
struct Helo {
    name: String,
    esmtp: bool,
}

/// Counters over the whole connection.
#[derive(Debug, Default)]
struct Counters {
    errors: u32,
    long_lines: u32,
    idle_commands: u32,
    transactions: u32,
    auth_failures: u32,
    refused_recipients: u32,
}

/// One connection's receiving session; see the [module](super) for the contract with its driver.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    peer: PeerInfo,
    tls: Option<TlsInfo>,
    now: i64,
    started_at: i64,
    /// Since when the client is expected to do something.
    waiting_since: i64,
    /// Since when the content of DATA or of one chunk arrives.
    content_since: i64,
    /// How much of it has arrived, kept or not.
    content_octets: u64,
    overloaded: bool,
    shutting_down: bool,
    greeting_delayed: bool,
    phase: Phase,
    inbox: Inbox,
    outbox: Vec<u8>,
    pending: Option<Action>,
    delay: Option<Duration>,
    helo: Option<Helo>,
    authenticated: Option<String>,
    envelope: Option<Box<Envelope>>,
    counters: Counters,
}

impl Session {
    /// Starts a session for a connection just accepted. Times are microseconds since the Unix epoch.
    #[must_use]
    pub fn new(config: Arc<Config>, peer: PeerInfo, now_micros: i64) -> Self {
        Self {
            config,
            tls: peer.tls.clone(),
            peer,
            now: now_micros,
            started_at: now_micros,
            waiting_since: now_micros,
            content_since: now_micros,
            content_octets: 0,
            overloaded: false,
            shutting_down: false,
            greeting_delayed: false,
            phase: Phase::Greeting,
            inbox: Inbox::default(),
            outbox: Vec::new(),
            pending: None,
            delay: None,
            helo: None,
            authenticated: None,
            envelope: None,
            counters: Counters::default(),
        }
    }

    /// Takes octets that arrived. Best called after [`Action::NeedInput`]; what comes at other times waits,
    /// except before the greeting, where it is [early talk](Self::early_talk).
    pub fn feed(&mut self, input: &[u8], now_micros: i64) {
        self.advance_clock(now_micros);
        if input.is_empty() {
            return;
        }
        match &mut self.phase {
            Phase::Closing => return,
            Phase::Greeting if !self.peer.trusted => return self.early_talk(now_micros),
            Phase::Handshake { injected } => {
                *injected = true;
                return;
            }
            _ => {}
        }
        // Content need not pass through the inbox.
        let taken = if self.inbox.is_empty() { self.take_content(input) } else { 0 };
        // The content may have closed the session; whatever follows is then of no interest.
        if !matches!(self.phase, Phase::Closing) {
            self.inbox.extend(&input[taken..]);
        }
    }

    /// Returns what to do next. To be called until it needs input, an answer, or closes.
    pub fn next_action(&mut self) -> Action {
        loop {
            if let Some(delay) = self.delay.take() {
                let micros = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
                self.waiting_since = self.waiting_since.saturating_add(micros);
                return Action::Delay(delay);
            }
            let flush = self.pending.as_ref().is_some_and(Action::flushes_first);
            if self.outbox.len() >= OUTBOX_OCTETS_MAX || (flush && !self.outbox.is_empty()) {
                return self.flush();
            }
            if let Some(action) = self.pending.take() {
                return action;
            }
            match self.phase {
                Phase::Greeting => {
                    self.greet();
                    continue;
                }
                Phase::Asked(_) | Phase::Handshake { .. } => return Action::NeedAnswer,
                Phase::Closing if self.outbox.is_empty() => return Action::Close,
                Phase::Closing => return self.flush(),
                Phase::Command | Phase::Auth(_) | Phase::Data(_) | Phase::Chunk { .. } => {}
            }
            if !self.advance() {
                if self.outbox.is_empty() {
                    return Action::NeedInput { deadline: self.deadline() };
                }
                return self.flush();
            }
        }
    }

    /// Tells that octets arrived before the greeting: the client does not wait for it, as every real mail
    /// server does. A trusted peer may.
    pub fn early_talk(&mut self, now_micros: i64) {
        self.advance_clock(now_micros);
        if matches!(self.phase, Phase::Greeting) && !self.peer.trusted {
            self.disconnect(Reply::new(554, 5, 0, "you talk before you are greeted"));
        }
    }

    /// Tells that the deadline of [`Action::NeedInput`] has passed. Does nothing before it.
    pub fn timed_out(&mut self, now_micros: i64) {
        self.advance_clock(now_micros);
        let waiting = matches!(self.phase, Phase::Command | Phase::Auth(_) | Phase::Data(_) | Phase::Chunk { .. });
        if waiting && self.pending.is_none() && self.now >= self.deadline() {
            self.disconnect(Reply::new(421, 4, 2, "timeout"));
        }
    }

    /// Tells that the handshake after [`Action::StartTls`] succeeded. All that the client said before is
    /// forgotten (RFC 3207 §4.2); where it sent octets in the clear meanwhile, the session closes.
    pub fn tls_established(&mut self, tls: TlsInfo, now_micros: i64) {
        self.advance_clock(now_micros);
        let Phase::Handshake { injected } = self.phase else {
            return;
        };
        if injected {
            self.close();
            return;
        }
        self.tls = Some(tls);
        self.forget_client();
        self.phase = Phase::Command;
        self.waiting_since = self.now;
    }

    /// Asks the session to end at the next command boundary with `421`; a message under way is finished.
    pub fn shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// Tells whether connections run short: a session under load waits less.
    pub fn set_overloaded(&mut self, overloaded: bool) {
        self.overloaded = overloaded;
    }

    /// Sets the client's name, where its lookup took longer than the connection's acceptance.
    pub fn set_reverse_name(&mut self, name: Option<String>) {
        self.peer.reverse_name = name;
    }

    /// Returns the configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the client, as XCLIENT left it.
    #[must_use]
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// Returns what the client called itself.
    #[must_use]
    pub fn helo(&self) -> Option<&str> {
        self.helo.as_ref().map(|helo| helo.name.as_str())
    }

    /// Returns as whom the client authenticated.
    #[must_use]
    pub fn authenticated(&self) -> Option<&str> {
        self.authenticated.as_deref()
    }

    /// Returns the TLS of the connection.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// Returns the sender of the transaction under way.
    #[must_use]
    pub fn reverse_path(&self) -> Option<&ReversePath> {
        self.envelope.as_ref().map(|envelope| &envelope.reverse_path)
    }

    /// Returns how many recipients the transaction under way has.
    #[must_use]
    pub fn recipients(&self) -> usize {
        self.envelope.as_ref().map_or(0, |envelope| envelope.recipients.len())
    }

    /// Returns how much memory its content takes, in octets, so that a listener can bound the sum.
    #[must_use]
    pub fn held_octets(&self) -> usize {
        let chunks = self.envelope.as_ref().and_then(|envelope| envelope.chunks.as_ref());
        let data = match &self.phase {
            Phase::Data(data) => data.1.held_octets(),
            _ => 0,
        };
        data + chunks.map_or(0, |chunks| chunks.1.held_octets()) + self.inbox.held_octets()
    }

    /// Processes one line or one piece of content. Returns whether there was any.
    fn advance(&mut self) -> bool {
        let octets_max = match self.phase {
            Phase::Data(_) | Phase::Chunk { .. } => return self.advance_content(),
            Phase::Auth(_) => self.config.limits.auth_line_octets_max,
            _ => self.config.limits.command_octets_max,
        };
        if self.shutting_down {
            self.disconnect(Reply::new(421, 3, 2, "shutting down, try again later"));
            return true;
        }
        if self.now >= self.session_end() {
            self.disconnect(Reply::new(421, 4, 2, "the session has lasted too long"));
            return true;
        }
        let line = self.inbox.take_line(octets_max);
        if !matches!(line, Line::Incomplete) {
            self.waiting_since = self.now;
        }
        match (line, std::mem::replace(&mut self.phase, Phase::Command)) {
            (Line::Incomplete, phase) => {
                self.phase = phase;
                return false;
            }
            (Line::TooLong, phase) => self.line_too_long(matches!(phase, Phase::Auth(_))),
            (Line::Whole(line), Phase::Auth(step)) => self.auth_line(step, &line),
            (Line::BareLf(_), Phase::Auth(_)) => self.error(Reply::new(501, 5, 2, "bare LF")),
            (Line::Whole(line), _) => self.command_line(&line),
            (Line::BareLf(line), _) => self.bare_lf_line(&line),
        }
        true
    }

    fn greet(&mut self) {
        let delay = Duration::from_millis(self.config.limits.greeting_delay_millis);
        if self.shutting_down {
            self.disconnect(Reply::new(421, 3, 2, "shutting down, try again later"));
        } else if !delay.is_zero() && !self.greeting_delayed {
            self.greeting_delayed = true;
            self.delay = Some(delay);
        } else {
            self.phase = Phase::Command;
            self.waiting_since = self.now;
            self.banner();
        }
    }

    fn banner(&mut self) {
        self.reply(&Reply::plain(220, format!("{} ESMTP ready", self.config.hostname)));
    }

    fn flush(&mut self) -> Action {
        Action::Reply(std::mem::take(&mut self.outbox))
    }

    /// Queues a reply. A client that made many errors waits for each.
    fn reply(&mut self, reply: &Reply) {
        reply.write_to(&mut self.outbox);
        let limits = &self.config.limits;
        if self.counters.errors >= limits.errors_before_delay && limits.error_delay_millis > 0 {
            self.delay = Some(Duration::from_millis(limits.error_delay_millis));
        }
    }

    /// Queues the reply to a protocol error, or ends the session after too many. Refusals of senders,
    /// recipients and content are no such errors: an honest host may have a long list of dead addresses.
    fn error(&mut self, reply: Reply) {
        self.counters.errors += 1;
        if reply.code() == 421 {
            self.disconnect(reply);
        } else if self.counters.errors >= self.config.limits.errors_max {
            self.disconnect(Reply::new(421, 7, 0, "too many errors"));
        } else {
            self.reply(&reply);
        }
    }

    fn bad_sequence(&mut self, text: &'static str) {
        self.error(Reply::new(503, 5, 1, text));
    }

    fn disconnect(&mut self, reply: Reply) {
        reply.write_to(&mut self.outbox);
        self.close();
    }

    /// Ends the dialogue: of what was under way nothing remains.
    fn close(&mut self) {
        self.phase = Phase::Closing;
        self.pending = None;
        self.envelope = None;
        self.inbox = Inbox::default();
    }

    fn forget_client(&mut self) {
        self.helo = None;
        self.envelope = None;
        self.authenticated = None;
    }

    fn esmtp(&self) -> bool {
        self.helo.as_ref().is_some_and(|helo| helo.esmtp)
    }

    fn offers_start_tls(&self) -> bool {
        self.tls.is_none() && self.config.start_tls != StartTls::Off
    }

    fn advance_clock(&mut self, now_micros: i64) {
        // A clock that was set back must not lengthen a wait.
        self.now = self.now.max(now_micros);
    }

    fn session_end(&self) -> i64 {
        after_seconds(self.started_at, self.config.limits.session_seconds_max)
    }

    fn deadline(&self) -> i64 {
        let limits = &self.config.limits;
        if !matches!(self.phase, Phase::Data(_) | Phase::Chunk { .. }) {
            let seconds =
                if self.overloaded { limits.overload_command_idle_seconds } else { limits.command_idle_seconds };
            return after_seconds(self.waiting_since, seconds).min(self.session_end());
        }
        let idle = after_seconds(self.waiting_since, limits.content_idle_seconds);
        if !self.overloaded {
            return idle;
        }
        // Under load content has to keep up with the least rate, after the same start as a command has.
        let earned = self.content_octets / u64::from(limits.overload_content_rate_min.max(1));
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        let start = after_seconds(self.content_since, limits.overload_command_idle_seconds);
        idle.min(after_seconds(start, earned))
    }
}

fn after_seconds(start: i64, seconds: u32) -> i64 {
    start.saturating_add(i64::from(seconds).saturating_mul(MICROS_PER_SECOND))
}
