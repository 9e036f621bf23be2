//! Whatever a client says to the receiving session, in whatever pieces.

use std::collections::HashSet;
use std::sync::Arc;

use mail::header::{Block, BlockLimits};
use mail::smtp::{
    Action, Config, Limits, LineEnds, PeerInfo, Profile, Session, StartTls, TlsInfo, Transaction, Verdict,
};

use crate::input::{bit, has_bare_line_end, piece_sizes, steered};

const NOW: i64 = 1_700_000_000_000_000;
const MESSAGE_OCTETS_MAX: u64 = 2048;
const RECIPIENTS_MAX: usize = 5;

/// What a dialogue led to.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    replies: Vec<u8>,
    delivered: Vec<Transaction>,
    closed: bool,
}

pub fn run(data: &[u8]) {
    let (steer, input) = steered(data);
    let config = config(steer);
    check(&config, input, &play(&config, steer, &[input]));
    for size in piece_sizes(steer) {
        check(&config, input, &play(&config, steer, &input.chunks(size).collect::<Vec<_>>()));
    }
    // Commands that must be waited for, and TLS, make a difference of what comes together. A client that waits after each
    // line can cut its lines as it likes.
    let lines: Vec<_> = input.split_inclusive(|octet| *octet == b'\n').collect();
    let whole = play(&config, steer, &lines);
    check(&config, input, &whole);
    for size in piece_sizes(steer) {
        let pieces: Vec<_> = lines.iter().flat_map(|line| line.chunks(size)).collect();
        assert_eq!(play(&config, steer, &pieces), whole, "lines cut into pieces of {size}");
    }
}

fn config(steer: u8) -> Config {
    let profile = if bit(steer, 0) { Profile::Submission } else { Profile::Inbound };
    let config = Config::new(profile, "mx.example.org").expect("the name is one");
    let line_ends = if bit(steer, 2) { LineEnds::Normalize } else { config.line_ends };
    let start_tls = if bit(steer, 1) { StartTls::Optional } else { StartTls::Off };
    let limits = Limits { message_octets_max: MESSAGE_OCTETS_MAX, recipients_max: RECIPIENTS_MAX, ..Limits::default() };
    Config { line_ends, start_tls, limits, dangerous_auth_without_tls: bit(steer, 3), ..config }
}

fn play(config: &Config, steer: u8, pieces: &[&[u8]]) -> Seen {
    let mut session = Session::new(Arc::new(config.clone()), PeerInfo::default(), NOW);
    let mut seen = Seen { replies: Vec::new(), delivered: Vec::new(), closed: false };
    drive(&mut session, steer, &mut seen);
    for piece in pieces {
        session.feed(piece, NOW);
        drive(&mut session, steer, &mut seen);
        assert!(session.recipients() <= RECIPIENTS_MAX);
        assert!(session.held_octets() <= 64 * 1024, "a small message takes {} octets", session.held_octets());
    }
    seen
}

fn drive(session: &mut Session, steer: u8, seen: &mut Seen) {
    // Each action is an answer to something that was said: they end.
    for _ in 0..100_000 {
        match session.next_action() {
            Action::Reply(octets) => seen.replies.extend(octets),
            Action::StartTls => {
                let tls = TlsInfo { version: "TLSv1.3".to_owned(), cipher: "AES".to_owned() };
                session.tls_established(tls, NOW);
            }
            Action::CheckSender { path, .. } => {
                let verdict = if path.as_str().starts_with('x') { Verdict::sender_denied() } else { Verdict::Accept };
                session.answer(verdict, NOW);
            }
            Action::CheckRecipient { path, .. } => {
                let verdict = if path.as_str().starts_with('x') { Verdict::unknown_mailbox() } else { Verdict::Accept };
                session.answer(verdict, NOW);
            }
            Action::Authenticate(credentials) => {
                let right = bit(steer, 4) || credentials.secret.expose() == "secret";
                session.answer(if right { Verdict::Accept } else { Verdict::wrong_credentials() }, NOW);
            }
            Action::Deliver(transaction) => {
                seen.delivered.push(*transaction);
                session.answer(Verdict::Accept, NOW);
            }
            Action::Delay(_) => {}
            Action::NeedInput { deadline } => {
                assert!(deadline >= NOW);
                return;
            }
            Action::NeedAnswer => panic!("every question has been answered"),
            Action::Close => {
                seen.closed = true;
                return;
            }
        }
    }
    panic!("the session never waits");
}

fn check(config: &Config, input: &[u8], seen: &Seen) {
    assert!(seen.replies.is_empty() || seen.replies.ends_with(b"\r\n"), "half a reply");
    for line in seen.replies.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
        assert!((4..=511).contains(&line.len()) && line.is_ascii(), "no reply line: {}", line.escape_ascii());
        assert!(line[..3].iter().all(u8::is_ascii_digit) && matches!(line[3], b' ' | b'-'));
        assert!(line.ends_with(b"\r") && !line[..line.len() - 1].contains(&b'\r'));
    }
    let ends = input.windows(5).filter(|five| *five == b"\r\n.\r\n").count();
    let chunks = input.to_ascii_uppercase().windows(4).filter(|four| *four == b"LAST").count();
    assert!(seen.delivered.len() <= ends + chunks, "more mails than ends of mails");
    for transaction in &seen.delivered {
        delivered(config, transaction);
    }
}

fn delivered(config: &Config, transaction: &Transaction) {
    assert!(transaction.data.len() as u64 <= MESSAGE_OCTETS_MAX, "larger than allowed");
    assert!((1..=RECIPIENTS_MAX).contains(&transaction.recipients.len()));
    let distinct: HashSet<_> = transaction.recipients.iter().map(|recipient| recipient.path.as_str()).collect();
    assert_eq!(distinct.len(), transaction.recipients.len(), "a recipient twice");
    for recipient in &transaction.recipients {
        let address = recipient.path.address().map(|address| mail::address::Address::parse(address.as_str()));
        assert!(address.is_none_or(|again| again.is_ok()), "{} does not read back", recipient.path);
    }
    let binary = transaction.parameters.body == Some(mail::smtp::BodyType::BinaryMime);
    if !binary && config.line_ends != LineEnds::Keep {
        assert!(!has_bare_line_end(&transaction.data), "a bare line end got through");
    }
    let field = transaction.received("mx.example.org", "msg_1").to_string();
    let block = Block::scan(field.as_bytes(), BlockLimits { fields_max: 10, bytes_max: 100_000 });
    assert_eq!(block.fields.len(), 1, "the trace became more than one field: {field:?}");
    assert!(!has_bare_line_end(field.as_bytes()) && field.lines().all(|line| line.len() <= 998), "{field:?}");
}
