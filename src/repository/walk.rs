//! The walk over a binary store: every name in it, in order, by several threads, in bounded memory.
//!
//! The threads take the directories of the first level in order and each sends its names through a small channel of
//! its own, so they come out in the order of digests whoever was faster. No file is opened and none is asked for its
//! size: the name is all that is needed, and a walk costs what reading the directories costs.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::Context as _;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::binaries::BinaryStore;
use crate::model::digest::Digest;
use crate::model::layout::{Layout, MAX_WIDTH, RootEntry};

/// How many names are sent at once.
const BATCH: usize = 1024;
/// How many batches of one first-level directory wait for their turn.
const BATCHES_AHEAD: usize = 4;
/// How many first-level directories may be under way or waiting for their turn.
const DIRECTORIES_AHEAD: usize = 8;
/// How many foreign names are kept as examples.
const EXAMPLES: usize = 10;
/// Room for directory entries: what one `getdents64` can fill.
pub(super) const DIRENT_BYTES: usize = 32 << 10;

/// What a walk comes upon, in the order of digests.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Names of binaries, ascending.
    Binaries(Vec<Digest>),
    /// A directory that could not be read: nothing is known of the binaries whose names begin with these digits.
    Unreadable {
        /// The hexadecimal digits of all levels down to the directory.
        digits: String,
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// A part of a store that is walked by itself: first-level directories that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// A binary in the directory after which it begins.
    reached: Option<Digest>,
    /// Names of directories: it begins after this one,
    after: Option<String>,
    /// and this is its last.
    until: Option<String>,
}

impl Stretch {
    /// All of a store.
    pub const ALL: Self = Self { reached: None, after: None, until: None };

    /// What comes after the first-level directory of a binary, and what comes up to it, with it; none where a layout has
    /// no such directories.
    pub fn around(layout: &Layout, reached: &Digest) -> Option<(Self, Self)> {
        let name = (layout.levels > 0).then(|| reached.to_string()[..layout.width].to_owned())?;
        let after = Self { reached: Some(*reached), after: Some(name.clone()), until: None };
        Some((after, Self { reached: None, after: None, until: Some(name) }))
    }

    /// A binary that comes before all of it, if there is one to tell.
    pub fn after(&self) -> Option<Digest> {
        self.reached
    }

    /// Whether a binary comes before it.
    pub fn is_after(&self, digest: &Digest) -> bool {
        self.after.as_ref().is_some_and(|after| digest.to_string()[..after.len()] <= after[..])
    }

    /// Whether a binary is in it.
    pub fn contains(&self, digest: &Digest) -> bool {
        let before_its_end = |until: &String| digest.to_string()[..until.len()] <= until[..];
        !self.is_after(digest) && self.until.as_ref().is_none_or(before_its_end)
    }

    fn has(&self, directory: &[u8]) -> bool {
        self.after.as_ref().is_none_or(|after| directory > after.as_bytes())
            && self.until.as_ref().is_none_or(|until| directory <= until.as_bytes())
    }
}

/// What lay beside the binaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// How many files and directories are none of the store's own.
    pub foreign: u64,
    /// The first of them, by path below the root.
    pub examples: Vec<String>,
    /// Names of records in the root, ascending.
    pub records: Vec<String>,
}

/// A walk under way; an iterator over what it comes upon.
#[derive(Debug)]
pub struct Walk {
    turns: Option<Receiver<Receiver<Found>>>,
    turn: Option<Receiver<Found>>,
    threads: Vec<JoinHandle<()>>,
    beside: Arc<Mutex<Beside>>,
}

/// A first-level directory to be walked, and where its names go.
struct Task {
    name: Vec<u8>,
    to: SyncSender<Found>,
}

/// What every thread knows.
struct Shared {
    root: OwnedFd,
    store: BinaryStore,
    beside: Arc<Mutex<Beside>>,
}

impl Walk {
    /// Begins to walk a store with this many threads.
    pub fn begin(store: &BinaryStore, threads: usize) -> anyhow::Result<Self> {
        Self::begin_in(store, threads, &Stretch::ALL)
    }

