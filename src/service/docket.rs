//! What waits and what runs, and who may begin: values only.
//!
//! Runs begin in the order in which they were asked for, unless something in their way lets a later one go first:
//! a job runs once at a time, copies of one repository to one destination follow each other, a restore has its
//! repository to itself, and there is a bound on how many run at once. Nobody is overtaken on the repository that he
//! waits for, so a restore comes to its turn.

use std::collections::VecDeque;
use std::fmt::Debug;

use crate::model::run::RunId;

/// What a run does to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it, beside others.
    Reads,
    /// Replaces it, alone.
    Replaces,
}

/// What a run needs for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The job, of which there is one run at a time; none for restores and verifications.
    pub job: Option<String>,
    /// The repository; none if only a destination is read.
    pub repository: Option<(String, Access)>,
    /// Repository, with its shard if it is not the whole, and destination of the restore points that it adds to.
    pub series: Option<(String, String)>,
}

/// A run on the docket, with whatever belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its number.
    pub id: RunId,
    /// What it needs for itself.
    pub needs: Needs,
    /// What belongs to it.
    pub payload: T,
}

/// What waits and what runs.
#[derive(Debug)]
pub struct Docket<T> {
    at_once: usize,
    waiting: VecDeque<Entry<T>>,
    running: Vec<Entry<T>>,
}

impl<T> Docket<T> {
    /// An empty docket of which at most so many run at once.
    pub fn new(at_once: usize) -> Self {
        Self { at_once, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Changes how many may run at once; those that run go on.
    pub fn set_at_once(&mut self, at_once: usize) {
        self.at_once = at_once;
    }

    /// Adds a run at the end of those that wait.
    pub fn add(&mut self, entry: Entry<T>) {
        self.waiting.push_back(entry);
    }

    /// Those that wait, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Entry<T>> {
        self.waiting.iter()
    }

    /// Those that run.
    pub fn running(&self) -> impl Iterator<Item = &Entry<T>> {
        self.running.iter()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Entry<T>> {
        self.running.iter().chain(&self.waiting)
    }

    /// The waiting run of a job.
    pub fn waiting_of(&mut self, job: &str) -> Option<&mut Entry<T>> {
        self.waiting.iter_mut().find(|entry| entry.needs.job.as_deref() == Some(job))
    }

    /// The run of a job that is under way.
    pub fn running_of(&self, job: &str) -> Option<&Entry<T>> {
        self.running.iter().find(|entry| entry.needs.job.as_deref() == Some(job))
    }

    /// The first of those that wait and may begin; it runs from now on.
    pub fn begin(&mut self) -> Option<&Entry<T>> {
        let at = (0..self.waiting.len()).find(|at| self.in_the_way_of(*at).is_none())?;
        let entry = self.waiting.remove(at)?;
        self.running.push(entry);
        self.running.last()
    }

    /// A run has ended, or will not begin.
    pub fn end(&mut self, id: RunId) -> Option<Entry<T>> {
        if let Some(at) = self.running.iter().position(|entry| entry.id == id) {
            return Some(self.running.remove(at));
        }
        let at = self.waiting.iter().position(|entry| entry.id == id)?;
        self.waiting.remove(at)
    }

    /// Whom a waiting run waits for.
    pub fn reason(&self, id: RunId) -> Option<Hindrance> {
        let at = self.waiting.iter().position(|entry| entry.id == id)?;
        self.in_the_way_of(at)
    }

    fn in_the_way_of(&self, at: usize) -> Option<Hindrance> {
        let entry = &self.waiting[at];
        let earlier = self.waiting.iter().take(at).filter(|earlier| on_one_repository(&earlier.needs, &entry.needs));
        self.running
            .iter()
            .find(|other| collide(&other.needs, &entry.needs))
            .or_else(|| earlier.into_iter().find(|earlier| collide(&earlier.needs, &entry.needs)))
            .map(|other| Hindrance::Run(other.id))
            .or_else(|| (self.running.len() >= self.at_once).then_some(Hindrance::Bound(self.at_once)))
    }
}

/// Why a run does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Another run has what it needs, or will have it first.
    Run(RunId),
    /// So many run already.
    Bound(usize),
}

fn on_one_repository(one: &Needs, other: &Needs) -> bool {
    match (&one.repository, &other.repository) {
        (Some((one, _)), Some((other, _))) => one == other,
        _ => false,
    }
}

fn collide(one: &Needs, other: &Needs) -> bool {
    let same_job = one.job.is_some() && one.job == other.job;
    let same_series = one.series.is_some() && one.series == other.series;
    let replaces = |needs: &Needs| matches!(needs.repository, Some((_, Access::Replaces)));
    same_job || same_series || on_one_repository(one, other) && (replaces(one) || replaces(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, repository: &str, destination: Option<&str>) -> Needs {
        Needs {
            job: Some(name.to_owned()),
            repository: Some((repository.to_owned(), Access::Reads)),
            series: destination.map(|destination| (repository.to_owned(), destination.to_owned())),
        }
    }

    fn restore(repository: &str) -> Needs {
        Needs { repository: Some((repository.to_owned(), Access::Replaces)), ..Needs::default() }
    }

    fn docket(at_once: usize, all: &[Needs]) -> Docket<()> {
        let mut docket = Docket::new(at_once);
        for (id, needs) in (1..).zip(all) {
            docket.add(Entry { id: RunId::new(id), needs: needs.clone(), payload: () });
        }
        docket
    }

    fn begun(docket: &mut Docket<()>) -> Vec<u64> {
        std::iter::from_fn(|| docket.begin().map(|entry| entry.id.get())).collect()
    }

    #[test]
    fn a_restore_has_its_repository_to_itself_and_is_not_overtaken() {
        let all = [job("copy.a", "main", Some("s3")), restore("main"), job("backup.a", "main", None), restore("other")];
        let mut docket = docket(8, &all);
        assert_eq!(begun(&mut docket), [1, 4]);
        assert_eq!(docket.reason(RunId::new(2)), Some(Hindrance::Run(RunId::new(1))));
        assert_eq!(docket.reason(RunId::new(3)), Some(Hindrance::Run(RunId::new(2))));
        docket.end(RunId::new(1));
        assert_eq!(begun(&mut docket), [2]);
        docket.end(RunId::new(2));
        assert_eq!(begun(&mut docket), [3]);
    }

    #[test]
    fn a_job_runs_once_at_a_time_and_so_do_copies_to_one_place() {
        let all = [
            job("copy.a", "main", Some("s3")),
            job("copy.a", "main", Some("s3")),
            job("copy.b", "main", Some("s3")),
            job("copy.c", "main", Some("disk")),
        ];
        let mut docket = docket(8, &all);
        assert_eq!(begun(&mut docket), [1, 4]);
    }

    #[test]
    fn no_more_run_at_once_than_the_bound() {
        let mut docket = docket(2, &[job("a", "x", None), job("b", "x", None), job("c", "x", None)]);
        assert_eq!(begun(&mut docket), [1, 2]);
        assert_eq!(docket.reason(RunId::new(3)), Some(Hindrance::Bound(2)));
        docket.end(RunId::new(1));
        assert_eq!(begun(&mut docket), [3]);
    }

    #[test]
    fn whoever_is_taken_off_the_docket_holds_nobody_up() {
        let mut docket = docket(8, &[job("a", "x", None), restore("x"), job("b", "x", None)]);
        assert_eq!(begun(&mut docket), [1]);
        assert!(docket.end(RunId::new(2)).is_some());
        assert_eq!(begun(&mut docket), [3]);
        assert!(docket.end(RunId::new(2)).is_none());
    }
}
