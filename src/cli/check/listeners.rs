//! Where the service listens, and what it shows there: whether it could start now.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use tokio::net::UnixStream;

use super::Findings;
use crate::cli::serve;
use crate::config::{Config, Tls};
use crate::ledger::{InUse, StateLock};
use crate::model::address::Address;
use crate::service::control::socket_in;
use crate::service::http::{Certificate, Http};

/// A certificate that ends within this should have been renewed.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Looks at the certificate and at each address; `ours` tells that nobody else works in the state directory.
pub(super) async fn check(findings: &mut Findings, config: &Config, ours: bool, now: Timestamp) {
    if let Some(tls) = &config.service.tls {
        certificate(findings, tls, now);
    }
    let service = if ours { None } else { running(config) };
    for address in &config.service.listen {
        let subject = format!("listener {address}");
        listener(findings, &subject, address, service).await;
    }
    if ours {
        // The service needs it as well, and its path may be too long for a socket.
        let socket = Address::Unix(socket_in(&config.service.state_dir));
        if let Err(error) = Http::try_address(&socket).await {
            findings.warning(
                "listener of commands",
                format!("{error:#}"),
                "until then `holdfast serve` does not start, or set another `state_dir` in [service]",
            );
        }
    }
}

fn certificate(findings: &mut Findings, tls: &Tls, now: Timestamp) {
    let subject = "certificate";
    let shown = tls.certificate.display();
    match Certificate::end_of(&serve::files(tls)) {
        Err(error) => findings.error(
            subject,
            format!("{error:#}"),
            "name a certificate and its own key, both as PEM, which the service's user may read, as `tls` in [service]",
        ),
        Ok(Some(end)) if end <= now => findings.error(
            subject,
            format!("`{shown}` has expired, on {end}: nobody who looks at it connects"),
            "renew it; `systemctl reload holdfast` takes the new one",
        ),
        Ok(Some(end)) if end.duration_since(now) < SOON => findings.warning(
            subject,
            format!("`{shown}` expires soon, on {end}"),
            "renew it; `systemctl reload holdfast` takes the new one",
        ),
        Ok(Some(end)) => findings.ok(subject, format!("`{shown}` and its key fit; it expires on {end}")),
        Ok(None) => findings.ok(subject, format!("`{shown}` and its key fit; it does not expire")),
    }
    let key = tls.key.display();
    let mode = fs::metadata(&tls.key).map_or(0, |metadata| metadata.mode() & 0o777);
    if mode & 0o004 != 0 {
        let message = format!("everybody on this machine may read the key `{key}` (mode {mode:03o})");
        findings.warning(subject, message, format!("chmod o-r {key}"));
    }
}

async fn listener(findings: &mut Findings, subject: &str, address: &Address, service: Option<i32>) {
    if let Some(process) = service {
        match is_held(address, process).await {
            Some(true) => {
                return findings.ok(subject, format!("the running service listens there (process {process})"));
            }
            Some(false) => {}
            None => {
                let message = format!("the service is running (process {process}); what it listens on cannot be seen");
                return findings.ok(subject, message);
            }
        }
    }
    match (Http::try_address(address).await, service) {
        // Runs by hand do not need it, as with a second configuration on the machine of a service.
        (Err(error), _) => {
            findings.warning(subject, format!("{error:#}"), "until then `holdfast serve` does not start");
        }
        (Ok(()), None) => findings.ok(subject, "free"),
        (Ok(()), Some(_)) => findings.warning(
            subject,
            "free, and the running service does not listen there",
            "`listen` cannot change while the service runs: systemctl restart holdfast",
        ),
    }
}

/// The process of the service that works in the state directory, if there is one.
fn running(config: &Config) -> Option<i32> {
    let directory = &config.service.state_dir;
    if !directory.is_dir() {
        return None;
    }
    let in_use = StateLock::take(directory, "check").err()?.downcast::<InUse>().ok()?;
    let (process, purpose) = in_use.holder.strip_prefix("process ")?.split_once(' ')?;
    process.parse().ok().filter(|_| purpose == "(serve)")
}

/// Whether this process listens there; none if that cannot be seen.
async fn is_held(address: &Address, process: i32) -> Option<bool> {
    match address {
        Address::Unix(path) => {
            let connected = UnixStream::connect(path).await.and_then(|stream| stream.peer_cred());
            Some(connected.is_ok_and(|peer| peer.pid() == Some(process)))
        }
        Address::Tcp(address) => {
            let open: Vec<String> = fs::read_dir(format!("/proc/{process}/fd"))
                .ok()?
                .flatten()
                .filter_map(|file| Some(fs::read_link(file.path()).ok()?.to_str()?.to_owned()))
                .collect();
            let listening = ["tcp", "tcp6"].map(|table| listening(Path::new("/proc/net").join(table), address.port()));
            let mut sockets = listening.into_iter().flatten().map(|inode| format!("socket:[{inode}]"));
            Some(sockets.any(|socket| open.contains(&socket)))
        }
    }
}

/// The numbers of the sockets that listen on a port, by a table of the kernel.
fn listening(table: impl AsRef<Path>, port: u16) -> Vec<String> {
    /// The state of a socket that listens.
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).unwrap_or_default();
    let of_port = format!(":{port:04X}");
    let number = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (*state == LISTEN && local.ends_with(&of_port)).then(|| (*inode).to_owned())
    };
    text.lines().filter_map(number).collect()
}
