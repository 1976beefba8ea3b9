//! A real PostgreSQL for tests, where it is installed: one server for all of them, and a database for each.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast::model::database::DocumentTable;
use holdfast::model::database::{DatabaseUrl, Server, TableName};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use crate::document_tables::{bson, hex, line};

/// The user who owns everything.
pub(crate) const OWNER: &str = "fcrepo";

/// Waits for its standard input to end, which it does however the tests end; then stops the server and cleans up.
///
/// A server of PostgreSQL refuses to run as root, so that root has it run as somebody else.
const GUARD: &str = r#"
set -e
bin=$1 dir=$2 port=$3 user=$4; shift 4
as() { if [ -n "$user" ]; then setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"; else "$@"; fi; }
[ -z "$user" ] || chown "$user" "$dir"
cd "$dir"
if [ ! -d data ]; then
  echo secret > password
  as "$bin/initdb" -D data -U fcrepo -A scram-sha-256 --pwfile=password -E UTF8 --locale=C.UTF-8 -N > initdb.log 2>&1
  if [ -f server.crt ]; then
    [ -z "$user" ] || chown "$user" server.crt server.key
    chmod 600 server.key
    set -- "$@" -c ssl=on -c ssl_cert_file="$dir/server.crt" -c ssl_key_file="$dir/server.key"
  fi
fi
run() { if [ -n "$user" ]; then exec setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"; else exec "$@"; fi; }
run "$bin/postgres" -D data -F -p "$port" -k "$dir" -c listen_addresses=127.0.0.1 -c max_connections=200 \
  -c autovacuum=off "$@" > server.log 2>&1 &
pid=$!
echo "$pid"
read -r order || order=QUIT
kill -"${order#kill-}" "$pid" 2> /dev/null || kill -QUIT "$pid" 2> /dev/null || true
wait "$pid" || true
"#;

/// A server that runs until it is dropped, or the tests have ended.
pub(crate) struct PostgresServer {
    directory: PathBuf,
    port: u16,
    guard: Option<(Child, ChildStdin)>,
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.sort();
    found.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    found.pop()
}

/// Who runs the server, if we are root.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "nobody" } else { "" }
}

impl PostgresServer {
    /// The one for all tests that leave it whole; none if it is not installed, which is said.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
        let server = SERVER.get_or_init(|| PostgresServer::start(|_| {}));
        if server.is_none() {
            eprintln!("skipped: PostgreSQL is not installed (`apt-get install postgresql`)");
        }
        server.as_ref()
    }

    /// One of one's own, with files in its directory that it finds there.
    pub(crate) fn start(prepare: impl FnOnce(&Path)) -> Option<Self> {
        programs()?;
        let directory = tempfile::Builder::new().prefix("holdfast-postgres-").tempdir().unwrap().keep();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        prepare(&directory);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { directory, port, guard: None };
        server.run();
        Some(server)
    }

    fn run(&mut self) {
        let mut guard = Command::new("sh")
            .args(["-c", &format!("{GUARD}\n[ -e \"$dir/keep\" ] || rm -rf \"$dir\""), "guard"])
            .arg(programs().unwrap())
            .arg(&self.directory)
            .arg(self.port.to_string())
            .arg(user())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let orders = guard.stdin.take().unwrap();
        self.guard = Some((guard, orders));
        let deadline = Instant::now() + Duration::from_mins(2);
        while Sql::connect(self, "postgres").is_err() {
            let ended = self.guard.as_mut().unwrap().0.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "PostgreSQL does not start: {}", self.log());
            // Another process has no event to wait for.
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        read("initdb.log") + &read("server.log")
    }

    /// Kills it as a crash of the machine would, and waits until it is gone.
    pub(crate) fn crash(&mut self) {
        std::fs::write(self.directory.join("keep"), "").unwrap();
        let (mut guard, mut orders) = self.guard.take().unwrap();
        std::io::Write::write_all(&mut orders, b"kill-KILL\n").unwrap();
        drop(orders);
        let mut said = String::new();
        guard.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        guard.wait().unwrap();
        // Its children end when they notice; a new server waits for that.
        std::fs::remove_file(self.directory.join("data/postmaster.pid")).unwrap_or(());
    }

    /// Starts it again after a crash.
    pub(crate) fn restart(&mut self) {
        std::fs::remove_file(self.directory.join("keep")).unwrap();
        self.run();
    }

    /// A database that only this test has.
    pub(crate) fn database(&self) -> Database<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut sql = Sql::connect(self, "postgres").unwrap();
        sql.run(&format!("CREATE DATABASE {name}"));
        let password_file = self.directory.join("password");
        Database { server: self, name, password_file }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some((mut guard, orders)) = self.guard.take() {
            drop(orders);
            guard.wait().unwrap();
        } else {
            // It crashed, and was not started again.
            std::fs::remove_dir_all(&self.directory).unwrap_or(());
        }
    }
}

