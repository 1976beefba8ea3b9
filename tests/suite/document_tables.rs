//! What the tests of all databases with documents share.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use holdfast::model::bson::from_json;
use holdfast::model::database::DocumentTable;
use holdfast::repository::documents::{DocumentReport, DocumentSource, Earlier, PackedDocuments};
use serde_json::Value;

pub(crate) const REFERENCE: &str = r#"{ "metadata" : { "id" : "6aa9bf7df2242ef867558584c02160023a96f2f9-ref" } , "content" : { "sha1" : "6aa9bf7df2242ef867558584c02160023a96f2f9" , "refCount" : 1 } }"#;
pub(crate) const METADATA: &str = r#"{ "metadata" : { "id" : "87a0a8c317f1e7jcr:system/mode:metadata" } , "content" : { "key" : "87a0a8c317f1e7jcr:system/mode:metadata" , "properties" : { "" : { "workspaces" : [ "default" ] , "accessControl" : false } } } }"#;

/// What a reading gave.
pub(crate) struct Read {
    pub(crate) report: DocumentReport,
    pub(crate) files: Vec<PackedDocuments>,
    pub(crate) fingerprint: String,
}

impl Read {
    /// The lines of the documents, in the order in which they are in the files.
    pub(crate) fn lines(&self) -> Vec<String> {
        let of = |file: &PackedDocuments| unpacked(&file.content);
        let documents = self.files.iter().filter(|file| file.name.starts_with("documents_")).map(of);
        documents.collect::<String>().lines().map(str::to_owned).collect()
    }

    pub(crate) fn damaged(&self) -> Vec<Value> {
        let file = self.files.iter().find(|file| file.name.starts_with("damaged/"));
        let lines = file.map(|file| unpacked(&file.content)).unwrap_or_default();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn unpacked(gzip: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(gzip).read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn try_read(table: &DocumentTable, stop: &dyn Fn() -> bool) -> anyhow::Result<Read> {
    let mut open = DocumentSource::Table(table.clone()).open(stop)?;
    let mut files = Vec::new();
    let mut seen: HashMap<[u8; 16], Earlier> = HashMap::new();
    let report = open.read(&mut seen, stop, &mut |file| {
        files.push(file);
        Ok(())
    })?;
    Ok(Read { report, files, fingerprint: open.fingerprint().unwrap() })
}

pub(crate) fn read(table: &DocumentTable) -> Read {
    try_read(table, &|| false).unwrap_or_else(|error| panic!("{error:#}"))
}

pub(crate) fn read_error(table: &DocumentTable) -> String {
    format!("{:#}", try_read(table, &|| false).err().expect("an error"))
}

pub(crate) fn replace(table: &DocumentTable, lines: &[String]) -> anyhow::Result<()> {
    let mut sink = table.replace(&|| false)?;
    for line in lines {
        sink.write(line.as_bytes(), &|| false)?;
    }
    sink.finish(&|| false)?;
    sink.commit()
}

/// Says that something has ended when it is dropped.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap());
    bytes.iter().flat_map(digits).collect()
}

/// A line of documents.
pub(crate) fn line(id: &str, content: &str) -> String {
    format!("{{ \"metadata\" : {{ \"id\" : \"{id}\" }} , \"content\" : {content} }}")
}

/// The BSON of a line.
pub(crate) fn bson(line: &str) -> Vec<u8> {
    let mut bson = Vec::new();
    from_json(line.as_bytes(), &mut bson).unwrap_or_else(|error| panic!("{line}: {error}"));
    bson
}
