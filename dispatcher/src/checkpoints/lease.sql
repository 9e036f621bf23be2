CREATE TABLE IF NOT EXISTS checkpoint_leases (
    name       TEXT   NOT NULL,
    owner      TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;
