//! The running service, asked over its socket in the state directory, and its runs followed on the terminal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{Exit, Usage};
use crate::cli::foreground::{self, Output};
use crate::cli::progress;
use crate::config::Config;
use crate::jobs::context::Report;
use crate::jobs::restore::RestorePlan;
use crate::model::run::Run;
use crate::service::control::socket_in;
use crate::service::request::{JobOptions, RestoreRequest, VerifyRequest};
use crate::service::signals::Signals;

/// How often a run is looked at: often enough for a bar that moves, seldom enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// No answer of the service is longer.
const ANSWER_LIMIT: usize = 64 << 20;

/// The service that works in the state directory.
#[derive(Debug)]
pub(super) struct Remote {
    socket: PathBuf,
    stop: CancellationToken,
    _signals: Signals,
}

/// What the service is asked to run.
#[derive(Debug)]
pub(super) enum Asked {
    /// A job.
    Job { name: String, options: JobOptions },
    /// A restore.
    Restore(RestoreRequest),
    /// A verification.
    Verify(VerifyRequest),
}

impl Remote {
    /// The service, if one is running on this configuration's state directory.
    pub(super) async fn reach(config: &Config) -> anyhow::Result<Option<Self>> {
        let socket = socket_in(&config.service.state_dir);
        match UnixStream::connect(&socket).await {
            Ok(_) => {
                let signals = Signals::listen()?;
                Ok(Some(Self { socket, stop: signals.stop(), _signals: signals }))
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Usage::new(
                format!("this user may not talk to the service at `{}`", socket.display()),
                "run holdfast as the user of the service, or as root: sudo holdfast …",
            )
            .into()),
            // There is no socket, or nobody behind it.
            Err(_) => Ok(None),
        }
    }

    /// Fires at the first signal.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Has something run, follows it to its end, and shows it. A signal cancels it, and its end is waited for.
    pub(super) async fn follow(&self, asked: Asked, output: Output) -> anyhow::Result<Exit> {
        let run: Run = match &asked {
            Asked::Job { name, options } => self.send(Method::POST, &format!("/jobs/{name}/run"), options).await?,
            Asked::Restore(request) => self.send(Method::POST, "/restore", request).await?,
            Asked::Verify(request) => self.send(Method::POST, "/verify", request).await?,
        };
        let report = Arc::new(Report::default());
        let run = progress::watch(&report, &self.stop, self.to_its_end(run, &report)).await?;
        foreground::show(&run, output)
    }

    async fn to_its_end(&self, mut run: Run, report: &Report) -> anyhow::Result<Run> {
        let path = format!("/runs/{}", run.id);
        let mut cancelled = false;
        while run.outcome.is_none() {
            report.show(run.progress.clone());
            if self.stop.is_cancelled() && !cancelled {
                cancelled = true;
                let _run: Run = self.call(Method::DELETE, &path, Bytes::new()).await?;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.stop.cancelled(), if !cancelled => {}
            }
            let looked = self.call(Method::GET, &path, Bytes::new()).await;
            run = looked.with_context(|| format!("follow run {} (`holdfast history` tells how it ended)", run.id))?;
        }
        Ok(run)
    }

    /// What a restore would do.
    pub(super) async fn plan(&self, request: &RestoreRequest) -> anyhow::Result<RestorePlan> {
        let report = Arc::new(Report::default());
        report.phase("comparing the backup with what is there", "", None);
        progress::watch(&report, &self.stop, self.send(Method::POST, "/restore/plan", request)).await
    }

    /// What the service answers to a question.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Has the service do something that needs no more words.
    pub(super) async fn post(&self, path: &str) -> anyhow::Result<()> {
        self.ask(Method::POST, path, Bytes::new()).await.map(drop)
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.call(method, path, serde_json::to_vec(body).context("write JSON")?.into()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<T> {
        let answer = self.ask(method, path, body).await?;
        serde_json::from_slice(&answer).with_context(|| format!("read the answer of the service to {path}"))
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let asking = || format!("ask the service at `{}`", self.socket.display());
        let stream = UnixStream::connect(&self.socket).await.with_context(asking)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(asking)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .with_context(asking)?;
        let answering = async {
            let answer = sender.send_request(request).await.with_context(asking)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error)).with_context(asking)?.to_bytes();
            anyhow::Ok((status, body))
        };
        tokio::pin!(answering);
        // The connection ends by itself when the answer has been read; before that it must be driven.
        let (status, body) = tokio::select! {
            answered = &mut answering => answered?,
            broken = connection => {
                broken.with_context(asking)?;
                answering.await?
            }
        };
        if status.is_success() {
            return Ok(body);
        }
        let reason = reason(&body).unwrap_or_else(|| status.to_string());
        if status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND {
            return Err(Usage::new(reason, "`holdfast points` and `holdfast status` list what there is").into());
        }
        bail!("{reason}")
    }
}

fn reason(body: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(answer.get("reason")?.as_str()?.to_owned())
}
