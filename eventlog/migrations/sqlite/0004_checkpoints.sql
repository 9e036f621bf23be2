-- The Merkle tree over each log, as far as it was signed: derived from the log, and written with the checkpoint that it is
-- proven by. A tile is up to 256 hashes of 32 bytes.
CREATE TABLE tree_tiles (
    team_id TEXT   NOT NULL,
    level   BIGINT NOT NULL,
    tile    BIGINT NOT NULL,
    hashes  BLOB   NOT NULL,
    PRIMARY KEY (team_id, level, tile)
);

-- What was signed, for ever.
CREATE TABLE checkpoints (
    team_id TEXT   NOT NULL,
    size    BIGINT NOT NULL,
    made_at BIGINT NOT NULL,
    note    TEXT   NOT NULL,
    posted  BIGINT NOT NULL,
    PRIMARY KEY (team_id, size)
);
-- Due work is found whosever it is.
CREATE INDEX checkpoints_unposted ON checkpoints (made_at) WHERE posted = 0;
