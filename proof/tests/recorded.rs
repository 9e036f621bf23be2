//! Runs of the real webhook reactor, with crashes, recorded and followed by the model; and recordings that tell of what
//! must not happen, which it refuses.
//!
//! `POSTLOG_TEST_RECORDED_RUNS` sets how many runs there are. A run that is refused prints its number;
//! `POSTLOG_TEST_RECORDED_RUN=<number>` repeats its script alone.
#![expect(clippy::unwrap_used, reason = "tests may fail loudly")]
#![expect(clippy::print_stdout, reason = "what was followed is what the test is worth")]
#![expect(clippy::disallowed_methods, reason = "receivers end with the runtime of their test")]

#[path = "recorded/receiver.rs"]
mod receiver;
#[path = "recorded/world.rs"]
mod world;

use proof::replay::{Kept, Observed, Refused, follow};
use world::{ATTEMPTS, World};

/// A small generator of numbers: the same seed, the same script (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Runs the program through a script of mails, refusals, crashes and time, and returns what was seen.
fn recorded(run: u64) -> Vec<Observed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ (run + 1).wrapping_mul(0xff51_afd7_ed55_8ccd));
        let world = World::new(run).await;
        let mut running = Some(world.start());
        let mut mails = 0;
        while mails < 10 {
            for _ in 0..=numbers.below(3) {
                world.receive(u8::try_from(numbers.below(2)).unwrap() + 1).await;
                mails += 1;
            }
            if numbers.below(3) == 0 {
                world.receiver.wait_for_more(usize::try_from(numbers.below(3)).unwrap()).await;
                world.crash(running.take().unwrap()).await;
                running = Some(world.start());
            }
            if numbers.below(2) == 0 {
                world.until_quiet().await;
                world.tick();
            }
        }
        world.until_delivered().await;
        drop(running);
        world.recording()
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn whatever_the_program_does_the_model_allows() {
    let only = number("POSTLOG_TEST_RECORDED_RUN");
    let runs = number("POSTLOG_TEST_RECORDED_RUNS").unwrap_or(12);
    for run in only.map_or(0..runs, |only| only..only + 1) {
        let recording = recorded(run);
        let crashes = recording.iter().filter(|observed| **observed == Observed::Crash).count();
        match follow(&recording, ATTEMPTS) {
            Ok(followed) => println!(
                "run {run}: {} steps with {crashes} crashes, followed in at most {} ways",
                followed.steps, followed.ways_max
            ),
            Err(refused) => panic!(
                "run {run} is refused: {refused:?}\nrepeat: POSTLOG_TEST_RECORDED_RUN={run} cargo test -p proof --test recorded -- whatever\n{recording:#?}"
            ),
        }
    }
}

fn request(position: u64, number: u32, ok: bool) -> Observed {
    Observed::Request { position, number, ok }
}

fn kept(cursor: u64) -> Observed {
    Observed::Kept(Kept { cursor, horizon: cursor, pending: vec![], rows: vec![] })
}

fn refused_at(recording: &[Observed]) -> Option<usize> {
    match follow(recording, ATTEMPTS) {
        Ok(_) => None,
        Err(Refused::Step { index, .. } | Refused::TooManyWays { index }) => Some(index),
    }
}

#[test]
fn a_recording_of_what_must_not_happen_is_refused() {
    let mail = |mailbox| Observed::Mail { mailbox };
    let good = [mail(1), mail(1), request(1, 1, true), request(2, 1, true), kept(2)];
    assert_eq!(refused_at(&good), None);
    let out_of_order = [mail(1), mail(1), request(2, 1, true)];
    assert_eq!(refused_at(&out_of_order), Some(2));
    let of_two_mailboxes = [mail(1), mail(2), request(2, 1, true), request(1, 1, true), kept(2)];
    assert_eq!(refused_at(&of_two_mailboxes), None);
    let repeated = [mail(1), request(1, 1, true), kept(1), request(1, 1, true)];
    assert_eq!(refused_at(&repeated), Some(3));
    let repeated_after_a_crash = [mail(1), request(1, 1, true), Observed::Crash, request(1, 1, true)];
    assert_eq!(refused_at(&repeated_after_a_crash), None);
    let forgotten_by_a_crash = [mail(1), request(1, 1, true), kept(1), Observed::Crash, request(1, 1, true)];
    assert_eq!(refused_at(&forgotten_by_a_crash), Some(4));
    let settled_unsent = [mail(1), kept(1)];
    assert_eq!(refused_at(&settled_unsent), Some(1));
    let too_early = [mail(1), request(1, 1, false), request(1, 2, true)];
    assert_eq!(refused_at(&too_early), Some(2));
    let in_time = [mail(1), request(1, 1, false), Observed::Tick, request(1, 2, true)];
    assert_eq!(refused_at(&in_time), None);
    let wrong_count = [mail(1), request(1, 1, false), Observed::Tick, request(1, 3, true)];
    assert_eq!(refused_at(&wrong_count), Some(3));
}

#[test]
fn a_real_recording_that_was_tampered_with_is_refused() {
    let recording = recorded(1);
    assert_eq!(refused_at(&recording), None);
    // The first success again at the end, though it was written down.
    let again = recording.iter().find(|observed| matches!(observed, Observed::Request { ok: true, .. })).unwrap();
    let doubled: Vec<_> = recording.iter().chain([again]).cloned().collect();
    assert_eq!(refused_at(&doubled), Some(recording.len()));
    // A request that never was: what is written down afterwards has no cause.
    let first = recording.iter().position(|observed| matches!(observed, Observed::Request { ok: true, .. })).unwrap();
    let mut without = recording.clone();
    let Observed::Request { position, .. } = without.remove(first) else { unreachable!() };
    without.retain(|observed| !matches!(observed, Observed::Request { position: of, .. } if *of == position));
    assert!(refused_at(&without).is_some());
}
