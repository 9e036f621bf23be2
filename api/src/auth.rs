//! Who is calling: a secret becomes a [`Caller`].
//!
//! A secret is never stored. Its keyed digest leads through the directory to a team and a key; the key's fold then says
//! whether it still works. The directory's answer is kept for half a second, the fold is asked each time: a revocation
//! on this node therefore counts at once, one on another node within that half second.
//!
//! Every door uses this file: HTTP, streams, and SMTP submission.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use domain::api_key::{ApiKey, Kind};
use domain::id::{KeyId, MailboxId, Position, TeamId};
use domain::mailbox::{Mailbox, Status};
use domain::permission::Permissions;
use domain::{Actor, StreamId, Versioned};
use eventlog::{Allot, DirectoryKey, DirectoryTarget, EventLog, LogError};
use lru::LruCache;
use subtle::ConstantTimeEq;

mod scope;
pub mod secret;

pub(crate) use scope::enter;
pub use scope::{Call, Door, Guard, Guarded, Needs, Public, Scoped, Surface, guards};
use secret::{Pepper, Presented};

/// How long an answer of the directory is relied on without asking again, microseconds.
const RELIED_ON_MICROS: i64 = 500_000;
/// How many callers are remembered.
const CALLERS_MAX: NonZeroUsize = NonZeroUsize::new(20_000).expect("not zero");

/// Somebody who has shown a working key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose log the call is about; never taken from anywhere else.
    pub team: TeamId,
    /// Who the records name.
    pub actor: Actor,
    /// The key that was shown.
    pub key: KeyId,
    /// Which surface the key is for.
    pub kind: Kind,
    /// The mailbox it is confined to.
    pub mailbox: Option<MailboxId>,
    /// What it may do.
    pub permissions: Permissions,
}

impl Caller {
    /// Returns the caller behind a key.
    #[must_use]
    pub fn new(team: TeamId, key: KeyId, kind: Kind, mailbox: Option<MailboxId>, permissions: Permissions) -> Self {
        Self { team, actor: Actor::ApiKey(key.clone()), key, kind, mailbox, permissions }
    }

    /// Returns whether the caller may do something.
    #[must_use]
    pub fn may(&self, permission: &str) -> bool {
        self.permissions.allow(permission)
    }
}

/// Why a secret is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not a key, or one that was revoked. Nothing more is said.
    #[error("the credential is not valid")]
    Unknown,
    /// It is a credential of a suspended mailbox.
    #[error("the mailbox is suspended")]
    Suspended,
    /// It could not be looked up.
    #[error(transparent)]
    Log(#[from] LogError),
}

#[derive(Clone)]
struct Remembered {
    caller: Arc<Caller>,
    relied_on_until: i64,
    head: Position,
}

/// Turns secrets into callers. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    log: EventLog,
    allot: Allot,
    pepper: Pepper,
    remembered: Arc<Mutex<LruCache<String, Remembered>>>,
}

impl Authenticator {
    /// Returns an authenticator over a log.
    #[must_use]
    pub fn new(log: EventLog, allot: Allot, pepper: Pepper) -> Self {
        Self { log, allot, pepper, remembered: Arc::new(Mutex::new(LruCache::new(CALLERS_MAX))) }
    }

    /// Returns the key that digests secrets.
    #[must_use]
    pub fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    /// Returns who holds a secret.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn authenticate(&self, secret: &str) -> Result<Arc<Caller>, Refused> {
        // A mistyped secret ends here, before any look-up.
        let presented = Presented::parse(secret).ok_or(Refused::Unknown)?;
        let lookup = self.pepper.lookup(presented.random());
        let caller = self.find(&lookup).await?;
        if !presented.names(caller.kind) {
            return Err(Refused::Unknown);
        }
        match self.check(&caller, Some(&lookup)).await {
            Err(Refused::Unknown) => {
                self.forget(&lookup);
                Err(Refused::Unknown)
            }
            Err(refused) => Err(refused),
            Ok(()) => Ok(caller),
        }
    }

    /// Checks that a caller's key still works: for long-lived connections.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn recheck(&self, caller: &Caller) -> Result<(), Refused> {
        let head = self.log.head(&caller.team).await?;
        self.log.note_moved(&caller.team, head.position);
        self.check(caller, None).await
    }

    async fn find(&self, lookup: &str) -> Result<Arc<Caller>, Refused> {
        let now = self.allot.now();
        let known = self.lock().get(lookup).cloned();
        if let Some(known) = &known
            && now < known.relied_on_until
        {
            return Ok(Arc::clone(&known.caller));
        }
        let Some(entry) = self.log.find(&DirectoryKey::KeyLookup(lookup.to_owned())).await? else {
            self.forget(lookup);
            return Err(Refused::Unknown);
        };
        let DirectoryTarget::Key { id, key_kind, mailbox, permissions } = entry.target else {
            return Err(Refused::Unknown);
        };
        // Another node may have written: what this node folded before must not outlive the look-up.
        let head = self.log.head(&entry.team).await?.position;
        if known.is_none_or(|known| known.head < head) {
            self.log.note_moved(&entry.team, head);
        }
        let caller = Arc::new(Caller::new(entry.team, id, key_kind, mailbox, permissions));
        let remembered = Remembered { caller: Arc::clone(&caller), relied_on_until: now + RELIED_ON_MICROS, head };
        self.lock().put(lookup.to_owned(), remembered);
        Ok(caller)
    }

    async fn check(&self, caller: &Caller, lookup: Option<&str>) -> Result<(), Refused> {
        let key = StreamId::ApiKey(caller.key.clone());
        let (key, mailbox) = match &caller.mailbox {
            None => (self.log.state::<Versioned<ApiKey>>(&caller.team, &[key]).await?, None),
            Some(mailbox) => {
                let streams = [key, StreamId::Mailbox(mailbox.clone())];
                let (key, mailbox) =
                    self.log.state::<(Versioned<ApiKey>, Versioned<Mailbox>)>(&caller.team, &streams).await?;
                (key, Some(mailbox.status))
            }
        };
        let created = key.created.as_ref().ok_or(Refused::Unknown)?;
        let digests_differ =
            lookup.is_some_and(|lookup| !bool::from(created.lookup.as_bytes().ct_eq(lookup.as_bytes())));
        if key.revoked || digests_differ {
            return Err(Refused::Unknown);
        }
        match mailbox {
            None | Some(Status::Active) => Ok(()),
            Some(Status::Suspended) => Err(Refused::Suspended),
            Some(Status::Absent | Status::Closed) => Err(Refused::Unknown),
        }
    }

    fn forget(&self, lookup: &str) {
        self.lock().pop(lookup);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authenticator")
    }
}
