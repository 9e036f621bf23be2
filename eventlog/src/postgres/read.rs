//! Stored rows as values, and the texts that read them.

use sqlx::postgres::PgRow;

use crate::backend::StoreError;
use crate::rows::{is_undecodable, row_readers};

row_readers!(PgRow);

pub(super) const READ: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json
FROM log.events e LEFT JOIN log.personal p ON p.team_id = e.team_id AND p.position = e.position
WHERE e.team_id = $1 AND e.position > $2
ORDER BY e.position
LIMIT $3";

pub(super) const SNAPSHOTS: &str = "
SELECT w.i, h.team_id, h.erasures, s.stream, s.stream_version, s.position, s.state
FROM UNNEST($1::bigint[], $2::text[], $3::text[]) AS w(i, team_id, stream)
JOIN log.heads h ON h.team_id = w.team_id
LEFT JOIN log.snapshots s ON s.team_id = h.team_id AND s.stream = w.stream AND s.shape = $4";

/// Wanted streams come as (index, team, stream, position to read after). `LIMIT 1` keeps the planner, which cannot know
/// how few events lie behind a snapshot, from joining with the whole log.
pub(super) const HISTORIES: &str = "
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json, w.i
FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS w(i, team_id, stream, after)
JOIN log.events e ON e.team_id = w.team_id AND e.stream = w.stream AND e.position > w.after
LEFT JOIN LATERAL (
    SELECT salt, json FROM log.personal h WHERE h.team_id = e.team_id AND h.position = e.position LIMIT 1
) p ON true
UNION ALL
SELECT e.team_id, e.position, e.epoch, e.stream, e.stream_version, e.name, e.version, e.facts, e.personal_digest,
       e.actor, e.causation, e.correlation, e.at, e.hash, p.salt, p.json, w.i
FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS w(i, team_id, stream, after)
JOIN log.event_links l ON l.team_id = w.team_id AND l.stream = w.stream AND l.position > w.after
JOIN LATERAL (SELECT * FROM log.events f WHERE f.team_id = l.team_id AND f.position = l.position LIMIT 1) e ON true
LEFT JOIN LATERAL (
    SELECT salt, json FROM log.personal h WHERE h.team_id = l.team_id AND h.position = l.position LIMIT 1
) p ON true
ORDER BY 17, 2";

pub(super) fn unavailable(error: &sqlx::Error) -> StoreError {
    match error {
        e if is_undecodable(e) => StoreError::Corrupt(error.to_string()),
        // Class XX: data_corrupted, index_corrupted, internal_error.
        sqlx::Error::Database(e) if e.code().is_some_and(|code| code.starts_with("XX")) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use sqlx::{AssertSqlSafe, Executor as _};

    use super::*;
    use crate::postgres::{Config, PostgresBackend};
    use crate::testing::Cluster;

    /// A long log of one team: many entities with few events each, two with many, and one that most are linked to.
    const FILL: [&str; 3] = [
        "INSERT INTO log.events
         SELECT 'team_a', n, 1,
                CASE n % 4 WHEN 0 THEN 'team' WHEN 1 THEN 'mailbox:a' ELSE 'message:' || n / 4 END,
                n, 'x', 1, '{}', NULL, 'operator', NULL, 'r', n, '\\x00'
         FROM generate_series(1, 40000) AS n",
        "INSERT INTO log.personal SELECT 'team_a', n, '\\x00', '{}' FROM generate_series(1, 40000) AS n",
        "INSERT INTO log.event_links SELECT 'team_a', 'mailbox:a', n FROM generate_series(1, 40000) AS n WHERE n % 4 > 1",
    ];

    /// Whatever the planner knows of the tables, the log is never read as a whole to find a few events.
    #[tokio::test]
    async fn reading_goes_by_an_index_however_long_the_log_is() {
        let cluster = Cluster::shared();
        let config = Config::new(cluster.url(&cluster.create_database(None).await));
        let backend = PostgresBackend::open(&config).await.unwrap();
        let mut connection = backend.pool.acquire().await.unwrap();
        for prepare in [
            format!("PREPARE histories (bigint[], text[], text[], bigint[]) AS {HISTORIES}"),
            format!("PREPARE page (text, bigint, bigint) AS {READ}"),
        ] {
            connection.execute(AssertSqlSafe(prepare)).await.unwrap();
        }
        for fill in FILL {
            connection.execute(fill).await.unwrap();
        }
        let history = |stream: &str, after: u32| {
            format!("histories (ARRAY[0], ARRAY['team_a'], ARRAY['{stream}'], ARRAY[{after}])")
        };
        let page = |after: u32| format!("page ('team_a', {after}, 500)");
        let streams = [("message:77", 0), ("mailbox:a", 39_990), ("mailbox:a", 0), ("team", 39_000)];
        let asked: Vec<_> =
            streams.map(|(stream, after)| history(stream, after)).into_iter().chain([0, 39_000].map(page)).collect();
        for analyzed in [false, true] {
            if analyzed {
                connection.execute("ANALYZE log.events, log.event_links, log.personal").await.unwrap();
            }
            for mode in ["force_custom_plan", "force_generic_plan"] {
                connection.execute(AssertSqlSafe(format!("SET plan_cache_mode = {mode}"))).await.unwrap();
                for call in &asked {
                    let explain = AssertSqlSafe(format!("EXPLAIN EXECUTE {call}"));
                    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *connection).await.unwrap();
                    let plan = plan.join("\n");
                    let whole = ["Seq Scan on events", "Seq Scan on personal"];
                    assert!(!whole.iter().any(|w| plan.contains(w)), "{call}, {mode}, analyzed: {analyzed}\n{plan}");
                }
            }
        }
        drop(connection);
        crate::Backend::close(&backend).await;
    }
}
