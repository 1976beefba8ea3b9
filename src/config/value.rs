//! Values that stand as texts and numbers in the file, and cannot be wrong by themselves once they are read.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use super::{MAX_SETTLE, VOLUME_LIMITS};
use crate::model::address::Address;
use crate::model::database::{DatabaseUrl, Server, TableName};
use crate::model::digest::Algorithm;
use crate::model::fedora::FedoraUrl;
use crate::model::shard::{InvalidShard, Shard};
use crate::model::url::Invalid;

/// A value that was wrong by itself, and the way out; travels through serde as one text.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) cause: String,
    pub(super) way_out: String,
}

impl Complaint {
    const SEPARATOR: &str = "\nway out: ";

    pub(super) fn new(cause: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { cause: cause.into(), way_out: way_out.into() }
    }

    /// What [`Complaint`] shows as, read back.
    pub(super) fn read(text: &str) -> Option<Self> {
        text.split_once(Self::SEPARATOR).map(|(cause, way_out)| Self::new(cause, way_out))
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.cause, Self::SEPARATOR, self.way_out)
    }
}

/// What stands as a text in the file.
pub(super) trait FromText: Sized {
    /// What belongs here, for whoever wrote something that is not even a text.
    const EXPECTED: &str;

    fn from_text(text: &str) -> Result<Self, Complaint>;
}

pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);
        impl<T: FromText> Visitor<'_> for TextVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                sound(text).and_then(T::from_text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(TextVisitor(PhantomData)).map(Self)
    }
}

/// No setting is empty, and none needs what cannot be seen.
pub(super) fn sound(text: &str) -> Result<&str, Complaint> {
    if text.trim().is_empty() {
        return Err(Complaint::new(
            "the text is empty",
            "write a value, or leave the line out where there is a default",
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Complaint::new(
            "there is a control character in the text",
            "take it out; paths and names are one line",
        ));
    }
    if text.trim() != text {
        return Err(Complaint::new("the text begins or ends with a space", "take it out"));
    }
    Ok(text)
}

impl FromText for String {
    const EXPECTED: &str = "a text in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        Ok(text.to_owned())
    }
}

impl FromText for PathBuf {
    const EXPECTED: &str = "a path in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.contains("://") {
            return Err(Complaint::new(
                format!("`{text}` is a url, and here stands a path"),
                "write the path alone, such as \"/srv/binaries\"",
            ));
        }
        if text.starts_with("~/") {
            return Err(Complaint::new("`~` is not replaced here", "write the whole path, beginning with `/`"));
        }
        Ok(Self::from(text))
    }
}

impl FromText for Algorithm {
    const EXPECTED: &str = "\"sha1\" or \"sha256\"";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        match text {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            _ => Err(Complaint::new(
                format!("`{text}` is no algorithm that names binaries"),
                "write \"sha1\" or \"sha256\"",
            )),
        }
    }
}

/// A socket in it is not yet resolved.
impl FromText for Address {
    const EXPECTED: &str = "an address in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if let Some(path) = text.strip_prefix(Self::UNIX) {
            if path.is_empty() || path.ends_with('/') {
                return Err(Complaint::new(
                    format!("`{text}` names no socket"),
                    "write for example \"unix:/run/holdfast/http.sock\"",
                ));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            let way_out = match text.rsplit_once(':') {
                Some(("localhost", port)) => format!("write the address of this machine: \"127.0.0.1:{port}\""),
                Some(("*" | "", port)) => format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\" for all addresses"),
                _ if text.starts_with('/') => format!("for a socket write \"unix:{text}\""),
                _ => "write an address and a port, such as \"127.0.0.1:8480\", or \"unix:/run/holdfast/http.sock\""
                    .to_owned(),
            };
            Complaint::new(format!("`{text}` is no address to listen on"), way_out)
        })
    }
}

/// A name by which this machine is asked for.
pub(super) struct Host(pub(super) String);

impl FromText for Host {
    const EXPECTED: &str = "a name in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            return Ok(Self(text.to_owned()));
        }
        Err(Complaint::new(
            format!("`{text}` is not the name of a machine"),
            "write the name alone, without a port, such as \"backup.example.org\"",
        ))
    }
}

/// Where a destination is, as its `url` says.
pub(super) enum Url {
    S3 {
        bucket: String,
        prefix: String,
    },
    /// Not yet resolved.
    Directory(PathBuf),
}

/// A key of ours takes up to about 150 bytes of the 1,024 that S3 allows.
const MAX_PREFIX: usize = 512;

