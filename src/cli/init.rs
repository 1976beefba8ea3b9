//! `holdfast init`: a first configuration.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::exit::{Exit, Usage};
use crate::cli::terminal;
use crate::config::{Config, init_text};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The root of the repository's binary store
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Where backups go: `s3://bucket/prefix` or `file:///directory`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Writes the file, never over another one.
pub(super) fn init(file: &Path, arguments: &Arguments) -> anyhow::Result<Exit> {
    let binaries = match &arguments.binaries {
        Some(path) => {
            let path = std::path::absolute(path).with_context(|| format!("find `{}`", path.display()))?;
            let text = path.into_os_string().into_string();
            Some(text.map_err(|path| {
                Usage::new(
                    format!("the path `{}` is not UTF-8, and a configuration is", path.display()),
                    "name the directory by a symbolic link",
                )
            })?)
        }
        None => None,
    };
    let text = init_text(binaries.as_deref(), arguments.url.as_deref());
    // What is given on the command line may be wrong; nothing is written then.
    Config::parse(&text, &std::path::absolute(file).context("find the configuration")?)?;
    write_new(file, &text)?;
    terminal::out(&next_steps(file, arguments))?;
    Ok(Exit::Succeeded)
}

fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let shown = file.display();
    let mut opened = match OpenOptions::new().write(true).create_new(true).mode(0o640).open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let way_out = "edit it, or name another file with `--config FILE`";
            return Err(Usage::new(format!("write `{shown}`: there is such a file already"), way_out).into());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = file.parent().unwrap_or(file).display();
            let way_out = format!("make it first: mkdir -p {parent}");
            return Err(Usage::new(format!("write `{shown}`: the directory does not exist"), way_out).into());
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let way_out = "run as a user who may write there, or name another file with `--config FILE`";
            return Err(Usage::new(format!("write `{shown}`: permission denied"), way_out).into());
        }
        Err(error) => return Err(error).with_context(|| format!("write `{shown}`")),
    };
    opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()).with_context(|| format!("write `{shown}`"))
}

fn next_steps(file: &Path, arguments: &Arguments) -> String {
    let shown = file.display();
    let option =
        if file == Path::new(crate::config::DEFAULT_FILE) { String::new() } else { format!(" --config {shown}") };
    let edit = if arguments.binaries.is_some() && arguments.url.is_some() {
        String::new()
    } else {
        format!("  edit {shown}: say where the repository is, and where backups go\n")
    };
    format!(
        "wrote {shown}\n\nnext:\n{edit}  \
           holdfast check{option}              says whether all is in place\n  \
           holdfast run copy.binaries{option}  makes the first restore point\n  \
           holdfast points{option}             lists what can be restored\n"
    )
}
