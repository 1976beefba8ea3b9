//! What the kernel tells of a store: by a mark on its file system where that could be set, or else by `notify`, which only
//! this place names.
//!
//! With the latter a directory is watched by itself. The crate's own recursion would set watches on new directories but not say what
//! is in them by then, and that is where nearly every file of such a store arrives.

use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::{AccessKind, AccessMode, Event, EventKind, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::board::Way;
use super::fanotify::{Marks, Tapping};
use crate::model::branch::{Branch, Place};
use crate::model::digest::Digest;
use crate::model::layout::Layout;
use crate::repository::binaries::BinaryStore;

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// A file came, or was closed after somebody had written to it.
    Binary(Digest),
    /// A directory came or went: what is there now has to be watched and looked into.
    Branch(Branch),
    /// A directory came, and it is not known where.
    Unplaced,
    /// The root of the store went.
    RootGone,
    /// Not everything that happened was seen.
    Missed(String),
}

/// Why something cannot be watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Blind {
    /// It is not there, or is no directory (any more).
    Gone,
    /// There are no more watches to be had.
    NoWatches,
    /// There is no instance to be had.
    NoInstances,
    /// Something else is in the way.
    Other(String),
}

/// How one store is watched; dropping it ends that, and the sights after that.
#[derive(Debug)]
pub(super) struct Eyes {
    kind: Kind,
    root: PathBuf,
    layout: Layout,
}

#[derive(Debug)]
enum Kind {
    /// All of it, from the beginning.
    Mark(#[expect(dead_code, reason = "it is given back when it is dropped")] Tapping),
    /// Directories, each by itself.
    Watches(notify::INotifyWatcher),
}

/// Set when something was seen that found no room.
pub(super) type Overrun = Arc<AtomicBool>;

impl Eyes {
    /// What is seen goes to `sights`. Watches all of the store if it is marked, and nothing yet if not.
    pub(super) fn open(
        store: &BinaryStore,
        marks: &Marks,
        sights: mpsc::Sender<Sight>,
        overrun: Overrun,
    ) -> Result<(Self, Way), Blind> {
        let (root, layout) = (store.root().to_owned(), store.layout().clone());
        let why = match marks.tap(store, sights.clone()) {
            Ok(tapping) => return Ok((Self { kind: Kind::Mark(tapping), root, layout }, Way::Fanotify)),
            Err(why) => why,
        };
        let handler = {
            let (root, layout) = (root.clone(), layout.clone());
            move |event: notify::Result<Event>| {
                for sight in sights_of(&root, &layout, event) {
                    // This thread is asked to set watches by the one that takes sights: it must never wait for it.
                    if sights.try_send(sight).is_err() {
                        overrun.store(true, Ordering::Release);
                    }
                }
            }
        };
        let config = Config::default().with_follow_symlinks(false);
        let watcher = notify::INotifyWatcher::new(handler, config).map_err(|error| blind(&error))?;
        Ok((Self { kind: Kind::Watches(watcher), root, layout }, Way::Inotify { why }))
    }

    /// Whether all of the store is watched as it is.
    pub(super) fn see_all(&self) -> bool {
        matches!(self.kind, Kind::Mark(_))
    }

    /// Watches one directory, if it is not; again, if it was made anew.
    pub(super) fn watch(&mut self, branch: &Branch) -> Result<(), Blind> {
        let path = self.root.join(branch.path(&self.layout));
        match &mut self.kind {
            Kind::Mark(_) => Ok(()),
            Kind::Watches(watcher) => watcher.watch(&path, RecursiveMode::NonRecursive).map_err(|error| blind(&error)),
        }
    }
}

fn blind(error: &notify::Error) -> Blind {
    match &error.kind {
        ErrorKind::MaxFilesWatch => Blind::NoWatches,
        ErrorKind::PathNotFound | ErrorKind::WatchNotFound => Blind::Gone,
        ErrorKind::Io(cause) if matches!(cause.kind(), IoKind::NotFound | IoKind::NotADirectory) => Blind::Gone,
        ErrorKind::Io(cause) if cause.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            Blind::NoInstances
        }
        _ => Blind::Other(error.to_string()),
    }
}

