//! `holdfast restore`: brings a repository back, having shown what that would do.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::confirm::confirm;
use crate::cli::exit::{Exit, Usage};
use crate::cli::foreground::{self, Output};
use crate::cli::locate::{Located, locate, spelled};
use crate::cli::session::{self, Session};
use crate::cli::{progress, terminal, text};
use crate::config::{Config, Repository};
use crate::jobs::catalogue::RestorableName;
use crate::jobs::context::{Report, RunContext};
use crate::jobs::restore::{RestoreOrder, RestorePlan, plan, restore as restore_all};
use crate::model::digest::Digest;
use crate::model::run::Kind;
use crate::repository::binaries::BinaryStore;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What `holdfast points` lists
    #[arg(value_name = "POINT_OR_ARCHIVE")]
    from: RestorableName,
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

pub(super) async fn restore(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(name) = &arguments.repository {
        session::repository(config, name)?;
    }
    if let Some(name) = &arguments.destination {
        session::destination(config, name)?;
    }
    let asks = arguments.to.is_none() && !arguments.yes && !arguments.dry_run;
    if asks && !terminal::can_ask() {
        let way_out = "add `--yes`, or `--dry-run` to see what would be done, or `--to DIR` to restore beside it";
        return Err(Usage::new("a restore into the repository must be confirmed", way_out).into());
    }
    let session = Session::open(config, &format!("restore {}", spelled(&arguments.from)))?;
    if arguments.dry_run || asks {
        let plan = look_ahead(&session, arguments).await?;
        if arguments.dry_run {
            match Output::of(arguments.json) {
                Output::Json => terminal::json(&plan)?,
                Output::Text => terminal::out(&describe(&plan))?,
            }
            return Ok(Exit::Succeeded);
        }
        terminal::note(describe(&plan));
    }
    if arguments.to.is_none() {
        terminal::warn("stop the repository (Fedora) first: it must not run while it is restored");
    }
    if asks {
        confirm("Restore into the repository?", &session.stop()).await?;
    }
    let mut usage = false;
    let output = Output::of(arguments.json);
    let exit = foreground::run(&session, "restore", Kind::Restore, output, async |run| {
        let prepared = prepare(&session, run, arguments).await;
        let prepared = prepared.inspect_err(|error| usage = error.is::<Usage>())?;
        if let Some(message) = prepared.other_repository {
            run.report.notice("repository", spelled(&arguments.from), message);
        }
        restore_all(run, &prepared.order).await
    })
    .await?;
    Ok(if usage { Exit::Usage } else { exit })
}

/// The plan, made outside of any run, with what is to be known before a yes.
async fn look_ahead(session: &Session<'_>, arguments: &Arguments) -> anyhow::Result<RestorePlan> {
    let report = Arc::new(Report::default());
    let context = session.unrecorded(&report);
    let planning = async {
        let Prepared { order, other_repository, no_documents } = prepare(session, &context, arguments).await?;
        let plan = plan(&context, &order).await?;
        anyhow::Ok((plan, other_repository.into_iter().chain(no_documents)))
    };
    let (plan, warnings) = progress::watch(&report, &session.stop(), planning).await?;
    warnings.for_each(terminal::warn);
    for problem in report.problems() {
        terminal::warn(format_args!("{}: {}", problem.subject, problem.message));
    }
    Ok(plan)
}

/// An order, and what is odd about it.
struct Prepared {
    order: RestoreOrder,
    /// The backup is of another repository than the one it goes into.
    other_repository: Option<String>,
    /// The documents have nowhere to go; the run names them by itself.
    no_documents: Option<String>,
}

async fn prepare(session: &Session<'_>, run: &RunContext, arguments: &Arguments) -> anyhow::Result<Prepared> {
    let located = locate(session, run, &arguments.from, arguments.destination.as_deref()).await?;
    let repository = repository(session.config, &located, arguments.repository.as_deref())?;
    let from = spelled(&located.name);
    let other = repository.name != located.repository && arguments.to.is_none();
    let other_repository = other.then(|| {
        format!("the {from} is of the repository `{}`, and goes into `{}`", located.repository, repository.name)
    });
    let (binaries, documents) = match &arguments.to {
        Some(directory) => {
            let directory = std::path::absolute(directory)
                .with_context(|| format!("find the directory `{}`", directory.display()))?;
            (directory.join("binaries"), Some(directory.join("documents")))
        }
        None => (repository.binaries.clone(), session::documents(repository).map(PathBuf::from)),
    };
    let left_out = documents.is_none() && located.documents > 0 && arguments.only.is_empty();
    let no_documents = left_out.then(|| {
        format!(
            "the documents in the {from} ({}) are not restored, as the repository `{}` has no directory for them: \
             `--to DIR` gives them",
            text::count(located.documents),
            repository.name
        )
    });
    let order = RestoreOrder {
        from: located.name,
        destination: located.destination,
        binaries: BinaryStore::at(&binaries, &repository.layout),
        documents,
        only: arguments.only.clone(),
    };
    Ok(Prepared { order, other_repository, no_documents })
}

/// The repository that is named, or the one that the backup is of, or the only one.
fn repository<'a>(config: &'a Config, located: &Located, named: Option<&str>) -> Result<&'a Repository, Usage> {
    if let Some(name) = named {
        return session::repository(config, name);
    }
    let of = config.repositories.get(&located.repository);
    let mut all = config.repositories.values();
    let only = all.next().filter(|_| config.repositories.len() == 1);
    of.or(only).ok_or_else(|| {
        let known: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
        Usage::new(
            format!(
                "the {} is of the repository `{}`, which the configuration does not have",
                spelled(&located.name),
                located.repository
            ),
            format!("say which one is meant with `--repository NAME`: {}", known.join(", ")),
        )
    })
}

fn describe(plan: &RestorePlan) -> String {
    let mut lines = vec![format!("restore from {}\n", plan.from)];
    let mut fact = |label: &str, value: String| lines.push(format!("  {label:<22}{value}\n"));
    fact("binaries to", plan.binaries_to.display().to_string());
    if let Some(documents) = &plan.documents_to {
        fact("documents to", documents.display().to_string());
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
