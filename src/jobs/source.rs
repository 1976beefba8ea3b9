//! What a repository has beside its binaries: the documents, read before them, and the records in the store's root.

use std::io::Read as _;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::closure::Needed;
use super::context::{Destination, RunContext};
use super::upload::put_once;
use crate::ledger::{Scratch, Series};
use crate::model::archive::DAMAGED_DOCUMENTS;
use crate::model::branch::{Branch, Place};
use crate::model::digest::{Algorithm, Digest};
use crate::model::key::Key;
use crate::model::point::{DocumentFile, DocumentSet, PointName, RecordFile};
use crate::repository::binaries::{BinaryStore, open_regular};
use crate::repository::branches::Lister;
use crate::repository::documents::{
    DocumentReport, DocumentSource, Earlier, OpenDocuments, PackedDocuments, SeenDocuments,
};
use crate::repository::walk::Beside;

/// A record is a key or a marker; one that is larger is something else.
pub const RECORD_LIMIT: u64 = 16 << 20;

/// A repository to be read.
#[derive(Clone, Debug)]
pub struct RepositorySource {
    /// Its name in the configuration.
    pub name: String,
    /// Its binaries.
    pub binaries: BinaryStore,
    /// Where its documents come from, if it has any.
    pub documents: Option<DocumentSource>,
}

/// What of a restore point is not binaries.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The documents.
    pub documents: DocumentSet,
    /// What they looked like from outside when they were read, if that can be told.
    pub fingerprint: Option<String>,
    /// The records.
    pub records: Vec<RecordFile>,
}

impl RepositorySource {
    /// An error if the store is not there or cannot be read, before anything is done.
    pub fn open(&self) -> anyhow::Result<()> {
        BinaryStore::open(self.binaries.root(), self.binaries.layout()).map(drop)
    }
}

/// Whether a part of a store is empty while another is not.
pub fn has_others(store: &BinaryStore) -> bool {
    let mut others = false;
    let listed =
        Lister::default().list(&store.clone().within(None), &Branch::ROOT, |place| others |= !includes(store, &place));
    listed.is_ok() && others
}

fn includes(store: &BinaryStore, place: &Place) -> bool {
    match place {
        Place::Branch(branch) => store.may_include_below(branch.digits()),
        Place::Binary(digest) => store.includes(digest),
    }
}

/// What a store is called in the ledger: its path.
pub fn store_name(store: &BinaryStore) -> String {
    store.root().display().to_string()
}

/// Counts what in a store is none of its own, and gives examples; it is left alone.
pub fn report_foreign(run: &RunContext, beside: &Beside) {
    run.report.count(|counts| counts.foreign += beside.foreign);
    if beside.foreign > 0 {
        let message =
            format!("{} files or directories in the store are none of its own and were left alone", beside.foreign);
        run.report.notice("foreign", beside.examples.join(", "), message);
    }
}

/// Document ids on disk, so that memory does not grow with their number.
#[derive(Debug)]
pub struct OnDisk(Scratch);

impl OnDisk {
    /// No ids yet.
    pub fn new(run: &RunContext) -> anyhow::Result<Self> {
        Ok(Self(run.ledger.scratch()?))
    }
}

impl SeenDocuments for OnDisk {
    fn insert(&mut self, id: [u8; 16], content: [u8; 16], ordinal: u64) -> anyhow::Result<Option<Earlier>> {
        let earlier = self.0.put_document(&id, &content, ordinal)?;
        Ok(earlier.map(|(content, ordinal)| Earlier { content, ordinal }))
    }
}

/// Opens the documents: those of a database are read as they are now.
pub async fn open_documents(run: &RunContext, source: &DocumentSource) -> anyhow::Result<OpenDocuments> {
    let source = source.clone();
    run.blocking(move |run| {
        let opened = source.open(&|| run.stop.is_cancelled());
        run.go_on()?;
        opened
    })
    .await
}

/// Reads documents, hands them on packed, and takes what there is to say of them into the report; gives the binaries
/// that they need.
pub fn read_documents(
    run: &RunContext,
    documents: &mut OpenDocuments,
    sink: &mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
) -> anyhow::Result<Needed> {
    let mut seen = OnDisk::new(run)?;
    let mut needed = Needed::new(run)?;
    let report = documents.read(&mut seen, &|| run.stop.is_cancelled(), &mut |mut packed| {
        needed.add(&std::mem::take(&mut packed.references))?;
        sink(packed)
    });
    run.go_on()?;
    take_report(run, &report?);
    Ok(needed)
}

fn take_report(run: &RunContext, report: &DocumentReport) {
    run.report.count(|counts| {
        counts.documents += report.documents;
        counts.duplicate_documents += report.duplicates;
        counts.conflicting_documents += report.conflicting;
        counts.damaged_documents += report.damaged;
    });
    for problem in &report.problems {
        // Of two documents with one id the later was kept, and nothing is lost that its owner still has.
        if problem.kind == "documents" {
            run.report.notice(&problem.kind, problem.subject.clone(), problem.message.clone());
        } else {
            run.report.problem(&problem.kind, problem.subject.clone(), problem.message.clone());
        }
    }
}

