//! A real MariaDB for tests, where it is installed: one server for all of them, and a database for each.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast::model::database::DocumentTable;
use holdfast::model::database::{DatabaseUrl, Server, TableName};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, OptsBuilder, Params};
use tokio::runtime::Runtime;

use crate::document_tables::{bson, hex, line};

/// Waits for its standard input to end, which it does however the tests end; then stops the server and cleans up.
const GUARD: &str = r#"
set -e
dir=$1 port=$2 user=$3; shift 3
as() { if [ -n "$user" ]; then setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"; else "$@"; fi; }
run() { if [ -n "$user" ]; then exec setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"; else exec "$@"; fi; }
[ -z "$user" ] || chown "$user" "$dir"
cd "$dir"
if [ ! -d data ]; then
  echo secret > password
  as mkdir data
  as mariadb-install-db --no-defaults --datadir="$dir/data" --auth-root-authentication-method=normal \
    --skip-test-db > install.log 2>&1
  for host in 127.0.0.1 localhost; do
    echo "CREATE USER fcrepo@'$host' IDENTIFIED BY 'secret';"
    echo "GRANT ALL ON *.* TO fcrepo@'$host' WITH GRANT OPTION;"
  done > init.sql
  if [ -f server.crt ]; then [ -z "$user" ] || chown "$user" server.crt server.key; fi
fi
if [ -f server.crt ]; then set -- "$@" --ssl-cert="$dir/server.crt" --ssl-key="$dir/server.key"; fi
[ -e started ] || set -- "$@" --init-file="$dir/init.sql"
touch started
run mariadbd --no-defaults --datadir="$dir/data" --port="$port" --socket="$dir/socket" --bind-address=127.0.0.1 \
  --innodb-flush-log-at-trx-commit=2 --innodb-buffer-pool-size=64M --max-connections=200 --skip-name-resolve \
  --pid-file="$dir/data/pid" "$@" > server.log 2>&1 &
pid=$!
echo "$pid"
read -r order || order=KILL
kill -"$order" "$pid" 2> /dev/null || true
wait "$pid" || true
[ -e keep ] || rm -rf "$dir"
"#;

/// A server that runs until it is dropped, or the tests have ended.
pub(crate) struct MariaDb {
    directory: PathBuf,
    port: u16,
    guard: Option<(Child, ChildStdin)>,
}

fn is_installed() -> bool {
    let found = |name: &str| ["/usr/sbin", "/usr/bin"].iter().any(|directory| Path::new(directory).join(name).exists());
    found("mariadbd") && found("mariadb-install-db")
}

/// Who runs the server, if we are root.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "nobody" } else { "" }
}

impl MariaDb {
    /// The one for all tests that leave it whole; none if it is not installed, which is said.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<MariaDb>> = OnceLock::new();
        SERVER.get_or_init(|| MariaDb::start(|_| {})).as_ref()
    }

    /// One of one's own, with files in its directory that it finds there.
    pub(crate) fn start(prepare: impl FnOnce(&Path)) -> Option<Self> {
        if !is_installed() {
            eprintln!("skipped: MariaDB is not installed (`apt-get install mariadb-server`)");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("holdfast-mariadb-").tempdir().unwrap().keep();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        prepare(&directory);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { directory, port, guard: None };
        server.run();
        Some(server)
    }

    fn run(&mut self) {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .env("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{}", std::env::var("PATH").unwrap_or_default()))
            .arg(&self.directory)
            .arg(self.port.to_string())
            .arg(user())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let orders = guard.stdin.take().unwrap();
        self.guard = Some((guard, orders));
        let deadline = Instant::now() + Duration::from_mins(1);
        while let Err(error) = Sql::connect(self, "mysql") {
            let ended = self.guard.as_mut().unwrap().0.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "MariaDB does not start: {error}: {}", self.log());
            // Another process has no event to wait for.
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        read("install.log") + &read("server.log")
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn crash(&mut self) {
        std::fs::write(self.directory.join("keep"), "").unwrap();
        let (mut guard, orders) = self.guard.take().unwrap();
        drop(orders);
        guard.wait().unwrap();
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
        Sql::connect(self, "mysql").unwrap().run(&format!("CREATE DATABASE {name}"));
        Database { server: self, name, password_file: self.directory.join("password") }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for MariaDb {
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
    server: &'a MariaDb,
    pub(crate) name: String,
    pub(crate) password_file: PathBuf,
}

/// ModeShape's own words for its table.
pub(crate) const TABLE: &str = "CREATE TABLE MODESHAPE_REPOSITORY (ID VARCHAR(255) CHARACTER SET utf8 COLLATE utf8_bin \
                                PRIMARY KEY NOT NULL, LAST_CHANGED TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE \
                                CURRENT_TIMESTAMP, CONTENT LONGBLOB NOT NULL)";

impl Database<'_> {
    pub(crate) fn url(&self) -> String {
        format!("mysql://fcrepo@127.0.0.1:{}/{}", self.server.port, self.name)
    }

    pub(crate) fn table(&self) -> DocumentTable {
        self.table_at(&self.url(), "MODESHAPE_REPOSITORY")
    }

    pub(crate) fn table_at(&self, url: &str, table: &str) -> DocumentTable {
        DocumentTable {
            url: DatabaseUrl::parse(Server::Mysql, url).unwrap(),
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
        self.sql().run(TABLE);
        self
    }
}

/// A client of the server, beside those that are tested.
pub(crate) struct Sql {
    runtime: Runtime,
    conn: Option<Conn>,
}

impl Drop for Sql {
    fn drop(&mut self) {
        let conn = self.conn.take().unwrap();
        self.runtime.block_on(conn.disconnect()).unwrap_or(());
    }
}

impl Sql {
    pub(crate) fn connect(server: &MariaDb, database: &str) -> Result<Self, mysql_async::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(server.port)
            .user(Some("fcrepo"))
            .pass(Some("secret"))
            .db_name(Some(database))
            .prefer_socket(false);
        let conn = Some(runtime.block_on(async { Conn::new(options).await })?);
        Ok(Self { runtime, conn })
    }

    pub(crate) fn try_run(&mut self, sql: &str) -> Result<(), mysql_async::Error> {
        self.runtime.block_on(self.conn.as_mut().unwrap().query_drop(sql))
    }

    pub(crate) fn run(&mut self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) fn rows<T: FromRow + Send + 'static>(&mut self, sql: &str, parameters: impl Into<Params>) -> Vec<T> {
        let asking = self.conn.as_mut().unwrap().exec(sql, parameters.into());
        self.runtime.block_on(asking).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Adds or replaces a row.
    pub(crate) fn put(&mut self, id: &str, content: &[u8]) {
        let sql = "INSERT INTO MODESHAPE_REPOSITORY (ID, CONTENT) VALUES (?, ?) ON DUPLICATE KEY UPDATE CONTENT = VALUES(CONTENT)";
        let _none: Vec<mysql_async::Row> = self.rows(sql, (id, content));
    }

    /// Adds or replaces a document.
    pub(crate) fn put_document(&mut self, id: &str, content: &str) {
        self.put(id, &bson(&line(id, content)));
    }

    /// Adds documents with numbers for ids, all at once.
    pub(crate) fn fill(&mut self, count: usize, padding: usize) {
        let content = format!("{{ \"key\" : \"########\" , \"x\" : \"{}\" }}", "x".repeat(padding));
        let document = bson(&line("########", &content));
        let mut parts = Vec::new();
        let mut rest = document.as_slice();
        while let Some(at) = rest.windows(8).position(|window| window == b"########") {
            parts.push(format!("X'{}'", hex(&rest[..at])));
            rest = &rest[at + 8..];
        }
        parts.push(format!("X'{}'", hex(rest)));
        self.run(&format!(
            "INSERT INTO MODESHAPE_REPOSITORY (ID, CONTENT) SELECT n, CONCAT({}) \
             FROM (SELECT CAST(LPAD(seq, 8, '0') AS BINARY) AS n FROM seq_1_to_{count}) numbers",
            parts.join(", n, ")
        ));
    }

    /// All rows by id, as they are.
    pub(crate) fn contents(&mut self) -> Vec<(String, Vec<u8>)> {
        self.rows("SELECT ID, CONTENT FROM MODESHAPE_REPOSITORY ORDER BY ID", ())
    }
}
