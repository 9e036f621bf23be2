//! The servers that a database URL names: one, or a primary and standbys that may take its place.
//!
//! A URL may list hosts, `postgres://user@one:5432,two:5432/postlog`: connections go to the one that takes writes. A task
//! asks it now and then. When it does not answer, or takes no writes any more, whatever waits for it is given up, the
//! others are asked, and all pools are pointed to the one that does; connections from before are not used again.
//!
//! A standby that is promoted begins a new timeline. A server of an older timeline than one that was seen is a primary
//! that was replaced: it is never written to again by a node that has seen its successor.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the server is asked whether it is still there.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long a server that has answered before may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long each server may take to answer while the primary is looked for.
const FIND_WITHIN: Duration = Duration::from_secs(2);
/// How long a connection that is tried before or after use may take to answer.
const TRY_WITHIN: Duration = Duration::from_secs(2);

/// Asks a server that may be one of several: its timeline if it takes writes, else nothing, and since when it runs.
const WHO: &str = "
SELECT CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
       pg_postmaster_start_time()::text";
/// Asks the only server, which may be no PostgreSQL proper.
const THERE: &str = "SELECT ''::text, ''::text";

type Prepare = Box<dyn Fn(PgConnectOptions) -> PgConnectOptions + Send + Sync>;

/// What is known of the primary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct State {
    /// Which of the hosts it is.
    host: usize,
    /// Its timeline and since when it runs, once it has said so.
    identity: (String, String),
    /// How often it was given up.
    losses: u64,
    /// When that was last, or another took its place: connections from before are of no use.
    broken_at: Option<Instant>,
    /// Whether it answers as far as known.
    is_silent: bool,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Servers {
    inner: Arc<Inner>,
}

struct Inner {
    hosts: Vec<PgConnectOptions>,
    state: watch::Sender<State>,
    pools: Mutex<Vec<(PgPool, Prepare)>>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options hold a password.
        f.debug_struct("Servers").field("hosts", &self.inner.hosts.len()).finish_non_exhaustive()
    }
}

/// Tells whoever waits for the server that it was given up. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Answering(watch::Receiver<State>);

impl Answering {
    /// Carries out work with the server, and ends it with an error should the server be given up meanwhile: then it is not
    /// known whether the work was done.
    ///
    /// # Errors
    /// Those of the work, or that the server was given up.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let mut state = self.0.clone();
        let losses = state.borrow_and_update().losses;
        tokio::select! {
            biased;
            done = work => done,
            Ok(_) = state.wait_for(|state| state.losses != losses) => {
                Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the PostgreSQL server does not answer any more").into())
            }
        }
    }

    /// Returns whether a connection may be used: it is not older than the last loss, and answers if there is a doubt.
    async fn is_usable(
        &self,
        connection: &mut PgConnection,
        metadata: PoolConnectionMetadata,
        trusted_idle: Duration,
    ) -> Result<bool, sqlx::Error> {
        let (broken_at, is_silent) = {
            let state = self.0.borrow();
            (state.broken_at, state.is_silent)
        };
        if broken_at.is_some_and(|at| metadata.age >= at.elapsed()) {
            return Ok(false);
        }
        if is_silent || metadata.idle_for > trusted_idle {
            let answer = tokio::time::timeout(TRY_WITHIN, connection.ping()).await;
            answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))?;
        }
        Ok(true)
    }
}

impl FromStr for Servers {
    type Err = sqlx::Error;

