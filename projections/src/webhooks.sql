CREATE TABLE webhooks (
    team_id            TEXT    NOT NULL,
    webhook_id         TEXT    NOT NULL,
    url                TEXT,
    name               TEXT,
    event_types        TEXT    NOT NULL,
    mailboxes          TEXT    NOT NULL,
    enabled            BOOLEAN NOT NULL,
    failing            BOOLEAN NOT NULL,
    disable_reason     TEXT,
    secret_id          TEXT    NOT NULL,
    deliver_after      BIGINT  NOT NULL,
    backlog_skipped_at BIGINT,
    created_at         BIGINT  NOT NULL,
    updated_at         BIGINT  NOT NULL,
    created_position   BIGINT  NOT NULL,
    changed_position   BIGINT  NOT NULL,
    version            BIGINT  NOT NULL,
    PRIMARY KEY (team_id, webhook_id)
);
CREATE INDEX webhooks_newest ON webhooks (team_id, created_position);
