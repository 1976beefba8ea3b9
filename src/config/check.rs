//! What the tables of a configuration mean together: the defaults, and the checks that need more than one value.

mod documents;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use toml::de::{DeTable, DeValue};

use super::bandwidth::BandwidthSetting;
use super::error::{Problem, Source, did_you_mean};
use super::file::{CredentialsTable, DestinationTable, File, OlderInterfacesTable};
use super::timing::Jitter;
use super::value::{Text, Url};
use super::{
    BackupJob, Config, ConfigError, CopyJob, Credentials, DEFAULT_GRACE, DEFAULT_HISTORY, DEFAULT_JITTER,
    DEFAULT_LISTEN, DEFAULT_PARALLEL, DEFAULT_POINT_EVERY, DEFAULT_REGION, DEFAULT_RUNS_AT_ONCE, DEFAULT_SCAN_EVERY,
    DEFAULT_SESSION, DEFAULT_SETTLE, DEFAULT_STATE_DIR, DEFAULT_USERS, DEFAULT_VOLUME, DEFAULT_WATCH, Destination,
    DocumentSource, OlderInterfaces, Place, Repository, S3Place, Service, Tls,
};
use crate::model::address::Address;
use crate::model::bandwidth::{Bandwidth, Rule};
use crate::model::cron::CronExpression;
use crate::model::layout::Layout;
use crate::model::schedule::Schedule;
use crate::model::slots::Timing;

/// Makes the configuration of what was written; `table` is the same once more, with places.
pub(super) fn check(written: File, source: &Source<'_>, table: &DeTable<'_>) -> Result<Config, ConfigError> {
    let mut check = Check { source, table, problems: Vec::new() };
    check.names();
    let config = check.config(written);
    check.listeners(&config.service);
    check.repositories_apart(&config);
    check.destinations_apart(&config);
    check.destinations_outside_repositories(&config);
    check.staging_apart(&config);
    check.shards_apart(&config);
    check.fedora_roots(&config);
    if check.problems.is_empty() {
        return Ok(config);
    }
    check.problems.sort_by_key(|(at, _)| *at);
    Err(source.error(check.problems.into_iter().map(|(_, problem)| problem).collect()))
}

struct Check<'a> {
    source: &'a Source<'a>,
    table: &'a DeTable<'a>,
    /// With their places in the text, to show them in that order.
    problems: Vec<(usize, Problem)>,
}

/// Names in headers become parts of keys, file names and metrics.
const MAX_NAME: usize = 64;

