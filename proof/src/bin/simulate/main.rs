//! `cargo run -p proof --bin simulate -- SEED [--fault NAME] [--trace]`: runs the program's own tasks through one schedule
//! and prints what came of it.
//!
//! What is simulated and what is real:
//! - **Time, network and hosts** are turmoil's: each node, each client and the database is a host; the seed says how long
//!   messages take, which are lost or kept back, and which nodes crash when (`plan.rs`).
//! - **The nodes are real** (`node.rs`): `EventLog` with its lanes and caches, the streams with their feeds and hand-over,
//!   keys looked up in the directory, HTTP by the program's own connections, and the webhook reactor with its guarded client.
//! - **The store is the log in memory** (`eventlog::MemoryBackend`), which keeps the same promises as SQLite and PostgreSQL
//!   by the same conformance suite. There is one, on a host of its own; nodes reach it over the network (`line.rs`, `far.rs`), so that
//!   a request or an answer can be late or lost, and what was asked for by a node that is gone can still be done.
//! - **The work database is SQLite** in memory, with the program's own statements (`hooks.rs`, `projections::db::Held`): `BEGIN` and
//!   `COMMIT` go over the network, what lies between them takes no time. One follower beside it computes the views.
//! - **The receiver of webhooks** (`receiver.rs`) refuses, hangs, breaks off and takes its time.
//! - **The clients** (`writer.rs`, `reader.rs`) repeat what is not acknowledged, and resume where they were cut.
//!
//! When the faults are over everything must come to its end; `judge.rs` says what must hold then.
//!
//! A run is a function of its seed. Random bytes, the order of hash maps and the choices of the runtime come from one
//! generator; as some of that is decided once per process, each run is a process of its own.
#![expect(clippy::print_stdout, reason = "this is a command")]
#![expect(clippy::unwrap_used, reason = "a simulation may fail loudly")]

mod far;
mod fault;
mod ground;
mod hooks;
mod judge;
mod line;
mod node;
mod notes;
mod numbers;
mod plan;
mod reader;
mod receiver;
mod tally;
mod writer;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use eventlog::{EventLog, MemoryBackend};
use fault::Fault;
use ground::{Ground, options};
use notes::Notes;
use plan::{Action, CALM_LATENCY, END_AT, NODES, off_by, plan};
use projections::Runner;
use rand::SeedableRng as _;
use reader::Scope;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

/// The steps time goes by in.
const TICK: Duration = Duration::from_millis(10);

/// What came of a run.
struct Ran {
    notes: Notes,
    problems: Vec<String>,
    summary: String,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let seed = words.first().and_then(|word| word.parse().ok());
    let name = words.iter().position(|word| word == "--fault").and_then(|at| words.get(at + 1));
    let fault = name.and_then(|name| Fault::parse(name));
    let (Some(seed), true) = (seed, name.is_some() == fault.is_some()) else {
        let names: Vec<_> = Fault::ALL.iter().map(|(name, _)| *name).collect();
        println!("usage: simulate SEED [--fault {}] [--trace]", names.join("|"));
        return ExitCode::from(2);
    };
    let trace = words.iter().any(|word| word == "--trace");
    mad_turmoil::rand::set_rng(rand::rngs::StdRng::seed_from_u64(seed));
    // A thread of its own: what this one has drawn so far is not of the seed.
    let ran = std::thread::spawn(move || run(seed, fault, Notes::new(trace))).join();
    let Ok(ran) = ran else {
        println!("seed {seed}: panicked");
        return ExitCode::FAILURE;
    };
    ran.notes.lines().iter().for_each(|line| println!("{line}"));
    let (digest, count) = ran.notes.digest();
    println!("seed {seed}: {}; {count} notes, digest {digest:016x}", ran.summary);
    ran.problems.iter().for_each(|problem| println!("  {problem}"));
    if ran.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(seed: u64, fault: Option<Fault>, notes: Notes) -> Ran {
    let before = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ground = before.block_on(Ground::new(seed, fault, notes));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(END_AT * 2)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(CALM_LATENCY))
        .tcp_capacity(1_024)
        .udp_capacity(1_024)
        .epoch(std::time::UNIX_EPOCH)
        .build();
    people(&mut sim, &ground);
    let mut unfinished = None;
    let mut actions = plan(seed).into_iter().peekable();
    loop {
        while let Some((_, action)) = actions.next_if(|(at, _)| *at <= sim.elapsed()) {
            ground.notes.add(|| format!("{action:?}"));
            act(&mut sim, &action);
        }
        match sim.step() {
            Ok(false) if sim.elapsed() < END_AT => {}
            Ok(true) => break,
            Ok(false) => unfinished = Some("it did not come to its end".to_owned()),
            Err(error) => unfinished = Some(format!("a host failed: {error}")),
        }
        if unfinished.is_some() {
            break;
        }
    }
    let elapsed = sim.elapsed();
    drop(sim);
    let mut problems = before.block_on(judge::problems(&ground));
    problems.extend(unfinished);
    let sheet = ground.tally.sheet();
    let connections: u32 = sheet.readers.values().map(|seen| seen.connections).sum();
    let summary = format!(
        "{:.1} s, {} mails after {} repetitions, {connections} stream connections, {} deliveries",
        elapsed.as_secs_f64(),
        sheet.acknowledged.len(),
        sheet.repetitions,
        sheet.received.requests.len()
    );
    drop(sheet);
    Ran { notes: ground.notes.clone(), problems, summary }
}

/// Brings the hosts to life.
fn people(sim: &mut Sim<'_>, ground: &Ground) {
    let of = ground.clone();
    sim.host("db", move || database(of.clone()));
    let of = ground.clone();
    sim.host("receiver", move || receiver::run(of.clone()));
    for (number, name) in NODES.into_iter().enumerate() {
        let (of, off_by) = (ground.clone(), off_by(ground.seed, number));
        sim.host(name, move || node::run(of.clone(), name, off_by));
    }
    ground.tally.sheet().writers_left = 2;
    sim.client("writer-0", writer::run(ground.clone(), 0));
    sim.client("writer-1", writer::run(ground.clone(), 1));
    sim.client("reader-mailbox", reader::run(ground.clone(), Scope::Mailbox));
    sim.client("reader-team", reader::run(ground.clone(), Scope::Team));
    sim.client("watch", watch(ground.clone()));
}

/// The host of the database, which also computes the views: they are not what is tried here.
async fn database(ground: Ground) -> turmoil::Result {
    let log = EventLog::open(Arc::<MemoryBackend>::clone(&ground.store), options(&ground.allot)).await?;
    let mut views = JoinSet::new();
    views.spawn(Runner::new(log, ground.read_models.clone()).run(CancellationToken::new()));
    ground.exchange.serve(ground.store, ground.notes).await?;
    Ok(())
}

/// Ends when everything was delivered, and a while later: whatever is repeated by mistake has come by then.
async fn watch(ground: Ground) -> turmoil::Result {
    while !judge::is_delivered(&ground).await {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(hooks::LEASE / 3).await;
    Ok(())
}

fn act(sim: &mut Sim<'_>, action: &Action) {
    match action {
        Action::Crash(node) => sim.crash(*node),
        Action::Start(node) => {
            if !sim.is_host_running(*node) {
                sim.bounce(*node);
            }
        }
        Action::Cut(a, b) => sim.partition(*a, *b),
        Action::Mend(a, b) => sim.repair(*a, *b),
        Action::Hold(a, b) => sim.hold(*a, *b),
        Action::Release(a, b) => sim.release(*a, *b),
        Action::Latency(most) => sim.set_max_message_latency(Duration::from_millis(*most)),
    }
}
