-- Every key begins with team_id, but for the directory (uniqueness is global) and the index of moved heads.
-- Ordinary rowid tables: clustering by team costs a third of the append rate and gains little in reading.

CREATE TABLE installation (
    epoch BIGINT NOT NULL
);
INSERT INTO installation (epoch) VALUES (1);

CREATE TABLE heads (
    team_id  TEXT   NOT NULL PRIMARY KEY,
    epoch    BIGINT NOT NULL,
    position BIGINT NOT NULL,
    hash     BLOB   NOT NULL,
    moved_at BIGINT NOT NULL,
    erasures BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX heads_moved ON heads (moved_at);

CREATE TABLE events (
    team_id         TEXT   NOT NULL,
    position        BIGINT NOT NULL,
    epoch           BIGINT NOT NULL,
    stream          TEXT   NOT NULL,
    stream_version  BIGINT NOT NULL,
    name            TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    facts           TEXT   NOT NULL,
    personal_digest BLOB,
    actor           TEXT   NOT NULL,
    causation       TEXT,
    correlation     TEXT   NOT NULL,
    at              BIGINT NOT NULL,
    hash            BLOB   NOT NULL,
    UNIQUE (team_id, position)
);
CREATE UNIQUE INDEX events_stream ON events (team_id, stream, stream_version);

CREATE TABLE event_links (
    team_id  TEXT   NOT NULL,
    stream   TEXT   NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (team_id, stream, position)
);

-- The erasable half. The facts and the chain stay when a row goes.
CREATE TABLE personal (
    team_id  TEXT   NOT NULL,
    position BIGINT NOT NULL,
    salt     BLOB   NOT NULL,
    json     TEXT   NOT NULL,
    UNIQUE (team_id, position)
);

CREATE TABLE directory (
    entry     TEXT NOT NULL PRIMARY KEY,
    team_id   TEXT NOT NULL,
    target_id TEXT NOT NULL,
    target    TEXT NOT NULL
);
CREATE INDEX directory_target ON directory (team_id, target_id);

CREATE TABLE answers (
    team_id     TEXT   NOT NULL,
    scope       TEXT   NOT NULL,
    request_key TEXT   NOT NULL,
    fingerprint BLOB   NOT NULL,
    status      BIGINT NOT NULL,
    sealed      BLOB   NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (team_id, scope, request_key)
);
CREATE INDEX answers_created ON answers (created_at);

CREATE TABLE blobs (
    team_id    TEXT   NOT NULL,
    blob_id    TEXT   NOT NULL,
    size_bytes BIGINT NOT NULL,
    bytes      BLOB,
    UNIQUE (team_id, blob_id)
);

CREATE TABLE secrets (
    team_id   TEXT NOT NULL,
    secret_id TEXT NOT NULL,
    sealed    BLOB NOT NULL,
    PRIMARY KEY (team_id, secret_id)
);

CREATE TABLE snapshots (
    team_id        TEXT   NOT NULL,
    stream         TEXT   NOT NULL,
    shape          BIGINT NOT NULL,
    stream_version BIGINT NOT NULL,
    position       BIGINT NOT NULL,
    state          TEXT   NOT NULL,
    PRIMARY KEY (team_id, stream)
);
