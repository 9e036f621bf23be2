CREATE TABLE IF NOT EXISTS projection_versions (
    projection TEXT   NOT NULL PRIMARY KEY,
    version    BIGINT NOT NULL,
    tables     TEXT   NOT NULL
);

CREATE TABLE IF NOT EXISTS cursors (
    team_id    TEXT   NOT NULL,
    projection TEXT   NOT NULL,
    position   BIGINT NOT NULL,
    PRIMARY KEY (team_id, projection)
);

CREATE TABLE IF NOT EXISTS parked (
    team_id    TEXT   NOT NULL,
    projection TEXT   NOT NULL,
    position   BIGINT NOT NULL,
    tries      BIGINT NOT NULL,
    error      TEXT   NOT NULL,
    PRIMARY KEY (team_id, projection)
);

-- How often something had been erased of a team when its rows were last made without it.
CREATE TABLE IF NOT EXISTS erasures (
    team_id TEXT   NOT NULL PRIMARY KEY,
    seen    BIGINT NOT NULL
);
