//! Heartbeats and bounded streams, with a clock that stands still until somebody waits.

use std::time::Duration;

use tokio::time::Instant;

use super::harness::{Engine, World, ids};

// Streams are opened before time stands still: a request looks at the read models, on threads that standing time would
// not wait for. A stream's own time begins when it is first read.

#[tokio::test]
async fn heartbeats_come_as_often_as_asked() {
    let world = World::on(Engine::Memory).await;
    let mut readers = vec![];
    for (query, expected) in [("", [30, 60, 90]), ("?ping=10", [10, 20, 30]), ("?ping=300", [300, 600, 900])] {
        readers.push((world.open(query, None).await, expected));
    }
    tokio::time::pause();
    for (mut reader, expected) in readers {
        reader.chunk().await.unwrap();
        let started = Instant::now();
        for at in expected {
            let chunk = reader.chunk().await.unwrap();
            assert_eq!(&chunk[..], b": ping\n");
            let late = started.elapsed().abs_diff(Duration::from_secs(at));
            assert!(late < Duration::from_secs(1), "heartbeat due after {at} s: {late:?}");
        }
    }
}

#[tokio::test]
async fn a_bounded_stream_ends_in_time_and_is_complete() {
    for (query, seconds) in [("?close_after=30", 30), ("?close_after=45&ping=10", 45), ("?close_after=3600", 3_600)] {
        let world = World::on(Engine::Memory).await;
        let mut reader = world.open(query, None).await;
        tokio::time::pause();
        let started = Instant::now();
        reader.chunk().await.unwrap();
        let id = world.receive().await.to_string();
        let events = reader.take(1).await;
        assert_eq!(ids(&events), [id]);
        while reader.chunk().await.is_some() {}
        let late = started.elapsed().abs_diff(Duration::from_secs(seconds));
        assert!(late < Duration::from_secs(1), "{query}: {late:?}");
        assert!(reader.raw.ends_with(b"\n"));
        drop(reader);
        assert_eq!(world.streams.open(), 0);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn an_idle_stream_stays_open_and_frames_leave_the_window() {
    let world = World::on(Engine::Memory).await;
    let before = world.head_id().await.to_string();
    let mut reader = world.open("?ping=300", None).await;
    tokio::time::pause();
    let first = world.receive().await.to_string();
    assert_eq!(ids(&reader.take(1).await), [first.as_str()]);
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    let second = world.receive().await.to_string();
    assert_eq!(ids(&reader.take(1).await), [second.as_str()]);
    tokio::time::resume();
    let mut resumed = world.open("", Some(&before)).await;
    assert_eq!(ids(&resumed.take(2).await), [first, second]);
}
