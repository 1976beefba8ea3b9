//! `holdfast verify`: reads back and checks.

use std::sync::Arc;

use crate::cli::exit::Exit;
use crate::cli::foreground::{self, Output};
use crate::cli::remote::{Asked, Remote};
use crate::cli::session::Session;
use crate::cli::site;
use crate::config::Config;
use crate::jobs::catalogue::RestorableName;
use crate::model::run::Kind;
use crate::service::request::VerifyRequest;
use crate::service::site::Work;

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

pub(super) async fn verify(config: Arc<Config>, arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.destination {
        site::destination(&config, name)?;
    }
    let Arguments { names, quick, destination, json } = arguments;
    let request = VerifyRequest { names: names.clone(), quick: *quick, destination: destination.clone() };
    let output = Output::of(*json);
    if let Some(remote) = Remote::reach(&config).await? {
        return remote.follow(Asked::Verify(request), output).await;
    }
    let session = Session::open(&config, "verify")?;
    foreground::run(&session, "verify", Kind::Verify, output, &Work::Verify(request)).await
}
