//! The tables of a team's log, and how their rows travel. One that belongs to a team and is not here is left behind: a test
//! compares them with the definitions.

/// A table of a team's log: how its rows are read, written elsewhere, counted and dropped.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) read: &'static str,
    pub(super) write: &'static str,
    pub(super) count: &'static str,
    pub(super) drop: &'static str,
}

pub(super) const EVENTS: Table = Table {
    name: "events",
    read: "SELECT to_jsonb(t)::text FROM log.events t WHERE t.team_id = $1 AND t.position > $2 ORDER BY t.position",
    write: "INSERT INTO log.events (team_id, position, epoch, stream, stream_version, name, version, facts, personal_digest,
                                    actor, causation, correlation, at, hash)
            SELECT team_id, position, epoch, stream, stream_version, name, version, facts, personal_digest,
                   actor, causation, correlation, at, hash
            FROM jsonb_populate_recordset(NULL::log.events, $1::jsonb) ON CONFLICT (team_id, position) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.events WHERE team_id = $1",
    drop: "DELETE FROM log.events WHERE team_id = $1",
};
pub(super) const PERSONAL: Table = Table {
    name: "personal",
    read: "SELECT to_jsonb(t)::text FROM log.personal t WHERE t.team_id = $1 AND t.position > $2 ORDER BY t.position",
    write: "INSERT INTO log.personal (team_id, position, salt, json)
            SELECT team_id, position, salt, json FROM jsonb_populate_recordset(NULL::log.personal, $1::jsonb)
            ON CONFLICT (team_id, position) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.personal WHERE team_id = $1",
    drop: "DELETE FROM log.personal WHERE team_id = $1",
};
pub(super) const LINKS: Table = Table {
    name: "event_links",
    read: "SELECT to_jsonb(t)::text FROM log.event_links t WHERE t.team_id = $1 AND t.position > $2",
    write: "INSERT INTO log.event_links (team_id, stream, position)
            SELECT team_id, stream, position FROM jsonb_populate_recordset(NULL::log.event_links, $1::jsonb)
            ON CONFLICT (team_id, stream, position) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.event_links WHERE team_id = $1",
    drop: "DELETE FROM log.event_links WHERE team_id = $1",
};
pub(super) const BLOBS: Table = Table {
    name: "blobs",
    read: "SELECT to_jsonb(t)::text FROM log.blobs t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.blobs (team_id, blob_id, size_bytes, bytes)
            SELECT team_id, blob_id, size_bytes, bytes FROM jsonb_populate_recordset(NULL::log.blobs, $1::jsonb)
            ON CONFLICT (team_id, blob_id) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.blobs WHERE team_id = $1",
    drop: "DELETE FROM log.blobs WHERE team_id = $1",
};
pub(super) const SECRETS: Table = Table {
    name: "secrets",
    read: "SELECT to_jsonb(t)::text FROM log.secrets t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.secrets (team_id, secret_id, sealed)
            SELECT team_id, secret_id, sealed FROM jsonb_populate_recordset(NULL::log.secrets, $1::jsonb)
            ON CONFLICT (team_id, secret_id) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.secrets WHERE team_id = $1",
    drop: "DELETE FROM log.secrets WHERE team_id = $1",
};
pub(super) const ANSWERS: Table = Table {
    name: "answers",
    read: "SELECT to_jsonb(t)::text FROM log.answers t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.answers (team_id, scope, request_key, fingerprint, status, sealed, created_at)
            SELECT team_id, scope, request_key, fingerprint, status, sealed, created_at
            FROM jsonb_populate_recordset(NULL::log.answers, $1::jsonb)
            ON CONFLICT (team_id, scope, request_key) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.answers WHERE team_id = $1",
    drop: "DELETE FROM log.answers WHERE team_id = $1",
};
pub(super) const DIRECTORY: Table = Table {
    name: "directory",
    read: "SELECT to_jsonb(t)::text FROM log.directory t WHERE t.team_id = $1 AND $2::bigint >= 0",
    write: "INSERT INTO log.directory (entry, team_id, target_id, target, taken_at)
            SELECT entry, team_id, target_id, target, taken_at FROM jsonb_populate_recordset(NULL::log.directory, $1::jsonb)
            ON CONFLICT (entry) DO NOTHING",
    count: "SELECT COUNT(*) FROM log.directory WHERE team_id = $1",
    drop: "DELETE FROM log.directory WHERE team_id = $1",
};
/// By size, which is a position. What was posted meanwhile may be posted once more.
pub(super) const CHECKPOINTS: Table = Table {
    name: "checkpoints",
    read: "SELECT to_jsonb(t)::text FROM log.checkpoints t WHERE t.team_id = $1 AND t.size > $2 ORDER BY t.size",
    write: "INSERT INTO log.checkpoints AS kept (team_id, size, made_at, note, posted)
            SELECT team_id, size, made_at, note, posted FROM jsonb_populate_recordset(NULL::log.checkpoints, $1::jsonb)
            ON CONFLICT (team_id, size) DO UPDATE SET posted = GREATEST(kept.posted, excluded.posted)",
    count: "SELECT COUNT(*) FROM log.checkpoints WHERE team_id = $1",
    drop: "DELETE FROM log.checkpoints WHERE team_id = $1",
};
/// A tile grows until it is full, so what differs is copied anew.
pub(super) const TILES: Table = Table {
    name: "tree_tiles",
    read: "SELECT to_jsonb(t)::text FROM UNNEST($2::bigint[], $3::bigint[]) AS w(level, tile)
           JOIN log.tree_tiles t ON t.team_id = $1 AND t.level = w.level AND t.tile = w.tile",
    write: "INSERT INTO log.tree_tiles (team_id, level, tile, hashes)
            SELECT team_id, level, tile, hashes FROM jsonb_populate_recordset(NULL::log.tree_tiles, $1::jsonb)
            ON CONFLICT (team_id, level, tile) DO UPDATE SET hashes = excluded.hashes",
    count: "SELECT COUNT(*) FROM log.tree_tiles WHERE team_id = $1",
    drop: "DELETE FROM log.tree_tiles WHERE team_id = $1",
};
/// What each tile is, in short.
pub(super) const TILES_THERE: &str = "SELECT level, tile, md5(hashes) FROM log.tree_tiles WHERE team_id = $1";
pub(super) const LAST_CHECKPOINT: &str =
    "SELECT COALESCE(MAX(size), 0)::bigint FROM log.checkpoints WHERE team_id = $1";
/// Copied while the team goes on. What is in them never changes; it may be erased. So it is with bodies.
pub(super) const BY_POSITION: [&Table; 3] = [&EVENTS, &PERSONAL, &LINKS];
/// Copied while the team's head is frozen, anew each time.
pub(super) const PASSING: [&Table; 2] = [&SECRETS, &ANSWERS];
pub(super) const OTHERS: [&Table; 5] = [&BLOBS, &SECRETS, &ANSWERS, &CHECKPOINTS, &TILES];
pub(super) const BODIES: &str =
    "SELECT blob_id FROM log.blobs WHERE team_id = $1 AND blob_id > $2 ORDER BY blob_id LIMIT $3";
pub(super) const BODIES_THERE: &str = "SELECT blob_id FROM log.blobs WHERE team_id = $1 AND blob_id = ANY($2::text[])";
pub(super) const SOME_BODIES: &str =
    "SELECT to_jsonb(t)::text FROM log.blobs t WHERE t.team_id = $1 AND t.blob_id = ANY($2::text[])";
pub(super) const DROP_SNAPSHOTS: &str = "DELETE FROM log.snapshots WHERE team_id = $1";
