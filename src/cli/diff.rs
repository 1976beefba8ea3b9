//! `holdfast diff`: how two backups differ.

use std::sync::Arc;

use crate::cli::aside::Aside;
use crate::cli::exit::Exit;
use crate::cli::{progress, site, terminal, text};
use crate::config::Config;
use crate::jobs::catalogue::RestorableName;
use crate::jobs::inspect::{Difference, Several, difference};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The earlier one of what `holdfast points` lists
    #[arg(value_name = "FROM")]
    from: RestorableName,
    /// The later one
    #[arg(value_name = "TO")]
    to: RestorableName,
    /// How many of each sort to list; all are counted
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=100_000))]
    limit: u32,
    /// Where they lie, if more than one destination has them
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Print the difference as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn diff(config: Arc<Config>, arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.destination {
        site::destination(&config, name)?;
    }
    let aside = Aside::open("diff")?;
    let destination = arguments.destination.as_deref();
    let from = aside.inspect(&config, &arguments.from, destination).await?;
    let to = aside.inspect(&config, &arguments.to, destination).await?;
    let comparing = difference(&aside.run, &from, &to, arguments.limit as usize);
    let difference = progress::watch(&aside.report, &aside.run.stop, comparing).await?;
    if arguments.json {
        terminal::json(&difference)?;
    } else {
        terminal::out(&describe(&difference))?;
    }
    Ok(Exit::Succeeded)
}

fn describe(difference: &Difference) -> String {
    let mut lines = vec![format!("{} -> {}", difference.from, difference.to)];
    if let Some(shard) = difference.shard {
        lines.push(format!("of the binaries, those of the shard {shard} are compared"));
    }
    let mut sort = |sign: &str, what: &str, several: &Several| {
        if several.count == 0 {
            return;
        }
        lines.push(format!("{} {what}", text::count(several.count)));
        lines.extend(several.first.iter().map(|name| format!("  {sign} {name}")));
        let more = several.count - several.first.len() as u64;
        if more > 0 {
            lines.push(format!("  … and {} more: --limit N lists more", text::count(more)));
        }
    };
    sort("+", "documents added", &difference.documents_added);
    sort("~", "documents changed", &difference.documents_changed);
    sort("-", "documents removed", &difference.documents_removed);
    sort("+", "binaries added", &difference.binaries_added);
    sort("-", "binaries removed", &difference.binaries_removed);
    if difference.is_none() {
        lines.push("they hold the same".to_owned());
    }
    lines.join("\n") + "\n"
}
