//! Administrators, by e-mail address: who may start, stop and change things from outside.

use std::collections::BTreeMap;

use crate::model::password::PasswordHash;

/// The longest e-mail address there is.
const MAX_EMAIL: usize = 254;

/// Somebody who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The e-mail address, as it was given.
    pub email: String,
    /// What the administrator is called, if not by that.
    pub name: Option<String>,
    /// What is kept of the password.
    pub password: PasswordHash,
}

impl Account {
    /// What the administrator is called.
    pub fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.email)
    }
}

/// Everybody who may log in. The case of letters makes no difference in an e-mail address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts(BTreeMap<String, Account>);

/// The text is not an e-mail address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not an e-mail address", .0.escape_debug())]
pub struct InvalidEmail(String);

/// Refuses what is not an e-mail address: it is shown, logged, and compared, never written to.
pub fn check_email(text: &str) -> Result<(), InvalidEmail> {
    let parts = text.split_once('@');
    let sound = parts.is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'));
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\' | '`');
    if sound && text.len() <= MAX_EMAIL && !text.contains(odd) { Ok(()) } else { Err(InvalidEmail(text.to_owned())) }
}

/// What e-mail addresses are compared by.
pub fn same_email(email: &str) -> String {
    email.to_lowercase()
}

impl Accounts {
    /// Whose address that is.
    pub fn find(&self, email: &str) -> Option<&Account> {
        self.0.get(&same_email(email))
    }

    /// Adds somebody; gives whom it takes the place of.
    pub fn add(&mut self, account: Account) -> Option<Account> {
        self.0.insert(same_email(&account.email), account)
    }

    /// Takes somebody away; gives whom.
    pub fn remove(&mut self, email: &str) -> Option<Account> {
        self.0.remove(&same_email(email))
    }

    /// All of them, by address.
    pub fn all(&self) -> impl Iterator<Item = &Account> {
        self.0.values()
    }

    /// Whether nobody may log in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_two_sides_and_nothing_odd() {
        for (text, sound) in [
            ("ada@example.org", true),
            ("ada.lovelace+backup@example.org", true),
            ("ada@localhost", true),
            ("müller@example.org", true),
            ("ada", false),
            ("@example.org", false),
            ("ada@", false),
            ("ada@example@org", false),
            ("ada @example.org", false),
            ("ada@example.org\n", false),
            ("\"ada\"@example.org", false),
            ("", false),
        ] {
            assert_eq!(check_email(text).is_ok(), sound, "{text:?}");
        }
        assert!(check_email(&format!("{}@example.org", "a".repeat(250))).is_err());
    }

    #[test]
    fn the_case_of_letters_makes_no_difference() {
        let password: PasswordHash = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw".parse().unwrap();
        let mut accounts = Accounts::default();
        assert!(accounts.is_empty());
        let account = Account { email: "Ada@Example.org".to_owned(), name: None, password };
        assert_eq!(accounts.add(account.clone()), None);
        assert_eq!(accounts.find("ada@example.ORG"), Some(&account));
        assert_eq!(account.display_name(), "Ada@Example.org");
        assert_eq!(accounts.add(Account { email: "ada@example.org".to_owned(), ..account.clone() }), Some(account));
        assert!(accounts.remove("ADA@example.org").is_some());
        assert!(accounts.is_empty());
    }
}
