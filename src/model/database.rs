//! A table of documents: where its database is, as a URL says that holds no password, and its name there.

use std::fmt;
use std::path::PathBuf;

use crate::model::url::Invalid;
use crate::model::url::NO_PASSWORD;
use crate::model::url::decoded;
use crate::model::url::host_and_port;
use crate::model::url::invalid;
use crate::model::url::is_this_machine;

/// What kind of server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB.
    Mysql,
}

/// Whether what goes over the network is encrypted, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    Never,
    /// If the server can, whoever it is.
    IfOffered,
    /// Always, for whoever the server is.
    Always,
    /// Always, for a server with a certificate that is vouched for, by whatever name.
    ForVouchedFor,
    /// Always, for a server with a certificate that is vouched for, and has its name.
    ForNamed,
}

/// The end of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A machine, by name or address.
    Network(String),
    /// A socket on this machine: for PostgreSQL the directory it lies in.
    Socket(PathBuf),
}

/// A table of documents, as ModeShape keeps them: an id, and the BSON of the document, gzip-compressed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentTable {
    /// The database.
    pub url: DatabaseUrl,
    /// The table.
    pub table: TableName,
    /// A file that holds the password and nothing else; none to take it from where the client programs of the server
    /// take it from.
    pub password_file: Option<PathBuf>,
    /// Whether documents are written gzip-compressed, as ModeShape's own setting `compress` has it; none for as most are
    /// that are there.
    pub compress: Option<bool>,
}

/// A database, and who we are in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// What kind of server it is.
    pub server: Server,
    /// The user.
    pub user: String,
    /// Where the server is.
    pub host: Host,
    /// Its port; for a socket of PostgreSQL a part of its name.
    pub port: u16,
    /// The database.
    pub database: String,
    /// Whether the connection is encrypted.
    pub encryption: Encryption,
    /// Who vouches for the server, as PEM; none for those whom this machine trusts.
    pub root_certificate: Option<PathBuf>,
}

impl Server {
    fn example(self) -> &'static str {
        match self {
            Self::Postgres => "write \"postgresql://USER@HOST/DATABASE\"",
            Self::Mysql => "write \"mysql://USER@HOST/DATABASE\"",
        }
    }

    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["postgresql://", "postgres://"],
            Self::Mysql => &["mysql://", "mariadb://"],
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::Mysql => 3306,
        }
    }

    /// The parameters: for encryption, for the certificate, for the socket.
    fn parameters(self) -> [&'static str; 3] {
        match self {
            Self::Postgres => ["sslmode", "sslrootcert", "host"],
            Self::Mysql => ["ssl-mode", "ssl-ca", "socket"],
        }
    }

    /// The client for MySQL cannot look at who vouches for a server and not at its name.
    fn modes(self) -> &'static [(&'static str, Encryption)] {
        match self {
            Self::Postgres => &[
                ("disable", Encryption::Never),
                ("prefer", Encryption::IfOffered),
                ("require", Encryption::Always),
                ("verify-ca", Encryption::ForVouchedFor),
                ("verify-full", Encryption::ForNamed),
            ],
            Self::Mysql => &[
                ("DISABLED", Encryption::Never),
                ("PREFERRED", Encryption::IfOffered),
                ("REQUIRED", Encryption::Always),
                ("VERIFY_IDENTITY", Encryption::ForNamed),
            ],
        }
    }
}

