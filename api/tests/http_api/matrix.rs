//! Every operation of the document with every kind of key and every kind of id; every body with fields that are not its own.

use std::collections::BTreeSet;

use axum::http::Method;
use domain::api_key::Kind;
use domain::permission::{Permissions, SENDING_PERMISSIONS};
use serde_json::{Value, json};

use crate::harness::World;
use crate::walks::{Operation, Things, body, call, is_stream, operations, unknown};

/// Whose key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Infrastructure,
    Sending,
    Mailbox,
}

impl Holder {
    const ALL: [Self; 3] = [Self::Infrastructure, Self::Sending, Self::Mailbox];

    /// Returns whether an operation is for this kind of key: said here once more, independently of the program.
    fn may_call(self, operation: &Operation) -> bool {
        match operation.surface.as_str() {
            "any" | "public" => true,
            "management" => self == Self::Infrastructure,
            "sending" => self != Self::Infrastructure,
            "mailbox" => self == Self::Mailbox,
            other => panic!("the matrix does not know the surface {other}: teach it"),
        }
    }
}

/// Returns whether a node that carries mail is asked, which this world has none of.
fn is_of_carrier(operation: &Operation) -> bool {
    operation.path.ends_with("/transcripts")
}

#[tokio::test]
async fn every_route_answers_every_kind_of_key_by_its_kind_and_every_foreign_id_like_none() {
    let world = World::with(api::Config { rate_limits: unlimited(), ..api::Config::default() }).await;
    let (ours, theirs) = (Things::new(&world, "a.test").await, Things::new(&world, "b.test").await);
    let permissions = Permissions::parse(SENDING_PERMISSIONS).unwrap();
    let sending = world.team_key(&ours.team.id, Kind::Sending, permissions).await;
    let before = world.app.log.head(&theirs.team.id).await.unwrap();
    let (mut cells, mut refused, mut read) = (0, 0, 0);
    for operation in operations().iter().filter(|o| o.surface != "public" && !is_stream(o)) {
        let own = ours.fill(operation);
        let takes_id = operation.parameters.iter().any(|name| name != "folder_id");
        for holder in Holder::ALL {
            let key = match holder {
                Holder::Infrastructure => &ours.team.root,
                Holder::Sending => &sending,
                Holder::Mailbox => &ours.mailbox.key,
            };
            let what = format!("{} {} with a key of {holder:?}", operation.method, operation.path);
            let ids = if takes_id { vec![theirs.fill(operation), unknown(&own)] } else { vec![] };
            let mut answers = vec![];
            for path in &ids {
                answers.push(call(&world, operation, path, Some(key)).await);
                cells += 1;
            }
            let errors: Vec<_> = answers.iter().map(|answer| (answer.status, answer.json()["error"].clone())).collect();
            assert!(errors.windows(2).all(|pair| pair[0] == pair[1]), "{what}: {errors:?}");
            let expected = if holder.may_call(operation) { 404 } else { 403 };
            assert!(errors.iter().all(|(status, _)| status.as_u16() == expected), "{what}: {errors:?}");
            // With its own ids: refused like those, or, where nothing is changed by it, answered.
            if !holder.may_call(operation) {
                let answer = call(&world, operation, &own, Some(key)).await;
                assert_eq!(answer.refusal(), (403, "insufficient_permissions".to_owned()), "{what}");
                refused += 1;
            } else if operation.method == Method::GET && holder != Holder::Sending && !is_of_carrier(operation) {
                let answer = call(&world, operation, &own, Some(key)).await;
                assert!(!matches!(answer.status.as_u16(), 401 | 403 | 500..), "{what}: {}", answer.status);
                read += 1;
            }
        }
    }
    assert_eq!(world.app.log.head(&theirs.team.id).await.unwrap(), before, "nothing of theirs has moved");
    assert!(cells >= 200 && refused >= 100 && read >= 30, "{cells} cells, {refused} refusals, {read} reads");
}

/// Returns the names of the fields of a schema, through references and parts.
fn properties(document: &Value, schema: &Value) -> BTreeSet<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return properties(document, &document["components"]["schemas"][name]);
    }
    let own = schema["properties"].as_object().into_iter().flat_map(|map| map.keys().cloned());
    let parts = ["allOf", "oneOf", "anyOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    own.chain(parts.flat_map(|part| properties(document, part))).collect()
}

/// Returns the names of everything that any answer tells of a thing: what the server owns.
fn told(document: &Value) -> BTreeSet<String> {
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut names: BTreeSet<String> = schemas.values().flat_map(|schema| properties(document, schema)).collect();
    names.extend(
        ["team_id", "owner", "is_admin", "__proto__", "constructor", "position", "secret_id"].map(str::to_owned),
    );
    names
}

