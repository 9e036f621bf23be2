CREATE TABLE audit (
    team_id        TEXT   NOT NULL,
    at             BIGINT NOT NULL,
    position       BIGINT NOT NULL,
    epoch          BIGINT NOT NULL,
    name           TEXT   NOT NULL,
    stream         TEXT,
    stream_version BIGINT NOT NULL,
    actor          TEXT   NOT NULL,
    correlation    TEXT   NOT NULL,
    causation      TEXT,
    client_ip      TEXT,
    PRIMARY KEY (team_id, at, position)
) WITHOUT ROWID;
CREATE INDEX audit_actor ON audit (team_id, actor, at, position);
CREATE INDEX audit_name ON audit (team_id, name, at, position);
