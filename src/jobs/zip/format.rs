//! The records of a ZIP file as bytes. The writer writes them, and the reader writes them again to compare.

use std::io::{self, Read};

use crate::jobs::zip::{Method, ReadError};
use crate::model::archive::EntryName;

pub(super) const LOCAL_SIGNATURE: [u8; 4] = *b"PK\x03\x04";
pub(super) const CENTRAL_SIGNATURE: [u8; 4] = *b"PK\x01\x02";
pub(super) const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
pub(super) const END64_SIGNATURE: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_SIGNATURE: [u8; 4] = *b"PK\x06\x07";
const DESCRIPTOR_SIGNATURE: [u8; 4] = *b"PK\x07\x08";

pub(super) const LOCAL_BYTES: usize = 30;
pub(super) const CENTRAL_BYTES: usize = 46;
pub(super) const END_BYTES: usize = 22;
pub(super) const LOCATOR_BYTES: usize = 20;
pub(super) const END64_BYTES: usize = 56;

/// No name of ours is longer than 263 bytes; a longer one is refused before memory is set aside for it.
const MAX_NAME_BYTES: u16 = 512;
/// The longest extra field of ours is 28 bytes: three numbers in a ZIP64 field.
const MAX_EXTRA_BYTES: u16 = 64;

const FLAG_ENCRYPTED: u16 = 1 << 0;
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// 1 January 1980, the first day that DOS knows. A real time would make two backups of the same data differ.
const DOS_DATE: u16 = (1 << 5) | 1;
const ZIP64_TAG: u16 = 1;
const VERSION_ZIP64: u16 = 45;
/// Made on UNIX (3), so that the file's mode is read.
const MADE_BY: u16 = (3 << 8) | VERSION_ZIP64;
/// A regular file, readable by all.
const MODE: u16 = 0o100_644;
const MODE_TYPE: u16 = 0o170_000;
const MODE_REGULAR: u16 = 0o100_000;

/// From this size on, the sizes after a streamed entry are 64 bits wide. DEFLATE makes nothing a third larger, so
/// below it both fit into 32, which more programs that read a ZIP file as a stream understand.
const WIDE_FROM: u64 = 3 << 30;

/// What an entry's content came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) crc32: u32,
    pub(super) compressed: u64,
    pub(super) size: u64,
}

/// What stands before the content about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    Exact(Sums),
    /// A data descriptor follows the content.
    Later {
        wide: bool,
    },
}

/// All that the headers say of an entry; the bytes of its headers follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: EntryName,
    pub(super) method: Method,
    /// Whether the sums stand in a data descriptor after the content.
    pub(super) streamed: bool,
    pub(super) sums: Sums,
}

impl Header {
    pub(super) const fn announced(&self) -> Announced {
        if self.streamed { Announced::Later { wide: is_wide(self.sums.size) } } else { Announced::Exact(self.sums) }
    }

    /// How many bytes the entry takes, from its local header to the next one's.
    pub(super) fn span(&self) -> u64 {
        let announced = self.announced();
        let extra = if announced.in_zip64() { 20 } else { 0 };
        let descriptor = match announced {
            Announced::Exact(_) => 0,
            Announced::Later { wide } => descriptor_bytes(wide),
        };
        to_u64(LOCAL_BYTES + self.name.to_string().len() + extra + descriptor).saturating_add(self.sums.compressed)
    }

    /// How many bytes it takes in the central directory.
    pub(super) fn central_bytes(&self, offset: u64) -> u64 {
        let large = self.large_numbers(offset).count();
        let extra = if large == 0 { 0 } else { 4 + 8 * large };
        to_u64(CENTRAL_BYTES + self.name.to_string().len() + extra)
    }

