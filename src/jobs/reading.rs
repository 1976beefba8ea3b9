//! How a binary is read while its owner may still be writing it: what does not match its name is looked at again
//! after it has settled.

use std::io;
use std::time::{Duration, SystemTime};

use super::context::RunContext;
use crate::model::digest::Digest;
use crate::repository::binaries::BinaryStore;

/// How often a file may be found still changing before we go on without it.
const PATIENCE: u32 = 5;

/// Waits until nobody has written to the file of a binary for `settle`.
///
/// A file that was last written to before that has settled already. One that does not come to rest within five times
/// `settle` is taken as it is.
pub async fn settle(run: &RunContext, store: &BinaryStore, digest: &Digest, settle: Duration) -> io::Result<()> {
    let mut stamp = store.stamp(digest)?;
    for _ in 0..PATIENCE {
        let now = SystemTime::from(run.clock.now());
        // A time in the future is a clock that is wrong, theirs or ours: then only two equal looks count.
        if now.duration_since(stamp.modified).is_ok_and(|age| age >= settle) || run.stop.is_cancelled() {
            break;
        }
        tokio::select! {
            () = run.clock.sleep(settle) => {}
            () = run.stop.cancelled() => break,
        }
        let again = store.stamp(digest)?;
        if again == stamp {
            break;
        }
        stamp = again;
    }
    Ok(())
}
