//! `holdfast restore`: brings a repository back, having shown what that would do.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::cli::confirm::confirm;
use crate::cli::exit::{Exit, Usage};
use crate::cli::foreground::{self, Output};
use crate::cli::locate::spelled_from;
use crate::cli::remote::{Asked, Remote};
use crate::cli::session::Session;
use crate::cli::{progress, site, terminal, text};
use crate::config::{Config, DocumentSource, Repository};
use crate::jobs::context::Report;
use crate::jobs::restore::{Parts, RestoreFrom, RestorePlan};
use crate::model::digest::Digest;
use crate::model::run::Kind;
use crate::service::request::RestoreRequest;
use crate::service::site::{Site as _, Work};

#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(super) struct Arguments {
    /// What `holdfast points` lists, or a ModeShape backup directory (a name with a `/`)
    #[arg(value_name = "POINT_OR_ARCHIVE_OR_DIR")]
    from: RestoreFrom,
    /// The repository to restore to, or with --to the one whose layout is used
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Where the restore point lies, if more than one destination has it
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Restore to DIR/binaries and DIR/documents instead of into the repository
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Only these binaries, and no documents
    #[arg(long, value_name = "DIGEST", num_args = 1..)]
    only: Vec<Digest>,
    #[command(flatten)]
    half: Half,
    /// Write documents to the database although other programs are connected to it
    #[arg(long)]
    ignore_connections: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print the run as JSON, or with --dry-run the plan
    #[arg(long)]
    json: bool,
}

/// A half of the repository.
#[derive(Debug, clap::Args)]
#[group(multiple = false, conflicts_with = "only")]
struct Half {
    /// Only the documents; binaries stay as they are
    #[arg(long)]
    documents_only: bool,
    /// Only the binaries; documents stay as they are, and so do binaries that the backup does not have
    #[arg(long)]
    binaries_only: bool,
}

pub(super) async fn restore(config: Arc<Config>, arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.repository {
        site::repository(&config, name)?;
    }
    if let Some(name) = &arguments.destination {
        site::destination(&config, name)?;
    }
    let asks = arguments.to.is_none() && !arguments.yes && !arguments.dry_run;
    if asks && !terminal::can_ask() {
        let way_out = "add `--yes`, or `--dry-run` to see what would be done, or `--to DIR` to restore beside it";
        return Err(Usage::new("a restore into the repository must be confirmed", way_out).into());
    }
    let request = arguments.request()?;
    let output = Output::of(arguments.json);
    let way = match Remote::reach(&config).await? {
        Some(remote) => Way::Remote(remote),
        None => Way::Here(Session::open(&config, &format!("restore {}", spelled_from(&arguments.from)))?),
    };
    if arguments.dry_run || asks {
        let plan = match &way {
            Way::Remote(remote) => remote.plan(&request).await?,
            Way::Here(session) => look_ahead(session, &request).await?,
        };
        if arguments.dry_run {
            match output {
                Output::Json => terminal::json(&plan)?,
                Output::Text => terminal::out(&describe(&plan))?,
            }
            return Ok(Exit::Succeeded);
        }
        terminal::note(describe(&plan));
    }
    if arguments.to.is_none() {
        terminal::warn(precaution(&config, request.repository.as_deref()));
    }
    if asks {
        confirm("Restore into the repository?", &way.stop()).await?;
    }
    match way {
        Way::Remote(remote) => remote.follow(Asked::Restore(request), output).await,
        Way::Here(session) => {
            foreground::run(&session, "restore", Kind::Restore, output, &Work::Restore(request)).await
        }
    }
}

/// What has to be seen to before a repository is restored into.
fn precaution(config: &Config, named: Option<&str>) -> &'static str {
    let asked = |repository: &Repository| matches!(repository.documents, Some(DocumentSource::Fedora(_)));
    let mut meant = config.repositories.values().filter(|repository| named.is_none_or(|name| name == repository.name));
    // Of one that is not known nothing is known, and to stop it does no harm.
    if meant.next().is_some_and(asked) && meant.all(asked) {
        "Fedora must run, as it restores the documents itself: see that nobody uses it meanwhile"
    } else {
        "stop the repository (Fedora) first: it must not run while it is restored"
    }
}

/// Who does it.
enum Way {
    /// The service, which has the state directory.
    Remote(Remote),
    /// This process.
    Here(Session),
}

impl Way {
    fn stop(&self) -> CancellationToken {
        match self {
            Self::Remote(remote) => remote.stop(),
            Self::Here(session) => session.stop(),
        }
    }
}

impl Arguments {
    fn request(&self) -> anyhow::Result<RestoreRequest> {
        let absolute = |directory: &PathBuf| {
            std::path::absolute(directory).with_context(|| format!("find the directory `{}`", directory.display()))
        };
        Ok(RestoreRequest {
            from: match &self.from {
                // The service may work in another directory.
                RestoreFrom::Directory(directory) => RestoreFrom::Directory(absolute(directory)?),
                RestoreFrom::Backup(name) => RestoreFrom::Backup(name.clone()),
            },
            repository: self.repository.clone(),
            to: self.to.as_ref().map(absolute).transpose()?,
            only: self.only.clone(),
            destination: self.destination.clone(),
            parts: match (self.half.documents_only, self.half.binaries_only) {
                (true, _) => Parts::Documents,
                (_, true) => Parts::Binaries,
                _ => Parts::All,
            },
            ignore_connections: self.ignore_connections,
        })
    }
}

/// The plan, made outside of any run, with what is to be known before a yes.
async fn look_ahead(session: &Session, request: &RestoreRequest) -> anyhow::Result<RestorePlan> {
    let report = Arc::new(Report::default());
    let context = session.unrecorded(&report);
    let plan = progress::watch(&report, &session.stop(), session.site.plan(&context, request)).await?;
    for problem in report.problems() {
        terminal::warn(format_args!("{}: {}", problem.subject, problem.message));
    }
    Ok(plan)
}

fn describe(plan: &RestorePlan) -> String {
    let mut lines = vec![format!("restore from {}\n", plan.from)];
    let mut fact = |label: &str, value: String| lines.push(format!("  {label:<22}{value}\n"));
    if let Some(shard) = plan.shard {
        fact("shard", format!("{shard}; binaries of other shards are not touched"));
    }
    fact("binaries to", plan.binaries_to.display().to_string());
    if let Some(documents) = &plan.documents_to {
        fact("documents to", documents.clone());
        fact("documents", text::count(plan.documents));
    }
    fact("to be fetched", format!("{}, {}", text::binaries(plan.fetch), text::bytes(plan.fetch_bytes)));
    if plan.replace > 0 {
        fact("replacing damaged", text::binaries(plan.replace));
    }
    fact("whole already", text::binaries(plan.keep));
    if plan.quarantine > 0 {
        fact("to the quarantine", text::binaries(plan.quarantine));
    }
    fact("free space", text::bytes(plan.free_bytes));
    lines.concat()
}
