//! Verifies an export with nothing but a public key.

use std::collections::BTreeMap;

use domain::id::{Position, TeamId};
use sha2::{Digest, Sha256};

use super::{CHECKPOINT, Files, LeftOut, MANIFEST, Manifest, NamedBody, Segment, opening, read_entry, take};
use crate::chain::{Broken, Verifier};
use crate::checkpoint::{BadNote, Checkpoint, VerifyingKey};
use crate::merkle::{Frontier, Hash, leaf};

/// The first thing that is wrong with an export.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    Unreadable {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The manifest or the checkpoint is not what was signed.
    #[error("{file}: {why}")]
    Note {
        /// Which.
        file: String,
        /// Why.
        why: BadNote,
    },
    /// What is signed is not a manifest of this kind.
    #[error("the manifest is signed, but not one that this program understands")]
    Manifest,
    /// A segment is gone.
    #[error("{file} is missing: positions {first} to {last}")]
    Missing {
        /// Which.
        file: String,
        /// The first position in it.
        first: Position,
        /// The last.
        last: Position,
    },
    /// A file that the manifest does not name.
    #[error("{0} does not belong to the export: it was added")]
    Added(String),
    /// A record cannot be read.
    #[error("{file}: the record at position {position} cannot be read: it was changed or cut off")]
    Unparsed {
        /// In which file.
        file: String,
        /// The place.
        position: Position,
    },
    /// A record is not what was written at its place.
    #[error("{file}: {broken}")]
    Broken {
        /// In which file.
        file: String,
        /// What and where.
        broken: Broken,
    },
    /// A segment does not hold the positions the manifest says.
    #[error("{file} ends at position {found} instead of {last}: records were taken away, added or rewritten")]
    Ends {
        /// Which.
        file: String,
        /// Where it should end.
        last: Position,
        /// Where it ends.
        found: Position,
    },
    /// A segment's records are sound by themselves, and others than those that were sealed.
    #[error("{file}: positions {first} to {last} are not the records that were sealed")]
    Rewritten {
        /// Which.
        file: String,
        /// The first position in it.
        first: Position,
        /// The last.
        last: Position,
    },
    /// A body is not the one its record names.
    #[error("{file}: the body {blob} at position {position} is not the one the record names")]
    Body {
        /// In which file.
        file: String,
        /// The place.
        position: Position,
        /// The body.
        blob: String,
    },
    /// A personal half is there although they were left out.
    #[error("{file}: the personal half at position {position} was added")]
    PersonalAdded {
        /// In which file.
        file: String,
        /// The place.
        position: Position,
    },
    /// The manifest does not go with its parts.
    #[error("the manifest and {0} do not belong together")]
    Unrelated(String),
    /// The log is not the one a checkpoint was signed over.
    #[error("{name}: the records up to position {size} are not those the checkpoint was signed over")]
    Root {
        /// The checkpoint.
        name: String,
        /// What it covers.
        size: Position,
    },
    /// A checkpoint covers more than there is.
    #[error("{name} was signed at position {size}, but the log ends at {found}: it was cut off")]
    CutOff {
        /// The checkpoint.
        name: String,
        /// What it covers.
        size: Position,
        /// Where the log ends.
        found: Position,
    },
}

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The team.
    pub team: TeamId,
    /// The first line of its checkpoints.
    pub origin: String,
    /// How many records.
    pub records: u64,
    /// The chain's hash behind the last.
    pub head: Hash,
    /// The Merkle root over all.
    pub root: Hash,
    /// What the export does not hold.
    pub left_out: LeftOut,
    /// How many bodies it holds.
    pub bodies: u64,
    /// How many personal halves are not in it although there once were.
    pub personal_absent: u64,
}

/// A checkpoint that was kept elsewhere: a name for messages, and the signed note.
pub type Kept = (String, String);

/// Opens a note with the first of the keys that has signed it.
fn open<'a>(keys: &[VerifyingKey], file: &str, note: &'a str) -> Result<(usize, &'a str), Fault> {
    let mut why = BadNote::Form;
    for (n, key) in keys.iter().enumerate() {
        match key.open(note) {
            Ok(text) => return Ok((n, text)),
            Err(e) => why = e,
        }
    }
    Err(Fault::Note { file: file.to_owned(), why })
}

fn note(files: &impl Files, file: &str) -> Result<String, Fault> {
    let unreadable = |source| Fault::Unreadable { file: file.to_owned(), source };
    let bytes = files.read(file).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|_| Fault::Note { file: file.to_owned(), why: BadNote::Form })
}

/// The walk over the records.
struct Walk<'a> {
    manifest: &'a Manifest,
    verifier: Verifier,
    tree: Frontier,
    /// Roots that are to be met, by size.
    expected: BTreeMap<Position, Vec<(String, Hash)>>,
    bodies: u64,
    personal_absent: u64,
}

