//! A connection, used from a thread that may block: every wait ends when it is told to, or after some time.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use mysql_async::Conn;
use mysql_async::DriverError;
use mysql_async::Error;
use mysql_async::OptsBuilder;
use mysql_async::Params;
use mysql_async::SslOpts;
use mysql_async::prelude::FromRow;
use mysql_async::prelude::Queryable as _;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;

use super::ANSWER_WITHIN;
use crate::model::database::DatabaseUrl;
use crate::model::database::DocumentTable;
use crate::model::database::Encryption;
use crate::model::database::Host;
use crate::repository::documents::database::password;
use crate::repository::documents::database::trusted_certificates;
use crate::repository::documents::database::within;

/// How long reaching a server may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection of ours may wait for the destination, and rows that somebody else has locked are waited for.
const SETTINGS: &str = "SET SESSION wait_timeout = 86400, net_write_timeout = 86400, net_read_timeout = 86400, \
                        innodb_lock_wait_timeout = 60, lock_wait_timeout = 60, sql_mode = 'STRICT_ALL_TABLES', \
                        time_zone = @@time_zone";

/// Whether a wait should end.
pub(super) type Stop<'a> = &'a dyn Fn() -> bool;

/// A connection of ours. What is under way when it is dropped is rolled back by the server.
pub(super) struct Session {
    pub(super) waiter: Waiter,
    /// It is only taken away by dropping.
    conn: Option<Conn>,
}

/// What waits for a connection.
pub(super) struct Waiter(Option<Runtime>);

impl Session {
    pub(super) fn open(table: &DocumentTable) -> anyhow::Result<Self> {
        let doing = || format!("connect to {}", table.url);
        let waiter = Waiter(Some(Builder::new_current_thread().enable_all().build().with_context(doing)?));
        let password = password(table)?;
        let connect = |encrypted| -> anyhow::Result<Result<Conn, Error>> {
            let options = options(&table.url, password.as_deref(), encrypted)?;
            let connecting = async { tokio::time::timeout(CONNECT_WITHIN, Conn::new(options)).await };
            waiter.runtime().block_on(connecting).map_err(|_| anyhow!("it does not answer"))
        };
        let encrypted = table.url.encryption != Encryption::Never && matches!(table.url.host, Host::Network(_));
        let conn = match connect(encrypted).with_context(doing)? {
            Err(Error::Driver(DriverError::NoClientSslFlagFromServer))
                if table.url.encryption == Encryption::IfOffered =>
            {
                connect(false).with_context(doing)?
            }
            connected => connected,
        };
        let conn = conn.map_err(explain).with_context(doing)?;
        let mut session = Self { waiter, conn: Some(conn) };
        session.run(&|| false, "set up the connection", SETTINGS)?;
        Ok(session)
    }

    /// The waiter and the connection, to wait for what the connection gives in pieces.
    pub(super) fn parts(&mut self) -> (&Waiter, &mut Conn) {
        (&self.waiter, self.conn.as_mut().expect("it is there until it is dropped"))
    }

    /// Runs a statement that gives nothing.
    pub(super) fn run(&mut self, stop: Stop<'_>, what: &str, sql: &str) -> anyhow::Result<()> {
        let (waiter, conn) = self.parts();
        waiter.wait(stop, ANSWER_WITHIN, conn.query_drop(sql)).with_context(|| what.to_owned())
    }

    /// Asks.
    pub(super) fn rows<T: FromRow + Send + 'static>(
        &mut self,
        stop: Stop<'_>,
        what: &str,
        sql: &str,
        parameters: impl Into<Params> + Send,
    ) -> anyhow::Result<Vec<T>> {
        let (waiter, conn) = self.parts();
        let asking = conn.exec(sql, parameters.into());
        waiter.wait(stop, ANSWER_WITHIN, asking).with_context(|| what.to_owned())
    }

    /// The server and its version, in words.
    pub(super) fn server(&mut self) -> anyhow::Result<String> {
        let version: Option<String> = self.rows(&|| false, "look at the server", "SELECT VERSION()", ())?.pop();
        let version = version.context("look at the server: there is no answer")?;
        let name = if version.contains("MariaDB") { "MariaDB" } else { "MySQL" };
        Ok(format!("{name} {}", version.split('-').next().unwrap_or_default()))
    }

    pub(super) fn is_encrypted(&mut self) -> anyhow::Result<bool> {
        let sql = "SHOW SESSION STATUS LIKE 'Ssl_cipher'";
        let (waiter, conn) = self.parts();
        let found: Vec<(String, String)> =
            waiter.wait(&|| false, ANSWER_WITHIN, conn.query(sql)).context("look at the connection")?;
        Ok(found.iter().any(|(_, cipher)| !cipher.is_empty()))
    }
}

impl Waiter {
    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    /// Waits; the connection is of no use any more after it was told to stop, or took too long.
    pub(super) fn wait<T>(
        &self,
        stop: Stop<'_>,
        limit: Duration,
        future: impl Future<Output = Result<T, Error>>,
    ) -> anyhow::Result<T> {
        self.runtime().block_on(within(limit, stop, explain, future))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may be dropped where waiting is not allowed.
        if let Some(runtime) = self.waiter.0.take() {
            let inside = runtime.enter();
            drop(self.conn.take());
            drop(inside);
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

fn options(url: &DatabaseUrl, password: Option<&str>, encrypted: bool) -> anyhow::Result<OptsBuilder> {
    let mut options = OptsBuilder::default()
        .user(Some(&url.user))
        .pass(password)
        .db_name(Some(&url.database))
        .prefer_socket(false)
        .tcp_keepalive(Some(Duration::from_mins(1)))
        .connect_attribute("program_name", "holdfast");
    options = match &url.host {
        Host::Network(host) => options.ip_or_hostname(host).tcp_port(url.port),
        Host::Socket(path) => options.socket(Some(path.to_str().context("use the socket: its path is not UTF-8")?)),
    };
    if encrypted {
        let mut ssl = SslOpts::default();
        if url.encryption == Encryption::ForNamed {
            let trusted = trusted_certificates(url.root_certificate.as_deref())?.into_iter().map(Into::into).collect();
            ssl = ssl.with_root_certs(trusted).with_disable_built_in_roots(true);
        } else {
            ssl = ssl.with_danger_accept_invalid_certs(true);
        }
        options = options.ssl_opts(ssl);
    }
    Ok(options)
}

/// What the server says, with the way out where there is a known one.
pub(super) fn explain(error: Error) -> anyhow::Error {
    let Error::Server(said) = &error else { return anyhow::Error::new(error) };
    let message = &said.message;
    let hint = match said.code {
        1045 => "check the user in `url`, and `password_file` or MYSQL_PWD",
        1044 | 1049 => "check the database in `url`",
        1142 | 1143 | 1227 => "grant the user of `url` the rights to the table",
        1205 | 1213 => "somebody else writes the table; is a restore under way, or does Fedora run?",
        _ => return ServerSaid(message.clone()).into(),
    };
    ServerSaid(format!("{message} ({hint})")).into()
}

/// What the server answered instead of doing as it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct ServerSaid(String);
