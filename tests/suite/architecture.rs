//! The rules of `docs/architecture.md` that can be read off the text of the program.

use std::path::{Path, PathBuf};

/// Each outside crate is named in one place, so that replacing it changes one place.
const HOMES: &[(&str, &[&str])] = &[
    ("aws_sdk_s3", &["store/s3"]),
    ("aws_config", &["store/s3"]),
    ("aws_sigv4", &["store/s3"]),
    ("aws_smithy_async", &["store/s3"]),
    ("aws_smithy_http_client", &["store/s3"]),
    ("aws_smithy_runtime_api", &["store/s3"]),
    ("aws_smithy_xml", &["store/s3"]),
    ("sha1", &["model/digest"]),
    ("sha2", &["model/digest"]),
    ("rusqlite", &["ledger"]),
    ("notify", &["service/watcher/eyes"]),
    ("nix", &["service/watcher/fanotify"]),
    ("libc", &["service/watcher/fanotify"]),
    ("toml", &["config"]),
    ("toml_edit", &["config/users"]),
    ("argon2", &["model/password"]),
    ("getrandom", &["service/access"]),
    // The service's side of HTTP, that of the commands which ask it, and ours of Fedora's.
    ("hyper", &["service/http", "cli/remote", "repository/documents/fedora/call"]),
    ("hyper_util", &["service/http", "cli/remote", "repository/documents/fedora/call"]),
    ("http_body_util", &["service/http", "cli/remote", "repository/documents/fedora/call"]),
    ("tokio_rustls", &["service/http/tls", "repository/documents/database/tls", "repository/documents/fedora/call"]),
    ("rustls_native_certs", &["repository/documents/database/tls"]),
    ("tokio_postgres", &["repository/documents/postgres"]),
    ("tokio_postgres_rustls", &["repository/documents/postgres"]),
    ("mysql_async", &["repository/documents/mysql"]),
    ("percent_encoding", &["service/http"]),
    ("form_urlencoded", &["service/http"]),
    ("croner", &["model/cron"]),
    ("tokio_cron_scheduler", &["service/scheduler"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("base64_simd", &["model/bson", "repository/documents", "service/http/fcr/basic"]),
    // Documents and ModeShape's backups are gzip files, lists and archives are ours: two formats, two homes.
    ("flate2", &["jobs/list", "jobs/zip", "repository/documents", "repository/backup_directory"]),
];

/// A layer may use itself and the layers before it, never the ones after.
const LAYERS: &[&[&str]] =
    &[&["model"], &["repository", "store", "ledger"], &["jobs"], &["service"], &["config"], &["cli"]];

fn sources() -> Vec<(String, String)> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
    found.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The text without comments, which may speak of anything.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

fn is_below(file: &str, home: &str) -> bool {
    file == home || file.strip_prefix(home).is_some_and(|rest| rest.starts_with('/'))
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn strangers(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in code(text) {
        for (name, homes) in HOMES {
            // `crate::model::…::toml::…` would be a module of ours, and `unix::` is not `nix::`.
            let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':'));
            let of_path = line.match_indices(&format!("{name}::")).any(|(at, _)| begins(at));
            if (of_path || line.contains(&format!("use {name};"))) && !homes.iter().any(|home| is_below(file, home)) {
                found.push(format!("src/{file}.rs:{number} names {name}, which lives in {}", homes.join(", ")));
            }
        }
    }
    found
}

fn upward_uses(file: &str, text: &str) -> Vec<String> {
    let Some(own) = file.split('/').next().and_then(layer_of) else { return Vec::new() };
    let mut found = Vec::new();
    for (number, line) in code(text) {
        if line.contains("use crate::{") {
            found.push(format!("src/{file}.rs:{number} gathers modules in one `use crate::{{…}}`: write a line each"));
        }
        for (at, _) in line.match_indices("crate::") {
            let module: String =
                line[at + "crate::".len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if layer_of(&module).is_some_and(|used| used > own) {
                found.push(format!("src/{file}.rs:{number} uses {module}, which is a layer above it"));
            }
        }
    }
    found
}

#[test]
fn each_outside_crate_is_named_only_in_its_home() {
    let found: Vec<_> = sources().iter().flat_map(|(file, text)| strangers(file, text)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_layer_uses_only_the_layers_before_it() {
    let found: Vec<_> = sources().iter().flat_map(|(file, text)| upward_uses(file, text)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_the_service_reads_the_clock() {
    let clocks = ["Timestamp::now(", "SystemTime::now(", "Zoned::now("];
    for (file, text) in sources().iter().filter(|(file, _)| !is_below(file, "service")) {
        for (number, line) in code(text) {
            assert!(!clocks.iter().any(|clock| line.contains(clock)), "src/{file}.rs:{number} reads the clock: {line}");
        }
    }
}

#[test]
fn these_rules_notice_what_breaks_them() {
    assert_eq!(strangers("jobs/copy", "use rusqlite::Connection;\nlet x = toml::from_str(y);").len(), 2);
    assert_eq!(strangers("ledger/index", "use rusqlite::Connection; // toml::from_str").len(), 0);
    assert_eq!(upward_uses("model/key", "use crate::jobs::copy;\nuse crate::{jobs, model};").len(), 2);
    assert_eq!(upward_uses("jobs/copy", "use crate::model::key;").len(), 0);
}
