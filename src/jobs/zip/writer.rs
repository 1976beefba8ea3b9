//! Writes an archive from the first byte to the last, without ever going back.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::jobs::zip::format::{Announced, End, Header, Sums, is_wide, put_descriptor, put_local, to_u64};
use crate::jobs::zip::packed::Packed;
use crate::jobs::zip::{Method, may_follow};
use crate::model::archive::EntryName;

/// What is tried first, to find out whether compressing helps at all: images, films and PDF files do not shrink.
const SAMPLE_BYTES: usize = 32 * 1024;
/// Content this small gains less than a reader's work for it.
const MIN_DEFLATED_BYTES: usize = 128;
const BUFFER_BYTES: usize = 128 * 1024;
/// Enough to tell what shrinks, at a fraction of the time.
const SAMPLE_LEVEL: Compression = Compression::new(1);
/// Within half a per cent of level 6 on programs, sources and text, and up to 1.7 times as fast; measured on all levels.
const LEVEL: Compression = Compression::new(5);

/// Why an archive cannot be written on.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Entries have one order; nothing has been written.
    #[error("add `{name}` to the archive: it comes twice or out of order")]
    Order {
        /// The later of the two.
        name: EntryName,
    },
    /// No reader would take an entry of this name; nothing has been written.
    #[error("add `{name}` to the archive: not a name for an entry")]
    Name {
        /// The name that does not read back as itself.
        name: EntryName,
    },
    /// The content is not what it was when its size and CRC were taken. The volume cannot be used.
    #[error("add `{name}` to the archive: its content changed meanwhile, {what}")]
    Changed {
        /// The entry.
        name: EntryName,
        /// How that shows.
        what: String,
    },
    /// The content could not be read. The volume cannot be used.
    #[error("read the content of `{name}`")]
    Content {
        /// The entry.
        name: EntryName,
        /// Why.
        source: io::Error,
    },
    /// The archive could not be written. The volume cannot be used.
    #[error("write archive")]
    Write(#[source] io::Error),
    /// An earlier error left an unfinished entry behind.
    #[error("write archive: an earlier entry is unfinished")]
    Unfinished,
}

/// Writes entries and, at the end, the central directory; the same entries always give the same bytes.
///
/// Headers and content are written separately, so `inner` should gather small writes.
pub struct Writer<W> {
    inner: W,
    written: u64,
    entries: u64,
    directory_bytes: u64,
    directory: Packed,
    last: Option<EntryName>,
    /// Set while an entry is being written, and so for good if that fails.
    unfinished: bool,
    sampler: Compress,
    compress: Compress,
    header: Vec<u8>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// A writer of the archive that begins where `inner` stands.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            written: 0,
            entries: 0,
            directory_bytes: 0,
            directory: Packed::default(),
            last: None,
            unfinished: false,
            sampler: Compress::new(SAMPLE_LEVEL, false),
            compress: Compress::new(LEVEL, false),
            header: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// How many bytes have been written so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// How many entries have been added.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many bytes [`Writer::finish`] would add now, exactly.
    pub fn closing_bytes(&self) -> u64 {
        self.directory_bytes + self.end().tail_bytes()
    }

    /// Adds content that lies in memory, compressed where that makes it smaller.
    pub fn add_bytes(&mut self, name: &EntryName, content: &[u8]) -> Result<(), WriteError> {
        self.check_name(name)?;
        let mut output = std::mem::take(&mut self.output);
        let compressed = self.deflate_if_smaller(content, &mut output);
        let result = self.add_content(name, content, compressed.map(|bytes| &output[..bytes]));
        self.output = output;
        result
    }

    /// Adds content whose `size` and `crc32` an earlier pass has found, as it is.
    pub fn add_stored(
        &mut self,
        name: &EntryName,
        size: u64,
        crc32: u32,
        content: &mut dyn Read,
    ) -> Result<(), WriteError> {
        self.check_name(name)?;
        let sums = Sums { crc32, compressed: size, size };
        self.begin(name, Method::Stored, Announced::Exact(sums))?;
        let mut checked = Checked::new(name, sums, content);
        let mut buffer = self.take_input();
        loop {
            let count = checked.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.write(&buffer[..count])?;
        }
        self.input = buffer;
        self.end_entry(Header { name: name.clone(), method: Method::Stored, streamed: false, sums });
        Ok(())
    }

