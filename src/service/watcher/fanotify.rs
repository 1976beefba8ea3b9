//! One mark on a whole file system, in place of a watch on each directory: nothing has to be set up, however many
//! directories a store has, and nothing is lost that arrives together with its directory.
//!
//! The mark needs `CAP_SYS_ADMIN`, so it is set before anything else and the right is given up. The kernel tells of
//! everything on the file system, with the name and the handle of the directory: the digest in the name says where in
//! the store it would be, and the handle of that place whether it is.

mod handle;
mod record;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::CWD;
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::handle::PathHandle;
use self::record::{DirectoryHandle, Record, records};
use super::eyes::Sight;
use crate::model::branch::{Branch, Place};
use crate::model::layout::Layout;
use crate::model::shard::Shard;
use crate::repository::binaries::BinaryStore;

/// How much is read of what the kernel tells at once: some two thousand events.
const READ_BYTES: usize = 256 << 10;
/// How long the kernel gathers before it is read again: others may be busy on the same file system.
const GATHER: Duration = Duration::from_millis(5);

/// The file systems that were marked while that was allowed.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    marks: Vec<Arc<Mark>>,
    /// Why others could not be, by the number of their device.
    refused: BTreeMap<u64, String>,
}

/// A file system that is marked, and who wants to hear of it.
#[derive(Debug)]
struct Mark {
    device: u64,
    group: OwnedFd,
    taps: Mutex<Vec<Arc<Tap>>>,
}

/// Somebody who wants to hear what comes into a store.
#[derive(Debug)]
struct Tap {
    root: PathBuf,
    layout: Layout,
    shard: Option<Shard>,
    handle: PathHandle,
    sights: mpsc::Sender<Sight>,
}

/// What comes into a store is told until this is dropped.
#[derive(Debug)]
pub(super) struct Tapping {
    mark: Arc<Mark>,
    tap: Arc<Tap>,
}

impl Drop for Tapping {
    fn drop(&mut self) {
        self.mark.lock().retain(|tap| !Arc::ptr_eq(tap, &self.tap));
    }
}

impl Marks {
    /// Marks the file systems of these directories, as far as this process may and they can be.
    pub fn set<'a>(roots: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut marks = Self::default();
        for root in roots {
            let Ok(device) = fs::metadata(root).map(|metadata| metadata.dev()) else { continue };
            if marks.find(device).is_some() || marks.refused.contains_key(&device) {
                continue;
            }
            match mark(root) {
                Ok(group) => marks.marks.push(Arc::new(Mark { device, group, taps: Mutex::default() })),
                Err(why) => {
                    marks.refused.insert(device, why);
                }
            }
        }
        marks
    }

    fn find(&self, device: u64) -> Option<&Arc<Mark>> {
        self.marks.iter().find(|mark| mark.device == device)
    }

    /// Whether a store can be watched by a mark, or why it cannot be.
    pub fn covers(&self, root: &Path) -> Result<(), String> {
        self.cover(root).map(drop)
    }

    fn cover(&self, root: &Path) -> Result<&Arc<Mark>, String> {
        let device = fs::metadata(root).map_err(|error| format!("look at `{}`: {error}", root.display()))?.dev();
        let Some(mark) = self.find(device) else {
            let late = || "its file system was not there when the service was started: restart it".to_owned();
            return Err(self.refused.get(&device).cloned().unwrap_or_else(late));
        };
        if !mark.is_set() {
            return Err("its file system was unmounted since the service was started: restart it".to_owned());
        }
        if let Some(point) = mounted_below(root) {
            return Err(format!("another file system is mounted in it, at `{}`", point.display()));
        }
        Ok(mark)
    }

    /// Whether the mark by which a store is watched has gone, as it does with its file system.
    pub(super) fn have_lost(&self, device: u64) -> bool {
        self.find(device).is_some_and(|mark| !mark.is_set())
    }

    /// Tells of what comes into a store; or why it cannot.
    pub(super) fn tap(&self, store: &BinaryStore, sights: mpsc::Sender<Sight>) -> Result<Tapping, String> {
        let mark = Arc::clone(self.cover(store.root())?);
        // A handle is that of a link itself, and events tell the directory that it leads to.
        let root = fs::canonicalize(store.root()).map_err(|error| format!("look at the store: {error}"))?;
        let handle =
            PathHandle::of(&root).map_err(|error| format!("its file system has no handles of directories: {error}"))?;
        let layout = store.layout().clone();
        let tap = Arc::new(Tap { root, layout, shard: store.shard(), handle, sights });
        mark.lock().push(Arc::clone(&tap));
        Ok(Tapping { mark, tap })
    }

    /// The readers, one for each mark: each is to have a thread in a runtime until it is told to stop.
    pub(super) fn readers(&self) -> impl Iterator<Item = impl FnOnce(CancellationToken) + Send + 'static> {
        self.marks.iter().cloned().map(|mark| move |stop: CancellationToken| mark.read(&stop))
    }
}

