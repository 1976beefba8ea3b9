//! `holdfast documents`: the documents in a backup, as JSON lines.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::aside::Aside;
use crate::cli::exit::Exit;
use crate::cli::{site, terminal};
use crate::config::Config;
use crate::jobs::catalogue::RestorableName;
use crate::jobs::inspect::each_document;
use crate::model::document::scan;
use crate::model::strict::strict;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What `holdfast points` lists
    #[arg(value_name = "POINT_OR_ARCHIVE")]
    name: RestorableName,
    /// Only the document with this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only documents with this text in them, as --raw prints them
    #[arg(long, value_name = "TEXT", conflicts_with = "id")]
    grep: Option<String>,
    /// Print how many there are instead
    #[arg(long)]
    count: bool,
    /// Print them as they stand in the backup, in ModeShape's own dialect of JSON
    #[arg(long)]
    raw: bool,
    /// Where the backup lies, if more than one destination has it
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
}

/// Which documents are wanted.
#[derive(Clone, Debug)]
enum Wanted {
    All,
    Id(String),
    Text(String),
}

impl Wanted {
    fn has(&self, line: &[u8]) -> anyhow::Result<bool> {
        Ok(match self {
            Self::All => true,
            Self::Id(id) => scan(line).context("read a document")?.id == id.as_str(),
            Self::Text(text) => memchr::memmem::find(line, text.as_bytes()).is_some(),
        })
    }
}

/// What was found, and where it goes.
struct Found {
    count: u64,
    out: BufWriter<io::Stdout>,
}

pub(super) async fn documents(config: Arc<Config>, arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.destination {
        site::destination(&config, name)?;
    }
    let aside = Aside::open("documents")?;
    let inspected = aside.inspect(&config, &arguments.name, arguments.destination.as_deref()).await?;
    let wanted = match (&arguments.id, &arguments.grep) {
        (Some(id), _) => Wanted::Id(id.clone()),
        (None, Some(text)) => Wanted::Text(text.clone()),
        (None, None) => Wanted::All,
    };
    let (count, raw) = (arguments.count, arguments.raw);
    let one = arguments.id.is_some();
    let found = Found { count: 0, out: BufWriter::with_capacity(64 << 10, io::stdout()) };
    let mut found = each_document(&aside.run, &inspected, found, move |found, line| {
        if !wanted.has(line)? {
            return Ok(ControlFlow::Continue(()));
        }
        found.count += 1;
        if !count && !print(&mut found.out, line, raw)? || one {
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    if count {
        terminal::out(&format!("{}\n", found.count))?;
    } else {
        seen_enough(found.out.flush())?;
    }
    if found.count > 0 || count {
        return Ok(Exit::Succeeded);
    }
    terminal::note(format_args!("holdfast: there is no such document in {}", inspected.contents.name()));
    Ok(Exit::Failed)
}

/// Prints a document; false if nobody reads any more.
fn print(out: &mut impl Write, line: &[u8], raw: bool) -> anyhow::Result<bool> {
    let text = std::str::from_utf8(line).context("read a document")?;
    let text = if raw { text.into() } else { strict(text) };
    seen_enough(writeln!(out, "{text}"))
}

/// Whoever closed standard output early, as `head` does, has seen enough.
fn seen_enough(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("write to standard output"),
    }
}
