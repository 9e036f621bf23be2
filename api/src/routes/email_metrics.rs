//! Counts of outgoing mail.

use axum::extract::State;
use domain::id::{DomainId, ProviderId};
use domain::published::rfc3339;
use projections::email_metrics::{self, Counts, Filter, Granularity, HOUR_MICROS, hour_of};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{Scoped, guards};
use crate::envelope::{Data, Reply};
use crate::openapi::Routes;
use crate::problem::Problem;
use crate::query::{Query, end_time, time};
use crate::{App, door};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(get_email_metrics))
}

/// The most steps of one series.
const STEPS_MAX: i64 = 2_400;
const HOURS_OF_DAY: i64 = 24;

/// How many mails there are in each state.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct EmailCounts {
    total: i64,
    sent: i64,
    failed: i64,
    rejected: i64,
    pending: i64,
}

impl From<&Counts> for EmailCounts {
    fn from(counts: &Counts) -> Self {
        Self {
            total: counts.total,
            sent: counts.sent,
            failed: counts.failed,
            rejected: counts.rejected,
            pending: counts.pending,
        }
    }
}

/// How many recipients there are of each outcome.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct RecipientCounts {
    recipients: i64,
    /// For whom somebody took the mail, whatever came after.
    accepted: i64,
    delivered: i64,
    hard_bounces: i64,
    soft_bounces: i64,
    complaints: i64,
    opens: i64,
    unsubscribes: i64,
}

impl From<&Counts> for RecipientCounts {
    fn from(counts: &Counts) -> Self {
        Self {
            recipients: counts.recipients,
            accepted: counts.taken,
            delivered: counts.delivered,
            hard_bounces: counts.hard_bounces,
            soft_bounces: counts.soft_bounces,
            complaints: counts.complaints,
            opens: counts.opens,
            unsubscribes: counts.unsubscribes,
        }
    }
}

/// By how much counts changed, percent with two decimals.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct ChangePct {
    total: f64,
    sent: f64,
    failed: f64,
    rejected: f64,
    pending: f64,
}

/// Returns by how much a count changed; from nothing to something is a hundred percent.
fn change(before: i64, now: i64) -> f64 {
    if before == 0 {
        return if now == 0 { 0.0 } else { 100.0 };
    }
    // In hundredths of a percent, so that only the last step leaves the whole numbers.
    let hundredths = (i128::from(now) - i128::from(before)) * 10_000 / i128::from(before);
    f64::from(i32::try_from(hundredths).unwrap_or(i32::MAX)) / 100.0
}

/// The period of the same length before.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct Comparison {
    #[serde(flatten)]
    counts: EmailCounts,
    change_pct: ChangePct,
}

/// One step of the series.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct MetricsStep {
    /// When it begins (UTC).
    timestamp: String,
    #[serde(flatten)]
    counts: EmailCounts,
}

/// Counts of outgoing mail, by when it was accepted.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct EmailMetrics {
    summary: EmailCounts,
    comparison: Comparison,
    timeseries: Vec<MetricsStep>,
    /// The same mail by its recipients.
    recipients: RecipientCounts,
    /// The first hour that is counted.
    from: String,
    /// The end of the last hour.
    to: String,
}

/// Periods up to now.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
enum WindowName {
    #[default]
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
}

