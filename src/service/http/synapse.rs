//! The calls of the older interface, as clients of the Synapse backup daemon make them.
//!
//! What they look at is as it was: the paths, of which any context path may stand in front, the statuses, the fields and
//! their spelling, and the texts of errors. What was only an accident is not: an error's body is always JSON, a word that
//! is no number is 400, and another method is 405. A second restore at once is refused with 409.

mod status;

use hyper::header::{ACCEPT, HOST, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde_json::Value;

use self::status::DaemonStatus;
use super::Context;
use super::answer::Answer;
use super::asked::{Asked, Peer};
use super::limits::Pace;
use super::router::no_such_call;
use crate::jobs::catalogue::RestorableName;
use crate::model::run::{Run, RunId};
use crate::service::access::LoginRefusal;
use crate::service::request::{JobOptions, RestoreRequest};

/// The calls, as the document of the interface lists them.
pub(super) const ROUTES: &[(&str, &str)] = &[
    ("POST", "/auth/v1/session"),
    ("PUT", "/auth/v1/session"),
    ("DELETE", "/auth/v1/session"),
    ("POST", "/repo/v1/startBackupDaemon"),
    ("POST", "/repo/v1/startRestoreDaemon"),
    ("GET", "/repo/v1/daemonStatus/{daemonId}"),
    ("DELETE", "/repo/v1/terminateDaemon/{daemonId}"),
];

/// The longest URL or name that a restore takes.
const MAX_URL: usize = 2048;
const AUTHENTICATION_URL: HeaderName = HeaderName::from_static("authenticationurl");
const INVALID_TOKEN: &str = "The session token provided was missing, invalid or expired.";

type Answered = Result<Answer, Answer>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call<'a> {
    Session,
    StartBackup,
    StartRestore,
    Status(&'a str),
    Terminate(&'a str),
}

/// The call that a path is of, whatever context path stands in front.
pub(super) fn call<'a>(segments: &[&'a str]) -> Option<Call<'a>> {
    match *segments {
        [.., "auth", "v1", "session"] => Some(Call::Session),
        [.., "repo", "v1", "startBackupDaemon"] => Some(Call::StartBackup),
        [.., "repo", "v1", "startRestoreDaemon"] => Some(Call::StartRestore),
        [.., "repo", "v1", "daemonStatus", id] if !id.is_empty() => Some(Call::Status(id)),
        [.., "repo", "v1", "terminateDaemon", id] if !id.is_empty() => Some(Call::Terminate(id)),
        _ => None,
    }
}

impl Call<'_> {
    /// How long it takes.
    pub(super) fn pace(self) -> Pace {
        if self == Self::Session { Pace::Login } else { Pace::Quick }
    }

    fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Session => &["POST", "PUT", "DELETE"],
            Self::StartBackup | Self::StartRestore => &["POST"],
            Self::Status(_) => &["GET"],
            Self::Terminate(_) => &["DELETE"],
        }
    }

    /// What somebody is told who is no administrator.
    fn refusal(self) -> &'static str {
        match self {
            Self::StartBackup => "Must be an administrator to start a backup daemon",
            Self::StartRestore => "Must be an administrator to start a restoration daemon",
            Self::Terminate(_) => "Must be an administrator to terminate a backup/restore daemon",
            Self::Status(_) | Self::Session => "Must be an administrator to get the status of a backup/restore daemon",
        }
    }
}

/// The answer to one of its calls.
pub(super) async fn answer(http: &Context, asked: &Asked, call: Call<'_>) -> Answer {
    if !call.methods().contains(&asked.method.as_str()) {
        return no_such_call(call.methods());
    }
    perform(http, asked, call).await.unwrap_or_else(|refusal| refusal)
}

async fn perform(http: &Context, asked: &Asked, call: Call<'_>) -> Answered {
    acceptable(asked)?;
    if call == Call::Session {
        return match asked.method {
            Method::POST => login(http, asked).await,
            Method::PUT => revalidate(http, asked).await,
            _ => logout(http, asked).await,
        };
    }
    let caller = caller(http, asked).await?;
    // What is wrong with the request is said before whether its sender may make it.
    let url = if call == Call::StartRestore { Some(restore_url(asked)?) } else { None };
    let Caller::Administrator(email) = caller else {
        return Err(Answer::reason(StatusCode::FORBIDDEN, call.refusal()));
    };
    let by = email.as_deref();
    match (call, url) {
        (Call::StartBackup, _) => start_backup(http, by).await,
        (Call::StartRestore, Some(url)) => start_restore(http, &url, by).await,
        (Call::Terminate(id), _) => {
            let run = find(http, id).await?;
            http.daemon.cancel(run.id).await?;
            Ok(Answer::empty(StatusCode::NO_CONTENT))
        }
        (Call::Status(id), _) => {
            let run = find(http, id).await?;
            let status = DaemonStatus::of(&run, http.daemon.clock().now()).ok_or_else(|| no_run(id))?;
            Ok(Answer::json(StatusCode::OK, &status))
        }
        (Call::Session | Call::StartRestore, _) => Err(Answer::empty(StatusCode::NOT_FOUND)),
    }
}

