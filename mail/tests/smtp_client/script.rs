//! A peer that answers by a script: for each thing the client says, what it gets for it.

use mail::address::{Address, ReversePath};
use mail::smtp::client::{Action, Client, ClientConfig, Failure, Mail, Outcome, RecipientResult, Timeouts};

/// What came of a dialogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Everything the client said.
    pub said: String,
    pub outcomes: Vec<Outcome>,
    pub failures: Vec<Failure>,
    pub closed: bool,
    pub handshakes: usize,
    /// The waits that were allowed, in order.
    pub waits: Vec<u32>,
}

/// What the peer does when the client waits.
#[derive(Debug, Clone, Copy)]
pub enum Peer {
    /// Says this.
    Says(&'static str),
    /// Closes.
    Closes,
    /// Says nothing until the client loses patience.
    Sleeps,
    /// Fails the handshake.
    BreaksTls,
}

pub fn config() -> ClientConfig {
    ClientConfig::new("mail.sender.example").unwrap()
}

pub fn mail(recipients: &[&str], content: &str) -> Mail {
    let recipients = recipients.iter().map(|recipient| Address::parse(recipient).unwrap()).collect();
    let sender = Address::parse("b+1@sender.example").unwrap();
    Mail::new(ReversePath::from(sender), recipients, content.as_bytes().into())
}

pub fn play(config: &ClientConfig, mails: &[Mail], peer: &[Peer]) -> Seen {
    let whole = play_in_pieces(config, mails, peer, usize::MAX);
    for piece in [1, 2, 7, 64] {
        let again = play_in_pieces(config, mails, peer, piece);
        assert_eq!((&again.said, &again.outcomes, &again.failures), (&whole.said, &whole.outcomes, &whole.failures));
    }
    whole
}

fn play_in_pieces(config: &ClientConfig, mails: &[Mail], peer: &[Peer], piece: usize) -> Seen {
    let mut client = Client::new(config.clone());
    let (mut seen, mut peer, mut mails) = (Seen::default(), peer.iter(), mails.iter());
    let mut left: &[u8] = b"";
    loop {
        match client.next_action() {
            Action::Send(octets) => seen.said.push_str(&String::from_utf8(octets).unwrap()),
            Action::Done(outcome) => seen.outcomes.push(outcome),
            Action::Failed(failure) => seen.failures.push(failure),
            Action::Close => {
                seen.closed = true;
                return seen;
            }
            Action::Ready => match mails.next() {
                Some(mail) => client.submit(mail.clone()).unwrap(),
                None => client.quit(),
            },
            Action::StartTls => {
                seen.handshakes += 1;
                if let Some(Peer::BreaksTls) = peer.clone().next() {
                    client.tls_failed();
                } else {
                    client.tls_established();
                }
            }
            Action::NeedInput { seconds } => {
                if left.is_empty() {
                    seen.waits.push(seconds);
                    match peer.next() {
                        Some(Peer::Says(text)) => left = text.as_bytes(),
                        Some(Peer::Sleeps) => client.timed_out(),
                        Some(Peer::Closes | Peer::BreaksTls) | None => client.lost(),
                    }
                    // A handshake follows only what was read to its end.
                    if left.is_empty() {
                        continue;
                    }
                }
                let (now, later) = left.split_at(piece.min(left.len()));
                left = later;
                client.feed(now);
            }
        }
    }
}

/// One word for each recipient.
pub fn words(outcome: &Outcome) -> Vec<String> {
    let word = |result: &RecipientResult| match result {
        RecipientResult::Accepted(reply) => format!("accepted {}", reply.code),
        RecipientResult::Rejected { stage, reply } => {
            let kind = if reply.is_permanent() { "for good" } else { "for now" };
            format!("rejected {} at {stage:?} {kind}", reply.code)
        }
        RecipientResult::Refused(_) => "refused".to_owned(),
        RecipientResult::NotSent(failure) => format!("not sent: {:?}", failure.cause),
        RecipientResult::Uncertain(failure) => format!("uncertain: {:?}", failure.cause),
    };
    outcome.recipients.iter().map(word).collect()
}

pub const GREETING: Peer = Peer::Says("220 mx.remote.example ESMTP\r\n");
pub const EHLO: Peer = Peer::Says(
    "250-mx.remote.example\r\n250-SIZE 100000\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
);
pub const PLAIN_EHLO: Peer = Peer::Says("250 mx.remote.example\r\n");
pub const BYE: Peer = Peer::Says("221 2.0.0 bye\r\n");

pub fn timeouts() -> Timeouts {
    Timeouts::default()
}
