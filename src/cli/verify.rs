//! `holdfast verify`: reads back and checks.

use crate::cli::exit::{Exit, Usage};
use crate::cli::foreground::{self, Output};
use crate::cli::locate::locate;
use crate::cli::session::{self, Session};
use crate::config::Config;
use crate::jobs::catalogue::RestorableName;
use crate::jobs::verify::{Depth, VerifyOrder, verify as verify_all};
use crate::model::run::Kind;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What `holdfast points` lists
    #[arg(value_name = "POINT_OR_ARCHIVE", required = true)]
    names: Vec<RestorableName>,
    /// Ask for sizes and the store's own checksums instead of reading everything back
    #[arg(long)]
    quick: bool,
    /// Where they lie, if more than one destination has them
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Print the run as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn verify(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.destination {
        session::destination(config, name)?;
    }
    let session = Session::open(config, "verify")?;
    let depth = if arguments.quick { Depth::Quick } else { Depth::Whole };
    let mut usage = false;
    let exit = foreground::run(&session, "verify", Kind::Verify, Output::of(arguments.json), async |run| {
        let mut orders = Vec::new();
        for name in &arguments.names {
            let located = locate(&session, run, name, arguments.destination.as_deref()).await;
            let located = located.inspect_err(|error| usage = error.is::<Usage>())?;
            orders.push(VerifyOrder { name: located.name, destination: located.destination });
        }
        verify_all(run, &orders, depth).await
    })
    .await?;
    Ok(if usage { Exit::Usage } else { exit })
}
