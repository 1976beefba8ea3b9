//! Administrators: who they are, and the tokens that they log in for.
//!
//! A token is 256 random bits, of which only a digest is kept, in memory and in the ledger. It counts until it expires,
//! is given up, or its administrator has another password or is gone, whichever comes first; the users file is looked at
//! each time. Passwords are checked one at a time, and those who guess are slowed down.

mod sessions;
mod throttle;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::sessions::Sessions;
use self::throttle::Throttle;
use super::daemon::Daemon;
use super::http::Peer;
use super::journal::{Level, say};
use crate::ledger::Session;
use crate::model::account::{Account, Accounts};
use crate::model::digest::{Algorithm, Digest};
use crate::model::password::{PasswordHash, SALT_BYTES};

/// The random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// How many passwords are checked at once: each takes a processor and 19 MiB for a while.
const CHECKS_AT_ONCE: usize = 1;
/// How long somebody waits for others' passwords to be checked.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// How much of what somebody typed as an address goes into the journal.
const SHOWN_EMAIL: usize = 64;

/// Who may start, stop and change things; clones are the same one.
#[derive(Clone, Debug)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    daemon: Daemon,
    sessions: Mutex<Sessions>,
    throttle: Mutex<Throttle>,
    checks: Arc<Semaphore>,
    check_within: Duration,
}

