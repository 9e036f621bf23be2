CREATE TABLE delivery_groups (
    team_id          TEXT    NOT NULL,
    group_id         TEXT    NOT NULL,
    name             TEXT,
    members          TEXT    NOT NULL,
    is_default       BOOLEAN NOT NULL,
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL,
    created_position BIGINT  NOT NULL,
    changed_position BIGINT  NOT NULL,
    version          BIGINT  NOT NULL,
    PRIMARY KEY (team_id, group_id)
);
CREATE INDEX delivery_groups_newest ON delivery_groups (team_id, created_position);
