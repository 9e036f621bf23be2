//! The statements that differ between the engines, each as (SQLite, PostgreSQL). Lists are one JSON parameter.

/// A text for SQLite and the same for PostgreSQL.
pub(super) type Pair = (&'static str, &'static str);

/// `$1`: rows of team, webhook, position, epoch of the log.
pub(super) const INSERT_CURSORS: Pair = (
    "INSERT INTO webhook_cursors (team_id, webhook_id, cursor, horizon, pending, parked, log_epoch, owner, epoch, expires_at)
     SELECT value->>0, value->>1, value->>2, value->>2, '[]', FALSE, value->>3, '', 0, 0
     FROM json_each($1) WHERE true
     ON CONFLICT DO NOTHING",
    "INSERT INTO webhook_cursors (team_id, webhook_id, cursor, horizon, pending, parked, log_epoch, owner, epoch, expires_at)
     SELECT value->>0, value->>1, (value->>2)::bigint, (value->>2)::bigint, '[]', FALSE, (value->>3)::bigint, '', 0, 0
     FROM json_array_elements($1::json)
     ON CONFLICT DO NOTHING",
);

/// `$1`: rows of team, webhook; `$2`: node; `$3`: end of the lease; `$4`: now.
pub(super) const ACQUIRE: Pair = (
    "UPDATE webhook_cursors SET owner = $2, epoch = epoch + 1, expires_at = $3
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_each($1))
       AND (owner = '' OR owner = $2 OR expires_at <= $4)
     RETURNING team_id, webhook_id, cursor, horizon, pending, parked, log_epoch, epoch",
    "UPDATE webhook_cursors SET owner = $2, epoch = epoch + 1, expires_at = $3
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_array_elements($1::json))
       AND (owner = '' OR owner = $2 OR expires_at <= $4)
     RETURNING team_id, webhook_id, cursor, horizon, pending, parked, log_epoch, epoch",
);

/// `$1`: rows of team, webhook.
pub(super) const EXCEPTIONS: Pair = (
    "SELECT team_id, webhook_id, mailbox_id, position, phase, attempts, first_due_at, next_due_at, last_error
     FROM webhook_exceptions
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
    "SELECT team_id, webhook_id, mailbox_id, position, phase, attempts, first_due_at, next_due_at, last_error
     FROM webhook_exceptions
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_array_elements($1::json))",
);

/// `$1`: rows of team, webhook, epoch, cursor, horizon, pending, parked, end of the lease, released; `$2`: node; `$3`: epoch of
/// the log.
pub(super) const WRITE_CURSORS: Pair = (
    "UPDATE webhook_cursors
     SET cursor = j.cursor, horizon = j.horizon, pending = j.pending, parked = j.parked, expires_at = j.expires_at,
         log_epoch = $3,
         owner = CASE WHEN j.released THEN '' ELSE webhook_cursors.owner END
     FROM (SELECT value->>0 AS team_id, value->>1 AS webhook_id, value->>2 AS epoch, value->>3 AS cursor,
                  value->>4 AS horizon, value->>5 AS pending, value->>6 AS parked, value->>7 AS expires_at,
                  value->>8 AS released
           FROM json_each($1)) AS j
     WHERE webhook_cursors.team_id = j.team_id AND webhook_cursors.webhook_id = j.webhook_id
       AND webhook_cursors.epoch = j.epoch AND webhook_cursors.owner = $2
     RETURNING team_id, webhook_id",
    "UPDATE webhook_cursors
     SET cursor = j.cursor, horizon = j.horizon, pending = j.pending, parked = j.parked, expires_at = j.expires_at,
         log_epoch = $3,
         owner = CASE WHEN j.released THEN '' ELSE webhook_cursors.owner END
     FROM (SELECT value->>0 AS team_id, value->>1 AS webhook_id, (value->>2)::bigint AS epoch,
                  (value->>3)::bigint AS cursor, (value->>4)::bigint AS horizon, value->>5 AS pending,
                  (value->>6)::boolean AS parked, (value->>7)::bigint AS expires_at, (value->>8)::boolean AS released
           FROM json_array_elements($1::json)) AS j
     WHERE webhook_cursors.team_id = j.team_id AND webhook_cursors.webhook_id = j.webhook_id
       AND webhook_cursors.epoch = j.epoch AND webhook_cursors.owner = $2
     RETURNING webhook_cursors.team_id, webhook_cursors.webhook_id",
);