    /// Adds content whose `size` and `crc32` an earlier pass has found, compressed; for content that is large and
    /// shrinks. Its compressed size is only known afterwards, so it stands in a data descriptor.
    pub fn add_deflated(
        &mut self,
        name: &EntryName,
        size: u64,
        crc32: u32,
        content: &mut dyn Read,
    ) -> Result<(), WriteError> {
        self.check_name(name)?;
        let wide = is_wide(size);
        self.begin(name, Method::Deflated, Announced::Later { wide })?;
        let mut sums = Sums { crc32, compressed: 0, size };
        let mut checked = Checked::new(name, sums, content);
        let mut input = self.take_input();
        let mut output = std::mem::take(&mut self.output);
        output.resize(output.len().max(BUFFER_BYTES), 0);
        self.compress.reset();
        loop {
            let count = checked.read(&mut input)?;
            let flush = if count == 0 { FlushCompress::Finish } else { FlushCompress::None };
            let mut rest = &input[..count];
            loop {
                let (status, used, made) = deflate(&mut self.compress, rest, &mut output[..BUFFER_BYTES], flush);
                self.write(&output[..made])?;
                sums.compressed += to_u64(made);
                rest = &rest[used..];
                let drained = if count == 0 { status == Status::StreamEnd } else { rest.is_empty() };
                if drained {
                    break;
                }
            }
            if count == 0 {
                break;
            }
        }
        self.input = input;
        self.output = output;
        self.header.clear();
        put_descriptor(sums, wide, &mut self.header);
        self.write_header()?;
        self.end_entry(Header { name: name.clone(), method: Method::Deflated, streamed: true, sums });
        Ok(())
    }

    /// Writes the central directory and the end records; without it there is no archive.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if self.unfinished {
            return Err(WriteError::Unfinished);
        }
        let end = self.end();
        let directory = std::mem::take(&mut self.directory);
        let mut offset = 0;
        self.header.clear();
        for header in directory.iter() {
            header.put_central(offset, &mut self.header);
            offset += header.span();
            if self.header.len() >= BUFFER_BYTES {
                self.write_header()?;
                self.header.clear();
            }
        }
        end.put(&mut self.header);
        self.write_header()?;
        self.inner.flush().map_err(WriteError::Write)?;
        Ok(self.inner)
    }

    const fn end(&self) -> End {
        End { entries: self.entries, bytes: self.directory_bytes, offset: self.written }
    }

    fn check_name(&self, name: &EntryName) -> Result<(), WriteError> {
        if self.unfinished {
            return Err(WriteError::Unfinished);
        }
        if EntryName::parse(&name.to_string()).as_ref() != Some(name) {
            return Err(WriteError::Name { name: name.clone() });
        }
        if !may_follow(self.last.as_ref(), name) {
            return Err(WriteError::Order { name: name.clone() });
        }
        Ok(())
    }

    fn begin(&mut self, name: &EntryName, method: Method, announced: Announced) -> Result<(), WriteError> {
        self.unfinished = true;
        self.header.clear();
        put_local(name, method, announced, &mut self.header);
        self.write_header()
    }

    fn end_entry(&mut self, header: Header) {
        let offset = self.written - header.span();
        self.directory_bytes += header.central_bytes(offset);
        self.directory.push(&header);
        self.entries += 1;
        self.last = Some(header.name);
        self.unfinished = false;
    }

    fn add_content(&mut self, name: &EntryName, content: &[u8], deflated: Option<&[u8]>) -> Result<(), WriteError> {
        let method = if deflated.is_some() { Method::Deflated } else { Method::Stored };
        let bytes = deflated.unwrap_or(content);
        let sums =
            Sums { crc32: crc32fast::hash(content), compressed: to_u64(bytes.len()), size: to_u64(content.len()) };
        self.begin(name, method, Announced::Exact(sums))?;
        self.write(bytes)?;
        self.end_entry(Header { name: name.clone(), method, streamed: false, sums });
        Ok(())
    }

    /// How many bytes at the front of `output` are `content` compressed; none if that is not worth it.
    fn deflate_if_smaller(&mut self, content: &[u8], output: &mut Vec<u8>) -> Option<usize> {
        if content.len() < MIN_DEFLATED_BYTES {
            return None;
        }
        if !self.is_worth_deflating(content, output) {
            return None;
        }
        let made = deflate_whole(&mut self.compress, content, output);
        (made < content.len()).then_some(made)
    }

    /// Whether content that begins like this gets at least a tenth smaller.
    pub fn would_shrink(&mut self, beginning: &[u8]) -> bool {
        let mut output = std::mem::take(&mut self.output);
        let shrinks = self.is_worth_deflating(beginning, &mut output);
        self.output = output;
        shrinks
    }

    fn is_worth_deflating(&mut self, content: &[u8], output: &mut Vec<u8>) -> bool {
        let sample = &content[..content.len().min(SAMPLE_BYTES)];
        if looks_random(sample) {
            return false;
        }
        let tried = deflate_whole(&mut self.sampler, sample, output);
        tried <= sample.len() - sample.len() / 10
    }

    /// The buffer for content that is read; put back after use.
    fn take_input(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.input);
        buffer.resize(BUFFER_BYTES, 0);
        buffer
    }

    fn write_header(&mut self) -> Result<(), WriteError> {
        self.inner.write_all(&self.header).map_err(WriteError::Write)?;
        self.written += to_u64(self.header.len());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.inner.write_all(bytes).map_err(WriteError::Write)?;
        self.written += to_u64(bytes.len());
        Ok(())
    }
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("written", &self.written)
            .field("entries", &self.entries)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

