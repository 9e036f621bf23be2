CREATE TABLE sent_as (
    team_id     TEXT   NOT NULL,
    provider_id TEXT   NOT NULL,
    message_id  TEXT   NOT NULL,
    outbound_id TEXT   NOT NULL,
    sent_at     BIGINT NOT NULL,
    PRIMARY KEY (team_id, provider_id, message_id, outbound_id)
);

CREATE TABLE sent_to (
    team_id     TEXT   NOT NULL,
    email       TEXT   NOT NULL,
    outbound_id TEXT   NOT NULL,
    sent_at     BIGINT NOT NULL,
    PRIMARY KEY (team_id, email, outbound_id)
);
CREATE INDEX sent_to_recently ON sent_to (team_id, email, sent_at);
