CREATE TABLE usage (
    team_id        TEXT   NOT NULL,
    day            BIGINT NOT NULL,
    meter          TEXT   NOT NULL,
    mailbox_id     TEXT   NOT NULL,
    actor          TEXT   NOT NULL,
    units          BIGINT NOT NULL,
    events         BIGINT NOT NULL,
    first_position BIGINT NOT NULL,
    last_position  BIGINT NOT NULL,
    PRIMARY KEY (team_id, day, meter, mailbox_id, actor)
);
