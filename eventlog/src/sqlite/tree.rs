//! Trees and checkpoints, beside the log.

use async_trait::async_trait;
use domain::id::{Position, TeamId};
use serde_json::json;

use super::SqliteBackend;
use super::read::{self, unavailable};
use super::write::{Bytes, Rows};
use crate::backend::StoreError;
use crate::merkle::Hash;
use crate::merkle::tiles::{TileId, Tiles};
use crate::rows::{all, hashes_of, limited, signed, unbroken};
use crate::tree::{CheckpointRow, Growth, Signed, Trees};

/// As an append does it: one text, because the round trip is the unit of cost. Whatever is binary lies in `$1`.
const GROW: &str = "BEGIN IMMEDIATE;
INSERT INTO tree_tiles (team_id, level, tile, hashes)
SELECT value->>0, value->>1, value->>2, substr($1, value->>3, value->>4) FROM json_each($2) WHERE true
ON CONFLICT (team_id, level, tile) DO UPDATE SET hashes = excluded.hashes
WHERE length(excluded.hashes) > length(tree_tiles.hashes);
INSERT INTO checkpoints (team_id, size, made_at, note, posted)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each($3) WHERE true
ON CONFLICT (team_id, size) DO NOTHING;
COMMIT;
";

#[async_trait]
impl Trees for SqliteBackend {
    async fn hashes(&self, team: &TeamId, after: Position, limit: usize) -> Result<Vec<Hash>, StoreError> {
        let rows = sqlx::query(
            "SELECT team_id, position, hash FROM events WHERE team_id = $1 AND position > $2 ORDER BY position LIMIT $3",
        )
        .bind(team.as_str())
        .bind(signed(after))
        .bind(limited(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(unbroken(after, all(&rows, read::placed_hash)?))
    }

    async fn tiles(&self, team: &TeamId, wanted: &[TileId]) -> Result<Tiles, StoreError> {
        let wanted: Vec<_> = wanted.iter().map(|id| json!([id.level, id.index])).collect();
        let rows = sqlx::query(
            "SELECT team_id, level, tile, hashes FROM tree_tiles
             WHERE team_id = $1 AND (level, tile) IN (SELECT value->>0, value->>1 FROM json_each($2))",
        )
        .bind(team.as_str())
        .bind(serde_json::Value::Array(wanted).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(all(&rows, read::tile)?.into_iter().collect())
    }

    async fn last_checkpoint(&self, team: &TeamId) -> Result<Option<CheckpointRow>, StoreError> {
        let row = sqlx::query(
            "SELECT size, made_at, note, posted FROM checkpoints WHERE team_id = $1 ORDER BY size DESC LIMIT 1",
        )
        .bind(team.as_str())
        .fetch_optional(&self.readers)
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
            "SELECT size, made_at, note, posted FROM checkpoints WHERE team_id = $1 AND size > $2
             ORDER BY size LIMIT $3",
        )
        .bind(team.as_str())
        .bind(signed(after))
        .bind(limited(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, read::checkpoint)
    }

    async fn signed(&self, after: Option<&TeamId>, limit: usize) -> Result<Vec<Signed>, StoreError> {
        let rows = sqlx::query(
            "SELECT h.team_id, h.position,
                    COALESCE((SELECT MAX(c.size) FROM checkpoints c WHERE c.team_id = h.team_id), 0)
             FROM heads h WHERE h.team_id > $1 ORDER BY h.team_id LIMIT $2",
        )
        .bind(after.map_or("", TeamId::as_str))
        .bind(limited(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, |row| {
            Ok(Signed { team: read::team(row)?, head: read::unsigned(row, 1)?, size: read::unsigned(row, 2)? })
        })
    }

    async fn grow(&self, growths: &[Growth]) -> Result<(), StoreError> {
        let (mut bytes, mut tiles, mut checkpoints) = (Bytes::default(), Rows::new(8, 96), Rows::new(8, 512));
        for growth in growths {
            for (id, hashes) in &growth.tiles {
                let hashes = hashes_of(hashes);
                let row = tiles.row().text(growth.team.as_str()).int(i64::from(id.level)).int(signed(id.index));
                row.int(bytes.put(&hashes)).int(limited(hashes.len())).end();
            }
            for c in &growth.checkpoints {
                let row = checkpoints.row().text(growth.team.as_str()).int(signed(c.size)).int(c.made_at);
                row.text(&c.note).int(i64::from(c.is_posted)).end();
            }
        }
        let mut writer = self.writer.lock().await;
        let written = sqlx::query(GROW)
            .bind(bytes.0)
            .bind(tiles.finish())
            .bind(checkpoints.finish())
            .execute(&mut *writer)
            .await
            .map_err(|e| unavailable(&e));
        if written.is_err() {
            // Some errors end the transaction by themselves; then there is nothing to roll back.
            let _ = sqlx::query("ROLLBACK").execute(&mut *writer).await;
        }
        written.map(|_| ())
    }

    async fn unposted(&self, limit: usize) -> Result<Vec<(TeamId, CheckpointRow)>, StoreError> {
        let rows = sqlx::query(
            "SELECT size, made_at, note, posted, team_id FROM checkpoints WHERE posted = 0 ORDER BY made_at, size
             LIMIT $1",
        )
        .bind(limited(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| unavailable(&e))?;
        all(&rows, |row| Ok((read::team_at(row, 4)?, read::checkpoint(row)?)))
    }

    async fn mark_posted(&self, posted: &[(TeamId, Position)]) -> Result<(), StoreError> {
        let posted: Vec<_> = posted.iter().map(|(team, size)| json!([team, size])).collect();
        sqlx::query(
            "UPDATE checkpoints SET posted = 1
             WHERE (team_id, size) IN (SELECT value->>0, value->>1 FROM json_each($1))",
        )
        .bind(serde_json::Value::Array(posted).to_string())
        .execute(&mut *self.writer.lock().await)
        .await
        .map_err(|e| unavailable(&e))?;
        Ok(())
    }
}
