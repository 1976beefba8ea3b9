//! The story: copy, back up, lose everything, and have it back, twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use super::ground::{Deleted, Ground};
use super::likeness::{Comparison, Likeness};
use super::sample::{Made, REPOSITORY, Sample};
use super::{CONFIGURATION, CONFIGURATION_TEXT};
use crate::cli::session::Session;
use crate::cli::summary::summary;
use crate::cli::terminal::{self, Paint};
use crate::cli::{progress, site, text};
use crate::jobs::catalogue::RestorableName;
use crate::jobs::context::{Cancelled, Report, RunContext};
use crate::model::run::{Kind, Outcome, Run, Trigger};
use crate::service::request::{JobOptions, RestoreRequest, VerifyRequest};
use crate::service::runner::Activation;
use crate::service::site::{Scope, Site as _, Work};

/// The names in the configuration.
const COPY: &str = "copy.binaries";
const BACKUP: &str = "backup.nightly";
const MAIN: &str = "main";

/// How wide a heading is, up to its time.
const WIDTH: usize = 88;

/// A story under way.
#[derive(Debug)]
pub(super) struct Story<'a> {
    session: &'a Session,
    ground: &'a Ground,
    sample: Sample,
    paint: Paint,
    step: u32,
}

/// What there is at the end.
#[derive(Debug)]
pub(super) struct Told {
    /// The file name of the archive.
    pub(super) archive: String,
}

impl<'a> Story<'a> {
    pub(super) fn new(session: &'a Session, ground: &'a Ground) -> anyhow::Result<Self> {
        let repository = site::repository(session.site.config(), MAIN)?;
        let sample = Sample::new(ground);
        let agrees =
            repository.binaries == sample.store().root() && site::documents(repository) == Some(sample.documents());
        anyhow::ensure!(agrees, "read `{}`: it is not about the sample", ground.path(CONFIGURATION).display());
        Ok(Self { session, ground, sample, paint: Paint::for_stdout(), step: 0 })
    }

    /// Does everything, one after the other, and says what came of it.
    pub(super) async fn tell(mut self) -> anyhow::Result<Told> {
        terminal::out(&format!(
            "A repository is copied, backed up, lost, and brought back: all in\n{}\n\n",
            self.root()
        ))?;
        self.make().await?;
        self.copy_first().await?;
        let at_backup = self.look().await?;
        let archive = self.back_up().await?;
        self.grow().await?;
        let point = self.copy_what_is_new().await?;
        let at_copy = self.look().await?;
        self.destroy("The repository is lost")?;
        self.bring_back(&point, &at_copy, "with what was lost").await?;
        self.destroy("And lost again")?;
        self.bring_back(&archive, &at_backup, "with what was backed up").await?;
        self.read_back(&[&point, &archive]).await?;
        Ok(Told { archive })
    }

    fn root(&self) -> String {
        self.ground.root().display().to_string()
    }

    async fn make(&mut self) -> anyhow::Result<()> {
        let (made, took) = self.change_sample("making the sample repository", Sample::begin).await?;
        self.heading("A repository as ModeShape keeps it, made up", Some(took))?;
        let Made { binaries, bytes, smallest, largest, sidecars, documents } = made;
        line(format!(
            "{}, {} ({} to {}); {sidecars} mime types beside them, a mark in trash/",
            text::binaries(binaries),
            text::bytes(bytes),
            text::bytes(smallest),
            text::bytes(largest),
        ))?;
        line(format!("{} documents, one of them twice; and {CONFIGURATION}:", text::count(documents)))?;
        CONFIGURATION_TEXT.lines().try_for_each(|setting| line(format!("  {setting}")))
    }

    async fn copy_first(&mut self) -> anyhow::Result<()> {
        let run = self.copy().await?;
        self.heading(&format!("holdfast run {COPY}"), text::elapsed(&run))?;
        line(format!("all of it is new: {}", moved(&run)))?;
        line(format!(
            "one object a binary; {} mime types are left out, ModeShape finds them again",
            text::count(run.counts.sidecars)
        ))?;
        line(format!("→ restore point {}", result(&run)?))
    }