    /// Reads a URL with one host or several, separated by commas.
    fn from_str(url: &str) -> Result<Self, sqlx::Error> {
        let hosts = each_host(url).iter().map(|url| url.parse()).collect::<Result<Vec<PgConnectOptions>, _>>()?;
        let hosts =
            hosts.into_iter().map(|host| host.application_name("postlog").disable_statement_logging()).collect();
        let inner = Inner { hosts, state: watch::channel(State::default()).0, pools: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Servers {
    /// Returns what guards work with the server.
    #[must_use]
    pub fn answering(&self) -> Answering {
        Answering(self.inner.state.subscribe())
    }

    /// Opens a pool of connections to the primary. `prepare` adds to how each connects; one that rested for longer than
    /// `trusted_idle` is tried before it is used.
    ///
    /// # Errors
    /// No server takes writes, or the one that does refuses.
    pub async fn pool(
        &self,
        pool: PgPoolOptions,
        trusted_idle: Duration,
        prepare: impl Fn(PgConnectOptions) -> PgConnectOptions + Send + Sync + 'static,
    ) -> Result<PgPool, sqlx::Error> {
        if self.inner.hosts.len() > 1 && self.inner.state.borrow().identity.0.is_empty() {
            let (host, identity) = self.find().await?;
            self.inner.state.send_modify(|state| (state.host, state.identity) = (host, identity));
        }
        let (before, after) = (self.answering(), self.answering());
        let pool = pool
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| {
                let answering = before.clone();
                Box::pin(async move { answering.is_usable(connection, metadata, trusted_idle).await })
            })
            .after_release(move |connection, metadata| {
                let answering = after.clone();
                Box::pin(async move { answering.is_usable(connection, metadata, Duration::MAX).await })
            })
            .connect_with(prepare(self.primary()))
            .await?;
        let mut pools = self.inner.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have become the primary meanwhile.
        pool.set_connect_options(prepare(self.primary()));
        // Pools of scratch schemas come and go.
        pools.retain(|(pool, _)| !pool.is_closed());
        pools.push((pool.clone(), Box::new(prepare)));
        Ok(pool)
    }

    /// Asks the primary whether it is there until told to stop, and finds its successor when it is not.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut connection = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look(&mut connection) => {}
            }
        }
    }

    fn primary(&self) -> PgConnectOptions {
        let host = self.inner.state.borrow().host;
        self.inner.hosts[host].clone()
    }

    /// Asks once; a server that is silent is given up and another looked for.
    async fn look(&self, connection: &mut Option<PgConnection>) {
        let identity = self.inner.state.borrow().identity.clone();
        let asked = tokio::time::timeout(SILENCE, async {
            if connection.is_none() {
                *connection = Some(PgConnection::connect_with(&self.primary()).await?);
            }
            match connection.as_mut() {
                Some(connection) => self.ask(connection).await,
                None => Err(sqlx::Error::PoolClosed),
            }
        });
        let answer = asked.await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
        match &answer {
            Ok(said) if *said == identity => {
                self.inner.state.send_if_modified(|state| std::mem::take(&mut state.is_silent));
                return;
            }
            _ => *connection = None,
        }
        let was_silent = matches!(answer, Err(sqlx::Error::PoolTimedOut));
        if self.is_found(&identity, was_silent).await {
            return;
        }
        let first = !self.inner.state.borrow().is_silent;
        if first {
            let why = answer.err().map_or_else(|| "it takes no writes any more".to_owned(), |e| e.to_string());
            tracing::warn!(why, "the PostgreSQL server is given up; looking for it, or its successor");
            metrics::counter!("postgres_losses_total").increment(1);
            self.inner.state.send_modify(|state| {
                state.losses += 1;
                state.is_silent = true;
                state.broken_at = Some(Instant::now());
            });
        }
    }

    /// Looks for the primary; returns whether there is one to go on with. One that was restarted, or was silent, or has
    /// taken over, ends whatever waits for the one before.
    async fn is_found(&self, before: &(String, String), was_silent: bool) -> bool {
        let Ok((host, identity)) = self.find().await else { return false };
        // Of an only server it is not known since when it runs.
        let is_same = identity == *before && self.inner.hosts.len() > 1;
        self.inner.state.send_modify(|state| {
            if !is_same || was_silent || state.is_silent || host != state.host {
                state.losses += 1;
                state.broken_at = Some(Instant::now());
            }
            (state.host, state.identity, state.is_silent) = (host, identity, false);
        });
        for (pool, prepare) in self.inner.pools.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            pool.set_connect_options(prepare(self.primary()));
        }
        tracing::warn!(host, "a PostgreSQL server takes writes; going on with it");
        true
    }

    /// Asks every host, and returns the one that takes writes; of several the one that was promoted last.
    async fn find(&self) -> Result<(usize, (String, String)), sqlx::Error> {
        let seen = self.inner.state.borrow().identity.0.clone();
        let asked = self.inner.hosts.iter().map(|host| async {
            let asked = async { self.ask(&mut PgConnection::connect_with(host).await?).await };
            tokio::time::timeout(FIND_WITHIN, asked).await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))
        });
        let mut best: Option<(usize, (String, String))> = None;
        let mut error = None;
        for (host, answer) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
            match answer {
                // Timelines are eight hexadecimal digits: they sort as texts.
                Ok(said) if said.0 >= seen && (self.inner.hosts.len() == 1 || !said.0.is_empty()) => {
                    if best.as_ref().is_none_or(|(_, (timeline, _))| *timeline < said.0) {
                        best = Some((host, said));
                    }
                }
                Ok(_) => {}
                Err(e) => error = Some(e),
            }
        }
        best.ok_or_else(|| {
            error.unwrap_or_else(|| sqlx::Error::Configuration("no server of the URL takes writes".into()))
        })
    }

    async fn ask(&self, connection: &mut PgConnection) -> Result<(String, String), sqlx::Error> {
        let question = if self.inner.hosts.len() > 1 { WHO } else { THERE };
        sqlx::query_as(question).fetch_one(connection).await
    }
}

/// Returns a URL for each host that a URL lists, without what only other clients understand.
fn each_host(url: &str) -> Vec<String> {
    let (url, parameters) = url.split_once('?').unwrap_or((url, ""));
    let kept: Vec<_> =
        parameters.split('&').filter(|p| !p.is_empty() && !p.starts_with("target_session_attrs=")).collect();
    let parameters = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    let Some((scheme, rest)) = url.split_once("://") else { return vec![format!("{url}{parameters}")] };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (user, hosts) = authority.rfind('@').map_or(("", authority), |at| authority.split_at(at + 1));
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{path}{parameters}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_list_hosts() {
        assert_eq!(each_host("postgres://u@h/d"), ["postgres://u@h/d"]);
        assert_eq!(
            each_host("postgres://u:p,w@one:5433,two/d?sslmode=require&target_session_attrs=read-write"),
            ["postgres://u:p,w@one:5433/d?sslmode=require", "postgres://u:p,w@two/d?sslmode=require"]
        );
        assert_eq!(each_host("postgres://%2Ftmp%2Fa,%2Ftmp%2Fb/d").len(), 2);
        let servers: Servers = "postgres://u:secret@one,two/d".parse().unwrap();
        assert_eq!(servers.inner.hosts[1].get_host(), "two");
        assert!(!format!("{servers:?}").contains("secret"));
    }

    #[tokio::test]
    async fn what_waits_for_a_server_ends_when_it_is_given_up() {
        let servers: Servers = "postgres://u@one/d".parse().unwrap();
        let answering = servers.answering();
        let waiting = answering.guard(std::future::pending::<Result<(), sqlx::Error>>());
        let loses = async { servers.inner.state.send_modify(|state| state.losses += 1) };
        let (ended, ()) = tokio::join!(waiting, loses);
        assert!(matches!(ended, Err(sqlx::Error::Io(_))));
        assert!(answering.guard(async { Ok(7) }).await.is_ok(), "what comes after is not concerned");
    }
}
