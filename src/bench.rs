//! `postlog bench`: what this machine's disk and processor give, measured with the program's own writer.
//!
//! Figures are printed beside their ceiling of the same run: how often the disk flushes. Comparisons with other writers
//! are benches of the crates (`cargo bench`).

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use domain::id::{BlobId, DomainId, MailboxId, MessageId, TeamId, ThreadId};
use domain::mailbox::{OpenMailbox, SendScope};
use domain::message::{Authentication, Correspondence, Folder, ReceiveMessage, Received};
use domain::sending_domain::{AddVerifiedDomain, Mode};
use domain::team::{CreateTeam, Limits};
use domain::{Actor, Command, StreamId};
use eventlog::{Allot, BlobStore, EventLog, MasterKey, Options, Submission};

use crate::cli;
use crate::config::Config;

/// The size of a benchmark's mail, bytes.
const MAIL_BYTES: usize = 4_096;

/// Measures in a directory of its own beside the data directory, and removes it.
///
/// # Errors
/// The directory cannot be written, or the log fails.
pub async fn run(config: &Config, what: &cli::Bench) -> anyhow::Result<()> {
    let directory = config.server.data_dir.with_extension(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let measured = measure(&directory, what).await;
    std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    measured
}

async fn measure(directory: &Path, what: &cli::Bench) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let span = Duration::from_secs(what.seconds.clamp(1, 600));
    let flushes = flushes(&directory.join("flush"), span.min(Duration::from_secs(2)))?;
    writeln!(out, "ceiling: {flushes:.0} flushes of 4 KiB a second, one after another\n")?;
    writeln!(out, "mails of {MAIL_BYTES} bytes accepted durably through the log (event, personal half, body, chain):")?;
    writeln!(out, "{:>10} {:>12} {:>16} {:>12} {:>12}", "producers", "mails/s", "per flush", "p50 ms", "p99 ms")?;
    for producers in &what.producers {
        let path = directory.join(format!("log-{producers}.db"));
        let (rate, p50, p99) = accept(&path, (*producers).clamp(1, 4_096), span).await?;
        let per_flush = rate / flushes;
        writeln!(out, "{producers:>10} {rate:>12.0} {per_flush:>16.2} {p50:>12.2} {p99:>12.2}")?;
    }
    Ok(())
}

/// Returns how often a small write is flushed in a second.
fn flushes(path: &Path, span: Duration) -> anyhow::Result<f64> {
    let mut file = std::fs::File::create(path)?;
    let (block, started, mut count) = ([7u8; 4_096], Instant::now(), 0u32);
    while started.elapsed() < span {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

async fn submit<C: Command>(log: &EventLog, team: &TeamId, now: i64, command: C) -> anyhow::Result<()> {
    let submission = Submission::new(team.clone(), now, Actor::Operator, "bench", command);
    log.transact(submission).await.map(drop).map_err(|e| anyhow::anyhow!("{e}"))
}

/// Returns mails per second and the times to an answer in milliseconds: median and 99th of a hundred.
async fn accept(path: &Path, producers: usize, span: Duration) -> anyhow::Result<(f64, f64, f64)> {
    let allot = Allot::system();
    let backend = Arc::new(eventlog::sqlite::SqliteBackend::open_reserving(path, 64 << 20).await?);
    let options = Options::new(MasterKey::new(&allot.random()), BlobStore::memory(), allot.entropy());
    let log = EventLog::open(backend, options).await?;
    let now = allot.now();
    let (team, mailbox) = (TeamId::new(now, allot.random()), MailboxId::new(now, allot.random()));
    submit(&log, &team, now, CreateTeam { name: "Bench".into(), limits: Limits::default() }).await?;
    let domain = DomainId::new(now, allot.random());
    submit(&log, &team, now, AddVerifiedDomain { domain, name: "bench.test".into(), mode: Mode::SendReceive }).await?;
    let open = OpenMailbox {
        mailbox: mailbox.clone(),
        email: mail::address::Address::parse("box@bench.test").context("the address is valid")?,
        display_name: None,
        quota_bytes: i64::MAX,
        send_scope: SendScope::All,
        credential: None,
    };
    submit(&log, &team, now, open).await?;
    let failed = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..producers {
        let (log, allot, team, mailbox) = (log.clone(), allot.clone(), team.clone(), mailbox.clone());
        let failed = Arc::clone(&failed);
        all.spawn(async move {
            let mut times = vec![];
            while started.elapsed() < span {
                let sent = Instant::now();
                if mail_in(&log, &allot, &team, &mailbox).await.is_err() {
                    failed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                times.push(sent.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = all.join_all().await.into_iter().flatten().collect();
    anyhow::ensure!(failed.load(Ordering::Relaxed) == 0 && !times.is_empty(), "a mail was not taken");
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1_000.0;
    log.close().await;
    Ok((rate, at(50), at(99)))
}

async fn mail_in(log: &EventLog, allot: &Allot, team: &TeamId, mailbox: &MailboxId) -> anyhow::Result<()> {
    let now = allot.now();
    let (message, blob) = (MessageId::new(now, allot.random()), BlobId::new(now, allot.random()));
    let body = log.stage_blob(team, &blob, Bytes::from_static(&[b'x'; MAIL_BYTES])).await?;
    let facts = Received {
        message: message.clone(),
        mailbox: mailbox.clone(),
        thread: ThreadId::new(now, allot.random()),
        folder: Folder::Inbox,
        blob: blob.clone(),
        size_bytes: 4_096,
        sha256: "0".repeat(64),
        is_spam: false,
        spam_score: 0,
        spam_rules: vec![],
        attachments: 0,
        authentication: Authentication::default(),
        sent_at: Some(now),
        parser_version: 1,
        own_report: false,
    };
    let personal = Correspondence {
        mail_from: Some("ann@example.com".into()),
        rcpt_to: vec!["box@bench.test".into()],
        from: None,
        to: vec![],
        cc: vec![],
        subject: Some("Measured".into()),
        preview: "x".repeat(100),
        rfc5322_message_id: format!("{message}@bench.test"),
        references: vec![],
        helo: "bench.test".into(),
        peer_ip: "127.0.0.1".into(),
        verified_domain: None,
    };
    let command = ReceiveMessage { facts, personal, mail_from: None };
    let submission = Submission::new(team.clone(), now, Actor::Smtp, message.to_string(), command)
        .fresh(StreamId::Message(message))
        .with_blob(blob, body);
    log.transact(submission).await.map(drop).map_err(|e| anyhow::anyhow!("{e}"))
}