/// Marks the file system of a directory; or says why it cannot be.
fn mark(root: &Path) -> Result<OwnedFd, String> {
    let report = InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME);
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
    let group = Fanotify::init(flags | InitFlags::FAN_UNLIMITED_QUEUE | report, EventFFlags::O_CLOEXEC);
    let group = group.map_err(|error| match error {
        Errno::EPERM => not_allowed(),
        Errno::EINVAL | Errno::ENOSYS => "the kernel has no fanotify with names: it is older than 5.9".to_owned(),
        error => format!("fanotify: {}", io::Error::from(error)),
    })?;
    // What is created and written in place, and what is renamed; a directory that is renamed brings its content along.
    let mask = MaskFlags::FAN_CREATE | MaskFlags::FAN_CLOSE_WRITE | MaskFlags::FAN_MOVED_TO | MaskFlags::FAN_ONDIR;
    let how = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
    group.mark(how, mask, CWD, Some(root)).map_err(|error| match error {
        Errno::EPERM => not_allowed(),
        Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EXDEV | Errno::EINVAL => {
            "its file system cannot be marked as a whole".to_owned()
        }
        error => format!("fanotify: {}", io::Error::from(error)),
    })?;
    Ok(group.into())
}

fn not_allowed() -> String {
    "the process had no CAP_SYS_ADMIN when it started, which the unit of the service grants and the service gives up at once"
        .to_owned()
}

/// The first place below a directory where another file system begins, whose events the mark does not tell.
fn mounted_below(root: &Path) -> Option<PathBuf> {
    let root = fs::canonicalize(root).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescaped(point)));
    points.filter(|point| *point != root && point.starts_with(&root)).min()
}

/// As `proc(5)` writes paths: a blank is `\040`.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

/// Waits for events and reads them.
///
/// The kernel gives whole events, so that it leaves some of the buffer free also where there are more. `Receiver::read`
/// takes that for the end of them, as it is with a pipe, and waits for another event; `try_read` waits only once the kernel
/// has said that there are none.
async fn read_events(group: &Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        group.readable().await?;
        match group.try_read(buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            read => return read,
        }
    }
}

impl Mark {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Tap>>> {
        self.taps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the kernel still has the mark: it takes it away without a word when the file system is unmounted.
    fn is_set(&self) -> bool {
        let path = format!("/proc/self/fdinfo/{}", self.group.as_raw_fd());
        // Where that cannot be read, what is missed is found by the scans alone.
        fs::read_to_string(path).map_or(true, |text| text.lines().any(|line| line.starts_with("fanotify sdev:")))
    }

    /// Hands on what the kernel tells. What nobody wants to hear is thrown away, so that it does not pile up.
    fn read(&self, stop: &CancellationToken) {
        let runtime = Handle::current();
        let _context = runtime.enter();
        let mut buffer = vec![0; READ_BYTES];
        // Waiting for it is that of a pipe.
        let group = match self.group.try_clone().and_then(Receiver::from_owned_fd_unchecked) {
            Ok(group) => group,
            Err(error) => return self.miss(&format!("wait for fanotify: {error}")),
        };
        loop {
            let told = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    read = read_events(&group, &mut buffer) => Some(read),
                }
            });
            match told {
                None => return,
                Some(Ok(length)) => self.tell(&buffer[..length]),
                Some(Err(error)) => self.miss(&format!("read from fanotify: {error}")),
            }
            runtime.block_on(async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(GATHER) => {}
                }
            });
        }
    }

    fn tell(&self, bytes: &[u8]) {
        // A tap that is full is waited for, without the lock: it may be given back meanwhile.
        let taps = self.lock().clone();
        for record in records(bytes) {
            match record {
                Ok(record) if record.mask & MaskFlags::FAN_Q_OVERFLOW.bits() != 0 => {
                    self.miss("the kernel's queue of events ran over");
                }
                Ok(record) => {
                    for (tap, sight) in taps.iter().filter_map(|tap| Some((tap, tap.sight(&record)?))) {
                        // One that is not listened to any more is about to be given back.
                        drop(tap.sights.blocking_send(sight));
                    }
                }
                Err(record::Malformed) => self.miss("the kernel told something that is not understood"),
            }
        }
    }

    fn miss(&self, cause: &str) {
        for tap in self.lock().clone() {
            drop(tap.sights.blocking_send(Sight::Missed(cause.to_owned())));
        }
    }
}

