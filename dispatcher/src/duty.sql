-- Work of the installation as a whole; no team's.
CREATE TABLE IF NOT EXISTS duties (
    name       TEXT   NOT NULL,
    owner      TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;