/// Whether the bytes are spread so evenly that compressing them is not even tried: a count of bytes costs a
/// twentieth of the trial, and most binaries of a repository are compressed already.
fn looks_random(sample: &[u8]) -> bool {
    /// Below, even random bytes are spread unevenly.
    const ENOUGH: usize = 2048;
    /// In bits a byte; random bytes come to 7.9 and more, packed images and films to little less.
    const EVEN: f64 = 7.8;
    if sample.len() < ENOUGH {
        return false;
    }
    let sample = &sample[..sample.len().min(4 * ENOUGH)];
    let mut counts = [0_u32; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let total = f64::from(u32::try_from(sample.len()).expect("at most 8 KiB"));
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum();
    bits > EVEN
}

/// Content that must come to the sums an earlier pass found.
struct Checked<'a> {
    name: &'a EntryName,
    sums: Sums,
    content: &'a mut dyn Read,
    crc: crc32fast::Hasher,
    left: u64,
}

impl<'a> Checked<'a> {
    fn new(name: &'a EntryName, sums: Sums, content: &'a mut dyn Read) -> Self {
        Self { name, sums, content, crc: crc32fast::Hasher::new(), left: sums.size }
    }

    /// The next bytes; at the end, where there are none, everything has been checked.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, WriteError> {
        if self.left == 0 {
            self.check_end()?;
            return Ok(0);
        }
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        // The buffer is filled, so that the pieces, and what they compress to, do not depend on the reader's.
        let mut filled = 0;
        while filled < wanted {
            let count = self.read_some(&mut buffer[filled..wanted])?;
            if count == 0 {
                let missing = self.left - to_u64(filled);
                return Err(self.changed(format!("it is {missing} bytes shorter")));
            }
            filled += count;
        }
        self.crc.update(&buffer[..filled]);
        self.left -= to_u64(filled);
        Ok(filled)
    }

    fn check_end(&mut self) -> Result<(), WriteError> {
        if self.read_some(&mut [0])? != 0 {
            return Err(self.changed(format!("it has more than {} bytes", self.sums.size)));
        }
        let crc32 = self.crc.clone().finalize();
        if crc32 != self.sums.crc32 {
            return Err(self.changed(format!("its CRC-32 is {crc32:08x} instead of {:08x}", self.sums.crc32)));
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, WriteError> {
        loop {
            match self.content.read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(WriteError::Content { name: self.name.clone(), source }),
            }
        }
    }

    fn changed(&self, what: String) -> WriteError {
        WriteError::Changed { name: self.name.clone(), what }
    }
}