impl Check<'_> {
    fn names(&mut self) {
        for kind in ["repository", "destination", "copy", "backup"] {
            for name in self.names_of(kind) {
                let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
                if !plain || name.is_empty() || name.len() > MAX_NAME {
                    self.complain(
                        self.key(&[kind, &name]),
                        format!("`{}` cannot be a name", name.escape_debug()),
                        format!("use 1 to {MAX_NAME} letters, digits, `-` and `_`: [{kind}.NAME]"),
                    );
                }
            }
        }
    }

    fn config(&mut self, written: File) -> Config {
        let base = self.source.file.parent().unwrap_or(Path::new("")).to_owned();
        let resolve = |path: PathBuf| base.join(path).components().collect::<PathBuf>();
        let state_dir = written.service.state_dir.map_or_else(|| PathBuf::from(DEFAULT_STATE_DIR), |Text(path)| path);

        let mut repositories = BTreeMap::new();
        for (name, table) in written.repository {
            let documents = table.documents.and_then(|documents| self.documents(&name, documents, &resolve));
            let layout = table.layout.map_or_else(Layout::modeshape, |setting| setting.0);
            let binaries = resolve(table.binaries.0);
            repositories.insert(name.clone(), Repository { name, binaries, layout, documents });
        }

        let mut destinations = BTreeMap::new();
        for (name, mut table) in written.destination {
            let bandwidth = self.bandwidth(&name, table.bandwidth.take(), table.bandwidth_timezone.take());
            let place = self.place(&name, table, &resolve);
            destinations.insert(name.clone(), Destination { name, place, bandwidth });
        }

        let mut copies = BTreeMap::new();
        for (name, table) in written.copy {
            let job = CopyJob {
                repository: self.reference(&["copy", &name], "repository", table.repository),
                destination: self.reference(&["copy", &name], "destination", table.destination),
                timing: self.timing(&["copy", &name], table.schedule, table.timezone, table.jitter),
                parallel: table.parallel.map_or(DEFAULT_PARALLEL, |number| number.0),
                settle: table.settle.map_or(DEFAULT_SETTLE, |settle| settle.0.0),
                watch: table.watch.unwrap_or(DEFAULT_WATCH),
                point_every: table.point_every.map_or(DEFAULT_POINT_EVERY, |every| every.0.0),
                scan_every: self.scan_every(&name, table.scan_every.map(|every| every.0.0), table.watch),
                scan_rate: table.scan_rate.and_then(|rate| u32::try_from(rate.0).ok()),
                shard: table.shard.map(|Text(shard)| shard),
                name: name.clone(),
            };
            copies.insert(name, job);
        }
        let mut backups = BTreeMap::new();
        for (name, table) in written.backup {
            let job = BackupJob {
                repository: self.reference(&["backup", &name], "repository", table.repository),
                destination: self.reference(&["backup", &name], "destination", table.destination),
                timing: self.timing(&["backup", &name], table.schedule, table.timezone, table.jitter),
                volume_bytes: table.volume.map_or(DEFAULT_VOLUME, |volume| volume.0.0),
                settle: table.settle.map_or(DEFAULT_SETTLE, |settle| settle.0.0),
                name: name.clone(),
            };
            backups.insert(name, job);
        }

        let mut older = written.older_interfaces;
        let roots = older.fedora_roots.take().unwrap_or_default();
        let fedora_roots = roots.into_iter().map(|Text(path)| resolve(path)).collect();
        let older_interfaces = OlderInterfaces { fedora_roots, ..self.older_interfaces(older, &backups) };
        let config = Config {
            file: self.source.file.to_owned(),
            service: Service {
                state_dir: resolve(state_dir),
                users: resolve(written.service.users.map_or_else(|| PathBuf::from(DEFAULT_USERS), |Text(path)| path)),
                session: written.service.session.map_or(DEFAULT_SESSION, |session| session.0.0),
                grace: written.service.grace.map_or(DEFAULT_GRACE, |grace| grace.0.0),
                runs_at_once: written.service.runs_at_once.map_or(DEFAULT_RUNS_AT_ONCE, |number| number.0),
                history: written.service.history.map_or(DEFAULT_HISTORY, |history| history.0.0),
                listen: written.service.listen.map_or_else(
                    || vec![Address::Tcp(DEFAULT_LISTEN)],
                    |listen| listen.0.into_iter().map(|address| resolved(address, &resolve)).collect(),
                ),
                tls: written
                    .service
                    .tls
                    .map(|tls| Tls { certificate: resolve(tls.certificate.0), key: resolve(tls.key.0) }),
                allow_plaintext_beyond_loopback: written.service.allow_plaintext_beyond_loopback.unwrap_or(false),
                hosts: written.service.hosts.unwrap_or_default().into_iter().map(|Text(host)| host.0).collect(),
            },
            repositories,
            destinations,
            copies,
            backups,
            older_interfaces,
        };
        if config.repositories.is_empty() {
            self.complain(
                None,
                "there is no repository, so nothing to back up".to_owned(),
                "add [repository.main] with binaries = \"/path/to/the/binary/store\"".to_owned(),
            );
        }
        if config.destinations.is_empty() {
            self.complain(
                None,
                "there is no destination, so nowhere for backups to go".to_owned(),
                "add [destination.main] with url = \"s3://bucket/prefix\" or \"file:///directory\"".to_owned(),
            );
        }
        config
    }

    /// What is named, or else what there is no choice of.
    fn older_interfaces(
        &mut self,
        table: OlderInterfacesTable,
        backups: &BTreeMap<String, BackupJob>,
    ) -> OlderInterfaces {
        const HEADER: &str = "older_interfaces";
        let named = |text: Option<Text<String>>| text.map(|Text(name)| name);
        let (backup, repository) = (named(table.backup), named(table.repository));
        for (kind, name) in [("backup", &backup), ("repository", &repository)] {
            let (Some(name), known) = (name, self.names_of(kind)) else { continue };
            if !known.contains(name) {
                let bare = name.strip_prefix("backup.").filter(|bare| known.iter().any(|known| known == bare));
                let meant = match bare {
                    Some(bare) => format!("write the name alone: {kind} = \"{bare}\"; "),
                    None => did_you_mean(name, known.iter().map(String::as_str)),
                };
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                self.complain(
                    self.value(&[HEADER, kind]),
                    format!("there is no [{kind}.{name}]"),
                    format!("{meant}known {}: {known}", plural(kind)),
                );
                return OlderInterfaces::default();
            }
        }
        let of_repository = |job: &&BackupJob| repository.as_ref().is_none_or(|name| *name == job.repository);
        let chosen = if let Some(name) = &backup {
            backups.get(name)
        } else {
            let mut all = backups.values().filter(of_repository);
            all.next().filter(|_| all.next().is_none())
        };
        if let (Some(job), Some(repository)) = (chosen, &repository)
            && job.repository != *repository
        {
            self.complain(
                self.value(&[HEADER, "repository"]),
                format!("[backup.{}] is of the repository `{}`, not of `{repository}`", job.name, job.repository),
                "take `repository` out, or name a backup of it".to_owned(),
            );
        }
        OlderInterfaces {
            backup: chosen.map(|job| job.name.clone()),
            repository: repository.or_else(|| chosen.map(|job| job.repository.clone())),
            fedora_roots: Vec::new(),
        }
    }

    fn place(&mut self, name: &str, table: DestinationTable, resolve: &dyn Fn(PathBuf) -> PathBuf) -> Place {
        let (bucket, prefix) = match table.url.0 {
            Url::S3 { bucket, prefix } => (bucket, prefix),
            Url::Directory(path) => {
                self.no_s3_keys(name);
                return Place::Directory(resolve(path));
            }
        };
        let sse = table.sse.map(|sse| sse.0.0);
        if table.kms_key.is_some() && !sse.as_ref().is_some_and(|sse| sse.starts_with("aws:kms")) {
            self.complain(
                self.key(&["destination", name, "kms_key"]),
                "`kms_key` without encryption by that key".to_owned(),
                "add sse = \"aws:kms\", or take `kms_key` out".to_owned(),
            );
        }
        let endpoint = table.endpoint.map(|endpoint| endpoint.0.0);
        let default_region = endpoint.as_ref().map(|_| DEFAULT_REGION.to_owned());
        Place::S3(S3Place {
            bucket,
            prefix,
            region: table.region.map(|region| region.0).or(default_region),
            path_style: table.path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            credentials: match table.credentials {
                None => Credentials::Chain,
                Some(CredentialsTable { access_key_file, secret_key_file }) => Credentials::Files {
                    access_key_file: resolve(access_key_file.0),
                    secret_key_file: resolve(secret_key_file.0),
                },
            },
            storage_class: table.storage_class.map(|class| class.0.0),
            sse,
            kms_key: table.kms_key.map(|key| key.0),
            expected_bucket_owner: table.expected_bucket_owner.map(|account| account.0.0),
        })
    }

    /// What may pass to a destination and when.
    fn bandwidth(&mut self, name: &str, setting: Option<BandwidthSetting>, zone: Option<Text<TimeZone>>) -> Bandwidth {
        let rules = setting.map_or_else(Vec::new, |setting| setting.0);
        if zone.is_some() && rules.iter().all(Rule::is_always) {
            self.complain(
                self.key(&["destination", name, "bandwidth_timezone"]),
                "`bandwidth_timezone` without a timetable".to_owned(),
                "add bandwidth = [{ limit = \"5MiB\", from = \"08:00\", to = \"18:00\" }], or take it out".to_owned(),
            );
        }
        Bandwidth { rules, zone: zone.map_or(TimeZone::UTC, |Text(zone)| zone) }
    }

    /// All that a local directory needs is its `url`; its disk may be on a line of its own.
    fn no_s3_keys(&mut self, name: &str) {
        let keys = match self.find(&["destination", name]) {
            Some((_, DeValue::Table(table), _)) => table.keys().map(|key| key.get_ref().to_string()).collect(),
            _ => Vec::new(),
        };
        let known = ["url", "bandwidth", "bandwidth_timezone"];
        for key in keys.iter().filter(|key| !known.contains(&key.as_str())) {
            self.complain(
                self.key(&["destination", name, key]),
                format!("`{key}` is for S3, and [destination.{name}] is a directory"),
                format!("take `{key}` out, or write url = \"s3://bucket/prefix\""),
            );
        }
    }

    /// The repository or destination that a job names, or the only one there is. What is wrong is complained about
    /// and stays as it is.
    fn reference(&mut self, job: &[&str; 2], kind: &str, written: Option<Text<String>>) -> String {
        let known = self.names_of(kind);
        match (written, known.as_slice()) {
            // That there is none is a problem of its own.
            (written, []) => written.map(|Text(name)| name).unwrap_or_default(),
            (None, [only]) => only.clone(),
            (None, several) => {
                self.complain(
                    self.key(job),
                    format!("[{}] does not say which {kind}, and there are {}", job.join("."), several.len()),
                    format!("add {kind} = \"{}\" or another of: {}", several[0], several.join(", ")),
                );
                String::new()
            }
            (Some(Text(name)), known) => {
                if !known.contains(&name) {
                    let meant = did_you_mean(&name, known.iter().map(String::as_str));
                    self.complain(
                        self.value(&[job[0], job[1], kind]),
                        format!("there is no [{kind}.{name}]"),
                        format!("{meant}known {}: {}", plural(kind), known.join(", ")),
                    );
                }
                name
            }
        }
    }

    /// Each place once, and none where passwords are seen by others.
    fn listeners(&mut self, service: &Service) {
        for (first, second) in pairs(&service.listen.iter().collect::<Vec<_>>()) {
            if first == second {
                self.complain(
                    self.value(&["service", "listen"]),
                    format!("`{first}` stands in `listen` twice"),
                    "take one of them out".to_owned(),
                );
            }
        }
        let plain = service.tls.is_none() && !service.allow_plaintext_beyond_loopback;
        if let Some(open) = service.listen.iter().find(|address| plain && !address.is_local()) {
            self.complain(
                self.value(&["service", "listen"]),
                format!("others reach {open}, and on the way to it everybody could read passwords and tokens"),
                "add tls = { certificate = \"certificate.pem\", key = \"key.pem\" }, or, where the network is your own, \
                 allow_plaintext_beyond_loopback = true"
                    .to_owned(),
            );
        }
    }

    /// How often a copy scans: without a watch every run of it does.
    fn scan_every(&mut self, name: &str, every: Option<Duration>, watch: Option<bool>) -> Option<Duration> {
        if every.is_some() && !watch.unwrap_or(DEFAULT_WATCH) {
            self.complain(
                self.key(&["copy", name, "scan_every"]),
                "`scan_every` without a watch: every run looks at everything".to_owned(),
                "add watch = true, or take `scan_every` out and say by `schedule` when it runs".to_owned(),
            );
        }
        watch.unwrap_or(DEFAULT_WATCH).then(|| every.unwrap_or(DEFAULT_SCAN_EVERY))
    }

    /// When a job runs by itself, if it does.
    fn timing(
        &mut self,
        job: &[&str; 2],
        schedule: Option<Text<CronExpression>>,
        timezone: Option<Text<TimeZone>>,
        jitter: Option<Text<Jitter>>,
    ) -> Option<Timing> {
        let Some(Text(cron)) = schedule else {
            for (key, written) in [("timezone", timezone.is_some()), ("jitter", jitter.is_some())] {
                if written {
                    self.complain(
                        self.key(&[job[0], job[1], key]),
                        format!("`{key}` without a schedule"),
                        format!("add schedule = \"0 30 2 * * *\", or take `{key}` out"),
                    );
                }
            }
            return None;
        };
        let zone = timezone.map_or(TimeZone::UTC, |Text(zone)| zone);
        let jitter = jitter.map_or(DEFAULT_JITTER, |Text(jitter)| jitter.0);
        Some(Timing { schedule: Schedule::new(cron, zone), jitter })
    }

    /// Binaries that belong to two repositories would be backed up twice and restored over each other.
    fn repositories_apart(&mut self, config: &Config) {
        let mut repositories: Vec<_> = config.repositories.values().collect();
        repositories.sort_by_key(|repository| self.line(&["repository", &repository.name, "binaries"]));
        for (first, second) in pairs(&repositories) {
            let Some(relation) = relation(&first.binaries, &second.binaries) else { continue };
            self.complain_of_two(
                [&["repository", &first.name, "binaries"], &["repository", &second.name, "binaries"]],
                &format!("the binaries of [repository.{}]", second.name),
                relation,
                &format!("those of [repository.{}]", first.name),
                "give each repository a directory of its own, or take one of them out",
            );
        }
    }

    /// Two destinations in one place would take each other's objects for their own.
    fn destinations_apart(&mut self, config: &Config) {
        let mut destinations: Vec<_> = config.destinations.values().collect();
        destinations.sort_by_key(|destination| self.line(&["destination", &destination.name, "url"]));
        for (first, second) in pairs(&destinations) {
            let relation = match (&first.place, &second.place) {
                (Place::Directory(first), Place::Directory(second)) => relation(first, second),
                (Place::S3(first), Place::S3(second)) if same_bucket(first, second) => {
                    relation(Path::new(&first.prefix), Path::new(&second.prefix))
                }
                _ => None,
            };
            let Some(relation) = relation else { continue };
            self.complain_of_two(
                [&["destination", &first.name, "url"], &["destination", &second.name, "url"]],
                &format!("[destination.{}]", second.name),
                relation,
                &format!("[destination.{}]", first.name),
                "give each destination a place of its own, side by side, or take one of them out",
            );
        }
    }

    /// A backup inside what it backs up grows by itself and is lost together with it.
    fn destinations_outside_repositories(&mut self, config: &Config) {
        for repository in config.repositories.values() {
            let header = ["repository", repository.name.as_str()];
            let mut sources = vec![("binaries", &repository.binaries, vec![header[0], header[1], "binaries"])];
            match &repository.documents {
                Some(DocumentSource::Directory(path)) => {
                    sources.push(("documents", path, vec![header[0], header[1], "documents", "directory"]));
                }
                Some(DocumentSource::Fedora(server)) => {
                    let key = vec![header[0], header[1], "documents", "fedora"];
                    sources.push(("staging directory", &server.staging, key));
                }
                Some(DocumentSource::Table(_)) | None => {}
            }
            for (what, source, source_key) in sources {
                if let Some(relation @ (Relation::Same | Relation::Inside)) =
                    relation(source, &config.service.state_dir)
                {
                    self.complain_of_two(
                        [&source_key, &["service", "state_dir"]],
                        "`state_dir`",
                        relation,
                        &format!("the {what} of [repository.{}]", repository.name),
                        "nothing of ours lies in a repository: choose another directory, such as \
                         \"/var/lib/holdfast\"",
                    );
                }
                for destination in config.destinations.values() {
                    let Place::Directory(path) = &destination.place else { continue };
                    let Some(relation) = relation(source, path) else { continue };
                    self.complain_of_two(
                        [&source_key, &["destination", &destination.name, "url"]],
                        &format!("[destination.{}]", destination.name),
                        relation,
                        &format!("the {what} of [repository.{}]", repository.name),
                        "choose a directory outside, better on another disk",
                    );
                }
            }
        }
    }

    /// Two jobs would copy the same binaries twice, each into restore points of its own.
    fn shards_apart(&mut self, config: &Config) {
        let mut copies: Vec<_> = config.copies.values().collect();
        copies.sort_by_key(|job| self.line(&["copy", &job.name, "shard"]));
        for (first, second) in pairs(&copies) {
            let same_series = (&first.repository, &first.destination) == (&second.repository, &second.destination);
            let cause = match (first.shard, second.shard) {
                _ if !same_series => continue,
                (Some(one), Some(other)) if one.overlaps(&other) => {
                    let line = self.line(&["copy", &first.name, "shard"]);
                    format!(
                        "the shard {other} of [copy.{}] overlaps {one} of [copy.{}] (line {line})",
                        second.name, first.name
                    )
                }
                (None, Some(_)) => {
                    format!(
                        "[copy.{}] copies all of the repository to the same destination, this shard included",
                        first.name
                    )
                }
                _ => continue,
            };
            let way_out = "give the copies of one repository to one destination shards that have nothing in common, such as \
                           \"0-7\" and \"8-f\"";
            self.complain(self.value(&["copy", &second.name, "shard"]), cause, way_out.to_owned());
        }
    }

    /// Who may name directories in a root may have them replaced.
    fn fedora_roots(&mut self, config: &Config) {
        let place = ["older_interfaces", "fedora_roots"];
        let roots = &config.older_interfaces.fedora_roots;
        let mut uses = vec![("`state_dir`".to_owned(), &config.service.state_dir)];
        for repository in config.repositories.values() {
            uses.push((format!("the binaries of [repository.{}]", repository.name), &repository.binaries));
        }
        for destination in config.destinations.values() {
            if let Place::Directory(path) = &destination.place {
                uses.push((format!("[destination.{}]", destination.name), path));
            }
        }
        for root in roots {
            let inside = uses.iter().find(|(_, used)| root.starts_with(used));
            let cause = match inside {
                _ if root.parent().is_none() => "`/` holds everything there is".to_owned(),
                Some((what, _)) => format!("`{}` lies in {what}", root.display()),
                None => continue,
            };
            let way_out = "name directories that hold backups of Fedora and nothing else".to_owned();
            self.complain(self.value(&place), cause, way_out);
        }
        let several = config.repositories.len() > 1 && config.older_interfaces.repository.is_none();
        if several && !roots.is_empty() {
            self.complain(
                self.key(&place),
                "`fedora_roots` without a repository, and there are several".to_owned(),
                "add repository = \"NAME\" to [older_interfaces]".to_owned(),
            );
        }
    }

    /// Complains where `second` stands, with the line where `first` stands.
    fn complain_of_two(
        &mut self,
        [first, second]: [&[&str]; 2],
        second_is: &str,
        relation: Relation,
        first_is: &str,
        way_out: &str,
    ) {
        let relation = match relation {
            Relation::Same => "the same place as",
            Relation::Inside => "inside",
            Relation::Around => "around",
        };
        let line = match self.line(first) {
            // A default stands nowhere.
            0 => String::new(),
            line => format!(" (line {line})"),
        };
        let verb = if second_is.starts_with("the binaries") { "are" } else { "is" };
        self.complain(
            self.value(second),
            format!("{second_is} {verb} {relation} {first_is}{line}"),
            way_out.to_owned(),
        );
    }

    /// Points at `span`, or, without one, at the file as a whole.
    fn complain(&mut self, span: Option<Range<usize>>, cause: String, way_out: String) {
        let at = span.as_ref().map_or(0, |span| span.start);
        let problem = self.source.problem(span, cause, way_out);
        self.problems.push((at, problem));
    }

    /// The place of a key, or of the name in a header.
    fn key(&self, path: &[&str]) -> Option<Range<usize>> {
        self.find(path).map(|(key, _, _)| key)
    }

    /// The place of a value.
    fn value(&self, path: &[&str]) -> Option<Range<usize>> {
        self.find(path).map(|(_, _, value)| value)
    }

    fn line(&self, path: &[&str]) -> usize {
        self.value(path).map_or(0, |span| self.source.spot(&span).line)
    }

    /// The names of the repositories, destinations, …, in order.
    fn names_of(&self, kind: &str) -> Vec<String> {
        match self.find(&[kind]) {
            Some((_, DeValue::Table(table), _)) => table.keys().map(|key| key.get_ref().to_string()).collect(),
            _ => Vec::new(),
        }
    }

    /// The place of a key, its value, and the place of that.
    fn find(&self, path: &[&str]) -> Option<(Range<usize>, &DeValue<'_>, Range<usize>)> {
        let (last, tables) = path.split_last()?;
        let mut table = self.table;
        for name in tables {
            table = table.get(*name)?.get_ref().as_table()?;
        }
        let (key, value) = table.get_key_value(*last)?;
        Some((key.span(), value.get_ref(), value.span()))
    }
}

