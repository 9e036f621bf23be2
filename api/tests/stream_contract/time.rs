//! Heartbeats and bounded streams, with a clock that stands still until somebody waits.

use std::time::Duration;

use tokio::time::Instant;

use super::harness::{Engine, World, ids};

async fn heartbeats(query: &str, expected: &[u64]) {
    let world = World::on(Engine::Memory).await;
    let mut reader = world.open(query, None).await;
    reader.chunk().await.unwrap();
    let started = Instant::now();
    for at in expected {
        let chunk = reader.chunk().await.unwrap();
        assert_eq!(&chunk[..], b": ping\n");
        let late = started.elapsed().abs_diff(Duration::from_secs(*at));
        assert!(late < Duration::from_secs(1), "{query}: {late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_as_often_as_asked() {
    heartbeats("", &[30, 60, 90]).await;
    heartbeats("?ping=10", &[10, 20, 30]).await;
    heartbeats("?ping=300", &[300, 600]).await;
}

#[tokio::test(start_paused = true)]
async fn a_bounded_stream_ends_in_time_and_is_complete() {
    for (query, seconds) in [("?close_after=30", 30), ("?close_after=45&ping=10", 45), ("?close_after=3600", 3_600)] {
        let world = World::on(Engine::Memory).await;
        let started = Instant::now();
        let mut reader = world.open(query, None).await;
        let id = world.receive().await.to_string();
        let events = reader.take(1).await;
        assert_eq!(ids(&events), [id]);
        while reader.chunk().await.is_some() {}
        let late = started.elapsed().abs_diff(Duration::from_secs(seconds));
        assert!(late < Duration::from_secs(1), "{query}: {late:?}");
        assert!(reader.raw.ends_with(b"\n"));
        drop(reader);
        assert_eq!(world.streams.open(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_stays_open_and_frames_leave_the_window() {
    let world = World::on(Engine::Memory).await;
    let before = world.head_id().await.to_string();
    let mut reader = world.open("?ping=300", None).await;
    let first = world.receive().await.to_string();
    assert_eq!(ids(&reader.take(1).await), [first.as_str()]);
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    let second = world.receive().await.to_string();
    assert_eq!(ids(&reader.take(1).await), [second.as_str()]);
    let mut resumed = world.open("", Some(&before)).await;
    assert_eq!(ids(&resumed.take(2).await), [first, second]);
}
