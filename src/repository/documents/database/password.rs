//! The password for a database, from where operators keep it; read anew for every connection.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::ensure;

use crate::model::database::DatabaseUrl;
use crate::model::database::DocumentTable;
use crate::model::database::Host;
use crate::model::database::Server;

/// The password, if one is kept anywhere: a server may know us by something else.
pub(in crate::repository::documents) fn password(table: &DocumentTable) -> anyhow::Result<Option<String>> {
    if let Some(path) = &table.password_file {
        return password_in(path).map(Some);
    }
    let environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match table.url.server {
        Server::Mysql => Ok(environment("MYSQL_PWD")),
        Server::Postgres => {
            if let Some(password) = environment("PGPASSWORD") {
                return Ok(Some(password));
            }
            let named = environment("PGPASSFILE").map(PathBuf::from);
            let usual = || environment("HOME").map(|home| Path::new(&home).join(".pgpass"));
            named.or_else(usual).map_or(Ok(None), |path| from_pgpass(&path, &table.url))
        }
    }
}

/// The password in a file of its own.
pub(in crate::repository::documents) fn password_in(path: &Path) -> anyhow::Result<String> {
    let doing = || format!("read the password in `{}`", path.display());
    let text = fs::read_to_string(path).with_context(doing)?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    ensure!(!password.is_empty(), "{}: the file is empty; write the password into its first line", doing());
    ensure!(!password.contains('\n'), "{}: there is more than one line; leave the password alone in it", doing());
    Ok(password.to_owned())
}

/// The first line of a `.pgpass` that fits.
fn from_pgpass(path: &Path, url: &DatabaseUrl) -> anyhow::Result<Option<String>> {
    let doing = || format!("look for a password in `{}`", path.display());
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(doing)?,
    };
    let mode = fs::metadata(path).with_context(doing)?.mode();
    ensure!(mode.trailing_zeros() >= 6, "{}: others may read it; run `chmod 600` on it", doing());
    Ok(text.lines().find_map(|line| fits(line, url)))
}

/// The password in a line `host:port:database:user:password`, if the others are ours.
fn fits(line: &str, url: &DatabaseUrl) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let field = fields.last_mut()?;
        match character {
            '\\' => field.extend(characters.next()),
            ':' => fields.push(String::new()),
            other => field.push(other),
        }
    }
    let [host, port, database, user, password] = fields.as_slice() else { return None };
    let ours = match &url.host {
        Host::Network(host) => host.clone(),
        Host::Socket(_) => "localhost".to_owned(),
    };
    let same = |field: &str, ours: &str| field == "*" || field == ours;
    let fits = same(host, &ours)
        && same(port, &url.port.to_string())
        && same(database, &url.database)
        && same(user, &url.user);
    fits.then(|| password.clone())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        DatabaseUrl::parse(Server::Postgres, text).unwrap()
    }

    #[test]
    fn a_line_of_pgpass_fits_by_all_of_its_fields() {
        let ours = url("postgresql://u:@h:1/d".replace("u:", "u").as_str());
        for (line, found) in [
            ("h:1:d:u:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            (r"h:1:d:u:a\:b\\c", Some(r"a:b\c")),
            ("# h:1:d:u:secret", None),
            ("h:2:d:u:secret", None),
            ("h:1:d:v:secret", None),
            ("h:1:d:u", None),
            ("", None),
        ] {
            assert_eq!(fits(line, &ours).as_deref(), found, "{line}");
        }
        let socket = url("postgresql://u@/d?host=/run");
        assert_eq!(fits("localhost:5432:d:u:secret", &socket).as_deref(), Some("secret"));
    }

    #[test]
    fn a_pgpass_that_others_may_read_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("pgpass");
        let ours = url("postgresql://u@h:1/d");
        assert_eq!(from_pgpass(&path, &ours).unwrap(), None);
        fs::write(&path, "#\n*:*:*:other:x\nh:1:d:u:secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(format!("{:#}", from_pgpass(&path, &ours).unwrap_err()).contains("others may read it"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(from_pgpass(&path, &ours).unwrap().as_deref(), Some("secret"));
    }

    #[test]
    fn a_password_file_holds_one_line() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("password");
        for (text, expected) in [("secret\n", Some("secret")), ("a b", Some("a b")), ("", None), ("a\nb\n", None)] {
            fs::write(&path, text).unwrap();
            assert_eq!(password_in(&path).ok().as_deref(), expected, "{text:?}");
        }
    }
}
