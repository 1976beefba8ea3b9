//! Reading the configuration again while the service runs: all of it is taken, or nothing.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::http;
use crate::cli::site::ConfiguredSite;
use crate::config::{Config, Service};
use crate::service::daemon::Daemon;
use crate::service::http::Certificate;
use crate::service::journal::{Level, say};
use crate::service::reload::Reload;
use crate::service::systemd::Systemd;

/// Whoever knows where the configuration is, and what the service works by.
#[derive(Debug)]
pub(super) struct Reloader {
    site: ConfiguredSite,
    daemon: Daemon,
    certificate: Option<Certificate>,
    hangups: Signal,
    asked: mpsc::Receiver<Reload>,
}

impl Reloader {
    pub(super) fn new(
        site: ConfiguredSite,
        daemon: Daemon,
        certificate: Option<Certificate>,
        hangups: Signal,
        asked: mpsc::Receiver<Reload>,
    ) -> Self {
        Self { site, daemon, certificate, hangups, asked }
    }

    /// Reads the configuration again whenever somebody asks, by signal or in words. A file that cannot be read to its
    /// end, as on a network file system that is away, does not keep the service from ending.
    pub(super) async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.obey() => {}
        }
        Ok(())
    }

    async fn obey(mut self) {
        loop {
            tokio::select! {
                Some(()) = self.hangups.recv() => {
                    Systemd.reloading();
                    // Who sent the signal cannot be told; the journal was.
                    drop(self.reload().await);
                    Systemd.ready();
                }
                Some(reply) = self.asked.recv() => {
                    let taken = self.reload().await;
                    // Whoever asked may have gone.
                    drop(reply.send(taken));
                }
            }
        }
    }

    async fn reload(&mut self) -> Result<(), String> {
        let taken = self.take().await;
        match &taken {
            Ok(()) => say(Level::Info, format_args!("read `{}` again", self.site.config().file.display())),
            Err(refused) => say(Level::Error, format_args!("the configuration stays as it was: {refused}")),
        }
        taken
    }

    async fn take(&mut self) -> Result<(), String> {
        let file = self.site.config().file.clone();
        let read = tokio::task::spawn_blocking(move || read(&file)).await;
        let config = read.map_err(|error| error.to_string())??;
        stays(&self.site.config().service, &config.service).map_err(|error| error.to_string())?;
        http::renew(self.certificate.as_ref(), &config).await.map_err(|error| format!("{error:#}"))?;
        let site = self.site.renewed(config);
        self.daemon.adopt(Arc::new(site.clone())).await.map_err(|refusal| refusal.to_string())?;
        site.set_lines();
        self.site = site;
        Ok(())
    }
}

fn read(file: &Path) -> Result<Arc<Config>, String> {
    Config::load(file).map(Arc::new).map_err(|error| error.to_string())
}

/// Refuses what is opened once, at the start.
fn stays(before: &Service, now: &Service) -> anyhow::Result<()> {
    let plain = (before.allow_plaintext_beyond_loopback, now.allow_plaintext_beyond_loopback);
    let changed: [(&str, bool); 5] = [
        ("state_dir", before.state_dir != now.state_dir),
        ("listen", before.listen != now.listen),
        ("tls", before.tls.is_some() != now.tls.is_some()),
        ("allow_plaintext_beyond_loopback", plain.0 != plain.1),
        ("hosts", before.hosts != now.hosts),
    ];
    if let Some((name, _)) = changed.iter().find(|(_, changed)| *changed) {
        bail!("`{name}` in [service] cannot change while the service runs: systemctl restart holdfast");
    }
    Ok(())
}
