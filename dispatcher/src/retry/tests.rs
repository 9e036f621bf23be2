use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const FIRST_DUE: i64 = 1_900_000_000 * SECOND;

fn schedule(offsets: &[u64], jitter_percent: u8) -> Result<Schedule, InvalidSchedule> {
    Schedule::try_from(Settings { attempt_offsets_seconds: offsets.to_vec(), jitter_percent, ..Settings::default() })
}

#[test]
fn eight_attempts_are_due_at_the_published_offsets() {
    let schedule = Schedule::default();
    let mut now = FIRST_DUE;
    let mut offsets = Vec::new();
    for made in 0..8 {
        let due = schedule.next_attempt(FIRST_DUE, made, now, 0.0, None).expect("an attempt is left");
        offsets.push((due - FIRST_DUE) / SECOND);
        now = due + 10 * SECOND;
    }
    assert_eq!(offsets, [0, 30, 120, 600, 3600, 14_400, 43_200, 86_400]);
    assert_eq!(schedule.next_attempt(FIRST_DUE, 8, now, 0.0, None), None);
    assert_eq!(schedule.next_attempt(FIRST_DUE, u32::MAX, now, 0.0, None), None);
    assert_eq!(schedule.attempts_max(), 8);
    assert_eq!(schedule.window(), Duration::from_secs(86_400));
}

#[test]
fn the_last_attempt_is_never_after_the_window() {
    let schedule = Schedule::default();
    let before = FIRST_DUE + 13 * HOUR;
    let due = |jitter, wait| schedule.next_attempt(FIRST_DUE, 7, before, jitter, wait);
    assert_eq!(due(1.0, None), Some(FIRST_DUE + 24 * HOUR));
    assert_eq!(due(-1.0, None), Some(FIRST_DUE + 24 * HOUR * 9 / 10));
    let late = FIRST_DUE + 24 * HOUR - SECOND;
    let asked = schedule.next_attempt(FIRST_DUE, 7, late, 1.0, Some(Duration::from_secs(3600)));
    assert_eq!(asked, Some(FIRST_DUE + 24 * HOUR));
}

#[test]
fn retry_after_postpones_but_never_brings_forward() {
    let schedule = Schedule::default();
    let after = |made, at: i64, wait| {
        let due = schedule.next_attempt(FIRST_DUE, made, FIRST_DUE + at * SECOND, 0.0, Some(Duration::from_secs(wait)));
        (due.expect("an attempt is left") - FIRST_DUE) / SECOND
    };
    assert_eq!(after(1, 1, 5), 30, "a short wish does not hurry us");
    assert_eq!(after(1, 1, 60), 61, "a longer one is obeyed");
    assert_eq!(after(1, 1, 3600), 108, "but not into the third attempt's slot, 2 min less 10 %");
    assert_eq!(after(5, 4 * 3600 - 600, 86_400), 4 * 3600 + 3000, "and for an hour at most");
    assert_eq!(after(1, 1, u64::MAX), 108);
}

#[test]
fn after_an_outage_of_ours_no_attempt_is_dropped_and_none_follow_at_once() {
    let schedule = Schedule::default();
    let mut now = FIRST_DUE + 23 * HOUR;
    for made in 2..7 {
        let due = schedule.next_attempt(FIRST_DUE, made, now, 1.0, None).expect("an attempt is left");
        assert_eq!(due, now + 10 * SECOND, "attempt {made}");
        now = due;
    }
    let mut now = FIRST_DUE + 100 * HOUR;
    for made in 1..8 {
        let due = schedule.next_attempt(FIRST_DUE, made, now, -1.0, None).expect("an attempt is left");
        assert_eq!(due, now + 10 * SECOND, "attempt {made}");
        now = due;
    }
}

#[test]
fn a_schedule_that_could_overlap_or_never_end_is_refused() {
    assert_eq!(schedule(&[], 10), Err(InvalidSchedule::Attempts));
    assert_eq!(schedule(&[1; 33], 0), Err(InvalidSchedule::Attempts));
    assert_eq!(schedule(&[0, 0], 10), Err(InvalidSchedule::NotGrowing { index: 1 }));
    assert_eq!(schedule(&[0, 60, 30], 0), Err(InvalidSchedule::NotGrowing { index: 2 }));
    assert_eq!(schedule(&[0, 100, 110, 500], 10), Err(InvalidSchedule::NotGrowing { index: 2 }));
    assert_eq!(schedule(&[0, 7 * 86_400 + 1], 0), Err(InvalidSchedule::TooLong));
    assert_eq!(schedule(&[0, u64::MAX], 0), Err(InvalidSchedule::TooLong));
    assert_eq!(schedule(&[0, 10], 51), Err(InvalidSchedule::Jitter));
    let long_wish = Settings { retry_after_max_seconds: u64::MAX, ..Settings::default() };
    assert_eq!(Schedule::try_from(long_wish), Err(InvalidSchedule::RetryAfter));
    let long_gap = Settings { overdue_gap_seconds: 3601, ..Settings::default() };
    assert_eq!(Schedule::try_from(long_gap), Err(InvalidSchedule::OverdueGap));
    assert!(schedule(&[5], 50).is_ok(), "one attempt is a schedule");
}

