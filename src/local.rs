//! Mail from this installation to its own mailboxes: handed to the receiving pipeline without a socket.
//!
//! It is judged like mail from outside (mailbox rules, quotas, spam) and gets its trace fields, but is not counted by the
//! rates of strangers, and nobody is asked where it comes from: it comes from here.

use api::receive::{Asked, Incoming, Receiver, Refusal, Route};
use async_trait::async_trait;
use dispatcher::outbound::{Filing, LocalDelivery};
use domain::id::TeamId;
use eventlog::Allot;
use mail::address::{Address, ForwardPath, ReversePath};
use mail::smtp::client::{Content, ServerReply};
use mail::smtp::{MailParameters, PeerInfo, RcptParameters, Recipient, Transaction, Verdict};

/// The receiving pipeline as the dispatcher sees it.
#[derive(Debug, Clone)]
pub struct LocalMail {
    receiver: Receiver,
    reports: Receiver,
    allot: Allot,
    hostname: String,
}

impl LocalMail {
    /// Returns a way into the mailboxes behind a pipeline; `hostname` is our name in trace fields.
    #[must_use]
    pub fn new(receiver: &Receiver, allot: Allot, hostname: &str) -> Self {
        let reports = receiver.for_own_reports();
        Self { receiver: receiver.for_local_mail(), reports, allot, hostname: hostname.to_owned() }
    }

    async fn route(&self, mail_from: &ReversePath, to: &Address, size_octets: u64) -> Result<Route, Refusal> {
        let path = ForwardPath::from(to.clone());
        let peer = PeerInfo::default().address;
        let asked = Asked { path: &path, sender: mail_from, size_octets: Some(size_octets), peer, trusted: true };
        self.receiver.recipient(asked).await
    }

    fn transaction(&self, mail_from: &ReversePath, recipients: Vec<Recipient>, content: &Content) -> Transaction {
        let now = self.allot.now();
        Transaction {
            peer: PeerInfo { trusted: true, ..PeerInfo::default() },
            helo: self.hostname.clone(),
            esmtp: true,
            tls: None,
            authenticated: None,
            reverse_path: mail_from.clone(),
            parameters: MailParameters::default(),
            recipients,
            data: content.to_vec(),
            started_at: now,
            received_at: now,
        }
    }
}

#[async_trait]
impl LocalDelivery for LocalMail {
    async fn deliver(&self, mail_from: &ReversePath, recipients: &[Address], content: Content) -> Vec<ServerReply> {
        let size_octets = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let (mut replies, mut taken, mut routes) = (Vec::with_capacity(recipients.len()), vec![], vec![]);
        for to in recipients {
            replies.push(match self.route(mail_from, to, size_octets).await {
                Ok(route) => {
                    taken.push(Recipient { path: to.clone().into(), parameters: RcptParameters::default() });
                    routes.push(route);
                    None
                }
                Err(refusal) => Some(refused(refusal)),
            });
        }
        let answer = if taken.is_empty() {
            None
        } else {
            let transaction = self.transaction(mail_from, taken, &content);
            Some(match self.receiver.accept(Incoming { transaction, routes }).await {
                Ok(accepted) => reply(250, "2.0.0", format!("accepted as {}", accepted.request)),
                Err(refusal) => refused(refusal),
            })
        };
        let unanswered = || reply(451, "4.3.0", "temporary failure, try again later".to_owned());
        replies.into_iter().map(|own| own.or_else(|| answer.clone()).unwrap_or_else(unanswered)).collect()
    }

    async fn file_report(&self, team: &TeamId, to: &Address, content: Content) -> Filing {
        let Ok(nobody) = ReversePath::parse("<>") else { return Filing::Refused };
        let size_octets = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let route = match self.route(&nobody, to, size_octets).await {
            Ok(Route::Mailbox(own)) if own.team == *team => Route::Mailbox(own),
            // Reports about somebody else's mail come from outside, like everybody's.
            Ok(Route::Mailbox(_)) => return Filing::Elsewhere,
            // A return path of ours reads reports, and answers none.
            Ok(Route::Report(_)) => return Filing::Refused,
            Err(refusal) => return filing(refusal),
        };
        let recipient = Recipient { path: to.clone().into(), parameters: RcptParameters::default() };
        let transaction = self.transaction(&nobody, vec![recipient], &content);
        match self.reports.accept(Incoming { transaction, routes: vec![route] }).await {
            Ok(_) => Filing::Filed,
            Err(refusal) => filing(refusal),
        }
    }
}