impl FromText for Url {
    const EXPECTED: &str = "a url in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return s3_url(text, rest);
        }
        let Some(rest) = text.strip_prefix("file:") else {
            let way_out = if text.starts_with("http://") || text.starts_with("https://") {
                "write url = \"s3://bucket/prefix\", and the server as endpoint = \"http://…\"".to_owned()
            } else if text.starts_with(['/', '.']) {
                let slashes = if text.starts_with('/') { "//" } else { "" };
                format!("for this directory write \"file:{slashes}{text}\"")
            } else {
                "write \"s3://bucket/prefix\" or \"file:///directory\"".to_owned()
            };
            return Err(Complaint::new(format!("`{text}` is not the url of a destination"), way_out));
        };
        let path = match rest.strip_prefix("//") {
            Some(path) if !path.starts_with('/') => {
                return Err(Complaint::new(
                    format!("`{text}` has two slashes, so `{path}` would begin with the name of a machine"),
                    format!("write \"file:///{path}\" from the root, or \"file:{path}\" beside this file"),
                ));
            }
            Some(path) => path,
            None => rest,
        };
        if path.is_empty() {
            return Err(Complaint::new(format!("`{text}` names no directory"), "write \"file:///directory\""));
        }
        if let Some(escape) = escape_in(path) {
            return Err(Complaint::new(
                format!("escapes such as `{escape}` are not read"),
                "write the path as it is, with its spaces",
            ));
        }
        Ok(Self::Directory(PathBuf::from(path)))
    }
}

fn s3_url(url: &str, rest: &str) -> Result<Url, Complaint> {
    let refuse = |cause: String, way_out: &str| Err(Complaint::new(cause, way_out));
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return refuse(format!("`{url}` names no bucket"), "write \"s3://bucket/prefix\"");
    }
    let plain = bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !plain || !(3..=63).contains(&bucket.len()) {
        return refuse(
            format!("`{bucket}` cannot be the name of a bucket"),
            "a bucket's name is 3 to 63 letters, digits, `.`, `-` and `_`",
        );
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.contains(['?', '#']) {
        return refuse(
            format!("`{prefix}` is no prefix: `?` and `#` do not belong into it"),
            "settings such as the region are keys of their own in this table",
        );
    }
    let parts_sound = prefix.is_empty() || prefix.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !parts_sound || prefix.contains('\\') || prefix.len() > MAX_PREFIX {
        return refuse(
            format!("`{prefix}` cannot be a prefix"),
            "use up to 512 bytes, without `//`, `\\`, and parts that are `.` or `..`",
        );
    }
    Ok(Url::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// Where documents are in PostgreSQL.
pub(super) struct PostgresUrl(pub(super) DatabaseUrl);

impl From<Invalid> for Complaint {
    fn from(Invalid { cause, way_out }: Invalid) -> Self {
        Self { cause, way_out }
    }
}

impl FromText for PostgresUrl {
    const EXPECTED: &str = "a url in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        Ok(Self(DatabaseUrl::parse(Server::Postgres, text)?))
    }
}

/// Where documents are in MySQL or MariaDB.
pub(super) struct MysqlUrl(pub(super) DatabaseUrl);

impl FromText for MysqlUrl {
    const EXPECTED: &str = "a url in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        Ok(Self(DatabaseUrl::parse(Server::Mysql, text)?))
    }
}

impl FromText for FedoraUrl {
    const EXPECTED: &str = "a url in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        Ok(Self::parse(text)?)
    }
}

impl FromText for TableName {
    const EXPECTED: &str = "the name of a table in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        Ok(Self::parse(text)?)
    }
}

fn escape_in(path: &str) -> Option<&str> {
    path.match_indices('%')
        .filter_map(|(at, _)| path.get(at..at + 3))
        .find(|escape| escape.bytes().skip(1).all(|b| b.is_ascii_hexdigit()))
}

/// The address of an S3-compatible server, without a `/` at the end.
pub(super) struct Endpoint(pub(super) String);

impl FromText for Endpoint {
    const EXPECTED: &str = "a url in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let host = rest.map(|rest| rest.split('/').next().unwrap_or(rest));
        match host {
            Some(host) if host.contains('@') => Err(Complaint::new(
                "a user or password in the endpoint",
                "no secret stands in this file: use `credentials`, or the AWS environment",
            )),
            Some(host) if !host.is_empty() && !text.contains(['?', '#', ' ']) => {
                Ok(Self(text.trim_end_matches('/').to_owned()))
            }
            _ => Err(Complaint::new(
                format!("`{text}` is not the address of a server"),
                "write http:// or https://, the host, and the port, such as \"http://127.0.0.1:8333\"",
            )),
        }
    }
}

pub(super) struct StorageClass(pub(super) String);

