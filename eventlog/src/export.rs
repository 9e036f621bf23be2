//! A team's log as files that can be verified without the installation: sealed segments, a checkpoint and a signed manifest.
//!
//! ```text
//! manifest             what belongs to the export, signed
//! checkpoint           how long the log is and its Merkle root, signed
//! 00000001.segment     the records, each exactly as it is hashed; then the next …
//! ```
//!
//! A *field* is a length (8 octets, big endian) and as many octets. A segment is fields: [`MAGIC`], the team, what is left
//! out, and then one field per record, which consists of fields itself:
//!
//! | field | content |
//! |---|---|
//! | 1 | the hashed fields of the record ([`crate::chain`]), each as a field |
//! | 2 | its hash |
//! | 3, 4 | salt and JSON of its personal half; both empty if there is none, it was erased or left out |
//! | 5, 6 … | id and bytes of each body the record names, if bodies are not left out |
//!
//! Whoever holds the public key finds any octet that was changed, added or taken away, with nothing else at hand:
//! [`verify`](verify::verify).

pub mod verify;
pub mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use domain::id::{BlobId, Position, TeamId};
use serde::Deserialize;

use crate::chain;
use crate::merkle::Hash;
use crate::record::{StoredPersonal, StoredRecord};

/// The name of the manifest.
pub const MANIFEST: &str = "manifest";
/// The name of the checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// What a segment begins with.
pub const MAGIC: &str = "postlog/segment/1";
/// The first line of a manifest.
const MANIFEST_TITLE: &str = "postlog/export/1";

/// Returns the name of a segment, counted from 1.
fn segment_name(number: usize) -> String {
    format!("{number:08}.segment")
}

/// What an export does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// No personal halves: no addresses, names, subjects.
    pub personal: bool,
    /// No bodies.
    pub bodies: bool,
}

impl LeftOut {
    const ALL: [(Self, &'static str); 4] = [
        (Self { personal: false, bodies: false }, "nothing"),
        (Self { personal: true, bodies: false }, "personal"),
        (Self { personal: false, bodies: true }, "bodies"),
        (Self { personal: true, bodies: true }, "personal bodies"),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(it, _)| *it == self).map_or("", |(_, text)| text)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == text).map(|(it, _)| *it)
    }
}

/// A body a record names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NamedBody {
    /// The blob.
    pub blob: BlobId,
    /// Its digest, lower-case hex.
    pub sha256: String,
}

impl NamedBody {
    /// Returns the body that facts name, if any.
    #[must_use]
    pub fn of(facts: &str) -> Option<Self> {
        serde_json::from_str(facts).ok()
    }
}

/// A record of a segment with its bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry<'a> {
    record: StoredRecord,
    bodies: Vec<(&'a str, &'a [u8])>,
}

fn put(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&(field.len() as u64).to_be_bytes());
    out.extend_from_slice(field);
}

/// Takes the first field off; `None` if the bytes end before it does.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (field, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
    *bytes = rest;
    Some(field)
}

/// Returns the beginning of a segment.
fn opening(team: &TeamId, left_out: LeftOut) -> Vec<u8> {
    let mut out = vec![];
    for field in [MAGIC, team.as_str(), left_out.as_str()] {
        put(&mut out, field.as_bytes());
    }
    out
}

