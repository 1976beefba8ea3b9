//! The table as it is in the database, whatever the case of its name.

use anyhow::Context as _;
use anyhow::bail;
use anyhow::ensure;

use super::session::Session;
use super::session::Stop;
use crate::model::database::DocumentTable;

/// The table, with names that are fit for SQL.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Its schema and name, for a person.
    pub(super) shown: String,
    /// As it stands in SQL.
    pub(super) quoted: String,
    /// The column of ids, as it stands in SQL.
    pub(super) id: String,
    /// The column of documents, as it stands in SQL.
    pub(super) content: String,
    name: String,
}

impl Table {
    /// Finds it; none if there is no table of that name.
    pub(super) fn find(session: &mut Session, wanted: &DocumentTable, stop: Stop<'_>) -> anyhow::Result<Option<Self>> {
        let doing = || format!("look for the table {}", wanted.table);
        let schema = wanted.table.schema.as_ref().unwrap_or(&wanted.url.database);
        let found: Vec<(String, String, String, Option<String>)> = session.rows(
            stop,
            &doing(),
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = ? AND LOWER(TABLE_NAME) = LOWER(?) \
             ORDER BY BINARY TABLE_NAME = ? DESC, TABLE_NAME",
            (schema, &wanted.table.name, &wanted.table.name),
        )?;
        let Some((schema, name, kind, engine)) = found.into_iter().next() else { return Ok(None) };
        ensure!(kind == "BASE TABLE", "{}: {schema}.{name} is a view, not a table", doing());
        let engine = engine.unwrap_or_default();
        ensure!(
            engine == "InnoDB",
            "{}: {schema}.{name} is kept by {engine}, which has neither snapshots nor transactions; run \
             `ALTER TABLE {name} ENGINE = InnoDB`",
            doing()
        );
        let mut columns: Vec<(String, String)> = session.rows(
            stop,
            &doing(),
            "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND LOWER(COLUMN_NAME) IN ('id', 'content')",
            (&schema, &name),
        )?;
        columns.sort_by_key(|(name, _)| name.to_lowercase());
        let [(content, kind), (id, _)] = columns.as_slice() else {
            bail!("{}: {schema}.{name} has no columns ID and CONTENT; it is no table of ModeShape's", doing());
        };
        ensure!(kind.ends_with("blob"), "{}: its column {content} is {kind}, not longblob", doing());
        let quoted = format!("{}.{}", quoted(&schema), quoted(&name));
        let shown = format!("{schema}.{name}");
        Ok(Some(Self { shown, quoted, id: self::quoted(id), content: self::quoted(content), name }))
    }

    /// As [`find`](Self::find), for whoever needs it.
    pub(super) fn require(session: &mut Session, wanted: &DocumentTable, stop: Stop<'_>) -> anyhow::Result<Self> {
        Self::find(session, wanted, stop)?.with_context(|| {
            format!(
                "look for the table {}: there is none in {} that this user sees; check `url` and `table`",
                wanted.table, wanted.url
            )
        })
    }

    /// Makes it as ModeShape does; an empty table, of which others may know already.
    pub(super) fn create(session: &mut Session, wanted: &DocumentTable, stop: Stop<'_>) -> anyhow::Result<()> {
        let schema = wanted.table.schema.as_ref().map(|schema| format!("{}.", quoted(schema))).unwrap_or_default();
        session.run(
            stop,
            &format!("make the table {}", wanted.table),
            &format!(
                "CREATE TABLE {schema}{} (ID VARCHAR(255) CHARACTER SET utf8 COLLATE utf8_bin PRIMARY KEY NOT NULL, \
                 LAST_CHANGED TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, \
                 CONTENT LONGBLOB NOT NULL) ENGINE = InnoDB",
                quoted(&wanted.table.name)
            ),
        )
    }
}

/// The rights of this user to the database and the table in it; without those that come with roles.
pub(super) fn rights(session: &mut Session, table: Option<&Table>) -> anyhow::Result<Vec<String>> {
    let name = table.map(|table| table.name.clone()).unwrap_or_default();
    session.rows(
        &|| false,
        "ask for rights",
        "SELECT DISTINCT PRIVILEGE_TYPE FROM ( \
         SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES UNION \
         SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES WHERE DATABASE() LIKE TABLE_SCHEMA UNION \
         SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.TABLE_PRIVILEGES \
         WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?) granted \
         WHERE REPLACE(GRANTEE, '''', '') = CURRENT_USER()",
        (name,),
    )
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