fn resolved(address: Address, resolve: &dyn Fn(PathBuf) -> PathBuf) -> Address {
    match address {
        Address::Unix(path) => Address::Unix(resolve(path)),
        Address::Tcp(_) => address,
    }
}

/// How the second of two directories lies to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Same,
    Inside,
    Around,
}

/// Compares by names alone; that two names lead to one directory over links is for `holdfast check` to find.
fn relation(first: &Path, second: &Path) -> Option<Relation> {
    let (first, second) = (without_parents(first), without_parents(second));
    if first == second {
        Some(Relation::Same)
    } else if second.starts_with(&first) {
        Some(Relation::Inside)
    } else if first.starts_with(&second) {
        Some(Relation::Around)
    } else {
        None
    }
}

fn without_parents(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

fn same_bucket(first: &S3Place, second: &S3Place) -> bool {
    let endpoint = |place: &S3Place| place.endpoint.as_ref().map(|endpoint| endpoint.to_lowercase());
    first.bucket == second.bucket && endpoint(first) == endpoint(second)
}

/// Each with each that comes after it.
fn pairs<T: Copy>(items: &[T]) -> impl Iterator<Item = (T, T)> {
    items.iter().enumerate().flat_map(|(number, first)| items[number + 1..].iter().map(|second| (*first, *second)))
}

fn plural(kind: &str) -> &'static str {
    match kind {
        "repository" => "repositories",
        "backup" => "backups",
        _ => "destinations",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_compared_by_whole_names() {
        for (first, second, expected) in [
            ("/srv/a", "/srv/a", Some(Relation::Same)),
            ("/srv/a", "/srv/b/../a", Some(Relation::Same)),
            ("/srv/a", "/srv/a/b", Some(Relation::Inside)),
            ("/srv/a/b", "/srv", Some(Relation::Around)),
            ("/srv/a", "/srv/ab", None),
            ("", "backups", Some(Relation::Inside)),
        ] {
            assert_eq!(relation(Path::new(first), Path::new(second)), expected, "{first} {second}");
        }
    }
}
