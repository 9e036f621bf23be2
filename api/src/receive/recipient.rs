//! Which mailbox a recipient is, and whether it takes the mail.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use domain::id::{MailboxId, TeamId};
use domain::mailbox::{FilterMode, Mailbox, Status};
use domain::sending_domain::{Mode, SendingDomain};
use domain::team::Team;
use domain::{StreamId, Versioned};
use eventlog::{DirectoryKey, DirectoryTarget, LogError};
use lru::LruCache;
use mail::address::{Address, ForwardPath, ReversePath};

use super::{Destination, Inner, Receiver, Refusal, ReportOn, Route};

/// How many addresses and mailboxes are remembered.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(100_000).expect("it is not zero");
/// How long a mailbox's size is taken from memory, microseconds. What arrives here meanwhile is added.
const USAGE_MICROS: i64 = 5_000_000;

/// A question about a recipient.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The recipient.
    pub path: &'a ForwardPath,
    /// The envelope sender.
    pub sender: &'a ReversePath,
    /// The mail's size, if the sender announced it.
    pub size_octets: Option<u64>,
    /// Who asks; the network it is counted by.
    pub peer: IpAddr,
    /// Whether the rates do not apply to the peer.
    pub trusted: bool,
}

/// Addresses found before. An entry may be old: whoever uses it looks at the mailbox's state, which is not.
pub(super) struct Addresses(Mutex<LruCache<String, Destination>>);

impl Default for Addresses {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED_MAX)))
    }
}

impl Addresses {
    fn get(&self, address: &str) -> Option<Destination> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }

    fn put(&self, address: String, destination: Destination) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(address, destination);
    }

    fn forget(&self, address: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(address);
    }
}

struct Used {
    bytes: i64,
    read_at: i64,
}

/// How full mailboxes are.
pub(super) struct Usage(Mutex<LruCache<MailboxId, Used>>);

impl Default for Usage {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED_MAX)))
    }
}

impl Usage {
    pub(super) fn get(&self, mailbox: &MailboxId, now: i64) -> Option<i64> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(mailbox).filter(|used| now - used.read_at < USAGE_MICROS).map(|used| used.bytes)
    }

    /// Returns what was known of it, however long ago; nothing used where nothing is known.
    pub(super) fn last_known(&self, mailbox: &MailboxId) -> i64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(mailbox).map_or(0, |used| used.bytes)
    }

    pub(super) fn put(&self, mailbox: MailboxId, bytes: i64, now: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(mailbox, Used { bytes, read_at: now });
    }

    /// Takes room for mail that the projection does not show yet, and gives it back when the reservation is dropped
    /// without being kept: of mails that come at the same time, each sees the ones before it.
    pub(super) fn reserve(&self, mailbox: &MailboxId, bytes: i64) -> Reserved<'_> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used_bytes = known.get_mut(mailbox).map_or(0, |used| {
            used.bytes += bytes;
            used.bytes - bytes
        });
        Reserved { usage: self, mailbox: mailbox.clone(), bytes, used_bytes }
    }
}

/// Room that was taken in a mailbox.
pub(super) struct Reserved<'a> {
    usage: &'a Usage,
    mailbox: MailboxId,
    bytes: i64,
    used_bytes: i64,
}

impl Reserved<'_> {
    /// Returns what the mailbox held before.
    pub(super) fn used_bytes(&self) -> i64 {
        self.used_bytes
    }

    /// The mail was written: its room stays taken.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        if let Some(used) = self.usage.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&self.mailbox) {
            // It may have been read anew meanwhile, without this mail: then it shows less for a few seconds.
            used.bytes = used.bytes.saturating_sub(self.bytes).max(0);
        }
    }
}

/// How a recipient was found.
struct Found {
    destination: Destination,
    /// The address it was found by.
    address: String,
    state: Versioned<Mailbox>,
}

impl Receiver {
    /// Returns what becomes of mail for a recipient, if it may come.
    ///
    /// # Errors
    /// Why not.
    pub async fn recipient(&self, asked: Asked<'_>) -> Result<Route, Refusal> {
        if let Some(on) = self.report(&asked)? {
            return Ok(Route::Report(on));
        }
        let Found { destination, state, address } = match self.inner.find(asked.path).await {
            Err(Refusal::NotHosted) if self.is_bounce_domain(asked.path) => self.inner.find_at_home(asked.path).await?,
            found => found?,
        };
        if state.status == Status::Suspended {
            return Err(Refusal::Suspended);
        }
        if !state.admits(asked.sender.address()) {
            return Err(Refusal::SenderRefused);
        }
        // Rules of a mailbox go before those of its domain.
        if state.filter_mode == FilterMode::Off
            && !self.inner.domain_admits(&destination.team, &address, asked.sender.address()).await?
        {
            return Err(Refusal::SenderRefused);
        }
        let announced = asked.size_octets.map_or(0, |octets| i64::try_from(octets).unwrap_or(i64::MAX));
        let used = self.inner.used_bytes(&destination).await;
        // What does not announce its size is measured at the end of its data.
        if used >= state.quota_bytes || used.saturating_add(announced) > state.quota_bytes {
            return Err(Refusal::OverQuota);
        }
        if !asked.trusted && !self.inner.rates.admit(&destination.mailbox, asked.peer, self.inner.allot.now()) {
            return Err(Refusal::TooFast);
        }
        let sender = asked.sender.address().map_or("", Address::as_str);
        let (mailbox, now) = (destination.mailbox.as_str(), self.inner.allot.now());
        if !asked.trusted && !self.inner.greylist.admit(asked.peer, sender, mailbox, now) {
            return Err(Refusal::Greylisted);
        }
        Ok(Route::Mailbox(destination))
    }

