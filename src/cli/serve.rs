//! `holdfast serve`: the daemon, put together from its parts.

mod http;
mod reload;

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::config::Config;
use crate::service::access::Access;
use crate::service::daemon::Daemon;
use crate::service::http::Http;
use crate::service::journal::{Level, say};
use crate::service::parts::Parts;
use crate::service::privileges::give_up_marking;
use crate::service::reload::Reloads;
use crate::service::scheduler;
use crate::service::signals::hangups;
use crate::service::systemd::Systemd;
use crate::service::watcher;
use crate::service::watcher::Marks;
use reload::Reloader;

pub(super) use http::files;

/// What can only be done while there is one thread.
#[derive(Debug)]
pub(super) struct Prepared {
    config: Arc<Config>,
    marks: Marks,
}

/// Reads the configuration, marks the file systems that are to be watched, and gives up the right to do so.
pub(super) fn prepare(file: &Path) -> anyhow::Result<Prepared> {
    let config = Arc::new(Config::load(file)?);
    let marks = Marks::set(config.watched_roots());
    give_up_marking()?;
    Ok(Prepared { config, marks })
}

/// Runs until it is told to stop, or until a part of it ends that should not.
pub(super) async fn serve(prepared: Prepared) -> anyhow::Result<Exit> {
    let Prepared { config, marks } = prepared;
    // Before anything that takes a while: until it is caught, this signal ends the process.
    let hangups = hangups()?;
    let session = Session::open_warning(&config, "serve", |text| say(Level::Warning, text))?;
    let stop = session.stop();
    let listening = Http::bind(http::settings(&config.service)).await?;
    let (daemon, engine) = Daemon::new(session.runner.clone(), Arc::new(session.site.clone()), stop.clone())?;

    // Who only asks the loop for things can be talked to until the last run has ended.
    let close = CancellationToken::new();
    let mut parts = Parts::default();
    let (reloads, asked) = Reloads::new();
    let reloader = Reloader::new(session.site.clone(), daemon.clone(), listening.certificate(), hangups, asked);
    parts.add("read the configuration again", reloader.serve(close.clone()));
    parts.add("serve HTTP", listening.serve(daemon.clone(), Access::open(&daemon)?, reloads, close.clone()));
    parts.add("follow the schedules", scheduler::run(daemon.clone(), close.clone()));
    parts.add("watch the stores", watcher::run(daemon.clone(), marks, stop.clone()));

    let mut engine = {
        let mut task = JoinSet::new();
        task.spawn(async move { engine.run(&Systemd, Systemd.beat_every()).await });
        task
    };
    Systemd.ready();
    say(Level::Info, format_args!("ready: {} jobs of `{}`", config.jobs().count(), config.file.display()));
    let failure = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        Some(ended) = engine.join_next() => ended.err().map(|panic| anyhow!(panic).context("start and end runs")),
        error = parts.failed() => Some(error),
    };
    Systemd.stopping();
    stop.cancel();
    let grace = daemon.site().grace();
    if timeout(grace, engine.join_next()).await.is_err() {
        say(Level::Error, format_args!("runs did not reach a safe point within {grace:?}, and are cut off"));
    }
    close.cancel();
    parts.ended().await;
    match failure {
        Some(error) => Err(error),
        None => Ok(Exit::Succeeded),
    }
}
