//! Trees and checkpoints, beside the log.

use async_trait::async_trait;
use domain::id::{Position, TeamId};

use super::read::{self, unavailable};
use super::write::{FROZEN, column};
use super::{Guarded as _, PostgresBackend};
use crate::backend::StoreError;
use crate::merkle::Hash;
use crate::merkle::tiles::{TileId, Tiles};
use crate::rows::{all, hashes_of, limited, signed, unbroken};
use crate::tree::{CheckpointRow, Growth, Signed, Trees};

/// Sorted, so that two nodes that do the same work do not wait for each other. Of a team on its way to another database
/// nothing is written: it may be copied already. Returns how many such there are.
const GROW: &str = "WITH here AS (
    SELECT h.team_id FROM log.heads h WHERE h.team_id = ANY($5::text[]) AND h.frozen_at IS NULL
    ORDER BY h.team_id FOR SHARE
), tiles AS (
    INSERT INTO log.tree_tiles AS kept (team_id, level, tile, hashes)
    SELECT w.team_id, w.level, w.tile, w.hashes
    FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bytea[]) AS w(team_id, level, tile, hashes)
    JOIN here ON here.team_id = w.team_id
    ORDER BY w.team_id, w.level, w.tile
    ON CONFLICT (team_id, level, tile) DO UPDATE SET hashes = excluded.hashes
    WHERE length(excluded.hashes) > length(kept.hashes)
    RETURNING 1
), signed AS (
    INSERT INTO log.checkpoints (team_id, size, made_at, note, posted)
    SELECT w.team_id, w.size, w.made_at, w.note, w.posted
    FROM UNNEST($5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[])
         AS w(team_id, size, made_at, note, posted)
    JOIN here ON here.team_id = w.team_id
    WHERE (SELECT COUNT(*) FROM tiles) >= 0
    ORDER BY w.team_id, w.size
    ON CONFLICT (team_id, size) DO NOTHING
)
SELECT COUNT(DISTINCT w.team_id) FROM UNNEST($5::text[]) AS w(team_id)
WHERE NOT EXISTS (SELECT 1 FROM here WHERE here.team_id = w.team_id)";

#[async_trait]
impl Trees for PostgresBackend {
    async fn hashes(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<Hash>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, position, hash FROM log.events WHERE team_id = $1 AND position > $2
             ORDER BY position LIMIT $3",
        )
        .bind(team.as_str())
        .bind(signed(after))
        .bind(limited(limit))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(unbroken(after, all(&rows, read::placed_hash)?))
    }

    async fn tiles(&self, team: &TeamId, wanted: &[TileId]) -> Result<Tiles, StoreError> {
        let rows = sqlx::query(
            "SELECT t.team_id, t.level, t.tile, t.hashes
             FROM UNNEST($2::bigint[], $3::bigint[]) AS w(level, tile)
             JOIN log.tree_tiles t ON t.team_id = $1 AND t.level = w.level AND t.tile = w.tile",
        )
        .bind(team.as_str())
        .bind(column(wanted, |id| i64::from(id.level)))
        .bind(column(wanted, |id| signed(id.index)))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(all(&rows, read::tile)?.into_iter().collect())
    }

    async fn last_checkpoint(&self, team: &TeamId) -> Result<Option<CheckpointRow>, StoreError> {
        let row = sqlx::query(
            "SELECT size, made_at, note, posted FROM log.checkpoints WHERE team_id = $1 ORDER BY size DESC LIMIT 1",
        )
        .bind(team.as_str())
        .fetch_optional(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        row.map(|row| read::checkpoint(&row)).transpose().map_err(|e| unavailable(&e))
    }

    async fn checkpoints(
        &self,
        team: &TeamId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<CheckpointRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT size, made_at, note, posted FROM log.checkpoints WHERE team_id = $1 AND size > $2
             ORDER BY size LIMIT $3",
        )
        .bind(team.as_str())
        .bind(signed(after))
        .bind(limited(limit))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::checkpoint)
    }

    async fn signed(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<Signed>, StoreError> {
        let rows = sqlx::query(
            "SELECT h.team_id, h.position,
                    COALESCE((SELECT MAX(c.size) FROM log.checkpoints c WHERE c.team_id = h.team_id), 0)
             FROM log.heads h WHERE h.team_id > $1 AND h.position > 0 ORDER BY h.team_id LIMIT $2",
        )
        .bind(after.map_or("", TeamId::as_str))
        .bind(limited(limit))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, |row| {
            Ok(Signed { team: read::team(row)?, head: read::unsigned(row, 1)?, size: read::unsigned(row, 2)? })
        })
    }

    async fn grow(&self, growths: &[Growth]) -> Result<(), StoreError> {
        let tiles: Vec<_> = growths.iter().flat_map(|g| g.tiles.iter().map(move |(id, h)| (&g.team, id, h))).collect();
        let checkpoints: Vec<_> =
            growths.iter().flat_map(|g| g.checkpoints.iter().map(move |c| (&g.team, c))).collect();
        let on_their_way: i64 = sqlx::query_scalar(GROW)
            .bind(column(&tiles, |(team, ..)| team.as_str()))
            .bind(column(&tiles, |(_, id, _)| i64::from(id.level)))
            .bind(column(&tiles, |(_, id, _)| signed(id.index)))
            .bind(column(&tiles, |(.., hashes)| hashes_of(hashes)))
            .bind(column(&checkpoints, |(team, _)| team.as_str()))
            .bind(column(&checkpoints, |(_, c)| signed(c.size)))
            .bind(column(&checkpoints, |(_, c)| c.made_at))
            .bind(column(&checkpoints, |(_, c)| c.note.as_str()))
            .bind(column(&checkpoints, |(_, c)| i64::from(c.is_posted)))
            .fetch_one(&self.pool)
            .guarded(&self.answering)
            .await
            .map_err(|e| unavailable(&e))?;
        // The others' is written, and found to be when it is signed again.
        if on_their_way == 0 { Ok(()) } else { Err(StoreError::Unavailable(FROZEN.to_owned())) }
    }

    async fn unposted(&self, limit: usize) -> Result<Vec<(TeamId, CheckpointRow)>, StoreError> {
        let rows = sqlx::query(
            "SELECT size, made_at, note, posted, team_id FROM log.checkpoints WHERE posted = 0 ORDER BY made_at, size
             LIMIT $1",
        )
        .bind(limited(limit))
        .fetch_all(&self.pool)
        .guarded(&self.answering)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, |row| Ok((read::team_at(row, 4)?, read::checkpoint(row)?)))
    }

    async fn mark_posted(&self, posted: &[(TeamId, Position)]) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE log.checkpoints c SET posted = 1
             FROM UNNEST($1::text[], $2::bigint[]) AS w(team_id, size)
             WHERE c.team_id = w.team_id AND c.size = w.size",
        )
        .bind(column(posted, |(team, _)| team.as_str()))
        .bind(column(posted, |(_, size)| signed(*size)))
        .execute(&self.pool)
        .guarded(&self.answering)
        .await
        .map(|_| ())
        .map_err(|e| unavailable(&e))
    }
}
