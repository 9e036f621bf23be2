//! A stream that is cut anywhere and resumed with the last dispatched id has no gap and no repeat.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::harness::{ENGINES, Engine, Socket, World, ids};
use super::parser::Parser;

/// Twenty events, mixed with others that the mailbox is not told of.
async fn twenty(world: &World) -> (String, Vec<String>) {
    let before = world.head_id().await.to_string();
    let mut reference = vec![];
    for n in 0..20 {
        reference.push(world.receive_in(0, n % 5 == 0).await.to_string());
        if n % 3 == 0 {
            world.receive_in(1, false).await;
        }
    }
    (before, reference)
}

#[tokio::test]
async fn a_cut_at_every_byte_of_a_stream_loses_and_repeats_nothing() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let (before, reference) = twenty(&world).await;
        let mut whole = world.open("", Some(&before)).await;
        assert_eq!(ids(&whole.take(20).await), reference);
        let bytes = whole.raw.clone();
        // What a second connection brings depends on the presented id alone: each is really asked for once.
        let mut resumed: HashMap<String, Vec<String>> = HashMap::new();
        for cut in 0..=bytes.len() {
            let mut parser = Parser::default();
            parser.feed(format!("id: {before}\n\n").as_bytes());
            let mut seen = ids(&parser.feed(&bytes[..cut]));
            let presented = parser.last_event_id.clone();
            if !resumed.contains_key(&presented) {
                let mut second = world.open("", Some(&presented)).await;
                let rest = ids(&second.take(20 - seen.len()).await);
                assert!(second.at_once().await.is_empty(), "nothing comes after the last event");
                resumed.insert(presented.clone(), rest);
            }
            seen.extend_from_slice(&resumed[&presented]);
            assert_eq!(seen, reference, "{engine:?}, cut after {cut} bytes");
        }
        assert_eq!(resumed.len(), 21);
    }
}

#[tokio::test]
async fn a_replayed_stream_is_the_live_one_byte_for_byte() {
    for engine in ENGINES {
        let world = World::on(engine).await;
        let before = world.head_id().await.to_string();
        let (mut mailbox, mut team) = (world.open("", None).await, world.open_team("", None).await);
        let (_, reference) = twenty(&world).await;
        let live = mailbox.take(20).await;
        assert_eq!(ids(&live), reference);
        assert_eq!(world.open("", Some(&before)).await.take(20).await, live);
        let all = team.take(27).await;
        assert_eq!(world.open_team("", Some(&before)).await.take(27).await, all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_chain_of_cuts_gives_the_reference(
        cuts in prop::collection::vec(0usize..6_000, 1..12), chunk_bytes in 1usize..5_000, window_bytes in 1usize..5_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = api::stream::Config { chunk_bytes, window_bytes, ..super::harness::config() };
            let world = World::with(Engine::Memory, config).await;
            let mut last = world.head_id().await.to_string();
            let mut reference = vec![];
            let mut seen = vec![];
            for cut in cuts {
                let mut parser = Parser::default();
                parser.feed(format!("id: {last}\n\n").as_bytes());
                let mut reader = world.open("", Some(&last)).await;
                // Some of it is there before, some comes while the stream is open.
                for _ in 0..cut % 5 {
                    reference.push(world.receive().await.to_string());
                }
                reader.at_once().await;
                let bytes = &reader.raw[..cut.min(reader.raw.len())];
                seen.extend(ids(&parser.feed(bytes)));
                last = parser.last_event_id;
                drop(reader);
                reference.push(world.receive().await.to_string());
            }
            let mut reader = world.open("", Some(&last)).await;
            let missing = reference.len() - seen.len();
            seen.extend(ids(&reader.take(missing).await));
            assert_eq!(seen, reference);
            world.until_open(1).await;
        });
    }
}

/// Twenty readers are cut fifty times each, at any byte, while four writers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_readers_with_fifty_cuts_each_see_what_was_written() {
    for engine in ENGINES {
        let world = Arc::new(World::on(engine).await);
        let address = world.listen(api::stream::serve::Config::default()).await;
        let before = world.head_id().await.to_string();
        let done = tokio_util::sync::CancellationToken::new();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4u64 {
            let (world, done) = (Arc::clone(&world), done.clone());
            writers.spawn(async move {
                let mut beat = tokio::time::interval(std::time::Duration::from_millis(20 + writer));
                while !done.is_cancelled() {
                    beat.tick().await;
                    world.receive_in(usize::from(writer == 3), false).await;
                }
            });
        }
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..20u64 {
            let (world, mut last) = (Arc::clone(&world), before.clone());
            readers.spawn(async move {
                let mut seen = vec![];
                // A simple generator: the cuts differ from reader to reader and are the same in each run.
                let mut state = reader * 7_919 + 1;
                for _ in 0..50 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let cut = usize::try_from(state >> 33).unwrap() % 3_000;
                    let mut socket = Socket::open(address, &world.mailbox_key, "/mailbox/events", Some(&last)).await;
                    socket.parser.feed(format!("id: {last}\n\n").as_bytes());
                    let (events, presented) = socket.cut_after(cut).await;
                    seen.extend(ids(&events));
                    last = presented;
                }
                (seen, last)
            });
        }
        let results = readers.join_all().await;
        done.cancel();
        writers.join_all().await;
        let head = world.log.head(&world.team).await.unwrap().position;
        let from = before.parse::<domain::id::EventId>().unwrap().position;
        let mut reference = vec![];
        let mut at = from;
        while at < head {
            let page = world.log.read(&world.team, at, 500).await.unwrap();
            at = page.last().unwrap().position;
            let own = page
                .iter()
                .filter(|r| matches!(&r.event, domain::Event::Message(e) if *e.mailbox() == world.mailboxes[0]));
            reference.extend(own.map(|r| r.id().to_string()));
        }
        for (mut seen, last) in results {
            let mut socket = Socket::open(address, &world.mailbox_key, "/mailbox/events", Some(&last)).await;
            while seen.len() < reference.len() {
                seen.push(socket.next().await.unwrap().id);
            }
            assert_eq!(seen, reference, "{engine:?}");
        }
        assert!(reference.len() > 50, "the writers should have written");
    }
}