/// Who asks.
enum Caller {
    /// An administrator, by e-mail address; nobody in particular over the socket in the state directory.
    Administrator(Option<String>),
    /// Somebody without a token.
    Anonymous,
}

async fn caller(http: &Context, asked: &Asked) -> Result<Caller, Answer> {
    if asked.caller.from == Peer::Control {
        return Ok(Caller::Administrator(None));
    }
    let Some(token) = &asked.caller.token else { return Ok(Caller::Anonymous) };
    match http.access.administrator(token).await {
        Ok(Some(administrator)) => Ok(Caller::Administrator(Some(administrator.email))),
        Ok(None) => Err(invalid_token()),
        Err(error) => Err(Answer::internal(&error)),
    }
}

fn invalid_token() -> Answer {
    Answer::reason(StatusCode::UNAUTHORIZED, INVALID_TOKEN)
        .with(WWW_AUTHENTICATE, HeaderValue::from_static("authenticate Crowd"))
}

/// Refuses whoever takes no JSON: all answers are JSON.
fn acceptable(asked: &Asked) -> Result<(), Answer> {
    let mut ranges =
        asked.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let takes_json = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse::<f32>() == Ok(0.0)));
        matches!(kind.as_str(), "*/*" | "application/*" | "application/json") && !refused
    };
    if !asked.headers.contains_key(ACCEPT) || ranges.any(takes_json) {
        return Ok(());
    }
    Err(Answer::reason(StatusCode::NOT_ACCEPTABLE, "the answer is JSON: send the header `Accept: application/json`"))
}

/// `POST /auth/v1/session`.
async fn login(http: &Context, asked: &Asked) -> Answered {
    /// What else older clients send, such as a display name, makes no difference.
    #[derive(serde::Deserialize)]
    struct Credentials {
        email: String,
        password: String,
    }
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Begun {
        session_token: String,
        display_name: String,
    }
    let Credentials { email, password } = asked.json()?;
    let login = http
        .access
        .login(&email, &password, asked.caller.from)
        .await
        .map_err(|refusal| not_logged_in(asked, &refusal))?;
    Ok(Answer::json(StatusCode::CREATED, &Begun { session_token: login.token, display_name: login.display_name }))
}

fn not_logged_in(asked: &Asked, refusal: &LoginRefusal) -> Answer {
    match refusal {
        LoginRefusal::Wrong => {
            let answer = Answer::reason(StatusCode::BAD_REQUEST, "Unable to authenticate");
            let host = asked.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let url = HeaderValue::from_str(&format!("//{host}/{}", asked.path.join("/")));
            match url {
                Ok(url) if !host.is_empty() => answer.with(AUTHENTICATION_URL, url),
                _ => answer,
            }
        }
        LoginRefusal::Slowed(wait) => {
            // Whole seconds, and not too early.
            let seconds = wait.as_secs() + 1;
            Answer::reason(StatusCode::TOO_MANY_REQUESTS, refusal.to_string())
                .with(RETRY_AFTER, HeaderValue::from(seconds))
        }
        LoginRefusal::Nobody => Answer::reason(StatusCode::FORBIDDEN, refusal.to_string()),
        LoginRefusal::Busy => Answer::later(refusal.to_string()),
        LoginRefusal::Internal(error) => Answer::internal(error),
    }
}

/// `PUT /auth/v1/session`: whether a token still counts.
async fn revalidate(http: &Context, asked: &Asked) -> Answered {
    let token = session_token(asked)?;
    match http.access.administrator(&token).await {
        Ok(Some(_)) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Ok(None) => Err(invalid_token()),
        Err(error) => Err(Answer::internal(&error)),
    }
}

/// `DELETE /auth/v1/session`: afterwards nobody has that token, as was wanted, whether or not somebody had it.
async fn logout(http: &Context, asked: &Asked) -> Answered {
    let token = session_token(asked)?;
    http.access.logout(&token).await.map_err(|error| Answer::internal(&error))?;
    Ok(Answer::empty(StatusCode::NO_CONTENT))
}

