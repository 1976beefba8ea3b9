//! A Fedora that makes backups and takes them back on request: where it is, and the directory that both see.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::url::Invalid;
use crate::model::url::NO_PASSWORD;
use crate::model::url::decoded;
use crate::model::url::host_and_port;
use crate::model::url::invalid;
use crate::model::url::is_this_machine;

/// What a URL looks like, for all who wrote something else.
const EXAMPLE: &str = "write \"http://USER@HOST:8080/rest\", the address of Fedora's REST interface";

/// A Fedora, and how to ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FedoraServer {
    /// The root of its REST interface.
    pub url: FedoraUrl,
    /// A directory for backups on their way, which Fedora can write and we can read, or the other way round.
    pub staging: PathBuf,
    /// The same directory as Fedora calls it: in a container it may have another name.
    pub staging_in_fedora: PathBuf,
    /// A file that holds the password of the user in `url` and nothing else.
    pub password_file: Option<PathBuf>,
    /// Who vouches for the server, as PEM; none for those whom this machine trusts.
    pub root_certificate: Option<PathBuf>,
    /// How long a backup or a restore may take it.
    pub timeout: Duration,
}

/// Where a Fedora is, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FedoraUrl {
    /// Whether the connection is encrypted, for a server that proves to be who it says.
    pub encrypted: bool,
    /// The user, if Fedora asks for one.
    pub user: Option<String>,
    /// The machine, by name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path of the REST interface, without a slash at its end: `/rest`.
    pub path: String,
}

impl FedoraUrl {
    /// Reads a URL such as `http://fedoraAdmin@127.0.0.1:8080/rest`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let schemes = [("http://", false, 80), ("https://", true, 443)];
        let known = schemes
            .into_iter()
            .find_map(|(scheme, encrypted, port)| text.strip_prefix(scheme).map(|rest| (rest, encrypted, port)));
        let Some((rest, encrypted, usual)) = known else {
            return invalid("the url is not one of a Fedora", EXAMPLE);
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return invalid("there is a password in the url", NO_PASSWORD);
        }
        let user = match user.map(decoded) {
            Some(None) => return invalid("an escape in the url is none", "write `%` as `%25`"),
            // A name with a colon cannot be told from its password.
            Some(Some(user)) if user.is_empty() || user.contains(':') => {
                return invalid("the url names no user before its `@`", EXAMPLE);
            }
            user => user.flatten(),
        };
        let (host, port) = host_and_port(place, usual, EXAMPLE)?;
        if host.is_empty() {
            return invalid("the url names no host", EXAMPLE);
        }
        let path = path.trim_end_matches('/');
        if !path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'\\' | b'"')) {
            return invalid("there is more in the url than where Fedora is", EXAMPLE);
        }
        if let Some((root, call)) = path.rsplit_once("/fcr:") {
            return invalid(
                format!("`fcr:{call}` is a call, and the url is its root"),
                format!("end it with `{root}`"),
            );
        }
        Ok(Self { encrypted, user, host, port, path: path.to_owned() })
    }

    /// Host and port, as a request names them.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether others may be on the way to the server.
    pub fn is_local(&self) -> bool {
        is_this_machine(&self.host)
    }
}

impl fmt::Display for FedoraUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.encrypted { "s" } else { "" }, self.authority(), self.path)
    }
}

impl FedoraServer {
    /// What Fedora calls a directory below `staging`.
    pub fn name_in_fedora(&self, directory: &Path) -> PathBuf {
        directory
            .strip_prefix(&self.staging)
            .map_or_else(|_| directory.to_owned(), |below| self.staging_in_fedora.join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_fedora_is_and_who_we_are_to_it() {
        for (text, shown, user) in [
            ("http://127.0.0.1:8080/rest", "http://127.0.0.1:8080/rest", None),
            ("http://fedoraAdmin@f.example/fcrepo/rest/", "http://f.example:80/fcrepo/rest", Some("fedoraAdmin")),
            ("https://a%40b@[::1]/rest", "https://[::1]:443/rest", Some("a@b")),
            ("http://localhost", "http://localhost:80", None),
        ] {
            let url = FedoraUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.to_string().as_str(), url.user.as_deref()), (shown, user), "{text}");
        }
        assert!(FedoraUrl::parse("http://localhost/rest").unwrap().is_local());
        assert!(!FedoraUrl::parse("http://fedora/rest").unwrap().is_local());
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_showing_a_password() {
        for (text, cause) in [
            ("127.0.0.1:8080/rest", "the url is not one of a Fedora"),
            ("ftp://u:hush@h/rest", "the url is not one of a Fedora"),
            ("http://u:hush@h/rest", "there is a password in the url"),
            ("http://u:hu@sh@h/rest", "there is a password in the url"),
            ("http://@h/rest", "the url names no user before its `@`"),
            ("http://u%3Av@h/rest", "the url names no user before its `@`"),
            ("http://u%zz@h/rest", "an escape in the url is none"),
            ("http://u@/rest", "the url names no host"),
            ("http://h:0/rest", "`0` is no port"),
            ("http://h,i/rest", "`h,i` is no host"),
            ("http://h/rest?x=y", "there is more in the url than where Fedora is"),
            ("http://h/rest#x", "there is more in the url than where Fedora is"),
            ("http://h/a b", "there is more in the url than where Fedora is"),
            ("http://h/rest/fcr:backup", "`fcr:backup` is a call, and the url is its root"),
        ] {
            let error = FedoraUrl::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{cause} (")), "{text}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_directory_has_the_name_that_fedora_knows_it_by() {
        let server = FedoraServer {
            url: FedoraUrl::parse("http://h/rest").unwrap(),
            staging: "/srv/staging".into(),
            staging_in_fedora: "/io".into(),
            password_file: None,
            root_certificate: None,
            timeout: Duration::from_secs(1),
        };
        assert_eq!(server.name_in_fedora(Path::new("/srv/staging/x")), Path::new("/io/x"));
    }
}
