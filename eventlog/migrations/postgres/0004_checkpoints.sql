-- The Merkle tree over each log, as far as it was signed: derived from the log, and written with the checkpoint that it is
-- proven by. A tile is up to 256 hashes of 32 bytes.
CREATE TABLE log.tree_tiles (
    team_id TEXT COLLATE "C" NOT NULL,
    level   BIGINT NOT NULL,
    tile    BIGINT NOT NULL,
    hashes  BYTEA  NOT NULL,
    PRIMARY KEY (team_id, level, tile)
);
-- Hashes cannot be compressed.
ALTER TABLE log.tree_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- What was signed, for ever.
CREATE TABLE log.checkpoints (
    team_id TEXT COLLATE "C" NOT NULL,
    size    BIGINT NOT NULL,
    made_at BIGINT NOT NULL,
    note    TEXT COLLATE "C" NOT NULL,
    posted  BIGINT NOT NULL,
    PRIMARY KEY (team_id, size)
);
-- Due work is found whosever it is.
CREATE INDEX checkpoints_unposted ON log.checkpoints (made_at) WHERE posted = 0;