impl DatabaseUrl {
    /// Reads a URL such as `postgresql://fcrepo@127.0.0.1/fcrepo?sslmode=verify-full`.
    pub fn parse(server: Server, text: &str) -> Result<Self, Invalid> {
        let rest = server.schemes().iter().find_map(|scheme| text.strip_prefix(scheme));
        let Some(rest) = rest else {
            let cause = if text.starts_with("jdbc:") { "a URL for Java" } else { "not the URL of such a database" };
            // It may hold a password, so that it is not shown.
            return invalid(format!("the url is {cause}"), server.example());
        };
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            return invalid("there is a password in the url", NO_PASSWORD);
        }
        let (host, port) = host_and_port(place, server.port(), server.example())?;
        let [user, database] = [user, database].map(decoded);
        let (Some(user), Some(database)) = (user, database) else {
            return invalid("an escape in the url is none", "write `%` as `%25`");
        };
        if user.is_empty() {
            return invalid("the url names no user", server.example());
        }
        if database.is_empty() || database.contains('/') {
            return invalid("the url names no database", server.example());
        }
        let mut url = Self {
            server,
            user,
            host: Host::Network(host),
            port,
            database,
            encryption: Encryption::IfOffered,
            root_certificate: None,
        };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            url.take(parameter)?;
        }
        if url.encryption == Encryption::Always && url.root_certificate.is_some() {
            // Who names somebody to vouch for the server wants that to be checked, as the servers' own clients have it.
            url.encryption = match server {
                Server::Postgres => Encryption::ForVouchedFor,
                Server::Mysql => Encryption::ForNamed,
            };
        }
        match &url.host {
            Host::Network(name) if name.is_empty() => invalid("the url names no host", server.example()),
            _ => Ok(url),
        }
    }

    fn take(&mut self, parameter: &str) -> Result<(), Invalid> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if matches!(name, "password" | "passwd" | "passfile" | "sslpassword") {
            return invalid(format!("there is a `{name}` in the url"), NO_PASSWORD);
        }
        let [mode, certificate, socket] = self.server.parameters();
        let Some(value) = decoded(value).filter(|value| !value.is_empty()) else {
            return invalid(format!("`{name}` in the url has no value"), format!("take it out, or write {name}=…"));
        };
        if name == mode {
            let known = self.server.modes();
            let Some((_, meant)) = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(&value)) else {
                let known = known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                return invalid(format!("`{mode}={value}` is not supported"), format!("write one of: {known}"));
            };
            self.encryption = *meant;
        } else if name == certificate {
            self.root_certificate = (value != "system").then(|| PathBuf::from(value));
        } else if name == socket {
            if !value.starts_with('/') || self.host != Host::Network(String::new()) {
                let example = format!("write {}USER@/DATABASE?{socket}=/PATH", self.server.schemes()[0]);
                return invalid(format!("`{socket}` in the url is for a socket, without a host before it"), example);
            }
            self.host = Host::Socket(PathBuf::from(value));
        } else {
            let known = self.server.parameters().join(", ");
            return invalid(format!("there is no parameter `{name}`"), format!("take it out; there are {known}"));
        }
        Ok(())
    }

    /// Whether others may be on the way to the server.
    pub fn is_local(&self) -> bool {
        match &self.host {
            Host::Socket(_) => true,
            Host::Network(host) => is_this_machine(host),
        }
    }
}

/// Without what is a matter of encryption.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, user, host, port, database, .. } = self;
        write!(f, "{}{user}@", server.schemes()[0])?;
        match host {
            Host::Network(host) if host.contains(':') => write!(f, "[{host}]:{port}/{database}"),
            Host::Network(host) => write!(f, "{host}:{port}/{database}"),
            Host::Socket(path) => write!(f, "/{database}?{}={}", server.parameters()[2], path.display()),
        }
    }
}

/// A table, by a name that needs no quotes in SQL: it is looked for in upper and lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// The schema it lies in; none for the one that the server looks in first.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
}

