//! The two live streams.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::feed::Member;
use super::filter::{Filter, Interest};
use super::hub::{Refused, Wish};
use super::parameters::{MailboxStream, TeamStream, last_event_id};
use super::realtime::RealtimeEvent;
use super::render::PublishedEvent;
use super::subscription::Subscription;
use crate::App;
use crate::auth::{FromLog, guards};
use crate::problem::{Code, Problem};
use crate::query::Query;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The time between heartbeats when none is asked for.
const PING: Duration = Duration::from_secs(30);

/// Marks an answer as an open stream, for the connection that serves it.
#[derive(Debug, Clone)]
pub(super) struct Live(pub Arc<Member>);

/// Stream what arrives in the mailbox
///
/// Server-sent events. Each carries the message's summary and the beginning of its body; its `id` resumes the stream
/// after it. A stream that presents an id which is not known here, belongs to another team or is older than what is
/// offered begins with one `sync_required` event and goes on live: read `/mailbox/changes` to learn what was missed.
/// Heartbeats are comments. `Accept` is not looked at.
#[utoipa::path(
    get,
    path = "/mailbox/events",
    tag = "Mailbox API",
    operation_id = "mailboxStreamEvents",
    params(
        ("mailbox_id" = Option<String>, Query, description = "The mailbox, for credentials that cover several."),
        ("event_types" = Option<String>, Query, description = "Comma-separated: message.received, message.received.spam. Default both."),
        ("last_event_id" = Option<String>, Query, description = "The last event seen; the header of that name wins."),
        ("ping" = Option<u32>, Query, minimum = 10, maximum = 300, description = "Seconds between heartbeats. Default 30."),
        ("close_after" = Option<u32>, Query, minimum = 30, maximum = 3600, description = "Seconds after which the server ends the stream. Default never."),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event seen."),
    ),
    responses(
        (status = 200, description = "The stream", content_type = "text/event-stream", body = RealtimeEvent),
        (status = 400, description = "A parameter is malformed", body = crate::problem::Body),
    ),
)]
pub(crate) async fn stream_mailbox_events(
    call: FromLog<guards::MailboxRead>,
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<MailboxStream>,
) -> Result<Response, Problem> {
    let mailbox = call.mailbox()?.clone();
    let wish = Wish {
        team: call.caller.team.clone(),
        key: call.caller.key.clone(),
        mailbox: Some(mailbox.clone()),
        interest: Interest::Mailbox(mailbox),
        filter: Filter::new(wanted.event_types.and_then(|types| types.filter()), None),
        last_event_id: last_event_id(headers.get(LAST_EVENT_ID), wanted.last_event_id),
        ping: wanted.ping.map_or(PING, |ping| ping.duration()),
        close_after: wanted.close_after.map(|after| after.duration()),
    };
    Ok(answer(app.streams.hub.open(wish).await?, call.at))
}

/// Stream what happens in the team
///
/// Server-sent events of every published type. Ids, resuming and `sync_required` are as for the stream of a mailbox;
/// here `GET /events` tells what was missed.
#[utoipa::path(
    get,
    path = "/events/stream",
    tag = "Events",
    operation_id = "streamEvents",
    params(
        ("event_types" = Option<String>, Query, description = "Comma-separated published types. Default all."),
        ("mailbox_id" = Option<String>, Query, description = "Only events about this mailbox."),
        ("last_event_id" = Option<String>, Query, description = "The last event seen; the header of that name wins."),
        ("ping" = Option<u32>, Query, minimum = 10, maximum = 300, description = "Seconds between heartbeats. Default 30."),
        ("close_after" = Option<u32>, Query, minimum = 30, maximum = 3600, description = "Seconds after which the server ends the stream. Default never."),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event seen."),
    ),
    responses(
        (status = 200, description = "The stream", content_type = "text/event-stream", body = PublishedEvent),
        (status = 400, description = "A parameter is malformed", body = crate::problem::Body),
    ),
)]
pub(crate) async fn stream_events(
    call: FromLog<guards::EventRead>,
    State(app): State<App>,
    headers: HeaderMap,
    Query(wanted): Query<TeamStream>,
) -> Result<Response, Problem> {
    let wish = Wish {
        team: call.caller.team.clone(),
        key: call.caller.key.clone(),
        mailbox: call.caller.mailbox.clone(),
        interest: Interest::Team,
        filter: Filter::new(wanted.event_types.map(|types| types.0), wanted.mailbox_id.map(|mailbox| mailbox.0)),
        last_event_id: last_event_id(headers.get(LAST_EVENT_ID), wanted.last_event_id),
        ping: wanted.ping.map_or(PING, |ping| ping.duration()),
        close_after: wanted.close_after.map(|after| after.duration()),
    };
    Ok(answer(app.streams.hub.open(wish).await?, call.at))
}

/// `Date` is set here because nobody else looks at this answer before it leaves (RFC 9110 section 6.6.1).
fn answer(subscription: Subscription, now: i64) -> Response {
    let live = Live(Arc::clone(subscription.seat.member()));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
        (DATE, http_date(now)),
    ];
    let mut response = (headers, Body::from_stream(subscription.into_stream())).into_response();
    response.extensions_mut().insert(live);
    response
}

/// Returns a time, microseconds since the Unix epoch, in the form of RFC 9110 section 5.6.7.
fn http_date(at: i64) -> HeaderValue {
    let timestamp = jiff::Timestamp::from_microsecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let text = timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::try_from(text).expect("dates are ASCII")
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooMany { retry_after_seconds, .. } => {
                Self::new(Code::RateLimitExceeded, format!("Not opened: {refused}.")).retry_after(retry_after_seconds)
            }
            Refused::Full { retry_after_seconds } => Self::unavailable().retry_after(retry_after_seconds),
            Refused::Revoked => Self::unauthenticated(),
            Refused::MailboxInactive => Self::forbidden("The mailbox is not active."),
            Refused::Log(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_has_the_form_of_http() {
        assert_eq!(http_date(784_111_777_000_000), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