    pub(super) fn put_central(&self, offset: u64, out: &mut Vec<u8>) {
        let name = self.name.to_string();
        let large = self.large_numbers(offset).count();
        out.extend(CENTRAL_SIGNATURE);
        put16(out, MADE_BY);
        put16(out, if large > 0 { VERSION_ZIP64 } else { version_needed(self.method, self.announced()) });
        put_kind(out, self.method, self.streamed);
        put32(out, self.sums.crc32);
        put32(out, clip32(self.sums.compressed));
        put32(out, clip32(self.sums.size));
        put16(out, clip16(name.len()));
        put16(out, if large > 0 { clip16(4 + 8 * large) } else { 0 });
        put16(out, 0); // comment
        put16(out, 0); // disk
        put16(out, 0); // internal attributes
        put32(out, u32::from(MODE) << 16);
        put32(out, clip32(offset));
        out.extend(name.as_bytes());
        if large > 0 {
            put16(out, ZIP64_TAG);
            put16(out, clip16(8 * large));
            self.large_numbers(offset).for_each(|number| put64(out, number));
        }
    }

    /// The numbers that 32 bits do not hold, in the order that the ZIP64 field has them.
    fn large_numbers(&self, offset: u64) -> impl Iterator<Item = u64> {
        [self.sums.size, self.sums.compressed, offset].into_iter().filter(|number| is_large(*number))
    }
}

impl Announced {
    const fn in_zip64(self) -> bool {
        match self {
            Self::Exact(sums) => is_large(sums.size) || is_large(sums.compressed),
            Self::Later { wide } => wide,
        }
    }
}

pub(super) const fn is_wide(size: u64) -> bool {
    size >= WIDE_FROM
}

/// The value that fills a field says that the number is elsewhere, so it cannot stand for itself.
const fn is_large(number: u64) -> bool {
    number >= 0xFFFF_FFFF
}

pub(super) fn put_local(name: &EntryName, method: Method, announced: Announced, out: &mut Vec<u8>) {
    let name = name.to_string();
    let (streamed, sums) = match announced {
        Announced::Exact(sums) => (false, sums),
        Announced::Later { .. } => (true, Sums { crc32: 0, compressed: 0, size: 0 }),
    };
    let zip64 = announced.in_zip64();
    out.extend(LOCAL_SIGNATURE);
    put16(out, version_needed(method, announced));
    put_kind(out, method, streamed);
    put32(out, sums.crc32);
    put32(out, if zip64 { u32::MAX } else { clip32(sums.compressed) });
    put32(out, if zip64 { u32::MAX } else { clip32(sums.size) });
    put16(out, clip16(name.len()));
    put16(out, if zip64 { 20 } else { 0 });
    out.extend(name.as_bytes());
    if zip64 {
        put16(out, ZIP64_TAG);
        put16(out, 16);
        put64(out, sums.size);
        put64(out, sums.compressed);
    }
}

/// The fields that both headers have: flags, method, time and date.
fn put_kind(out: &mut Vec<u8>, method: Method, streamed: bool) {
    put16(out, if streamed { FLAG_DESCRIPTOR } else { 0 });
    put16(out, if method == Method::Deflated { 8 } else { 0 });
    put16(out, 0);
    put16(out, DOS_DATE);
}

const fn version_needed(method: Method, announced: Announced) -> u16 {
    match method {
        _ if announced.in_zip64() => VERSION_ZIP64,
        Method::Stored => 10,
        Method::Deflated => 20,
    }
}

const fn descriptor_bytes(wide: bool) -> usize {
    if wide { 24 } else { 16 }
}

pub(super) fn put_descriptor(sums: Sums, wide: bool, out: &mut Vec<u8>) {
    out.extend(DESCRIPTOR_SIGNATURE);
    put32(out, sums.crc32);
    for size in [sums.compressed, sums.size] {
        if wide { put64(out, size) } else { put32(out, clip32(size)) }
    }
}