impl FromText for StorageClass {
    const EXPECTED: &str = "a text in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if matches!(text, "GLACIER" | "DEEP_ARCHIVE") {
            return Err(Complaint::new(
                format!("what lies in `{text}` cannot be read at once, so nothing there could be proved restorable"),
                "use GLACIER_IR, or a lifecycle rule of the bucket that moves binaries later",
            ));
        }
        if !text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') {
            return Err(Complaint::new(
                format!("`{text}` cannot be a storage class"),
                "they are written like \"STANDARD_IA\"",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

pub(super) struct Sse(pub(super) String);

impl FromText for Sse {
    const EXPECTED: &str = "a text in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if !matches!(text, "AES256" | "aws:kms" | "aws:kms:dsse") {
            return Err(Complaint::new(
                format!("`{text}` is no kind of encryption at the server"),
                "write \"AES256\", \"aws:kms\" or \"aws:kms:dsse\"",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

pub(super) struct Account(pub(super) String);

impl FromText for Account {
    const EXPECTED: &str = "the 12 digits of an account, in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.len() != 12 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Complaint::new(
                format!("`{text}` is not the number of an AWS account"),
                "write its 12 digits, without hyphens",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromText for Shard {
    const EXPECTED: &str = "a range of leading digits in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.parse().map_err(|error: InvalidShard| {
            let way_out = match &error {
                InvalidShard::Text(_) => "write \"0-7\", \"8-f\", \"00-3f\" or \"a\"",
                InvalidShard::Backwards(_) => "write the smaller digits first, such as \"0-7\"",
                InvalidShard::Whole(_) => "take `shard` out: without it the whole repository is copied",
            };
            Complaint::new(error.to_string(), way_out)
        })
    }
}

pub(super) struct Settle(pub(super) Duration);

impl FromText for Settle {
    const EXPECTED: &str = "a duration in quotes, with a unit";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(Complaint::new(
                format!("the duration `{text}` has no unit"),
                format!("write \"{text}s\" for seconds; the units are ms, s, m, h"),
            ));
        }
        let read = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
        let Some(duration) = read else {
            return Err(Complaint::new(
                format!("`{text}` is not a duration"),
                "write a number and a unit, such as \"500ms\", \"2s\", \"1m 30s\"",
            ));
        };
        if duration > MAX_SETTLE {
            return Err(Complaint::new(
                format!("`{text}` is longer than an hour, and a run waits that long"),
                "write a few seconds, such as \"2s\"",
            ));
        }
        Ok(Self(duration))
    }
}

/// The seconds of an hour.
pub(super) const HOUR: u64 = 3_600;
/// The seconds of a day.
pub(super) const DAY: u64 = 24 * HOUR;
/// The seconds of a year.
pub(super) const YEAR: u64 = 365 * DAY;

/// A length of time between two others, in seconds; a day is 24 hours.
pub(super) struct Period<const MIN: u64, const MAX: u64>(pub(super) Duration);

impl<const MIN: u64, const MAX: u64> FromText for Period<MIN, MAX> {
    const EXPECTED: &str = "a duration in quotes, with a unit";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(Complaint::new(
                format!("the duration `{text}` has no unit"),
                format!("write \"{text}s\" for seconds; the units are ms, s, m, h, d"),
            ));
        }
        let read =
            text.parse::<Span>().ok().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
        let Some(duration) = read.and_then(|duration| Duration::try_from(duration).ok()) else {
            return Err(Complaint::new(
                format!("`{text}` is not a duration"),
                "write a number and a unit, such as \"90s\", \"5m\", \"1h 30m\", \"365d\"",
            ));
        };
        if !(Duration::from_secs(MIN)..=Duration::from_secs(MAX)).contains(&duration) {
            return Err(Complaint::new(
                format!("`{text}` is too {}", if duration.as_secs() < MIN { "short" } else { "long" }),
                format!("write a duration from {} to {}", plain(MIN), plain(MAX)),
            ));
        }
        Ok(Self(duration))
    }
}

/// Seconds in the largest unit that fits.
fn plain(seconds: u64) -> String {
    let units = [("d", 24 * HOUR), ("h", HOUR), ("m", 60), ("s", 1)];
    let (unit, factor) = units.into_iter().find(|(_, factor)| seconds >= *factor).unwrap_or(("s", 1));
    format!("{}{unit}", seconds / factor)
}

pub(super) struct Volume(pub(super) u64);

impl FromText for Volume {
    const EXPECTED: &str = "a size in quotes, with a unit";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let bytes = size(text)?;
        if bytes < *VOLUME_LIMITS.start() {
            return Err(Complaint::new(
                format!("volumes of {text} would be too many objects"),
                "use at least \"16MiB\"",
            ));
        }
        if bytes > *VOLUME_LIMITS.end() {
            return Err(Complaint::new(
                format!("a volume of {text} could need more than the 10,000 parts that S3 gives an upload"),
                "use at most \"64GiB\"; an archive has as many volumes as it needs",
            ));
        }
        Ok(Self(bytes))
    }
}

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a size such as `10GiB`: a whole number and a unit.
pub(super) fn size(text: &str) -> Result<u64, Complaint> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    if unit.is_empty() {
        return Err(Complaint::new(
            format!("the size `{text}` has no unit"),
            format!("write \"{number}MiB\" or \"{number}GiB\"; the units are B, KiB, MiB, GiB, TiB, KB, MB, GB, TB"),
        ));
    }
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| {
        Complaint::new(
            format!("`{text}` is not a size"),
            "write a whole number and a unit, such as \"10GiB\"; the units are B, KiB, MiB, GiB, TiB, KB, MB, GB, TB",
        )
    })
}

