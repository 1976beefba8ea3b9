//! Fedora's own two calls, as its clients make them: `fcr:backup` into a directory of this machine, `fcr:restore` from
//! one. Each answers when its run has ended; whoever goes away before does not stop it.
//!
//! Statuses and texts are Fedora's where it has any. What it does without asking (restore an empty directory, read any
//! directory there is) is refused.

mod basic;
mod places;

use std::path::PathBuf;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, ORIGIN, RETRY_AFTER, WARNING, WWW_AUTHENTICATE};

use self::places::{Wrong, make_new, resolve};
use super::Context;
use super::answer::Answer;
use super::asked::{Asked, Peer};
use super::discreet::discreet;
use super::limits::Pace;
use super::router::{in_time, no_such_call};
use crate::jobs::restore::RestoreFrom;
use crate::model::run::{Outcome, Run};
use crate::service::access::LoginRefusal;
use crate::service::request::{ExportRequest, Refusal, RestoreRequest};
use crate::service::site::FedoraCalls;

/// The calls, as the document of the interface lists them.
pub(super) const ROUTES: &[(&str, &str)] = &[("POST", "/rest/fcr:backup"), ("POST", "/rest/fcr:restore")];

/// What Fedora 4.7.1 and later say of both calls.
const MOVING: &str = "This endpoint will be moving to an extension module in a future release of Fedora";
const CHALLENGE: &str = "Basic realm=\"holdfast\", charset=\"UTF-8\"";
/// How much of an error or a problem is shown, in characters.
const SHOWN: usize = 1000;
/// How many problems are.
const SHOWN_PROBLEMS: usize = 100;
/// Browsers say with it which page a request is from, and nobody else sends it.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

type Answered = Result<Answer, Answer>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Backup,
    Restore,
}

/// The call that a path is of, whatever context path stands in front.
pub(super) fn call(segments: &[&str]) -> Option<Call> {
    match *segments {
        [.., "rest", "fcr:backup"] => Some(Call::Backup),
        [.., "rest", "fcr:restore"] => Some(Call::Restore),
        _ => None,
    }
}

/// The answer to one of the calls.
pub(super) async fn answer(http: &Context, asked: &Asked, call: Call) -> Answer {
    if asked.method.as_str() != "POST" {
        return no_such_call(&["POST"]);
    }
    perform(http, asked, call).await.unwrap_or_else(|refusal| refusal)
}

async fn perform(http: &Context, asked: &Asked, call: Call) -> Answered {
    // Whoever is nobody takes no place from those who wait for a run.
    let by = in_time(http.places(asked), Pace::Login, authorize(http, asked)).await??;
    in_time(http.places(asked), Pace::Run, carry_out(http, asked, call, by.as_deref())).await?
}

async fn carry_out(http: &Context, asked: &Asked, call: Call, by: Option<&str>) -> Answered {
    let calls = http.daemon.site().fedora().map_err(refused)?;
    let Ok(named) = std::str::from_utf8(&asked.body) else {
        return Err(Answer::plain(StatusCode::BAD_REQUEST, "The name of the directory is not UTF-8"));
    };
    let named = named.trim();
    match call {
        Call::Backup => back_up(http, calls, named, by).await,
        Call::Restore => restore(http, calls, named, by).await,
    }
}

/// Who asks, by e-mail address: an administrator with a token, or with address and password as basic authentication.
async fn authorize(http: &Context, asked: &Asked) -> Result<Option<String>, Answer> {
    if asked.caller.from == Peer::Control {
        return Ok(None);
    }
    if let Some(token) = &asked.caller.token {
        return match http.access.administrator(token).await {
            Ok(Some(administrator)) => Ok(Some(administrator.email)),
            Ok(None) => Err(unauthorized("The token is unknown or has expired")),
            Err(error) => Err(internal(&error)),
        };
    }
    let Some((email, password)) = basic::credentials(&asked.headers) else {
        return Err(unauthorized("This takes an administrator's e-mail address and password, or a token"));
    };
    // A browser sends a password that it remembers along with what any page has it send.
    if asked.headers.contains_key(ORIGIN) || asked.headers.contains_key(FETCH_SITE) {
        let text = "A web page makes this call with a token, not with a password that the browser adds";
        return Err(Answer::plain(StatusCode::FORBIDDEN, text));
    }
    match http.access.prove(&email, &password, asked.caller.from).await {
        Ok(administrator) => Ok(Some(administrator.email)),
        Err(refusal) => Err(match &refusal {
            LoginRefusal::Wrong => unauthorized("The e-mail address or the password is wrong"),
            LoginRefusal::Slowed(wait) => Answer::plain(StatusCode::TOO_MANY_REQUESTS, refusal.to_string())
                .with(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1)),
            LoginRefusal::Nobody => Answer::plain(StatusCode::FORBIDDEN, refusal.to_string()),
            LoginRefusal::Busy => Answer::later(refusal.to_string()),
            LoginRefusal::Internal(error) => internal(error),
        }),
    }
}

fn unauthorized(text: &str) -> Answer {
    Answer::plain(StatusCode::UNAUTHORIZED, text).with(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE))
}

fn internal(error: &anyhow::Error) -> Answer {
    // The journal gets the chain.
    drop(Answer::internal(error));
    failed("Internal error: the journal of the service says more")
}

