//! The command line: the subcommands, progress on the terminal, and exit statuses.

mod aside;
mod check;
mod confirm;
mod demo;
mod destination;
mod diff;
mod documents;
mod exit;
mod fcr;
mod foreground;
mod history;
mod init;
mod locate;
mod passwd;
mod points;
mod progress;
mod reload;
mod remote;
mod restore;
mod run;
mod serve;
mod session;
mod site;
mod status;
mod summary;
mod table;
mod terminal;
mod text;
mod url;
mod users;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::cli::exit::Exit;
use crate::config::{Config, ConfigError, DEFAULT_FILE};

/// A run spends its time waiting for the network; more threads would only wait as well.
const MAX_WORKERS: usize = 4;
/// Threads that still do file work when everything is said get this long.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Backs up, copies, verifies and restores content-addressed repositories
#[derive(Debug, Parser)]
#[command(name = "holdfast", version)]
#[command(after_help = "Exit status: 0 succeeded, 1 failed, 2 usage or configuration, 3 partial, 4 cancelled.")]
struct Arguments {
    /// The configuration
    #[arg(long, global = true, value_name = "FILE", env = "HOLDFAST_CONFIG", hide_env_values = true, default_value = DEFAULT_FILE)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run as a service: by the schedule, on changes, and on request
    Serve,
    /// Run one job now, in the foreground: copy.NAME or backup.NAME
    Run(run::Arguments),
    /// List the restore points and archives
    Points(points::Arguments),
    /// Bring a repository, or parts of it, back from a restore point or an archive
    Restore(restore::Arguments),
    /// Read restore points and archives back and check them
    Verify(verify::Arguments),
    /// Print the documents of a restore point or an archive as JSON lines
    Documents(documents::Arguments),
    /// Say how two restore points or archives differ
    Diff(diff::Arguments),
    /// List the runs, newest first
    History(history::Arguments),
    /// Show what the running service is at
    Status(status::Arguments),
    /// Have the running service read its configuration again; fails if that is refused
    Reload,
    /// Check the configuration, permissions, limits, and what each destination can do
    Check(check::Arguments),
    /// Add an administrator, who may start and stop things over HTTP, or set the password
    Passwd(passwd::Arguments),
    /// Write a first configuration to the file named by --config
    Init(init::Arguments),
    /// Show the whole story on a sample repository; needs no configuration, no S3 and no root
    Demo(demo::Arguments),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // If it cannot be printed there is nobody to tell; the status still says it.
            drop(error.print());
            return Exit::of_usage(error.use_stderr()).into();
        }
    };
    match arguments.obey() {
        Ok(exit) => exit.into(),
        Err(error) => Exit::explain(&error).into(),
    }
}

impl Arguments {
    fn obey(self) -> anyhow::Result<Exit> {
        let file = self.config;
        match self.command {
            Command::Demo(arguments) => in_runtime(demo::demo(&arguments)),
            Command::Init(arguments) => init::init(&file, &arguments),
            Command::Passwd(arguments) => in_runtime(passwd::passwd(load(&file)?, arguments)),
            Command::Check(arguments) => in_runtime(check::check(&file, &arguments)),
            Command::History(arguments) => history::history(&Config::load(&file)?, &arguments),
            Command::Points(arguments) => in_runtime(points::points(load(&file)?, &arguments)),
            Command::Documents(arguments) => in_runtime(documents::documents(load(&file)?, &arguments)),
            Command::Diff(arguments) => in_runtime(diff::diff(load(&file)?, &arguments)),
            Command::Serve => {
                let prepared = serve::prepare(&file)?;
                in_runtime(serve::serve(prepared))
            }
            Command::Status(arguments) => in_runtime(status::status(load(&file)?, &arguments)),
            Command::Reload => in_runtime(reload::reload(load(&file)?)),
            Command::Run(arguments) => in_runtime(run::run(load(&file)?, &arguments)),
            Command::Restore(arguments) => in_runtime(restore::restore(load(&file)?, &arguments)),
            Command::Verify(arguments) => in_runtime(verify::verify(load(&file)?, &arguments)),
        }
    }
}

fn load(file: &Path) -> Result<Arc<Config>, ConfigError> {
    Config::load(file).map(Arc::new)
}

fn in_runtime(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.clamp(2, MAX_WORKERS))
        .enable_all()
        .build()
        .context("start the threads of the program")?;
    let exit = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WORK);
    exit
}