fn filing(refusal: Refusal) -> Filing {
    match refusal {
        Refusal::NotHosted | Refusal::NotReceiving => Filing::Elsewhere,
        _ if refusal.is_temporary() => Filing::Later,
        _ => Filing::Refused,
    }
}

fn reply(code: u16, enhanced: &str, text: String) -> ServerReply {
    ServerReply { code, enhanced: Some(enhanced.to_owned()), text }
}

fn refused(refusal: Refusal) -> ServerReply {
    match refusal.verdict() {
        Verdict::Refuse(reply) => {
            ServerReply { code: reply.code(), enhanced: reply.enhanced(), text: reply.text().to_owned() }
        }
        // A refusal is never an acceptance.
        Verdict::Accept | Verdict::AcceptWith(_) => reply(451, "4.3.0", refusal.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::id::{DomainId, MailboxId, TeamId};
    use domain::mailbox::{OpenMailbox, SendScope};
    use domain::message::Event as MessageEvent;
    use domain::sending_domain::{AddVerifiedDomain, Mode};
    use domain::team::{CreateTeam, Limits};
    use domain::{Actor, Command, Event};
    use eventlog::{BlobStore, EventLog, MasterKey, MemoryBackend, Options, Submission};
    use projections::Views;

    use super::*;

    async fn run<C: Command>(log: &EventLog, team: &TeamId, at: i64, command: C) {
        log.transact(Submission::new(team.clone(), at, Actor::Operator, "test", command)).await.map(drop).unwrap();
    }

    #[tokio::test]
    async fn own_mailboxes_get_their_mail_once_and_strangers_are_refused() {
        let allot = Allot::system();
        let options = Options::new(MasterKey::new(&[7; 32]), BlobStore::memory(), allot.entropy());
        let log = EventLog::open(Arc::new(MemoryBackend::default()), options).await.unwrap();
        let team = TeamId::new(1, [1; 9]);
        run(&log, &team, 1, CreateTeam { name: "a".into(), limits: Limits::default() }).await;
        let domain = DomainId::new(1, [1; 9]);
        run(&log, &team, 1, AddVerifiedDomain { domain, name: "a.test".into(), mode: Mode::SendReceive }).await;
        let open = OpenMailbox {
            mailbox: MailboxId::new(1, [1; 9]),
            email: "box@a.test".parse().unwrap(),
            display_name: None,
            quota_bytes: 1 << 30,
            send_scope: SendScope::All,
            credential: None,
        };
        run(&log, &team, 1, open).await;
        let options = api::smtp::Config::default().receive_options();
        let receiver = Receiver::new(log.clone(), Views::memory().await.unwrap(), allot.clone(), options, None);
        let local = LocalMail::new(&receiver, allot, "mx.test");
        let content: Content =
            b"From: ann@a.test\r\nMessage-ID: <one@a.test>\r\nSubject: hi\r\n\r\nhello\r\n".to_vec().into();
        let sender = ReversePath::parse("<ann@a.test>").unwrap();
        let to: Vec<Address> =
            ["box@a.test", "none@a.test", "bob@elsewhere.test"].iter().map(|to| to.parse().unwrap()).collect();
        // Once more after a crash: the same answers, and one mail.
        for _ in 0..2 {
            let replies = local.deliver(&sender, &to, content.clone()).await;
            let codes: Vec<_> = replies.iter().map(|r| (r.code, r.enhanced.as_deref().unwrap())).collect();
            assert_eq!(codes, [(250, "2.0.0"), (550, "5.1.1"), (550, "5.7.1")]);
        }
        let records = log.read(&team, 0, 100).await.unwrap();
        let mails: Vec<_> = records
            .iter()
            .filter_map(|record| match &record.event {
                Event::Message(MessageEvent::Received(e)) => Some(e.facts.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(mails.len(), 1);
        let raw = log.blob(&team, &mails[0].blob).await.unwrap().unwrap();
        let text = String::from_utf8(raw.to_vec()).unwrap();
        assert!(text.starts_with("Return-Path: <ann@a.test>\r\nReceived: from mx.test"), "{text}");
    }
}
