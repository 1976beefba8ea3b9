//! The table as it is in the database, whatever the case of its name.

use anyhow::Context as _;
use anyhow::bail;
use anyhow::ensure;

use super::session::Session;
use super::session::text;
use crate::model::database::DocumentTable;

/// The table, with names that are fit for SQL.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// As it stands in SQL, with its schema.
    pub(super) quoted: String,
    /// The column of ids, as it stands in SQL.
    pub(super) id: String,
    /// The column of documents, as it stands in SQL.
    pub(super) content: String,
}

impl Table {
    /// Finds it; none if there is no table of that name.
    pub(super) fn find(session: &Session, wanted: &DocumentTable) -> anyhow::Result<Option<Self>> {
        let doing = || format!("look for the table {}", wanted.table);
        let name = wanted.table.name.as_str();
        let schema = wanted.table.schema.as_deref().unwrap_or_default();
        let found = session.rows(
            &doing(),
            "SELECT c.oid::text, n.nspname::text, c.relname::text, c.relkind::text \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE lower(c.relname) = lower($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
             AND CASE WHEN $2 = '' THEN pg_catalog.pg_table_is_visible(c.oid) ELSE lower(n.nspname) = lower($2) END \
             ORDER BY n.nspname = $2 DESC, c.relname = $1 DESC, c.relname = lower($1) DESC, c.relname",
            &[name, schema],
        )?;
        let Some(row) = found.first() else { return Ok(None) };
        let (oid, kind) = (text(row, 0)?, text(row, 3)?);
        let (schema, name) = (text(row, 1)?, text(row, 2)?);
        ensure!(matches!(kind.as_str(), "r" | "p"), "{}: {schema}.{name} is a view, not a table", doing());
        let mut columns = session
            .rows(
                &doing(),
                "SELECT attname::text, pg_catalog.format_type(atttypid, NULL) FROM pg_catalog.pg_attribute \
                 WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped AND lower(attname) IN ('id', 'content')",
                &[&oid],
            )?
            .iter()
            .map(|row| Ok((text(row, 0)?, text(row, 1)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        columns.sort_by_key(|(name, _)| name.to_lowercase());
        let [(content, kind), (id, _)] = columns.as_slice() else {
            bail!("{}: {schema}.{name} has no columns ID and CONTENT; it is no table of ModeShape's", doing());
        };
        ensure!(kind == "bytea", "{}: its column {content} is {kind}, not bytea", doing());
        let quoted = format!("{}.{}", quoted(&schema), quoted(&name));
        Ok(Some(Self { quoted, id: self::quoted(id), content: self::quoted(content) }))
    }

    /// As [`find`](Self::find), for whoever needs it.
    pub(super) fn require(session: &Session, wanted: &DocumentTable) -> anyhow::Result<Self> {
        Self::find(session, wanted)?.with_context(|| {
            format!(
                "look for the table {}: there is none in {} that this user sees; check `url` and `table`",
                wanted.table, wanted.url
            )
        })
    }

    /// Makes it as ModeShape does.
    pub(super) fn create(session: &Session, wanted: &DocumentTable) -> anyhow::Result<()> {
        let name = &wanted.table.name;
        let schema = wanted.table.schema.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default();
        session.batch(
            &format!("make the table {}", wanted.table),
            &format!(
                "CREATE TABLE {schema}{name} (ID VARCHAR(255) PRIMARY KEY NOT NULL, \
                 LAST_CHANGED TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, CONTENT BYTEA NOT NULL)"
            ),
        )
    }

    /// Its name for a person.
    pub(super) fn shown(&self) -> String {
        self.quoted.replace('"', "")
    }

    pub(super) fn may_be_read(&self, session: &Session) -> anyhow::Result<()> {
        ensure!(
            self.has_right(session, "SELECT")?,
            "read {}: this user may not; run `GRANT SELECT ON {} TO …` as its owner",
            self.shown(),
            self.shown()
        );
        Ok(())
    }

    pub(super) fn may_be_written(&self, session: &Session) -> anyhow::Result<bool> {
        Ok(self.has_right(session, "INSERT")? && self.has_right(session, "DELETE")?)
    }

    fn has_right(&self, session: &Session, right: &str) -> anyhow::Result<bool> {
        let row = session.row("ask for rights", "SELECT has_table_privilege($1, $2)::text", &[&self.quoted, right])?;
        Ok(text(&row, 0)? == "true")
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
