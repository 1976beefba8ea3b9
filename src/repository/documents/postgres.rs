//! Documents in a table of PostgreSQL.

mod read;
mod session;
mod table;
mod write;

use std::time::Duration;

use anyhow::Context as _;

pub(super) use read::Snapshot;
pub(super) use write::Replacement;

use crate::model::database::DocumentTable;
use crate::repository::documents::database::OtherConnection;
use crate::repository::documents::database::TableReport;
use crate::repository::documents::database::lasting;
use session::Session;
use session::text;
use table::Table;

/// How long a question may take that reads no documents, or only counts them.
const ANSWER_WITHIN: Duration = Duration::from_mins(10);

/// The connections of others to the database, as far as this user may see them.
pub(super) fn other_connections(table: &DocumentTable) -> anyhow::Result<Vec<OtherConnection>> {
    let session = Session::open(table)?;
    lasting(|| {
        // Of other users' connections the kind is hidden from those who may not see it.
        let rows = session.rows(
            "look at the connections to the database",
            "SELECT coalesce(application_name, ''), coalesce(usename, '')::text, coalesce(host(client_addr), '') \
             FROM pg_catalog.pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND coalesce(backend_type, 'client backend') = 'client backend' ORDER BY pid",
            &[],
        )?;
        let other = |row: &tokio_postgres::Row| {
            Ok(OtherConnection { application: text(row, 0)?, user: text(row, 1)?, from: text(row, 2)? })
        };
        let others: anyhow::Result<Vec<_>> = rows.iter().map(other).collect();
        Ok(others?.into_iter().filter(|other| other.application != session::APPLICATION).collect())
    })
}

/// Looks at everything that reading and writing need.
pub(super) fn look(table: &DocumentTable) -> anyhow::Result<TableReport> {
    let session = Session::open(table)?;
    session.rows("begin", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", &[])?;
    let about = session.row(
        "look at the server",
        "SELECT current_setting('server_version'), \
         coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false)::text",
        &[],
    )?;
    let (version, encrypted) = (text(&about, 0)?, text(&about, 1)? == "true");
    let found = Table::find(&session, table)?;
    let (name, documents, writable) = match &found {
        None => (None, 0, session.truth("SELECT has_schema_privilege(current_schema(), 'CREATE')::text")?),
        Some(found) => {
            found.may_be_read(&session)?;
            let count = session.row("count documents", &format!("SELECT count(*)::text FROM {}", found.quoted), &[])?;
            let count = text(&count, 0)?.parse().context("read how many documents there are")?;
            (Some(found.shown()), count, found.may_be_written(&session)?)
        }
    };
    let server = format!("PostgreSQL {version}");
    Ok(TableReport { server, table: name, documents, writable, encrypted })
}
