//! `holdfast points`: what there is to restore from.

use std::sync::Arc;

use crate::cli::exit::Exit;
use crate::cli::session::ledger_to_read;
use crate::cli::site::ConfiguredSite;
use crate::cli::table::{Align, Table};
use crate::cli::{terminal, text};
use crate::config::Config;
use crate::jobs::catalogue::Restorable;
use crate::service::site::{Points, Site as _};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn points(config: Arc<Config>, arguments: &Arguments) -> anyhow::Result<Exit> {
    let ledger = ledger_to_read(&config).unwrap_or_else(|error| {
        terminal::warn(format_args!("{error:#}; asking the destinations instead"));
        None
    });
    let site = ConfiguredSite::new(Arc::clone(&config));
    let Points { found, unreadable, unreached } = site.points(ledger.as_ref()).await;
    unreadable.iter().chain(&unreached).for_each(terminal::warn);
    let exit = if unreached.is_empty() { Exit::Succeeded } else { Exit::Failed };
    if arguments.json {
        terminal::json(&found)?;
    } else if found.is_empty() && exit == Exit::Succeeded {
        terminal::note("there are no restore points or archives: `holdfast run JOB` makes them");
    } else if !found.is_empty() {
        terminal::out(&table(&found, config.destinations.len() > 1).to_string())?;
    }
    Ok(exit)
}

fn table(all: &[Restorable], several: bool) -> Table {
    use Align::{Left, Right};
    let mut columns = vec![
        ("NAME", Left),
        ("KIND", Left),
        ("REPOSITORY", Left),
        ("CREATED", Left),
        ("DOCUMENTS", Right),
        ("BINARIES", Right),
        ("SIZE", Right),
        ("COMPLETE", Left),
    ];
    // Most sites have none.
    let shards = all.iter().any(|one| one.shard.is_some());
    if shards {
        columns.push(("SHARD", Left));
    }
    if several {
        columns.push(("DESTINATION", Left));
    }
    let mut table = Table::new(columns);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for one in all {
        let mut cells = vec![
            one.name.clone(),
            one.kind.to_owned(),
            or_dash(one.repository.clone()),
            or_dash(one.created.map(text::time)),
            text::count(one.documents),
            text::count(one.binaries),
            text::bytes(one.bytes),
            if one.complete { "yes" } else { "no" }.to_owned(),
        ];
        if shards {
            cells.push(or_dash(one.shard.map(|shard| shard.to_string())));
        }
        if several {
            cells.push(one.destination.clone());
        }
        table.row(cells);
    }
    table
}
