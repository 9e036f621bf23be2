//! What must hold when a run has come to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::id::Position;
use domain::{Event, message};
use eventlog::{Backend as _, Recorded};

use crate::ground::Ground;
use crate::plan::disturbances;
use crate::reader::Scope;

/// By then a node has heard of what another has appended, and told its streams.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// How many attempts a delivery has.
const ATTEMPTS_MAX: u32 = 8;
/// By then what was delivered is written down, unless something is wrong.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

async fn records(ground: &Ground) -> Vec<Recorded> {
    let stored = ground.store.read(&ground.team, 0, usize::MAX).await.unwrap_or_default();
    stored.iter().filter_map(|record| Recorded::decode(record).ok()).collect()
}

/// Returns the mail an event tells of: whether it is for the first mailbox, and its idempotency key.
fn mail<'a>(ground: &Ground, record: &'a Recorded) -> Option<(bool, &'a str)> {
    let Event::Message(message::Event::Received(received)) = &record.event else { return None };
    let subject = received.personal.known()?.subject.as_deref()?;
    Some((received.facts.mailbox == ground.mailboxes[0], subject))
}

/// Returns the positions a stream must tell of.
pub async fn expected(ground: &Ground, scope: Scope) -> Vec<Position> {
    let records = records(ground).await;
    let concerns = |first: bool| first || scope == Scope::Team;
    let told = records.iter().filter(|record| mail(ground, record).is_some_and(|(first, _)| concerns(first)));
    told.map(|record| record.position).collect()
}

/// Returns everything that does not hold.
pub async fn problems(ground: &Ground) -> Vec<String> {
    let mut problems = std::mem::take(&mut ground.tally.sheet().breaches);
    let records = records(ground).await;
    let positions: Vec<Position> = records.iter().map(|record| record.position).collect();
    let gapless: Vec<Position> = (1..=positions.last().copied().unwrap_or(0)).collect();
    if positions != gapless {
        problems.push(format!("positions have holes: {positions:?}"));
    }
    let mut places: BTreeMap<&str, Vec<Position>> = BTreeMap::new();
    for record in &records {
        if let Some((_, key)) = mail(ground, record) {
            places.entry(key).or_default().push(record.position);
        }
    }
    for (key, places) in &places {
        if places.len() > 1 {
            problems.push(format!("{key} has more than one effect: {places:?}"));
        }
    }
    for (key, (position, _)) in &ground.tally.sheet().acknowledged {
        if places.get(key.as_str()).is_none_or(|places| !places.contains(position)) {
            problems.push(format!("{key} was acknowledged at {position} and is not there"));
        }
    }
    for scope in [Scope::Mailbox, Scope::Team] {
        let expected = expected(ground, scope).await;
        let sheet = ground.tally.sheet();
        let seen = sheet.readers.get(scope.name()).map_or(&[][..], |seen| &seen.positions);
        if seen != expected {
            problems.push(format!("the {} tells {seen:?} instead of {expected:?}", scope.name()));
        }
        drop(sheet);
        problems.extend(told_late(ground, scope, &expected));
    }
    problems.extend(problems_of_deliveries(ground, &records));
    problems
}

/// Returns the events that a stream kept to itself although nothing was wrong as long as it was open.
fn told_late(ground: &Ground, scope: Scope, expected: &[Position]) -> Vec<String> {
    let sheet = ground.tally.sheet();
    let acknowledged: BTreeMap<Position, Duration> = sheet.acknowledged.values().copied().collect();
    let disturbances = disturbances(ground.seed);
    let streams = sheet.readers.get(scope.name()).map_or(&[][..], |seen| &seen.streams);
    let is_calm = |from: Duration, to: Duration| {
        disturbances.iter().all(|(began, ended)| *began > to || *ended + TOLD_WITHIN < from)
    };
    let mut late = vec![];
    for stream in streams.iter().filter(|stream| is_calm(stream.from, stream.to)) {
        let untold = expected.iter().find(|position| {
            let at = acknowledged.get(position).copied().unwrap_or(stream.to);
            **position > stream.last && at.max(stream.from) + TOLD_WITHIN < stream.to
        });
        if let Some(position) = untold {
            late.push(format!("the {} did not tell of {position}, though it was open: {stream:?}", scope.name()));
        }
    }
    late
}

/// Returns whether everything was delivered that must be.
pub async fn is_delivered(ground: &Ground) -> bool {
    let expected = expected(ground, Scope::Team).await;
    let sheet = ground.tally.sheet();
    sheet.writers_left == 0 && expected.iter().all(|position| sheet.received.taken.contains_key(position))
}

fn problems_of_deliveries(ground: &Ground, records: &[Recorded]) -> Vec<String> {
    let mut problems = vec![];
    let sheet = ground.tally.sheet();
    let (requests, taken) = (&sheet.received.requests, &sheet.received.taken);
    let disturbances = disturbances(ground.seed);
    let mut before: BTreeMap<bool, Position> = BTreeMap::new();
    for (position, first) in records.iter().filter_map(|r| mail(ground, r).map(|(first, _)| (r.position, first))) {
        let of: Vec<_> = requests.iter().filter(|request| request.position == position).collect();
        let Some(taken_at) = taken.get(&position) else {
            problems.push(format!("{position} was never delivered, in {} attempts", of.len()));
            continue;
        };
        if of.iter().any(|request| request.attempt > ATTEMPTS_MAX || request.digest != of[0].digest) {
            problems.push(format!("{position} was not delivered as promised: {of:?}"));
        }
        // Of one mailbox, nothing is attempted before what comes before it is settled.
        let earlier = before.insert(first, position).and_then(|earlier| Some((earlier, taken.get(&earlier)?)));
        if let Some((earlier, settled_at)) = earlier.filter(|(_, settled_at)| of[0].at < **settled_at) {
            problems.push(format!("{position} was attempted at {:?}, {earlier} settled at {settled_at:?}", of[0].at));
        }
        let excused = disturbances
            .iter()
            .any(|(from, to)| *from <= *taken_at + WRITTEN_WITHIN && *to + WRITTEN_WITHIN >= *taken_at);
        if let Some(again) = of.iter().find(|request| request.at > *taken_at).filter(|_| !excused) {
            problems.push(format!("{position} was taken at {taken_at:?} and came again at {:?}", again.at));
        }
    }
    problems
}
