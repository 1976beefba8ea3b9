//! `holdfast passwd`: who may start and stop things over HTTP.

use std::io::{BufRead as _, IsTerminal as _};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{Exit, Usage};
use crate::cli::{terminal, users};
use crate::config::{Config, read_users, with_account, without_account};
use crate::jobs::context::Cancelled;
use crate::model::account::{Account, check_email};
use crate::model::password::check_password;
use crate::service::access::hash;
use crate::service::signals::Signals;

/// No line that is a password is longer; whoever sends more does not send a password.
const LINE_LIMIT: u64 = 64 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The e-mail address that the administrator logs in with
    #[arg(value_name = "EMAIL")]
    email: String,
    /// What the administrator is called; an earlier name stays
    #[arg(long, value_name = "NAME", conflicts_with = "remove")]
    name: Option<String>,
    /// Take the administrator away
    #[arg(long)]
    remove: bool,
}

pub(super) async fn passwd(config: Arc<Config>, arguments: Arguments) -> anyhow::Result<Exit> {
    let email = arguments.email;
    if let Err(error) = check_email(&email) {
        return Err(
            Usage::new(error.to_string(), "name the administrator by an address such as ada@example.org").into()
        );
    }
    if arguments.remove {
        return remove(&config, &email);
    }
    if arguments.name.as_ref().is_some_and(|name| name.trim() != name || name.chars().any(char::is_control)) {
        return Err(Usage::new("the name begins or ends with a space, or is not one line", "take that out").into());
    }
    let signals = Signals::listen()?;
    let password = ask(&email, &signals.stop()).await?;
    if let Err(error) = check_password(&password) {
        return Err(Usage::new(error.to_string(), "choose another; a few words that do not go together do well").into());
    }
    let (name, path) = (arguments.name, config.service.users.clone());
    let mut there = false;
    users::change(&path, &config.file, |text| {
        there = read_users(text, &path)?.find(&email).is_some();
        let password = hash(&password)?;
        Ok(Some(with_account(text, &path, &Account { email: email.clone(), name, password })?))
    })?;
    let done =
        if there { "the password is set; who was logged in with the old one no longer is" } else { "may log in" };
    terminal::out(&format!("{email}: {done}\n"))?;
    Ok(Exit::Succeeded)
}

fn remove(config: &Config, email: &str) -> anyhow::Result<Exit> {
    let path = &config.service.users;
    let removed = users::change(path, &config.file, |text| Ok(without_account(text, path, email)?))?;
    if !removed {
        let known = users::accounts(path)?;
        let known: Vec<&str> = known.all().map(|account| account.email.as_str()).collect();
        let hint =
            if known.is_empty() { "there are none".to_owned() } else { format!("they are {}", known.join(", ")) };
        return Err(Usage::new(format!("there is no administrator `{email}`"), hint).into());
    }
    terminal::out(&format!("{email}: may no longer log in, and is logged out\n"))?;
    Ok(Exit::Succeeded)
}

/// The password: typed twice by a person, or one line of what a program sends.
async fn ask(email: &str, stop: &CancellationToken) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return line(stop).await;
    }
    let _quiet = Quiet::begin()?;
    terminal::note(format_args!("Password for {email}:"));
    let first = line(stop).await?;
    if let Err(error) = check_password(&first) {
        return Err(Usage::new(error.to_string(), "choose another; a few words that do not go together do well").into());
    }
    terminal::note("Once more:");
    if line(stop).await? != first {
        return Err(Usage::new("the two are not the same", "try again; nothing was changed").into());
    }
    Ok(first)
}

/// A line of standard input. To be asked to stop is a no.
async fn line(stop: &CancellationToken) -> anyhow::Result<String> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = Vec::new();
        let mut input = std::io::Read::take(std::io::stdin().lock(), LINE_LIMIT);
        input.read_until(b'\n', &mut line).map(|_| line)
    });
    let mut line = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Cancelled.into()),
        line = read => line.context("wait for the password")?.context("read the password from standard input")?,
    };
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| Usage::new("the password is not UTF-8", "choose another").into())
}

/// What is typed is not shown while this lives.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("look at the terminal")?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).context("have the terminal not show what is typed")?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0).unwrap_or_default();
    }
}
