//! Every operation of the OpenAPI document refuses a missing key, a wrong key and a key without the permission.

use serde_json::{Value, json};

use crate::harness::{Installation, answer};

/// The operations of a running server: method, path template, operation.
pub fn operations(document: &Value) -> Vec<(reqwest::Method, String, Value)> {
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if let Ok(method) = method.to_uppercase().parse::<reqwest::Method>()
                && operation.get("operationId").is_some()
            {
                operations.push((method, path.clone(), operation.clone()));
            }
        }
    }
    assert!(operations.len() >= 45, "the document lists {} operations", operations.len());
    operations
}

/// Fills in every path parameter.
pub fn concrete(template: &str, id: impl Fn(&str) -> String) -> String {
    let mut path = String::new();
    for (n, piece) in template.split('{').enumerate() {
        match piece.split_once('}') {
            Some((name, rest)) if n > 0 => {
                path.push_str(&id(name));
                path.push_str(rest);
            }
            _ => path.push_str(piece),
        }
    }
    path
}

fn is_public(operation: &Value) -> bool {
    operation["security"].as_array().is_some_and(|s| s.is_empty() || s.iter().any(|r| r == &json!({})))
}

#[tokio::test]
async fn no_operation_answers_without_the_right_key() {
    let installation = Installation::new();
    let server = installation.start();
    let keys = server.keys.clone().unwrap();
    let root = server.client(&keys.root);
    // A key that holds one permission which no operation asks for.
    let (status, powerless) =
        root.post("/keys", json!({"kind": "infrastructure", "name": "powerless", "permissions": ["team.read"]})).await;
    assert_eq!(status, 201, "{powerless}");
    let powerless = server.client(powerless["data"]["secret"].as_str().unwrap());
    let (status, document) = root.get("/openapi.json").await;
    assert_eq!(status, 200);
    let strangers = [server.client("smx_inf_nonsense"), server.client("not a key")];
    for (method, template, operation) in operations(&document) {
        if is_public(&operation) {
            continue;
        }
        let path = concrete(template.trim_start_matches("/api/v1"), |_| "mbx_000000000000000000000000".to_owned());
        let bare = crate::harness::http_client().request(method.clone(), format!("{}/api/v1{path}", server.http));
        let (status, body) = answer(bare).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (401, &json!("authentication_required")),
            "{method} {path}: {body}"
        );
        for stranger in &strangers {
            let (status, body) = answer(stranger.request(method.clone(), &path)).await;
            assert_eq!(status, 401, "{method} {path}: {body}");
        }
        let permission = operation["x-postlog-permission"]
            .as_str()
            .unwrap_or_else(|| panic!("{method} {path} declares no permission"));
        if permission != "none" {
            let (status, body) = answer(powerless.request(method.clone(), &path)).await;
            assert_eq!(
                (status, &body["error"]["code"]),
                (403, &json!("insufficient_permissions")),
                "{method} {path}: {body}"
            );
        }
    }
}
