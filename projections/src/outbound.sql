CREATE TABLE outbound (
    team_id          TEXT    NOT NULL,
    outbound_id      TEXT    NOT NULL,
    epoch            BIGINT  NOT NULL,
    origin           TEXT    NOT NULL,
    mailbox_id       TEXT,
    key_id           TEXT,
    domain_id        TEXT,
    facts            TEXT    NOT NULL,
    letter           TEXT,
    copy_id          TEXT,
    thread_id        TEXT,
    search           TEXT    NOT NULL,
    accepted_at      BIGINT  NOT NULL,
    created_position BIGINT  NOT NULL,
    changed_position BIGINT  NOT NULL,
    version          BIGINT  NOT NULL,
    log_status       TEXT    NOT NULL,
    undo_status      TEXT    NOT NULL,
    provider_id      TEXT,
    send_at          BIGINT  NOT NULL,
    due_at           BIGINT,
    sent_at          BIGINT,
    progress         TEXT    NOT NULL,
    PRIMARY KEY (team_id, outbound_id)
);
CREATE INDEX outbound_accepted ON outbound (team_id, accepted_at, created_position);
CREATE INDEX outbound_position ON outbound (team_id, created_position);
CREATE INDEX outbound_changed ON outbound (team_id, changed_position);
CREATE INDEX outbound_mailbox ON outbound (team_id, mailbox_id, send_at, outbound_id) WHERE mailbox_id IS NOT NULL;

CREATE TABLE outbound_events (
    team_id     TEXT   NOT NULL,
    outbound_id TEXT   NOT NULL,
    position    BIGINT NOT NULL,
    epoch       BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    name        TEXT   NOT NULL,
    actor       TEXT   NOT NULL,
    said        TEXT   NOT NULL,
    PRIMARY KEY (team_id, outbound_id, position)
);

CREATE TABLE email_metrics (
    team_id      TEXT   NOT NULL,
    hour         BIGINT NOT NULL,
    provider_id  TEXT   NOT NULL,
    domain_id    TEXT   NOT NULL,
    total        BIGINT NOT NULL,
    pending      BIGINT NOT NULL,
    sent         BIGINT NOT NULL,
    failed       BIGINT NOT NULL,
    rejected     BIGINT NOT NULL,
    recipients   BIGINT NOT NULL,
    taken        BIGINT NOT NULL,
    delivered    BIGINT NOT NULL,
    hard_bounces BIGINT NOT NULL,
    soft_bounces BIGINT NOT NULL,
    complaints   BIGINT NOT NULL,
    opens        BIGINT NOT NULL,
    unsubscribes BIGINT NOT NULL,
    PRIMARY KEY (team_id, hour, provider_id, domain_id)
);
