//! Where checkpoints are told to the world outside: a URL, a directory, or both.
//!
//! Only what somebody else keeps binds whoever runs the installation: with the key and the database, everything else could
//! be made anew.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::id::TeamId;
use eventlog::CheckpointRow;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::io::AsyncWriteExt as _;
use url::Url;

use crate::egress::{Client, Limits, Policy, Resolve, Target};

/// Longest post, from the look-up of the host to the answer.
const WITHIN: Duration = Duration::from_secs(10);

/// The place could not be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    /// The request failed.
    #[error("{0}")]
    Attempt(#[from] crate::egress::AttemptError),
    /// The answer was no success.
    #[error("the answer was {0}")]
    Answer(u16),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Another checkpoint is kept under the same name: somebody signed two logs.
    #[error("{0} holds another checkpoint")]
    Other(PathBuf),
}

/// Where checkpoints are posted.
#[derive(Debug, Clone)]
pub struct Places {
    url: Option<(Client, Target)>,
    directory: Option<PathBuf>,
}

impl Places {
    /// Returns the places of the configuration. Unlike URLs that strangers give us, this one may lead anywhere over https, and
    /// over http to this machine: the operator named it.
    ///
    /// # Errors
    /// The URL is not one that can be posted to.
    pub fn new(
        post_to: Option<&str>,
        directory: Option<&Path>,
        resolve: Arc<dyn Resolve>,
    ) -> Result<Self, crate::egress::policy::Refused> {
        let url = match post_to {
            Some(text) => {
                let policy = policy(text);
                let target = Target::parse(text, &policy)?;
                let client = Client::new(policy, Limits::default(), resolve).expect("the default limits are in range");
                Some((client, target))
            }
            None => None,
        };
        Ok(Self { url, directory: directory.map(Path::to_owned) })
    }

    /// Returns whether there is any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.url.is_some() || self.directory.is_some()
    }

    /// Tells every place. Telling again what it knows changes nothing.
    pub(super) async fn tell(&self, team: &TeamId, checkpoint: &CheckpointRow) -> Result<(), PostError> {
        if let Some(directory) = &self.directory {
            keep(&directory.join(team.as_str()), checkpoint).await?;
        }
        if let Some((client, target)) = &self.url {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            let body = Bytes::copy_from_slice(checkpoint.note.as_bytes());
            let answer = client.post(target, headers, body, WITHIN).await?;
            if !answer.is_success() {
                return Err(PostError::Answer(answer.status));
            }
        }
        Ok(())
    }
}

/// Returns what an operator's URL may be.
pub(super) fn policy(text: &str) -> Policy {
    let everywhere = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|network| network.parse().ok()).collect();
    Policy {
        ports: Url::parse(text).ok().and_then(|url| url.port_or_known_default()).into_iter().collect(),
        refused_networks: vec![],
        dangerous_allow_http_loopback: true,
        dangerous_allow_networks: everywhere,
    }
}

/// Keeps a checkpoint in a file of its own that nothing replaces.
async fn keep(directory: &Path, checkpoint: &CheckpointRow) -> Result<(), PostError> {
    let path = directory.join(format!("{:020}.checkpoint", checkpoint.size));
    let part = path.with_extension("part");
    let written = async {
        tokio::fs::create_dir_all(directory).await?;
        match tokio::fs::read(&path).await {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            kept => return Ok(Some(kept?)),
        }
        let mut file = tokio::fs::File::create(&part).await?;
        file.write_all(checkpoint.note.as_bytes()).await?;
        file.sync_all().await?;
        // A link never replaces what is there.
        let linked = tokio::fs::hard_link(&part, &path).await;
        tokio::fs::remove_file(&part).await?;
        match linked {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(Some(tokio::fs::read(&path).await?)),
            linked => {
                linked?;
                tokio::fs::File::open(directory).await?.sync_all().await?;
                Ok(None)
            }
        }
    };
    match written.await {
        Ok(kept) if kept.as_ref().is_some_and(|kept| kept != checkpoint.note.as_bytes()) => Err(PostError::Other(path)),
        Ok(_) => Ok(()),
        Err(source) => Err(PostError::File { path, source }),
    }
}
