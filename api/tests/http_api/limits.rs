//! Limits hold at themselves: one less and exactly as many pass, one more is refused, before any work is done.

use serde_json::{Value, json};

use crate::harness::World;

fn people(count: usize) -> Value {
    (0..count).map(|n| json!({"email": format!("p{n}@example.net")})).collect()
}

/// Returns the code of the first fault, or of the error.
fn code(answer: &crate::harness::Answer) -> String {
    let json = answer.json();
    let first = json["error"]["errors"][0]["code"].as_str().or(json["error"]["code"].as_str());
    first.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_body_may_be_as_deep_as_the_limit_and_no_deeper() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let depth_max = api::Config::default().json_depth_max;
    for (depth, too_deep) in [(depth_max - 1, false), (depth_max, false), (depth_max + 1, true), (100_000, true)] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            // The object around it is one level.
            let inside = depth - 1;
            let body = format!("{{\"email\":{}1{}}}", open.repeat(inside), close.repeat(inside));
            let answer = world.post("/mailboxes").key(&team.root).body(body).send().await;
            assert_eq!(
                (answer.status.as_u16(), code(&answer) == "too_deep"),
                (400, too_deep),
                "{depth} levels of {open}"
            );
        }
    }
}

#[tokio::test]
async fn a_body_may_be_as_long_as_the_limit_and_no_longer() {
    let max = 1_000;
    let world = World::with(api::Config { body_bytes_max: max, ..api::Config::default() }).await;
    let team = world.team("a.test").await;
    for (n, (length, status)) in [(max - 1, 201), (max, 201), (max + 1, 413)].into_iter().enumerate() {
        let mut body = json!({"email": format!("box{n}@a.test")}).to_string();
        body.push_str(&" ".repeat(length - body.len()));
        let answer = world.post("/mailboxes").key(&team.root).body(body).send().await;
        assert_eq!(answer.status.as_u16(), status, "{length} bytes");
    }
}

#[tokio::test]
async fn lists_in_a_body_may_be_as_long_as_their_limits() {
    let world = World::new().await;
    let (team, key) = crate::sending::sender(&world, "a.test").await;
    let imports = |count: usize| json!({"entries": people(count)});
    for (count, passes) in [(999, true), (1_000, true), (1_001, false)] {
        let answer = world.post("/suppressions/import").key(&team.root).json(&imports(count)).send().await;
        assert_eq!(answer.status.is_success(), passes, "{count} suppressions: {}", answer.json());
    }
    let send = |change: &dyn Fn(&mut Value)| {
        let mut mail = crate::sending::mail();
        change(&mut mail);
        world.post("/emails/send").key(&key).json(&mail).send()
    };
    for (count, passes) in [(49, true), (50, true), (51, false), (1_001, false)] {
        let answer = send(&|mail| mail["to"] = people(count)).await;
        assert_eq!(answer.status.is_success(), passes, "{count} recipients: {}", answer.json());
    }
    let file = |n: usize| json!({"filename": format!("{n}.txt"), "content": "eA=="});
    for (count, passes) in [(9, true), (10, true), (11, false)] {
        let answer = send(&|mail| mail["attachments"] = (0..count).map(file).collect()).await;
        assert_eq!(answer.status.is_success(), passes, "{count} attachments: {}", answer.json());
    }
    let metadata = |count: usize| -> Value { (0..count).map(|n| (format!("k{n}"), json!("v"))).collect() };
    for (count, passes) in [(49, true), (50, true), (51, false)] {
        let answer = send(&|mail| mail["metadata"] = metadata(count)).await;
        assert_eq!(answer.status.is_success(), passes, "{count} names: {}", answer.json());
    }
    for (length, passes) in [(499, true), (500, true), (501, false)] {
        let answer = send(&|mail| mail["custom_headers"] = json!({"X-A": "x".repeat(length)})).await;
        assert_eq!(answer.status.is_success(), passes, "a header of {length} characters: {}", answer.json());
    }
}

#[tokio::test]
async fn a_query_may_be_as_long_as_the_limit() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let max = 8 * 1024;
    for (length, status) in [(max - 1, 200), (max, 200), (max + 1, 400)] {
        let query = format!("x={}", "y".repeat(length - 2));
        let answer = world.get(&format!("/mailboxes?{query}")).key(&team.root).send().await;
        assert_eq!(answer.status.as_u16(), status, "{length} bytes");
    }
}

#[tokio::test]
async fn a_hundred_thousand_names_cost_no_more_than_their_bytes() {
    let world = World::new().await;
    let (_, key) = crate::sending::sender(&world, "a.test").await;
    let timed = async |count: usize| {
        let mut mail = crate::sending::mail();
        mail["metadata"] = (0..count).map(|n| (format!("name{n:07}"), json!("v"))).collect();
        let call = world.post("/emails/send").key(&key).json(&mail);
        let began = std::time::Instant::now();
        let answer = call.send().await;
        assert!(answer.status.is_client_error(), "{:?}", answer.json());
        began.elapsed()
    };
    timed(1_000).await;
    let (few, many) = (timed(10_000).await, timed(100_000).await);
    // Ten times the names; a square would be a hundred times. A pause of the machine is allowed for.
    assert!(many < few * 40 + std::time::Duration::from_secs(2), "{few:?} for 10,000, {many:?} for 100,000");
}

#[tokio::test]
async fn a_compressed_body_is_not_unpacked() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    // A good request in a member of gzip (RFC 1952), one stored block: whoever unpacks it opens a mailbox.
    let (head, tail) = (b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x01\x16\x00\xe9\xff", b"\x14\x45\xd1\xca\x16\x00\x00\x00");
    let gzip = [&head[..], br#"{"email":"zip@a.test"}"#, tail].concat();
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        let call = world.post("/mailboxes").key(&team.root).header("content-encoding", encoding).body(gzip.clone());
        let answer = call.send().await;
        assert_eq!((answer.status.as_u16(), answer.param().as_str()), (400, "body"), "{encoding}");
    }
}