fn failed(text: impl Into<String>) -> Answer {
    Answer::plain(StatusCode::INTERNAL_SERVER_ERROR, text)
}

fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::NotFound(text) | Refusal::Invalid(text) => Answer::plain(StatusCode::FORBIDDEN, text),
        Refusal::Conflict(text) => Answer::plain(StatusCode::CONFLICT, text),
        Refusal::Stopping => Answer::later(Refusal::Stopping.to_string()),
        Refusal::Internal(error) => internal(&error),
    }
}

fn not_allowed(named: &str) -> Answer {
    let text = format!(
        "Directory is not below one of those that `fedora_roots` in [older_interfaces] allows: {}",
        shown(named)
    );
    Answer::plain(StatusCode::FORBIDDEN, text)
}

/// What somebody sent, in one line.
fn shown(named: &str) -> String {
    named.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Asks the file system on a thread where that may block.
async fn looking<T: Send + 'static>(look: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, Answer> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(anyhow::Error::from).flatten().map_err(|error| internal(&error))
}

/// `POST /rest/fcr:backup`.
async fn back_up(http: &Context, calls: FedoraCalls, named: &str, by: Option<&str>) -> Answered {
    let FedoraCalls { repository, roots } = calls;
    let made = named.is_empty();
    let directory = if made {
        let now = http.daemon.clock().now();
        looking(move || make_new(&roots, now)).await?
    } else {
        let sent = named.to_owned();
        let missing = || failed(format!("Backup directory does not exist or is not writable: {}", shown(named)));
        match looking(move || Ok(resolve(&roots, &sent))).await? {
            Ok(path) => match looking(move || Ok(places::kind(&path).map(|kind| (kind, path)))).await? {
                Some((places::Kind::Writable, path)) => path,
                Some((places::Kind::File, _)) => {
                    let text = "Backup location exists and is expected to be a directory but is a file";
                    return Err(failed(format!("{text}: {}", shown(named))));
                }
                None => return Err(missing()),
            },
            Err(Wrong::Missing) => return Err(missing()),
            Err(Wrong::NotAllowed) => return Err(not_allowed(named)),
        }
    };
    let request = ExportRequest { repository, directory: directory.clone(), made };
    let run = match http.daemon.export(request, by).await {
        Ok(run) => run,
        Err(refusal) => {
            if made {
                // Nobody was told of it yet.
                drop(std::fs::remove_dir(&directory));
            }
            return Err(refused(refusal));
        }
    };
    let run = http.daemon.to_its_end(run.id).await.map_err(|error| internal(&error))?;
    match (run.outcome, run.result.as_deref()) {
        (Some(Outcome::Succeeded), Some(path)) => Ok(done(Answer::plain(StatusCode::OK, path))),
        _ => Err(failed(complaint(&run, "backup"))),
    }
}

/// `POST /rest/fcr:restore`.
async fn restore(http: &Context, calls: FedoraCalls, named: &str, by: Option<&str>) -> Answered {
    let FedoraCalls { repository, roots } = calls;
    if named.is_empty() {
        return Err(failed("Request body must not be null"));
    }
    let sent = named.to_owned();
    let directory: PathBuf = match looking(move || Ok(resolve(&roots, &sent))).await? {
        Ok(path) => path,
        Err(Wrong::Missing) => return Err(failed(format!("Backup directory does not exist: {}", shown(named)))),
        Err(Wrong::NotAllowed) => return Err(not_allowed(named)),
    };
    let from = RestoreFrom::Directory(directory);
    let request = RestoreRequest { repository: Some(repository), ..RestoreRequest::of(from) };
    let run = http.daemon.restore(request, by).await.map_err(refused)?;
    let run = http.daemon.to_its_end(run.id).await.map_err(|error| internal(&error))?;
    match run.outcome {
        Some(Outcome::Succeeded) => Ok(done(Answer::empty(StatusCode::NO_CONTENT))),
        _ => Err(failed(complaint(&run, "restore"))),
    }
}

fn done(answer: Answer) -> Answer {
    answer.with(WARNING, HeaderValue::from_static(MOVING))
}

/// What went wrong, a line each, without saying where things lie on this machine.
fn complaint(run: &Run, what: &str) -> String {
    let outcome = run.outcome.map_or("has not ended", Outcome::as_str);
    let mut lines = vec![match &run.error {
        Some(error) => discreet(error, SHOWN),
        None => format!("The {what} (run {}) ended {outcome}", run.id),
    }];
    let problem = |problem: &crate::model::run::Problem| {
        discreet(&format!("{}: {}: {}", problem.kind, problem.subject, problem.message), SHOWN)
    };
    lines.extend(run.problems.iter().take(SHOWN_PROBLEMS).map(problem));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_at_the_root_of_the_interface_alone_and_a_context_path_may_stand_in_front() {
        for (path, expected) in [
            ("rest/fcr:backup", Some(Call::Backup)),
            ("fcrepo/rest/fcr:restore", Some(Call::Restore)),
            ("rest/object/fcr:backup", None),
            ("fcr:backup", None),
            ("rest/fcr:backup/", None),
            ("rest/fcr:versions", None),
        ] {
            assert_eq!(call(&path.split('/').collect::<Vec<_>>()), expected, "{path}");
        }
    }
}
