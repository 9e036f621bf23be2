//! Whatever a server answers to the sending side.

use mail::address::{Address, ReversePath};
use mail::smtp::client::{Action, Client, ClientConfig, Failure, Login, Mail, Outcome, RecipientResult, Tls};

use crate::input::{assert_text, bit, piece_sizes, steered};

const PASSWORD: &str = "sesame-4f1c";
const CONTENT: &[u8] = b"Subject: x\r\n\r\n.dots\r\n..\r\nend\r\n";
const TRANSCRIPT_OCTETS_MAX: usize = 64 * 1024;

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    said: Vec<u8>,
    outcomes: Vec<Outcome>,
    failures: Vec<Failure>,
    handshakes: usize,
    transcript: String,
}

pub fn run(data: &[u8]) {
    let (steer, input) = steered(data);
    let whole = play(steer, input, usize::MAX);
    for size in piece_sizes(steer) {
        assert_eq!(play(steer, input, size), whole, "cut into pieces of {size}");
    }
    check(steer, input, &whole);
}

fn config(steer: u8) -> ClientConfig {
    let config = ClientConfig::new("mail.sender.example").expect("the name is one");
    let login = bit(steer, 0).then(|| Login { username: "ann".to_owned(), password: PASSWORD.to_owned() });
    ClientConfig {
        tls: if bit(steer, 1) { Tls::Required } else { config.tls },
        pipelining: bit(steer, 2),
        chunking: bit(steer, 3),
        dangerous_auth_without_tls: bit(steer, 4),
        login,
        ..config
    }
}

/// Returns the input as replies: a line whose fourth octet is a hyphen goes on. A client that is given two replies at once
/// may rightly see the second as one to something it has not said.
fn replies(input: &[u8]) -> Vec<&[u8]> {
    let mut replies = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in input.split_inclusive(|octet| *octet == b'\n') {
        at += line.len();
        if line.get(3) != Some(&b'-') {
            replies.push(&input[start..at]);
            start = at;
        }
    }
    replies.push(&input[start..]);
    replies.retain(|reply| !reply.is_empty());
    replies
}

fn mail() -> Mail {
    let recipients = ["bob@remote.example", "eve@remote.example"];
    let recipients = recipients.map(|address| Address::parse(address).expect("an address")).to_vec();
    Mail::new(ReversePath::from(Address::parse("b+1@sender.example").expect("an address")), recipients, CONTENT.into())
}

fn play(steer: u8, input: &[u8], size: usize) -> Seen {
    let mut client = Client::new(config(steer));
    let mut seen = Seen::default();
    let mut mails_left = 2;
    let steps = replies(input);
    let mut pieces = steps.iter().flat_map(|reply| reply.chunks(size.min(reply.len())));
    for _ in 0..100_000 {
        match client.next_action() {
            Action::Send(octets) => seen.said.extend(octets),
            Action::Done(outcome) => seen.outcomes.push(outcome),
            Action::Failed(failure) => seen.failures.push(failure),
            Action::StartTls => {
                seen.handshakes += 1;
                client.tls_established();
            }
            Action::Ready if mails_left > 0 => {
                mails_left -= 1;
                client.submit(mail()).expect("it is ready");
            }
            Action::Ready => client.quit(),
            Action::NeedInput { seconds } => {
                assert!((1..=3600).contains(&seconds));
                match pieces.next() {
                    Some(piece) => client.feed(piece),
                    None => client.lost(),
                }
            }
            Action::Close => {
                seen.transcript = client.take_transcript();
                return seen;
            }
        }
    }
    panic!("the client never closes");
}

fn check(steer: u8, input: &[u8], seen: &Seen) {
    assert!(!crate::input::has_bare_line_end(&seen.said), "a bare line end was sent");
    assert!(seen.outcomes.len() <= 2 && seen.failures.len() <= 1, "{seen:?}");
    assert!(seen.transcript.len() <= TRANSCRIPT_OCTETS_MAX);
    assert_text("the transcript", &seen.transcript);
    // Without a login it is a word like any other.
    let shows = |text: &str| config(steer).login.is_some_and(|login| text.contains(&login.password));
    assert!(!shows(&seen.transcript), "the transcript shows the password");
    assert!(!shows(&format!("{:?} {:?}", seen.outcomes, seen.failures)), "a result shows the password");
    let yes = input.split(|octet| *octet == b'\n').filter(|line| line.first() == Some(&b'2')).count();
    for outcome in &seen.outcomes {
        assert_eq!(outcome.recipients.len(), 2);
        for result in &outcome.recipients {
            let accepted = matches!(result, RecipientResult::Accepted(_));
            // Greeting, EHLO, MAIL, RCPT and the content have each been said yes to.
            assert!(!accepted || yes >= 5, "accepted by a server that never said so");
            assert!(!accepted || seen.said.windows(5).any(|five| five == b"end\r\n"), "accepted before it was sent");
            if let Some(classification) = result.classify() {
                assert!(classification.diagnostic.chars().count() <= 1000);
                assert_text("the diagnostic", &classification.diagnostic);
            }
        }
    }
}
