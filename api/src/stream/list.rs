//! The event feed in pages: the team's published log from any place.

use axum::extract::State;
use domain::id::{EventId, Position, TeamId};
use eventlog::EventLog;
use serde::Serialize;
use utoipa::ToSchema;

use super::filter::Filter;
use super::parameters::{Page, Place};
use super::render::PublishedEvent;
use crate::App;
use crate::auth::{FromLog, guards};
use crate::envelope::{List, Reply};
use crate::problem::Problem;
use crate::query::Query;

/// How many records are read at once.
const PAGE_RECORDS: usize = 512;

/// What a page of the feed says about itself.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = EventListMeta)]
pub struct EventsMeta {
    /// The request's id, as in the header `X-Request-Id`.
    pub request_id: String,
    /// The place up to which this page has looked: `after` for the next look, now or when there is more.
    pub resume_after: String,
    /// Where the team's log ends.
    pub head_position: u64,
}

/// List what happened in the team
///
/// The published log, oldest first, from any place. One request looks at a bounded number of records: with a filter a
/// page may be short or empty and still have more behind it.
#[utoipa::path(
    get,
    path = "/events",
    tag = "Events",
    operation_id = "listEvents",
    params(
        ("after" = Option<String>, Query, description = "Events after this one: an event's id or a position. Default the beginning."),
        ("cursor" = Option<String>, Query, description = "The next_cursor of the page before. Another name for after."),
        ("since" = Option<String>, Query, description = "Another name for after."),
        ("event_types" = Option<String>, Query, description = "Comma-separated published types. Default all."),
        ("mailbox_id" = Option<String>, Query, description = "Only events about this mailbox."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "Events per page. Default 50."),
    ),
    responses(
        (status = 200, description = "A page of events", body = List<PublishedEvent, EventsMeta>),
        (status = 400, description = "A parameter is malformed or names no place of this log", body = crate::problem::Body),
    ),
)]
pub(crate) async fn list_events(
    call: FromLog<guards::EventRead>,
    State(app): State<App>,
    Query(page): Query<Page>,
) -> Result<Reply<List<PublishedEvent, EventsMeta>>, Problem> {
    let (log, team) = (&app.log, &call.caller.team);
    let head = log.head(team).await?;
    let given = [("after", page.after), ("cursor", page.cursor), ("since", page.since)];
    let mut given = given.into_iter().filter_map(|(name, place)| Some((name, place?)));
    let after = match (given.next(), given.next()) {
        (None, _) => 0,
        (Some((name, place)), None) => position_of(log, team, head.position, name, place).await?,
        (Some((first, _)), Some((second, _))) => {
            return Err(Problem::invalid(second, "conflict", format!("{second} is another name for {first}")));
        }
    };
    let filter = Filter::new(page.event_types.map(|types| types.0), page.mailbox_id.map(|mailbox| mailbox.0));
    let found = scan(log, team, &filter, after, page.limit.get(), app.streams.hub.config.scan_records_max).await?;
    let resume_after = match found.last {
        Some(id) => id.to_string(),
        None => EventId::new(team, epoch_at(log, team, after).await?, after).to_string(),
    };
    let more = found.last.is_some_and(|last| last.position < head.position);
    Ok(Reply::ok(List {
        ok: true,
        data: found.events,
        pagination: more.then(|| resume_after.clone()).into(),
        meta: EventsMeta {
            request_id: call.request.to_string(),
            resume_after,
            head_position: head.position.max(found.last.map_or(0, |last| last.position)),
        },
    }))
}

/// Returns the position of a place that a caller names; an id must be one of this log as it is now.
async fn position_of(
    log: &EventLog,
    team: &TeamId,
    head: Position,
    field: &'static str,
    place: Place,
) -> Result<Position, Problem> {
    let unknown = |message: &str| Problem::invalid(field, "unknown_place", message);
    let position = match place {
        Place::Position(position) => position,
        Place::Event(id) if !id.is_of(team) => return Err(unknown("no event of this team has this id")),
        Place::Event(id) => id.position,
    };
    if position > head {
        return Err(unknown("the place is beyond the end of the log"));
    }
    match place {
        Place::Event(id) if position > 0 && epoch_at(log, team, position).await? != id.epoch => {
            Err(unknown("the id is from before the log was restored; the event at its place is another one"))
        }
        Place::Event(_) | Place::Position(_) => Ok(position),
    }
}

/// Returns the epoch in which the event at a position was written; the current one before the first event.
async fn epoch_at(log: &EventLog, team: &TeamId, position: Position) -> Result<u16, Problem> {
    let Some(before) = position.checked_sub(1) else { return Ok(log.epoch()) };
    let records = log.read(team, before, 1).await?;
    Ok(records.first().map_or(log.epoch(), |record| record.epoch))
}

struct Found {
    events: Vec<PublishedEvent>,
    /// The last event looked at, whether it passed or not.
    last: Option<EventId>,
}

/// Looks at records until there are enough events, too many records, or no more.
async fn scan(
    log: &EventLog,
    team: &TeamId,
    filter: &Filter,
    after: Position,
    events_max: usize,
    records_max: usize,
) -> Result<Found, Problem> {
    let mut found = Found { events: vec![], last: None };
    let mut looked_at = 0;
    while looked_at < records_max {
        let from = found.last.map_or(after, |last| last.position);
        let wanted = PAGE_RECORDS.min(records_max - looked_at);
        let records = log.read(team, from, wanted).await?;
        for record in &records {
            if found.events.len() == events_max {
                return Ok(found);
            }
            looked_at += 1;
            found.last = Some(record.id());
            if let Some(event) = PublishedEvent::of(record) {
                let mailbox = event.mailbox_id.as_deref().and_then(|m| m.parse().ok());
                if filter.passes(&event.event_type, mailbox.as_ref()) {
                    found.events.push(event);
                }
            }
        }
        if records.len() < wanted {
            break;
        }
    }
    Ok(found)
}
