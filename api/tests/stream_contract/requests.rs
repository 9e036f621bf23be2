//! What is answered before a stream begins.

use super::harness::{Engine, World, config, json};

#[tokio::test]
async fn a_stream_has_the_headers_that_keep_it_flowing() {
    let world = World::on(Engine::Memory).await;
    for (key, path) in [(&world.mailbox_key, "/mailbox/events"), (&world.team_key, "/events/stream")] {
        let response = world.ask(key, path, None).await;
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(header("x-accel-buffering").as_deref(), Some("no"));
        assert!(header("x-request-id").unwrap().starts_with("req_"));
        assert_eq!(header("content-encoding"), None);
    }
}

#[tokio::test]
async fn the_first_bytes_say_how_long_to_wait_and_differ_between_clients() {
    let world = World::on(Engine::Memory).await;
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut reader = world.open("", None).await;
        reader.chunk().await.unwrap();
        let retry = reader.parser.retry.unwrap();
        assert!((2_000..4_000).contains(&retry));
        waits.insert(retry);
    }
    assert!(waits.len() > 10, "{waits:?}");
}

#[tokio::test]
async fn malformed_parameters_are_refused_by_name() {
    let world = World::on(Engine::Memory).await;
    let both =
        ["ping=9", "ping=x", "ping=301", "close_after=29", "close_after=3601", "event_types=", "event_types=nonsense"];
    for query in both {
        let field = query.split('=').next().unwrap();
        for (key, path) in [(&world.mailbox_key, "/mailbox/events"), (&world.team_key, "/events/stream")] {
            let response = world.ask(key, &format!("{path}?{query}"), None).await;
            assert_eq!(response.status(), 400, "{path}?{query}");
            let body = json(response).await;
            assert_eq!(body["error"]["code"], "invalid_parameter");
            assert_eq!(body["error"]["param"], field);
            assert_eq!(body["error"]["retryable"], false);
        }
    }
    assert_eq!(world.streams.open(), 0);
}

#[tokio::test]
async fn the_wrong_credential_is_refused() {
    let world = World::on(Engine::Memory).await;
    assert_eq!(world.ask(&world.team_key, "/mailbox/events", None).await.status(), 403);
    for path in ["/events/stream", "/events"] {
        assert_eq!(world.ask(&world.mailbox_key, path, None).await.status(), 403);
    }
    let foreign = format!("/mailbox/events?mailbox_id={}", world.mailboxes[1]);
    assert_eq!(world.ask(&world.mailbox_key, &foreign, None).await.status(), 403);
    let own = format!("/mailbox/events?mailbox_id={}", world.mailboxes[0]);
    assert_eq!(world.ask(&world.mailbox_key, &own, None).await.status(), 200);
}

#[tokio::test]
async fn too_many_streams_are_refused_until_one_ends() {
    let limits = [
        ("key", api::stream::Config { streams_per_key_max: 3, ..config() }, 429),
        ("mailbox", api::stream::Config { streams_per_mailbox_max: 3, ..config() }, 429),
        ("team", api::stream::Config { streams_per_team_max: 3, ..config() }, 429),
        ("", api::stream::Config { streams_max: 3, ..config() }, 503),
    ];
    for (of, limit, status) in limits {
        let world = World::with(Engine::Memory, limit).await;
        let mut open = vec![];
        for _ in 0..3 {
            open.push(world.open("", None).await);
        }
        let refused = world.ask(&world.mailbox_key, "/mailbox/events", None).await;
        assert_eq!(refused.status(), status, "{of}");
        assert_eq!(refused.headers()["retry-after"], "5");
        let body = json(refused).await;
        assert_eq!(body["error"]["retryable"], true);
        assert!(body["error"]["message"].as_str().unwrap().contains(of), "{body}");
        // Another key of another mailbox is another matter, unless it is the team or the node that is full.
        let other = world.ask(&world.other_mailbox_key, "/mailbox/events", None).await;
        assert_eq!(other.status() == 200, matches!(of, "key" | "mailbox"), "{of}");
        drop(other);
        open.pop();
        open.push(world.open("", None).await);
        drop(open);
        assert_eq!(world.streams.open(), 0, "every place is free again");
    }
}
