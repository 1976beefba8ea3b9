//! Administrators: who they are, and the tokens that they log in for.

use jiff::Timestamp;

use super::http::Peer;

/// Who may start, stop and change things; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Access(());

/// An administrator who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What proves it from now on.
    pub token: String,
    /// The administrator.
    pub email: String,
    /// What the administrator is called.
    pub display_name: String,
    /// When the token ends.
    pub expires: Timestamp,
}

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginRefusal {
    /// There is no such administrator, or the password is another; which of the two is not told.
    #[error("the e-mail address or the password is wrong")]
    Wrong,
}

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Administrator {
    /// The e-mail address.
    pub email: String,
}

impl Access {
    /// Logs an administrator in.
    #[expect(clippy::unused_async, reason = "there are no administrators yet")]
    pub async fn login(&self, _email: &str, _password: &str, _from: Peer) -> Result<Login, LoginRefusal> {
        Err(LoginRefusal::Wrong)
    }

    /// Whose token that is: nobody's if it is unknown or has expired.
    #[expect(clippy::unused_async, reason = "there are no administrators yet")]
    pub async fn administrator(&self, _token: &str) -> anyhow::Result<Option<Administrator>> {
        Ok(None)
    }

    /// Ends a token; whether there was one.
    #[expect(clippy::unused_async, reason = "there are no administrators yet")]
    pub async fn logout(&self, _token: &str) -> anyhow::Result<bool> {
        Ok(false)
    }
}