impl WindowName {
    fn hours(self) -> i64 {
        match self {
            Self::Day => HOURS_OF_DAY,
            Self::Week => 7 * HOURS_OF_DAY,
            Self::Month => 30 * HOURS_OF_DAY,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum GranularityName {
    Hourly,
    #[default]
    Daily,
}

/// Parameters of the metrics.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct MetricsQuery {
    /// The period up to now; 24h by default.
    #[serde(default)]
    #[param(inline, value_type = Option<WindowName>, default = "24h")]
    window: WindowName,
    /// From this time or date (UTC) on, instead of `window`.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>)]
    from_date: Option<i64>,
    /// Up to this time, or to the end of this date (UTC); now by default.
    #[serde(default, deserialize_with = "end_time")]
    #[param(value_type = Option<String>)]
    to_date: Option<i64>,
    /// The steps of the series; daily by default.
    #[serde(default)]
    #[param(inline, value_type = Option<GranularityName>, default = "daily")]
    granularity: GranularityName,
    /// Only what was last given to this account.
    provider_id: Option<String>,
    /// Only mail from this domain of the team.
    domain_id: Option<String>,
}

impl MetricsQuery {
    /// Returns the first and the last hour, hours since the Unix epoch.
    fn hours(&self, now: i64) -> Result<(i64, i64), Problem> {
        let to = self.to_date.map_or(hour_of(now), |to| hour_of(to.saturating_sub(1)));
        let from = self.from_date.map_or(to - self.window.hours() + 1, hour_of);
        let steps = match self.granularity {
            GranularityName::Hourly => to - from + 1,
            GranularityName::Daily => (to - from) / HOURS_OF_DAY + 1,
        };
        if from > to {
            return Err(Problem::invalid("from_date", "invalid_period", "from_date must not be after to_date"));
        }
        if steps > STEPS_MAX {
            let message = format!("the period must have at most {STEPS_MAX} steps");
            return Err(Problem::invalid("from_date", "invalid_period", message));
        }
        Ok((from, to))
    }
}

/// Get metrics of outgoing mail
///
/// How many mails there are in each state, beside the period of the same length before, and as a series. Mail counts in
/// the hour in which it was accepted.
#[utoipa::path(
    get,
    path = "/emails/metrics",
    tag = "Delivery log",
    operation_id = "managementGetEmailMetrics",
    params(MetricsQuery),
    responses(
        (status = 200, description = "Counts", body = Data<EmailMetrics>),
        (status = 400, description = "Invalid period", body = crate::problem::Body),
    ),
)]
async fn get_email_metrics(
    call: Scoped<guards::AnalyticsRead>,
    State(app): State<App>,
    Query(query): Query<MetricsQuery>,
) -> Result<Reply<Data<EmailMetrics>>, Problem> {
    let (from, to) = query.hours(call.at)?;
    let unknown = |field: &str| Problem::invalid(field, "invalid_value", format!("{field} is not an id of its kind"));
    let provider = query.provider_id.as_deref().map(str::parse::<ProviderId>).transpose();
    let domain = query.domain_id.as_deref().map(str::parse::<DomainId>).transpose();
    let filter = Filter {
        provider: provider.map_err(|_| unknown("provider_id"))?,
        domain: domain.map_err(|_| unknown("domain_id"))?,
        ..Filter::hours(from, to)
    };
    let before = Filter { from_hour: from - (to - from + 1), to_hour: from - 1, ..filter.clone() };
    let (views, team) = (&app.views, &call.caller.team);
    let (granularity, step, first) = match query.granularity {
        GranularityName::Hourly => (Granularity::Hourly, 1, from),
        GranularityName::Daily => (Granularity::Daily, HOURS_OF_DAY, from - from.rem_euclid(HOURS_OF_DAY)),
    };
    let now = email_metrics::sums(views, team, &filter).await?;
    let then = email_metrics::sums(views, team, &before).await?;
    let series = email_metrics::series(views, team, &filter, granularity).await?;
    let at = |hour: i64| rfc3339(hour.saturating_mul(HOUR_MICROS));
    let mut timeseries = vec![];
    let mut hour = first;
    while hour <= to {
        let counts = EmailCounts::from(&series.get(&hour).copied().unwrap_or_default());
        timeseries.push(MetricsStep { timestamp: at(hour), counts });
        hour += step;
    }
    let change_pct = ChangePct {
        total: change(then.total, now.total),
        sent: change(then.sent, now.sent),
        failed: change(then.failed, now.failed),
        rejected: change(then.rejected, now.rejected),
        pending: change(then.pending, now.pending),
    };
    let data = EmailMetrics {
        summary: (&now).into(),
        comparison: Comparison { counts: (&then).into(), change_pct },
        timeseries,
        recipients: (&now).into(),
        from: at(from),
        to: at(to + 1),
    };
    Ok(Reply::ok(call.data(data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_in_percent_of_what_was() {
        assert!((change(200, 221) - 10.5).abs() < 1e-9);
        assert!((change(3, 2) + 33.33).abs() < 1e-9);
        assert!((change(0, 5) - 100.0).abs() < 1e-9);
        assert!(change(0, 0).abs() < 1e-9);
        assert!((change(5, 0) + 100.0).abs() < 1e-9);
    }
}
