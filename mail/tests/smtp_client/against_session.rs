//! Our client and our server over a pipe: whatever it does, they agree about what was accepted.

use std::sync::Arc;

use mail::address::{Address, ReversePath};
use mail::smtp::client::{self, Client, ClientConfig, Mail, RecipientResult};
use mail::smtp::{self, Config, PeerInfo, Profile, Session, StartTls, TlsInfo, Transaction, Verdict};
use proptest::prelude::*;

const NOW: i64 = 1_700_000_000_000_000;

/// One connection: both ends, and what is on its way between them.
struct Wire {
    client: Client,
    session: Session,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    delivered: Vec<Transaction>,
    results: Vec<Vec<RecipientResult>>,
    server_closed: bool,
    client_closed: bool,
}

impl Wire {
    fn new(config: ClientConfig, start_tls: StartTls) -> Self {
        let server = Config { start_tls, ..Config::new(Profile::Inbound, "mx.example.org").unwrap() };
        Self {
            client: Client::new(config),
            session: Session::new(Arc::new(server), PeerInfo::default(), NOW),
            to_server: Vec::new(),
            to_client: Vec::new(),
            delivered: Vec::new(),
            results: Vec::new(),
            server_closed: false,
            client_closed: false,
        }
    }

    /// Lets the server do what it can.
    fn serve(&mut self) {
        while !self.server_closed {
            match self.session.next_action() {
                smtp::Action::Reply(octets) => self.to_client.extend(octets),
                smtp::Action::CheckSender { path, .. } => {
                    let verdict =
                        if path.as_str().starts_with("blocked") { Verdict::sender_denied() } else { Verdict::Accept };
                    self.session.answer(verdict, NOW);
                }
                smtp::Action::CheckRecipient { path, .. } => {
                    let verdict = match path.address().map(Address::local) {
                        Some("unknown") => Verdict::unknown_mailbox(),
                        Some("full") => Verdict::over_quota(),
                        _ => Verdict::Accept,
                    };
                    self.session.answer(verdict, NOW);
                }
                smtp::Action::Deliver(transaction) => {
                    let refuse = transaction.reverse_path.as_str().starts_with("diskfull");
                    if !refuse {
                        self.delivered.push(*transaction);
                    }
                    self.session.answer(if refuse { Verdict::storage_full() } else { Verdict::Accept }, NOW);
                }
                smtp::Action::StartTls => {
                    // Both ends are told at once; the pipe is empty, or the session would have closed.
                    let tls = TlsInfo { version: "TLSv1.3".to_owned(), cipher: "x".to_owned() };
                    self.session.tls_established(tls, NOW);
                }
                smtp::Action::Authenticate(_) => self.session.answer(Verdict::wrong_credentials(), NOW),
                smtp::Action::Delay(_) => {}
                smtp::Action::NeedInput { .. } | smtp::Action::NeedAnswer => return,
                smtp::Action::Close => self.server_closed = true,
            }
        }
    }

    /// Lets the client do what it can.
    fn speak(&mut self, mails: &mut std::vec::IntoIter<Mail>) {
        while !self.client_closed {
            match self.client.next_action() {
                client::Action::Send(octets) => self.to_server.extend(octets),
                client::Action::NeedInput { .. } => return,
                client::Action::StartTls => self.client.tls_established(),
                client::Action::Ready => match mails.next() {
                    Some(mail) => self.client.submit(mail).unwrap(),
                    None => self.client.quit(),
                },
                client::Action::Done(outcome) => self.results.push(outcome.recipients),
                client::Action::Failed(_) => {}
                client::Action::Close => self.client_closed = true,
            }
        }
    }

    fn carry(&mut self, to_server: bool, octets: usize) -> usize {
        let pipe = if to_server { &mut self.to_server } else { &mut self.to_client };
        let octets: Vec<u8> = pipe.drain(..octets.min(pipe.len())).collect();
        if to_server {
            self.session.feed(&octets, NOW);
        } else {
            self.client.feed(&octets);
        }
        octets.len()
    }
}

fn any_mail() -> impl Strategy<Value = Mail> {
    let local = prop_oneof![5 => Just("user"), 1 => Just("unknown"), 1 => Just("full"), 3 => Just("other")];
    let sender = prop_oneof![8 => Just("a"), 1 => Just("blocked"), 1 => Just("diskfull")];
    let line = prop_oneof![Just(".".to_owned()), Just("..".to_owned()), "[a-z.]{0,30}", Just("x".repeat(900))];
    (sender, proptest::collection::btree_set(local, 1..4), proptest::collection::vec(line, 0..8)).prop_map(
        |(sender, locals, lines)| {
            let recipients = locals.into_iter().map(|local| Address::parse(&format!("{local}@example.org")).unwrap());
            let content: String = lines.into_iter().map(|line| format!("{line}\r\n")).collect();
            let sender = Address::parse(&format!("{sender}@sender.example")).unwrap();
            Mail::new(ReversePath::from(sender), recipients.collect(), content.as_bytes().into())
        },
    )
}

