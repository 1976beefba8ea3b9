//! The calls of the older interface.

use super::Context;
use super::answer::Answer;
use super::asked::Asked;

/// The calls, as the document of the interface lists them.
pub(super) const ROUTES: &[(&str, &str)] = &[];

/// The answer to one of its calls; none to any other.
#[expect(clippy::unused_async, reason = "there are none yet")]
pub(super) async fn answer(_http: &Context, _asked: &Asked) -> Option<Answer> {
    None
}