#[tokio::test]
async fn no_body_takes_a_field_that_is_not_its_own() {
    let world = World::with(api::Config { rate_limits: unlimited(), ..api::Config::default() }).await;
    let things = Things::new(&world, "a.test").await;
    let document = serde_json::to_value(api::document()).unwrap();
    let told = told(&document);
    let head = world.app.log.head(&things.team.id).await.unwrap();
    let (mut bodies, mut fields) = (0, 0);
    for operation in operations() {
        let described = &document["paths"][&operation.path][operation.method.as_str().to_ascii_lowercase()];
        let schema = &described["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        bodies += 1;
        let own = properties(&document, schema);
        let key = match operation.surface.as_str() {
            "mailbox" | "sending" => &things.mailbox.key,
            _ => &things.team.root,
        };
        for name in told.difference(&own) {
            // The strange field comes first, then what the operation asks for.
            let asked = body(&operation).to_string();
            let rest = if asked == "{}" { "}".to_owned() } else { format!(",{}", &asked[1..]) };
            let text = format!("{{\"{name}\":null{rest}");
            let path = things.fill(&operation);
            let answer = world.call(operation.method.clone(), &path).key(key).body(text).send().await;
            let what = format!("{} {} with {name}", operation.method, operation.path);
            // The doors of sending answer 422 to what is not valid.
            assert!(matches!(answer.status.as_u16(), 400 | 422), "{what}: {}", answer.json());
            assert_eq!(&answer.param(), name, "{what}: {}", answer.json());
            assert_eq!(answer.json()["error"]["errors"][0]["code"], "unknown_field", "{what}");
            fields += 1;
        }
    }
    assert!(bodies >= 20 && fields >= 1_000, "{bodies} bodies, {fields} fields");
    assert_eq!(world.app.log.head(&things.team.id).await.unwrap(), head, "nothing was changed");
}

fn unlimited() -> api::RateLimits {
    api::RateLimits { infrastructure_requests: u32::MAX, mailbox_requests: u32::MAX, ..api::RateLimits::default() }
}

/// Texts that lead elsewhere where an id is used as the name of a file, in a query or in a cell of a table.
const NO_IDS: &[&str] = &[
    "..",
    "%2e%2e",
    "..%2f..%2f..%2fetc%2fpasswd",
    "..%5c..%5cwin.ini",
    "%2fetc%2fpasswd",
    "%252e%252e%252f",
    "%00",
    "mbx_%00",
    "mbx_..%2f..%2f..%2f..%2f..%2f..%2f.",
    "%ff%fe",
    "%3D1%2B1",
    "%3DHYPERLINK(%22http:%2F%2Fx.test%22)",
    "%2Bcmd%7C'%20%2FC%20calc'!A1",
    "%40SUM(1)",
    "-1",
    "1%20OR%201%3D1",
    "'%3B%20DROP%20TABLE%20events%3B--",
    "%0d%0aX-Injected:%20yes",
    "~root",
    "null",
    "*",
    "%25s%25n",
    "%F0%9F%98%80",
];

#[tokio::test]
async fn whatever_stands_where_an_id_belongs_is_an_id_or_nothing() {
    let world = World::with(api::Config { rate_limits: unlimited(), ..api::Config::default() }).await;
    let things = Things::new(&world, "a.test").await;
    let head = world.app.log.head(&things.team.id).await.unwrap();
    let long = format!("mbx_{}", "z".repeat(3_000));
    let texts: Vec<&str> = NO_IDS.iter().copied().chain([long.as_str()]).collect();
    let mut asked = 0;
    for operation in operations().iter().filter(|o| o.surface != "public" && !is_stream(o)) {
        let key = match operation.surface.as_str() {
            "mailbox" | "sending" => &things.mailbox.key,
            _ => &things.team.root,
        };
        let own = things.fill(operation);
        let places = operation.path.split('/').enumerate().filter(|(_, segment)| segment.starts_with('{'));
        for ((at, _), text) in places.flat_map(|place| texts.iter().map(move |text| (place, text))) {
            let mut path: Vec<_> = own.split('/').collect();
            path[at] = text;
            let answer = call(&world, operation, &path.join("/"), Some(key)).await;
            let what = format!("{} {} with {text}", operation.method, operation.path);
            assert!(matches!(answer.status.as_u16(), 400 | 404 | 422), "{what}: {}", answer.status);
            assert!(answer.headers.get("x-injected").is_none(), "{what}");
            asked += 1;
        }
    }
    assert!(asked >= 1_000, "{asked} requests");
    assert_eq!(world.app.log.head(&things.team.id).await.unwrap(), head, "nothing was changed");
}

#[tokio::test]
async fn the_document_lists_what_the_router_serves() {
    let world = World::new().await;
    let team = world.team("a.test").await;
    let document = serde_json::to_value(api::document()).unwrap();
    let served = world.get("/openapi.json").send().await.json();
    assert_eq!(served["paths"], document["paths"]);
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path.split('/').map(|s| if s.starts_with('{') { "x" } else { s }).collect::<Vec<_>>().join("/");
        for method in known {
            let listed = item.get(method.to_ascii_lowercase()).is_some();
            let method: Method = method.parse().unwrap();
            // A stream that opens does not end.
            if listed && method == Method::GET && (path.ends_with("/stream") || path == "/mailbox/events") {
                continue;
            }
            let answer = world.call(method.clone(), &concrete).key(&team.root).body("").send().await;
            let served = answer.status != 405;
            // One fixed path may also be read as another one's parameter.
            let shadowed = document["paths"].as_object().unwrap().iter().any(|(other, item)| {
                other != path && matches(other, &concrete) && item.get(method.as_str().to_ascii_lowercase()).is_some()
            });
            assert!(served == listed || shadowed, "{method} {path}: listed {listed}, answered {}", answer.status);
        }
    }
    assert_eq!(json!(document["openapi"]), "3.1.0");
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(&path).all(|(t, p)| t.starts_with('{') || t == p)
}
