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
