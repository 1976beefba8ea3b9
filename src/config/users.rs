//! The users file: who may log in, and what is kept of their passwords.
//!
//! It is read as strictly as the configuration. A change leaves everything else in the file as it stands, comments as
//! well, and is read back before anybody writes it.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::DeTable;
use toml_edit::{DocumentMut, Item, RawString, Table, TableLike, value};

use super::ConfigError;
use super::error::Source;
use super::value::{Complaint, FromText, Text};
use crate::model::account::{Account, Accounts, check_email};
use crate::model::password::PasswordHash;

/// How a users file begins.
const HEAD: &str = "\
# Who may start, stop and change things over HTTP. `holdfast passwd EMAIL` adds and changes entries, `--remove` takes
# them away; each change counts at once. No password stands here, only what can tell the right one.
";
const ALL: &str = "administrator";

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct UsersTable {
    administrator: BTreeMap<String, AccountTable>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct AccountTable {
    name: Option<Text<String>>,
    password: Text<PasswordHash>,
}

impl FromText for PasswordHash {
    const EXPECTED: &str = "the hash of a password, in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.parse().map_err(|error: crate::model::password::InvalidHash| {
            Complaint::new(error.to_string(), "set it with `holdfast passwd EMAIL`")
        })
    }
}

/// Reads the text of a users file; `file` is named in errors, and not looked at.
pub fn read_users(text: &str, file: &Path) -> Result<Accounts, ConfigError> {
    let source = Source { file, text };
    let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?.into_inner();
    let written: UsersTable = toml::from_str(text).map_err(|error| source.value(&error, &table))?;
    let place = |email: &str| {
        let all = table.get(ALL)?.get_ref().as_table()?;
        all.get_key_value(email).map(|(key, _)| key.span())
    };
    let mut accounts = Accounts::default();
    let mut problems = Vec::new();
    for (email, AccountTable { name, password }) in written.administrator {
        let span = place(&email);
        if let Err(error) = check_email(&email) {
            let way_out = format!("write the header as [{ALL}.\"ada@example.org\"]");
            problems.push(source.problem(span, error.to_string(), way_out));
            continue;
        }
        let account = Account { email: email.clone(), name: name.map(|Text(name)| name), password: password.0 };
        if let Some(other) = accounts.add(account) {
            let cause = format!("`{email}` and `{}` differ only in the case of letters", other.email);
            problems.push(source.problem(span, cause, "take one of them out".to_owned()));
        }
    }
    if problems.is_empty() { Ok(accounts) } else { Err(source.error(problems)) }
}

/// The text of a users file in which `account` stands, in the place of whoever had the address. Without a name, an
/// earlier one stays.
pub fn with_account(text: &str, file: &Path, account: &Account) -> Result<String, ConfigError> {
    let mut expected = read_users(text, file)?;
    let mut document = editable(text, file)?;
    let earlier = expected.find(&account.email).cloned();
    let name = account.name.clone().or_else(|| earlier.as_ref()?.name.clone());
    // As it is spelled there already, or it would stand there twice.
    let email = earlier.map_or_else(|| account.email.clone(), |earlier| earlier.email);
    let all = document.entry(ALL).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    if let Some(all) = all.as_table_like_mut() {
        if !all.contains_key(&email) {
            all.insert(&email, Item::Table(Table::new()));
        }
        if let Some(entry) = all.get_mut(&email).and_then(Item::as_table_like_mut) {
            if let Some(name) = &account.name {
                set(entry, "name", name);
            }
            set(entry, "password", &account.password.to_string());
        }
    }
    let head = if text.trim().is_empty() { HEAD } else { "" };
    expected.add(Account { email, name, password: account.password.clone() });
    let gap = if head.is_empty() { "" } else { "\n" };
    read_back(format!("{head}{gap}{document}"), file, &expected)
}

/// The text of a users file without somebody; none if nobody there has the address.
pub fn without_account(text: &str, file: &Path, email: &str) -> Result<Option<String>, ConfigError> {
    let mut expected = read_users(text, file)?;
    let Some(account) = expected.remove(email) else { return Ok(None) };
    let mut document = editable(text, file)?;
    let all = document.get_mut(ALL).and_then(Item::as_table_like_mut);
    let removed = all.and_then(|all| all.remove(&account.email));
    let prefix = removed.as_ref().and_then(Item::as_table).and_then(|table| table.decor().prefix()?.as_str());
    // What stands above the entry belongs to it up to the first empty line; what stands above that does not.
    let kept = prefix.and_then(|prefix| prefix.trim_end_matches('\n').rsplit_once("\n\n")).map(|(above, _)| above);
    let own = prefix.unwrap_or_default();
    let head = own.starts_with(HEAD).then_some(HEAD);
    if let Some(kept) = head.or(kept) {
        keep(&mut document, kept);
    }
    read_back(document.to_string(), file, &expected).map(Some)
}

fn set(entry: &mut dyn TableLike, key: &str, text: &str) {
    match entry.get_mut(key).and_then(Item::as_value_mut) {
        // With the comment behind it.
        Some(there) => {
            let decor = there.decor().clone();
            *there = text.into();
            *there.decor_mut() = decor;
        }
        None => drop(entry.insert(key, value(text))),
    }
}

