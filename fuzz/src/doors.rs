//! The HTTP door: every operation of the API document, with any body; every list, with any cursor; every stream, with any id.
//!
//! The program's own router over a log in memory, with one team that has one of everything.

mod world;

use axum::http::{Method, StatusCode};
use domain::id::EventId;
use serde_json::Value;

use crate::input::steered;
use world::{Answer, World};

/// How often an installation is made anew: what requests leave behind must not pile up.
const RUNS_PER_WORLD: usize = 2_000;

/// The first line names an operation as `POST /mailboxes`; one that names none stands for some operation all the same. What
/// follows is the body.
pub fn bodies(data: &[u8]) {
    let (line, body) = first_line(data);
    World::with(|world| {
        let operation = world.operation(line, |operation| operation.has_body);
        let path = world.path_of(operation);
        let answer = world.call(operation.method.clone(), &path, operation.of_mailbox, &[], body.to_vec());
        check(&answer, &format!("{} {}", operation.method, operation.path));
        if let Ok(value) = serde_json::from_slice::<Value>(body)
            && has_unknown_field(&value)
        {
            assert!(answer.status.is_client_error(), "{} took a field that no request has", operation.path);
        }
    });
}

/// The first line names a list, the second is its query.
pub fn cursors(data: &[u8]) {
    let (line, rest) = first_line(data);
    let (query, cursor) = first_line(rest);
    World::with(|world| {
        let operation = world.operation(line, |operation| operation.is_list());
        let query = format!("{}&cursor={}", percent_encoded(query, b"=&"), percent_encoded(cursor, b""));
        let path = format!("{}?{query}", world.path_of(operation));
        let answer = world.call(Method::GET, &path, operation.of_mailbox, &[], vec![]);
        check(&answer, &path);
        // What a list gives out it takes back, and then it goes on instead of starting anew.
        let Some(next) = answer.json["pagination"]["next_cursor"].as_str().map(str::to_owned) else { return };
        let path = format!("{}?limit=1&cursor={}", world.path_of(operation), percent_encoded(next.as_bytes(), b""));
        let again = world.call(Method::GET, &path, operation.of_mailbox, &[], vec![]);
        assert_eq!(again.status, StatusCode::OK, "a list refuses its own cursor {next:?}: {}", again.json);
        assert_ne!(
            again.json["pagination"]["next_cursor"].as_str(),
            Some(next.as_str()),
            "a cursor that leads to itself"
        );
    });
}

/// What steers says which stream; the rest is the id it is resumed after.
pub fn last_event_id(data: &[u8]) {
    let (steer, id) = steered(data);
    World::with(|world| {
        let of_mailbox = steer.is_multiple_of(2);
        let path = if of_mailbox { "/mailbox/events" } else { "/events/stream" };
        let header = id.iter().all(|octet| *octet >= 0x20 && *octet != 0x7f).then_some(id);
        let begun = match header {
            Some(id) => world.begin_stream(path, of_mailbox, Some(id)),
            None => world.begin_stream(&format!("{path}?last_event_id={}", percent_encoded(id, b"")), of_mailbox, None),
        };
        let text = String::from_utf8_lossy(id);
        if text.contains('\0') {
            assert_eq!(begun.status, StatusCode::BAD_REQUEST, "{id:?}");
            return;
        }
        assert_eq!(begun.status, StatusCode::OK, "{id:?}: {}", begun.text);
        for line in begun.text.lines() {
            let field = line.split(':').next().unwrap_or_default();
            assert!(matches!(field, "" | "id" | "event" | "data" | "retry"), "no line of an event stream: {line:?}");
            assert!(!line.contains(['\r', '\0']));
        }
        let known = text.parse::<EventId>().is_ok_and(|id| id.is_of(&world.team) && world.may_resume_after(&id));
        let told = begun.text.contains("event: sync_required") || begun.text.contains("event:sync_required");
        assert_eq!(told, !text.is_empty() && !known, "resuming after {text:?}: {}", begun.text);
        if let Ok(id) = text.parse::<EventId>() {
            assert_eq!(id.to_string().parse::<EventId>().ok(), Some(id), "an id that does not read back");
        }
    });
}

fn first_line(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|octet| *octet == b'\n').unwrap_or(data.len());
    (&data[..end], data.get(end + 1..).unwrap_or_default())
}

fn percent_encoded(octets: &[u8], kept: &[u8]) -> String {
    let one = |octet: &u8| match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(*octet).to_string(),
        octet if kept.contains(octet) => char::from(*octet).to_string(),
        octet => format!("%{octet:02X}"),
    };
    octets.iter().map(one).collect()
}

fn has_unknown_field(body: &Value) -> bool {
    body.get("zz_no_such_field").is_some()
}

/// Whatever was asked: an answer in the envelope that shows nothing of the inside.
fn check(answer: &Answer, what: &str) {
    assert!(!answer.status.is_server_error(), "{what}: {} {}", answer.status, answer.json);
    if answer.body.is_empty() || !answer.is_json {
        return;
    }
    assert_eq!(answer.json["ok"].as_bool(), Some(answer.status.is_success()), "{what}: {}", answer.json);
    assert!(answer.json["meta"]["request_id"].is_string(), "{what}: {}", answer.json);
    if !answer.status.is_success() {
        let message = answer.json["error"]["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty() && message.chars().count() <= 1_000, "{what}: {message:?}");
        let inside = ["panicked", ".rs:", "sqlx", "SELECT ", "INSERT ", "/rustc/"];
        assert!(inside.iter().all(|word| !message.contains(word)), "{what}: {message:?}");
        assert!(answer.body.len() <= 64 * 1024, "{what}: a refusal of {} octets", answer.body.len());
    }
}