    /// Returns what mail for a recipient reports on, if the recipient is a return path or the address for reports.
    fn report(&self, asked: &Asked<'_>) -> Result<Option<ReportOn>, Refusal> {
        let (Some(returns), Some(address)) = (&self.returns, asked.path.address()) else { return Ok(None) };
        let Some(on) = returns.recognise(address) else { return Ok(None) };
        let now = self.inner.allot.now();
        if asked.trusted || self.inner.rates.admit_report(asked.peer, now) {
            Ok(Some(on))
        } else {
            Err(Refusal::TooFast)
        }
    }

    fn is_bounce_domain(&self, path: &ForwardPath) -> bool {
        let at_home = |address| self.returns.as_ref().is_some_and(|returns| returns.is_home(address));
        path.address().is_some_and(at_home)
    }
}

impl Inner {
    async fn find(&self, path: &ForwardPath) -> Result<Found, Refusal> {
        let Some(address) = path.address() else { return self.find_postmaster().await };
        if let Some(found) = self.find_mailbox(address).await? {
            return Ok(found);
        }
        if let Some(base) = address.without_tag()
            && let Some(found) = self.find_mailbox(&base).await?
        {
            return Ok(found);
        }
        let domain = self.log.find(&DirectoryKey::Domain(address.domain().to_owned())).await.map_err(unavailable)?;
        let team = domain.ok_or(Refusal::NotHosted)?.team;
        if address.base_local().eq_ignore_ascii_case("postmaster") {
            return self.find_postmaster().await;
        }
        if self.receives(&team, address.domain()).await? {
            Err(Refusal::UnknownMailbox)
        } else {
            Err(Refusal::NotReceiving)
        }
    }

    /// At the bounce domain there are return paths of ours and whoever runs this host, and nobody else.
    async fn find_at_home(&self, path: &ForwardPath) -> Result<Found, Refusal> {
        // RFC 2142 §4: whoever is troubled by what comes from here writes to `abuse`.
        let is_operator = |address: &Address| {
            ["postmaster", "abuse"].iter().any(|name| address.base_local().eq_ignore_ascii_case(name))
        };
        match path.address().filter(|address| is_operator(address)) {
            Some(_) => self.find_postmaster().await,
            None => Err(Refusal::UnknownMailbox),
        }
    }

    /// RFC 5321 §4.5.1: whoever runs this host is reachable, if the configuration names a mailbox.
    async fn find_postmaster(&self) -> Result<Found, Refusal> {
        match &self.options.postmaster_mailbox {
            Some(address) => self.find_mailbox(address).await?.ok_or(Refusal::UnknownMailbox),
            None => Err(Refusal::UnknownMailbox),
        }
    }

    /// Returns the open mailbox of exactly this address.
    async fn find_mailbox(&self, address: &Address) -> Result<Option<Found>, Refusal> {
        let address = address.canonical();
        if let Some(destination) = self.addresses.get(&address) {
            if let Some(found) = self.open(destination, &address).await? {
                return Ok(Some(found));
            }
            // The mailbox was closed; its address may be another's now.
            self.addresses.forget(&address);
        }
        let entry = self.log.find(&DirectoryKey::Address(address.clone())).await.map_err(unavailable)?;
        let Some(entry) = entry else { return Ok(None) };
        let DirectoryTarget::Mailbox { id } = entry.target else { return Ok(None) };
        let found = self.open(Destination { team: entry.team, mailbox: id }, &address).await?;
        if let Some(found) = &found {
            self.addresses.put(found.address.clone(), found.destination.clone());
        }
        Ok(found)
    }

    async fn open(&self, destination: Destination, address: &str) -> Result<Option<Found>, Refusal> {
        let stream = StreamId::Mailbox(destination.mailbox.clone());
        let state: Versioned<Mailbox> = self.log.state(&destination.team, &[stream]).await.map_err(unavailable)?;
        Ok(match state.status {
            Status::Active | Status::Suspended => Some(Found { destination, address: address.to_owned(), state }),
            Status::Absent | Status::Closed => None,
        })
    }

    async fn receives(&self, team: &TeamId, domain: &str) -> Result<bool, Refusal> {
        let team: Versioned<Team> = self.log.state(team, &[StreamId::Team]).await.map_err(unavailable)?;
        Ok(team.domains.get(domain).is_some_and(|d| d.verified && d.mode == Mode::SendReceive))
    }

    /// Returns whether the rules of a mailbox's domain let a sender write to it.
    async fn domain_admits(&self, team: &TeamId, address: &str, sender: Option<&Address>) -> Result<bool, Refusal> {
        let owner: Versioned<Team> = self.log.state(team, &[StreamId::Team]).await.map_err(unavailable)?;
        let name = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let Some(owned) = owner.domains.get(name) else { return Ok(true) };
        let stream = StreamId::Domain(owned.id.clone());
        let domain: Versioned<SendingDomain> = self.log.state(team, &[stream]).await.map_err(unavailable)?;
        Ok(domain.admits(sender))
    }

    /// Returns the address of a mailbox, as the log knows it.
    pub(super) async fn own_address(&self, Destination { team, mailbox }: &Destination) -> Option<String> {
        let state = self.log.state::<Versioned<Mailbox>>(team, &[StreamId::Mailbox(mailbox.clone())]).await;
        state.ok().and_then(|mailbox| mailbox.email.clone())
    }
}

pub(super) fn unavailable(error: LogError) -> Refusal {
    tracing::warn!(error = %error, "the log could not be read for incoming mail");
    Refusal::Unavailable
}
