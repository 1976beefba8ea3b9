//! A sorted table read page by page, with a look at what comes next.

use std::vec;

use crate::model::digest::Digest;

/// Reads rows in order, a page at a time; memory holds one page.
pub struct Cursor<T, F> {
    fetch: F,
    name: fn(&T) -> Digest,
    page: vec::IntoIter<T>,
    next: Option<T>,
    last: Option<Digest>,
    at_end: bool,
}

impl<T, F> std::fmt::Debug for Cursor<T, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("last", &self.last).finish_non_exhaustive()
    }
}

impl<T, F: FnMut(Option<&Digest>) -> anyhow::Result<Vec<T>>> Cursor<T, F> {
    /// `fetch` gives the rows after a digest, none at the end; `name` is the digest of a row.
    pub fn new(fetch: F, name: fn(&T) -> Digest) -> Self {
        Self::after(None, fetch, name)
    }

    /// The same, beginning after a digest.
    pub fn after(last: Option<Digest>, fetch: F, name: fn(&T) -> Digest) -> Self {
        Self { fetch, name, page: Vec::new().into_iter(), next: None, last, at_end: false }
    }

    /// The next row, which stays.
    pub fn peek(&mut self) -> anyhow::Result<Option<&T>> {
        if self.next.is_none() && !self.at_end {
            self.next = self.page.next();
            if self.next.is_none() {
                self.page = (self.fetch)(self.last.as_ref())?.into_iter();
                self.next = self.page.next();
                self.at_end = self.next.is_none();
            }
        }
        Ok(self.next.as_ref())
    }

    /// The next row.
    pub fn take(&mut self) -> anyhow::Result<Option<T>> {
        self.peek()?;
        let row = self.next.take();
        if let Some(row) = &row {
            self.last = Some((self.name)(row));
        }
        Ok(row)
    }

    /// The next row if it is as asked.
    pub fn take_if(&mut self, asked: impl FnOnce(&T) -> bool) -> anyhow::Result<Option<T>> {
        if self.peek()?.is_some_and(asked) { self.take() } else { Ok(None) }
    }
}