/// Verifies everything: the signatures, that exactly the named files are there, every record's place in the chain, the
/// Merkle root, every body, and the checkpoints that were kept elsewhere. Any of the keys may have signed.
///
/// # Errors
/// The first thing that is wrong, with its position.
pub fn verify(files: &impl Files, keys: &[VerifyingKey], kept: &[Kept]) -> Result<Report, Fault> {
    let signed = note(files, MANIFEST)?;
    let (by, text) = open(keys, MANIFEST, &signed)?;
    let manifest = Manifest::parse(text).ok_or(Fault::Manifest)?;
    if manifest.origin != keys[by].origin(&manifest.team) {
        return Err(Fault::Manifest);
    }
    let mut walk = Walk {
        verifier: Verifier::new(manifest.team.clone()),
        manifest: &manifest,
        tree: Frontier::default(),
        expected: BTreeMap::new(),
        bodies: 0,
        personal_absent: 0,
    };
    let own = note(files, CHECKPOINT)?;
    let checkpoint = walk.expect(keys, CHECKPOINT, &own)?;
    if Hash::from(Sha256::digest(&own)) != manifest.checkpoint || checkpoint.size != manifest.records {
        return Err(Fault::Unrelated(CHECKPOINT.to_owned()));
    }
    for (name, note) in kept {
        walk.expect(keys, name, note)?;
    }
    for segment in &manifest.segments {
        walk.segment(files, segment)?;
    }
    let (records, head) = walk.verifier.verified();
    if (records, head) != (manifest.records, manifest.head) {
        return Err(Fault::Unrelated("its segments".to_owned()));
    }
    if let Some((size, names)) = walk.expected.pop_first() {
        let name = names.into_iter().next().map(|(name, _)| name).unwrap_or_default();
        return Err(Fault::CutOff { name, size, found: records });
    }
    let names = files.names().map_err(|source| Fault::Unreadable { file: ".".to_owned(), source })?;
    let belongs = |name: &String| {
        [MANIFEST, CHECKPOINT].contains(&name.as_str()) || manifest.segments.iter().any(|s| s.name == *name)
    };
    if let Some(added) = names.into_iter().find(|name| !belongs(name)) {
        return Err(Fault::Added(added));
    }
    let Walk { tree, bodies, personal_absent, .. } = walk;
    let Manifest { team, origin, left_out, .. } = manifest;
    Ok(Report { team, origin, records, head, root: tree.root(), left_out, bodies, personal_absent })
}

impl Walk<'_> {
    /// Notes which root a checkpoint says there is at its size.
    fn expect(&mut self, keys: &[VerifyingKey], name: &str, note: &str) -> Result<Checkpoint, Fault> {
        let (by, _) = open(keys, name, note)?;
        let fault = |why| Fault::Note { file: name.to_owned(), why };
        let checkpoint = keys[by].checkpoint(note).map_err(fault)?;
        if checkpoint.origin != keys[by].origin(&self.manifest.team) {
            return Err(Fault::Unrelated(name.to_owned()));
        }
        self.expected.entry(checkpoint.size).or_default().push((name.to_owned(), checkpoint.root));
        Ok(checkpoint)
    }

    fn segment(&mut self, files: &impl Files, segment: &Segment) -> Result<(), Fault> {
        let Segment { name: file, first, last, .. } = segment;
        let (file, first, last) = (file.clone(), *first, *last);
        let bytes = match files.read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Fault::Missing { file, first, last }),
            Err(source) => return Err(Fault::Unreadable { file, source }),
        };
        // The records first: their faults have a place.
        let mut rest = bytes.as_slice();
        let begin = opening(&self.manifest.team, self.manifest.left_out);
        let Some(records) = rest.strip_prefix(begin.as_slice()) else {
            return Err(Fault::Rewritten { file, first, last });
        };
        rest = records;
        while !rest.is_empty() {
            let position = self.verifier.verified().0 + 1;
            if position > last {
                return Err(Fault::Ends { file, last, found: position });
            }
            let entry = take(&mut rest).and_then(read_entry);
            let Some(entry) = entry else { return Err(Fault::Unparsed { file, position }) };
            self.entry(&file, &entry)?;
        }
        let (found, hash) = self.verifier.verified();
        if found != last {
            return Err(Fault::Ends { file, last, found });
        }
        let is_sealed = bytes.len() as u64 == segment.bytes && Hash::from(Sha256::digest(&bytes)) == segment.sha256;
        if !is_sealed || hash != segment.hash {
            return Err(Fault::Rewritten { file, first, last });
        }
        Ok(())
    }

    fn entry(&mut self, file: &str, entry: &super::Entry<'_>) -> Result<(), Fault> {
        let (file, record) = (file.to_owned(), &entry.record);
        self.verifier.next(record).map_err(|broken| Fault::Broken { file: file.clone(), broken })?;
        let position = record.position;
        match (&record.personal, record.personal_digest) {
            (Some(_), _) if self.manifest.left_out.personal => return Err(Fault::PersonalAdded { file, position }),
            (None, Some(_)) => self.personal_absent += 1,
            _ => {}
        }
        if !entry.bodies.is_empty() {
            let named = NamedBody::of(&record.facts);
            for (blob, bytes) in &entry.bodies {
                let digest = hex::encode(Sha256::digest(bytes));
                if named.as_ref().is_none_or(|n| n.blob.as_str() != *blob || n.sha256 != digest) {
                    return Err(Fault::Body { file, position, blob: (*blob).to_owned() });
                }
                self.bodies += 1;
            }
        }
        self.tree.push(leaf(&record.hash), |_, _| {});
        for (name, root) in self.expected.remove(&position).into_iter().flatten() {
            if root != self.tree.root() {
                return Err(Fault::Root { name, size: position });
            }
        }
        Ok(())
    }
}
