CREATE TABLE suppressions (
    team_id          TEXT   NOT NULL,
    address_id       TEXT   NOT NULL,
    email            TEXT,
    email_folded     TEXT   NOT NULL,
    causes           TEXT   NOT NULL,
    reasons          TEXT   NOT NULL,
    expires_at       BIGINT,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    created_position BIGINT NOT NULL,
    changed_position BIGINT NOT NULL,
    version          BIGINT NOT NULL,
    PRIMARY KEY (team_id, address_id)
);
CREATE INDEX suppressions_newest ON suppressions (team_id, created_position);
