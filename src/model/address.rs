//! Where a service listens: an address of the network, or a socket in the file system.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `127.0.0.1:8480`.
    Tcp(SocketAddr),
    /// `unix:/run/holdfast/http.sock`.
    Unix(PathBuf),
}

impl Address {
    /// What the text of a socket in the file system begins with.
    pub const UNIX: &str = "unix:";

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// As the configuration spells it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}{}", Self::UNIX, path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (address, local) in [
            ("127.0.0.1:8480", true),
            ("127.8.0.1:1", true),
            ("[::1]:8480", true),
            ("[::ffff:127.0.0.1]:8480", true),
            ("0.0.0.0:8480", false),
            ("[::]:8480", false),
            ("192.168.1.2:8480", false),
        ] {
            assert_eq!(Address::Tcp(address.parse().unwrap()).is_local(), local, "{address}");
        }
        assert!(Address::Unix("/run/holdfast/http.sock".into()).is_local());
    }
}