fn sights_of(root: &Path, layout: &Layout, event: notify::Result<Event>) -> Vec<Sight> {
    let event = match event {
        Ok(event) => event,
        Err(error) => return vec![Sight::Missed(error.to_string())],
    };
    if event.need_rescan() {
        return vec![Sight::Missed("the kernel's queue of events ran over".to_owned())];
    }
    let Some(news) = news_of(event.kind) else { return Vec::new() };
    let place = |path: &PathBuf| Place::of(layout, path.strip_prefix(root).ok()?);
    let sight = |place| match (news, place) {
        (News::Went, Place::Branch(Branch::ROOT)) => Some(Sight::RootGone),
        // Also what went: the crate may have given up the watch on what stands in its place by now.
        (News::Came | News::Went, Place::Branch(branch)) => Some(Sight::Branch(branch)),
        (News::Came | News::Written, Place::Binary(digest)) => Some(Sight::Binary(digest)),
        (News::Written, Place::Branch(_)) | (News::Went, Place::Binary(_)) => None,
    };
    event.paths.iter().filter_map(place).filter_map(sight).collect()
}

#[derive(Clone, Copy)]
enum News {
    Came,
    Went,
    Written,
}

/// Reading the store, as our own copies do, tells of opened files, which are no news.
fn news_of(kind: EventKind) -> Option<News> {
    match kind {
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(News::Came),
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Some(News::Went),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(News::Written),
        // A rename within the store is told as both of its halves, too.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind};

    use super::*;

    const NAME: &str = "6aa9bf7df2242ef867558584c02160023a96f2f9";

    fn seen(kind: EventKind, path: &str) -> Vec<Sight> {
        let event = Event::new(kind).add_path(Path::new("/store").join(path));
        sights_of(Path::new("/store"), &Layout::modeshape(), Ok(event))
    }

    #[test]
    fn only_what_belongs_to_the_store_is_seen() {
        let came = EventKind::Create(CreateKind::File);
        let binary = format!("6a/a9/bf/{NAME}");
        assert_eq!(seen(came, &binary), [Sight::Binary(NAME.parse().unwrap())]);
        for path in [&format!("trash/{binary}"), &format!("{binary}.tmp"), "6a/a9/bf/tmp", "reference.key", NAME, "x/y"]
        {
            assert_eq!(seen(came, path), [], "{path}");
        }
        assert_eq!(
            sights_of(Path::new("/other"), &Layout::modeshape(), Ok(Event::new(came).add_path("/store/6a".into()))),
            []
        );
    }

    #[test]
    fn what_came_went_or_was_written_is_news_and_reading_is_not() {
        let binary = format!("6a/a9/bf/{NAME}");
        let one = Sight::Binary(NAME.parse().unwrap());
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        assert_eq!(seen(renamed(RenameMode::To), &binary), std::slice::from_ref(&one));
        assert_eq!(seen(EventKind::Access(AccessKind::Close(AccessMode::Write)), &binary), [one]);
        assert_eq!(seen(EventKind::Access(AccessKind::Open(AccessMode::Any)), &binary), []);
        assert_eq!(seen(EventKind::Modify(ModifyKind::Data(DataChange::Any)), &binary), []);
        assert_eq!(seen(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "6a"), []);
        assert_eq!(seen(EventKind::Remove(RemoveKind::File), &binary), []);
        for kind in [EventKind::Remove(RemoveKind::Folder), renamed(RenameMode::From), renamed(RenameMode::To)] {
            assert!(matches!(seen(kind, "6a/a9")[..], [Sight::Branch(_)]), "{kind:?}");
        }
        assert_eq!(seen(EventKind::Remove(RemoveKind::Folder), ""), [Sight::RootGone]);
    }

    #[test]
    fn an_overflow_and_an_error_say_that_something_was_missed() {
        let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        let error = notify::Error::generic("x");
        for event in [Ok(overflow), Err(error)] {
            assert!(matches!(sights_of(Path::new("/"), &Layout::modeshape(), event)[..], [Sight::Missed(_)]));
        }
    }
}
