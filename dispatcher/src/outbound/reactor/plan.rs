//! From the log to rows: which mails there are, and which of them something happened to.

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::id::{OutboundId, Position, TeamId};
use domain::outbound::Event as Outgoing;
use domain::{Event, provider, routing};
use eventlog::Recorded;

use super::{Context, Done, PAUSE, Reactor};
use crate::outbound::queue::Plan;

/// How far a team's log was read.
pub(super) struct Planned {
    cursor: Position,
    /// Whether the page was full, so that there may be more.
    more: bool,
    /// When the first of the new mails is due.
    due_at: i64,
    nudged: BTreeSet<OutboundId>,
    wakes: bool,
    /// Whether another node has the team now.
    lost: bool,
}

/// Adds what a record means for the rows.
fn note(plan: &mut Plan, record: &Recorded) {
    match &record.event {
        Event::Outbound(Outgoing::Accepted(e)) => {
            plan.accepted.push((e.mail.outbound.clone(), e.send_at.unwrap_or(e.accepted_at)));
        }
        Event::Outbound(
            event @ (Outgoing::Rescheduled(_)
            | Outgoing::Resumed(_)
            | Outgoing::Cancelled(_)
            | Outgoing::RetryRequested(_)),
        ) => {
            plan.nudged.insert(event.mail().outbound.clone());
        }
        // Somebody else may have written it, about a mail that is settled.
        Event::Outbound(Outgoing::NoticePlanned(e)) => {
            plan.accepted.push((e.mail.outbound.clone(), 0));
            plan.nudged.insert(e.mail.outbound.clone());
        }
        Event::Routing(routing::Event::Resumed(_)) | Event::DeliveryGroup(_) => plan.wakes = true,
        Event::Provider(event) => {
            use provider::Event as E;
            plan.wakes |= match event {
                E::Created(_)
                | E::Reconfigured(_)
                | E::CredentialsReplaced(_)
                | E::Mended(_)
                | E::Activated(_)
                | E::Deleted(_) => true,
                E::Tested(_) | E::Broken(_) | E::Deactivated(_) | E::TopicBound(_) | E::TopicReleased(_) => false,
            };
        }
        _ => {}
    }
}

async fn read_on(context: &Context, team: &TeamId, after: Position) -> Result<Planned, String> {
    let limit = context.config.page_events;
    let page = context.log.read(team, after, limit).await.map_err(|e| e.to_string())?;
    let mut plan = Plan::default();
    for record in &page {
        note(&mut plan, record);
    }
    let cursor = page.last().map_or(after, |record| record.position);
    let epoch = context.log.epoch();
    let held = cursor == after
        || context.queue.plan(team, &plan, cursor, epoch, &context.node).await.map_err(|e| e.to_string())?;
    let due_at = plan.accepted.iter().map(|(_, at)| *at).min().unwrap_or(i64::MAX);
    let more = page.len() >= limit;
    Ok(Planned { cursor, more, due_at, nudged: plan.nudged, wakes: plan.wakes, lost: !held })
}

impl Reactor {
    /// Reads on in the logs that have grown.
    pub(super) fn plan(&mut self) {
        if self.is_stopping {
            return;
        }
        for (id, team) in &mut self.teams {
            if team.is_planning || team.cursor >= team.head {
                continue;
            }
            (team.is_planning, team.planned_for) = (true, team.head);
            let (context, id, after) = (Arc::clone(&self.context), id.clone(), team.cursor);
            self.tasks.spawn(async move {
                let planned = read_on(&context, &id, after).await;
                if planned.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
                Done::Planned(id, planned)
            });
        }
    }

    pub(super) fn planned(&mut self, id: &TeamId, planned: Result<Planned, String>) {
        let Some(team) = self.teams.get_mut(id) else { return };
        team.is_planning = false;
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                tracing::warn!(team.id = %id, error, "a team's log could not be read for outgoing mail; trying again");
                return;
            }
        };
        if planned.lost {
            self.teams.remove(id);
            return;
        }
        team.cursor = planned.cursor;
        // What was said to exist before, and is not there, was of another epoch; what was said meanwhile is read next.
        team.head = match (planned.more, team.head > team.planned_for) {
            (true, _) => team.head.max(planned.cursor + 1),
            (false, true) => team.head,
            (false, false) => planned.cursor,
        };
        team.alarm(planned.due_at);
        if !planned.nudged.is_empty() || planned.wakes {
            team.alarm(0);
        }
        for (outbound, changed) in &mut team.active {
            *changed |= planned.wakes || planned.nudged.contains(outbound);
        }
    }
}