/// The token in the body, or else in the header.
fn session_token(asked: &Asked) -> Result<String, Answer> {
    #[derive(serde::Deserialize)]
    struct Session {
        #[serde(rename = "sessionToken")]
        session_token: String,
    }
    match (&asked.caller.token, asked.body.is_empty()) {
        (Some(token), true) => Ok(token.clone()),
        _ => asked.json().map(|Session { session_token }| session_token),
    }
}

/// `POST /repo/v1/startBackupDaemon`.
async fn start_backup(http: &Context, by: Option<&str>) -> Answered {
    let older = http.daemon.site().older_interfaces()?;
    started(&http.daemon.start(&older.backup, JobOptions::default(), by).await?)
}

/// `POST /repo/v1/startRestoreDaemon`.
async fn start_restore(http: &Context, url: &str, by: Option<&str>) -> Answered {
    let site = http.daemon.site();
    let older = site.older_interfaces()?;
    let name = url.rsplit('/').next().unwrap_or(url);
    let destination = site.destination_of(url).unwrap_or(older.destination);
    let run = if let Ok(from) = name.parse::<RestorableName>() {
        let (repository, destination) = (Some(older.repository), Some(destination));
        let request = RestoreRequest { repository, destination, ..RestoreRequest::of(from.into()) };
        http.daemon.restore(request, by).await?
    } else {
        // It was accepted, and failed when it was looked for.
        let shown = name.escape_debug();
        let error = format!("there is no archive `{shown}` at `{destination}`: `GET /points` lists what there is");
        let url = site.archive_url(&destination, name);
        http.daemon.fail_restore(error, url, by).await?
    };
    started(&run)
}

/// A run as it was when it was asked for, however far it is by now.
fn started(run: &Run) -> Answered {
    let status = DaemonStatus::accepted(run).ok_or_else(|| no_run(&run.id.to_string()))?;
    Ok(Answer::json(StatusCode::CREATED, &status))
}

/// What a restore is asked for.
fn restore_url(asked: &Asked) -> Result<String, Answer> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        url: Option<String>,
    }
    let refuse = |text: &str| Answer::reason(StatusCode::BAD_REQUEST, text);
    if asked.json::<Value>()?.is_null() {
        return Err(refuse("File cannot be null"));
    }
    let File { url } = asked.json()?;
    let url = url.ok_or_else(|| refuse("File.getUrl cannot be null"))?;
    if url.rsplit('/').next().is_none_or(str::is_empty) || url.len() > MAX_URL {
        return Err(refuse("File.getUrl names no file: send the name of an archive, or the backupUrl that names it"));
    }
    Ok(url)
}

/// A run that the older interface knows.
async fn find(http: &Context, id: &str) -> Result<Run, Answer> {
    let digits = id.strip_prefix('-').unwrap_or(id);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        let text = format!("the id of a backup/restore daemon is a number, and `{}` is none", id.escape_debug());
        return Err(Answer::reason(StatusCode::BAD_REQUEST, text));
    }
    let Ok(number) = id.parse::<u64>() else { return Err(no_run(id)) };
    let found = http.daemon.run(RunId::new(number)).await.map_err(|error| Answer::internal(&error))?;
    found.filter(|run| DaemonStatus::accepted(run).is_some()).ok_or_else(|| no_run(id))
}

fn no_run(id: &str) -> Answer {
    Answer::reason(StatusCode::NOT_FOUND, format!("Cannot find a BackupRestoreStatus with ID: {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_path_may_stand_in_front_of_every_call() {
        for (path, expected) in [
            ("auth/v1/session", Some(Call::Session)),
            ("services-authentication-0.6/auth/v1/session", Some(Call::Session)),
            ("repo/v1/startBackupDaemon", Some(Call::StartBackup)),
            ("a/b/repo/v1/startRestoreDaemon", Some(Call::StartRestore)),
            ("repo/v1/daemonStatus/7", Some(Call::Status("7"))),
            ("x/repo/v1/terminateDaemon/abc", Some(Call::Terminate("abc"))),
            ("repo/v1/daemonStatus/", None),
            ("repo/v1/daemonStatus", None),
            ("repo/v1/startBackupDaemon/", None),
            ("repo/v2/startBackupDaemon", None),
            ("startBackupDaemon", None),
        ] {
            assert_eq!(call(&path.split('/').collect::<Vec<_>>()), expected, "{path}");
        }
    }
}
