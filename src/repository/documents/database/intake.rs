//! Rows of a table become documents in files; those that do not are kept beside them as they are.

use serde_json::json;

use super::METADATA;
use super::content::to_text;
use crate::model::document::scan;
use crate::repository::documents::DocumentReport;
use crate::repository::documents::NAMED_PROBLEMS;
use crate::repository::documents::PackedDocuments;
use crate::repository::documents::listing::problem;
use crate::repository::documents::pack::Packer;
use crate::repository::documents::survey::Noted;
use crate::repository::documents::survey::SHOWN_ID;

/// How many documents are held back for the end: a repository has one that belongs there.
const HELD_BACK: usize = 16;

pub(in crate::repository::documents) struct Intake<'a> {
    packer: Packer<'a>,
    losses: Noted,
    last: Vec<Vec<u8>>,
    rows: u64,
    text: Vec<u8>,
    spare: Vec<u8>,
}

impl<'a> Intake<'a> {
    pub(in crate::repository::documents) fn new(
        sink: &'a mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
    ) -> Self {
        let packer = Packer::new(sink);
        Self { packer, losses: Noted::default(), last: Vec::new(), rows: 0, text: Vec::new(), spare: Vec::new() }
    }

    /// Takes a row.
    pub(in crate::repository::documents) fn take(&mut self, id: &[u8], content: &[u8]) -> anyhow::Result<()> {
        match self.judge(id, content) {
            Ok(()) if id.ends_with(METADATA.as_bytes()) && self.last.len() < HELD_BACK => {
                self.rows += 1;
                self.last.push(self.text.clone());
                Ok(())
            }
            Ok(()) => {
                self.rows += 1;
                self.packer.add(&self.text)
            }
            Err(why) => {
                self.begin_damaged(id, &why)?;
                for piece in content.chunks(super::PIECE_BYTES / 3 * 3) {
                    self.damaged_piece(piece)?;
                }
                self.end_damaged()
            }
        }
    }

    /// Begins a row that is no document: what it holds follows in pieces, all but the last of a multiple of three
    /// bytes. It is kept as a line of JSON, in base64.
    pub(in crate::repository::documents) fn begin_damaged(&mut self, id: &[u8], why: &str) -> anyhow::Result<()> {
        self.rows += 1;
        let id = String::from_utf8_lossy(id);
        self.losses.note(|| {
            let shown: String = id.chars().take(SHOWN_ID).collect();
            problem("damaged", &shown, format!("this document cannot be written as text, and is kept as it is: {why}"))
        });
        let [id, why] = [json!(id), json!(why)];
        self.packer.aside(format!("{{\"id\":{id},\"problem\":{why},\"content\":\"").as_bytes(), true)
    }

    pub(in crate::repository::documents) fn damaged_piece(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.packer.aside(base64_simd::STANDARD.encode_to_string(piece).as_bytes(), false)
    }

    pub(in crate::repository::documents) fn end_damaged(&mut self) -> anyhow::Result<()> {
        self.packer.aside(b"\"}\n", false)
    }

    /// How many rows were taken.
    pub(in crate::repository::documents) fn rows(&self) -> u64 {
        self.rows
    }

    /// Hands over what is left.
    pub(in crate::repository::documents) fn finish(mut self) -> anyhow::Result<DocumentReport> {
        for text in &self.last {
            self.packer.add(text)?;
        }
        let packed = self.packer.finish()?;
        let mut problems = self.losses.named;
        problems.truncate(NAMED_PROBLEMS);
        Ok(DocumentReport {
            documents: packed.documents,
            duplicates: 0,
            conflicting: 0,
            damaged: self.losses.count,
            warnings: 0,
            losses: self.losses.count,
            problems,
            content_sha1: packed.content_sha1,
        })
    }

    /// Makes the text; the error says why it is none.
    fn judge(&mut self, id: &[u8], content: &[u8]) -> Result<(), String> {
        to_text(content, &mut self.text, &mut self.spare)?;
        // What is kept is judged as every line is that comes from elsewhere.
        let scanned = scan(&self.text).map_err(|error| format!("it is no document of ModeShape's: {error}"))?;
        if scanned.id.as_bytes() != id {
            let other: String = scanned.id.chars().take(SHOWN_ID).collect();
            return Err(format!("it says that its id is `{other}`"));
        }
        Ok(())
    }
}
