//! What is changed of a team beside appends: not while it is on its way to another database, where what is changed here
//! might have been copied already.

use domain::id::{BlobId, Position, TeamId};
use sqlx::{Postgres, Transaction};

use super::PostgresBackend;
use super::read::unavailable;
use super::write::FROZEN;
use crate::backend::{SecretRow, StoreError};

/// Returns what a change has done; `None` is a team on its way.
pub(super) fn changed(done: Result<Option<u64>, sqlx::Error>) -> Result<u64, StoreError> {
    done.map_err(|e| unavailable(&e))?.ok_or_else(|| StoreError::Unavailable(FROZEN.to_owned()))
}

impl PostgresBackend {
    /// Begins a transaction until whose end the team stays where it is; `None` if it is on its way.
    async fn at_rest(&self, team: &TeamId) -> Result<Option<Transaction<'static, Postgres>>, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let frozen: Option<bool> =
            sqlx::query_scalar("SELECT frozen_at IS NOT NULL FROM log.heads WHERE team_id = $1 FOR UPDATE")
                .bind(team.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        Ok((!frozen.unwrap_or(false)).then_some(transaction))
    }

    pub(super) async fn drop_personal(
        &self,
        team: &TeamId,
        positions: &[Position],
    ) -> Result<Option<u64>, sqlx::Error> {
        let Some(mut transaction) = self.at_rest(team).await? else { return Ok(None) };
        // Snapshots may repeat what is erased, and so may those that are being made.
        for sql in [
            "UPDATE log.heads SET erasures = erasures + 1 WHERE team_id = $1",
            "DELETE FROM log.snapshots WHERE team_id = $1",
        ] {
            sqlx::query(sql).bind(team.as_str()).execute(&mut *transaction).await?;
        }
        let done = sqlx::query("DELETE FROM log.personal WHERE team_id = $1 AND position = ANY($2::bigint[])")
            .bind(team.as_str())
            .bind(positions.iter().filter_map(|p| i64::try_from(*p).ok()).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(done.rows_affected()))
    }

    pub(super) async fn drop_blobs(&self, team: &TeamId, ids: &[BlobId]) -> Result<Option<u64>, sqlx::Error> {
        let Some(mut transaction) = self.at_rest(team).await? else { return Ok(None) };
        let done = sqlx::query("DELETE FROM log.blobs WHERE team_id = $1 AND blob_id = ANY($2::text[])")
            .bind(team.as_str())
            .bind(ids.iter().map(BlobId::as_str).collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(done.rows_affected()))
    }

    pub(super) async fn put_secret(
        &self,
        team: &TeamId,
        read: &SecretRow,
        sealed: &[u8],
    ) -> Result<Option<u64>, sqlx::Error> {
        let Some(mut transaction) = self.at_rest(team).await? else { return Ok(None) };
        let put =
            sqlx::query("UPDATE log.secrets SET sealed = $4 WHERE team_id = $1 AND secret_id = $2 AND sealed = $3")
                .bind(team.as_str())
                .bind(read.id.as_str())
                .bind(read.sealed.as_slice())
                .bind(sealed)
                .execute(&mut *transaction)
                .await?;
        transaction.commit().await?;
        Ok(Some(put.rows_affected()))
    }
}
