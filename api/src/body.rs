//! Request bodies: bounded, strict JSON.
//!
//! A body is refused before it is read when it says that it is too long, and as soon as it is when it does not say so.
//! Depth and NUL are checked in one pass over the bytes, before anything is built from them. What does not fit is named.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::App;
use crate::problem::{Code, FieldError, Problem};

/// A JSON body that has exactly the fields its type has.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        content_type(&parts.headers)?;
        let bytes = bounded(&parts.headers, body, app.config.body_bytes_max).await?;
        parse(&bytes, app.config.json_depth_max).map(Self)
    }
}

/// Refuses a body that says it is something other than JSON.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Problem::invalid("Content-Type", "invalid_value", "the body must be application/json"))
}

/// Reads a body of at most `max` bytes.
pub(crate) async fn bounded(headers: &HeaderMap, body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Code::PayloadTooLarge, format!("The body is longer than {max} bytes."));
    let declared = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > max)) {
        return Err(too_large());
    }
    axum::body::to_bytes(body, max).await.map_err(|error| {
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            if inner.is::<http_body_util::LengthLimitError>() {
                return too_large();
            }
            source = inner.source();
        }
        Problem::invalid("body", "incomplete", "the body ended early")
    })
}

/// Reads strict JSON.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], depth_max: usize) -> Result<T, Problem> {
    scan(bytes, depth_max)?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = dotted(&error.path().to_string());
        refusal(&path, error.inner())
    })?;
    json.end().map_err(|error| refusal(".", &error))?;
    Ok(value)
}

/// Reads a part of a body that was read as JSON already.
pub(crate) fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = dotted(&error.path().to_string());
        let (field, code, message) = explain(&path, &error.inner().to_string());
        let shown = format!("The request is not valid: {message}");
        Problem::new(Code::InvalidParameter, shown).with_errors(vec![FieldError {
            field,
            code: code.to_owned(),
            message,
        }])
    })
}

/// Refuses nesting beyond a depth and NUL characters, which no store and no header can hold.
fn scan(bytes: &[u8], depth_max: usize) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut i) = (0usize, false, 0usize);
    while let Some(byte) = bytes.get(i) {
        match (in_string, byte) {
            (true, b'\\') => {
                if bytes.get(i + 1..i + 6).is_some_and(|escape| escape == b"u0000") {
                    return Err(Problem::invalid("body", "invalid_value", "the body contains a NUL character"));
                }
                i += 1;
            }
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > depth_max {
                    let message = format!("the body is nested deeper than {depth_max}");
                    return Err(Problem::invalid("body", "too_deep", message));
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    Ok(())
}

/// Writes `list[1].count` as `list.1.count`.
fn dotted(path: &str) -> String {
    path.replace('[', ".").replace(']', "")
}

/// The longest piece of a parser's message that is repeated.
const MESSAGE_CHARS_MAX: usize = 200;

/// Says what does not fit and where, out of what the parser says.
fn refusal(path: &str, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        let message = format!("the body is not JSON (line {}, column {})", error.line(), error.column());
        return Problem::invalid("body", "invalid_json", message);
    }
    let (field, code, message) = explain(path, &error.to_string());
    let shown = format!("The request is not valid: {message}");
    Problem::new(Code::InvalidParameter, shown).with_errors(vec![FieldError { field, code: code.to_owned(), message }])
}

/// Returns field, code and message of a parser's complaint.
pub(crate) fn explain(path: &str, complaint: &str) -> (String, &'static str, String) {
    let text = complaint.rsplit_once(" at line ").map_or(complaint, |(text, _)| text);
    let message: String = text.chars().take(MESSAGE_CHARS_MAX).collect();
    let parent = if path == "." { "" } else { path };
    let child = |name: &str| {
        // The path of a complaint about a field's name may or may not end in it.
        if parent.is_empty() {
            name.to_owned()
        } else if parent == name || parent.ends_with(&format!(".{name}")) {
            parent.to_owned()
        } else {
            format!("{parent}.{name}")
        }
    };
    let named = |text: &str| text.split('`').nth(1).map(str::to_owned).unwrap_or_default();
    let code = [
        ("unknown field", "unknown_field"),
        ("missing field", "required"),
        ("duplicate field", "duplicate_field"),
        ("invalid type", "invalid_type"),
        ("unknown variant", "invalid_value"),
        ("invalid length", "invalid_length"),
    ]
    .iter()
    .find(|(start, _)| text.starts_with(start))
    .map_or("invalid_value", |(_, code)| code);
    let field = match code {
        "unknown_field" | "required" | "duplicate_field" => child(&named(text)),
        _ if parent.is_empty() => "body".to_owned(),
        _ => parent.to_owned(),
    };
    (field, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their being read is tested")]
    struct Outer {
        name: String,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only their being read is tested")]
    struct Inner {
        count: u8,
    }

    fn refused(json: &str) -> (String, String) {
        let problem = parse::<Outer>(json.as_bytes(), 4).unwrap_err();
        let errors = problem.errors();
        (errors[0].field.clone(), errors[0].code.clone())
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let rows = [
            (r#"{"name":"a","x":1}"#, "x", "unknown_field"),
            (r#"{"name":"a","inner":{"count":1,"x":2}}"#, "inner.x", "unknown_field"),
            (r#"{"name":"a","inner":{"x":2}}"#, "inner.x", "unknown_field"),
            (r#"{}"#, "name", "required"),
            (r#"{"name":"a","inner":{}}"#, "inner.count", "required"),
            (r#"{"name":"a","list":[{"count":1},{"count":"x"}]}"#, "list.1.count", "invalid_type"),
            (r#"{"name":"a","list":[{"count":256}]}"#, "list.0.count", "invalid_value"),
            (r#"{"name":1}"#, "name", "invalid_type"),
            (r#"{"name":"a","name":"b"}"#, "name", "duplicate_field"),
            (r#"[]"#, "body", "invalid_length"),
            (r#"{"name":"a"} x"#, "body", "invalid_json"),
            (r#"{"name":"#, "body", "invalid_json"),
            ("", "body", "invalid_json"),
            (r#"{"name":"a\u0000b"}"#, "body", "invalid_value"),
            (r#"{"name":"a","list":[[[[1]]]]}"#, "body", "too_deep"),
        ];
        for (json, field, code) in rows {
            assert_eq!(refused(json), (field.to_owned(), code.to_owned()), "{json}");
        }
    }

    #[test]
    fn an_escaped_backslash_before_u0000_is_no_nul() {
        assert!(parse::<Outer>(br#"{"name":"a\\u0000"}"#, 4).is_ok());
        assert!(parse::<Outer>(br#"{"name":"[[[[[[\"[["}"#, 4).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse::<serde_json::Value>(&bytes, 8);
        }
    }
}