/// A mail of a number that both ends can tell it by.
fn numbered(mails: Vec<Mail>) -> Vec<Mail> {
    let numbered = mails.into_iter().enumerate().map(|(number, mail)| {
        let content = [format!("X-Number: {number}\r\n\r\n").as_bytes(), &mail.content].concat();
        Mail { content: content.into(), ..mail }
    });
    numbered.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn client_and_server_agree_about_what_was_accepted(
        mails in proptest::collection::vec(any_mail(), 1..5),
        steps in proptest::collection::vec((any::<bool>(), 1_usize..200), 1..30),
        pipelining in any::<bool>(),
        chunking in any::<bool>(),
        tls in any::<bool>(),
        cut_after in proptest::option::of(0_usize..6000),
        in_flight_arrives in any::<bool>(),
    ) {
        let mails = numbered(mails);
        let config = ClientConfig { pipelining, chunking, ..ClientConfig::new("mail.sender.example").unwrap() };
        let mut wire = Wire::new(config, if tls { StartTls::Optional } else { StartTls::Off });
        let mut waiting = mails.clone().into_iter();
        let one_way = steps.iter().all(|step| step.0 == steps[0].0);
        let (mut carried, mut idle) = (0, 0);
        for (to_server, octets) in steps.iter().cycle() {
            wire.serve();
            wire.speak(&mut waiting);
            let now = wire.carry(*to_server, *octets);
            carried += now;
            idle = if now == 0 { idle + 1 } else { 0 };
            if cut_after.is_some_and(|cut| carried >= cut) || wire.client_closed {
                break;
            }
            if idle > 2 * steps.len() {
                // Steps that only ever go one way get nowhere; any others must.
                prop_assert!(one_way, "both wait");
                break;
            }
        }
        if in_flight_arrives {
            let rest = std::mem::take(&mut wire.to_server);
            wire.session.feed(&rest, NOW);
        }
        wire.serve();
        wire.client.lost();
        wire.speak(&mut Vec::new().into_iter());
        if cut_after.is_none() && !one_way {
            let uncertain = wire.results.iter().flatten().any(|result| matches!(result, RecipientResult::Uncertain(_)));
            prop_assert!(!uncertain, "nothing was lost");
            prop_assert_eq!(wire.results.len(), mails.len());
        }
        for (mail, results) in mails.iter().zip(&wire.results) {
            prop_assert_eq!(results.len(), mail.recipients.len());
            let delivered: Vec<&Transaction> = wire.delivered.iter().filter(|transaction| transaction.data == *mail.content).collect();
            prop_assert!(delivered.len() <= 1);
            for (recipient, result) in mail.recipients.iter().zip(results) {
                let has = delivered.iter().any(|transaction| transaction.recipients.iter().any(|it| it.path.address() == Some(recipient)));
                match result {
                    RecipientResult::Accepted(_) => prop_assert!(has, "{} {}", recipient, wire.client.take_transcript()),
                    RecipientResult::Rejected { .. } | RecipientResult::NotSent(_) | RecipientResult::Refused(_) => prop_assert!(!has, "{:?}", result),
                    RecipientResult::Uncertain(_) => {}
                }
            }
        }
    }

    #[test]
    fn whatever_the_peer_says_the_client_ends(
        input in proptest::collection::vec(prop_oneof![
            Just(b"220 mx\r\n".to_vec()), Just(b"250-mx\r\n250-PIPELINING\r\n250 SIZE\r\n".to_vec()), Just(b"250 ok\r\n".to_vec()),
            Just(b"354 go\r\n".to_vec()), Just(b"550 no\r\n".to_vec()), Just(b"421 bye\r\n".to_vec()), Just(b"334 \r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
        ], 0..30),
        piece in 1_usize..50,
    ) {
        let mut client = Client::new(ClientConfig::new("mail.sender.example").unwrap());
        let mail = Mail::new(ReversePath::Null, vec![Address::parse("a@example.org").unwrap()], b"x\r\n".as_slice().into());
        let mut done = 0;
        let mut submitted = 0;
        for piece in input.concat().chunks(piece).map(Some).chain([None]) {
            match piece {
                Some(piece) => client.feed(piece),
                None => client.lost(),
            }
            loop {
                match client.next_action() {
                    client::Action::NeedInput { .. } | client::Action::Close => break,
                    client::Action::Ready if piece.is_none() || submitted > 5 => break,
                    client::Action::Ready => { submitted += 1; client.submit(mail.clone()).unwrap(); }
                    client::Action::Done(_) => done += 1,
                    client::Action::StartTls => client.tls_failed(),
                    _ => {}
                }
            }
        }
        prop_assert_eq!(done, submitted, "every mail has one outcome");
        prop_assert_eq!(client.next_action(), client::Action::Close);
    }
}
