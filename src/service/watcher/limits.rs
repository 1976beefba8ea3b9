//! How much may be watched, and what to change where that is not enough.

use std::fs;
use std::path::Path;

/// What bounds the watches of a user, and those of a user in a namespace of its own.
const WATCHES: [&str; 2] = ["/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches"];

/// The lowest limit of watches that can be read, and what sets it.
pub fn watch_limit() -> Option<(u64, &'static str)> {
    let read = |path: &'static str| Some((fs::read_to_string(Path::new(path)).ok()?.trim().parse().ok()?, path));
    WATCHES.into_iter().filter_map(read).min()
}

/// Why a store of this many directories is not watched, and the way out.
pub(super) fn no_watches(directories: u64, limit: Option<(u64, &str)>) -> String {
    // Others of the same user want some, and the store grows.
    let enough = (directories + directories / 4).next_multiple_of(65_536);
    let (allowed, setting) = match limit {
        Some((limit, path)) => (format!("{limit} watches are allowed"), setting_of(path)),
        None => ("fewer watches are allowed".to_owned(), setting_of(WATCHES[0])),
    };
    format!(
        "it has {directories} directories, each of which needs a watch, and {allowed} to all programs of this user: \
         sysctl -w {setting}={enough}, and the same in /etc/sysctl.d/"
    )
}

/// Why no store can be watched, and the way out.
pub(super) fn no_instances() -> String {
    "too many files are open, or other programs of this user watch already: raise fs.inotify.max_user_instances by \
     sysctl, or LimitNOFILE= in the unit"
        .to_owned()
}

/// `/proc/sys/fs/inotify/max_user_watches` is `fs.inotify.max_user_watches` to sysctl.
fn setting_of(path: &str) -> String {
    path.trim_start_matches("/proc/sys/").replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_names_the_setting_and_how_much_is_needed() {
        let text = no_watches(362_478, Some((192_536, WATCHES[0])));
        assert!(text.contains("362478 directories") && text.contains("192536 watches"), "{text}");
        assert!(text.contains("sysctl -w fs.inotify.max_user_watches=458752"), "{text}");
        assert!(no_watches(11, Some((10, WATCHES[1]))).contains("user.max_inotify_watches=65536"));
    }
}
