//! The thread that compresses: it takes documents in batches, and answers each with the files that became full.

use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;

use super::Pack;
use crate::model::archive::documents_name;
use crate::model::digest::Algorithm;
use crate::model::digest::Digest;
use crate::model::digest::Hasher;
use crate::model::references::references;
use crate::repository::documents::PackedDocuments;

/// How much text a batch holds, unless a single document is larger.
pub(super) const BATCH_BYTES: usize = 256 << 10;
/// How many batches may be with the thread.
pub(super) const BATCHES_AHEAD: usize = 2;

/// Documents, each with its newline.
#[derive(Default)]
pub(super) struct Batch {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether it is to hold this document too.
    pub(super) fn has_room_for(&self, document: &[u8]) -> bool {
        self.is_empty() || self.text.len() + document.len() < BATCH_BYTES
    }

    pub(super) fn add(&mut self, document: &[u8]) {
        if self.text.capacity() == 0 {
            self.text.reserve_exact(BATCH_BYTES.max(document.len() + 1));
        }
        self.text.extend_from_slice(document);
        self.text.push(b'\n');
        self.ends.push(self.text.len());
    }
}

/// What is left when there are no more batches.
pub(super) struct Compressed {
    /// The file that did not become full, unless there are no documents.
    pub(super) last: Option<PackedDocuments>,
    /// How many there were in all.
    pub(super) documents: u64,
    /// The SHA-1 over all of them.
    pub(super) content_sha1: Digest,
}

pub(super) fn compress(batches: &Receiver<Batch>, answers: &SyncSender<Vec<PackedDocuments>>) -> Compressed {
    let mut file: Option<Pack> = None;
    let mut files = 0;
    let mut documents = 0;
    let mut content = Hasher::new(Algorithm::Sha1);
    let mut finish = |file: Pack| {
        files += 1;
        file.finish(documents_name(files))
    };
    for Batch { text, ends } in batches {
        content.update(&text);
        let mut full = Vec::new();
        let mut begin = 0;
        for end in ends {
            let line = &text[begin..end];
            begin = end;
            if let Some(before) = file.take_if(|file| !file.has_room_for(line)) {
                full.push(finish(before));
            }
            let file = file.get_or_insert_with(Pack::new);
            file.write(line);
            references(line, |digest| file.references.push(digest));
            file.lines += 1;
            documents += 1;
        }
        if answers.send(full).is_err() {
            // Nobody wants the rest.
            break;
        }
    }
    Compressed { last: file.map(finish), documents, content_sha1: content.finish() }
}
