//! Logins that have not expired, so that they outlast a restart; the service decides about them in memory.

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::{Row, params};

use super::Ledger;
use crate::model::digest::Digest;

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The SHA-256 of the token, which itself is kept nowhere.
    pub token: Digest,
    /// Whose it is.
    pub email: String,
    /// The SHA-256 of the password's hash at the time: with another password the session is over.
    pub proof: Digest,
    /// When it ends.
    pub expires: Timestamp,
}

impl Ledger {
    /// The sessions that are on record. A row that is none is passed over: at worst somebody logs in again.
    pub fn sessions(&self) -> anyhow::Result<Vec<Session>> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT token, email, proof, expires FROM sessions")?;
        let read = |row: &Row<'_>| {
            let digest = |column: usize| Digest::from_bytes(&row.get::<_, Vec<u8>>(column).ok()?);
            let (email, expires): (String, String) = (row.get(1).ok()?, row.get(3).ok()?);
            Some(Session { token: digest(0)?, email, proof: digest(2)?, expires: expires.parse().ok()? })
        };
        let rows = statement.query_map([], |row| Ok(read(row)))?;
        rows.filter_map(Result::transpose).collect::<Result<_, _>>().context("read the sessions")
    }

    /// Records a login, and that others have ended; both or neither.
    pub fn change_sessions(&self, begun: Option<&Session>, ended: &[Digest]) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let change = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            for token in ended {
                transaction.execute("DELETE FROM sessions WHERE token = ?", [token.as_bytes()])?;
            }
            if let Some(Session { token, email, proof, expires }) = begun {
                transaction.execute(
                    "INSERT OR REPLACE INTO sessions (token, email, proof, expires) VALUES (?, ?, ?, ?)",
                    params![token.as_bytes(), email, proof.as_bytes(), expires.to_string()],
                )?;
            }
            transaction.commit()
        };
        let mut change = change;
        change().context("record who is logged in")
    }
}
