//! The calls themselves.

use std::str::FromStr;

use form_urlencoded::parse;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, LOCATION};

use super::Context;
use super::answer::Answer;
use super::asked::Asked;
use super::limits::RUNS;
use crate::jobs::restore::RestoreFrom;
use crate::model::run::{Outcome, Run, RunFilter, RunId};
use crate::service::request::{JobOptions, RestoreRequest};

/// How many runs are shown to whoever does not say how many.
const SHOWN_RUNS: u32 = 50;
/// How many destinations could not be listed, where the list is that of the others.
const UNREACHED: HeaderName = HeaderName::from_static("holdfast-unreached-destinations");

type Answered = Result<Answer, Answer>;

/// `GET /status`.
pub(super) async fn status(http: &Context) -> Answered {
    let status = http.daemon.status().await.map_err(|error| Answer::internal(&error))?;
    Ok(Answer::json(StatusCode::OK, &status))
}

/// `GET /runs`.
pub(super) async fn runs(http: &Context, asked: &Asked) -> Answered {
    let filter = filter(asked.query.as_deref().unwrap_or_default())?;
    let runs = http.daemon.runs(filter).await.map_err(|error| Answer::internal(&error))?;
    Ok(Answer::json(StatusCode::OK, &runs))
}

/// `GET /runs/{id}`.
pub(super) async fn run(http: &Context, id: &str) -> Answered {
    let found = http.daemon.run(run_id(id)?).await.map_err(|error| Answer::internal(&error))?;
    found.map(|run| Answer::json(StatusCode::OK, &run)).ok_or_else(|| no_run(id))
}

/// `DELETE /runs/{id}`.
pub(super) async fn cancel(http: &Context, id: &str) -> Answered {
    Ok(accepted(&http.daemon.cancel(run_id(id)?).await?))
}

/// `POST /jobs/{job}/run`.
pub(super) async fn start(http: &Context, asked: &Asked, job: &str, by: Option<&str>) -> Answered {
    let options = if asked.body.is_empty() { JobOptions::default() } else { asked.json()? };
    Ok(accepted(&http.daemon.start(job, options, by).await?))
}

/// `GET /points`.
pub(super) async fn points(http: &Context) -> Answered {
    let daemon = http.daemon.clone();
    let points = http.among_runs(async move { daemon.points().await }).await?;
    if points.found.is_empty() && !points.unreached.is_empty() {
        return Err(Answer::later(format!("no destination could be listed: {}", points.unreached.join("; "))));
    }
    let answer = Answer::json(StatusCode::OK, &points.found);
    Ok(match points.unreached.len() {
        0 => answer,
        unreached => answer.with(UNREACHED, HeaderValue::from(unreached)),
    })
}

/// `POST /restore`.
pub(super) async fn restore(http: &Context, asked: &Asked, by: Option<&str>) -> Answered {
    Ok(accepted(&http.daemon.restore(restore_request(asked)?, by).await?))
}

/// Whoever is somewhere else reads no directories of this machine but those that `fcr:restore` may name.
fn restore_request(asked: &Asked) -> Result<RestoreRequest, Answer> {
    let request: RestoreRequest = asked.json()?;
    if matches!(request.from, RestoreFrom::Directory(_)) && !asked.caller.is_local() {
        let text =
            "`from` is a restore point or an archive: a directory is restored by `holdfast restore` or fcr:restore";
        return Err(Answer::reason(StatusCode::BAD_REQUEST, text));
    }
    Ok(request)
}

/// `POST /restore/plan`.
pub(super) async fn plan(http: &Context, asked: &Asked) -> Answered {
    let (daemon, request) = (http.daemon.clone(), restore_request(asked)?);
    let plan = http.among_runs(async move { daemon.plan(&request).await }).await??;
    Ok(Answer::json(StatusCode::OK, &plan))
}

/// `POST /verify`.
pub(super) async fn verify(http: &Context, asked: &Asked, by: Option<&str>) -> Answered {
    Ok(accepted(&http.daemon.verify(asked.json()?, by).await?))
}

/// `POST /reload`.
pub(super) async fn reload(http: &Context) -> Answered {
    match http.reloads.reload().await {
        Ok(()) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(reason) => Err(Answer::reason(StatusCode::UNPROCESSABLE_ENTITY, reason)),
    }
}

/// It will be done: the run, and where to look for it.
fn accepted(run: &Run) -> Answer {
    let answer = Answer::json(StatusCode::ACCEPTED, run);
    match HeaderValue::from_str(&format!("/runs/{}", run.id)) {
        Ok(place) => answer.with(LOCATION, place),
        Err(_) => answer,
    }
}

/// The number of a run in a path: what is none is the number of no run.
fn run_id(text: &str) -> Result<RunId, Answer> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).map(RunId::new).ok_or_else(|| no_run(text))
}

fn no_run(id: &str) -> Answer {
    Answer::reason(StatusCode::NOT_FOUND, format!("there is no run `{}`", id.escape_debug()))
}

/// Which runs are asked for.
fn filter(query: &str) -> Result<RunFilter, Answer> {
    let mut filter = RunFilter::latest(None, SHOWN_RUNS);
    let mut seen = Vec::new();
    for (key, value) in parse(query.as_bytes()) {
        match &*key {
            "job" => filter.job = Some(value.into_owned()),
            "outcome" => filter.outcome = Some(read::<Outcome>(&key, &value, OUTCOMES)?),
            "limit" => {
                let limit = read::<u32>(&key, &value, "a whole number from 1 to 1000")?;
                if !(1..=RUNS).contains(&limit) {
                    return Err(refuse(&key, &value, "a whole number from 1 to 1000"));
                }
                filter.limit = limit;
            }
            "before" => filter.before = Some(RunId::new(read(&key, &value, "the number of a run")?)),
            _ => {
                let text =
                    format!("unknown key `{}` after `?`: known are job, outcome, limit, before", key.escape_debug());
                return Err(Answer::reason(StatusCode::BAD_REQUEST, text));
            }
        }
        if seen.contains(&key) {
            return Err(Answer::reason(StatusCode::BAD_REQUEST, format!("`{key}` stands there twice")));
        }
        seen.push(key);
    }
    Ok(filter)
}

const OUTCOMES: &str = "succeeded, partial, failed, cancelled or interrupted";

fn read<T: FromStr>(key: &str, value: &str, expected: &str) -> Result<T, Answer> {
    value.parse().map_err(|_| refuse(key, value, expected))
}

fn refuse(key: &str, value: &str, expected: &str) -> Answer {
    Answer::reason(StatusCode::BAD_REQUEST, format!("`{key}` is `{}`, not {expected}", value.escape_debug()))
}