/// An administrator who has logged in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// What proves it from now on.
    pub token: String,
    /// The administrator.
    pub email: String,
    /// What the administrator is called.
    pub display_name: String,
    /// When the token ends.
    pub expires: Timestamp,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("email", &self.email).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginRefusal {
    /// There is no such administrator, or the password is another; which of the two is not told.
    #[error("the e-mail address or the password is wrong")]
    Wrong,
    /// There were too many wrong ones; the password was not looked at.
    #[error("too many failed logins: try again in {} s", .0.as_secs_f64().ceil())]
    Slowed(Duration),
    /// There are no administrators.
    #[error("there are no administrators yet: `holdfast passwd EMAIL` adds one")]
    Nobody,
    /// Too many log in at once.
    #[error("too many log in at once: try again in a moment")]
    Busy,
    /// It should have worked; the chain is for the journal, not for whoever asked.
    #[error("internal error: the journal of the service says more")]
    Internal(#[source] anyhow::Error),
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator {
    /// The e-mail address.
    pub email: String,
}

/// What is kept of a new password.
pub fn hash(password: &str) -> anyhow::Result<PasswordHash> {
    Ok(PasswordHash::of(password, random::<SALT_BYTES>()?))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("get random bytes from the system")?;
    Ok(bytes)
}

fn digest_of(token: &str) -> Digest {
    Digest::of(Algorithm::Sha256, token.as_bytes())
}

impl Access {
    /// With the sessions that are on record.
    pub fn open(daemon: &Daemon) -> anyhow::Result<Self> {
        Self::open_patient(daemon, CHECK_WITHIN)
    }

    /// The same, where whoever logs in waits that long for others' passwords to be checked.
    pub fn open_patient(daemon: &Daemon, check_within: Duration) -> anyhow::Result<Self> {
        // What is wrong with the users file is said when the service starts, rather than when somebody needs it.
        drop(daemon.site().accounts());
        let sessions = Sessions::new(daemon.ledger().sessions()?);
        Ok(Self(Arc::new(Inner {
            daemon: daemon.clone(),
            sessions: Mutex::new(sessions),
            throttle: Mutex::default(),
            checks: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
            check_within,
        })))
    }

    /// Whose address and password these are, for one call; slowed down like a login, and no session begins.
    pub async fn prove(&self, email: &str, password: &str, from: Peer) -> Result<Administrator, LoginRefusal> {
        self.admit(email, password, from).await.map(|account| Administrator { email: account.email })
    }

    /// Logs an administrator in.
    pub async fn login(&self, email: &str, password: &str, from: Peer) -> Result<Login, LoginRefusal> {
        let account = self.admit(email, password, from).await?;
        let login = self.begin(account).await.map_err(LoginRefusal::Internal)?;
        say(Level::Info, format_args!("{} logged in from {from}", login.email));
        Ok(login)
    }

    /// The account with that address and password; those who guess are slowed down.
    async fn admit(&self, email: &str, password: &str, from: Peer) -> Result<Account, LoginRefusal> {
        let attempt = self.throttle().begin(from, email, Instant::now()).map_err(LoginRefusal::Slowed)?;
        let checked = self.look_up(email, password).await;
        if checked.is_err() {
            self.throttle().retract(&attempt);
        }
        let Some(account) = checked? else {
            let shown: String = email.chars().take(SHOWN_EMAIL).flat_map(char::escape_debug).collect();
            say(Level::Warning, format_args!("a login as `{shown}` from {from} failed"));
            return Err(LoginRefusal::Wrong);
        };
        self.throttle().forgive(&attempt);
        Ok(account)
    }

    /// The account with that address and password, if there is one.
    async fn look_up(&self, email: &str, password: &str) -> Result<Option<Account>, LoginRefusal> {
        let accounts = self.accounts().await.map_err(LoginRefusal::Internal)?;
        if accounts.is_empty() {
            return Err(LoginRefusal::Nobody);
        }
        self.check(&accounts, email, password).await
    }

    /// The account, if that is its password. One that does not exist takes as long.
    async fn check(&self, accounts: &Accounts, email: &str, password: &str) -> Result<Option<Account>, LoginRefusal> {
        let account = accounts.find(email).cloned();
        let Some(hash) = account.as_ref().or_else(|| accounts.all().next()).map(|account| account.password.clone())
        else {
            return Ok(None);
        };
        let waited = tokio::time::timeout(self.0.check_within, Arc::clone(&self.0.checks).acquire_owned()).await;
        let Ok(Ok(permit)) = waited else { return Err(LoginRefusal::Busy) };
        let password = password.to_owned();
        let right = tokio::task::spawn_blocking(move || {
            // Held here: whoever asked may go, and the thread works on.
            let _permit = permit;
            hash.is_of(&password)
        });
        let right = right.await.context("check a password").map_err(LoginRefusal::Internal)?;
        Ok(account.filter(|_| right))
    }

    async fn begin(&self, account: Account) -> anyhow::Result<Login> {
        let token = Digest::Sha256(random::<TOKEN_BYTES>()?).to_string();
        let now = self.0.daemon.clock().now();
        let lasts = SignedDuration::try_from(self.0.daemon.site().session()).context("find the end of a session")?;
        let expires = now.checked_add(lasts).context("find the end of a session")?;
        let session = Session {
            token: digest_of(&token),
            email: account.email.clone(),
            proof: account.password.proof(),
            expires,
        };
        let ended = self.sessions().begin(&session, now);
        if let Err(error) = self.record(Some(session), ended).await {
            // A full disk is when an administrator is needed most.
            say(
                Level::Warning,
                format_args!("{error:#}: the login of {} ends when the service is started anew", account.email),
            );
        }
        let display_name = account.display_name().to_owned();
        Ok(Login { token, email: account.email, display_name, expires })
    }

    /// Whose token that is: nobody's if it is unknown, has expired, or belongs to a password that is no longer.
    pub async fn administrator(&self, token: &str) -> anyhow::Result<Option<Administrator>> {
        let token = digest_of(token);
        let site = self.0.daemon.site();
        let now = self.0.daemon.clock().now();
        let Some(session) = self.sessions().get(&token, now, site.session()) else { return Ok(None) };
        let accounts = self.accounts().await?;
        let account = accounts.find(&session.email).filter(|account| account.password.proof() == session.proof);
        if let Some(account) = account {
            return Ok(Some(Administrator { email: account.email.clone() }));
        }
        let ended = self.sessions().end(&token);
        if let Err(error) = self.record(None, ended).await {
            // It is over all the same: another start would find that out as well.
            say(Level::Warning, format_args!("{error:#}"));
        }
        Ok(None)
    }

    /// Ends a token; whether there was one. An error means that it may count again once the service is started anew.
    pub async fn logout(&self, token: &str) -> anyhow::Result<bool> {
        let token = digest_of(token);
        let ended = self.sessions().end(&token);
        let was = ended.contains(&token);
        self.record(None, ended).await?;
        Ok(was)
    }

    /// Records in the ledger what has changed; what cannot be recorded now is tried again with the next change.
    async fn record(&self, begun: Option<Session>, ended: Vec<Digest>) -> anyhow::Result<()> {
        if begun.is_none() && ended.is_empty() {
            return Ok(());
        }
        let ledger = Arc::clone(self.0.daemon.ledger());
        let tokens = ended.clone();
        let recorded = tokio::task::spawn_blocking(move || ledger.change_sessions(begun.as_ref(), &tokens)).await;
        let recorded = recorded.context("record who is logged in").flatten();
        if recorded.is_err() {
            self.sessions().still_on_record(ended);
        }
        recorded
    }

    async fn accounts(&self) -> anyhow::Result<Arc<Accounts>> {
        let site = self.0.daemon.site();
        tokio::task::spawn_blocking(move || site.accounts()).await.context("read who may log in")?
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.0.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