    async fn back_up(&mut self) -> anyhow::Result<String> {
        let run = self.run(BACKUP, Kind::Backup, &job(BACKUP)).await?;
        self.heading(&format!("holdfast run {BACKUP}"), text::elapsed(&run))?;
        let archive = result(&run)?;
        let path = self.ground.path("destination/archives").join(&archive);
        let bytes = path.metadata().with_context(|| format!("look at `{}`", path.display()))?.len();
        line(format!("everything in one file of {}: {}", text::bytes(bytes), moved(&run)))?;
        line(format!("→ archive {archive}"))?;
        Ok(archive)
    }

    async fn grow(&mut self) -> anyhow::Result<()> {
        let (made, _) = self.change_sample("adding to the sample repository", Sample::grow).await?;
        let Made { binaries, bytes, documents, .. } = made;
        let what = format!(
            "The repository grows by {} ({}) and {} documents",
            text::binaries(binaries),
            text::bytes(bytes),
            text::count(documents)
        );
        self.heading(&what, None)
    }

    async fn copy_what_is_new(&mut self) -> anyhow::Result<String> {
        let run = self.copy().await?;
        self.heading(&format!("holdfast run {COPY}"), text::elapsed(&run))?;
        let old = run.counts.examined.saturating_sub(run.counts.copied + run.counts.sidecars);
        line(format!("only what is new: {}; {} passed over", moved(&run), text::binaries(old)))?;
        let point = result(&run)?;
        line(format!("→ restore point {point}"))?;
        let again = self.copy().await?;
        self.heading(&format!("holdfast run {COPY}, once more"), text::elapsed(&again))?;
        let same = if result(&again)? == point { "the restore point is still that" } else { "another restore point" };
        line(format!("nothing is new: {} copied, {}; {same}", text::count(again.counts.copied), requests(&again)))?;
        result(&again)
    }

    fn destroy(&mut self, title: &str) -> anyhow::Result<()> {
        self.go_on()?;
        let Deleted { files, bytes } = self.ground.destroy(REPOSITORY)?;
        let what = format!("{title}: {REPOSITORY}/ deleted, {} files, {}", text::count(files), text::bytes(bytes));
        self.heading(&what, None)
    }

    async fn bring_back(&mut self, name: &str, before: &Likeness, when: &str) -> anyhow::Result<()> {
        let request = RestoreRequest::of(name.parse()?);
        let run = self.run("restore", Kind::Restore, &Work::Restore(request)).await?;
        self.heading(&format!("holdfast restore {name}"), text::elapsed(&run))?;
        line(format!("brought back: {}; {} documents", moved(&run), text::count(run.counts.documents)))?;
        self.judge(&before.compare(&self.look().await?), when)
    }

    fn judge(&self, found: &Comparison, when: &str) -> anyhow::Result<()> {
        let tally = |(equal, all)| format!("{} of {}", text::count(equal), text::count(all));
        let (binaries, documents) = (tally(found.binaries), tally(found.documents));
        let text = format!("{binaries} files equal, {documents} documents equal");
        if found.is_equal {
            return line(format!("compared {when}: {}", self.paint.good(&text)));
        }
        line(format!("compared {when}: {}", self.paint.bad(&text)))?;
        found.differences.iter().try_for_each(|difference| line(format!("  {difference}")))?;
        bail!("compare the repository with what it was: it did not come back as it was")
    }

    async fn read_back(&mut self, names: &[&str]) -> anyhow::Result<()> {
        let names = names.iter().map(|name| name.parse()).collect::<anyhow::Result<Vec<RestorableName>>>()?;
        let request = VerifyRequest { names, quick: false, destination: None };
        let run = self.run("verify", Kind::Verify, &Work::Verify(request)).await?;
        self.heading("holdfast verify, both of them", text::elapsed(&run))?;
        line(format!(
            "read back: {}, {} documents, {}; nothing missing, nothing damaged",
            text::binaries(run.counts.examined),
            text::count(run.counts.documents),
            requests(&run)
        ))
    }

    async fn copy(&self) -> anyhow::Result<Run> {
        self.run(COPY, Kind::Copy, &job(COPY)).await
    }

