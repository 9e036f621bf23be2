CREATE TABLE IF NOT EXISTS uploads (
    team_id      TEXT   NOT NULL,
    upload_id    TEXT   NOT NULL,
    file_id      TEXT   NOT NULL,
    mailbox_id   TEXT   NOT NULL,
    filename     TEXT   NOT NULL,
    content_type TEXT   NOT NULL,
    size_bytes   BIGINT NOT NULL,
    sha256       TEXT,
    blob_id      TEXT,
    expires_at   BIGINT NOT NULL,
    PRIMARY KEY (team_id, upload_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uploads_file ON uploads (team_id, file_id);
-- What is added for one team is added in turn.
CREATE TABLE IF NOT EXISTS upload_turns (
    team_id TEXT   NOT NULL PRIMARY KEY,
    turns   BIGINT NOT NULL
) WITHOUT ROWID;
-- Uploads expire by age, whosever they are.
CREATE INDEX IF NOT EXISTS uploads_age ON uploads (expires_at);
