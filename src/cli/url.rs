//! Where a restore point or an archive lies, as a URL: what a client is told, and hands back to have it restored.

use crate::config::{Destination, Place, S3Place};
use crate::jobs::catalogue::RestorableName;
use crate::model::key::{ARCHIVES, POINTS};

/// Where AWS has every bucket, as the daemon that these URLs are compatible with told it.
const AWS: &str = "https://s3.amazonaws.com";

/// The URL of a restore point or an archive; its name is all that follows the last `/`. It is put together and not
/// escaped.
pub(super) fn of(destination: &Destination, name: &RestorableName) -> String {
    match name {
        RestorableName::Archive(name) => of_archive(destination, &format!("{name}.zip")),
        RestorableName::Point(name) => format!("{}{POINTS}{name}", root(destination)),
    }
}

/// The URL that an archive would have which is called like this.
pub(super) fn of_archive(destination: &Destination, name: &str) -> String {
    format!("{}{ARCHIVES}{name}", root(destination))
}

/// Whether such a URL leads to this destination.
pub(super) fn leads_to(destination: &Destination, url: &str) -> bool {
    url.starts_with(&root(destination))
}

fn root(destination: &Destination) -> String {
    match &destination.place {
        Place::S3(S3Place { endpoint, bucket, prefix, .. }) => {
            let server = endpoint.as_deref().unwrap_or(AWS);
            let slash = if prefix.is_empty() { "" } else { "/" };
            format!("{server}/{bucket}{slash}{prefix}/")
        }
        // Where the directory is on this machine is none of a client's business.
        Place::Directory(_) => format!("holdfast://{}/", destination.name),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_url_ends_in_the_name_and_leads_back_to_its_destination() {
        let text = "[repository.main]\nbinaries = \"/srv/binaries\"\n\
            [destination.aws]\nurl = \"s3://bucket/fedora\"\n\
            [destination.other]\nurl = \"s3://bucket\"\nendpoint = \"http://127.0.0.1:8333\"\n\
            [destination.disk]\nurl = \"file:///var/backups/holdfast\"\n";
        let config = Config::parse(text, Path::new("/etc/holdfast/holdfast.toml")).unwrap();
        let archive: RestorableName = "BackupDaemonJob12-4711.zip".parse().unwrap();
        for (name, url) in [
            ("aws", "https://s3.amazonaws.com/bucket/fedora/archives/BackupDaemonJob12-4711.zip"),
            ("other", "http://127.0.0.1:8333/bucket/archives/BackupDaemonJob12-4711.zip"),
            ("disk", "holdfast://disk/archives/BackupDaemonJob12-4711.zip"),
        ] {
            assert_eq!(of(&config.destinations[name], &archive), url);
            assert!(leads_to(&config.destinations[name], url));
        }
        let point: RestorableName = "20261122T073500Z-12".parse().unwrap();
        let url = of(&config.destinations["aws"], &point);
        assert_eq!(url, "https://s3.amazonaws.com/bucket/fedora/points/20261122T073500Z-12");
        assert!(!leads_to(&config.destinations["other"], &url));
    }
}
