//! The service over HTTP: the calls of people and programs, and those of commands over the socket in the state
//! directory.
//!
//! A connection comes in at a `listener`, which knows how many there may be; each of its requests is read
//! whole by `exchange`, found by `router`, and answered by `calls`. Everything has a
//! limit, and all of them stand in `limits`.

mod answer;
mod asked;
mod calls;
mod connections;
mod discreet;
mod exchange;
mod fcr;
mod hosts;
mod limits;
mod listener;
mod openapi;
mod router;
mod stream;
mod synapse;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::limits::Places;
use self::listener::Listener;
use super::access::Access;
use super::control::socket_in;
use super::daemon::Daemon;
use super::reload::Reloads;
use crate::model::address::Address;

pub use answer::Answer;
pub use asked::{Asked, Caller, Peer};
pub use limits::Limits;
pub use router::routes;
pub use tls::{Certificate, TlsFiles};

/// Threads that read the ledger, compute the hashes of passwords, and so on: more than there are places for calls.
const BLOCKING: usize = 64;
/// Only who runs the service, and root.
const CONTROL_MODE: u32 = 0o600;
/// Who runs the service, and its group.
const SOCKET_MODE: u32 = 0o660;

/// Where the service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// The state directory, which gets a socket of its own.
    pub state_dir: PathBuf,
    /// Where else; nowhere if empty.
    pub listen: Vec<Address>,
    /// The certificate for what is reached over the network; none for plain text.
    pub tls: Option<TlsFiles>,
    /// Whether others may be reached in plain text, where everybody on the way reads tokens and passwords.
    pub allow_plaintext_beyond_loopback: bool,
    /// The names by which this machine is asked for, beside its addresses and localhost.
    pub hosts: Vec<String>,
    /// What each of its listeners holds at most.
    pub limits: Limits,
}

/// The service's listeners, which nobody serves yet: connections wait.
#[derive(Debug)]
pub struct Http {
    listeners: Vec<Listener>,
    certificate: Option<Certificate>,
    hosts: Vec<String>,
}

/// What calls are answered with.
#[derive(Debug)]
struct Context {
    daemon: Daemon,
    access: Access,
    reloads: Reloads,
    hosts: Vec<String>,
    places: Places,
    /// For the commands of this machine, from whom nobody else may take a place.
    control_places: Places,
    /// Where the runs are, and calls that work for long.
    runs: Handle,
}

impl Context {
    /// Where whoever asks finds a place.
    fn places(&self, asked: &Asked) -> &Places {
        if asked.caller.is_local() { &self.control_places } else { &self.places }
    }

    /// Works where the runs do; given up when whoever asked does not wait any more.
    async fn among_runs<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, Answer> {
        let mut working = JoinSet::new();
        working.spawn_on(work, &self.runs);
        let ended = working.join_next().await;
        let ended = ended.context("work among the runs").and_then(|ended| ended.context("work among the runs"));
        ended.map_err(|error| Answer::internal(&error))
    }
}

impl Http {
    /// Listens everywhere, or nowhere.
    pub async fn bind(settings: HttpSettings) -> anyhow::Result<Self> {
        let HttpSettings { state_dir, listen, tls, allow_plaintext_beyond_loopback, hosts, limits } = settings;
        let certificate = tls.as_ref().map(Certificate::read).transpose()?;
        let control = Listener::socket(socket_in(&state_dir), CONTROL_MODE, Peer::Control, limits).await?;
        let mut listeners = vec![control];
        for address in listen {
            if !address.is_local() && certificate.is_none() && !allow_plaintext_beyond_loopback {
                bail!(
                    "listen on {address}: others reach this address, and would see tokens and passwords in plain text; \
                     set `tls` in [service], or `allow_plaintext_beyond_loopback = true`"
                );
            }
            listeners.push(match address {
                Address::Tcp(address) => Listener::tcp(address, certificate.clone(), limits).await?,
                Address::Unix(path) => Listener::socket(path, SOCKET_MODE, Peer::Socket, limits).await?,
            });
        }
        Ok(Self { listeners, certificate, hosts })
    }

    /// Whether the service could listen there now; the error says what to do.
    pub async fn try_address(address: &Address) -> anyhow::Result<()> {
        let limits = Limits::default();
        match address {
            Address::Tcp(address) => Listener::tcp(*address, None, limits).await.map(drop),
            Address::Unix(path) => Listener::socket(path.clone(), SOCKET_MODE, Peer::Socket, limits).await.map(drop),
        }
    }

    /// The addresses of the network that it listens on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(Listener::address).collect()
    }

    /// The certificate, to be renewed when the configuration is read again.
    pub fn certificate(&self) -> Option<Certificate> {
        self.certificate.clone()
    }

    /// Serves whoever connects until `stop` fires, on a thread of its own: the threads of the runs have enough to do,
    /// and an answer must not wait in their queues. Calls that work for long are done there all the same.
    pub async fn serve(
        self,
        daemon: Daemon,
        access: Access,
        reloads: Reloads,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let (places, control_places) = (Places::default(), Places::default());
        let runs = Handle::current();
        let context = Context { daemon, access, reloads, hosts: self.hosts, places, control_places, runs };
        let stop = stop.child_token();
        // The thread ends when nobody waits for it any more.
        let _stop_with_us = stop.clone().drop_guard();
        let (ending, ended) = oneshot::channel();
        let serving = serve(self.listeners, Arc::new(context), stop);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING)
            .build()
            .context("start the thread for HTTP")?;
        let work = move || {
            let served = runtime.block_on(serving);
            // What still reads the ledger must not keep the service from ending.
            runtime.shutdown_background();
            // Whoever waited may have gone.
            drop(ending.send(served));
        };
        std::thread::Builder::new().name("http".to_owned()).spawn(work).context("start the thread for HTTP")?;
        ended.await.context("the thread for HTTP panicked")?
    }
}

async fn serve(listeners: Vec<Listener>, context: Arc<Context>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(listener.serve(Arc::clone(&context), stop.clone()));
    }
    while let Some(ended) = serving.join_next().await {
        ended.context("serve HTTP")?;
    }
    Ok(())
}
