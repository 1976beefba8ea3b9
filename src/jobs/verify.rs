//! Verify: reads a restore point or an archive back and checks it against its digests and its manifest.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

use super::catalogue::RestorableName;
use super::context::{Destination, Ended, RunContext};
use super::download::{BlockingDownload, Expected, fetch_checked, store_error};
use super::restore::contents::Contents;
use super::zip::Reader;
use crate::ledger::{Listed, Scratch};
use crate::model::archive::{ArchiveManifest, EntryName, Volume};
use crate::model::digest::{Algorithm, Digest, Hasher};
use crate::model::key::Key;
use crate::model::point::{DocumentFile, PointManifest, RecordFile};
use crate::repository::binaries::hash;
use crate::repository::documents::count_documents;
use crate::store::ErrorKind;

/// How many requests are under way at once.
const PARALLEL: usize = 32;

/// What is to be verified.
#[derive(Clone, Debug)]
pub struct VerifyOrder {
    /// The restore point or archive.
    pub name: RestorableName,
    /// Where it lies.
    pub destination: Destination,
}

/// How thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything is read back.
    Whole,
    /// The store is asked for sizes and its own checksums.
    Quick,
}

/// Verifies restore points and archives. Its result are their names; what is missing or damaged is a problem each. Of
/// several, one whose manifest cannot be read is a problem as well, and the others are verified all the same.
pub async fn verify(run: &RunContext, orders: &[VerifyOrder], depth: Depth) -> anyhow::Result<Ended> {
    let alone = orders.len() == 1 && run.report.counts().failed == 0;
    let mut names = Vec::new();
    for order in orders {
        run.report.phase("reading what the backup holds", "binaries", None);
        let contents = match Contents::open(run, &order.destination, &order.name).await {
            Ok(contents) => contents,
            Err(error) => {
                run.go_on()?;
                if alone {
                    return Err(error);
                }
                note(run, &order.name.to_string(), error)?;
                continue;
            }
        };
        names.push(contents.name());
        verify_contents(run, &order.destination, &contents, depth).await?;
    }
    if names.is_empty() {
        bail!("read the manifests: none of them could be read, and the problems say why");
    }
    Ok(Ended { result: Some(names.join(" ")), ..Ended::default() })
}

async fn verify_contents(
    run: &RunContext,
    destination: &Destination,
    contents: &Contents,
    depth: Depth,
) -> anyhow::Result<()> {
    if let Contents::Archive(archive) = contents {
        let before = run.report.counts().failed;
        verify_archive(run, destination, archive, depth).await?;
        if run.report.counts().failed > before {
            // What its volumes hold together says nothing more.
            return Ok(());
        }
    }
    let listed = match contents.list(run, destination).await {
        Ok(listed) => listed,
        // A damaged list is what verify is there to find.
        Err(error) => {
            run.go_on()?;
            return note(run, &contents.name(), error);
        }
    };
    match contents {
        Contents::Point(point) => verify_point(run, destination, point, listed, depth).await?,
        // Their directories have just been read and compared with the manifest.
        Contents::Archive(archive) if depth == Depth::Quick => {
            run.report.count(|counts| counts.examined += archive.binaries);
        }
        // Whoever has nothing but a directory has restored it, or looked with `--dry-run`.
        Contents::Archive(_) | Contents::Directory(_) => {}
    }
    Ok(())
}

/// Names something as missing that was to be verified.
pub fn note_missing(run: &RunContext, subject: &str, message: String) {
    run.report.count(|counts| {
        counts.missing += 1;
        counts.failed += 1;
    });
    run.report.problem("missing", subject, message);
}

/// An error that concerns one object is a finding; one of the way to it ends the run.
fn note(run: &RunContext, subject: &str, error: anyhow::Error) -> anyhow::Result<()> {
    match store_error(&error).map(|error| error.kind) {
        Some(ErrorKind::Denied | ErrorKind::Unavailable | ErrorKind::Other) => Err(error),
        Some(ErrorKind::NotFound) => {
            note_missing(run, subject, format!("{error:#}"));
            Ok(())
        }
        _ => {
            run.report.count(|counts| {
                counts.damaged += 1;
                counts.failed += 1;
            });
            run.report.problem("damaged", subject, format!("{error:#}"));
            Ok(())
        }
    }
}

