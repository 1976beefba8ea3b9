//! Documents in a table of MySQL or MariaDB.

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
use table::Table;

/// How long a question may take that reads no documents, or only counts them.
const ANSWER_WITHIN: Duration = Duration::from_mins(10);

/// The connections of others to the database, as far as this user may see them: without the right PROCESS only those of
/// the same user.
pub(super) fn other_connections(table: &DocumentTable) -> anyhow::Result<Vec<OtherConnection>> {
    let mut session = Session::open(table)?;
    let rows: Vec<(String, String)> = lasting(|| {
        session.rows(
            &|| false,
            "look at the connections to the database",
            "SELECT USER, COALESCE(HOST, '') FROM information_schema.PROCESSLIST WHERE DB = DATABASE() \
             AND ID <> CONNECTION_ID() ORDER BY ID",
            (),
        )
    })?;
    let other = |(user, host): (String, String)| {
        let from = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned();
        OtherConnection { application: String::new(), user, from }
    };
    Ok(rows.into_iter().map(other).collect())
}

/// Looks at everything that reading and writing need.
pub(super) fn look(table: &DocumentTable) -> anyhow::Result<TableReport> {
    let mut session = Session::open(table)?;
    let server = session.server()?;
    let encrypted = session.is_encrypted()?;
    let found = Table::find(&mut session, table, &|| false)?;
    let rights = table::rights(&mut session, found.as_ref())?;
    let has = |right: &str| rights.iter().any(|found| found == right);
    let (name, documents, writable) = match &found {
        None => (None, 0, has("CREATE") && has("INSERT") && has("DELETE")),
        Some(found) => {
            let sql = format!("SELECT COUNT(*) FROM {}", found.quoted);
            let counted: Option<u64> = session.rows(&|| false, "count documents", &sql, ())?.pop();
            let counted = counted.context("count documents: there is no answer")?;
            (Some(found.shown.clone()), counted, has("INSERT") && has("DELETE"))
        }
    };
    Ok(TableReport { server, table: name, documents, writable, encrypted })
}