/// Appends a record to a segment.
fn put_entry(out: &mut Vec<u8>, record: &StoredRecord, bodies: &[(BlobId, bytes::Bytes)]) {
    let (mut hashed, mut entry) = (vec![], vec![]);
    chain::fields(record, |field| put(&mut hashed, field));
    put(&mut entry, &hashed);
    put(&mut entry, &record.hash);
    let personal = record.personal.as_ref();
    put(&mut entry, personal.map_or(&[], |half| &half.salt));
    put(&mut entry, personal.map_or(&[], |half| half.json.as_bytes()));
    for (blob, bytes) in bodies {
        put(&mut entry, blob.as_str().as_bytes());
        put(&mut entry, bytes);
    }
    put(out, &entry);
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// Returns the record and bodies of one entry; `None` if it is not one that was ever written.
fn read_entry(mut bytes: &[u8]) -> Option<Entry<'_>> {
    let mut hashed = take(&mut bytes)?;
    let hash = take(&mut bytes)?.try_into().ok()?;
    let (salt, json) = (take(&mut bytes)?, take(&mut bytes)?);
    let personal = match (salt, json) {
        ([], []) => None,
        (salt, json) => Some(StoredPersonal { salt: salt.try_into().ok()?, json: text(json)? }),
    };
    let mut bodies = vec![];
    while !bytes.is_empty() {
        bodies.push((std::str::from_utf8(take(&mut bytes)?).ok()?, take(&mut bytes)?));
    }
    let from = &mut hashed;
    let mut record = StoredRecord {
        team: text(take(from)?)?.parse().ok()?,
        epoch: u16::from_be_bytes(take(from)?.try_into().ok()?),
        position: u64::from_be_bytes(take(from)?.try_into().ok()?),
        stream: text(take(from)?)?,
        stream_version: u64::from_be_bytes(take(from)?.try_into().ok()?),
        name: text(take(from)?)?,
        version: i64::from_be_bytes(take(from)?.try_into().ok()?),
        facts: text(take(from)?)?,
        personal_digest: match take(from)? {
            [] => None,
            digest => Some(digest.try_into().ok()?),
        },
        personal,
        actor: text(take(from)?)?,
        causation: match (take(from)?, take(from)?) {
            ([0], []) => None,
            ([1], causation) => Some(text(causation)?),
            _ => return None,
        },
        correlation: String::new(),
        at: 0,
        hash,
    };
    record.correlation = text(take(from)?)?;
    record.at = i64::from_be_bytes(take(from)?.try_into().ok()?);
    hashed.is_empty().then_some(Entry { record, bodies })
}

/// What a manifest says of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    name: String,
    first: Position,
    last: Position,
    bytes: u64,
    sha256: Hash,
    /// The chain's hash behind it.
    hash: Hash,
}

/// What an export consists of. Its text is what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Manifest {
    origin: String,
    team: TeamId,
    records: u64,
    head: Hash,
    checkpoint: Hash,
    left_out: LeftOut,
    segments: Vec<Segment>,
}

impl std::fmt::Display for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{MANIFEST_TITLE}\norigin {}\nteam {}\nrecords {}", self.origin, self.team, self.records)?;
        writeln!(f, "head {}\ncheckpoint {}", hex::encode(self.head), hex::encode(self.checkpoint))?;
        writeln!(f, "left-out {}", self.left_out.as_str())?;
        self.segments.iter().try_for_each(|s| {
            let (sha256, hash) = (hex::encode(s.sha256), hex::encode(s.hash));
            writeln!(f, "segment {} {} {} {} {sha256} {hash}", s.name, s.first, s.last, s.bytes)
        })
    }
}

fn hash(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok().map(|()| hash)
}

impl Manifest {
    /// Returns the manifest of this text; `None` if it is something else. Only one text gives each manifest.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != MANIFEST_TITLE {
            return None;
        }
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        let mut manifest = Self {
            origin: value("origin")?.to_owned(),
            team: value("team")?.parse().ok()?,
            records: value("records")?.parse().ok()?,
            head: hash(value("head")?)?,
            checkpoint: hash(value("checkpoint")?)?,
            left_out: LeftOut::parse(value("left-out")?)?,
            segments: vec![],
        };
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            let ["segment", name, first, last, bytes, sha256, behind] = words.as_slice() else { return None };
            manifest.segments.push(Segment {
                name: (*name).to_owned(),
                first: first.parse().ok()?,
                last: last.parse().ok()?,
                bytes: bytes.parse().ok()?,
                sha256: hash(sha256)?,
                hash: hash(behind)?,
            });
        }
        (manifest.to_string() == text).then_some(manifest)
    }
}

/// Where the files of an export are.
pub trait Files {
    /// Returns their names.
    ///
    /// # Errors
    /// They cannot be listed.
    fn names(&self) -> std::io::Result<Vec<String>>;

    /// Returns a file.
    ///
    /// # Errors
    /// It cannot be read, or there is none of this name.
    fn read(&self, name: &str) -> std::io::Result<Vec<u8>>;
}

/// The files of a directory.
#[derive(Debug, Clone)]
pub struct Directory(pub PathBuf);

impl Directory {
    fn path(&self, name: &str) -> PathBuf {
        // Names are those of our own segments or of a signed manifest; a path is never one.
        self.0.join(Path::new(name).file_name().unwrap_or_default())
    }
}

impl Files for Directory {
    fn names(&self) -> std::io::Result<Vec<String>> {
        std::fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.path(name))
    }
}

impl Files for BTreeMap<String, Vec<u8>> {
    fn names(&self) -> std::io::Result<Vec<String>> {
        Ok(self.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        self.get(name).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}