/// Reads the data descriptor after a streamed entry; none if there is something else.
pub(super) fn read_descriptor(input: &mut impl Read, wide: bool) -> Result<Option<Sums>, Short> {
    let mut bytes = [0; 24];
    let bytes = &mut bytes[..descriptor_bytes(wide)];
    fill(input, bytes)?;
    let crc32 = u32_at(bytes, 4);
    let sums = if wide {
        Sums { crc32, compressed: u64_at(bytes, 8), size: u64_at(bytes, 16) }
    } else {
        Sums { crc32, compressed: u32_at(bytes, 8).into(), size: u32_at(bytes, 12).into() }
    };
    Ok(bytes.starts_with(&DESCRIPTOR_SIGNATURE).then_some(sums))
}

/// Where the central directory lies, which is what the records after it say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) offset: u64,
}

impl End {
    pub(super) const fn in_zip64(self) -> bool {
        self.entries >= 0xFFFF || is_large(self.bytes) || is_large(self.offset)
    }

    /// How many bytes follow the central directory.
    pub(super) fn tail_bytes(self) -> u64 {
        to_u64(END_BYTES + if self.in_zip64() { END64_BYTES + LOCATOR_BYTES } else { 0 })
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        if self.in_zip64() {
            out.extend(END64_SIGNATURE);
            put64(out, 44); // the length of what follows
            put16(out, MADE_BY);
            put16(out, VERSION_ZIP64);
            put32(out, 0); // this disk
            put32(out, 0); // the directory's disk
            put64(out, self.entries);
            put64(out, self.entries);
            put64(out, self.bytes);
            put64(out, self.offset);
            out.extend(LOCATOR_SIGNATURE);
            put32(out, 0); // its disk
            put64(out, self.offset.saturating_add(self.bytes));
            put32(out, 1); // how many disks
        }
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        out.extend(END_SIGNATURE);
        put16(out, 0); // this disk
        put16(out, 0); // the directory's disk
        put16(out, entries);
        put16(out, entries);
        put32(out, clip32(self.bytes));
        put32(out, clip32(self.offset));
        put16(out, 0); // comment
    }

    /// Refuses `bytes`, the records after the central directory, unless they are what `put` writes.
    pub(super) fn check(self, bytes: &[u8]) -> Result<(), ReadError> {
        let mut expected = Vec::with_capacity(bytes.len());
        self.put(&mut expected);
        let plain = bytes.last_chunk::<END_BYTES>().filter(|plain| plain.starts_with(&END_SIGNATURE));
        if plain.is_some_and(|plain| u32_at(plain, 4) != 0) {
            Err(ReadError::unsupported(DIRECTORY, "archive of several disks"))
        } else if plain.is_some_and(|plain| u16_at(plain, 20) != 0) {
            Err(ReadError::unsupported(DIRECTORY, "comment"))
        } else if expected == bytes {
            Ok(())
        } else {
            Err(ReadError::damaged(DIRECTORY, "its end records do not fit it"))
        }
    }

    /// What a plain end record says.
    pub(super) fn parse_plain(bytes: &[u8]) -> Self {
        Self { entries: u16_at(bytes, 10).into(), bytes: u32_at(bytes, 12).into(), offset: u32_at(bytes, 16).into() }
    }

    /// What a ZIP64 end record says.
    pub(super) fn parse_zip64(bytes: &[u8]) -> Self {
        Self { entries: u64_at(bytes, 32), bytes: u64_at(bytes, 40), offset: u64_at(bytes, 48) }
    }
}

