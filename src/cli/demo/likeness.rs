//! What a repository is, file by file, taken before it is destroyed and again when it is back.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::Context as _;

use super::ground::files_below;
use crate::jobs::context::{Cancelled, RunContext};
use crate::model::digest::{Algorithm, Digest};
use crate::repository::binaries::{BinaryStore, hash, open_regular};
use crate::repository::documents::{DocumentDirectory, Earlier, Stopped};

/// How many differences are named.
const NAMED: usize = 5;

/// The binaries by path and the documents by id, each with a digest of its content.
#[derive(Debug, Default)]
pub(super) struct Likeness {
    binaries: BTreeMap<PathBuf, Digest>,
    documents: HashMap<[u8; 16], Earlier>,
    /// Files that are no binaries by their content: sidecars and markers, which no backup has.
    others: BTreeMap<PathBuf, Digest>,
}

/// How much of a repository came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Equal, and how many there should be.
    pub(super) binaries: (u64, u64),
    pub(super) documents: (u64, u64),
    /// Each in a few words, the first of them.
    pub(super) differences: Vec<String>,
    pub(super) is_equal: bool,
}

impl Likeness {
    /// Reads the repository, all of it.
    pub(super) fn of(run: &RunContext, store: &BinaryStore, documents: PathBuf) -> anyhow::Result<Self> {
        let mut likeness = Self::default();
        let like = Digest::of(Algorithm::Sha1, b"");
        let stop = || run.stop.is_cancelled();
        for path in files_below(store.root())? {
            run.go_on()?;
            let read = open_regular(&path).and_then(|mut file| hash(&mut file, &like, &stop));
            run.go_on()?;
            let digest = read.with_context(|| format!("read `{}`", path.display()))?;
            let below = path.strip_prefix(store.root()).context("read below the store")?.to_owned();
            let is_binary = store.layout().path(&digest) == below;
            if is_binary { &mut likeness.binaries } else { &mut likeness.others }.insert(below, digest);
            run.report.advance(1);
        }
        let directory = DocumentDirectory::new(documents);
        match directory.read(&mut likeness.documents, &stop, &mut |_| Ok(())) {
            Err(error) if error.is::<Stopped>() => Err(Cancelled.into()),
            Err(error) => Err(error),
            Ok(_) => Ok(likeness),
        }
    }

    /// Compares the repository as it was with what it is `now`.
    pub(super) fn compare(&self, now: &Self) -> Comparison {
        let mut differences = Vec::new();
        let mut equal = 0;
        for (path, digest) in &self.binaries {
            match now.binaries.get(path) {
                Some(found) if found == digest => equal += 1,
                _ if now.others.contains_key(path) => differences.push(format!("{} is damaged", path.display())),
                _ => differences.push(format!("{} is missing", path.display())),
            }
        }
        let new = now.binaries.keys().chain(now.others.keys());
        let new = new.filter(|path| !self.binaries.contains_key(*path) && !self.others.contains_key(*path));
        differences.extend(new.map(|path| format!("{} was not there before", path.display())));
        let content = |likeness: &Self, id: &[u8; 16]| likeness.documents.get(id).map(|document| document.content);
        let same = self.documents.keys().filter(|id| content(self, id) == content(now, id)).count();
        let lost = self.documents.len() - same;
        if lost > 0 {
            differences.push(format!("{lost} documents are missing or others"));
        }
        let new = now.documents.keys().filter(|id| !self.documents.contains_key(*id)).count();
        if new > 0 {
            differences.push(format!("{new} documents were not there before"));
        }
        let is_equal = differences.is_empty();
        differences.truncate(NAMED);
        Comparison {
            binaries: (equal, self.binaries.len() as u64),
            documents: (same as u64, self.documents.len() as u64),
            differences,
            is_equal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness(binaries: &[(&str, &[u8])], documents: &[(u8, u8)]) -> Likeness {
        let digest = |content: &[u8]| Digest::of(Algorithm::Sha1, content);
        Likeness {
            binaries: binaries.iter().map(|(path, content)| (path.into(), digest(content))).collect(),
            documents: documents
                .iter()
                .map(|(id, content)| ([*id; 16], Earlier { content: [*content; 16], ordinal: 0 }))
                .collect(),
            others: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_missing_damaged_or_new_is_named() {
        let before = likeness(&[("a", b"a"), ("b", b"b"), ("c", b"c")], &[(1, 1), (2, 2)]);
        assert!(before.compare(&before).is_equal);
        let mut now = likeness(&[("a", b"a"), ("d", b"d")], &[(1, 1), (2, 3), (4, 4)]);
        now.others.insert("b".into(), Digest::of(Algorithm::Sha1, b"x"));
        let found = before.compare(&now);
        assert_eq!((found.is_equal, found.binaries, found.documents), (false, (1, 3), (1, 2)));
        assert_eq!(
            found.differences,
            [
                "b is damaged",
                "c is missing",
                "d was not there before",
                "1 documents are missing or others",
                "1 documents were not there before",
            ]
        );
    }
}
