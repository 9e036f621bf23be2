CREATE TABLE IF NOT EXISTS outbound_teams (
    team_id     TEXT   NOT NULL,
    cursor      BIGINT NOT NULL,
    log_epoch   BIGINT NOT NULL,
    owner       TEXT   NOT NULL,
    expires_at  BIGINT NOT NULL,
    next_due_at BIGINT NOT NULL,
    PRIMARY KEY (team_id)
) WITHOUT ROWID;
-- Work that nobody does is found by time, whosever it is.
CREATE INDEX IF NOT EXISTS outbound_teams_due ON outbound_teams (next_due_at);
CREATE TABLE IF NOT EXISTS outbound_due (
    team_id     TEXT   NOT NULL,
    outbound_id TEXT   NOT NULL,
    due_at      BIGINT NOT NULL,
    waits       BIGINT NOT NULL,
    PRIMARY KEY (team_id, outbound_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outbound_due_at ON outbound_due (team_id, due_at);
CREATE TABLE IF NOT EXISTS outbound_usage (
    team_id     TEXT   NOT NULL,
    provider_id TEXT   NOT NULL,
    used        TEXT   NOT NULL,
    PRIMARY KEY (team_id, provider_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbound_transcripts (
    team_id     TEXT   NOT NULL,
    outbound_id TEXT   NOT NULL,
    attempt     BIGINT NOT NULL,
    provider_id TEXT   NOT NULL,
    said        TEXT   NOT NULL,
    at          BIGINT NOT NULL,
    PRIMARY KEY (team_id, outbound_id, attempt)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outbound_transcripts_at ON outbound_transcripts (at);
