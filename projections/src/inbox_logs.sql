CREATE TABLE inbox_logs (
    team_id            TEXT    NOT NULL,
    position           BIGINT  NOT NULL,
    at                 BIGINT  NOT NULL,
    epoch              BIGINT  NOT NULL,
    mailbox_id         TEXT    NOT NULL,
    mailbox_email      TEXT,
    message_id         TEXT    NOT NULL,
    is_spam            BOOLEAN NOT NULL,
    size_bytes         BIGINT  NOT NULL,
    from_email         TEXT,
    to_emails          TEXT    NOT NULL,
    subject            TEXT,
    rfc5322_message_id TEXT,
    search             TEXT    NOT NULL,
    PRIMARY KEY (team_id, position)
);
CREATE INDEX inbox_logs_newest ON inbox_logs (team_id, at, position);
CREATE INDEX inbox_logs_mailbox ON inbox_logs (team_id, mailbox_id, at, position);

CREATE TABLE inbox_log_addresses (
    team_id    TEXT NOT NULL,
    mailbox_id TEXT NOT NULL,
    email      TEXT,
    PRIMARY KEY (team_id, mailbox_id)
);
