//! The configuration file as its readers meet it: the example, the first one, and what errors look like.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast::config::{self, Config, Credentials, DocumentSource, Job, Place};
use holdfast::model::digest::Algorithm;
use holdfast::model::layout::Layout;
use proptest::prelude::*;

const FILE: &str = "/etc/holdfast/holdfast.toml";
const EXAMPLE: &str = include_str!("../../etc/holdfast.toml");
/// A configuration that errors are planted behind.
const SOUND: &str = r#"[repository.main]
binaries = "/srv/binaries"
[destination.disk]
url = "file:///var/backups"
"#;

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new(FILE)).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> String {
    Config::parse(text, Path::new(FILE)).expect_err("a refusal").to_string()
}

/// The error of what follows a sound configuration.
fn error_after(text: &str) -> String {
    error(&format!("{SOUND}{text}"))
}

/// The example with its commented settings taken as settings.
fn uncommented(text: &str) -> String {
    let setting = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let lines = text.lines().map(|line| line.strip_prefix('#').filter(setting).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_parses_with_and_without_its_commented_settings_which_show_the_defaults() {
    let plain = parse(EXAMPLE);
    // `scan_every` goes with a watch alone.
    let full = parse(&uncommented(EXAMPLE).replace("\nwatch = false\n", "\nwatch = true\n"));
    let mut service = full.service.clone();
    // These two show examples, as without them there are none.
    assert!(service.tls.take().is_some());
    assert_eq!(std::mem::take(&mut service.hosts), ["backup.example.org"]);
    assert_eq!(plain.service, service);
    let mut copies = full.copies.clone();
    // And these, which go with `watch`.
    let copy = copies.get_mut("binaries").unwrap();
    assert!(std::mem::take(&mut copy.watch));
    assert_eq!((copy.scan_every.take(), copy.scan_rate.take()), (Some(Duration::from_hours(24)), Some(20_000)));
    // And this: without it all is copied.
    assert_eq!(copy.shard.take(), Some("0-7".parse().unwrap()));
    assert_eq!(plain.copies, copies);
    assert_eq!(plain.backups, full.backups);
    let mut older = full.older_interfaces.clone();
    // And this one.
    assert_eq!(std::mem::take(&mut older.fedora_roots), [Path::new("/srv/backups")]);
    assert_eq!(plain.older_interfaces, older);
    assert_eq!(plain.repositories["main"].layout, full.repositories["main"].layout);
    assert_eq!(plain.repositories["main"].documents, None);
    assert!(full.repositories["main"].documents.is_some());
    assert_eq!(full.repositories.len() + full.destinations.len(), 6);
}

/// The keys that the parser lists when it meets one that it does not know, with those of the tables below.
fn known_keys() -> BTreeSet<String> {
    let tables = [
        ("[service]", "keys"),
        ("[repository.x]", "keys"),
        ("[repository.x.documents]", "keys"),
        ("[repository.x.documents.postgres]", "keys"),
        ("[repository.x.documents.mysql]", "keys"),
        ("[repository.x.layout]", "keys"),
        ("[destination.x]", "keys"),
        ("[destination.x.credentials]", "keys"),
        ("[[destination.x.bandwidth]]", "keys"),
        ("[copy.x]", "keys"),
        ("[backup.x]", "keys"),
        ("[older_interfaces]", "keys"),
    ];
    let mut keys = BTreeSet::new();
    let tables = [("[\"?\".x]", "tables")].into_iter().chain(tables);
    for (header, kind) in tables {
        let text = error(&format!("{header}\n\"?\" = 1\n"));
        let known = text.split_once(&format!("known {kind}: ")).unwrap_or_else(|| panic!("{text}")).1;
        keys.extend(known.split(", ").map(str::to_owned));
    }
    keys
}

#[test]
fn the_example_shows_every_key_that_the_parser_knows() {
    let shown = uncommented(EXAMPLE);
    let keys = known_keys();
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        let as_key = format!("{key} = ");
        let header = format!("[{key}");
        let part = format!(".{key}]");
        assert!([&as_key, &header, &part].iter().any(|text| shown.contains(*text)), "`{key}` is not in the example");
    }
}

#[test]
fn the_first_configuration_parses_as_it_is_and_with_values_given() {
    let first = parse(&config::init_text(None, None));
    assert_eq!(first.jobs().map(|job| job.to_string()).collect::<Vec<_>>(), ["copy.binaries", "backup.full"]);
    assert_eq!(first.destinations["main"].place.to_string(), "s3://my-bucket/holdfast");

    let given = parse(&uncommented(&config::init_text(Some("/srv/a \"b\" {c}"), Some("s3://bucket"))));
    assert_eq!(given.repositories["main"].binaries, PathBuf::from("/srv/a \"b\" {c}"));
    assert_eq!(given.destinations["main"].place.to_string(), "s3://bucket at http://127.0.0.1:8333");
}

#[test]
fn a_small_configuration_has_defaults_for_the_rest() {
    let config = parse(&format!("{SOUND}[copy.binaries]\n[backup.full]\n"));
    assert_eq!(config.file, Path::new(FILE));
    assert_eq!(config.service.state_dir, Path::new("/var/lib/holdfast"));
    assert_eq!(config.repositories["main"].layout, Layout::modeshape());
    assert_eq!(config.destinations["disk"].place, Place::Directory("/var/backups".into()));
    let copy = &config.copies["binaries"];
    assert_eq!((copy.name.as_str(), copy.repository.as_str(), copy.destination.as_str()), ("binaries", "main", "disk"));
    assert_eq!((copy.parallel, copy.settle), (32, Duration::from_secs(2)));
    let backup = &config.backups["full"];
    assert_eq!((backup.volume_bytes, backup.settle), (10 << 30, Duration::from_secs(2)));
}

#[test]
fn the_service_listens_on_loopback_unless_it_is_told_otherwise() {
    let listen = |text: &str| {
        let service = parse(&format!("{SOUND}[service]\n{text}")).service;
        service.listen.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listen(""), ["127.0.0.1:8480"]);
    assert_eq!(listen("listen = []"), [""; 0]);
    assert_eq!(listen("listen = \"[::1]:80\""), ["[::1]:80"]);
    assert_eq!(
        listen("listen = [\"127.0.0.1:1\", \"unix:http.sock\", \"unix:/run/a.sock\"]"),
        ["127.0.0.1:1", "unix:/etc/holdfast/http.sock", "unix:/run/a.sock"]
    );
    assert_eq!(listen("listen = \"0.0.0.0:1\"\nallow_plaintext_beyond_loopback = true"), ["0.0.0.0:1"]);
    let tls = parse(&format!("{SOUND}[service]\nlisten = \"[::]:1\"\ntls = {{ certificate = \"a\", key = \"/b\" }}"));
    let tls = tls.service.tls.unwrap();
    assert_eq!((tls.certificate, tls.key), (PathBuf::from("/etc/holdfast/a"), PathBuf::from("/b")));
}

#[test]
fn an_address_that_cannot_be_listened_on_is_shown_with_the_way_out() {
    insta::assert_snapshot!(error_after("[service]\nlisten = \"localhost:8480\""), @r#"
    /etc/holdfast/holdfast.toml:6:10: `localhost:8480` is no address to listen on
        6 | listen = "localhost:8480"
          |          ^^^^^^^^^^^^^^^^
       way out: write the address of this machine: "127.0.0.1:8480"
    "#);
    insta::assert_snapshot!(error_after("[service]\nlisten = [\"127.0.0.1:1\", \"unix:\"]"), @r#"
    /etc/holdfast/holdfast.toml:6:26: `unix:` names no socket
        6 | listen = ["127.0.0.1:1", "unix:"]
          |                          ^^^^^^^
       way out: write for example "unix:/run/holdfast/http.sock"
    "#);
    insta::assert_snapshot!(error_after("[service]\nlisten = 8480"), @r#"
    /etc/holdfast/holdfast.toml:6:10: `listen` is the number `8480`, not an address in quotes or a list of them
        6 | listen = 8480
          |          ^^^^
       way out: write for example listen = "127.0.0.1:8480"
    "#);
    insta::assert_snapshot!(error_after("[service]\nlisten = \"192.168.1.2:8480\""), @r#"
    /etc/holdfast/holdfast.toml:6:10: others reach 192.168.1.2:8480, and on the way to it everybody could read passwords and tokens
        6 | listen = "192.168.1.2:8480"
          |          ^^^^^^^^^^^^^^^^^^
       way out: add tls = { certificate = "certificate.pem", key = "key.pem" }, or, where the network is your own, allow_plaintext_beyond_loopback = true
    "#);
    insta::assert_snapshot!(error_after("[service]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]"), @r#"
    /etc/holdfast/holdfast.toml:6:10: `127.0.0.1:1` stands in `listen` twice
        6 | listen = ["127.0.0.1:1", "127.0.0.1:1"]
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: take one of them out
    "#);
    insta::assert_snapshot!(error_after("[service]\ntls = { certificate = \"a\" }"), @r#"
    /etc/holdfast/holdfast.toml:6:7: [service.tls] has no `key`
        6 | tls = { certificate = "a" }
          |       ^^^^^^^^^^^^^^^^^^^^^
       way out: add key = "key.pem"
    "#);
    insta::assert_snapshot!(error_after("[service]\nhosts = [\"backup.example.org:8480\"]"), @r#"
    /etc/holdfast/holdfast.toml:6:10: `backup.example.org:8480` is not the name of a machine
        6 | hosts = ["backup.example.org:8480"]
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: write the name alone, without a port, such as "backup.example.org"
    "#);
    insta::assert_snapshot!(error_after("[service]\nhosts = \"backup.example.org\""), @r#"
    /etc/holdfast/holdfast.toml:6:9: `hosts` is the text "backup.example.org", not a list
        6 | hosts = "backup.example.org"
          |         ^^^^^^^^^^^^^^^^^^^^
       way out: write for example hosts = ["backup.example.org"]
    "#);
}

#[test]
fn administrators_stand_beside_the_configuration_unless_it_says_otherwise() {
    let service = |text: &str| parse(&format!("{SOUND}[service]\n{text}")).service;
    assert_eq!(service("").users, Path::new("/etc/holdfast/users.toml"));
    assert_eq!(service("users = \"/srv/users\"").users, Path::new("/srv/users"));
    assert_eq!(service("").session, Duration::from_hours(12));
    assert_eq!(service("session = \"30m\"").session, Duration::from_mins(30));
    assert!(error_after("[service]\nsession = \"30s\"").contains("write a duration from 1m to 365d"));
}

#[test]
fn older_interfaces_use_what_is_named_or_what_there_is_no_choice_of() {
    let older = |text: &str| {
        let older = parse(&format!("{SOUND}{text}")).older_interfaces;
        (older.backup.unwrap_or_default(), older.repository.unwrap_or_default())
    };
    let expect = |backup: &str, repository: &str| (backup.to_owned(), repository.to_owned());
    assert_eq!(older(""), expect("", ""));
    assert_eq!(older("[copy.a]\n"), expect("", ""));
    assert_eq!(older("[backup.full]\n"), expect("full", "main"));
    assert_eq!(older("[backup.a]\n[backup.b]\n"), expect("", ""));
    assert_eq!(older("[backup.a]\n[backup.b]\n[older_interfaces]\nbackup = \"b\"\n"), expect("b", "main"));
    let two = "[repository.other]\nbinaries = \"/srv/other\"\n[backup.a]\nrepository = \"main\"\n\
               [backup.b]\nrepository = \"other\"\n";
    assert_eq!(older(two), expect("", ""));
    assert_eq!(older(&format!("{two}[older_interfaces]\nrepository = \"other\"\n")), expect("b", "other"));
}

#[test]
fn older_interfaces_that_cannot_be_are_shown_with_their_place() {
    insta::assert_snapshot!(error_after("[backup.full]\n[older_interfaces]\nbackup = \"backup.full\"\n"), @r#"
    /etc/holdfast/holdfast.toml:7:10: there is no [backup.backup.full]
        7 | backup = "backup.full"
          |          ^^^^^^^^^^^^^
       way out: write the name alone: backup = "full"; known backups: full
    "#);
    insta::assert_snapshot!(error_after("[backup.full]\n[older_interfaces]\nrepository = \"mian\"\n"), @r#"
    /etc/holdfast/holdfast.toml:7:14: there is no [repository.mian]
        7 | repository = "mian"
          |              ^^^^^^
       way out: did you mean `main`? known repositories: main
    "#);
    let two = "[repository.other]\nbinaries = \"/srv/other\"\n[backup.a]\nrepository = \"main\"\n";
    let text = format!("{two}[older_interfaces]\nbackup = \"a\"\nrepository = \"other\"\n");
    insta::assert_snapshot!(error_after(&text), @r#"
    /etc/holdfast/holdfast.toml:11:14: [backup.a] is of the repository `main`, not of `other`
       11 | repository = "other"
          |              ^^^^^^^
       way out: take `repository` out, or name a backup of it
    "#);
    insta::assert_snapshot!(error_after("[older_interfaces]\nbackup = \"a\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:10: there is no [backup.a]
        6 | backup = "a"
          |          ^^^
       way out: known backups: none
    "#);
}

#[test]
fn relative_paths_begin_at_the_file() {
    let config = parse(
        r#"
        [service]
        state_dir = "state"
        [repository.main]
        binaries = "./binaries"
        layout = { algorithm = "sha256", levels = 2, width = 3 }
        documents = { directory = "../documents" }
        [destination.disk]
        url = "file:copies"
        [destination.s3]
        url = "s3://bucket"
        credentials = { access_key_file = "access", secret_key_file = "/run/secret" }
        "#,
    );
    assert_eq!(config.service.state_dir, Path::new("/etc/holdfast/state"));
    let repository = &config.repositories["main"];
    assert_eq!(repository.binaries, Path::new("/etc/holdfast/binaries"));
    assert_eq!(repository.layout, Layout::custom(Algorithm::Sha256, 2, 3, "").unwrap());
    assert_eq!(repository.documents, Some(DocumentSource::Directory("/etc/holdfast/../documents".into())));
    assert_eq!(config.destinations["disk"].place, Place::Directory("/etc/holdfast/copies".into()));
    let Place::S3(place) = &config.destinations["s3"].place else { panic!("not S3") };
    assert_eq!(
        place.credentials,
        Credentials::Files { access_key_file: "/etc/holdfast/access".into(), secret_key_file: "/run/secret".into() }
    );
}

#[test]
fn an_endpoint_changes_the_defaults_of_region_and_path_style() {
    let place = |rest: &str| match &parse(&format!(
        "[repository.main]\nbinaries = \"/b\"\n[destination.s3]\nurl = \"s3://bucket/a/b/\"\n{rest}"
    ))
    .destinations["s3"]
        .place
    {
        Place::S3(place) => place.clone(),
        Place::Directory(_) => panic!("not S3"),
    };
    let aws = place("");
    assert_eq!((aws.region, aws.path_style, aws.prefix.as_str()), (None, false, "a/b"));
    assert_eq!(aws.credentials, Credentials::Chain);
    let other = place("endpoint = \"http://127.0.0.1:8333/\"");
    assert_eq!((other.region.as_deref(), other.path_style), (Some("us-east-1"), true));
    assert_eq!(other.endpoint.as_deref(), Some("http://127.0.0.1:8333"));
    let own = place("endpoint = \"https://s3.example.org\"\nregion = \"eu\"\npath_style = false");
    assert_eq!((own.region.as_deref(), own.path_style), (Some("eu"), false));
}

#[test]
fn a_job_is_found_by_its_kind_and_name() {
    let config = parse(&format!("{SOUND}[copy.binaries]\n[backup.full]\n"));
    assert!(matches!(config.job("copy.binaries"), Ok(Job::Copy(job)) if job.name == "binaries"));
    let backup = config.job("backup.full").unwrap();
    assert_eq!(
        (backup.to_string().as_str(), backup.repository(), backup.destination()),
        ("backup.full", "main", "disk")
    );

    insta::assert_snapshot!(config.job("copy.binareis").unwrap_err(), @"there is no job `copy.binareis`: did you mean `copy.binaries`? the jobs are copy.binaries, backup.full");
    insta::assert_snapshot!(config.job("full").unwrap_err(), @"there is no job `full`: did you mean `backup.full`? the jobs are copy.binaries, backup.full");
    insta::assert_snapshot!(config.job("verify.weekly").unwrap_err(), @"there is no job `verify.weekly`: the jobs are copy.binaries, backup.full");
    insta::assert_snapshot!(parse(SOUND).job("copy.binaries").unwrap_err(), @"there is no job `copy.binaries`: the configuration has no [copy.NAME] and no [backup.NAME]");
}

#[test]
fn unknown_keys_and_tables_are_shown_with_what_was_meant() {
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"/b\"\nlayuot = 4\n"), @r#"
    /etc/holdfast/holdfast.toml:3:1: unknown key `layuot` in [repository.main]
        3 | layuot = 4
          | ^^^^^^
       way out: did you mean `layout`? known keys: binaries, documents, layout
    "#);
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"/b\"\nlayout = { level = 4 }\n"), @r#"
    /etc/holdfast/holdfast.toml:3:12: unknown key `level` in [repository.main.layout]
        3 | layout = { level = 4 }
          |            ^^^^^
       way out: did you mean `levels`? known keys: algorithm, levels, suffix, width
    "#);
    insta::assert_snapshot!(error_after("[copi.x]\nparallel = 3\n"), @r#"
    /etc/holdfast/holdfast.toml:5:2: unknown table `copi`
        5 | [copi.x]
          |  ^^^^
       way out: did you mean `copy`? known tables: backup, copy, destination, older_interfaces, repository, service
    "#);
    insta::assert_snapshot!(error_after("[verify.weekly]\n"), @r#"
    /etc/holdfast/holdfast.toml:5:2: unknown table `verify`
        5 | [verify.weekly]
          |  ^^^^^^
       way out: known tables: backup, copy, destination, older_interfaces, repository, service
    "#);
    insta::assert_snapshot!(error("state_dir = \"/var/lib/holdfast\"\n"), @r#"
    /etc/holdfast/holdfast.toml:1:1: `state_dir` stands outside of all tables
        1 | state_dir = "/var/lib/holdfast"
          | ^^^^^^^^^
       way out: move it below the header of its table, such as [service]
    "#);
    insta::assert_snapshot!(error_after("[copy.binaries]\nschedul = \"0 0 5 * * Sun\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:1: unknown key `schedul` in [copy.binaries]
        6 | schedul = "0 0 5 * * Sun"
          | ^^^^^^^
       way out: did you mean `schedule`? known keys: destination, jitter, parallel, point_every, repository, scan_every, scan_rate, schedule, settle, shard, timezone, watch
    "#);
}

#[test]
fn syntax_errors_point_at_their_place() {
    insta::assert_snapshot!(error_after("[copy.binaries]\nsettle = 2s\n"), @r#"
    /etc/holdfast/holdfast.toml:6:10: string values must be quoted, expected literal string
        6 | settle = 2s
          |          ^^
       way out: write texts in quotes: key = "value"
    "#);
    insta::assert_snapshot!(error_after("[copy.binaries]\nrepository = main\n"), @r#"
    /etc/holdfast/holdfast.toml:6:14: string values must be quoted, expected literal string
        6 | repository = main
          |              ^^^^
       way out: write texts in quotes: key = "value"
    "#);
    insta::assert_snapshot!(error_after("[copy.binaries\n"), @r#"
    /etc/holdfast/holdfast.toml:5:15: unclosed table, expected `]`
        5 | [copy.binaries
          |               ^
       way out: a line is key = value, [table], or # comment; texts stand in quotes
    "#);
    insta::assert_snapshot!(error_after("[copy.a]\n[copy.a]\n"), @r#"
    /etc/holdfast/holdfast.toml:6:7: duplicate key `a`
        6 | [copy.a]
          |       ^
       way out: each name stands once: take one of them out, or give it another name
    "#);
    insta::assert_snapshot!(error("[service]\nstate_dir = \"/var"), @r#"
    /etc/holdfast/holdfast.toml:2:18: invalid basic string, expected `"`
        2 | state_dir = "/var
          |                  ^
       way out: a line is key = value, [table], or # comment; texts stand in quotes
    "#);
}

#[test]
fn values_of_the_wrong_type_say_what_belongs_there() {
    insta::assert_snapshot!(error("[repository.main]\nbinaries = 4\n"), @r#"
    /etc/holdfast/holdfast.toml:2:12: `binaries` is the number `4`, not a path in quotes
        2 | binaries = 4
          |            ^
       way out: write for example binaries = "/srv/fcrepo4-data/fcrepo.binary.directory"
    "#);
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"/b\"\nlayout = 3\n"), @r#"
    /etc/holdfast/holdfast.toml:3:10: `layout` is the number `3`, not the name of a layout or a table
        3 | layout = 3
          |          ^
       way out: write for example layout = "modeshape"
    "#);
    insta::assert_snapshot!(error_after("[copy.binaries]\nparallel = 0\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: `parallel` is the number `0`, not a whole number from 1 to 256
        6 | parallel = 0
          |            ^
       way out: write for example parallel = 32
    "#);
    insta::assert_snapshot!(error_after("[copy.binaries]\nparallel = \"8\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: `parallel` is the text "8", not a whole number from 1 to 256
        6 | parallel = "8"
          |            ^^^
       way out: write for example parallel = 32
    "#);
    insta::assert_snapshot!(error_after("[copy.binaries]\nsettle = 2.5\n"), @r#"
    /etc/holdfast/holdfast.toml:6:10: `settle` is the number `2.5`, not a duration in quotes, with a unit
        6 | settle = 2.5
          |          ^^^
       way out: write for example settle = "2s"
    "#);
    insta::assert_snapshot!(error("[destination.s3]\nurl = \"s3://bucket\"\npath_style = \"yes\"\n"), @r#"
    /etc/holdfast/holdfast.toml:3:14: `path_style` is the text "yes", not true or false
        3 | path_style = "yes"
          |              ^^^^^
       way out: write for example path_style = true
    "#);
    insta::assert_snapshot!(error("[repository]\nbinaries = \"/b\"\n"), @r#"
    /etc/holdfast/holdfast.toml:2:12: `binaries` stands in [repository], which has no name
        2 | binaries = "/b"
          |            ^^^^
       way out: write the header as [repository.main], or with a name of your own
    "#);
    insta::assert_snapshot!(error_after("[[copy]]\nname = \"binaries\"\n"), @r#"
    /etc/holdfast/holdfast.toml:5:1: `copy` is a list, not a table with a name
        5 | [[copy]]
          | ^^^^^^^^
       way out: write a header such as [copy.main]
    "#);
}

#[test]
fn missing_keys_point_at_the_table() {
    insta::assert_snapshot!(error("[repository.main]\nlayout = \"modeshape\"\n"), @r#"
    /etc/holdfast/holdfast.toml:1:1: [repository.main] has no `binaries`
        1 | [repository.main]
          | ^^^^^^^^^^^^^^^^^
       way out: add binaries = "/srv/fcrepo4-data/fcrepo.binary.directory"
    "#);
    insta::assert_snapshot!(error("[destination.s3]\nregion = \"eu\"\n"), @r#"
    /etc/holdfast/holdfast.toml:1:1: [destination.s3] has no `url`
        1 | [destination.s3]
          | ^^^^^^^^^^^^^^^^
       way out: add url = "s3://bucket/prefix" or "file:///var/backups/holdfast"
    "#);
    insta::assert_snapshot!(error("[destination.s3]\nurl = \"s3://bucket\"\ncredentials = { access_key_file = \"a\" }\n"), @r#"
    /etc/holdfast/holdfast.toml:3:15: [destination.s3.credentials] has no `secret_key_file`
        3 | credentials = { access_key_file = "a" }
          |               ^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: add secret_key_file = "secret-key"
    "#);
}

#[test]
fn documents_are_in_one_place_and_its_url_has_no_password() {
    let config = parse(&format!(
        "{SOUND}[repository.main.documents]\npostgres = {{ url = \"postgres://u@db/x?sslmode=verify-ca&sslrootcert=ca.pem\", \
         password_file = \"secret\" }}\n"
    ));
    let Some(DocumentSource::Table(table)) = &config.repositories["main"].documents else { panic!("{config:?}") };
    assert_eq!(table.url.to_string(), "postgresql://u@db:5432/x");
    assert_eq!(table.url.root_certificate.as_deref(), Some(Path::new("/etc/holdfast/ca.pem")));
    assert_eq!(table.table.to_string(), "MODESHAPE_REPOSITORY");
    assert_eq!(table.password_file.as_deref(), Some(Path::new("/etc/holdfast/secret")));

    let documents = |text: &str| error_after(&format!("[repository.main.documents]\n{text}\n"));
    insta::assert_snapshot!(documents(""), @r#"
    /etc/holdfast/holdfast.toml:5:18: [repository.main.documents] does not say where the documents are
        5 | [repository.main.documents]
          |                  ^^^^^^^^^
       way out: add directory = "/srv/modeshape-backup" or postgres = { url = "postgresql://USER@HOST/DATABASE" } or mysql = { url = "mysql://USER@HOST/DATABASE" } or fedora = { url = "http://HOST:8080/rest", staging = "/srv/staging" }
    "#);
    insta::assert_snapshot!(documents("directory = \"/d\"\npostgres = { url = \"postgres://u@h/x\" }"), @r#"
    /etc/holdfast/holdfast.toml:7:1: [repository.main.documents] says twice where the documents are
        7 | postgres = { url = "postgres://u@h/x" }
          | ^^^^^^^^
       way out: leave one of `directory` and `postgres`
    "#);
    insta::assert_snapshot!(documents("postgres = { table = \"x\" }"), @r#"
    /etc/holdfast/holdfast.toml:6:12: [repository.main.documents.postgres] has no `url`
        6 | postgres = { table = "x" }
          |            ^^^^^^^^^^^^^^^
       way out: add url = "postgresql://fcrepo@127.0.0.1/fcrepo"
    "#);
    insta::assert_snapshot!(documents("postgres = { url = \"postgresql://u:hush@h/x\" }"), @r#"
    /etc/holdfast/holdfast.toml:6:20: there is a password in the url
        6 | postgres = { url = "postgresql://u:····@h/x" }
          |                    ^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: no secret stands in this file: take it out, and put it into a file of its own that `password_file` names
    "#);
    insta::assert_snapshot!(documents("postgres = { url = \"postgresql://u@h/x?sslmode=allow\" }"), @r#"
    /etc/holdfast/holdfast.toml:6:20: `sslmode=allow` is not supported
        6 | postgres = { url = "postgresql://u@h/x?sslmode=allow" }
          |                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: write one of: disable, prefer, require, verify-ca, verify-full
    "#);
    insta::assert_snapshot!(documents("postgres = { url = \"postgresql://u@h/x\", table = \"a b\" }"), @r#"
    /etc/holdfast/holdfast.toml:6:50: `a b` cannot be the name of a table
        6 | postgres = { url = "postgresql://u@h/x", table = "a b" }
          |                                                  ^^^^^
       way out: write it without quotes: letters, digits and `_`, such as "modeshape_repository"
    "#);
    insta::assert_snapshot!(documents("postgres = { url = \"postgresql://u@h/x\", password = \"hush\" }"), @r#"
    /etc/holdfast/holdfast.toml:6:42: unknown key `password` in [repository.main.documents.postgres]
        6 | postgres = { url = "postgresql://u@h/x", password = "hush" }
          |                                          ^^^^^^^^
       way out: did you mean `password_file`? known keys: compress, password_file, table, url
    "#);
}

#[test]
fn a_fedora_that_is_asked_shares_a_directory_that_is_used_for_nothing_else() {
    let config = parse(&format!(
        "{SOUND}[repository.main.documents.fedora]\nurl = \"http://fedoraAdmin@h:8080/rest/\"\nstaging = \"staging\"\n\
         staging_in_fedora = \"/io\"\npassword_file = \"secret\"\ntimeout = \"2h\"\n"
    ));
    let Some(DocumentSource::Fedora(server)) = &config.repositories["main"].documents else { panic!("{config:?}") };
    assert_eq!(
        (server.url.to_string().as_str(), server.url.user.as_deref()),
        ("http://h:8080/rest", Some("fedoraAdmin"))
    );
    assert_eq!(
        [&server.staging, &server.staging_in_fedora, server.password_file.as_ref().unwrap()].map(PathBuf::as_path),
        ["/etc/holdfast/staging", "/io", "/etc/holdfast/secret"].map(Path::new)
    );
    assert_eq!(server.timeout, Duration::from_hours(2));

    let fedora = |text: &str| error_after(&format!("[repository.main.documents]\nfedora = {{ {text} }}\n"));
    let there = "url = \"http://h/rest\", staging = \"/srv/staging\"";
    for (text, cause) in [
        ("url = \"http://h/rest\"".to_owned(), "has no `staging`"),
        ("staging = \"/srv/staging\"".to_owned(), "has no `url`"),
        ("url = \"http://u:hush@h/rest\", staging = \"/s\"".to_owned(), "there is a password in the url"),
        ("url = \"http://u@h/rest\", staging = \"/s\"".to_owned(), "there is a user in `url`, and no password"),
        (format!("{there}, password_file = \"secret\""), "there is a password, and no user it is of"),
        (format!("{there}, root_certificate = \"ca.pem\""), "`root_certificate` is for https"),
        (format!("{there}, staging_in_fedora = \"io\""), "`staging_in_fedora` is a path in Fedora's world"),
        (format!("{there}, timeout = \"1s\""), "`1s` is too short"),
        (format!("{there}, stagin = \"/s\""), "unknown key `stagin`"),
        ("url = \"http://h/rest\", staging = \"/srv/binaries/staging\"".to_owned(), "[repository.main]"),
        ("url = \"http://h/rest\", staging = \"/var/backups/staging\"".to_owned(), "[destination.disk]"),
        ("url = \"http://h/rest\", staging = \"/var/lib\"".to_owned(), "`state_dir`"),
    ] {
        let error = fedora(&text);
        assert!(error.contains(cause) && error.contains("way out: "), "{text}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn values_that_cannot_be_say_why() {
    insta::assert_snapshot!(error_after("[copy.binaries]\nsettle = \"60\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:10: the duration `60` has no unit
        6 | settle = "60"
          |          ^^^^
       way out: write "60s" for seconds; the units are ms, s, m, h
    "#);
    insta::assert_snapshot!(error_after("[copy.binaries]\nsettle = \"a while\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:10: `a while` is not a duration
        6 | settle = "a while"
          |          ^^^^^^^^^
       way out: write a number and a unit, such as "500ms", "2s", "1m 30s"
    "#);
    insta::assert_snapshot!(error_after("[backup.full]\nvolume = \"10\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:10: the size `10` has no unit
        6 | volume = "10"
          |          ^^^^
       way out: write "10MiB" or "10GiB"; the units are B, KiB, MiB, GiB, TiB, KB, MB, GB, TB
    "#);
    insta::assert_snapshot!(error_after("[backup.full]\nvolume = \"1TiB\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:10: a volume of 1TiB could need more than the 10,000 parts that S3 gives an upload
        6 | volume = "1TiB"
          |          ^^^^^^
       way out: use at most "64GiB"; an archive has as many volumes as it needs
    "#);
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"\"\n"), @r#"
    /etc/holdfast/holdfast.toml:2:12: the text is empty
        2 | binaries = ""
          |            ^^
       way out: write a value, or leave the line out where there is a default
    "#);
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"/b\"\nlayout = \"modshape\"\n"), @r#"
    /etc/holdfast/holdfast.toml:3:10: there is no layout `modshape`
        3 | layout = "modshape"
          |          ^^^^^^^^^^
       way out: did you mean `modeshape`? known layouts: modeshape, jackrabbit, artifactory, git-lfs, or { algorithm = "sha1", levels = 3, width = 2, suffix = "" }
    "#);
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"/b\"\nlayout = { algorithm = \"md5\", levels = 1, width = 2 }\n"), @r#"
    /etc/holdfast/holdfast.toml:3:24: `md5` is no algorithm that names binaries
        3 | layout = { algorithm = "md5", levels = 1, width = 2 }
          |                        ^^^^^
       way out: write "sha1" or "sha256"
    "#);
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"/b\"\nlayout = { algorithm = \"sha1\", levels = 1, width = 2, suffix = \".gz\" }\n"), @r#"
    /etc/holdfast/holdfast.toml:3:10: the suffix `.gz` is that of compressed files, whose content does not have the digest in the name
        3 | layout = { algorithm = "sha1", levels = 1, width = 2, suffix = ".gz" }
          |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: describe the store as it is on disk: { algorithm = "sha1", levels = 3, width = 2, suffix = "" }
    "#);
    insta::assert_snapshot!(error("[destination.disk]\nurl = \"/var/backups\"\n"), @r#"
    /etc/holdfast/holdfast.toml:2:7: `/var/backups` is not the url of a destination
        2 | url = "/var/backups"
          |       ^^^^^^^^^^^^^^
       way out: for this directory write "file:///var/backups"
    "#);
    insta::assert_snapshot!(error("[destination.disk]\nurl = \"file://var/backups\"\n"), @r#"
    /etc/holdfast/holdfast.toml:2:7: `file://var/backups` has two slashes, so `var/backups` would begin with the name of a machine
        2 | url = "file://var/backups"
          |       ^^^^^^^^^^^^^^^^^^^^
       way out: write "file:///var/backups" from the root, or "file:var/backups" beside this file
    "#);
    insta::assert_snapshot!(error("[destination.s3]\nurl = \"s3://bucket/a//b\"\n"), @r#"
    /etc/holdfast/holdfast.toml:2:7: `a//b` cannot be a prefix
        2 | url = "s3://bucket/a//b"
          |       ^^^^^^^^^^^^^^^^^^
       way out: use up to 512 bytes, without `//`, `\`, and parts that are `.` or `..`
    "#);
    insta::assert_snapshot!(error("[destination.s3]\nurl = \"s3://bucket\"\nstorage_class = \"DEEP_ARCHIVE\"\n"), @r#"
    /etc/holdfast/holdfast.toml:3:17: what lies in `DEEP_ARCHIVE` cannot be read at once, so nothing there could be proved restorable
        3 | storage_class = "DEEP_ARCHIVE"
          |                 ^^^^^^^^^^^^^^
       way out: use GLACIER_IR, or a lifecycle rule of the bucket that moves binaries later
    "#);
    insta::assert_snapshot!(error_after("[copy.\"two words\"]\n"), @r#"
    /etc/holdfast/holdfast.toml:5:7: `two words` cannot be a name
        5 | [copy."two words"]
          |       ^^^^^^^^^^^
       way out: use 1 to 64 letters, digits, `-` and `_`: [copy.NAME]
    "#);
}

#[test]
fn schedules_are_read_with_their_zone_and_refused_where_they_are_wrong() {
    let text = "[backup.full]\nschedule = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"\njitter = \"5m\"\n[copy.x]\nschedule = \"@hourly\"\n";
    let config = parse(&format!("{SOUND}{text}"));
    let timing = config.job("backup.full").unwrap().timing().unwrap();
    assert_eq!((timing.schedule.text(), timing.schedule.timezone()), ("30 2 * * *", "Europe/Berlin"));
    assert_eq!(timing.jitter, Duration::from_mins(5));
    let timing = config.job("copy.x").unwrap().timing().unwrap();
    assert_eq!((timing.schedule.timezone(), timing.jitter), ("UTC", Duration::ZERO));
    assert_eq!(parse(&format!("{SOUND}[copy.x]\n")).copies["x"].timing, None);

    insta::assert_snapshot!(error_after("[copy.x]\nschedule = \"0 */10 * *\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: `0 */10 * *` has 4 fields, and a schedule has five or six
        6 | schedule = "0 */10 * *"
          |            ^^^^^^^^^^^^
       way out: write minute, hour, day of month, month, day of week, such as "30 2 * * *"; the second may stand first, such as "0 30 2 * * *"; or one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually
    "#);
    insta::assert_snapshot!(error_after("[copy.x]\nschedule = \"0 61 * * * *\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: `61` is no minute
        6 | schedule = "0 61 * * * *"
          |            ^^^^^^^^^^^^^^
       way out: write `*` or 0 to 59, a list `0,1`, a range `0-5`, or `*/10`
    "#);
    insta::assert_snapshot!(error_after("[copy.x]\nschedule = \"0 0 0 30 2 *\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: `0 0 0 30 2 *` never comes: no day fits it
        6 | schedule = "0 0 0 30 2 *"
          |            ^^^^^^^^^^^^^^
       way out: choose a day that there is, such as "0 30 2 28 2 *"
    "#);
    insta::assert_snapshot!(error_after("[copy.x]\nschedule = \"@dayly\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: `@dayly` is no schedule
        6 | schedule = "@dayly"
          |            ^^^^^^^^
       way out: write one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, or fields such as "0 30 2 * * *"
    "#);
    insta::assert_snapshot!(error_after("[copy.x]\nschedule = 10\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: `schedule` is the number `10`, not a cron expression in quotes
        6 | schedule = 10
          |            ^^
       way out: write for example schedule = "0 30 2 * * *"
    "#);
    insta::assert_snapshot!(error_after("[copy.x]\nschedule = \"@daily\"\ntimezone = \"Europe/Berln\"\n"), @r#"
    /etc/holdfast/holdfast.toml:7:12: there is no time zone `Europe/Berln`
        7 | timezone = "Europe/Berln"
          |            ^^^^^^^^^^^^^^
       way out: did you mean "Europe/Berlin"? write the name of a zone as in the IANA database, such as "Europe/Berlin", or "UTC": offsets and abbreviations do not know daylight saving
    "#);
    insta::assert_snapshot!(error_after("[copy.x]\nschedule = \"@daily\"\njitter = \"5\"\n"), @r#"
    /etc/holdfast/holdfast.toml:7:10: the duration `5` has no unit
        7 | jitter = "5"
          |          ^^^
       way out: write "5s" for seconds; the units are ms, s, m, h, d
    "#);
    insta::assert_snapshot!(error_after("[copy.x]\nschedule = \"@daily\"\njitter = \"2d\"\n"), @r#"
    /etc/holdfast/holdfast.toml:7:10: `2d` is too long
        7 | jitter = "2d"
          |          ^^^^
       way out: write a duration from 0s to 1d
    "#);
    insta::assert_snapshot!(error_after("[backup.x]\ntimezone = \"UTC\"\njitter = \"5m\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:1: `timezone` without a schedule
        6 | timezone = "UTC"
          | ^^^^^^^^
       way out: add schedule = "0 30 2 * * *", or take `timezone` out

    /etc/holdfast/holdfast.toml:7:1: `jitter` without a schedule
        7 | jitter = "5m"
          | ^^^^^^
       way out: add schedule = "0 30 2 * * *", or take `jitter` out
    "#);
}

#[test]
fn shards_are_ranges_of_digits_that_do_not_overlap() {
    let copies = |shards: &[&str]| {
        let copy = |(number, shard): (usize, &&str)| match *shard {
            "" => format!("[copy.c{number}]\n"),
            shard => format!("[copy.c{number}]\nshard = \"{shard}\"\n"),
        };
        shards.iter().enumerate().map(copy).collect::<String>()
    };
    let config = parse(&format!("{SOUND}{}", copies(&["00-7f", "8-b", "c", "d0-ff"])));
    let shards: Vec<_> = config.jobs().map(|job| job.shard().unwrap().to_string()).collect();
    assert_eq!(shards, ["0-7", "8-b", "c", "d-f"]);
    // Two copies of all of it are not new, and harm nobody.
    parse(&format!("{SOUND}{}", copies(&["", ""])));
    // Elsewhere, or of something else, it is another matter.
    parse(&format!(
        "{SOUND}[destination.other]\nurl = \"file:///var/others\"\n[copy.a]\ndestination = \"disk\"\nshard = \"0-7\"\n\
         [copy.b]\ndestination = \"other\"\nshard = \"4-a\"\n[copy.c]\ndestination = \"other\"\nshard = \"b\"\n"
    ));
    insta::assert_snapshot!(error_after(&copies(&["0-8", "8-f"])), @r#"
    /etc/holdfast/holdfast.toml:8:9: the shard 8-f of [copy.c1] overlaps 0-8 of [copy.c0] (line 6)
        8 | shard = "8-f"
          |         ^^^^^
       way out: give the copies of one repository to one destination shards that have nothing in common, such as "0-7" and "8-f"
    "#);
    insta::assert_snapshot!(error_after(&copies(&["0-7", ""])), @r#"
    /etc/holdfast/holdfast.toml:6:9: [copy.c1] copies all of the repository to the same destination, this shard included
        6 | shard = "0-7"
          |         ^^^^^
       way out: give the copies of one repository to one destination shards that have nothing in common, such as "0-7" and "8-f"
    "#);
    insta::assert_snapshot!(error_after(&copies(&["0..7"])), @r#"
    /etc/holdfast/holdfast.toml:6:9: `0..7` is no shard: one or two lower-case hexadecimal digits, or two of these with a `-` between them
        6 | shard = "0..7"
          |         ^^^^^^
       way out: write "0-7", "8-f", "00-3f" or "a"
    "#);
    insta::assert_snapshot!(error_after(&copies(&["7-0"])), @r#"
    /etc/holdfast/holdfast.toml:6:9: the shard `7-0` ends before it begins
        6 | shard = "7-0"
          |         ^^^^^
       way out: write the smaller digits first, such as "0-7"
    "#);
    insta::assert_snapshot!(error_after(&copies(&["00-ff"])), @r#"
    /etc/holdfast/holdfast.toml:6:9: the shard `00-ff` is the whole repository
        6 | shard = "00-ff"
          |         ^^^^^^^
       way out: take `shard` out: without it the whole repository is copied
    "#);
    insta::assert_snapshot!(error_after("[backup.full]\nshard = \"0-7\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:1: unknown key `shard` in [backup.full]
        6 | shard = "0-7"
          | ^^^^^
       way out: known keys: destination, jitter, repository, schedule, settle, timezone, volume
    "#);
}

#[test]
fn jobs_name_what_exists() {
    insta::assert_snapshot!(error_after("[copy.binaries]\nrepository = \"mian\"\ndestination = \"s3\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:14: there is no [repository.mian]
        6 | repository = "mian"
          |              ^^^^^^
       way out: did you mean `main`? known repositories: main

    /etc/holdfast/holdfast.toml:7:15: there is no [destination.s3]
        7 | destination = "s3"
          |               ^^^^
       way out: known destinations: disk
    "#);
    insta::assert_snapshot!(error_after("[repository.second]\nbinaries = \"/srv/second\"\n[copy.binaries]\n"), @r#"
    /etc/holdfast/holdfast.toml:7:7: [copy.binaries] does not say which repository, and there are 2
        7 | [copy.binaries]
          |       ^^^^^^^^
       way out: add repository = "main" or another of: main, second
    "#);
}

#[test]
fn something_must_be_backed_up_and_go_somewhere() {
    insta::assert_snapshot!(error(""), @r#"
    /etc/holdfast/holdfast.toml: there is no repository, so nothing to back up
       way out: add [repository.main] with binaries = "/path/to/the/binary/store"

    /etc/holdfast/holdfast.toml: there is no destination, so nowhere for backups to go
       way out: add [destination.main] with url = "s3://bucket/prefix" or "file:///directory"
    "#);
    insta::assert_snapshot!(error("[repository.main]\nbinaries = \"/b\"\n[copy.binaries]\n"), @r#"
    /etc/holdfast/holdfast.toml: there is no destination, so nowhere for backups to go
       way out: add [destination.main] with url = "s3://bucket/prefix" or "file:///directory"
    "#);
}

#[test]
fn places_do_not_lie_inside_each_other() {
    insta::assert_snapshot!(error_after("[destination.again]\nurl = \"file:///var/backups/../backups\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:7: [destination.again] is the same place as [destination.disk] (line 4)
        6 | url = "file:///var/backups/../backups"
          |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: give each destination a place of its own, side by side, or take one of them out
    "#);
    insta::assert_snapshot!(error_after("[repository.second]\nbinaries = \"/srv/binaries/second\"\n"), @r#"
    /etc/holdfast/holdfast.toml:6:12: the binaries of [repository.second] are inside those of [repository.main] (line 2)
        6 | binaries = "/srv/binaries/second"
          |            ^^^^^^^^^^^^^^^^^^^^^^
       way out: give each repository a directory of its own, or take one of them out
    "#);
    insta::assert_snapshot!(
        error_after(
            "[repository.main.documents]\ndirectory = \"/var/backups/documents\"\n\
             [destination.inside]\nurl = \"file:///srv/binaries/backups\"\n\
             [service]\nstate_dir = \"/srv/binaries\"\n"
        ),
        @r#"
    /etc/holdfast/holdfast.toml:4:7: [destination.disk] is around the documents of [repository.main] (line 6)
        4 | url = "file:///var/backups"
          |       ^^^^^^^^^^^^^^^^^^^^^
       way out: choose a directory outside, better on another disk

    /etc/holdfast/holdfast.toml:8:7: [destination.inside] is inside the binaries of [repository.main] (line 2)
        8 | url = "file:///srv/binaries/backups"
          |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       way out: choose a directory outside, better on another disk

    /etc/holdfast/holdfast.toml:10:13: `state_dir` is the same place as the binaries of [repository.main] (line 2)
       10 | state_dir = "/srv/binaries"
          |             ^^^^^^^^^^^^^^^
       way out: nothing of ours lies in a repository: choose another directory, such as "/var/lib/holdfast"
    "#
    );
    insta::assert_snapshot!(
        error_after(
            "[destination.a]\nurl = \"s3://bucket/a\"\n\
             [destination.a-nested]\nurl = \"s3://bucket/a/b\"\n\
             [destination.elsewhere]\nurl = \"s3://bucket/a\"\nendpoint = \"http://127.0.0.1:8333\"\n\
             [destination.beside]\nurl = \"s3://bucket/ab\"\n"
        ),
        @r#"
    /etc/holdfast/holdfast.toml:8:7: [destination.a-nested] is inside [destination.a] (line 6)
        8 | url = "s3://bucket/a/b"
          |       ^^^^^^^^^^^^^^^^^
       way out: give each destination a place of its own, side by side, or take one of them out
    "#
    );
}

#[test]
fn a_directory_takes_no_settings_of_s3_and_a_key_needs_its_encryption() {
    insta::assert_snapshot!(error_after("endpoint = \"http://127.0.0.1:8333\"\nsse = \"AES256\"\n"), @r#"
    /etc/holdfast/holdfast.toml:5:1: `endpoint` is for S3, and [destination.disk] is a directory
        5 | endpoint = "http://127.0.0.1:8333"
          | ^^^^^^^^
       way out: take `endpoint` out, or write url = "s3://bucket/prefix"

    /etc/holdfast/holdfast.toml:6:1: `sse` is for S3, and [destination.disk] is a directory
        6 | sse = "AES256"
          | ^^^
       way out: take `sse` out, or write url = "s3://bucket/prefix"
    "#);
    insta::assert_snapshot!(error_after("[destination.s3]\nurl = \"s3://bucket\"\nkms_key = \"alias/a\"\n"), @r#"
    /etc/holdfast/holdfast.toml:7:1: `kms_key` without encryption by that key
        7 | kms_key = "alias/a"
          | ^^^^^^^
       way out: add sse = "aws:kms", or take `kms_key` out
    "#);
}

#[test]
fn bandwidth_is_one_limit_or_a_timetable_and_the_first_that_fits_holds() {
    let at = |text: &str, now: &str| {
        let bandwidth = parse(&format!("{SOUND}{text}")).destinations["disk"].bandwidth.clone();
        bandwidth.limit_at(now.parse().unwrap()).map(NonZeroU64::get)
    };
    // A Monday and a Sunday at noon in Berlin.
    let (monday, sunday) = ("2026-11-23T11:00:00Z", "2026-11-22T11:00:00Z");
    assert_eq!(at("", monday), None);
    for text in ["bandwidth = \"20MiB\"", "bandwidth = \"20MiB/s\"", "bandwidth = [{ limit = \"20MiB\" }]"] {
        assert_eq!(at(text, monday), Some(20 << 20), "{text}");
    }
    let zone = "bandwidth_timezone = \"Europe/Berlin\"\n";
    let inline = format!(
        "{zone}bandwidth = [\n  {{ limit = \"5MiB\", from = \"08:00\", to = \"18:00\", days = \"Mon-Fri\" }},\n  {{ limit = \"50MiB\" }},\n]\n"
    );
    let tables = format!(
        "{zone}[[destination.disk.bandwidth]]\nlimit = \"5MiB\"\ndays = \"Mon-Fri\"\nfrom = \"08:00\"\nto = \"18:00\"\n\
         [[destination.disk.bandwidth]]\nlimit = \"50MiB\"\n"
    );
    for text in [inline, tables] {
        assert_eq!(at(&text, monday), Some(5 << 20), "{text}");
        assert_eq!(at(&text, "2026-11-23T17:00:00Z"), Some(50 << 20), "{text}");
        assert_eq!(at(&text, sunday), Some(50 << 20), "{text}");
    }
    let weekend = "bandwidth = [{ limit = \"none\", days = \"Sat, Sun\" }, { limit = \"1MiB\" }]";
    assert_eq!((at(weekend, sunday), at(weekend, monday)), (None, Some(1 << 20)));
    let night = "bandwidth = [{ limit = \"1MiB\", from = \"22:00\", to = \"00:00\", days = \"Sun\" }]";
    assert_eq!((at(night, "2026-11-22T23:59:00Z"), at(night, "2026-11-23T00:00:00Z")), (Some(1 << 20), None));
}

#[test]
fn a_bandwidth_that_cannot_be_is_shown_with_its_place_and_the_way_out() {
    for (text, place, cause, way_out) in [
        (
            "bandwidth = 5",
            "5:13",
            "`bandwidth` is the number `5`, not a size in quotes or a list of tables",
            "\"20MiB\"",
        ),
        ("bandwidth = \"20\"", "5:13", "the size `20` has no unit", "write \"20MiB\""),
        ("bandwidth = \"1KiB\"", "5:13", "at 1KiB a second a part of 8 MiB would take longer", "at least \"16KiB\""),
        ("bandwidth = []", "5:13", "the timetable is empty", "leave `bandwidth` out"),
        ("bandwidth = [\"20MiB\"]", "5:14", "is the text \"20MiB\", not a table", "bandwidth = \"20MiB\""),
        ("bandwidth = [{ limt = \"1MiB\" }]", "5:16", "unknown key `limt`", "did you mean `limit`?"),
        ("bandwidth = [{ from = \"08:00\" }]", "5:14", "has no `limit`", "add limit = \"5MiB\""),
        ("bandwidth = [{ limit = \"1MiB\", from = \"8\" }]", "5:39", "`8` is no time of day", "such as \"08:30\""),
        ("bandwidth = [{ limit = \"1MiB\", days = \"Mo-Fr\" }]", "5:39", "`Mo` is no day", "\"Mon-Fri\""),
        (
            "bandwidth = [{ limit = \"1MiB\", from = \"08:00\", to = \"08:00\" }]",
            "5:13",
            "from 08:00 to 08:00 is no time at all, or all day",
            "leave `from` and `to` out",
        ),
        (
            "bandwidth = [{ limit = \"1MiB\" }, { limit = \"2MiB\", days = \"Sun\" }]",
            "5:13",
            "entry 1 always holds, so those after it never do",
            "put it last",
        ),
        (
            "bandwidth = \"1MiB\"\nbandwidth_timezone = \"Europe/Berlin\"",
            "6:1",
            "`bandwidth_timezone` without a timetable",
            "or take it out",
        ),
        (
            "bandwidth_timezone = \"Berlin\"",
            "5:22",
            "there is no time zone `Berlin`",
            "did you mean \"Europe/Berlin\"?",
        ),
    ] {
        let error = error_after(&format!("{text}\n"));
        let shown = format!("{FILE}:{place}: ");
        assert!(error.starts_with(&shown) && error.lines().next().unwrap().contains(cause), "{text}: {error}");
        assert!(error.split_once("way out: ").unwrap().1.contains(way_out), "{text}: {error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| Config::load(path).unwrap_err().to_string().replace(dir.path().to_str().unwrap(), "DIR");
    insta::assert_snapshot!(error(&dir.path().join("holdfast.toml")), @r#"
    DIR/holdfast.toml: there is no such file
       way out: `holdfast init` writes a first configuration; `--config FILE` names another
    "#);
    insta::assert_snapshot!(error(dir.path()), @r#"
    DIR: this is a directory
       way out: name the file in it with `--config FILE`
    "#);
    let latin = dir.path().join("latin.toml");
    std::fs::write(&latin, b"[service]\n# f\xfcr\n").unwrap();
    insta::assert_snapshot!(error(&latin), @r#"
    DIR/latin.toml: line 2 is not UTF-8
       way out: save the file in the encoding UTF-8
    "#);
}

#[test]
fn a_loaded_configuration_has_absolute_paths_and_may_begin_with_a_byte_order_mark() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("holdfast.toml");
    std::fs::write(&file, "\u{feff}[repository.main]\nbinaries = \"b\"\n[destination.disk]\nurl = \"file:d\"\n")
        .unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.file, file);
    assert_eq!(config.repositories["main"].binaries, dir.path().join("b"));
}

proptest! {
    #[test]
    fn a_slip_anywhere_in_a_configuration_is_answered_and_points_into_the_file(
        at in 0..EXAMPLE.len(), taken in 0..12_usize, put in "[a-z\"=\\[\\]{}#.\n\r\tä0-9]{0,3}"
    ) {
        let full = uncommented(EXAMPLE);
        let from = full.floor_char_boundary(at);
        let to = full.floor_char_boundary(from + taken);
        let text = format!("{}{put}{}", &full[..from], &full[to..]);
        if let Err(error) = Config::parse(&text, Path::new(FILE)) {
            prop_assert!(error.to_string().contains("way out: "));
            for spot in error.problems.iter().filter_map(|problem| problem.spot.as_ref()) {
                prop_assert!(spot.line <= text.matches('\n').count() + 1);
                prop_assert!(spot.column + spot.width <= spot.text.chars().count() + 2);
            }
        }
    }
}