/// A database of one test.
pub(crate) struct Database<'a> {
    server: &'a PostgresServer,
    pub(crate) name: String,
    pub(crate) password_file: PathBuf,
}

impl Database<'_> {
    pub(crate) fn url(&self) -> String {
        format!("postgresql://{OWNER}@127.0.0.1:{}/{}", self.server.port, self.name)
    }

    pub(crate) fn table(&self) -> DocumentTable {
        self.table_at(&self.url(), "MODESHAPE_REPOSITORY")
    }

    pub(crate) fn table_at(&self, url: &str, table: &str) -> DocumentTable {
        DocumentTable {
            url: DatabaseUrl::parse(Server::Postgres, url).unwrap(),
            table: TableName::parse(table).unwrap(),
            password_file: Some(self.password_file.clone()),
            compress: None,
        }
    }

    pub(crate) fn sql(&self) -> Sql {
        Sql::connect(self.server, &self.name).unwrap()
    }

    /// Makes ModeShape's table, as ModeShape does.
    pub(crate) fn with_table(self) -> Self {
        self.sql().run(
            "CREATE TABLE MODESHAPE_REPOSITORY (ID VARCHAR(255) PRIMARY KEY NOT NULL, \
             LAST_CHANGED TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, CONTENT BYTEA NOT NULL)",
        );
        self
    }
}

/// A client of the server, beside those that are tested.
pub(crate) struct Sql {
    runtime: Runtime,
    client: Client,
}

impl Sql {
    pub(crate) fn connect(server: &PostgresServer, database: &str) -> Result<Self, tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(server.port).user(OWNER).password("secret").dbname(database);
        let (client, connection) = runtime.block_on(config.connect(NoTls))?;
        runtime.spawn(async move { drop(connection.await) });
        Ok(Self { runtime, client })
    }

    pub(crate) fn run(&mut self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) fn try_run(&mut self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    pub(crate) fn rows(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.runtime.block_on(self.client.query(sql, parameters)).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// Adds or replaces a row.
    pub(crate) fn put(&mut self, id: &str, content: &[u8]) {
        self.rows(
            "INSERT INTO modeshape_repository (id, content) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET content = excluded.content, last_changed = now()",
            &[&id, &content],
        );
    }

    /// Adds or replaces a document.
    pub(crate) fn put_document(&mut self, id: &str, content: &str) {
        self.put(id, &bson(&line(id, content)));
    }

    /// Adds documents with numbers for ids, all at once.
    pub(crate) fn fill(&mut self, count: usize, padding: usize) {
        // Made by the server: an id of eight digits in three places of a document.
        let document =
            bson(&line("########", &format!("{{ \"key\" : \"########\" , \"x\" : \"{}\" }}", "x".repeat(padding))));
        let mut parts = Vec::new();
        let mut rest = document.as_slice();
        while let Some(at) = rest.windows(8).position(|window| window == b"########") {
            parts.push(format!("'\\x{}'::bytea", hex(&rest[..at])));
            rest = &rest[at + 8..];
        }
        parts.push(format!("'\\x{}'::bytea", hex(rest)));
        let expression = parts.join(" || n || ");
        self.run(&format!(
            "INSERT INTO modeshape_repository (id, content) SELECT convert_from(n, 'UTF8'), {expression} \
             FROM (SELECT convert_to(lpad(i::text, 8, '0'), 'UTF8') AS n FROM generate_series(1, {count}) i) numbers"
        ));
    }

    /// All rows by id, as they are.
    pub(crate) fn contents(&mut self) -> Vec<(String, Vec<u8>)> {
        let rows = self.rows("SELECT id, content FROM modeshape_repository ORDER BY id", &[]);
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}