/// Puts comments in front of the first entry that is left, or at the end.
fn keep(document: &mut DocumentMut, comments: &str) {
    let first = document.get_mut(ALL).and_then(Item::as_table_mut).and_then(|all| {
        let tables = all.iter_mut().filter_map(|(_, item)| item.as_table_mut());
        tables.min_by_key(|table| table.position())
    });
    let join = |behind: &str| format!("{}\n{behind}", comments.trim_end_matches('\n'));
    if let Some(first) = first {
        let behind = first.decor().prefix().and_then(RawString::as_str).unwrap_or("\n").to_owned();
        first.decor_mut().set_prefix(join(&behind));
    } else {
        let behind = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing(join(&behind));
    }
}

fn editable(text: &str, file: &Path) -> Result<DocumentMut, ConfigError> {
    text.parse().map_err(|error: toml_edit::TomlError| by_hand(file, error.message()))
}

/// A text that says what it should.
fn read_back(text: String, file: &Path, expected: &Accounts) -> Result<String, ConfigError> {
    match read_users(&text, file) {
        Ok(found) if found == *expected => Ok(text),
        _ => Err(by_hand(file, "it is written in a way that a program cannot change")),
    }
}

fn by_hand(file: &Path, cause: &str) -> ConfigError {
    ConfigError::of_file(
        file,
        cause.to_owned(),
        "give each administrator a header of its own: [administrator.\"EMAIL\"]",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw";
    const OTHER: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHR0$ygHEQAtcXPzFZ0VEQvSDIw";

    fn file() -> &'static Path {
        Path::new("users.toml")
    }

    fn account(email: &str, hash: &str) -> Account {
        Account { email: email.to_owned(), name: None, password: hash.parse().unwrap() }
    }

    fn two() -> String {
        let one = with_account("", file(), &account("ada@example.org", HASH)).unwrap();
        with_account(&one, file(), &account("grace@example.org", HASH)).unwrap()
    }

    #[test]
    fn administrators_are_added_at_the_end() {
        insta::assert_snapshot!(two(), @r#"
        # Who may start, stop and change things over HTTP. `holdfast passwd EMAIL` adds and changes entries, `--remove` takes
        # them away; each change counts at once. No password stands here, only what can tell the right one.

        [administrator."ada@example.org"]
        password = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw"

        [administrator."grace@example.org"]
        password = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw"
        "#);
    }

    #[test]
    fn a_new_password_leaves_everything_else_as_it_stands() {
        let text = format!(
            "# ours\n\n# the first\n[administrator.\"Ada@example.org\"] # on leave\nname = 'Ada' # Lovelace\n\
             password = \"{HASH}\" # of May\n\n[administrator]\n\"grace@example.org\" = {{ password = \"{HASH}\" }}\n"
        );
        let changed = with_account(&text, file(), &account("ada@EXAMPLE.org", OTHER)).unwrap();
        assert_eq!(changed, text.replacen(HASH, OTHER, 1));
        let named = Account { name: Some("Augusta".to_owned()), ..account("ada@example.org", HASH) };
        assert_eq!(with_account(&text, file(), &named).unwrap(), text.replace("'Ada'", "\"Augusta\""));
        let inline = with_account(&text, file(), &account("grace@example.org", OTHER)).unwrap();
        assert_eq!(inline.matches(OTHER).count(), 1);
    }

    #[test]
    fn whoever_is_taken_away_takes_their_own_comment_along() {
        let text = two().replace("\n[administrator.\"grace", "\n# until May\n[administrator.\"grace");
        let alone = without_account(&text, file(), "GRACE@example.org").unwrap().unwrap();
        assert!(!alone.contains("grace") && !alone.contains("May"), "{alone}");
        assert!(alone.starts_with(HEAD) && alone.contains("ada@"), "{alone}");
        let nobody = without_account(&alone, file(), "ada@example.org").unwrap().unwrap();
        assert!(nobody.starts_with(HEAD), "{nobody}");
        assert!(read_users(&nobody, file()).unwrap().is_empty());
        assert_eq!(without_account(&nobody, file(), "ada@example.org").unwrap(), None);
        let other = without_account(&text, file(), "ada@example.org").unwrap().unwrap();
        assert!(other.starts_with(HEAD) && other.contains("# until May\n[administrator.\"grace"), "{other}");
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_place() {
        for (text, message) in [
            ("[administrator.ada]\npassword = \"x\"\n".to_owned(), "users.toml:2:12: this is not the hash"),
            (
                format!("[administrator.ada]\npassword = \"{HASH}\"\n"),
                "users.toml:1:16: `ada` is not an e-mail address",
            ),
            ("[administrator.\"a@b\"]\nname = \"A\"\n".to_owned(), "[administrator.a@b] has no `password`"),
            ("[administrators]\n".to_owned(), "did you mean `administrator`?"),
            (format!("[administrator.\"a@b\"]\npassword = \"{HASH}\"\nrole = 1\n"), "unknown key `role`"),
            (
                format!(
                    "[administrator]\n\"a@b\" = {{ password = \"{HASH}\" }}\n\"A@b\" = {{ password = \"{HASH}\" }}\n"
                ),
                "differ only in the case of letters",
            ),
            ("[administrator\n".to_owned(), "users.toml:1"),
        ] {
            let error = read_users(&text, file()).unwrap_err().to_string();
            assert!(error.contains(message), "no `{message}` in:\n{error}");
            assert!(with_account(&text, file(), &account("c@d", HASH)).is_err(), "{text}");
        }
    }
}
