//! `holdfast reload`: has the service read its configuration again, and fails if that is refused.

use std::sync::Arc;

use crate::cli::exit::Exit;
use crate::cli::status::reach;
use crate::config::Config;

/// The configuration may be the bad one that will be refused; then the one that the service works by tells where it is.
pub(super) async fn reload(config: Arc<Config>) -> anyhow::Result<Exit> {
    reach(&config).await?.post("/reload").await?;
    Ok(Exit::Succeeded)
}
