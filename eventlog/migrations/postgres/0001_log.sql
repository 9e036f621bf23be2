-- Every key begins with team_id, but for the directory (uniqueness is global) and the indexes of moved heads and old
-- answers. Texts sort by their bytes, as everywhere else, whatever the database's locale is.

CREATE TABLE log.installation (
    epoch BIGINT NOT NULL
);
INSERT INTO log.installation (epoch) VALUES (1);

CREATE TABLE log.heads (
    team_id  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    epoch    BIGINT NOT NULL,
    position BIGINT NOT NULL,
    hash     BYTEA  NOT NULL,
    moved_at BIGINT NOT NULL,
    erasures BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX heads_moved ON log.heads (moved_at);

CREATE TABLE log.events (
    team_id         TEXT COLLATE "C" NOT NULL,
    position        BIGINT NOT NULL,
    epoch           BIGINT NOT NULL,
    stream          TEXT COLLATE "C" NOT NULL,
    stream_version  BIGINT NOT NULL,
    name            TEXT COLLATE "C" NOT NULL,
    version         BIGINT NOT NULL,
    facts           TEXT COLLATE "C" NOT NULL,
    personal_digest BYTEA,
    actor           TEXT COLLATE "C" NOT NULL,
    causation       TEXT COLLATE "C",
    correlation     TEXT COLLATE "C" NOT NULL,
    at              BIGINT NOT NULL,
    hash            BYTEA  NOT NULL,
    PRIMARY KEY (team_id, position)
);
CREATE UNIQUE INDEX events_stream ON log.events (team_id, stream, stream_version);

CREATE TABLE log.event_links (
    team_id  TEXT COLLATE "C" NOT NULL,
    stream   TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (team_id, stream, position)
);

-- The erasable half. The facts and the chain stay when a row goes.
CREATE TABLE log.personal (
    team_id  TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    salt     BYTEA  NOT NULL,
    json     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (team_id, position)
);

CREATE TABLE log.directory (
    entry     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    team_id   TEXT COLLATE "C" NOT NULL,
    target_id TEXT COLLATE "C" NOT NULL,
    target    TEXT COLLATE "C" NOT NULL
);
CREATE INDEX directory_target ON log.directory (team_id, target_id);

CREATE TABLE log.answers (
    team_id     TEXT COLLATE "C" NOT NULL,
    scope       TEXT COLLATE "C" NOT NULL,
    request_key TEXT COLLATE "C" NOT NULL,
    fingerprint BYTEA  NOT NULL,
    status      BIGINT NOT NULL,
    sealed      BYTEA  NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (team_id, scope, request_key)
);
CREATE INDEX answers_created ON log.answers (created_at);

CREATE TABLE log.blobs (
    team_id    TEXT COLLATE "C" NOT NULL,
    blob_id    TEXT COLLATE "C" NOT NULL,
    size_bytes BIGINT NOT NULL,
    bytes      BYTEA,
    PRIMARY KEY (team_id, blob_id)
);
-- Mail is mostly compressed or encoded already; trying again costs more than the disk it saves.
ALTER TABLE log.blobs ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE log.secrets (
    team_id   TEXT COLLATE "C" NOT NULL,
    secret_id TEXT COLLATE "C" NOT NULL,
    sealed    BYTEA NOT NULL,
    PRIMARY KEY (team_id, secret_id)
);

CREATE TABLE log.snapshots (
    team_id        TEXT COLLATE "C" NOT NULL,
    stream         TEXT COLLATE "C" NOT NULL,
    shape          BIGINT NOT NULL,
    stream_version BIGINT NOT NULL,
    position       BIGINT NOT NULL,
    state          TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (team_id, stream)
);
