CREATE TABLE domains (
    team_id          TEXT   NOT NULL,
    domain_id        TEXT   NOT NULL,
    name             TEXT   NOT NULL,
    status           TEXT   NOT NULL,
    state            TEXT   NOT NULL,
    verified_at      BIGINT,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    created_position BIGINT NOT NULL,
    changed_position BIGINT NOT NULL,
    rules_position   BIGINT NOT NULL,
    retired_at       BIGINT,
    version          BIGINT NOT NULL,
    PRIMARY KEY (team_id, domain_id)
);
CREATE INDEX domains_newest ON domains (team_id, created_position);
CREATE INDEX domains_name ON domains (team_id, name);
-- Who waits for records is found by state, whosever it is.
CREATE INDEX domains_waiting ON domains (status, created_at);