/// `$1`: rows of team, webhook, epoch; `$2`: node; `$3`: end of the lease.
pub(super) const RENEW: Pair = (
    "UPDATE webhook_cursors SET expires_at = $3
     WHERE (team_id, webhook_id, epoch) IN (SELECT value->>0, value->>1, value->>2 FROM json_each($1)) AND owner = $2
     RETURNING team_id, webhook_id",
    "UPDATE webhook_cursors SET expires_at = $3
     WHERE (team_id, webhook_id, epoch) IN (
               SELECT value->>0, value->>1, (value->>2)::bigint FROM json_array_elements($1::json)) AND owner = $2
     RETURNING team_id, webhook_id",
);

/// `$1`: rows of team, webhook, mailbox.
pub(super) const DELETE_EXCEPTIONS: Pair = (
    "DELETE FROM webhook_exceptions
     WHERE (team_id, webhook_id, mailbox_id) IN (SELECT value->>0, value->>1, value->>2 FROM json_each($1))",
    "DELETE FROM webhook_exceptions
     WHERE (team_id, webhook_id, mailbox_id) IN (
               SELECT value->>0, value->>1, value->>2 FROM json_array_elements($1::json))",
);

/// `$1`: rows of team, webhook, mailbox, position, phase, attempts, first due, next due, error.
pub(super) const UPSERT_EXCEPTIONS: Pair = (
    "INSERT INTO webhook_exceptions
         (team_id, webhook_id, mailbox_id, position, phase, attempts, first_due_at, next_due_at, last_error)
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8
     FROM json_each($1) WHERE true
     ON CONFLICT (team_id, webhook_id, mailbox_id) DO UPDATE
     SET position = excluded.position, phase = excluded.phase, attempts = excluded.attempts,
         first_due_at = excluded.first_due_at, next_due_at = excluded.next_due_at, last_error = excluded.last_error",
    "INSERT INTO webhook_exceptions
         (team_id, webhook_id, mailbox_id, position, phase, attempts, first_due_at, next_due_at, last_error)
     SELECT value->>0, value->>1, value->>2, (value->>3)::bigint, value->>4, (value->>5)::bigint,
            (value->>6)::bigint, (value->>7)::bigint, value->>8
     FROM json_array_elements($1::json)
     ON CONFLICT (team_id, webhook_id, mailbox_id) DO UPDATE
     SET position = excluded.position, phase = excluded.phase, attempts = excluded.attempts,
         first_due_at = excluded.first_due_at, next_due_at = excluded.next_due_at, last_error = excluded.last_error",
);

/// Takes a parked webhook's rows out of the index of due work. `$1`: rows of team, webhook.
pub(super) const PARK_EXCEPTIONS: Pair = (
    "UPDATE webhook_exceptions SET next_due_at = NULL
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
    "UPDATE webhook_exceptions SET next_due_at = NULL
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_array_elements($1::json))",
);

/// `$1`: rows of team, webhook, epoch; `$2`: node.
pub(super) const DROP_CURSORS: Pair = (
    "DELETE FROM webhook_cursors
     WHERE (team_id, webhook_id, epoch) IN (SELECT value->>0, value->>1, value->>2 FROM json_each($1)) AND owner = $2
     RETURNING team_id, webhook_id",
    "DELETE FROM webhook_cursors
     WHERE (team_id, webhook_id, epoch) IN (
               SELECT value->>0, value->>1, (value->>2)::bigint FROM json_array_elements($1::json)) AND owner = $2
     RETURNING team_id, webhook_id",
);

/// `$1`: rows of team, webhook.
pub(super) const DROP_EXCEPTIONS: Pair = (
    "DELETE FROM webhook_exceptions
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_each($1))",
    "DELETE FROM webhook_exceptions
     WHERE (team_id, webhook_id) IN (SELECT value->>0, value->>1 FROM json_array_elements($1::json))",
);
