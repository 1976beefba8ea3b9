//! BSON read, and written as text while it is.

use std::borrow::Cow;
use std::io::Write as _;

use jiff::SignedDuration;

use super::double::write_double;
use super::{BsonError, DEPTH_LIMIT, EPOCH, FIRST_DATETIME, REGEX_OPTIONS, UUID_SUBTYPE, kind};

type Result<T, E = BsonError> = std::result::Result<T, E>;

/// Appends the text of a document, without a newline. After an error a part of it may stand in `out`.
pub fn to_json(bson: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader { bytes: bson, at: 0, end: bson.len(), depth: 0, out };
    reader.document(Container::Object)?;
    if reader.at < bson.len() {
        return Err(error(reader.at, "the document has ended, but bytes follow"));
    }
    Ok(())
}

fn error(at: usize, message: impl Into<Cow<'static, str>>) -> BsonError {
    BsonError { at, message: message.into() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

struct Reader<'a, 'o> {
    bytes: &'a [u8],
    at: usize,
    /// Where the innermost document ends, its closing zero byte not included.
    end: usize,
    /// How many documents are around the innermost one.
    depth: u32,
    out: &'o mut Vec<u8>,
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self, container: Container) -> Result<()> {
        let begin = self.at;
        let outer = self.end;
        let len = self.bytes.get(begin..outer).and_then(|rest| rest.first_chunk());
        let len =
            i32::from_le_bytes(*len.ok_or_else(|| error(begin, "the length of a document does not fit in here"))?);
        let size = usize::try_from(len).ok().filter(|size| *size >= 5);
        let size = size.ok_or_else(|| error(begin, format!("a document of {len} bytes cannot be")))?;
        if size > outer - begin {
            let message = format!("a document says that it has {size} bytes, and there are {}", outer - begin);
            return Err(error(begin, message));
        }
        self.end = begin + size - 1;
        self.at = begin + 4;
        if self.bytes[self.end] != 0 {
            return Err(error(self.end, "a document does not end with a zero byte"));
        }
        match container {
            Container::Object => self.fields()?,
            Container::Array => self.elements()?,
        }
        self.at = self.end + 1;
        self.end = outer;
        Ok(())
    }

    fn fields(&mut self) -> Result<()> {
        self.out.extend_from_slice(b"{ ");
        let mut first = true;
        while self.at < self.end {
            let (at, kind) = self.kind()?;
            if !first {
                self.out.extend_from_slice(b", ");
            }
            first = false;
            let name = self.cstring("a name")?;
            write_name(name, self.out);
            self.out.extend_from_slice(b" : ");
            self.value(at, kind)?;
            self.out.push(b' ');
        }
        self.out.push(b'}');
        Ok(())
    }

    fn elements(&mut self) -> Result<()> {
        self.out.extend_from_slice(b"[ ");
        let mut index = 0_u32;
        while self.at < self.end {
            let (at, kind) = self.kind()?;
            let begin = self.at;
            if self.cstring("a name")?.parse() != Ok(index) {
                return Err(error(begin, "the elements of an array are not numbered from 0"));
            }
            if index > 0 {
                self.out.extend_from_slice(b", ");
            }
            index += 1;
            self.value(at, kind)?;
            self.out.push(b' ');
        }
        self.out.push(b']');
        Ok(())
    }

    fn kind(&mut self) -> Result<(usize, u8)> {
        let at = self.at;
        let kind = self.bytes[at];
        if kind == 0 {
            return Err(error(at, "a document ends before its length is reached"));
        }
        self.at += 1;
        Ok((at, kind))
    }

    fn value(&mut self, at: usize, kind: u8) -> Result<()> {
        match kind {
            kind::DOUBLE => write_double(f64::from_bits(u64::from_le_bytes(self.take()?)), self.out),
            kind::STRING | kind::SYMBOL => {
                let text = self.string()?;
                write_string(text, self.out);
            }
            kind::DOCUMENT => self.nested(at, |reader| reader.document(Container::Object))?,
            kind::ARRAY => self.nested(at, |reader| reader.document(Container::Array))?,
            kind::BOOLEAN => {
                let [byte] = self.take()?;
                self.out.extend_from_slice(match byte {
                    0 => b"false",
                    1 => b"true",
                    _ => return Err(error(self.at - 1, "a boolean is neither 0 nor 1")),
                });
            }
            // Nothing at all.
            kind::NULL => {}
            kind::INT32 => {
                let number = i32::from_le_bytes(self.take()?);
                self.put(format_args!("{number}"));
            }
            kind::INT64 => {
                let number = i64::from_le_bytes(self.take()?);
                self.put(format_args!("{number}"));
            }
            kind::BINARY
            | kind::OBJECT_ID
            | kind::DATETIME
            | kind::REGEX
            | kind::CODE
            | kind::CODE_WITH_SCOPE
            | kind::TIMESTAMP => {
                self.nested(at, |reader| reader.object(kind))?;
            }
            other => return Err(error(at, textless(other))),
        }
        Ok(())
    }

    /// A value of BSON that is an object in the text.
    fn object(&mut self, kind: u8) -> Result<()> {
        match kind {
            kind::BINARY => self.binary()?,
            kind::OBJECT_ID => {
                let id: [u8; 12] = self.take()?;
                self.out.extend_from_slice(b"{ \"$oid\" : \"");
                for byte in id {
                    self.put(format_args!("{byte:02x}"));
                }
                self.out.push(b'"');
            }
            kind::DATETIME => {
                let at = self.at;
                let millis = i64::from_le_bytes(self.take()?);
                let since = SignedDuration::from_secs(millis.div_euclid(1000));
                let time = (millis >= FIRST_DATETIME).then(|| EPOCH.checked_add(since).ok()).flatten();
                let message = "a datetime before 1582-10-15 or after the year 9999 has no text";
                let time = time.ok_or_else(|| error(at, message))?;
                self.put(format_args!("{{ \"$date\" : \"{time}Z\""));
            }
            kind::REGEX => {
                let pattern = self.cstring("a regular expression")?;
                let at = self.at;
                let options = self.cstring("a list of options")?;
                if !options.chars().all(|option| REGEX_OPTIONS.contains(option)) {
                    return Err(error(at, "a regular expression has an option that ModeShape does not know"));
                }
                self.out.extend_from_slice(b"{ \"$regex\" : ");
                write_string(pattern, self.out);
                if !options.is_empty() {
                    let sorted: String = REGEX_OPTIONS.chars().filter(|option| options.contains(*option)).collect();
                    self.put(format_args!(" , \"$options\" : \"{sorted}\""));
                }
            }
            kind::CODE => {
                let code = self.string()?;
                self.out.extend_from_slice(b"{ \"$code\" : ");
                write_string(code, self.out);
            }
            kind::CODE_WITH_SCOPE => {
                let begin = self.at;
                let len = i32::from_le_bytes(self.take()?);
                let code = self.string()?;
                self.out.extend_from_slice(b"{ \"$code\" : ");
                write_string(code, self.out);
                self.out.extend_from_slice(b" , \"$scope\" : ");
                self.nested(begin, |reader| reader.document(Container::Object))?;
                if usize::try_from(len) != Ok(self.at - begin) {
                    return Err(error(begin, "the length of code with a scope is wrong"));
                }
            }
            _ => {
                let inc = i32::from_le_bytes(self.take()?);
                let time = i32::from_le_bytes(self.take()?);
                self.put(format_args!("{{ \"$ts\" : {time} , \"$inc\" : {inc}"));
            }
        }
        self.out.extend_from_slice(b" }");
        Ok(())
    }

    fn binary(&mut self) -> Result<()> {
        let at = self.at;
        let len = i32::from_le_bytes(self.take()?);
        let [subtype] = self.take()?;
        let size = usize::try_from(len).map_err(|_| error(at, format!("a binary of {len} bytes cannot be")))?;
        if subtype == UUID_SUBTYPE {
            if size != 16 {
                return Err(error(at, format!("a UUID of {size} bytes cannot be")));
            }
            let most = u64::from_le_bytes(self.take()?);
            let least = u64::from_le_bytes(self.take()?);
            let digits = format!("{most:016x}{least:016x}");
            let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
            self.put(format_args!("{{ \"$uuid\" : \"{}\"", parts.join("-")));
            return Ok(());
        }
        let bytes = self.slice(size)?;
        self.put(format_args!("{{ \"$type\" : {} , \"$base64\" : \"", subtype.cast_signed()));
        base64_simd::STANDARD.encode_append(bytes, self.out);
        self.out.push(b'"');
        Ok(())
    }

    fn nested(&mut self, at: usize, read: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.depth == DEPTH_LIMIT {
            return Err(error(at, "this is nested more than 512 deep"));
        }
        self.depth += 1;
        read(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn string(&mut self) -> Result<&'a str> {
        let at = self.at;
        let len = i32::from_le_bytes(self.take()?);
        let size = usize::try_from(len).ok().filter(|size| *size >= 1);
        let size = size.ok_or_else(|| error(at, format!("a string of {len} bytes cannot be")))?;
        let at = self.at;
        match self.slice(size)? {
            [text @ .., 0] => str::from_utf8(text).map_err(|_| error(at, "a string is not UTF-8")),
            _ => Err(error(at + size - 1, "a string does not end with a zero byte")),
        }
    }

    fn cstring(&mut self, what: &str) -> Result<&'a str> {
        let begin = self.at;
        let rest = &self.bytes[begin..self.end];
        let len = rest.iter().position(|byte| *byte == 0);
        let len = len.ok_or_else(|| error(begin, format!("{what} has no end")))?;
        self.at = begin + len + 1;
        str::from_utf8(&rest[..len]).map_err(|_| error(begin, format!("{what} is not UTF-8")))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let slice = self.slice(N)?;
        Ok(*slice.first_chunk().expect("the slice has this length"))
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8]> {
        let at = self.at;
        let slice = self.bytes[at..self.end].get(..len);
        self.at = at.saturating_add(len);
        slice.ok_or_else(|| error(at, "a value goes beyond its document"))
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("memory takes everything");
    }
}

fn textless(kind: u8) -> String {
    let known = match kind {
        0x06 => "undefined",
        0x0c => "a pointer into a database",
        0x13 => "decimal",
        0x7f => "the largest key",
        0xff => "the smallest key",
        _ => return format!("there is no type {kind:#04x}"),
    };
    format!("values of type {kind:#04x} ({known}) have no text")
}

/// Bytes of a string that do not stand for themselves, or may not: U+FFFF begins with 0xef.
const ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escaped[byte] = true;
        byte += 1;
    }
    escaped[b'"' as usize] = true;
    escaped[b'\'' as usize] = true;
    escaped[b'\\' as usize] = true;
    escaped[0xef] = true;
    escaped
};

fn write_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !ESCAPED[usize::from(*byte)] {
            continue;
        }
        let end_of_text = *byte == 0xef;
        if end_of_text && !bytes[at..].starts_with("\u{ffff}".as_bytes()) {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        if end_of_text {
            out.extend_from_slice(b"\\uffff");
            from = at + 3;
        } else {
            write_escape(*byte, out);
            from = at + 1;
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// Names are written as they are, but for what would make another name of them, or none.
fn write_name(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if name.bytes().any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
        for byte in name.bytes() {
            if byte < b' ' || matches!(byte, b'"' | b'\\') { write_escape(byte, out) } else { out.push(byte) }
        }
    } else {
        out.extend_from_slice(name.as_bytes());
    }
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let letter = match byte {
        b'\x08' => b'b',
        b'\x0c' => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\'' | b'\\' => byte,
        _ => return write!(out, "\\u{byte:04x}").expect("memory takes everything"),
    };
    out.extend_from_slice(&[b'\\', letter]);
}