    /// Does `work` to its end, as `holdfast run` does; whatever does not succeed ends the story.
    async fn run(&self, job: &str, kind: Kind, work: &Work) -> anyhow::Result<Run> {
        self.go_on()?;
        let activation =
            Activation { job: job.to_owned(), kind, trigger: Trigger::Request, started_by: None, url: None };
        let (report, stop, hurry) = (Arc::new(Report::default()), self.session.stop(), CancellationToken::new());
        let site = &self.session.site;
        let running = self
            .session
            .runner
            .run(&activation, stop.clone(), Arc::clone(&report), async |run| site.perform(run, work, &hurry).await);
        // The story is a long chain of runs, each with a large future.
        let running = Box::pin(running);
        let run = progress::watch_short(&report, &stop, running).await?;
        match (run.outcome, &run.error) {
            (Some(Outcome::Succeeded), _) => Ok(run),
            (Some(Outcome::Cancelled), _) => Err(Cancelled.into()),
            (_, Some(error)) => bail!("run {job}: {error}"),
            (_, None) => {
                terminal::out(&summary(&run, self.paint))?;
                bail!("run {job}: it did not succeed")
            }
        }
    }

    /// Reads the repository as it is.
    async fn look(&self) -> anyhow::Result<Likeness> {
        let (store, documents) = (self.sample.store().clone(), self.sample.documents().to_owned());
        self.at_work("looking at every file", move |run| Likeness::of(run, &store, documents)).await
    }

    async fn change_sample(
        &mut self,
        what: &str,
        change: impl FnOnce(&mut Sample, &RunContext) -> anyhow::Result<Made> + Send + 'static,
    ) -> anyhow::Result<(Made, Duration)> {
        let begun = Instant::now();
        let mut sample = self.sample.clone();
        let (sample, made) = self
            .at_work(what, move |run| {
                let made = change(&mut sample, run)?;
                Ok((sample, made))
            })
            .await?;
        self.sample = sample;
        Ok((made, begun.elapsed()))
    }

    /// Work of our own, which no history knows.
    async fn at_work<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&RunContext) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.go_on()?;
        let report = Arc::new(Report::default());
        report.phase(what, "files", None);
        let context = self.session.unrecorded(&report);
        progress::watch_short(&report, &self.session.stop(), context.blocking(work)).await
    }

    fn go_on(&self) -> anyhow::Result<()> {
        if self.session.stop().is_cancelled() { Err(Cancelled.into()) } else { Ok(()) }
    }

    fn heading(&mut self, title: &str, took: Option<Duration>) -> anyhow::Result<()> {
        self.step += 1;
        let took = took.map(text::duration).unwrap_or_default();
        let dots = WIDTH.saturating_sub(title.chars().count() + took.chars().count());
        let dots = if took.is_empty() { String::new() } else { format!(" {} ", ".".repeat(dots)) };
        terminal::out(&format!("{:>2}  {}{dots}{took}\n", self.step, self.paint.strong(title)))
    }
}

/// A job of the configuration, as `holdfast run` has it done.
fn job(name: &str) -> Work {
    Work::Job { name: name.to_owned(), options: JobOptions::default(), scope: Scope::Everything }
}

/// A line below a heading.
fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    terminal::out(&format!("    {text}\n"))
}

/// `300 binaries, 90.00 MiB, 80.00 MiB/s, 310 requests`.
fn moved(run: &Run) -> String {
    let rate = text::elapsed(run).and_then(|elapsed| text::rate(run.counts.bytes, elapsed));
    let rate = rate.map(|rate| format!(" ({rate})")).unwrap_or_default();
    format!("{}, {}{rate}, {}", text::binaries(run.counts.copied), text::bytes(run.counts.bytes), requests(run))
}

fn requests(run: &Run) -> String {
    format!("{} request{}", text::count(run.counts.requests), if run.counts.requests == 1 { "" } else { "s" })
}

fn result(run: &Run) -> anyhow::Result<String> {
    run.result.clone().with_context(|| format!("read what run {} made", run.id))
}
