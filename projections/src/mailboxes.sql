CREATE TABLE mailboxes (
    team_id          TEXT    NOT NULL,
    mailbox_id       TEXT    NOT NULL,
    domain_id        TEXT    NOT NULL,
    email            TEXT,
    display_name     TEXT,
    status           TEXT    NOT NULL,
    quota_bytes      BIGINT  NOT NULL,
    send_scope       TEXT    NOT NULL,
    filter_mode      TEXT    NOT NULL,
    rules            TEXT    NOT NULL,
    bytes_used       BIGINT  NOT NULL,
    messages         BIGINT  NOT NULL,
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL,
    created_position BIGINT  NOT NULL,
    version          BIGINT  NOT NULL,
    identity_position BIGINT NOT NULL,
    limit_position   BIGINT  NOT NULL,
    usage_position   BIGINT  NOT NULL,
    PRIMARY KEY (team_id, mailbox_id)
);
CREATE INDEX mailboxes_newest ON mailboxes (team_id, created_position);
CREATE INDEX mailboxes_email ON mailboxes (team_id, email);
CREATE INDEX mailboxes_domain ON mailboxes (team_id, domain_id, status);
