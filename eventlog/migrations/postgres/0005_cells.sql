-- A team whose head is frozen is on its way to another database, or lives there: nothing can be appended here, whoever
-- tries.
ALTER TABLE log.heads ADD COLUMN frozen_at BIGINT;
ALTER TABLE log.heads ADD CONSTRAINT heads_frozen CHECK (frozen_at IS NULL OR position <= frozen_at);

-- In the home cell: when a team of another cell took the entry. Whether it did is said by the directory of that cell.
ALTER TABLE log.directory ADD COLUMN taken_at BIGINT NOT NULL DEFAULT 0;

-- In the home cell: which cell a team lives in that does not live here.
CREATE TABLE log.residences (
    team_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    cell    TEXT COLLATE "C" NOT NULL
);

-- In the home cell: moves that have begun and not ended.
CREATE TABLE log.moves (
    team_id  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    source   TEXT COLLATE "C" NOT NULL,
    target   TEXT COLLATE "C" NOT NULL,
    began_at BIGINT NOT NULL
);

-- How often a team has changed its cell: who remembers where teams live compares it.
ALTER TABLE log.installation ADD COLUMN moves BIGINT NOT NULL DEFAULT 0;
