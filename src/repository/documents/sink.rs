//! Where documents are written back to.

/// A place that takes all documents of a repository at once: what was there before stays, for all others and after
/// every error, until they are committed. Dropping it changes nothing.
pub trait DocumentSink: Send {
    /// Takes a document, as it stands in a line.
    fn write(&mut self, line: &[u8], stop: &dyn Fn() -> bool) -> anyhow::Result<()>;

    /// Has everything checked that can be before it counts; gives how many documents were taken.
    fn finish(&mut self, stop: &dyn Fn() -> bool) -> anyhow::Result<u64>;

    /// Makes it count, all at once.
    fn commit(self: Box<Self>) -> anyhow::Result<()>;
}

/// The answer to a commit was lost, and the server could not be asked what became of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}; whether it has the old documents or the new ones is not known: {way_out}")]
pub struct CommitUnknown {
    /// What happened instead of an answer.
    pub cause: String,
    /// How it can be known.
    pub way_out: &'static str,
}

impl CommitUnknown {
    /// For a table, which holds either the old or the new ones.
    pub(super) fn of_table(error: &anyhow::Error) -> Self {
        Self { cause: format!("{error:#}"), way_out: "look at the table" }
    }
}
