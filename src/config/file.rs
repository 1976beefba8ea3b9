//! The tables of the file as they are written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::bandwidth::BandwidthSetting;
use super::error::did_you_mean;
use super::timing::Jitter;
use super::value::{
    Account, Complaint, DAY, Endpoint, FromText, HOUR, Host, MysqlUrl, Period, PostgresUrl, Settle, Sse, StorageClass,
    Text, Url, Volume, Whole, YEAR, sound,
};
use crate::model::address::Address;
use crate::model::cron::CronExpression;
use crate::model::database::TableName;
use crate::model::digest::Algorithm;
use crate::model::fedora::FedoraUrl;
use crate::model::layout::Layout;
use crate::model::shard::Shard;

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct File {
    pub(super) service: ServiceTable,
    pub(super) repository: BTreeMap<String, RepositoryTable>,
    pub(super) destination: BTreeMap<String, DestinationTable>,
    pub(super) copy: BTreeMap<String, CopyTable>,
    pub(super) backup: BTreeMap<String, BackupTable>,
    pub(super) older_interfaces: OlderInterfacesTable,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct ServiceTable {
    pub(super) state_dir: Option<Text<PathBuf>>,
    pub(super) users: Option<Text<PathBuf>>,
    pub(super) session: Option<Text<Period<60, YEAR>>>,
    pub(super) grace: Option<Text<Period<1, HOUR>>>,
    pub(super) runs_at_once: Option<Whole<1, 64>>,
    pub(super) history: Option<Text<Period<HOUR, { 100 * YEAR }>>>,
    pub(super) listen: Option<Listen>,
    pub(super) tls: Option<TlsTable>,
    pub(super) allow_plaintext_beyond_loopback: Option<bool>,
    pub(super) hosts: Option<Vec<Text<Host>>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct TlsTable {
    pub(super) certificate: Text<PathBuf>,
    pub(super) key: Text<PathBuf>,
}

/// One address, or a list of them.
pub(super) struct Listen(pub(super) Vec<Address>);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListenVisitor;
        impl<'de> Visitor<'de> for ListenVisitor {
            type Value = Vec<Address>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address in quotes or a list of them")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Vec<Address>, E> {
                sound(text).and_then(Address::from_text).map(|address| vec![address]).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Address>, A::Error> {
                let mut addresses = Vec::new();
                while let Some(Text(address)) = list.next_element()? {
                    addresses.push(address);
                }
                Ok(addresses)
            }
        }
        deserializer.deserialize_any(ListenVisitor).map(Self)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RepositoryTable {
    pub(super) binaries: Text<PathBuf>,
    pub(super) layout: Option<LayoutSetting>,
    pub(super) documents: Option<DocumentsTable>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct DocumentsTable {
    pub(super) directory: Option<Text<PathBuf>>,
    pub(super) postgres: Option<DatabaseTable<PostgresUrl>>,
    pub(super) mysql: Option<DatabaseTable<MysqlUrl>>,
    pub(super) fedora: Option<FedoraTable>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct FedoraTable {
    pub(super) url: Text<FedoraUrl>,
    pub(super) staging: Text<PathBuf>,
    pub(super) staging_in_fedora: Option<Text<PathBuf>>,
    pub(super) password_file: Option<Text<PathBuf>>,
    pub(super) root_certificate: Option<Text<PathBuf>>,
    pub(super) timeout: Option<Text<Period<60, { 30 * DAY }>>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table", bound = "U: FromText")]
pub(super) struct DatabaseTable<U> {
    pub(super) url: Text<U>,
    pub(super) table: Option<Text<TableName>>,
    pub(super) password_file: Option<Text<PathBuf>>,
    pub(super) compress: Option<bool>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct DestinationTable {
    pub(super) url: Text<Url>,
    pub(super) endpoint: Option<Text<Endpoint>>,
    pub(super) region: Option<Text<String>>,
    pub(super) path_style: Option<bool>,
    pub(super) credentials: Option<CredentialsTable>,
    pub(super) storage_class: Option<Text<StorageClass>>,
    pub(super) sse: Option<Text<Sse>>,
    pub(super) kms_key: Option<Text<String>>,
    pub(super) expected_bucket_owner: Option<Text<Account>>,
    pub(super) bandwidth: Option<BandwidthSetting>,
    pub(super) bandwidth_timezone: Option<Text<TimeZone>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct CredentialsTable {
    pub(super) access_key_file: Text<PathBuf>,
    pub(super) secret_key_file: Text<PathBuf>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct CopyTable {
    pub(super) repository: Option<Text<String>>,
    pub(super) destination: Option<Text<String>>,
    pub(super) parallel: Option<Whole<1, 256>>,
    pub(super) settle: Option<Text<Settle>>,
    pub(super) schedule: Option<Text<CronExpression>>,
    pub(super) timezone: Option<Text<TimeZone>>,
    pub(super) jitter: Option<Text<Jitter>>,
    pub(super) watch: Option<bool>,
    pub(super) point_every: Option<Text<Period<1, DAY>>>,
    pub(super) scan_every: Option<Text<Period<60, YEAR>>>,
    pub(super) scan_rate: Option<Whole<1, 100_000_000>>,
    pub(super) shard: Option<Text<Shard>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct BackupTable {
    pub(super) repository: Option<Text<String>>,
    pub(super) destination: Option<Text<String>>,
    pub(super) volume: Option<Text<Volume>>,
    pub(super) settle: Option<Text<Settle>>,
    pub(super) schedule: Option<Text<CronExpression>>,
    pub(super) timezone: Option<Text<TimeZone>>,
    pub(super) jitter: Option<Text<Jitter>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct OlderInterfacesTable {
    pub(super) repository: Option<Text<String>>,
    pub(super) backup: Option<Text<String>>,
    pub(super) fedora_roots: Option<Vec<Text<PathBuf>>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct LayoutTable {
    algorithm: Text<Algorithm>,
    levels: Whole<0, 4>,
    width: Whole<1, 4>,
    suffix: Option<String>,
}

pub(super) struct LayoutSetting(pub(super) Layout);

impl<'de> Deserialize<'de> for LayoutSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LayoutVisitor;
        impl<'de> Visitor<'de> for LayoutVisitor {
            type Value = Layout;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a layout or a table")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Layout, E> {
                sound(name).and_then(named_layout).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Layout, A::Error> {
                let table = LayoutTable::deserialize(MapAccessDeserializer::new(map))?;
                let suffix = table.suffix.as_deref().unwrap_or("");
                Layout::custom(table.algorithm.0, table.levels.0, table.width.0, suffix).map_err(|error| {
                    A::Error::custom(Complaint::new(
                        error.to_string(),
                        "describe the store as it is on disk: \
                         { algorithm = \"sha1\", levels = 3, width = 2, suffix = \"\" }",
                    ))
                })
            }
        }
        deserializer.deserialize_any(LayoutVisitor).map(Self)
    }
}

type NamedLayout = (&'static str, fn() -> Layout);

const LAYOUTS: [NamedLayout; 4] = [
    ("modeshape", Layout::modeshape),
    ("jackrabbit", Layout::jackrabbit),
    ("artifactory", Layout::artifactory),
    ("git-lfs", Layout::git_lfs),
];

fn named_layout(name: &str) -> Result<Layout, Complaint> {
    if let Some((_, layout)) = LAYOUTS.iter().find(|(known, _)| *known == name) {
        return Ok(layout());
    }
    let names = LAYOUTS.map(|(known, _)| known);
    let meant = did_you_mean(name, names.iter().copied());
    Err(Complaint::new(
        format!("there is no layout `{name}`"),
        format!(
            "{meant}known layouts: {}, or {{ algorithm = \"sha1\", levels = 3, width = 2, suffix = \"\" }}",
            names.join(", ")
        ),
    ))
}