/// When documents are read that look as they did at the last restore point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reread {
    /// If something was left out of that: damage is named by every run that looks at everything.
    IfIncomplete,
    /// Never.
    Never,
}

/// Brings the documents to the directory of a new point, unless they are those of the last one; gives the binaries
/// that they need if they were read.
pub async fn read_head(
    run: &RunContext,
    source: &RepositorySource,
    destination: &Destination,
    point: &PointName,
    series: &Series,
    reread: Reread,
) -> anyhow::Result<(Head, Option<Needed>)> {
    let Some(documents) = &source.documents else { return Ok((Head::default(), None)) };
    run.report.phase("looking at the documents", "documents", None);
    let mut documents = open_documents(run, documents).await?;
    let fingerprint = documents.fingerprint();
    if let Some(last) = &series.last
        && fingerprint.is_some()
        && series.documents == fingerprint
        && (reread == Reread::Never || last.documents.damaged.is_none() && last.complete)
    {
        return Ok((Head { documents: last.documents.clone(), fingerprint, records: Vec::new() }, None));
    }
    run.report.phase("reading documents", "documents", None);
    let (to, packed) = mpsc::channel(1);
    let reading = run.blocking(move |run| {
        read_documents(run, &mut documents, &mut |file| to.blocking_send(file).context("hand documents on"))
    });
    // It owns the receiver: when a request fails, the reader ends with the next file.
    let last = series.last.as_ref().map(|last| last.documents.clone()).unwrap_or_default();
    let sending = async move {
        let mut packed = packed;
        let mut set = DocumentSet::default();
        while let Some(file) = packed.recv().await {
            run.report.advance(file.documents);
            let same = |last: &&DocumentFile| {
                last.name == file.name && last.sha1 == file.sha1 && last.bytes == file.content.len() as u64
            };
            let key = if let Some(same) = last.files.iter().chain(&last.damaged).find(same) {
                same.key.clone()
            } else {
                let key = Key::in_point(point, &file.name);
                put_once(run, destination, &key, Bytes::from(file.content.clone())).await?;
                Some(key)
            };
            add(&mut set, &file, key);
        }
        anyhow::Ok(set)
    };
    let (read, sent) = tokio::join!(reading, sending);
    let documents = sent?;
    let needed = read?;
    Ok((Head { documents, fingerprint, records: Vec::new() }, Some(needed)))
}

/// Takes a packed file into a set.
pub fn add(set: &mut DocumentSet, packed: &PackedDocuments, key: Option<Key>) {
    let file = DocumentFile {
        name: packed.name.clone(),
        key,
        sha1: packed.sha1,
        bytes: packed.content.len() as u64,
        documents: packed.documents,
    };
    if packed.name == DAMAGED_DOCUMENTS {
        set.damaged = Some(file);
    } else {
        set.count += packed.documents;
        set.files.push(file);
    }
}

/// Brings the records to the directory of a new point, those that are not the same as in the last one.
pub async fn read_records(
    run: &RunContext,
    source: &RepositorySource,
    destination: &Destination,
    point: &PointName,
    series: &Series,
    mut head: Head,
    names: &[String],
) -> anyhow::Result<Head> {
    let last = series.last.as_ref().map(|last| last.records.as_slice()).unwrap_or_default();
    for name in names {
        let Some((mut record, content)) = load_record(run, &source.binaries, name).await? else { continue };
        let same = last.iter().find(|last| last.name == record.name && last.sha1 == record.sha1);
        record.key = if let Some(same) = same {
            same.key.clone()
        } else {
            let key = Key::in_point(point, &format!("records/{name}"));
            put_once(run, destination, &key, content).await?;
            Some(key)
        };
        head.records.push(record);
    }
    Ok(head)
}

/// Reads a record; one that cannot be is a problem, and one that is gone is none.
pub async fn load_record(
    run: &RunContext,
    store: &BinaryStore,
    name: &str,
) -> anyhow::Result<Option<(RecordFile, Bytes)>> {
    let (path, owned) = (store.root().join(name), name.to_owned());
    run.blocking(move |run| {
        let mut content = Vec::new();
        let read = open_regular(&path).and_then(|file| file.take(RECORD_LIMIT + 1).read_to_end(&mut content));
        let complaint = match read {
            Ok(read) if read as u64 > RECORD_LIMIT => "read record: it is larger than 16 MiB".to_owned(),
            Ok(_) => {
                let sha1 = Digest::of(Algorithm::Sha1, &content);
                let record = RecordFile { name: owned, key: None, sha1, bytes: content.len() as u64 };
                return Ok(Some((record, content.into())));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => format!("read record: {error}"),
        };
        run.report.count(|counts| counts.failed += 1);
        run.report.left_out("unreadable", path.display().to_string(), complaint);
        Ok(None)
    })
    .await
}