/// A whole number between two others.
pub(super) struct Whole<const MIN: usize, const MAX: usize>(pub(super) usize);

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WholeVisitor<const MIN: usize, const MAX: usize>;
        impl<const MIN: usize, const MAX: usize> Visitor<'_> for WholeVisitor<MIN, MAX> {
            type Value = usize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<usize, E> {
                usize::try_from(number)
                    .ok()
                    .filter(|number| (MIN..=MAX).contains(number))
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_i64(WholeVisitor::<MIN, MAX>).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("16MiB", 16 << 20),
            ("10 GiB", 10 << 30),
            ("1TiB", 1 << 40),
            ("7B", 7),
            ("2KB", 2_000),
            ("3GB", 3_000_000_000),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GiB", "1.5GiB", "-1GiB", "10gib", "10G", "99999999999TiB", "1 0GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn volumes_stay_within_the_parts_of_an_upload() {
        assert_eq!(Volume::from_text("64GiB").unwrap().0, 64 << 30);
        assert_eq!(Volume::from_text("16MiB").unwrap().0, 16 << 20);
        assert!(Volume::from_text("65GiB").is_err());
        assert!(Volume::from_text("15MiB").is_err());
    }

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, ms) in [("2s", 2_000), ("500ms", 500), ("1m 30s", 90_000), ("0s", 0), ("1h", 3_600_000)] {
            assert_eq!(Settle::from_text(text).unwrap().0, Duration::from_millis(ms), "{text}");
        }
        for text in ["60", "-2s", "2s ago", "soon", "61m", "1 fortnight"] {
            assert!(Settle::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_name_a_bucket_or_a_directory() {
        let s3 = |url| match Url::from_text(url) {
            Ok(Url::S3 { bucket, prefix }) => Some(format!("{bucket} {prefix}")),
            _ => None,
        };
        assert_eq!(s3("s3://bucket").as_deref(), Some("bucket "));
        assert_eq!(s3("s3://bucket/").as_deref(), Some("bucket "));
        assert_eq!(s3("s3://bucket/a/b/").as_deref(), Some("bucket a/b"));
        for url in
            ["s3://", "s3:///a", "s3://b", "s3://bucket//a", "s3://bucket/../a", "s3://bucket/a?b", "s3://b@cket"]
        {
            assert_eq!(s3(url), None, "{url}");
        }
        let directory = |url| match Url::from_text(url) {
            Ok(Url::Directory(path)) => Some(path),
            _ => None,
        };
        assert_eq!(directory("file:///srv/a b"), Some(PathBuf::from("/srv/a b")));
        assert_eq!(directory("file:/srv"), Some(PathBuf::from("/srv")));
        assert_eq!(directory("file:copies/here"), Some(PathBuf::from("copies/here")));
        for url in ["file:", "file://", "file://srv/a", "/srv/a", "http://host/bucket", "file:///a%20b"] {
            assert_eq!(directory(url), None, "{url}");
        }
    }

    #[test]
    fn an_address_is_one_of_the_network_or_a_socket() {
        for (text, address) in [
            ("127.0.0.1:8480", Address::Tcp("127.0.0.1:8480".parse().unwrap())),
            ("[::1]:80", Address::Tcp("[::1]:80".parse().unwrap())),
            ("unix:/run/holdfast/http.sock", Address::Unix(PathBuf::from("/run/holdfast/http.sock"))),
            ("unix:beside", Address::Unix(PathBuf::from("beside"))),
        ] {
            assert_eq!(Address::from_text(text).unwrap(), address, "{text}");
            assert_eq!(address.to_string(), text);
        }
        for text in ["localhost:8480", "8480", ":8480", "*:8480", "127.0.0.1", "/run/x.sock", "unix:", "unix:/run/"] {
            assert!(Address::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_endpoint_has_a_host_and_no_password() {
        assert_eq!(Endpoint::from_text("http://127.0.0.1:8333/").unwrap().0, "http://127.0.0.1:8333");
        for text in ["127.0.0.1:8333", "http://", "https://key:secret@host", "http://host?x=1"] {
            assert!(Endpoint::from_text(text).is_err(), "{text}");
        }
    }
}