impl TableName {
    /// Reads `modeshape_repository` or `schema.modeshape_repository`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let sound = |part: &str| {
            let first = part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            first && part.len() <= 63 && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$'))
        };
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        if !sound(name) || !schema.is_none_or(sound) {
            return invalid(
                format!("`{}` cannot be the name of a table", text.escape_debug()),
                "write it without quotes: letters, digits and `_`, such as \"modeshape_repository\"",
            );
        }
        Ok(Self { schema: schema.map(str::to_owned), name: name.to_owned() })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.schema.iter().try_for_each(|schema| write!(f, "{schema}."))?;
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DatabaseUrl, String> {
        let server = if text.starts_with("mysql") { Server::Mysql } else { Server::Postgres };
        DatabaseUrl::parse(server, text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_says_where_a_database_is_and_how_to_get_there() {
        for (text, shown, encryption) in [
            (
                "postgresql://fcrepo@127.0.0.1/fcrepo",
                "postgresql://fcrepo@127.0.0.1:5432/fcrepo",
                Encryption::IfOffered,
            ),
            ("postgres://a%40b@db.example:1/x?sslmode=require", "postgresql://a@b@db.example:1/x", Encryption::Always),
            ("postgresql://u@[::1]:5/x?sslmode=disable", "postgresql://u@[::1]:5/x", Encryption::Never),
            (
                "postgresql://u@/x?host=/run/pg&sslmode=verify-ca",
                "postgresql://u@/x?host=/run/pg",
                Encryption::ForVouchedFor,
            ),
            (
                "postgresql://u@h/x?sslmode=verify-full&sslrootcert=ca.pem",
                "postgresql://u@h:5432/x",
                Encryption::ForNamed,
            ),
            ("postgresql://u@h/x?sslrootcert=ca&sslmode=require", "postgresql://u@h:5432/x", Encryption::ForVouchedFor),
            ("mysql://u@h/x?ssl-mode=required&ssl-ca=ca.pem", "mysql://u@h:3306/x", Encryption::ForNamed),
            (
                "postgresql://u@h/x?sslmode=require&sslrootcert=ca.pem",
                "postgresql://u@h:5432/x",
                Encryption::ForVouchedFor,
            ),
            ("mysql://u@h/x?ssl-mode=VERIFY_IDENTITY", "mysql://u@h:3306/x", Encryption::ForNamed),
            ("mysql://u@/x?socket=/run/mysqld.sock", "mysql://u@/x?socket=/run/mysqld.sock", Encryption::IfOffered),
        ] {
            let url = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.to_string().as_str(), url.encryption), (shown, encryption), "{text}");
        }
        assert!(parse("postgresql://u@localhost/x").unwrap().is_local());
        assert!(parse("postgresql://u@127.9.9.9/x").unwrap().is_local());
        assert!(parse("postgresql://u@/x?host=/run").unwrap().is_local());
        assert!(!parse("postgresql://u@db/x").unwrap().is_local());
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_showing_a_password() {
        for (text, cause) in [
            ("jdbc:postgresql://h/x?password=hush", "the url is a URL for Java"),
            ("http://u:hush@h/x", "the url is not the URL of such a database"),
            ("postgresql://u:hush@h/x", "there is a password in the url"),
            ("postgresql://u:hu@sh@h/x", "there is a password in the url"),
            ("postgresql://u@h/x?password=hush", "there is a `password` in the url"),
            ("postgresql://h/x", "the url names no user"),
            ("postgresql://u@/x", "the url names no host"),
            ("postgresql://u@h", "the url names no database"),
            ("postgresql://u@h/", "the url names no database"),
            ("postgresql://u@h/x/y", "the url names no database"),
            ("postgresql://u@h:0/x", "`0` is no port"),
            ("postgresql://u@h:x/x", "`x` is no port"),
            ("postgresql://u@h,i/x", "`h,i` is no host"),
            ("postgresql://u%zz@h/x", "an escape in the url is none"),
            ("postgresql://u@h/x?sslmode=allow", "`sslmode=allow` is not supported"),
            ("postgresql://u@h/x?sslmode", "`sslmode` in the url has no value"),
            ("postgresql://u@h/x?options=-c", "there is no parameter `options`"),
            ("postgresql://u@h/x?host=/run", "`host` in the url is for a socket, without a host before it"),
            ("mysql://u@h/x?sslmode=require", "there is no parameter `sslmode`"),
            ("mysql://u@h/x?ssl-mode=VERIFY_CA", "`ssl-mode=VERIFY_CA` is not supported"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("{cause} (")), "{text}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_table_has_a_name_that_needs_no_quotes() {
        for text in ["MODESHAPE_REPOSITORY", "modeshape_repository", "fedora.modeshape$1", "_x"] {
            assert_eq!(TableName::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "a b", "a\"b", "a;drop", "1a", ".a", "a.", "a.b.c", "ä", &"x".repeat(64)] {
            assert!(TableName::parse(text).is_err(), "{text}");
        }
    }
}