    /// Begins to walk a part of a store.
    pub fn begin_in(store: &BinaryStore, threads: usize, stretch: &Stretch) -> anyhow::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, store.root(), flags, Mode::empty())
            .with_context(|| format!("open binary directory `{}`", store.root().display()))?;
        let beside = Arc::new(Mutex::new(Beside::default()));
        let shared = Arc::new(Shared { root, store: store.clone(), beside: Arc::clone(&beside) });
        let top = read_top(&shared, stretch)
            .with_context(|| format!("read binary directory `{}`", store.root().display()))?;
        let (turns_to, turns) = sync_channel(DIRECTORIES_AHEAD);
        let (tasks_to, tasks) = sync_channel::<Task>(0);
        let tasks = Arc::new(Mutex::new(tasks));
        let mut running = Vec::new();
        for _ in 0..threads.max(1) {
            let (tasks, shared) = (Arc::clone(&tasks), Arc::clone(&shared));
            running.push(std::thread::spawn(move || work(&tasks, &shared)));
        }
        running.push(std::thread::spawn(move || hand_out(top, &turns_to, &tasks_to)));
        Ok(Self { turns: Some(turns), turn: None, threads: running, beside })
    }

    /// What lay beside the binaries; complete after the last item.
    pub fn beside(&self) -> Beside {
        let mut beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner).clone();
        beside.examples.sort();
        beside.records.sort();
        beside
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            if let Some(turn) = &self.turn {
                if let Ok(found) = turn.recv() {
                    return Some(found);
                }
                self.turn = None;
            }
            let Ok(turn) = self.turns.as_ref()?.recv() else {
                self.end();
                return None;
            };
            self.turn = Some(turn);
        }
    }
}

impl Walk {
    /// Ends the threads. One that panicked has ended its part of the walk early, which must not look like its end.
    fn end(&mut self) {
        // Without receivers every sender fails, and the threads end.
        self.turn = None;
        self.turns = None;
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a thread of the walk panicked");
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.end();
    }
}

/// The first level: names of directories to walk, or the binaries themselves where the layout has no levels.
enum Top {
    Directories(Vec<Vec<u8>>),
    Flat(Vec<Digest>),
}

fn read_top(shared: &Shared, stretch: &Stretch) -> Result<Top, Errno> {
    let layout = shared.store.layout();
    let mut directories = Vec::new();
    let mut flat = Vec::new();
    let mut records = Vec::new();
    let mut foreign = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); DIRENT_BYTES];
    each_entry(shared.root.as_fd(), &mut buffer, |name, kind, _| {
        let text = || String::from_utf8_lossy(name).into_owned();
        let rest = match kind {
            // Whatever bears the name of a level has to be one: what is not is found unreadable when it is opened.
            _ if layout.levels > 0 && layout.is_level(name) => {
                if stretch.has(name) && shared.store.may_include_below(name) {
                    directories.push(name.to_vec());
                }
                return;
            }
            FileType::Directory if text().starts_with(".holdfast-") => RootEntry::Passing,
            FileType::Directory => layout.root_directory(&text()),
            FileType::RegularFile => match layout.digest_of(b"", name) {
                Some(digest) => {
                    if shared.store.includes(&digest) {
                        flat.push(digest);
                    }
                    return;
                }
                None => layout.root_file(&text()),
            },
            _ => RootEntry::Foreign,
        };
        match rest {
            RootEntry::Record => records.push(text()),
            RootEntry::Passing => {}
            RootEntry::Foreign => foreign.push(text()),
        }
    })?;
    // The root belongs to the stretch that begins with it.
    if stretch.after.is_none() {
        let mut beside = shared.beside.lock().unwrap_or_else(PoisonError::into_inner);
        beside.records = records;
        for name in foreign {
            beside.add(name);
        }
    }
    if layout.levels == 0 {
        flat.sort_unstable();
        return Ok(Top::Flat(flat));
    }
    directories.sort_unstable();
    Ok(Top::Directories(directories))
}

impl Beside {
    fn add(&mut self, path: String) {
        self.foreign += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(path);
        }
    }

    /// Takes in what lay beside the binaries of another stretch.
    pub fn merge(&mut self, other: Self) {
        self.foreign += other.foreign;
        self.records.extend(other.records);
        self.examples.extend(other.examples);
        self.examples.sort();
        self.examples.truncate(EXAMPLES);
    }
}

