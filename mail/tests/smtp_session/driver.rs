//! A driver without sockets: it answers questions by fixed rules and writes down what happens.

use std::sync::Arc;
use std::time::Duration;

use mail::address::{ForwardPath, ReversePath};
use mail::smtp::{Action, Config, PeerInfo, Profile, Session, StartTls, TlsInfo, Transaction, Verdict};

pub const START: i64 = 1_700_000_000_000_000;
pub const SECOND: i64 = 1_000_000;

/// What a dialogue led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// All replies.
    pub transcript: String,
    pub delivered: Vec<Transaction>,
    pub closed: bool,
    pub delays: Vec<Duration>,
}

impl Outcome {
    /// Code and enhanced status of each reply after the greeting, or its code alone.
    pub fn codes(&self) -> Vec<String> {
        let last_lines = self.transcript.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
        last_lines
            .skip(1)
            .map(|line| {
                let enhanced = line[4..].split(' ').next().unwrap_or_default();
                let is_status = enhanced.len() >= 5 && enhanced.starts_with(&format!("{}.", &line[..1]));
                if is_status { format!("{} {enhanced}", &line[..3]) } else { line[..3].to_owned() }
            })
            .collect()
    }

    pub fn assert_codes(&self, expected: &[&str]) -> &Self {
        assert_eq!(self.codes(), expected, "{}", self.transcript);
        self
    }

    /// The reply to the last command.
    pub fn last(&self) -> String {
        self.codes().pop().unwrap_or_default()
    }

    pub fn data(&self) -> Vec<&[u8]> {
        self.delivered.iter().map(|transaction| transaction.data.as_slice()).collect()
    }
}

pub struct Driver {
    pub session: Session,
    pub outcome: Outcome,
    pub now: i64,
    pub deadline: Option<i64>,
}

impl Driver {
    pub fn new(config: Config, peer: PeerInfo) -> Self {
        let session = Session::new(Arc::new(config), peer, START);
        let outcome = Outcome { transcript: String::new(), delivered: Vec::new(), closed: false, delays: Vec::new() };
        Self { session, outcome, now: START, deadline: None }
    }

    /// A driver that has greeted.
    pub fn greeted(config: Config, peer: PeerInfo) -> Self {
        let mut driver = Self::new(config, peer);
        driver.run();
        driver
    }

    pub fn say(&mut self, input: impl AsRef<[u8]>) -> &mut Self {
        self.session.feed(input.as_ref(), self.now);
        self.run();
        self
    }

    pub fn say_in_pieces(&mut self, input: &[u8], piece: usize) {
        for part in input.chunks(piece.max(1)) {
            self.say(part);
        }
    }

    /// Does what the session asks for until it waits for input.
    pub fn run(&mut self) {
        self.deadline = None;
        loop {
            match self.session.next_action() {
                Action::Reply(octets) => {
                    assert!(octets.ends_with(b"\r\n"), "a reply must be whole");
                    self.outcome.transcript.push_str(&String::from_utf8(octets).unwrap());
                }
                Action::StartTls => self.session.tls_established(tls(), self.now),
                Action::CheckSender { path, .. } => self.session.answer(judge_sender(&path), self.now),
                Action::CheckRecipient { path, .. } => {
                    assert!(self.session.reverse_path().is_some());
                    self.session.answer(judge_recipient(&path), self.now);
                }
                Action::Authenticate(credentials) => {
                    let right = credentials.username == "key" && credentials.secret.expose() == "secret";
                    let verdict = if right { Verdict::Accept } else { Verdict::wrong_credentials() };
                    self.session.answer(verdict, self.now);
                }
                Action::Deliver(transaction) => {
                    let verdict = match transaction.reverse_path.as_str() {
                        "full@example.net" => Verdict::storage_full(),
                        _ => Verdict::AcceptWith(format!("accepted as msg_{}", self.outcome.delivered.len())),
                    };
                    self.outcome.delivered.push(*transaction);
                    assert_eq!(self.session.next_action(), Action::NeedAnswer);
                    self.session.answer(verdict, self.now);
                }
                Action::Delay(delay) => self.outcome.delays.push(delay),
                Action::NeedInput { deadline } => {
                    self.deadline = Some(deadline);
                    return;
                }
                Action::NeedAnswer => panic!("every question has been answered"),
                Action::Close => {
                    self.outcome.closed = true;
                    return;
                }
            }
        }
    }
}

fn judge_sender(path: &ReversePath) -> Verdict {
    match path.as_str() {
        "blocked@example.net" => Verdict::sender_denied(),
        "down@example.net" => Verdict::unavailable(),
        "gone@example.net" => Verdict::disconnect(),
        _ => Verdict::Accept,
    }
}

fn judge_recipient(path: &ForwardPath) -> Verdict {
    let Some(address) = path.address() else {
        return Verdict::Accept;
    };
    match (address.local(), address.domain()) {
        ("unknown", "example.org") => Verdict::unknown_mailbox(),
        ("quota", "example.org") => Verdict::over_quota(),
        ("harvest", "example.org") => Verdict::disconnect(),
        (_, "example.org" | "xn--bcher-kva.example" | "[192.0.2.1]") => Verdict::Accept,
        _ => Verdict::relay_denied(),
    }
}

pub fn tls() -> TlsInfo {
    TlsInfo { version: "TLSv1.3".to_owned(), cipher: "TLS_AES_256_GCM_SHA384".to_owned() }
}

pub fn inbound() -> Config {
    Config::new(Profile::Inbound, "MX.Example.org").unwrap()
}

pub fn submission() -> Config {
    Config { start_tls: StartTls::Required, ..Config::new(Profile::Submission, "mx.example.org").unwrap() }
}

pub fn under_tls() -> PeerInfo {
    PeerInfo { tls: Some(tls()), ..PeerInfo::default() }
}

/// Plays a script whole, then again in pieces, and returns what came of it.
///
/// Each step is one group of commands: the next is sent when the replies to it are there.
pub fn talk_as(config: &Config, peer: &PeerInfo, steps: &[&[u8]]) -> Outcome {
    let play = |piece: usize| {
        let mut driver = Driver::greeted(config.clone(), peer.clone());
        for step in steps {
            driver.say_in_pieces(step, piece);
        }
        driver.outcome
    };
    let whole = play(usize::MAX);
    for piece in [1, 2, 7, 64] {
        assert_eq!(play(piece), whole, "in pieces of {piece}: {}", whole.transcript);
    }
    whole
}

pub fn talk(steps: &[&str]) -> Outcome {
    talk_with(&inbound(), steps)
}

pub fn talk_with(config: &Config, steps: &[&str]) -> Outcome {
    let steps: Vec<&[u8]> = steps.iter().map(|step| step.as_bytes()).collect();
    talk_as(config, &PeerInfo::default(), &steps)
}

/// Plays EHLO, then one line, and returns the reply to that line.
pub fn reply_to(line: &str) -> String {
    talk(&["EHLO client.example\r\n", &format!("{line}\r\n")]).last()
}

/// Plays EHLO and MAIL, then one line, and returns the reply to that line.
pub fn reply_in_transaction(line: &str) -> String {
    talk(&["EHLO client.example\r\n", "MAIL FROM:<a@example.net>\r\n", &format!("{line}\r\n")]).last()
}

pub const ENVELOPE: &str = "MAIL FROM:<a@example.net>\r\nRCPT TO:<u@example.org>\r\n";
