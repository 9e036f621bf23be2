//! Bodies: raw mail, attachments and retained payloads, by id.
//!
//! Small ones go into the log's store in the append transaction, so that one flush covers the event and its body. Large
//! ones go into an object store first; a body whose append then fails is garbage that nothing refers to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::id::{BlobId, TeamId};
use futures_util::{Stream, StreamExt as _};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, RetryConfig};

use crate::backend::{BlobRow, StoreError};

/// Bodies up to this many bytes are stored in the append transaction: one flush costs less than a file of their own.
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// How long a request to a remote store is repeated that finds nobody, or a server in trouble.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long a store may take to show at the start that it works.
const CHECK_MAX: Duration = Duration::from_secs(30);

/// A body that is ready to be stored with its event.
#[derive(Debug, Clone)]
pub struct StagedBlob {
    pub(crate) inline: Option<Bytes>,
    pub(crate) size_bytes: i64,
}

impl StagedBlob {
    pub(crate) fn into_row(self, id: BlobId) -> BlobRow {
        BlobRow { id, inline: self.inline, size_bytes: self.size_bytes }
    }
}

/// Where large bodies are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    objects: Arc<dyn ObjectStore>,
}

impl BlobStore {
    /// Returns a blob store over any object store: a local directory, S3, or memory.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects }
    }

    /// Returns a blob store in a directory, which is created if it is missing. Files are flushed before they count as stored.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn local(directory: &std::path::Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory).map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let objects = object_store::local::LocalFileSystem::new_with_prefix(directory)
            .map_err(|e| StoreError::Unavailable(e.to_string()))?
            .with_fsync(true);
        Ok(Self::new(Arc::new(objects)))
    }

    /// Returns a blob store in an S3 bucket under a prefix; endpoint, region and credentials are those of the `AWS_*` variables
    /// among the given ones.
    ///
    /// # Errors
    /// The settings are not complete.
    pub fn s3(
        bucket: &str,
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StoreError> {
        let retry = RetryConfig { max_retries: 4, retry_timeout: RETRY_MAX, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_retry(retry);
        for (name, value) in variables {
            let name = name.to_ascii_lowercase();
            if name.starts_with("aws_")
                && let Ok(key) = name.parse::<AmazonS3ConfigKey>()
            {
                builder = builder.with_config(key, value);
            }
        }
        let objects = builder.build().map_err(|e| StoreError::Unavailable(e.to_string()))?;
        Ok(Self::new(Arc::new(PrefixStore::new(objects, prefix))))
    }

    /// Writes an object, reads it and drops it: what cannot be done now would fail with the first large mail.
    ///
    /// # Errors
    /// The store does not take it, does not give it back, or does not answer in time.
    pub async fn check(&self, nonce: [u8; 16]) -> Result<(), StoreError> {
        let path = Path::from_iter(["probe".to_owned(), nonce.iter().map(|byte| format!("{byte:02x}")).collect()]);
        let unavailable = |e: object_store::Error| StoreError::Unavailable(e.to_string());
        let look = async {
            self.objects.put(&path, Bytes::copy_from_slice(&nonce).into()).await.map_err(refused)?;
            let found = self.objects.get(&path).await.map_err(unavailable)?.bytes().await.map_err(unavailable)?;
            self.objects.delete(&path).await.map_err(unavailable)?;
            let same = found == nonce.as_slice();
            same.then_some(()).ok_or_else(|| StoreError::Corrupt("what was stored came back changed".to_owned()))
        };
        let late = |_| StoreError::Unavailable(format!("no answer within {} s", CHECK_MAX.as_secs()));
        tokio::time::timeout(CHECK_MAX, look).await.map_err(late)?
    }

    /// Returns the ids of a team's objects with when each was stored, microseconds since the Unix epoch, as they come.
    pub(crate) fn list(&self, team: &TeamId) -> impl Stream<Item = Result<(BlobId, i64), StoreError>> + use<> {
        let prefix = Path::from(team.as_str());
        let objects = self.objects.list(Some(&prefix));
        objects.filter_map(|found| {
            std::future::ready(match found {
                // What is not ours is left alone.
                Ok(object) => {
                    let id = object.location.filename().and_then(|name| name.parse::<BlobId>().ok());
                    id.map(|id| Ok((id, object.last_modified.timestamp_micros())))
                }
                Err(e) => Some(Err(StoreError::Unavailable(e.to_string()))),
            })
        })
    }

    /// Returns a blob store in memory, for tests and simulation.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    fn path(team: &TeamId, id: &BlobId) -> Path {
        // Two characters of the random end spread the files over 1,024 directories a team.
        let text = id.as_str();
        Path::from_iter([team.as_str(), &text[text.len() - 2..], text])
    }

    /// Makes a body ready to be stored: keeps small ones for the append, writes large ones now.
    ///
    /// # Errors
    /// The object store is full or does not take it.
    pub async fn stage(&self, team: &TeamId, id: &BlobId, bytes: Bytes) -> Result<StagedBlob, StoreError> {
        let size_bytes = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        if bytes.len() <= INLINE_BYTES_MAX {
            return Ok(StagedBlob { inline: Some(bytes), size_bytes });
        }
        self.objects.put(&Self::path(team, id), bytes.into()).await.map_err(refused)?;
        Ok(StagedBlob { inline: None, size_bytes })
    }

    /// Stores bytes that no event names, whatever their size.
    ///
    /// # Errors
    /// The object store is full or does not take them.
    pub async fn put(&self, team: &TeamId, id: &BlobId, bytes: Bytes) -> Result<(), StoreError> {
        self.objects.put(&Self::path(team, id), bytes.into()).await.map_err(refused)?;
        Ok(())
    }

    /// Drops the bytes of a large body, if there are any.
    ///
    /// # Errors
    /// The object store does not answer.
    pub async fn delete(&self, team: &TeamId, id: &BlobId) -> Result<(), StoreError> {
        match self.objects.delete(&Self::path(team, id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(StoreError::Unavailable(e.to_string())),
        }
    }

    /// Returns the bytes of a large body; `None` if there are none.
    ///
    /// # Errors
    /// The object store does not answer.
    pub async fn get(&self, team: &TeamId, id: &BlobId) -> Result<Option<Bytes>, StoreError> {
        let unavailable = |e: object_store::Error| StoreError::Unavailable(e.to_string());
        match self.objects.get(&Self::path(team, id)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(unavailable)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(unavailable(e)),
        }
    }
}

/// What object stores answer when there is no room: it comes as text inside of an error, whoever's store it is.
const FULL_CODES: [&str; 4] = ["InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "507"];

/// Returns why a body was not taken: a full store is told apart from one that does not answer.
fn refused(error: object_store::Error) -> StoreError {
    use std::io::ErrorKind;
    let causes = || std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let no_room = |io: &std::io::Error| matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let on_disk = causes().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(no_room));
    let remote = !on_disk && causes().any(|cause| FULL_CODES.iter().any(|code| names(&cause.to_string(), code)));
    if on_disk || remote { StoreError::Full(error.to_string()) } else { StoreError::Unavailable(error.to_string()) }
}

/// Returns whether a text names a code as a word of its own.
fn names(text: &str, code: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: source.into() }
    }

    #[test]
    fn a_full_object_store_is_told_apart_from_one_that_does_not_answer() {
        let full = [
            generic(std::io::Error::from(std::io::ErrorKind::StorageFull)),
            generic(std::io::Error::from(std::io::ErrorKind::QuotaExceeded)),
            generic("<Error><Code>XMinioStorageFull</Code></Error>"),
            generic("Server returned non-2xx status code: 507 Insufficient Storage"),
        ];
        for error in full {
            let text = error.to_string();
            assert!(matches!(refused(error), StoreError::Full(_)), "{text}");
        }
        for error in [generic(std::io::Error::from(std::io::ErrorKind::TimedOut)), generic("status 503, id 25507")] {
            let text = error.to_string();
            assert!(matches!(refused(error), StoreError::Unavailable(_)), "{text}");
        }
    }
}