/// Queues the turn of each first-level directory, then hands it to the first idle thread.
fn hand_out(top: Top, turns: &SyncSender<Receiver<Found>>, tasks: &SyncSender<Task>) {
    match top {
        Top::Directories(names) => {
            for name in names {
                let (to, from) = sync_channel(BATCHES_AHEAD);
                if turns.send(from).is_err() || tasks.send(Task { name, to }).is_err() {
                    return;
                }
            }
        }
        Top::Flat(digests) => {
            let (to, from) = sync_channel(BATCHES_AHEAD);
            if turns.send(from).is_err() {
                return;
            }
            for batch in digests.chunks(BATCH) {
                if to.send(Found::Binaries(batch.to_vec())).is_err() {
                    return;
                }
            }
        }
    }
}

fn work(tasks: &Mutex<Receiver<Task>>, shared: &Shared) {
    let mut buffer = vec![MaybeUninit::uninit(); DIRENT_BYTES];
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        let mut below =
            Below { shared, to: &task.to, digits: Vec::new(), batch: Vec::with_capacity(BATCH), buffer: &mut buffer };
        if below.directory(shared.root.as_fd(), &task.name).and_then(|()| below.send_batch()).is_err() {
            return;
        }
    }
}

/// Nobody takes what the walk finds any more.
struct Abandoned;

/// The name of a level, which has no memory of its own: there are as many as binaries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LevelName {
    digits: [u8; MAX_WIDTH],
    width: u8,
}

impl LevelName {
    /// A name that the layout takes for that of a level.
    fn new(name: &[u8]) -> Self {
        let mut digits = [0; MAX_WIDTH];
        digits[..name.len()].copy_from_slice(name);
        Self { digits, width: u8::try_from(name.len()).expect("a layout's width is small") }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.digits[..usize::from(self.width)]
    }
}

/// A directory that was read, and further ones in it with their inodes.
struct Level {
    directory: OwnedFd,
    below: Vec<(u64, LevelName)>,
}

/// The walk below one first-level directory.
struct Below<'a> {
    shared: &'a Shared,
    to: &'a SyncSender<Found>,
    /// The hexadecimal digits of all levels down to here.
    digits: Vec<u8>,
    batch: Vec<Digest>,
    buffer: &'a mut [MaybeUninit<u8>],
}

