//! A connection, used from a thread that may block: every wait ends when it is told to, or after some time.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::Config;
use tokio_postgres::Row;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::types::Type;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::ANSWER_WITHIN;
use crate::model::database::DocumentTable;
use crate::model::database::Encryption;
use crate::model::database::Host;
use crate::repository::documents::database::client_config;
use crate::repository::documents::database::password;
use crate::repository::documents::database::within;

/// What we call ourselves, by which we know our own connections.
pub(super) const APPLICATION: &str = "holdfast";
/// How long reaching a server may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long a table is waited for that somebody else has locked.
const LOCKED_FOR: &str = "60s";

/// A connection of ours. What is under way when it is dropped is rolled back by the server.
pub(super) struct Session {
    /// It is only taken away by dropping.
    runtime: Option<Runtime>,
    client: Client,
    tls: MakeRustlsConnect,
    /// What moves the bytes, while somebody waits.
    _connection: JoinSet<()>,
}

/// Whether a wait should end.
pub(super) type Stop<'a> = &'a dyn Fn() -> bool;

impl Session {
    pub(super) fn open(table: &DocumentTable) -> anyhow::Result<Self> {
        let url = &table.url;
        let mut config = Config::new();
        config.user(&url.user).dbname(&url.database).port(url.port).application_name(APPLICATION);
        match &url.host {
            Host::Network(host) => config.host(host),
            Host::Socket(directory) => config.host_path(directory),
        };
        config.ssl_mode(match (&url.host, url.encryption) {
            (Host::Socket(_), _) | (_, Encryption::Never) => SslMode::Disable,
            (_, Encryption::IfOffered) => SslMode::Prefer,
            _ => SslMode::Require,
        });
        config.connect_timeout(CONNECT_WITHIN).tcp_user_timeout(Duration::from_mins(5));
        config.keepalives_idle(Duration::from_mins(1)).keepalives_interval(Duration::from_secs(20));
        if let Some(password) = password(table)? {
            config.password(password);
        }
        let tls = MakeRustlsConnect::new(client_config(url.encryption, url.root_certificate.as_deref())?);
        let doing = || format!("connect to {url}");
        let runtime = Builder::new_current_thread().enable_all().build().with_context(doing)?;
        let connecting = async {
            let connecting = config.connect(tls.clone());
            // The timeout of the configuration is for reaching it, not for what it has to say.
            tokio::time::timeout(2 * CONNECT_WITHIN, connecting)
                .await
                .map_err(|_| anyhow!("it does not answer"))?
                .map_err(explain)
        };
        let (client, connection) = runtime.block_on(connecting).with_context(doing)?;
        let mut tasks = JoinSet::new();
        tasks.spawn_on(
            async move {
                // Whoever waits for an answer gets the error.
                drop(connection.await);
            },
            runtime.handle(),
        );
        let session = Self { runtime: Some(runtime), client, tls, _connection: tasks };
        // Others may have set limits for connections that wait, and ours waits for the destination.
        let settings = format!(
            "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '{LOCKED_FOR}'; \
             SET search_path = {}",
            if table.table.schema.is_some() { "pg_catalog" } else { "DEFAULT" },
        );
        session.batch("set up the connection", &settings)?;
        Ok(session)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs statements that give nothing.
    pub(super) fn batch(&self, what: &str, sql: &str) -> anyhow::Result<()> {
        self.batch_unless(&|| false, what, sql)
    }

    /// The same, unless it is told to stop.
    pub(super) fn batch_unless(&self, stop: Stop<'_>, what: &str, sql: &str) -> anyhow::Result<()> {
        self.wait(stop, ANSWER_WITHIN, self.client.batch_execute(sql)).with_context(|| what.to_owned())
    }

    /// Asks, with texts for parameters.
    pub(super) fn rows(&self, what: &str, sql: &str, parameters: &[&str]) -> anyhow::Result<Vec<Row>> {
        self.rows_unless(&|| false, what, sql, parameters)
    }

    /// The same, unless it is told to stop.
    pub(super) fn rows_unless(
        &self,
        stop: Stop<'_>,
        what: &str,
        sql: &str,
        parameters: &[&str],
    ) -> anyhow::Result<Vec<Row>> {
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            parameters.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        self.wait(stop, ANSWER_WITHIN, self.client.query_typed(sql, &parameters)).with_context(|| what.to_owned())
    }

    /// Asks for the one row that there is.
    pub(super) fn row(&self, what: &str, sql: &str, parameters: &[&str]) -> anyhow::Result<Row> {
        self.rows(what, sql, parameters)?.pop().with_context(|| format!("{what}: there is no answer"))
    }

    /// Asks for a truth, as a text.
    pub(super) fn truth(&self, sql: &str) -> anyhow::Result<bool> {
        Ok(text(&self.row("ask for rights", sql, &[])?, 0)? == "true")
    }

    /// Waits, and has the server give up what it is at when it should stop or takes too long.
    pub(super) fn wait<T>(
        &self,
        stop: Stop<'_>,
        limit: Duration,
        future: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> anyhow::Result<T> {
        let waited = self.runtime().block_on(within(limit, stop, explain, future));
        if waited.is_err() && !self.client.is_closed() {
            self.cancel();
        }
        waited
    }

    /// Has the server give up what it is at: it would else notice only when it has something to say.
    fn cancel(&self) {
        let token = self.client.cancel_token();
        let cancelling = token.cancel_query(self.tls.clone());
        // If that does not reach it either, closing the connection has to do.
        drop(self.runtime().block_on(async { tokio::time::timeout(Duration::from_secs(2), cancelling).await }));
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may be dropped where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

/// A column that is a text.
pub(super) fn text(row: &Row, column: usize) -> anyhow::Result<String> {
    row.try_get(column).map_err(explain)
}

/// What the server says, with the way out where there is a known one.
pub(super) fn explain(error: tokio_postgres::Error) -> anyhow::Error {
    let Some(said) = error.as_db_error() else {
        let cause = error.source().map(|source| anyhow!("{source:#}"));
        return match cause {
            Some(cause) => cause.context(error.to_string()),
            None => error.into(),
        };
    };
    let mut message = said.message().to_owned();
    for more in [said.detail(), said.hint()].into_iter().flatten() {
        message = format!("{message}; {more}");
    }
    let hint = match *said.code() {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "check the user in `url`, and `password_file` or PGPASSFILE"
        }
        SqlState::INVALID_CATALOG_NAME => "check the database in `url`",
        SqlState::INSUFFICIENT_PRIVILEGE => "grant the user of `url` the rights to the table",
        SqlState::LOCK_NOT_AVAILABLE => "somebody else holds the table; is a restore under way, or does Fedora write?",
        _ => return anyhow!("{message}"),
    };
    anyhow!("{message} ({hint})")
}