/// Compresses `content` to the front of `output`, which grows to hold it: how many bytes it came to.
///
/// It goes on to the end even where it gains nothing: a compressor of zlib-rs 0.6.8 that is reset before its end
/// keeps an offset into its pending bytes, and a later stream runs over the end of that buffer and panics.
fn deflate_whole(compress: &mut Compress, content: &[u8], output: &mut Vec<u8>) -> usize {
    compress.reset();
    // The fastest level spells every byte in nine bits at worst.
    let room = content.len() + content.len() / 8 + 64;
    output.resize(output.len().max(room), 0);
    let (mut read, mut made) = (0, 0);
    loop {
        let (status, used, more) = deflate(compress, &content[read..], &mut output[made..], FlushCompress::Finish);
        read += used;
        made += more;
        if status == Status::StreamEnd {
            return made;
        }
        if made == output.len() {
            output.resize(made + BUFFER_BYTES, 0);
        }
    }
}

/// One step: how many bytes it took and how many it made.
fn deflate(compress: &mut Compress, content: &[u8], output: &mut [u8], flush: FlushCompress) -> (Status, usize, usize) {
    let (before_in, before_out) = (compress.total_in(), compress.total_out());
    let status = compress.compress(content, output, flush).expect("a compressor that was reset is in a sound state");
    let step = |after: u64, before: u64| usize::try_from(after - before).expect("no more than the buffers hold");
    (status, step(compress.total_in(), before_in), step(compress.total_out(), before_out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    const fn binary(first: u8) -> EntryName {
        EntryName::Binary(Digest::Sha1([first; 20]))
    }

    #[test]
    fn entries_out_of_order_are_refused_and_do_no_harm() {
        let record = |name: &str| EntryName::Record(name.to_owned());
        let order = [
            EntryName::Documents(7),
            EntryName::Documents(9),
            EntryName::DamagedDocuments,
            record("a"),
            record("b"),
            binary(1),
            EntryName::Binary(Digest::Sha256([1; 32])),
            binary(2),
            EntryName::ChangesSummary,
        ];
        let mut writer = Writer::new(Vec::new());
        for (position, name) in order.iter().enumerate() {
            writer.add_bytes(name, b"content").unwrap();
            for earlier in &order[..=position] {
                let error = writer.add_bytes(earlier, b"content").unwrap_err();
                assert!(matches!(&error, WriteError::Order { name } if name == earlier), "{error}");
            }
        }
        assert_eq!(writer.entries(), 9);
        writer.finish().unwrap();
    }

    #[test]
    fn a_name_that_no_reader_takes_is_refused() {
        for name in [EntryName::Record("../x".to_owned()), EntryName::Documents(1_000_000)] {
            let error = Writer::new(Vec::new()).add_bytes(&name, b"").unwrap_err();
            assert!(matches!(error, WriteError::Name { .. }), "{error}");
        }
    }

    #[test]
    fn changed_content_is_noticed_and_spoils_the_volume() {
        let crc32 = crc32fast::hash(b"content");
        for (size, crc32, what) in [
            (6, crc32, "it has more than 6 bytes".to_owned()),
            (9, crc32, "it is 2 bytes shorter".to_owned()),
            (7, 1, format!("its CRC-32 is {crc32:08x} instead of 00000001")),
        ] {
            for deflated in [false, true] {
                let mut writer = Writer::new(Vec::new());
                let content: &mut dyn Read = &mut &b"content"[..];
                let result = if deflated {
                    writer.add_deflated(&binary(1), size, crc32, content)
                } else {
                    writer.add_stored(&binary(1), size, crc32, content)
                };
                let error = result.unwrap_err();
                assert!(matches!(&error, WriteError::Changed { what: found, .. } if *found == what), "{error}");
                assert!(matches!(writer.add_bytes(&binary(2), b""), Err(WriteError::Unfinished)));
                assert!(matches!(writer.finish(), Err(WriteError::Unfinished)));
            }
        }
    }

    #[test]
    fn an_unreadable_content_is_told_from_an_unwritable_archive() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("no medium"))
            }
        }
        let error = Writer::new(Vec::new()).add_stored(&binary(1), 7, 0, &mut Broken).unwrap_err();
        assert!(matches!(error, WriteError::Content { .. }), "{error}");
        let mut full = [0; 50];
        let error = Writer::new(&mut full[..]).add_bytes(&binary(1), b"content").unwrap_err();
        assert!(matches!(error, WriteError::Write(_)), "{error}");
    }
}
