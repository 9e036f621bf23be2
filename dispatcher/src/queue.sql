CREATE TABLE IF NOT EXISTS webhook_cursors (
    team_id    TEXT    NOT NULL,
    webhook_id TEXT    NOT NULL,
    cursor     BIGINT  NOT NULL,
    horizon    BIGINT  NOT NULL,
    pending    TEXT    NOT NULL,
    parked     BOOLEAN NOT NULL,
    log_epoch  BIGINT  NOT NULL,
    owner      TEXT    NOT NULL,
    epoch      BIGINT  NOT NULL,
    expires_at BIGINT  NOT NULL,
    PRIMARY KEY (team_id, webhook_id)
) WITHOUT ROWID;
-- Leases end by time, whosever they are.
CREATE INDEX IF NOT EXISTS webhook_cursors_leased ON webhook_cursors (expires_at) WHERE owner <> '';
CREATE TABLE IF NOT EXISTS webhook_exceptions (
    team_id      TEXT   NOT NULL,
    webhook_id   TEXT   NOT NULL,
    mailbox_id   TEXT   NOT NULL,
    position     BIGINT NOT NULL,
    phase        TEXT   NOT NULL,
    attempts     BIGINT NOT NULL,
    first_due_at BIGINT NOT NULL,
    next_due_at  BIGINT,
    last_error   TEXT   NOT NULL,
    PRIMARY KEY (team_id, webhook_id, mailbox_id)
) WITHOUT ROWID;
-- Due work is found by time, whosever it is.
CREATE INDEX IF NOT EXISTS webhook_exceptions_due ON webhook_exceptions (next_due_at) WHERE next_due_at IS NOT NULL;
