CREATE TABLE IF NOT EXISTS webhook_attempts (
    team_id          TEXT   NOT NULL,
    webhook_id       TEXT   NOT NULL,
    attempt_id       TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    event_id         TEXT   NOT NULL,
    event_type       TEXT   NOT NULL,
    delivery_attempt BIGINT NOT NULL,
    max_attempts     BIGINT NOT NULL,
    result           TEXT   NOT NULL,
    response_status  BIGINT,
    response_ms      BIGINT NOT NULL,
    response_body    TEXT,
    error_message    TEXT,
    next_retry_at    BIGINT,
    payload_bytes    BIGINT NOT NULL,
    payload_sha256   TEXT   NOT NULL,
    PRIMARY KEY (team_id, webhook_id, attempt_id)
) WITHOUT ROWID;
-- Attempts expire by age, whosever they are.
CREATE INDEX IF NOT EXISTS webhook_attempts_age ON webhook_attempts (created_at);