impl Tap {
    /// What an event is to this store.
    fn sight(&self, record: &Record<'_>) -> Option<Sight> {
        let (directory, name) = record.entry.as_ref()?;
        let has = |flag: MaskFlags| record.mask & flag.bits() != 0;
        if !has(MaskFlags::FAN_ONDIR) {
            let digest = self.layout.digest_in(name)?;
            if self.shard.is_some_and(|shard| !shard.contains(&digest)) {
                return None;
            }
            let path = self.root.join(self.layout.path(&digest));
            // If that is not there now, neither is the binary.
            let place = PathHandle::of(path.parent()?).ok()?;
            return place.may_be(directory).then_some(Sight::Binary(digest));
        }
        if !has(MaskFlags::FAN_MOVED_TO) || !self.layout.is_level(name) {
            return None;
        }
        // The name of a directory does not say where it lies.
        match self.parent(directory) {
            Some(parent) => match parent.entry(&self.layout, name)? {
                Place::Branch(branch) => Some(Sight::Branch(branch)),
                Place::Binary(_) => None,
            },
            None => (self.layout.levels > 2).then_some(Sight::Unplaced),
        }
    }

    /// The directory of the store with this handle, if it is the root or lies in that.
    fn parent(&self, told: &DirectoryHandle<'_>) -> Option<Branch> {
        if self.handle.is(told) {
            return Some(Branch::ROOT);
        }
        let entries = fs::read_dir(&self.root).ok()?.flatten();
        let found = entries.filter(|entry| self.layout.is_level(entry.file_name().as_encoded_bytes()));
        let is = |path: &Path| PathHandle::of(path).is_ok_and(|handle| handle.is(told));
        let name = found.into_iter().find(|entry| is(&entry.path()))?.file_name();
        match Branch::ROOT.entry(&self.layout, name.as_encoded_bytes())? {
            Place::Branch(branch) => Some(branch),
            Place::Binary(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::digest::{Algorithm, Digest};

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that skips says so")]
    fn all_that_has_come_is_told_without_another_event_and_also_through_a_link() {
        const COUNT: usize = 8_000;
        let lab = tempfile::tempdir().unwrap();
        let (place, link) = (lab.path().join("binaries"), lab.path().join("link"));
        fs::create_dir(&place).unwrap();
        std::os::unix::fs::symlink(&place, &link).unwrap();
        let marks = Marks::set([link.as_path()]);
        if let Err(why) = marks.covers(&link) {
            eprintln!("skipped: {why}");
            return;
        }
        let layout = Layout::custom(Algorithm::Sha1, 0, 1, "").unwrap();
        let (to, mut sights) = mpsc::channel(2 * COUNT);
        let _tapping = marks.tap(&BinaryStore::at(&link, &layout), to).unwrap();
        let digest = |number: usize| Digest::of(Algorithm::Sha1, number.to_string().as_bytes());
        // Several buffers of events, all there before the first is read.
        let mut wanted: BTreeSet<_> = (0..COUNT).map(digest).collect();
        for digest in &wanted {
            fs::write(place.join(digest.to_string()), "").unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stop = CancellationToken::new();
        runtime.block_on(async {
            for reader in marks.readers() {
                let stop = stop.clone();
                tokio::task::spawn_blocking(move || reader(stop));
            }
            while !wanted.is_empty() {
                let sight = tokio::time::timeout(Duration::from_secs(20), sights.recv()).await;
                match sight {
                    Ok(Some(Sight::Binary(digest))) => drop(wanted.remove(&digest)),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => panic!("{} of {COUNT} were not told", wanted.len()),
                }
            }
        });
        stop.cancel();
    }

    #[test]
    fn paths_of_mounts_are_read_as_they_are_written() {
        assert_eq!(unescaped("/a\\040b\\134c\\011"), "/a b\\c\t");
    }

    #[test]
    fn a_file_system_that_is_mounted_in_a_store_is_found() {
        assert!(mounted_below(Path::new("/")).is_some());
        let lab = tempfile::tempdir().unwrap();
        assert_eq!(mounted_below(lab.path()), None);
    }
}
