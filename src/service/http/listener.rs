//! A place where connections come in.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::asked::Peer;
use super::connections::{Connections, Seat};
use super::exchange::{Visit, exchange};
use super::limits::{END_WITHIN, HEAD, HEAD_WITHIN, Limits};
use super::stream::{Stream, Wire};
use super::tls::Certificate;
use crate::service::journal::{Level, say};
use crate::service::socket::Socket;

/// How many connections that were told to go may still be going.
const GOING: usize = 64;
/// How long to wait when the system has no more to give.
const BREATH: Duration = Duration::from_millis(100);
/// What whoever finds no place reads.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
    Content-Length: 66\r\nConnection: close\r\n\r\n{\"reason\":\"there are too many connections: try again in a moment\"}";

/// A place where connections come in.
#[derive(Debug)]
pub(super) struct Listener {
    door: Door,
    connections: Connections,
    limits: Limits,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener, Option<Certificate>),
    Socket(Socket, Peer),
}

/// A connection that came in; with TLS it must be greeted first.
enum Arrival {
    Tcp(TcpStream),
    Tls(TcpStream, Certificate),
    Socket(UnixStream),
}

impl Listener {
    /// Listens on an address of the network.
    pub(super) async fn tcp(
        address: SocketAddr,
        certificate: Option<Certificate>,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| anyhow::anyhow!(explain(&error)));
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        Ok(Self::at(Door::Tcp(listener, certificate), limits))
    }

    /// Listens on a socket in the file system.
    pub(super) async fn socket(path: PathBuf, mode: u32, peer: Peer, limits: Limits) -> anyhow::Result<Self> {
        Ok(Self::at(Door::Socket(Socket::bind(path, mode).await?, peer), limits))
    }

    fn at(door: Door, limits: Limits) -> Self {
        Self { door, connections: Connections::new(limits.connections), limits }
    }

    /// The address of the network, if it is one: the port is known only now if any would do.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &self.door {
            Door::Tcp(listener, _) => listener.local_addr().ok(),
            Door::Socket(..) => None,
        }
    }

    /// Serves whoever comes in until `stop` fires; then nobody can come in any more, and those who are there get a
    /// moment to end.
    pub(super) async fn serve(self, http: Arc<Context>, stop: CancellationToken) {
        let mut visits = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_ended) = visits.join_next(), if !visits.is_empty() => {}
                accepted = self.door.accept(), if visits.len() < self.limits.connections + GOING => match accepted {
                    Ok((arrival, from)) => self.admit(arrival, from, &http, &stop, &mut visits),
                    Err(error) => self.recover(&error).await,
                },
            }
        }
        drop(self.door);
        // Those who do not end are cut when the set is dropped.
        let all = async { while visits.join_next().await.is_some() {} };
        let _cut = tokio::time::timeout(END_WITHIN, all).await;
    }

    fn admit(
        &self,
        arrival: Arrival,
        from: Peer,
        http: &Arc<Context>,
        stop: &CancellationToken,
        visits: &mut JoinSet<()>,
    ) {
        match self.connections.admit() {
            Some(seat) => {
                visits.spawn(attend(arrival, from, seat, Arc::clone(http), self.limits, stop.clone()));
            }
            None => turn_away(&arrival),
        }
    }

    /// After a connection could not be taken.
    async fn recover(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            say(Level::Warning, format_args!("take a connection: {error}"));
            self.connections.evict_one();
            tokio::time::sleep(BREATH).await;
        }
    }
}

impl Door {
    async fn accept(&self) -> io::Result<(Arrival, Peer)> {
        match self {
            Self::Tcp(listener, certificate) => {
                let (stream, from) = listener.accept().await?;
                // Answers are written whole; waiting for more would only delay them.
                stream.set_nodelay(true)?;
                let peer = Peer::Address(from.ip().to_canonical());
                Ok(match certificate {
                    Some(certificate) => (Arrival::Tls(stream, certificate.clone()), peer),
                    None => (Arrival::Tcp(stream), peer),
                })
            }
            Self::Socket(socket, peer) => Ok((Arrival::Socket(socket.accept().await?), *peer)),
        }
    }
}

/// Serves one connection to its end.
async fn attend(arrival: Arrival, from: Peer, seat: Seat, http: Arc<Context>, limits: Limits, stop: CancellationToken) {
    let evicted = seat.evicted().clone();
    let visit = Visit { from, seat: Arc::new(seat), unread: Arc::new(AtomicBool::new(false)) };
    tokio::select! {
        () = evicted.cancelled() => {}
        () = converse(arrival, visit, http, limits, stop) => {}
    }
}

async fn converse(arrival: Arrival, visit: Visit, http: Arc<Context>, limits: Limits, stop: CancellationToken) {
    let wire: Box<dyn Wire> = match arrival {
        Arrival::Tcp(stream) => Box::new(stream),
        Arrival::Socket(stream) => Box::new(stream),
        Arrival::Tls(stream, certificate) => tokio::select! {
            () = stop.cancelled() => return,
            greeted = certificate.greet(stream) => match greeted {
                Some(stream) => Box::new(stream),
                None => return,
            },
        },
    };
    let stream = Stream::new(wire, limits.write_within, Arc::clone(&visit.unread));
    let service = service_fn(move |request| exchange(Arc::clone(&http), visit.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD)
        .max_header_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // What ends a connection early is the other side's doing, and its loss.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

/// Says so, if that can be done at once and is understood.
fn turn_away(arrival: &Arrival) {
    let written = match arrival {
        Arrival::Tcp(stream) => stream.try_write(FULL),
        Arrival::Socket(stream) => stream.try_write(FULL),
        Arrival::Tls(..) => return,
    };
    // Then it is closed without a word.
    drop(written);
}

fn explain(error: &io::Error) -> String {
    let way_out = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there: stop it, or set another `listen` in [service] (`ss -ltnp` shows who it is)"
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address: `ip address` shows those it has",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a right of their own: set another `listen` in [service]"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {way_out}")
}
