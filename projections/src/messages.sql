CREATE TABLE messages (
    team_id            TEXT    NOT NULL,
    message_id         TEXT    NOT NULL,
    mailbox_id         TEXT    NOT NULL,
    thread_id          TEXT    NOT NULL,
    folder             TEXT    NOT NULL,
    keywords           TEXT    NOT NULL,
    is_unread          BOOLEAN NOT NULL,
    version            BIGINT  NOT NULL,
    created_position   BIGINT  NOT NULL,
    changed_position   BIGINT  NOT NULL,
    received_at        BIGINT  NOT NULL,
    sent_at            BIGINT,
    size_bytes         BIGINT  NOT NULL,
    attachments        BIGINT  NOT NULL,
    is_spam            BOOLEAN NOT NULL,
    blob_id            TEXT    NOT NULL,
    checks             TEXT    NOT NULL,
    correspondence     TEXT,
    subject            TEXT,
    preview            TEXT,
    rfc5322_message_id TEXT,
    subject_folded     TEXT    NOT NULL,
    from_folded        TEXT    NOT NULL,
    to_folded          TEXT    NOT NULL,
    cc_folded          TEXT    NOT NULL,
    preview_folded     TEXT    NOT NULL,
    PRIMARY KEY (team_id, message_id)
);
CREATE INDEX messages_received ON messages (team_id, mailbox_id, received_at, message_id);
CREATE INDEX messages_folder ON messages (team_id, mailbox_id, folder, received_at, message_id);
-- Unique, though its last column makes it so anyway: the fold itself needs it, and a copy that is being built has no others.
CREATE UNIQUE INDEX messages_thread ON messages (team_id, mailbox_id, thread_id, received_at, message_id);
CREATE INDEX messages_created ON messages (team_id, mailbox_id, created_position);
CREATE INDEX messages_changed ON messages (team_id, mailbox_id, changed_position)
    WHERE changed_position > created_position;

CREATE TABLE threads (
    team_id          TEXT    NOT NULL,
    mailbox_id       TEXT    NOT NULL,
    thread_id        TEXT    NOT NULL,
    subject          TEXT,
    subject_key      TEXT,
    messages         BIGINT  NOT NULL,
    unread           BIGINT  NOT NULL,
    with_attachments BIGINT  NOT NULL,
    folders          TEXT    NOT NULL,
    participants     TEXT    NOT NULL,
    last_message_id  TEXT    NOT NULL,
    last_received_at BIGINT  NOT NULL,
    created_position BIGINT  NOT NULL,
    changed_position BIGINT  NOT NULL,
    PRIMARY KEY (team_id, mailbox_id, thread_id)
);
CREATE INDEX threads_latest ON threads (team_id, mailbox_id, last_received_at, thread_id);
CREATE INDEX threads_subject ON threads (team_id, mailbox_id, subject_key, last_received_at) WHERE subject_key IS NOT NULL;
CREATE INDEX threads_created ON threads (team_id, mailbox_id, created_position);
CREATE INDEX threads_changed ON threads (team_id, mailbox_id, changed_position)
    WHERE changed_position > created_position;

CREATE TABLE folders (
    team_id          TEXT   NOT NULL,
    mailbox_id       TEXT   NOT NULL,
    folder           TEXT   NOT NULL,
    messages         BIGINT NOT NULL,
    unread           BIGINT NOT NULL,
    created_position BIGINT NOT NULL,
    changed_position BIGINT NOT NULL,
    PRIMARY KEY (team_id, mailbox_id, folder)
) WITHOUT ROWID;

-- What existed once, so that somebody who was away can be told that it is gone.
CREATE TABLE message_tombstones (
    team_id            TEXT   NOT NULL,
    mailbox_id         TEXT   NOT NULL,
    kind               TEXT   NOT NULL,
    id                 TEXT   NOT NULL,
    created_position   BIGINT NOT NULL,
    destroyed_position BIGINT NOT NULL,
    PRIMARY KEY (team_id, mailbox_id, kind, id)
) WITHOUT ROWID;
CREATE INDEX message_tombstones_destroyed ON message_tombstones (team_id, mailbox_id, kind, destroyed_position);

-- Threads that turned out to be one with another: whoever knows an old id is led to the one that stayed.
CREATE TABLE thread_aliases (
    team_id    TEXT NOT NULL,
    mailbox_id TEXT NOT NULL,
    alias      TEXT NOT NULL,
    thread_id  TEXT NOT NULL,
    PRIMARY KEY (team_id, mailbox_id, alias)
) WITHOUT ROWID;

-- Digests of the Message-IDs of a mailbox, its messages' own and those they refer to.
CREATE TABLE message_references (
    team_id   TEXT    NOT NULL,
    reference TEXT    NOT NULL,
    thread_id TEXT    NOT NULL,
    is_own    BOOLEAN NOT NULL,
    PRIMARY KEY (team_id, reference)
) WITHOUT ROWID;
