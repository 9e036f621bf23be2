//! The secrets of an installation, kept in files outside the database: the master key, the pepper and the key that signs
//! checkpoints.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use api::auth::secret::Pepper;
use eventlog::{Allot, EventLog, MasterKey, Signer};

use crate::config::Config;

/// All of them.
#[derive(Clone)]
pub struct InstallationSecrets {
    /// Seals webhook secrets and stored answers.
    pub master_key: MasterKey,
    /// The key of the digests by which API keys are looked up.
    pub pepper: Pepper,
    /// What the key that signs checkpoints is made of.
    pub checkpoint_seed: [u8; 32],
    checkpoint_file: PathBuf,
    /// What each is recognised by: its name, its file, and digests that tell nothing of it.
    marks: [Mark; 2],
}

#[derive(Clone)]
struct Mark {
    name: &'static str,
    file: PathBuf,
    /// That of the key in use, then those of the keys before it.
    digests: Vec<String>,
}

const MASTER_KEY: &str = "master key";

/// Reads the secrets; on the first start with default locations it makes them, readable by the owner only.
///
/// # Errors
/// A file cannot be read or made, or does not hold 64 hexadecimal characters.
pub fn load(config: &Config, allot: &Allot) -> anyhow::Result<InstallationSecrets> {
    let data = &config.server.data_dir;
    let place = |configured: &str, default: &str| match configured {
        "" => data.join(default),
        configured => PathBuf::from(configured),
    };
    let (master_key_file, pepper_file) = (&config.secrets.master_key_file, &config.secrets.pepper_file);
    let (master_at, pepper_at) = (place(master_key_file, "master.key"), place(pepper_file, "pepper.key"));
    let master = read_or_make(master_key_file, &master_at, allot)?;
    let pepper = read_or_make(pepper_file, &pepper_at, allot)?;
    let (mut master_key, mut digests) = (MasterKey::new(&master), vec![digest(master)]);
    for file in &config.secrets.previous_master_key_files {
        let previous = read(Path::new(file))?;
        master_key = master_key.with_previous(&previous);
        digests.push(digest(previous));
    }
    let marks = [
        Mark { name: MASTER_KEY, file: master_at, digests },
        Mark { name: "pepper", file: pepper_at, digests: vec![digest(pepper)] },
    ];
    let checkpoint_key_file = &config.secrets.checkpoint_key_file;
    let checkpoint_file = place(checkpoint_key_file, "checkpoint.key");
    let checkpoint_seed = read_or_make(checkpoint_key_file, &checkpoint_file, allot)?;
    Ok(InstallationSecrets { master_key, pepper: Pepper::new(pepper), checkpoint_seed, checkpoint_file, marks })
}

/// Returns what a key is recognised by: under a purpose of its own, so that what is kept in the database is of no other
/// use.
fn digest(key: [u8; 32]) -> String {
    hex::encode(Pepper::new(key).mac(b"postlog/key-mark/1\0", &[]))
}

/// Reads a secret file that must be there.
fn read(path: &Path) -> anyhow::Result<[u8; 32]> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    key(&text, path)
}

fn key(text: &str, path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key)
        .with_context(|| format!("{} must hold 64 hexadecimal characters", path.display()))?;
    Ok(key)
}

/// Compares the secrets with those that the database was made with, which the first start notes. Another key for checkpoints
/// is noted in place of one that was retired.
///
/// # Errors
/// One of them is another: what is sealed would not open, no API key would work, no checkpoint would go on from the last,
/// and what this node wrote no other node could use.
pub async fn check(log: &EventLog, secrets: &InstallationSecrets, signer: &Signer) -> anyhow::Result<()> {
    for Mark { name, file, digests } in &secrets.marks {
        let kept = log.keep_first(&mark_of(name), &digests[0]).await?;
        if !digests.contains(&kept) {
            bail!(
                "{} does not hold the {name} that this database was made with; copy the file from the node that made it, \
                 or from where it was kept apart",
                file.display()
            );
        }
    }
    let (name, public) = (mark_of("checkpoint key"), signer.key.public().to_string());
    let kept = log.keep_first(&name, &public).await?;
    if kept == public {
        return Ok(());
    }
    if !signer.retired.iter().any(|key| key.to_string() == kept) {
        bail!(
            "{} and checkpoints.origin give another public key than the one that signs this database's checkpoints, {kept}; \
             copy the file and the origin from another node, or, to sign with a new key from now on, name the old one in \
             checkpoints.retired_keys",
            secrets.checkpoint_file.display()
        );
    }
    Ok(log.keep(&name, &public).await?)
}

/// Notes the current master key as the one that everything is sealed with: from now on a node must have it.
///
/// # Errors
/// The log is not available.
pub async fn note_master_key(log: &EventLog, secrets: &InstallationSecrets) -> anyhow::Result<()> {
    for Mark { name, digests, .. } in secrets.marks.iter().filter(|mark| mark.name == MASTER_KEY) {
        log.keep(&mark_of(name), &digests[0]).await?;
    }
    Ok(())
}

fn mark_of(name: &str) -> String {
    format!("mark of the {name}")
}

fn read_or_make(configured: &str, default: &Path, allot: &Allot) -> anyhow::Result<[u8; 32]> {
    let path = if configured.is_empty() { default.to_owned() } else { PathBuf::from(configured) };
    match std::fs::read_to_string(&path) {
        Ok(text) => key(&text, &path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && configured.is_empty() => make(&path, allot.random()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Makes a secret file durably before anything is sealed with it.
///
/// # Errors
/// The file exists or cannot be written.
pub fn make(path: &Path, key: [u8; 32]) -> anyhow::Result<[u8; 32]> {
    write_private(path, format!("{}\n", hex::encode(key)).as_bytes())?;
    tracing::info!(file = %path.display(), "made a secret file; keep a copy apart from the database");
    Ok(key)
}

/// Writes a new file that only its owner can read, and flushes it with its directory.
///
/// # Errors
/// The file exists or cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let Some(directory) = path.parent() else { bail!("{} has no directory", path.display()) };
    let failed = || format!("cannot make {}", path.display());
    std::fs::create_dir_all(directory).with_context(failed)?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(failed)?;
    file.write_all(content).with_context(failed)?;
    file.sync_all().with_context(failed)?;
    std::fs::File::open(directory).and_then(|d| d.sync_all()).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/master.key");
        let allot = Allot::system();
        let first = read_or_make("", &path, &allot).unwrap();
        assert_eq!(read_or_make("", &path, &allot).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_configured_file_is_never_made() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("x.key");
        assert!(read_or_make(missing.to_str().unwrap(), &missing, &Allot::system()).is_err());
        std::fs::write(&missing, "short").unwrap();
        assert!(read_or_make(missing.to_str().unwrap(), &missing, &Allot::system()).is_err());
    }
}
