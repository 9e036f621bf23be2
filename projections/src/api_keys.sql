CREATE TABLE api_keys (
    team_id          TEXT    NOT NULL,
    key_id           TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    mailbox_id       TEXT,
    name             TEXT,
    prefix           TEXT    NOT NULL,
    suffix           TEXT    NOT NULL,
    permissions      TEXT    NOT NULL,
    replaces         TEXT,
    created_by       TEXT    NOT NULL,
    created_at       BIGINT  NOT NULL,
    created_position BIGINT  NOT NULL,
    revoked_at       BIGINT,
    revoke_reason    TEXT,
    version          BIGINT  NOT NULL,
    PRIMARY KEY (team_id, key_id)
);
CREATE INDEX api_keys_newest ON api_keys (team_id, created_position);
CREATE INDEX api_keys_mailbox ON api_keys (team_id, mailbox_id, created_position);