#[test]
fn the_configuration_is_read_validated_and_written_back() {
    let read = |text| serde_json::from_str::<Schedule>(text);
    assert_eq!(read("{}").expect("defaults"), Schedule::default());
    let written = serde_json::to_string(&Schedule::default()).expect("plain data");
    assert_eq!(read(&written).expect("what was written"), Schedule::default());
    let error = read(r#"{"attempt_offsets_seconds":[0,9,9]}"#).expect_err("does not grow");
    assert!(error.to_string().contains("attempt_offsets_seconds"), "{error}");
    assert!(read(r#"{"attempts":3}"#).is_err(), "unknown settings are errors");
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let settings = (0u64..100, prop::collection::vec((1u64..20, 130u64..400), 0..10), 0u8..=10, 0u64..7200, 0u64..30);
    settings.prop_filter_map("must be valid", |(first, steps, jitter_percent, retry_after, gap)| {
        let mut offsets = vec![first];
        for (plus, percent) in steps {
            offsets.push(offsets.last().expect("not empty") * percent / 100 + plus);
        }
        let settings = Settings {
            attempt_offsets_seconds: offsets,
            jitter_percent,
            retry_after_max_seconds: retry_after,
            overdue_gap_seconds: gap,
        };
        Schedule::try_from(settings).ok()
    })
}

/// One failed attempt: jitter, how long it took or we were away, what the receiver asked for.
fn failures() -> impl Strategy<Value = Vec<(f64, i64, Option<u64>)>> {
    let away = prop_oneof![8 => 0..10 * SECOND, 1 => 0..2 * HOUR, 1 => 0..100 * HOUR];
    prop::collection::vec((-1.0..=1.0f64, away, prop::option::of(0u64..100_000)), 32)
}

proptest! {
    #[test]
    fn every_delivery_gets_all_its_attempts_in_growing_order_and_none_early(
        schedule in schedules(), failures in failures(),
    ) {
        let lower = |made: u32| FIRST_DUE + schedule.slot(made as usize, -1.0);
        let window_end = FIRST_DUE + micros(schedule.window());
        let (mut made, mut now, mut asked) = (0, FIRST_DUE, None);
        let mut last = i64::MIN;
        for (jitter, took, wish) in failures {
            let Some(due) = schedule.next_attempt(FIRST_DUE, made, now, jitter, asked) else { break };
            prop_assert!(due >= lower(made), "never early");
            prop_assert!(due >= last, "attempts follow one another");
            if now <= window_end {
                prop_assert!(due <= window_end, "as long as the window is open, within it");
            }
            prop_assert!(due <= window_end.max(now + micros(schedule.overdue_gap)), "bounded");
            let on_time = now + micros(schedule.overdue_gap) <= lower(made);
            if made > 0 && on_time && asked.is_none() {
                let upper = FIRST_DUE + schedule.slot(made as usize, 1.0);
                prop_assert!(due <= upper, "never late by our own doing");
            }
            last = due;
            now = due.max(now) + took;
            made += 1;
            asked = wish.map(Duration::from_secs);
        }
        prop_assert_eq!(made, schedule.attempts_max(), "attempts in all are constant");
    }

    #[test]
    fn when_an_attempt_is_due_on_time_depends_on_stored_numbers_only(
        schedule in schedules(), made in 0u32..10, jitter in -1.0..=1.0f64, earlier in 0..HOUR, later in 0..HOUR,
    ) {
        prop_assume!(made < schedule.attempts_max());
        let slot = FIRST_DUE + schedule.slot(made as usize, jitter);
        let gap = micros(schedule.overdue_gap);
        let at = |before: i64| schedule.next_attempt(FIRST_DUE, made, slot - gap - before, jitter, None);
        prop_assert_eq!(at(earlier), Some(slot));
        prop_assert_eq!(at(earlier), at(later), "a restart in between neither hurries nor delays");
    }

    #[test]
    fn no_input_makes_it_panic(
        schedule in schedules(), first in any::<i64>(), made in any::<u32>(), now in any::<i64>(),
        jitter in any::<f64>(), wish in prop::option::of(any::<u64>()),
    ) {
        let due = schedule.next_attempt(first, made, now, jitter, wish.map(Duration::from_secs));
        prop_assert_eq!(due.is_some(), made < schedule.attempts_max());
    }
}
