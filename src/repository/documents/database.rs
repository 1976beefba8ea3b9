//! Documents in a table of a database: what is the same for all of them.

mod content;
mod intake;
mod password;
mod tls;
mod wait;

pub(super) use content::Compression;
pub(super) use content::compression_of;
pub(super) use content::gzip;
pub(super) use intake::Intake;
pub(super) use password::password;
pub(super) use password::password_in;
pub(super) use tls::client_config;
pub(super) use tls::trusted_certificates;
pub(super) use wait::lasting;
pub(super) use wait::within;

/// A connection to the database that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherConnection {
    /// What the other program calls itself; empty if it does not say.
    pub application: String,
    /// The user.
    pub user: String,
    /// Where it comes from; empty if that cannot be seen, or if it is a socket.
    pub from: String,
}

/// What a look at a table finds out before it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableReport {
    /// The server and its version, in words.
    pub server: String,
    /// The table as it is called there; none if there is none.
    pub table: Option<String>,
    /// How many documents it holds.
    pub documents: u64,
    /// Whether a restore may write it, or make it.
    pub writable: bool,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

impl std::fmt::Display for OtherConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { application, user, from } = self;
        f.write_str(if application.is_empty() { "a program without a name" } else { application })?;
        write!(f, " of the user {user}")?;
        if from.is_empty() { Ok(()) } else { write!(f, " from {from}") }
    }
}

/// The end of the id of the document that names the workspaces. ModeShape writes it last.
const METADATA: &str = "317f1e7jcr:system/mode:metadata";
/// The largest document that is read as one; what is larger is kept as it is.
pub(super) const CONTENT_LIMIT: usize = super::lines::LINE_LIMIT;
/// How much of something larger is read at once.
pub(super) const PIECE_BYTES: usize = 1 << 20;
