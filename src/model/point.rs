//! A restore point: what its manifest says, and what it is called.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::model::run::RunId;
use crate::model::shard::Shard;

/// The version of the formats in `docs/format.md` that this program writes and reads.
pub const FORMAT: u32 = 1;
/// That of the manifest of a shard's restore point. A program that knows nothing of shards would take such a point for
/// one of the whole repository, and on a restore take away all that is not in it: so it must not read it.
pub const SHARD_FORMAT: u32 = 2;

/// The name of a restore point: the time in UTC and the run that made it, `20261122T073500Z-12`; that of a shard has
/// its range and a random number as well, `20261122T073500Z-12-007f-5e1c`, as those who copy other shards count their
/// runs by themselves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointName(String);

/// The text does not name a restore point.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name a restore point: expected a time and a run, such as 20261122T073500Z-12")]
pub struct InvalidPointName(String);

impl PointName {
    /// The name of the point that `run` makes at `time`.
    pub fn new(time: Timestamp, run: RunId) -> Self {
        Self(format!("{}-{run}", time.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The name of the point of a shard; `random` tells apart what equal runs at the same time make by mistake.
    pub fn of_shard(time: Timestamp, run: RunId, shard: Shard, random: u16) -> Self {
        Self(format!("{}-{}-{random:04x}", Self::new(time, run), shard.digits()))
    }

    /// The shard that it is of; none for the whole repository.
    pub fn shard(&self) -> Option<Shard> {
        Shard::from_digits(self.0.split('-').nth(2)?)
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PointName {
    type Err = InvalidPointName;

    fn from_str(text: &str) -> Result<Self, InvalidPointName> {
        let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        let of_shard = |rest: &str| {
            let random = |text: &str| text.len() == 4 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            rest.split_once('-').is_some_and(|(shard, number)| Shard::from_digits(shard).is_some() && random(number))
        };
        let sound = text.split_once('-').is_some_and(|(time, run)| {
            let (run, shard) = run.split_once('-').map_or((run, None), |(run, shard)| (run, Some(shard)));
            time.is_ascii()
                && time.len() == 16
                && digits(&time[..8], 8)
                && &time[8..9] == "T"
                && digits(&time[9..15], 6)
                && &time[15..] == "Z"
                && !run.is_empty()
                && digits(run, run.len())
                && shard.is_none_or(of_shard)
        });
        if sound { Ok(Self(text.to_owned())) } else { Err(InvalidPointName(text.to_owned())) }
    }
}

impl Serialize for PointName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PointName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `point.json`, written last: a point exists when its manifest does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointManifest {
    /// [`FORMAT`], or [`SHARD_FORMAT`] if it is of a shard.
    pub format: u32,
    /// The name of the point, which is also its directory.
    pub name: PointName,
    /// The repository's name in the configuration.
    pub repository: String,
    /// The part of the repository that it is of; none if it is the whole. It says nothing of binaries outside of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// When the run looked at the repository.
    pub created: Timestamp,
    /// Whether everything the repository held is in the point; false when a binary was damaged or unreadable.
    pub complete: bool,
    /// How many documents, and where.
    pub documents: DocumentSet,
    /// How many binaries there are.
    pub binaries: u64,
    /// Their sizes in bytes, added up.
    pub bytes: u64,
    /// The lists that, read in this order, give the binaries: each adds and takes away.
    pub lists: Vec<ListFile>,
    /// Files at the root of the store that its owner needs, such as Jackrabbit's `reference.key`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordFile>,
}

/// The documents of a restore point or an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentSet {
    /// How many documents there are, each counted once.
    pub count: u64,
    /// The files in reading order: `documents_000001.bin.gz`, …
    pub files: Vec<DocumentFile>,
    /// Lines that are no documents, kept byte by byte, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<DocumentFile>,
}

/// One file of documents, gzip-compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentFile {
    /// The file's name, `documents_000001.bin.gz`.
    pub name: String,
    /// Where it lies: in the directory of this point, or of an earlier one when nothing had changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The SHA-1 of the compressed file.
    pub sha1: Digest,
    /// The size of the compressed file.
    pub bytes: u64,
    /// How many documents it holds.
    pub documents: u64,
}

/// A sorted, gzip-compressed list of binaries: lines `+ <digest> <size>` and `- <digest>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFile {
    /// Where it lies, in the directory of this point or of an earlier one.
    pub key: Key,
    /// The SHA-1 of the compressed file.
    pub sha1: Digest,
    /// The size of the compressed file.
    pub bytes: u64,
    /// How many lines begin with `+`.
    pub added: u64,
    /// How many lines begin with `-`.
    pub removed: u64,
}

/// A file at the root of a binary store that is not a binary, kept with the point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFile {
    /// The file's name in the store's root.
    pub name: String,
    /// Where it lies; absent in an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The SHA-1 of its content.
    pub sha1: Digest,
    /// Its size.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_by_time_and_run() {
        let name = PointName::new("2026-11-22T07:35:00.9Z".parse().unwrap(), RunId::new(12));
        assert_eq!(name.to_string(), "20261122T073500Z-12");
        assert_eq!("20261122T073500Z-12".parse(), Ok(name));
    }

    #[test]
    fn the_point_of_a_shard_is_named_by_its_range_as_well() {
        let shard = "0-7".parse().unwrap();
        let name = PointName::of_shard("2026-11-22T07:35:00.9Z".parse().unwrap(), RunId::new(12), shard, 0x5e1c);
        assert_eq!(name.to_string(), "20261122T073500Z-12-007f-5e1c");
        assert_eq!(name.shard(), Some(shard));
        assert_eq!("20261122T073500Z-12-007f-5e1c".parse(), Ok(name));
        assert_eq!("20261122T073500Z-12".parse::<PointName>().unwrap().shard(), None);
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            "20261122T073500Z",
            "20261122T073500Z-",
            "../20261122T0735Z-1",
            "20261122t073500Z-1",
            "20261122T073500Z-1-",
            "20261122T073500Z-1-007f",
            "20261122T073500Z-1-00ff-5e1c",
            "20261122T073500Z-1-007f-5E1C",
            "20261122T073500Z-1-007f-5e1c-1",
            "é261122T073500Z-1",
        ] {
            assert!(text.parse::<PointName>().is_err(), "{text}");
        }
    }
}
