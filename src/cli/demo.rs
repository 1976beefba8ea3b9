//! `holdfast demo`: the whole story on a sample repository, told with its numbers. What it runs are the jobs that
//! `run`, `restore` and `verify` run.

mod ground;
mod likeness;
mod sample;
mod story;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;

use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::terminal::{self, Paint};
use crate::cli::text;
use crate::config::Config;
use crate::service::signals::Signals;
use ground::Ground;
use story::{Story, Told};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Work in DIR, which is empty or does not exist yet, and leave everything there to look at
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave everything in the temporary directory
    #[arg(long)]
    keep: bool,
}

const CONFIGURATION: &str = "holdfast.toml";
/// All there is to configure; `destination/` and `state/` make themselves.
const CONFIGURATION_TEXT: &str = r#"[service]
state_dir = "state"
[repository.main]
binaries  = "repository/binaries"
documents = { directory = "repository/documents" }
[destination.disk]
url = "file:destination"
[copy.binaries]
[backup.nightly]
"#;

/// Tells the story, and cleans up after it however it ends.
pub(super) async fn demo(arguments: &Arguments) -> anyhow::Result<Exit> {
    // Before there is anything to clean up: from here on a signal ends nothing at once.
    let _signals = Signals::listen()?;
    let mut ground = match &arguments.dir {
        Some(directory) => Ground::at(directory)?,
        None => Ground::temporary()?,
    };
    if arguments.keep {
        ground.keep();
    }
    let (begun, kept) = (Instant::now(), ground.is_kept());
    let told = tell(&ground).await;
    let left = ground.leave();
    match told {
        Ok(told) => {
            left?;
            let all = format!("All of it came back, in {}.", text::duration(begun.elapsed()));
            terminal::out(&format!("\n{} ", Paint::for_stdout().good(&all)))?;
            terminal::out(&if kept { kept_ending(&ground, &told) } else { removed_ending(&ground) })?;
            Ok(Exit::Succeeded)
        }
        Err(error) => {
            let root = ground.root().display();
            match left {
                Ok(()) if kept => terminal::note(format_args!("what there is so far lies in {root}")),
                Ok(()) => terminal::note(format_args!("{root} was removed; `holdfast demo --dir DIR` leaves it")),
                Err(left) => terminal::warn(format_args!("{left:#}")),
            }
            Err(error)
        }
    }
}

async fn tell(ground: &Ground) -> anyhow::Result<Told> {
    let file = ground.path(CONFIGURATION);
    std::fs::write(&file, CONFIGURATION_TEXT).with_context(|| format!("write `{}`", file.display()))?;
    let config = Arc::new(Config::load(&file)?);
    let session = Session::open(&config, "demo")?;
    Story::new(&session, ground)?.tell().await
}

fn kept_ending(ground: &Ground, told: &Told) -> String {
    let root = ground.root().display();
    let archive = &told.archive;
    format!(
        "Everything lies in {root}\n\nNext:\n  \
           holdfast --config {root}/{CONFIGURATION} points\n  \
           holdfast --config {root}/{CONFIGURATION} history\n  \
           unzip -l {root}/destination/archives/{archive}\n"
    )
}

fn removed_ending(ground: &Ground) -> String {
    format!(
        "{} was removed.\n\nNext:\n  \
           holdfast demo --dir DIR                      the same, and leaves it there to look at\n  \
           holdfast init --binaries DIR --url s3://…    a configuration for your own repository\n  \
           holdfast check                               says whether all is in place for it\n",
        ground.root().display()
    )
}