async fn verify_point(
    run: &RunContext,
    destination: &Destination,
    point: &PointManifest,
    mut listed: Scratch,
    depth: Depth,
) -> anyhow::Result<()> {
    for file in point.documents.files.iter().chain(&point.documents.damaged) {
        run.go_on()?;
        if let Err(error) = check_documents(run, destination, file, depth).await {
            note(run, &file.name, error)?;
        }
    }
    for record in &point.records {
        run.go_on()?;
        if let Err(error) = check_record(run, destination, record).await {
            note(run, &record.name, error)?;
        }
    }
    run.report.phase(format!("checking {}", point.name), "bytes", Some(point.bytes));
    let mut tasks = JoinSet::new();
    let mut after: Option<Digest> = None;
    loop {
        let page;
        (listed, page) = run
            .blocking(move |_| {
                let page = listed.page(after.as_ref())?;
                Ok((listed, page))
            })
            .await?;
        let Some(last) = page.last() else { break };
        after = Some(last.digest);
        for binary in page {
            run.go_on()?;
            while tasks.len() >= PARALLEL {
                take(run, tasks.join_next().await.expect("tasks are under way")?)?;
            }
            let (run, destination) = (run.clone(), destination.clone());
            tasks.spawn(async move { (binary, check_binary(&run, &destination, &binary, depth).await) });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        take(run, ended?)?;
    }
    Ok(())
}

fn take(run: &RunContext, (binary, checked): (Listed, anyhow::Result<()>)) -> anyhow::Result<()> {
    run.report.count(|counts| counts.examined += 1);
    run.report.advance(binary.bytes.unwrap_or_default());
    match checked {
        Ok(()) => Ok(()),
        Err(error) => note(run, Key::binary(&binary.digest).as_str(), error),
    }
}

async fn check_documents(
    run: &RunContext,
    destination: &Destination,
    file: &DocumentFile,
    depth: Depth,
) -> anyhow::Result<()> {
    let key = file.key.as_ref().context("the manifest does not say where it lies")?;
    if depth == Depth::Quick {
        return check_size(destination, key, file.bytes, &file.sha1).await;
    }
    let expected = Expected { bytes: file.bytes, digest: file.sha1 };
    let sound = !file.name.starts_with("damaged/");
    let documents = fetch_checked(
        run,
        destination,
        key,
        expected,
        move |_, reader| {
            if sound { count_documents(reader) } else { Ok(0) }
        },
    )
    .await?;
    anyhow::ensure!(
        !sound || documents == file.documents,
        "it holds {documents} documents, its manifest says {}",
        file.documents
    );
    run.report.count(|counts| counts.documents += documents);
    Ok(())
}

async fn check_record(run: &RunContext, destination: &Destination, record: &RecordFile) -> anyhow::Result<()> {
    let key = record.key.as_ref().context("the manifest does not say where it lies")?;
    let expected = Expected { bytes: record.bytes, digest: record.sha1 };
    fetch_checked(run, destination, key, expected, |_, _| Ok(())).await
}

async fn check_size(destination: &Destination, key: &Key, bytes: u64, digest: &Digest) -> anyhow::Result<()> {
    let found = destination.store.head(key).await?;
    anyhow::ensure!(found.bytes == bytes, "it has {} bytes, not {bytes}", found.bytes);
    if let Some(found) = found.digest {
        anyhow::ensure!(found == *digest, "the store says its digest is {found}, not {digest}");
    }
    Ok(())
}

async fn check_binary(
    run: &RunContext,
    destination: &Destination,
    binary: &Listed,
    depth: Depth,
) -> anyhow::Result<()> {
    let (digest, bytes) = (binary.digest, binary.bytes.unwrap_or_default());
    let key = Key::binary(&digest);
    if depth == Depth::Quick {
        return check_size(destination, &key, bytes, &digest).await;
    }
    let download = destination.store.get(&key, None).await?;
    anyhow::ensure!(download.size() == bytes, "it has {} bytes, not {bytes}", download.size());
    run.blocking(move |run| {
        let mut reader = BlockingDownload::new(download);
        let found = hash(&mut reader, &digest, &|| run.stop.is_cancelled());
        run.go_on()?;
        let found = found?;
        anyhow::ensure!(found == digest, "its content has the digest {found}");
        run.report.count(|counts| counts.bytes += bytes);
        Ok(())
    })
    .await
}

async fn verify_archive(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    depth: Depth,
) -> anyhow::Result<()> {
    let (documents, failed) = (run.report.counts().documents, run.report.counts().failed);
    let total = archive.volumes.iter().map(|volume| volume.bytes).sum();
    run.report.phase(format!("checking {}.zip", archive.name), "bytes", Some(total));
    for volume in &archive.volumes {
        let checked = match depth {
            Depth::Whole => verify_volume(run, destination, archive, volume)
                .await
                .inspect(|()| run.report.count(|counts| counts.bytes += volume.bytes)),
            Depth::Quick => check_size(destination, &volume.key, volume.bytes, &volume.sha1).await,
        };
        if let Err(error) = checked {
            run.go_on()?;
            note(run, volume.key.as_str(), error)?;
        }
    }
    let counts = run.report.counts();
    let found = counts.documents - documents;
    if depth == Depth::Whole && counts.failed == failed && found != archive.documents.count {
        let promised = archive.documents.count;
        let error = anyhow::anyhow!("its volumes hold {found} documents, its manifest says {promised}");
        note(run, &format!("{}.zip", archive.name), error)?;
    }
    Ok(())
}

async fn verify_volume(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    volume: &Volume,
) -> anyhow::Result<()> {
    let expected = Expected { bytes: volume.bytes, digest: volume.sha1 };
    let (archive, of_volume) = (archive.clone(), volume.clone());
    let largest = volume.binary_bytes.max(1 << 30);
    fetch_checked(run, destination, &volume.key, expected, move |run, reader| {
        let mut zip = Reader::new(Passing { run, inner: reader }).with_limit(largest);
        let mut list = Hasher::new(Algorithm::Sha1);
        while let Some(mut entry) = zip.next()? {
            run.go_on()?;
            let name = entry.name().clone();
            match &name {
                EntryName::Binary(digest) => {
                    let mut counted = Counted { inner: &mut entry, bytes: 0 };
                    let found = hash(&mut counted, digest, &|| run.stop.is_cancelled())?;
                    anyhow::ensure!(found == *digest, "binary {digest} has the content of {found}");
                    list.update(format!("{digest} {}\n", counted.bytes).as_bytes());
                    run.report.count(|counts| counts.examined += 1);
                }
                EntryName::Documents(_) => {
                    let known = archive.documents.files.iter().find(|file| file.name == name.to_string());
                    let known = known.with_context(|| format!("`{name}` is not in the manifest"))?;
                    let mut content = Vec::new();
                    (&mut entry).take(known.bytes.saturating_add(1)).read_to_end(&mut content)?;
                    anyhow::ensure!(known.sha1.matches(&content), "`{name}` is not that of the manifest");
                    let documents = count_documents(&content[..])?;
                    anyhow::ensure!(documents == known.documents, "`{name}` holds {documents} documents");
                    run.report.count(|counts| counts.documents += documents);
                }
                EntryName::DamagedDocuments | EntryName::Record(_) | EntryName::ChangesSummary => {}
            }
        }
        anyhow::ensure!(list.finish() == of_volume.list_sha1, "the binaries in it are not those of the manifest");
        Ok(())
    })
    .await
}

/// Shows the progress of what passes.
struct Passing<'a, R> {
    run: &'a RunContext,
    inner: R,
}

impl<R: std::io::Read> std::io::Read for Passing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.run.report.advance(read as u64);
        Ok(read)
    }
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: std::io::Read> std::io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