/// Reads the local header that begins after its signature, and refuses all that `put_local` would not write.
pub(super) fn read_local(input: &mut impl Read, after: &str) -> Result<(EntryName, Method, Announced), ReadError> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend(LOCAL_SIGNATURE);
    extend(input, LOCAL_BYTES - 4, &mut bytes).map_err(|short| short.after(after))?;
    let name = read_name(input, u16_at(&bytes, 26), &mut bytes, after)?;
    let kind = Kind { flags: u16_at(&bytes, 6), method: u16_at(&bytes, 8) };
    let (method, streamed) = kind.parse(&name)?;
    let extra = read_extra(input, u16_at(&bytes, 28), &mut bytes, &name)?;
    let announced = match (streamed, extra.as_slice()) {
        (true, extra) => Announced::Later { wide: !extra.is_empty() },
        (false, []) => Announced::Exact(Sums {
            crc32: u32_at(&bytes, 14),
            compressed: u32_at(&bytes, 18).into(),
            size: u32_at(&bytes, 22).into(),
        }),
        (false, [size, compressed]) => {
            Announced::Exact(Sums { crc32: u32_at(&bytes, 14), compressed: *compressed, size: *size })
        }
        _ => return Err(ReadError::damaged(&name, "its header has other fields than Holdfast writes")),
    };
    if let Announced::Exact(Sums { compressed, size, .. }) = announced
        && method == Method::Stored
        && compressed != size
    {
        return Err(ReadError::damaged(&name, "it is stored, yet its two sizes differ"));
    }
    let mut canonical = Vec::with_capacity(bytes.len());
    put_local(&name, method, announced, &mut canonical);
    if canonical == bytes {
        Ok((name, method, announced))
    } else {
        Err(ReadError::damaged(&name, "its header is not as Holdfast writes it"))
    }
}

/// Reads the local header of an entry that the central directory lists: it has to be exactly that.
pub(super) fn read_announced(input: &mut impl Read, header: &Header) -> Result<(), ReadError> {
    let mut expected = Vec::with_capacity(128);
    put_local(&header.name, header.method, header.announced(), &mut expected);
    let mut bytes = vec![0; expected.len()];
    fill(input, &mut bytes).map_err(|short| short.after(&header.name))?;
    if bytes == expected {
        Ok(())
    } else {
        Err(ReadError::damaged(&header.name, "its header differs from what the central directory says"))
    }
}

/// Reads an entry of the central directory whose content should lie at `offset`, and refuses all that `put_central`
/// would not write. Its bytes are left in `bytes`.
pub(super) fn read_central(input: &mut impl Read, offset: u64, bytes: &mut Vec<u8>) -> Result<Header, ReadError> {
    let mut signature = [0; 4];
    fill(input, &mut signature).map_err(|short| short.after(DIRECTORY))?;
    read_central_after(signature, input, offset, bytes)
}

/// The same, when its first bytes have been read.
pub(super) fn read_central_after(
    signature: [u8; 4],
    input: &mut impl Read,
    offset: u64,
    bytes: &mut Vec<u8>,
) -> Result<Header, ReadError> {
    if signature != CENTRAL_SIGNATURE {
        return Err(ReadError::damaged(DIRECTORY, "it lists fewer entries than there are"));
    }
    bytes.clear();
    bytes.extend(signature);
    extend(input, CENTRAL_BYTES - 4, bytes).map_err(|short| short.after(DIRECTORY))?;
    let name = read_name(input, u16_at(bytes, 28), bytes, DIRECTORY)?;
    let kind = Kind { flags: u16_at(bytes, 8), method: u16_at(bytes, 10) };
    let (method, streamed) = kind.parse(&name)?;
    if u16_at(bytes, 34) != 0 {
        return Err(ReadError::unsupported(&name, "archive of several disks"));
    }
    if u16_at(bytes, 40) & MODE_TYPE != MODE_REGULAR {
        return Err(ReadError::Foreign { name: format!("{name} (a link, a directory or a device)") });
    }
    let mut large = read_extra(input, u16_at(bytes, 30), bytes, &name)?.into_iter();
    let mut number = |at: usize| match u32_at(bytes, at) {
        u32::MAX => large.next().unwrap_or(u32::MAX.into()),
        small => u64::from(small),
    };
    let (size, compressed, listed) = (number(24), number(20), number(42));
    let sums = Sums { crc32: u32_at(bytes, 16), compressed, size };
    let header = Header { name, method, streamed, sums };
    if listed != offset {
        let what = format!("it begins at byte {offset}, yet the central directory says {listed}");
        return Err(ReadError::damaged(&header.name, what));
    }
    let mut canonical = Vec::with_capacity(bytes.len());
    header.put_central(offset, &mut canonical);
    if canonical == *bytes && (method == Method::Deflated || compressed == size) {
        Ok(header)
    } else {
        Err(ReadError::damaged(&header.name, "its entry in the central directory is not as Holdfast writes it"))
    }
}

