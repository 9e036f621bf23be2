//! Log lines and metrics: every metric is declared here, with its unit and what it means.

use anyhow::Context as _;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Begins writing log lines to standard error.
///
/// # Errors
/// The level is not a filter.
pub fn start_logging(log: &Log) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&log.level).with_context(|| format!("log.level: {:?} is not a filter", log.level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Installs the metrics recorder and declares every metric.
///
/// # Errors
/// A recorder is installed already.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let seconds = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let counts = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &counts)?
        .install_recorder()
        .context("the metrics recorder cannot be installed")?;
    describe_histogram!("append_batch_size", Unit::Count, "Commands decided and written together");
    describe_counter!("append_conflicts_total", Unit::Count, "Batches decided anew because another writer was first");
    describe_histogram!("http_request_duration_seconds", Unit::Seconds, "From the request's head to the answer's head");
    describe_counter!("http_requests_total", Unit::Count, "Requests by route, method and status");
    describe_gauge!("follower_lag_events", Unit::Count, "Events a follower is behind, over the teams it just visited");
    describe_gauge!(
        "follower_parked",
        Unit::Count,
        "Teams for which a follower waits because an event cannot be processed"
    );
    describe_counter!("checkpoints_signed_total", Unit::Count, "Checkpoints signed");
    describe_counter!(
        "checkpoints_refused_total",
        Unit::Count,
        "Checkpoints not signed because the log or its tree is not what was signed before: somebody must look"
    );
    describe_counter!("checkpoint_posts_total", Unit::Count, "Checkpoints posted to where they are kept, by outcome");
    describe_counter!("delivery_attempts_total", Unit::Count, "Webhook attempts by outcome");
    describe_gauge!("queue_due", Unit::Count, "Deliveries whose next attempt is due");
    describe_gauge!("queue_oldest_seconds", Unit::Seconds, "How long the oldest due delivery waits");
    describe_gauge!("sse_clients", Unit::Count, "Open event streams");
    describe_counter!("sse_cut_total", Unit::Count, "Event streams ended by the server, by reason");
    describe_counter!("smtp_sessions_total", Unit::Count, "SMTP sessions by door and outcome");
    describe_counter!("submission_authentications_total", Unit::Count, "Keys shown to the submission door, by outcome");
    describe_counter!("submission_messages_total", Unit::Count, "Mails submitted by SMTP, by outcome");
    describe_counter!(
        "outbound_recipients_total",
        Unit::Count,
        "Recipients of outgoing mail, by what came of attempts"
    );
    describe_gauge!("outbound_inflight", Unit::Count, "Outgoing mails that are being looked at or handed over");
    describe_counter!("mail_reports_total", Unit::Count, "Reports about mail that was sent from here, by kind");
    Ok(handle)
}
