CREATE TABLE providers (
    team_id          TEXT   NOT NULL,
    provider_id      TEXT   NOT NULL,
    health           TEXT   NOT NULL,
    kind             TEXT   NOT NULL,
    state            TEXT   NOT NULL,
    last_test        TEXT,
    said             TEXT,
    last_used_at     BIGINT,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    created_position BIGINT NOT NULL,
    changed_position BIGINT NOT NULL,
    version          BIGINT NOT NULL,
    PRIMARY KEY (team_id, provider_id)
);
CREATE INDEX providers_newest ON providers (team_id, created_position);