/// What errors about the whole directory name.
pub(super) const DIRECTORY: &str = "central directory";

struct Kind {
    flags: u16,
    method: u16,
}

impl Kind {
    fn parse(&self, name: &EntryName) -> Result<(Method, bool), ReadError> {
        let method = match self.method {
            0 => Method::Stored,
            8 => Method::Deflated,
            other => return Err(ReadError::unsupported(name, format!("method {other}"))),
        };
        match self.flags {
            0 => Ok((method, false)),
            FLAG_DESCRIPTOR if method == Method::Deflated => Ok((method, true)),
            FLAG_DESCRIPTOR => Err(ReadError::unsupported(name, "size after stored content, whose end nothing tells")),
            flags if flags & FLAG_ENCRYPTED != 0 => Err(ReadError::unsupported(name, "encryption")),
            flags => Err(ReadError::unsupported(name, format!("flags {flags:#06x}"))),
        }
    }
}

/// Reads a name of `length` bytes to the end of `bytes`.
fn read_name(input: &mut impl Read, length: u16, bytes: &mut Vec<u8>, after: &str) -> Result<EntryName, ReadError> {
    if length > MAX_NAME_BYTES {
        return Err(ReadError::Foreign { name: format!("… (a name of {length} bytes)") });
    }
    let start = bytes.len();
    extend(input, length.into(), bytes).map_err(|short| short.after(after))?;
    let name = &bytes[start..];
    std::str::from_utf8(name)
        .ok()
        .and_then(EntryName::parse)
        .ok_or_else(|| ReadError::Foreign { name: name.escape_ascii().to_string() })
}

/// Reads an extra field of `length` bytes to the end of `bytes`: the numbers in it, taken for a ZIP64 field.
fn read_extra(
    input: &mut impl Read,
    length: u16,
    bytes: &mut Vec<u8>,
    name: &EntryName,
) -> Result<Vec<u64>, ReadError> {
    if length > MAX_EXTRA_BYTES {
        return Err(ReadError::unsupported(name, format!("extra field of {length} bytes")));
    }
    let start = bytes.len();
    extend(input, length.into(), bytes).map_err(|short| short.after(name))?;
    let numbers = bytes[start..].get(4..).unwrap_or_default();
    Ok(numbers.chunks_exact(8).map(|number| u64_at(number, 0)).collect())
}

/// Why bytes that belong together did not all come.
#[derive(Debug)]
pub(super) enum Short {
    Ended,
    Io(io::Error),
}

impl Short {
    pub(super) fn after(self, place: &(impl ToString + ?Sized)) -> ReadError {
        match self {
            Self::Ended => ReadError::Truncated { after: place.to_string() },
            Self::Io(error) => ReadError::Io(error),
        }
    }
}

pub(super) fn fill(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), Short> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Short::Ended,
        _ => Short::Io(error),
    })
}

/// Reads the next `count` bytes to the end of `bytes`.
fn extend(input: &mut impl Read, count: usize, bytes: &mut Vec<u8>) -> Result<(), Short> {
    let start = bytes.len();
    bytes.resize(start + count, 0);
    fill(input, &mut bytes[start..])
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend(value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend(value.to_le_bytes());
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The length of a name or an extra field, which is far below the limit.
fn clip16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// The number, or the mark that it stands in a ZIP64 field.
fn clip32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The count of bytes in memory as a count of bytes in a file.
pub(super) const fn to_u64(count: usize) -> u64 {
    count as u64
}
