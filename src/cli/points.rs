//! `holdfast points`: what there is to restore from.

use crate::cli::destination::open_to_look;
use crate::cli::exit::Exit;
use crate::cli::session::ledger_to_read;
use crate::cli::table::{Align, Table};
use crate::cli::{terminal, text};
use crate::config::{self, Config};
use crate::jobs::catalogue::{self, Restorable};
use crate::jobs::context::Report;
use crate::ledger::Ledger;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn points(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let ledger = ledger_to_read(config).unwrap_or_else(|error| {
        terminal::warn(format_args!("{error:#}; asking the destinations instead"));
        None
    });
    let mut all = Vec::new();
    let mut exit = Exit::Succeeded;
    for destination in config.destinations.values() {
        match list(destination, ledger.as_ref()).await {
            Ok(found) => all.extend(found),
            Err(error) => {
                terminal::warn(format_args!("{error:#}"));
                exit = Exit::Failed;
            }
        }
    }
    all.sort_by(|a, b| (b.created, &b.name).cmp(&(a.created, &a.name)));
    if arguments.json {
        terminal::json(&all)?;
    } else if all.is_empty() && exit == Exit::Succeeded {
        terminal::note("there are no restore points or archives: `holdfast run JOB` makes them");
    } else if !all.is_empty() {
        terminal::out(&table(&all, config.destinations.len() > 1).to_string())?;
    }
    Ok(exit)
}

async fn list(destination: &config::Destination, ledger: Option<&Ledger>) -> anyhow::Result<Vec<Restorable>> {
    let opened = open_to_look(destination, ledger, &Report::default()).await?;
    let (found, unreadable) = catalogue::list(&opened, ledger).await?;
    for complaint in unreadable {
        terminal::warn(format_args!("{complaint} (at destination {})", destination.name));
    }
    Ok(found)
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
        if several {
            cells.push(one.destination.clone());
        }
        table.row(cells);
    }
    table
}
