//! Writes an export: record by record, a segment at a time, going on where an earlier run ended.

use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use domain::id::{BlobId, Position, TeamId};
use sha2::{Digest, Sha256};

use super::{
    CHECKPOINT, Directory, Files as _, LeftOut, MANIFEST, Manifest, Segment, opening, put_entry, read_entry,
    segment_name, take,
};
use crate::chain::{Broken, Verifier};
use crate::checkpoint::SigningKey;
use crate::record::StoredRecord;

/// An export could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file cannot be read or written.
    #[error("{file} cannot be written or read")]
    Io {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory holds a finished export.
    #[error("it holds a finished export; name another directory")]
    Finished,
    /// What an earlier run left is not the beginning of this export.
    #[error("{0} is not of this export, or was changed; remove the directory and start again")]
    Foreign(String),
    /// The log is not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// An export that is being written.
pub struct Writer {
    directory: Directory,
    left_out: LeftOut,
    /// A segment with so many bytes is sealed.
    segment_bytes: usize,
    verifier: Verifier,
    team: TeamId,
    sealed: Vec<Segment>,
    open: Vec<u8>,
    first: Position,
}

impl Writer {
    /// Begins an export in a directory, which is made; or goes on with one whose earlier run did not come to its end. What
    /// that run has sealed is read and verified.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn begin(directory: &Path, team: &TeamId, left_out: LeftOut, segment_bytes: usize) -> Result<Self, WriteError> {
        let io = |source| WriteError::Io { file: directory.display().to_string(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        let directory = Directory(directory.to_owned());
        let mut names = directory.names().map_err(io)?;
        names.sort();
        if names.iter().any(|name| name == MANIFEST) {
            return Err(WriteError::Finished);
        }
        let (verifier, team) = (Verifier::new(team.clone()), team.clone());
        let (sealed, open) = (vec![], opening(&team, left_out));
        let mut writer = Self { directory, left_out, segment_bytes, verifier, team, sealed, open, first: 1 };
        for name in names {
            // The checkpoint is written anew, and what was not sealed is.
            if name == CHECKPOINT || name.ends_with(".part") {
                continue;
            }
            if name != segment_name(writer.sealed.len() + 1) {
                return Err(WriteError::Foreign(name));
            }
            writer.take_up(name)?;
        }
        Ok(writer)
    }

    /// Reads a segment of an earlier run.
    fn take_up(&mut self, name: String) -> Result<(), WriteError> {
        let bytes = self.directory.read(&name).map_err(|source| WriteError::Io { file: name.clone(), source })?;
        let begin = opening(&self.team, self.left_out);
        let Some(mut rest) = bytes.strip_prefix(begin.as_slice()) else { return Err(WriteError::Foreign(name)) };
        while !rest.is_empty() {
            let entry = take(&mut rest).and_then(read_entry);
            if entry.is_none_or(|entry| self.verifier.next(&entry.record).is_err()) {
                return Err(WriteError::Foreign(name));
            }
        }
        self.note_sealed(name, &bytes);
        Ok(())
    }

    fn note_sealed(&mut self, name: String, bytes: &[u8]) {
        let (last, hash) = self.verifier.verified();
        let (first, length) = (self.first, bytes.len() as u64);
        self.sealed.push(Segment { name, first, last, bytes: length, sha256: Sha256::digest(bytes).into(), hash });
        self.first = last + 1;
        self.open = opening(&self.team, self.left_out);
    }

    /// Returns the last position that was taken.
    #[must_use]
    pub fn position(&self) -> Position {
        self.verifier.verified().0
    }

    /// Takes the next record with the bodies it names. What is to be left out is left out here.
    ///
    /// # Errors
    /// The record is not the next one of an unchanged log, or a segment cannot be written.
    pub fn append(&mut self, mut record: StoredRecord, bodies: &[(BlobId, Bytes)]) -> Result<(), WriteError> {
        self.verifier.next(&record)?;
        if self.left_out.personal {
            record.personal = None;
        }
        put_entry(&mut self.open, &record, if self.left_out.bodies { &[] } else { bodies });
        if self.open.len() >= self.segment_bytes { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> Result<(), WriteError> {
        let name = segment_name(self.sealed.len() + 1);
        let bytes = std::mem::take(&mut self.open);
        self.write(&name, &bytes)?;
        self.note_sealed(name, &bytes);
        Ok(())
    }

    /// Writes a file so that it is there whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let (part, whole) = (self.directory.path(&format!("{name}.part")), self.directory.path(name));
        let written = (|| {
            let mut file = std::fs::File::create(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&part, &whole)?;
            std::fs::File::open(&self.directory.0)?.sync_all()
        })();
        written.map_err(|source| WriteError::Io { file: name.to_owned(), source })
    }

    /// Seals the last segment, and signs that this is all. The checkpoint covers exactly what was taken. Returns how many
    /// segments there are.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn finish(mut self, key: &SigningKey, checkpoint: &str) -> Result<usize, WriteError> {
        if self.first <= self.position() {
            self.seal()?;
        }
        for name in self.directory.names().unwrap_or_default().iter().filter(|name| name.ends_with(".part")) {
            let file = name.clone();
            std::fs::remove_file(self.directory.path(name)).map_err(|source| WriteError::Io { file, source })?;
        }
        self.write(CHECKPOINT, checkpoint.as_bytes())?;
        let (records, head) = self.verifier.verified();
        let manifest = Manifest {
            origin: key.public().origin(&self.team),
            team: self.team.clone(),
            records,
            head,
            checkpoint: Sha256::digest(checkpoint).into(),
            left_out: self.left_out,
            segments: std::mem::take(&mut self.sealed),
        };
        self.write(MANIFEST, key.sign(&manifest.to_string()).as_bytes())?;
        Ok(manifest.segments.len())
    }
}
