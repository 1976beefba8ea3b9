//! Which call is asked for, and who may make it.

use hyper::StatusCode;
use hyper::header::{ALLOW, HOST, HeaderValue};

use super::answer::Answer;
use super::asked::{Asked, Peer};
use super::limits::{ANSWER_WITHIN, Pace, Places};
use super::{Context, calls, fcr, hosts, synapse};

/// A call: how it is asked for, who may, and what answers it.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    /// With names in braces for the segments that vary.
    pub(super) path: &'static str,
    rights: Rights,
    pace: Pace,
    call: Call,
}

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    /// Everybody.
    Anybody,
    /// Everybody on this machine, and administrators.
    Readers,
    /// Administrators, and whoever reaches the socket in the state directory.
    Administrators,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Health,
    Document,
    Status,
    Runs,
    Run,
    Cancel,
    Start,
    Points,
    Restore,
    Plan,
    Verify,
    Reload,
}

const fn route(method: &'static str, path: &'static str, rights: Rights, pace: Pace, call: Call) -> Route {
    Route { method, path, rights, pace, call }
}

pub(super) const ROUTES: &[Route] = &[
    route("GET", "/healthz", Rights::Anybody, Pace::Quick, Call::Health),
    route("GET", "/openapi.json", Rights::Readers, Pace::Quick, Call::Document),
    route("GET", "/status", Rights::Readers, Pace::Quick, Call::Status),
    route("GET", "/runs", Rights::Readers, Pace::Quick, Call::Runs),
    route("GET", "/runs/{id}", Rights::Readers, Pace::Quick, Call::Run),
    route("DELETE", "/runs/{id}", Rights::Administrators, Pace::Quick, Call::Cancel),
    route("POST", "/jobs/{job}/run", Rights::Administrators, Pace::Quick, Call::Start),
    route("GET", "/points", Rights::Readers, Pace::Slow, Call::Points),
    route("POST", "/restore", Rights::Administrators, Pace::Quick, Call::Restore),
    route("POST", "/restore/plan", Rights::Administrators, Pace::Long, Call::Plan),
    route("POST", "/verify", Rights::Administrators, Pace::Quick, Call::Verify),
    route("POST", "/reload", Rights::Administrators, Pace::Slow, Call::Reload),
];

/// Every call there is, as method and path.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES
        .iter()
        .map(|route| (route.method, route.path))
        .chain(synapse::ROUTES.iter().copied())
        .chain(fcr::ROUTES.iter().copied())
}

/// The answer to whatever is asked.
pub(super) async fn answer(http: &Context, asked: &Asked) -> Answer {
    let segments = asked.segments();
    if let Some(call) = synapse::call(&segments) {
        let answered = in_time(http.places(asked), call.pace(), synapse::answer(http, asked, call)).await;
        return answered.unwrap_or_else(|refusal| refusal);
    }
    if let Some(call) = fcr::call(&segments) {
        return fcr::answer(http, asked, call).await;
    }
    let of_path = |path: &&Route| matches(path.path, &segments);
    let Some(route) = ROUTES.iter().filter(of_path).find(|route| route.method == asked.method.as_str()) else {
        let methods: Vec<_> = routes().filter(|(_, path)| matches(path, &segments)).map(|(method, _)| method).collect();
        return no_such_call(&methods);
    };
    let answered = async {
        let by = authorize(http, route.rights, asked).await?;
        perform(http, route.call, asked, &segments, by.as_deref()).await
    };
    in_time(http.places(asked), route.pace, answered).await.flatten().unwrap_or_else(|refusal| refusal)
}

/// Waits for a place for a call, makes it, and gives it up after a time.
pub(super) async fn in_time<T>(places: &Places, pace: Pace, call: impl Future<Output = T>) -> Result<T, Answer> {
    let _place = places.take(pace).await?;
    if matches!(pace, Pace::Long | Pace::Run) {
        return Ok(call.await);
    }
    let answered = tokio::time::timeout(ANSWER_WITHIN, call).await;
    answered.map_err(|_| Answer::later("this takes too long now: ask again later"))
}

