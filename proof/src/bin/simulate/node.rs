//! A node: the program's own log, streams and HTTP connections, on a simulated host.
//!
//! A crash drops all of it at once; what is started afterwards knows nothing but what the store holds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::stream::serve::{self, Transport, serve_connection};
use api::stream::{self, Streams};
use domain::id::{BlobId, MessageId};
use domain::testing::received_halves;
use domain::{Actor, StreamId, message};
use eventlog::{Allot, Answer, EventLog, Idempotency, Outcome, Submission};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use turmoil::net::{TcpListener, TcpStream};

use crate::far::Far;
use crate::ground::{Ground, options, pepper, wall_clock};
use crate::hooks;
use crate::line::Line;

/// Where streams are read.
pub const HTTP: u16 = 80;
/// Where mails are handed over.
pub const DOOR: u16 = 81;

/// A connection of the simulated network.
#[derive(Debug)]
pub struct Wire(pub TcpStream);

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Transport for Wire {
    fn hold_at_most(&self, _: usize) {}
}

/// Runs a node until it is crashed. Its clock is off by so much, microseconds.
pub async fn run(mut ground: Ground, name: &'static str, off_by: i64) -> turmoil::Result {
    ground.notes.add(|| format!("{name}: starts"));
    ground.allot = Allot::new(move || wall_clock() + off_by, ground.allot.entropy());
    let line = Line::open(ground.exchange.clone()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(line.clone().listen());
    let far = Arc::new(Far::new(line.clone(), Arc::clone(&ground.store), ground.fault));
    let log = loop {
        match EventLog::open(Arc::<Far>::clone(&far), options(&ground.allot)).await {
            Ok(log) => break log,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let streams = Streams::new(log.clone(), ground.allot.clone(), stream::Config::default());
    let stop = CancellationToken::new();
    tasks.spawn(streams.clone().run(stop.clone()));
    tasks.spawn(serve_http(ground.clone(), log.clone(), streams, stop.clone()));
    tasks.spawn(serve_door(ground.clone(), log.clone()));
    tasks.spawn(hooks::run(ground.clone(), log, line, ground.allot.clone(), name));
    ground.notes.add(|| format!("{name}: serves"));
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

async fn serve_http(ground: Ground, log: EventLog, streams: Streams, stop: CancellationToken) {
    let limits =
        api::RateLimits { mailbox_requests: u32::MAX, infrastructure_requests: u32::MAX, ..api::RateLimits::default() };
    let config = api::Config { rate_limits: limits, read_your_writes_milliseconds_max: 0, ..api::Config::default() };
    let app = api::App::new(log, ground.read_models, ground.allot, pepper(), config).with_streams(streams);
    let router = api::router(app);
    let config = Arc::new(serve::Config::default());
    let listener = TcpListener::bind(("0.0.0.0", HTTP)).await.unwrap();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => if let Ok((tcp, peer)) = accepted {
                connections.spawn(serve_connection(Wire(tcp), peer, router.clone(), Arc::clone(&config), stop.clone()));
            }
        }
    }
}

/// Takes mails: a line `key mailbox`, answered by `ok position` when it is safe.
async fn serve_door(ground: Ground, log: EventLog) {
    let listener = TcpListener::bind(("0.0.0.0", DOOR)).await.unwrap();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => if let Ok((tcp, _)) = accepted {
                connections.spawn(take_mails(ground.clone(), log.clone(), tcp));
            }
        }
    }
}

async fn take_mails(ground: Ground, log: EventLog, tcp: TcpStream) -> io::Result<()> {
    let mut tcp = BufReader::new(tcp);
    loop {
        let mut line = String::new();
        if tcp.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let Some((key, mailbox)) = line.trim_end().split_once(' ') else { return Ok(()) };
        let mailbox = usize::from(mailbox == "1");
        let answer = take_mail(&ground, &log, key, mailbox).await;
        tcp.get_mut().write_all(format!("{answer}\n").as_bytes()).await?;
    }
}

/// Appends a mail under an idempotency key; its subject is that key.
async fn take_mail(ground: &Ground, log: &EventLog, key: &str, mailbox: usize) -> String {
    let now = ground.allot.now();
    let (mut facts, mut personal) = received_halves(1, &ground.mailboxes[mailbox]);
    facts.message = MessageId::new(now, ground.allot.random());
    facts.blob = BlobId::new(now, ground.allot.random());
    personal.subject = Some(key.to_owned());
    personal.rfc5322_message_id = format!("{key}@example.net");
    let raw = bytes::Bytes::from(format!("Subject: {key}\r\n\r\nHello.\r\n"));
    facts.size_bytes = i64::try_from(raw.len()).unwrap_or(i64::MAX);
    let (blob, stream) = (facts.blob.clone(), StreamId::Message(facts.message.clone()));
    let Ok(staged) = log.stage_blob(&ground.team, &blob, raw).await else { return "busy".to_owned() };
    let command = message::ReceiveMessage { facts, personal, mail_from: None };
    let idempotency = Idempotency { scope: "mails".to_owned(), key: key.to_owned(), fingerprint: [0; 32] };
    let submission = Submission::new(ground.team.clone(), now, Actor::Smtp, "req_simulated", command)
        .fresh(stream)
        .with_blob(blob, staged)
        .idempotent(idempotency, |appended| Answer {
            status: 200,
            headers: vec![],
            body: appended.records[0].position.to_string(),
        });
    match log.transact(submission).await {
        Ok(Outcome::Done(appended)) => format!("ok {}", appended.records[0].position),
        Ok(Outcome::Repeated(answer)) => format!("ok {}", answer.body),
        Err(_) => "busy".to_owned(),
    }
}
