//! Stored rows as values, for both engines: the columns are the same, only the drivers' row types differ.

use domain::id::Position;

use crate::backend::StoreError;
use crate::merkle::Hash;

pub(crate) fn signed(n: u64) -> i64 {
    i64::try_from(n).expect("positions and versions stay below 2^63")
}

/// Returns a limit as the engines take it.
pub(crate) fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn decode(column: usize, source: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_string(), source: Box::new(source) }
}

/// Returns whether the store answered with something that was never written.
pub(crate) fn is_undecodable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_))
}

/// Turns every row into a value; one that cannot be read is corruption.
pub(crate) fn all<R, T>(rows: &[R], read: impl Fn(&R) -> Result<T, sqlx::Error>) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// Returns the hashes of records that follow a position, up to the first hole.
pub(crate) fn unbroken(after: Position, placed: Vec<(Position, Hash)>) -> Vec<Hash> {
    let in_place = (after + 1..).zip(placed).take_while(|(expected, (position, _))| expected == position);
    in_place.map(|(_, (_, hash))| hash).collect()
}

/// Returns a tile as it is stored.
pub(crate) fn hashes_of(tile: &[Hash]) -> Vec<u8> {
    tile.as_flattened().to_vec()
}

/// Declares the functions that read rows of one driver.
macro_rules! row_readers {
    ($row:ty) => {
        use domain::id::{BlobId, Position, TeamId};
        use sqlx::Row;

        use $crate::backend::{AnswerKey, AnswerRow, BlobRow, Head, SecretRow, SnapshotRow};
        use $crate::directory::{DirectoryEntry, DirectoryKey};
        use $crate::merkle::tiles::TileId;
        use $crate::record::{StoredPersonal, StoredRecord};
        use $crate::rows::decode;
        use $crate::tree::CheckpointRow;

        pub(super) fn unsigned(row: &$row, column: usize) -> Result<u64, sqlx::Error> {
            u64::try_from(row.try_get::<i64, _>(column)?).map_err(|e| decode(column, e))
        }

        pub(super) fn index(row: &$row, column: usize) -> Result<usize, sqlx::Error> {
            usize::try_from(row.try_get::<i64, _>(column)?).map_err(|e| decode(column, e))
        }

        fn small(row: &$row, column: usize) -> Result<u16, sqlx::Error> {
            u16::try_from(row.try_get::<i64, _>(column)?).map_err(|e| decode(column, e))
        }

        fn bytes<const N: usize>(row: &$row, column: usize) -> Result<[u8; N], sqlx::Error> {
            let found: &[u8] = row.try_get(column)?;
            found.try_into().map_err(|e: std::array::TryFromSliceError| decode(column, e))
        }

        fn parse<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
            row: &$row,
            column: usize,
        ) -> Result<T, sqlx::Error> {
            row.try_get::<&str, _>(column)?.parse().map_err(|e| decode(column, e))
        }

        pub(super) fn team(row: &$row) -> Result<TeamId, sqlx::Error> {
            parse(row, 0)
        }

        /// size, made_at, note, posted
        pub(super) fn checkpoint(row: &$row) -> Result<CheckpointRow, sqlx::Error> {
            let is_posted = row.try_get::<i64, _>(3)? != 0;
            Ok(CheckpointRow { size: unsigned(row, 0)?, made_at: row.try_get(1)?, note: row.try_get(2)?, is_posted })
        }

        /// blob_id
        pub(super) fn blob_id(row: &$row) -> Result<BlobId, sqlx::Error> {
            parse(row, 0)
        }

        /// secret_id, sealed
        pub(super) fn secret(row: &$row) -> Result<SecretRow, sqlx::Error> {
            Ok(SecretRow { id: parse(row, 0)?, sealed: row.try_get(1)? })
        }

        pub(super) fn team_at(row: &$row, column: usize) -> Result<TeamId, sqlx::Error> {
            parse(row, column)
        }

        /// team_id, position, hash
        pub(super) fn placed_hash(row: &$row) -> Result<(Position, [u8; 32]), sqlx::Error> {
            Ok((unsigned(row, 1)?, bytes(row, 2)?))
        }

        /// team_id, level, tile, hashes
        pub(super) fn tile(row: &$row) -> Result<(TileId, Vec<[u8; 32]>), sqlx::Error> {
            let level = u32::try_from(row.try_get::<i64, _>(1)?).map_err(|e| decode(1, e))?;
            let (hashes, rest) = row.try_get::<&[u8], _>(3)?.as_chunks::<32>();
            if !rest.is_empty() {
                return Err(decode(3, std::fmt::Error));
            }
            Ok((TileId { level, index: unsigned(row, 2)? }, hashes.to_vec()))
        }

        /// team_id, erasures
        pub(super) fn erasures(row: &$row) -> Result<(TeamId, i64), sqlx::Error> {
            Ok((parse(row, 0)?, row.try_get(1)?))
        }

        /// team_id, epoch, position, hash
        pub(super) fn head(row: &$row) -> Result<(TeamId, Head), sqlx::Error> {
            let head = Head { epoch: small(row, 1)?, position: unsigned(row, 2)?, hash: bytes(row, 3)? };
            Ok((parse(row, 0)?, head))
        }

        /// team_id, position, moved_at
        pub(super) fn moved(row: &$row) -> Result<(TeamId, Position, i64), sqlx::Error> {
            Ok((parse(row, 0)?, unsigned(row, 1)?, row.try_get(2)?))
        }

        /// The columns of events in the order of their table, then salt and json.
        pub(super) fn record(row: &$row) -> Result<StoredRecord, sqlx::Error> {
            let personal = match row.try_get::<Option<&[u8]>, _>(14)? {
                Some(_) => Some(StoredPersonal { salt: bytes(row, 14)?, json: row.try_get(15)? }),
                None => None,
            };
            let digest: Option<&[u8]> = row.try_get(8)?;
            Ok(StoredRecord {
                team: parse(row, 0)?,
                position: unsigned(row, 1)?,
                epoch: small(row, 2)?,
                stream: row.try_get(3)?,
                stream_version: unsigned(row, 4)?,
                name: row.try_get(5)?,
                version: row.try_get(6)?,
                facts: row.try_get(7)?,
                personal_digest: digest.map(|_| bytes(row, 8)).transpose()?,
                personal,
                actor: row.try_get(9)?,
                causation: row.try_get(10)?,
                correlation: row.try_get(11)?,
                at: row.try_get(12)?,
                hash: bytes(row, 13)?,
            })
        }

        /// The index of a stream that was asked for, team_id, erasures; then stream, stream_version, position, state of
        /// its snapshot.
        pub(super) fn snapshot(row: &$row) -> Result<(usize, i64, Option<SnapshotRow>), sqlx::Error> {
            let erasures = row.try_get(2)?;
            let snapshot = match row.try_get::<Option<String>, _>(3)? {
                Some(stream) => Some(SnapshotRow {
                    team: parse(row, 1)?,
                    stream,
                    shape: domain::entity::SNAPSHOT_VERSION,
                    stream_version: unsigned(row, 4)?,
                    position: unsigned(row, 5)?,
                    state: row.try_get(6)?,
                    erasures,
                }),
                None => None,
            };
            Ok((index(row, 0)?, erasures, snapshot))
        }

        /// team_id, scope, request_key, fingerprint, status, sealed, created_at
        pub(super) fn answer(row: &$row) -> Result<AnswerRow, sqlx::Error> {
            Ok(AnswerRow {
                key: AnswerKey { team: parse(row, 0)?, scope: row.try_get(1)?, key: row.try_get(2)? },
                fingerprint: bytes(row, 3)?,
                status: row.try_get(4)?,
                sealed: row.try_get(5)?,
                created_at: row.try_get(6)?,
            })
        }

        /// entry, team_id, target
        pub(super) fn entry(row: &$row) -> Result<(DirectoryKey, DirectoryEntry), sqlx::Error> {
            let target = serde_json::from_str(row.try_get(2)?).map_err(|e| decode(2, e))?;
            let key = DirectoryKey::from_text(row.try_get(0)?).ok_or_else(|| decode(0, std::fmt::Error))?;
            Ok((key, DirectoryEntry { team: parse(row, 1)?, target }))
        }

        /// size_bytes, bytes
        pub(super) fn blob(id: &BlobId, row: &$row) -> Result<BlobRow, sqlx::Error> {
            let inline: Option<Vec<u8>> = row.try_get(1)?;
            Ok(BlobRow { id: id.clone(), inline: inline.map(Into::into), size_bytes: row.try_get(0)? })
        }
    };
}
pub(crate) use row_readers;