/// A path that there is not, or one with other methods.
pub(super) fn no_such_call(methods: &[&'static str]) -> Answer {
    if methods.is_empty() {
        return Answer::reason(StatusCode::NOT_FOUND, "there is no such call: `GET /openapi.json` lists all of them");
    }
    let mut allowed = methods.to_vec();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let list = allowed.join(", ");
    let answer = Answer::reason(StatusCode::METHOD_NOT_ALLOWED, format!("this path is asked with: {list}"));
    match HeaderValue::from_str(&list) {
        Ok(value) => answer.with(ALLOW, value),
        Err(_) => answer,
    }
}

/// Whether a path is of this pattern.
fn matches(pattern: &str, segments: &[&str]) -> bool {
    let mut pattern = pattern.split('/').skip(1);
    let each = segments.iter().all(|segment| {
        pattern.next().is_some_and(|name| if name.starts_with('{') { !segment.is_empty() } else { name == *segment })
    });
    each && pattern.next().is_none()
}

/// Who asks, by e-mail address: nobody in particular for a call that needs no token. An answer if it may not be made.
async fn authorize(http: &Context, rights: Rights, asked: &Asked) -> Result<Option<String>, Answer> {
    let here = match asked.caller.from {
        Peer::Control => return Ok(None),
        Peer::Socket => true,
        Peer::Address(address) => address.to_canonical().is_loopback(),
    };
    match rights {
        Rights::Anybody => return Ok(None),
        Rights::Readers if here && asked.caller.token.is_none() => {
            return hosts::check(&http.hosts, asked.headers.get(HOST)).map(|()| None);
        }
        Rights::Readers | Rights::Administrators => {}
    }
    let Some(token) = &asked.caller.token else {
        return Err(Answer::unauthorized(
            "this takes an administrator's token in the header `sessionToken`, or as `Authorization: Bearer`",
        ));
    };
    match http.access.administrator(token).await {
        Ok(Some(administrator)) => Ok(Some(administrator.email)),
        Ok(None) => Err(Answer::unauthorized("the token is unknown or has expired: log in again")),
        Err(error) => Err(Answer::internal(&error)),
    }
}

async fn perform(
    http: &Context,
    call: Call,
    asked: &Asked,
    segments: &[&str],
    by: Option<&str>,
) -> Result<Answer, Answer> {
    match (call, segments) {
        (Call::Runs, _) => calls::runs(http, asked).await,
        _ if asked.query.is_some() => Err(Answer::reason(StatusCode::BAD_REQUEST, "this call takes nothing after `?`")),
        (Call::Health, _) => Ok(Answer::text(StatusCode::OK, "ok")),
        (Call::Document, _) => Ok(super::openapi::document()),
        (Call::Status, _) => calls::status(http).await,
        (Call::Run, [_, id]) => calls::run(http, id).await,
        (Call::Cancel, [_, id]) => calls::cancel(http, id).await,
        (Call::Start, [_, job, _]) => calls::start(http, asked, job, by).await,
        (Call::Points, _) => calls::points(http).await,
        (Call::Restore, _) => calls::restore(http, asked, by).await,
        (Call::Plan, _) => calls::plan(http, asked).await,
        (Call::Verify, _) => calls::verify(http, asked, by).await,
        (Call::Reload, _) => calls::reload(http).await,
        (Call::Run | Call::Cancel | Call::Start, _) => Err(Answer::empty(StatusCode::NOT_FOUND)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_paths_of_its_own_form_only() {
        for (pattern, path, expected) in [
            ("/runs", vec!["runs"], true),
            ("/runs", vec!["runs", ""], false),
            ("/runs", vec![""], false),
            ("/runs/{id}", vec!["runs", "7"], true),
            ("/runs/{id}", vec!["runs", ""], false),
            ("/runs/{id}", vec!["runs"], false),
            ("/runs/{id}", vec!["runs", "7", "x"], false),
            ("/jobs/{job}/run", vec!["jobs", "copy.binaries", "run"], true),
        ] {
            assert_eq!(matches(pattern, &path), expected, "{pattern} {path:?}");
        }
    }

    #[test]
    fn no_two_calls_are_asked_for_in_one_way() {
        let mut all: Vec<_> = routes().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), routes().count());
    }
}
