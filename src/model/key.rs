//! What lies where at a destination: the one place that spells object keys (`docs/format.md`).

use std::fmt;

use crate::model::archive::ArchiveName;
use crate::model::digest::Digest;
use crate::model::point::PointName;

/// The name of an object below a destination's prefix, such as `binaries/6a/a9/bf/6aa9bf7d…`.
///
/// Made only by the functions here or taken from a listing, so it holds no empty part, no `.` and no `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Where the binaries of a destination lie.
pub const BINARIES: &str = "binaries/";
/// Where the restore points of a destination lie.
pub const POINTS: &str = "points/";
/// Where the archives of a destination lie.
pub const ARCHIVES: &str = "archives/";
/// Where `check` tries out what a destination can do.
pub const PROBES: &str = "check/";

impl Key {
    /// One object a binary, whatever the layout of the store it came from.
    pub fn binary(digest: &Digest) -> Self {
        let name = digest.to_string();
        Self(format!("{BINARIES}{}/{}/{}/{name}", &name[..2], &name[2..4], &name[4..6]))
    }

    /// What the keys of all binaries begin with whose digests begin with this byte.
    pub fn binaries_below(first: u8) -> String {
        format!("{BINARIES}{first:02x}/")
    }

    /// A file of a restore point: its manifest, documents, list of binaries or records.
    pub fn in_point(point: &PointName, file: &str) -> Self {
        Self(format!("{POINTS}{point}/{file}"))
    }

    /// A volume of an archive; the first is 1.
    pub fn volume(archive: &ArchiveName, number: u32) -> Self {
        if number == 1 {
            return Self(format!("{ARCHIVES}{archive}.zip"));
        }
        Self(format!("{ARCHIVES}{archive}.{number:03}.zip"))
    }

    /// The manifest of an archive.
    pub fn archive_manifest(archive: &ArchiveName) -> Self {
        Self(format!("{ARCHIVES}{archive}.json"))
    }

    /// An object that `check` makes and takes away again.
    pub fn probe(name: &str) -> Self {
        Self(format!("{PROBES}{name}"))
    }

    /// What the keys of all such objects begin with, for uploads to be looked for below it.
    pub fn probes() -> Self {
        Self(PROBES.trim_end_matches('/').to_owned())
    }

    /// The key with this text, unless a part of it is empty, `.` or `..`, or it has a control character.
    pub fn parse(text: &str) -> Option<Self> {
        let sound = text.len() <= 1024
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !text.chars().any(|c| c.is_control() || c == '\\');
        sound.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The binary this is the key of, if it is one.
    pub fn as_binary(&self) -> Option<Digest> {
        let name = self.0.rsplit('/').next()?;
        let digest = Digest::from_name(name.as_bytes())?;
        (Self::binary(&digest) == *self).then_some(digest)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a key")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_lies_three_levels_deep_and_is_found_again() {
        let digest: Digest = "6aa9bf7df2242ef867558584c02160023a96f2f9".parse().unwrap();
        let key = Key::binary(&digest);
        assert_eq!(key.as_str(), "binaries/6a/a9/bf/6aa9bf7df2242ef867558584c02160023a96f2f9");
        assert_eq!(key.as_binary(), Some(digest));
    }

    #[test]
    fn a_digest_in_a_foreign_place_is_no_binary() {
        let key = Key::parse("binaries/6aa9bf7df2242ef867558584c02160023a96f2f9").unwrap();
        assert_eq!(key.as_binary(), None);
    }

    #[test]
    fn keys_that_lead_elsewhere_are_refused() {
        for text in ["", "/a", "a/", "a//b", "a/../b", "./a", "a\\b", "a\nb"] {
            assert_eq!(Key::parse(text), None, "{text:?}");
        }
    }
}
