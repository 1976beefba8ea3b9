//! Finding out what a store can do. A store may take a header and do nothing about it, so nothing is believed that was
//! not tried.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::digest::{Algorithm, Digest};
use crate::model::key::Key;
use crate::store::s3::Bucket;
use crate::store::s3::error::Refusal;
use crate::store::s3::upload::{S3Upload, checksum};
use crate::store::{Capabilities, ErrorKind};

const BODY: &[u8] = b"Holdfast was here.\n";

/// Tries everything out below `check/` and clears up behind itself.
pub(super) async fn probe(bucket: &Arc<Bucket>) -> Result<Capabilities, Refusal> {
    let name = format!("{:016x}", fastrand::u64(..));
    let trial =
        Trial { bucket, key: Key::probe(&format!("{name}-put")), damaged: Key::probe(&format!("{name}-damaged")) };
    let found = trial.run().await;
    let cleared = trial.clear_up().await;
    let found = found?;
    cleared?;
    Ok(found)
}

struct Trial<'a> {
    bucket: &'a Arc<Bucket>,
    key: Key,
    damaged: Key,
}

impl Trial<'_> {
    async fn run(&self) -> Result<Capabilities, Refusal> {
        let conditional_put = self.conditional_put().await?;
        let verifies_sha1 = self.verifies_sha1().await?;
        let returns_sha1 = self.bucket.look(&self.key).await?.told == Some(right());
        self.bucket.list(self.key.as_str(), None).await?;
        let upload = S3Upload::begin(Arc::clone(self.bucket), &self.key).await?;
        let in_parts = self.in_parts(&upload).await;
        let aborted = tolerant(self.bucket.abort(&self.key, upload.id()).await);
        let (verifies_parts, lists_unfinished, conditional_complete) = in_parts?;
        aborted?;
        Ok(Capabilities {
            conditional_put,
            conditional_complete,
            verifies_sha1,
            returns_sha1,
            verifies_parts,
            lists_unfinished,
        })
    }

    /// Puts the same object twice; that the first comes to nothing is the caller's trouble.
    async fn conditional_put(&self) -> Result<bool, Refusal> {
        let body = Bytes::from_static(BODY);
        if let Err(refusal) = self.bucket.send(&self.key, body.clone(), &right(), true).await {
            if refusal.kind != ErrorKind::Other {
                return Err(refusal);
            }
            // A store that does not know the condition may refuse it.
            self.bucket.send(&self.key, body, &right(), false).await?;
            return Ok(false);
        }
        is_refused(self.bucket.send(&self.key, body, &right(), true).await)
    }

    /// Some stores refuse what they have stored already.
    async fn verifies_sha1(&self) -> Result<bool, Refusal> {
        let wrong = Digest::of(Algorithm::Sha1, b"something else");
        if !is_refused(self.bucket.send(&self.damaged, Bytes::from_static(BODY), &wrong, false).await)? {
            return Ok(false);
        }
        match self.bucket.look(&self.damaged).await {
            Ok(_) => Ok(false),
            Err(refusal) if refusal.is_missing_in_bucket() => Ok(true),
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether a damaged part is refused, the upload is listed, and its completion spares the object that is there.
    async fn in_parts(&self, upload: &S3Upload) -> Result<(bool, bool, bool), Refusal> {
        let body = Bytes::from_static(BODY);
        let verifies = is_refused(upload.send_part(1, body.clone(), checksum(b"something else")).await)?;
        let listed = match self.bucket.unfinished(self.key.as_str()).await {
            Ok(uploads) => uploads.iter().any(|listed| listed.id == upload.id()),
            Err(refusal) if refusal.kind == ErrorKind::Unavailable => return Err(refusal),
            // A right we can do without: what is unfinished is then known from the ledger alone.
            Err(_) => false,
        };
        let part = upload.send_part(1, body.clone(), checksum(&body)).await?;
        let completed = upload.send_complete(&[part], true).await;
        let spares = matches!(&completed, Err(refusal) if refusal.kind == ErrorKind::AlreadyExists);
        is_refused(completed)?;
        Ok((verifies, listed, spares))
    }

    async fn clear_up(&self) -> Result<(), Refusal> {
        tolerant(self.bucket.delete(&self.key).await)?;
        tolerant(self.bucket.delete(&self.damaged).await)
    }
}

fn right() -> Digest {
    Digest::of(Algorithm::Sha1, BODY)
}

/// Whether the answer was a clear no; an unclear one is no finding.
fn is_refused<T>(answer: Result<T, Refusal>) -> Result<bool, Refusal> {
    match answer {
        Ok(_) => Ok(false),
        Err(refusal) if refusal.kind == ErrorKind::Unavailable => Err(refusal),
        Err(_) => Ok(true),
    }
}

/// A destination may well forbid us to delete; then the few bytes stay.
fn tolerant(answer: Result<(), Refusal>) -> Result<(), Refusal> {
    match answer {
        Err(refusal) if refusal.kind != ErrorKind::Denied => Err(refusal),
        _ => Ok(()),
    }
}
