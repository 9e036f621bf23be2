CREATE TABLE IF NOT EXISTS dns_checks (
    team_id    TEXT   NOT NULL,
    due_at     BIGINT NOT NULL,
    owner      TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (team_id)
) WITHOUT ROWID;
-- Due work is found by time, whosever it is.
CREATE INDEX IF NOT EXISTS dns_checks_due ON dns_checks (due_at);
