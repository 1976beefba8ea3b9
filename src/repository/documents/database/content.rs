//! What stands in the column of a document: BSON, or a gzip file of it. Nothing but the value itself says which.

use std::io::Read as _;
use std::io::Write as _;

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use super::CONTENT_LIMIT;
use crate::model::bson::BsonError;
use crate::model::bson::to_json;
use crate::model::database::DocumentTable;

/// How a table keeps its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::repository::documents) enum Compression {
    /// As they are.
    None,
    /// Each as a gzip file.
    Gzip,
}

impl Compression {
    /// What the configuration says of a table, if it does.
    pub(in crate::repository::documents) fn set_for(table: &DocumentTable) -> Option<Self> {
        table.compress.map(|compress| if compress { Self::Gzip } else { Self::None })
    }
}

/// How a value is compressed, by its first four bytes and its length; none if it is nothing that is known.
///
/// BSON begins with its own length, which may look like the beginning of a gzip file.
pub(in crate::repository::documents) fn compression_of(beginning: &[u8], len: usize) -> Option<Compression> {
    let says: [u8; 4] = *beginning.first_chunk()?;
    if usize::try_from(u32::from_le_bytes(says)) == Ok(len) {
        Some(Compression::None)
    } else {
        says.starts_with(&[0x1f, 0x8b]).then_some(Compression::Gzip)
    }
}

/// Writes the text of the document to `text`; `spare` is for unpacking. The error says why there is none.
pub(super) fn to_text(content: &[u8], text: &mut Vec<u8>, spare: &mut Vec<u8>) -> Result<(), String> {
    text.clear();
    let damaged = |error: BsonError| format!("its BSON is damaged: {error}");
    match compression_of(content, content.len()) {
        Some(Compression::None) => to_json(content, text).or_else(|error| {
            // One in four thousand million gzip files of a certain length looks like BSON.
            text.clear();
            if unpack(content, spare).is_err() {
                return Err(damaged(error));
            }
            to_json(spare, text).map_err(damaged)
        })?,
        Some(Compression::Gzip) => {
            unpack(content, spare)?;
            to_json(spare, text).map_err(damaged)?;
        }
        None => return Err("it is neither BSON nor a gzip file".to_owned()),
    }
    if text.len() > CONTENT_LIMIT { Err("its text is longer than 64 MiB".to_owned()) } else { Ok(()) }
}

fn unpack(content: &[u8], into: &mut Vec<u8>) -> Result<(), String> {
    into.clear();
    let mut gzip = GzDecoder::new(content);
    let limit = CONTENT_LIMIT as u64 + 1;
    gzip.by_ref().take(limit).read_to_end(into).map_err(|error| format!("its gzip stream is damaged: {error}"))?;
    if into.len() > CONTENT_LIMIT {
        return Err("it is larger than 64 MiB when unpacked".to_owned());
    }
    // Reading on past the end is what checks the sum.
    match (gzip.read(&mut [0]), gzip.into_inner().is_empty()) {
        (Ok(0), true) => Ok(()),
        (Err(error), _) => Err(format!("its gzip stream is damaged: {error}")),
        _ => Err("something follows its gzip stream".to_owned()),
    }
}

/// A document as a table keeps it that compresses.
pub(in crate::repository::documents) fn gzip(bson: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bson.len() / 2), flate2::Compression::new(6));
    encoder.write_all(bson).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: &[u8]) -> Result<String, String> {
        let (mut text, mut spare) = (Vec::new(), Vec::new());
        to_text(content, &mut text, &mut spare).map(|()| String::from_utf8(text).unwrap())
    }

    /// `{ "s" : "aaa…" }` of so many bytes.
    fn bson_of(len: usize) -> Vec<u8> {
        let inner = len - 4 - 1 - 3 - 4;
        let [len, text] = [len, inner].map(|len| u32::try_from(len).unwrap().to_le_bytes());
        [&len[..], b"\x02s\0", &text, &vec![b'a'; inner - 1], &[0, 0]].concat()
    }

    #[test]
    fn bson_is_read_plain_and_as_gzip() {
        let bson = bson_of(40);
        let expected = Ok(format!("{{ \"s\" : \"{}\" }}", "a".repeat(27)));
        assert_eq!(text(&bson), expected);
        assert_eq!(text(&gzip(&bson)), expected);
    }

    #[test]
    fn bson_that_begins_like_a_gzip_file_is_bson() {
        let bson = bson_of(35_615);
        assert!(bson.starts_with(&[0x1f, 0x8b]));
        assert_eq!(compression_of(&bson, bson.len()), Some(Compression::None));
        assert!(text(&bson).is_ok());
    }

    #[test]
    fn a_gzip_file_as_long_as_its_first_bytes_say_is_a_gzip_file() {
        // Such a header, read as a length.
        let len = 0x0008_8b1f;
        let stored = |bson: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::none());
            encoder.write_all(bson).unwrap();
            encoder.finish().unwrap()
        };
        let content = (len - 200..len).map(|size| stored(&bson_of(size))).find(|content| content.len() == len).unwrap();
        assert_eq!(compression_of(&content, content.len()), Some(Compression::None));
        assert!(text(&content).unwrap().starts_with("{ \"s\" : \"aaa"));
    }

    #[test]
    fn what_is_no_document_is_refused_in_words() {
        let packed = gzip(&bson_of(40));
        let mut wrong_sum = packed.clone();
        let sum = wrong_sum.len() - 8;
        wrong_sum[sum] ^= 1;
        for (content, expected) in [
            (&b""[..], "it is neither BSON nor a gzip file"),
            (b"\x1f\x8b\x08", "it is neither BSON nor a gzip file"),
            (b"hello world", "it is neither BSON nor a gzip file"),
            (&packed[..packed.len() - 9], "its gzip stream is damaged"),
            (&wrong_sum, "its gzip stream is damaged"),
            (&[&packed[..], b"x"].concat(), "something follows its gzip stream"),
            (&gzip(b"hello"), "its BSON is damaged"),
            (&gzip(&vec![0; CONTENT_LIMIT + 1]), "it is larger than 64 MiB when unpacked"),
        ] {
            let error = text(content).unwrap_err();
            assert!(error.starts_with(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_text_that_grows_beyond_a_line_is_refused() {
        let mut bson = bson_of(CONTENT_LIMIT / 2);
        let end = bson.len() - 2;
        bson[11..end].fill(b'\x01');
        assert_eq!(text(&bson).unwrap_err(), "its text is longer than 64 MiB");
    }
}