impl Below<'_> {
    /// Walks a directory of this name, and all below it.
    fn directory(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Abandoned> {
        self.digits.extend_from_slice(name);
        let mut binaries = Vec::new();
        let result = match self.read(parent, name, &mut binaries) {
            Ok(Level { directory, mut below }) => {
                let layout = self.shared.store.layout();
                let last = self.digits.len() / layout.width + 1 == layout.levels;
                binaries.sort_unstable();
                binaries.into_iter().try_for_each(|digest| self.push(digest)).and_then(|()| {
                    if last {
                        return self.leaves(directory.as_fd(), below);
                    }
                    below.sort_unstable_by_key(|(_, name)| *name);
                    below.iter().try_for_each(|(_, name)| self.directory(directory.as_fd(), name.as_bytes()))
                })
            }
            Err(error) => self.not_read(error),
        };
        self.digits.truncate(self.digits.len() - name.len());
        result
    }

    /// Reads the directories of the last level: in the order in which they lie on the disk, which saves it most of its
    /// ways, and tells of them in the order of their names.
    fn leaves(&mut self, parent: BorrowedFd<'_>, mut below: Vec<(u64, LevelName)>) -> Result<(), Abandoned> {
        below.sort_unstable();
        let here = self.digits.len();
        let mut binaries = Vec::with_capacity(below.len());
        let mut not_read = Vec::new();
        for (_, name) in below {
            self.digits.extend_from_slice(name.as_bytes());
            if let Err(error) = self.read(parent, name.as_bytes(), &mut binaries) {
                not_read.push((name, error));
            }
            self.digits.truncate(here);
        }
        binaries.sort_unstable();
        not_read.sort_unstable_by_key(|(name, _)| *name);
        let mut binaries = binaries.into_iter().peekable();
        for (name, error) in not_read {
            self.digits.extend_from_slice(name.as_bytes());
            while let Some(digest) = binaries.next_if(|digest| digest.to_string().as_bytes() < &self.digits[..]) {
                self.push(digest)?;
            }
            self.not_read(error)?;
            self.digits.truncate(here);
        }
        binaries.try_for_each(|digest| self.push(digest))
    }

    /// Reads the directory that the digits lead to, and adds its binaries; what is in it that is none of the store's is
    /// noted. Of one that could not be read to its end nothing is told.
    fn read(&mut self, parent: BorrowedFd<'_>, name: &[u8], binaries: &mut Vec<Digest>) -> Result<Level, Errno> {
        let (store, layout) = (&self.shared.store, self.shared.store.layout());
        let depth = self.digits.len() / layout.width;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let before = binaries.len();
        let mut below = Vec::new();
        let mut foreign = Vec::new();
        let read = rustix::fs::openat(parent, name, flags, Mode::empty()).and_then(|directory| {
            each_entry(directory.as_fd(), self.buffer, |name, kind, inode| match kind {
                _ if depth < layout.levels && layout.is_level(name) => {
                    // Two digits of a name decide, and this may be the level that brings the second.
                    if self.digits.len() >= 2 || store.may_include_below(&[&self.digits[..], name].concat()) {
                        below.push((inode, LevelName::new(name)));
                    }
                }
                FileType::RegularFile if depth == layout.levels => match layout.digest_of(&self.digits, name) {
                    Some(digest) if store.includes(&digest) => binaries.push(digest),
                    Some(_) => {}
                    None => foreign.push(name.to_vec()),
                },
                _ => foreign.push(name.to_vec()),
            })?;
            Ok(directory)
        });
        if !foreign.is_empty() {
            let mut beside = self.shared.beside.lock().unwrap_or_else(PoisonError::into_inner);
            for name in foreign {
                beside.add(self.relative().join(String::from_utf8_lossy(&name).as_ref()).display().to_string());
            }
        }
        match read {
            Ok(directory) => Ok(Level { directory, below }),
            Err(error) => {
                binaries.truncate(before);
                Err(error)
            }
        }
    }

    fn not_read(&mut self, error: Errno) -> Result<(), Abandoned> {
        match error {
            // The garbage collector of the store removes directories that became empty.
            Errno::NOENT => Ok(()),
            error => self.unreadable(error),
        }
    }

    /// The directory below the root that the digits lead to.
    fn relative(&self) -> PathBuf {
        self.digits
            .chunks(self.shared.store.layout().width)
            .map(|level| String::from_utf8_lossy(level).into_owned())
            .collect()
    }

    fn push(&mut self, digest: Digest) -> Result<(), Abandoned> {
        self.batch.push(digest);
        if self.batch.len() == BATCH { self.send_batch() } else { Ok(()) }
    }

    fn send_batch(&mut self) -> Result<(), Abandoned> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.to.send(Found::Binaries(batch)).map_err(|_| Abandoned)
    }

    fn unreadable(&mut self, error: Errno) -> Result<(), Abandoned> {
        self.send_batch()?;
        let found = Found::Unreadable {
            digits: String::from_utf8_lossy(&self.digits).into_owned(),
            path: self.shared.store.root().join(self.relative()),
            cause: match error {
                Errno::NOTDIR | Errno::LOOP => format!("{error}; symbolic links are not followed"),
                _ => error.to_string(),
            },
        };
        self.to.send(found).map_err(|_| Abandoned)
    }
}

/// Calls `visit` with the name, the type and the inode of every entry but `.` and `..`.
pub(super) fn each_entry(
    directory: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    mut visit: impl FnMut(&[u8], FileType, u64),
) -> Result<(), Errno> {
    let mut entries = RawDir::new(directory, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let (name, inode) = (entry.file_name(), entry.ino());
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match ask_type(directory, name) {
                Err(Errno::NOENT) => continue,
                kind => kind?,
            },
            known => known,
        };
        visit(name.to_bytes(), kind, inode);
    }
    Ok(())
}

/// Some file systems do not tell the type with the name.
fn ask_type(directory: BorrowedFd<'_>, name: &CStr) -> Result<FileType, Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}
