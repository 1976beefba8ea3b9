//! BSON written while the text is read.

use std::fmt::Write as _;

use jiff::civil::DateTime;

use super::{EPOCH, FIRST_DATETIME, REGEX_OPTIONS, UUID_SUBTYPE, kind};
use crate::model::document::{DocumentError, Scanned, Visitor, visit};

/// What a datetime looks like in a text; everything else that says `$date` stays a text in BSON, too.
const DATETIME: &str = "0000-00-00T00:00:00Z";

/// Appends the BSON of the document that stands in a line, and gives its id. After an error nothing is appended.
pub fn from_json<'a>(line: &'a [u8], out: &mut Vec<u8>) -> Result<Scanned<'a>, DocumentError> {
    let begin = out.len();
    let visited = visit(line, || {
        // A line is read in two ways, of which the first may end in the middle.
        Writer { out: Vec::with_capacity(line.len()), frames: Vec::new(), kind_at: 0, number: String::new() }
    });
    let (scanned, writer) = visited?;
    debug_assert_eq!(begin, out.len());
    out.extend_from_slice(&writer.out);
    Ok(scanned)
}

/// A document that is being written.
struct Frame {
    /// Where its length stands.
    begin: usize,
    /// Where its kind stands, in the document around it.
    kind_at: usize,
    is_array: bool,
    elements: u32,
    /// A name begins with `$`: it may be the text of a value of BSON.
    reserved: bool,
}

struct Writer {
    out: Vec<u8>,
    frames: Vec<Frame>,
    /// Where the kind of the element stands whose name was just written.
    kind_at: usize,
    number: String,
}

type Said = Result<(), &'static str>;

impl Visitor for Writer {
    const WANTED: bool = true;

    fn begin_object(&mut self) -> Said {
        self.begin(false);
        Ok(())
    }

    fn begin_array(&mut self) -> Said {
        self.begin(true);
        Ok(())
    }

    fn end(&mut self) -> Said {
        let frame = self.frames.pop().expect("what ends has begun");
        self.out.push(0);
        let len = self.out.len() - frame.begin;
        let len = i32::try_from(len).map_err(|_| "the document is larger than 2 GiB")?;
        self.out[frame.begin..frame.begin + 4].copy_from_slice(&len.to_le_bytes());
        // `metadata` and `content` are documents in any case.
        if frame.reserved && !frame.is_array && frame.elements <= 2 && self.frames.len() > 1 {
            self.make_value(&frame);
        }
        Ok(())
    }

    fn name(&mut self, name: &str) -> Said {
        if name.contains('\0') {
            return Err("there is a zero byte in a name");
        }
        let frame = self.frames.last_mut().expect("a name stands in an object");
        frame.elements += 1;
        frame.reserved |= name.starts_with('$');
        self.kind_at = self.out.len();
        self.out.push(0);
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(0);
        Ok(())
    }

    fn string(&mut self, text: &str) -> Said {
        self.element(kind::STRING);
        write_string(text.as_bytes(), &mut self.out)
    }

    fn number(&mut self, text: &str) -> Said {
        if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E' | b'y')) {
            let number = match text {
                "-Infinity" => f64::NEG_INFINITY,
                text => text.parse().map_err(|_| "this is no number")?,
            };
            self.double(number);
            return Ok(());
        }
        let number: i64 = text.parse().map_err(|_| "the number does not fit into 64 bits")?;
        if let Ok(number) = i32::try_from(number) {
            self.element(kind::INT32);
            self.out.extend_from_slice(&number.to_le_bytes());
        } else {
            self.element(kind::INT64);
            self.out.extend_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Said {
        match word {
            "true" | "false" => {
                self.element(kind::BOOLEAN);
                self.out.push(u8::from(word == "true"));
            }
            "NaN" => self.double(f64::NAN),
            "Infinity" => self.double(f64::INFINITY),
            _ => self.element(kind::NULL),
        }
        Ok(())
    }
}

impl Writer {
    fn begin(&mut self, is_array: bool) {
        if !self.frames.is_empty() {
            self.element(if is_array { kind::ARRAY } else { kind::DOCUMENT });
        }
        let begin = self.out.len();
        self.frames.push(Frame { begin, kind_at: self.kind_at, is_array, elements: 0, reserved: false });
        self.out.extend_from_slice(&[0; 4]);
    }

    /// Says what kind of value follows; the elements of an array have their number for a name.
    fn element(&mut self, kind: u8) {
        let frame = self.frames.last_mut().expect("values stand in the document");
        if frame.is_array {
            self.kind_at = self.out.len();
            self.number.clear();
            write!(self.number, "{}", frame.elements).expect("a text takes everything");
            frame.elements += 1;
            self.out.push(kind);
            self.out.extend_from_slice(self.number.as_bytes());
            self.out.push(0);
        } else {
            self.out[self.kind_at] = kind;
        }
    }

    fn double(&mut self, number: f64) {
        self.element(kind::DOUBLE);
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    /// Puts a value of BSON where the object stands that was just written, if it is the text of one.
    fn make_value(&mut self, frame: &Frame) {
        let written = &self.out[frame.begin + 4..self.out.len() - 1];
        if let Some((kind, value)) = elements(written).and_then(|elements| value_of(&elements)) {
            self.out[frame.kind_at] = kind;
            self.out.truncate(frame.begin);
            self.out.extend_from_slice(&value);
        }
    }
}

fn write_string(text: &[u8], out: &mut Vec<u8>) -> Said {
    let len = i32::try_from(text.len() + 1).map_err(|_| "the string is longer than 2 GiB")?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text);
    out.push(0);
    Ok(())
}

/// A value as far as it may be a part of the text of another one.
enum Part<'a> {
    Text(&'a str),
    Number(i32),
    /// A document, with its length.
    Document(&'a [u8]),
}

/// The elements that were written, if all of them can be parts of a value.
fn elements(mut written: &[u8]) -> Option<Vec<(&str, Part<'_>)>> {
    let mut found = Vec::with_capacity(2);
    while let [kind, rest @ ..] = written {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let name = str::from_utf8(&rest[..end]).ok()?;
        let value = &rest[end + 1..];
        let number = i32::from_le_bytes(*value.first_chunk()?);
        let size = usize::try_from(number);
        let (part, len) = match *kind {
            kind::STRING => {
                let len = 4 + size.ok()?;
                (Part::Text(str::from_utf8(value.get(4..len - 1)?).ok()?), len)
            }
            kind::INT32 => (Part::Number(number), 4),
            kind::DOCUMENT => (Part::Document(value.get(..size.ok()?)?), size.ok()?),
            _ => return None,
        };
        found.push((name, part));
        written = &value[len..];
    }
    Some(found)
}

fn value_of(elements: &[(&str, Part<'_>)]) -> Option<(u8, Vec<u8>)> {
    let find = |name: &str| elements.iter().find(|(found, _)| *found == name).map(|(_, part)| part);
    let text = |name| find(name).and_then(|part| if let Part::Text(text) = part { Some(*text) } else { None });
    let number = |name| find(name).and_then(|part| if let Part::Number(n) = part { Some(*n) } else { None });
    let mut out = Vec::new();
    let kind = if elements.len() == 1 {
        if let Some(id) = text("$oid") {
            out = hex(id).filter(|bytes| bytes.len() == 12)?;
            kind::OBJECT_ID
        } else if let Some(date) = text("$date") {
            out.extend_from_slice(&datetime(date)?.to_le_bytes());
            kind::DATETIME
        } else if let Some(uuid) = text("$uuid") {
            out.extend_from_slice(&[16, 0, 0, 0, UUID_SUBTYPE]);
            out.extend_from_slice(&uuid_bytes(uuid)?);
            kind::BINARY
        } else if let Some(pattern) = text("$regex") {
            regex(pattern, "", &mut out)?;
            kind::REGEX
        } else {
            write_string(text("$code")?.as_bytes(), &mut out).ok()?;
            kind::CODE
        }
    } else if let (Some(time), Some(inc)) = (number("$ts"), number("$inc")) {
        out.extend_from_slice(&inc.to_le_bytes());
        out.extend_from_slice(&time.to_le_bytes());
        kind::TIMESTAMP
    } else if let (Some(pattern), Some(options)) = (text("$regex"), text("$options")) {
        regex(pattern, options, &mut out)?;
        kind::REGEX
    } else if let (Some(code), Some(Part::Document(scope))) = (text("$code"), find("$scope")) {
        out.extend_from_slice(&[0; 4]);
        write_string(code.as_bytes(), &mut out).ok()?;
        out.extend_from_slice(scope);
        let len = i32::try_from(out.len()).ok()?;
        out[..4].copy_from_slice(&len.to_le_bytes());
        kind::CODE_WITH_SCOPE
    } else {
        let subtype = i8::try_from(number("$type")?).ok()?.cast_unsigned();
        let bytes = base64_simd::STANDARD.decode_to_vec(text("$base64")?).ok()?;
        // ModeShape reads 16 bytes of what says that it is a UUID, whatever its length.
        if subtype == UUID_SUBTYPE && bytes.len() != 16 {
            return None;
        }
        out.extend_from_slice(&i32::try_from(bytes.len()).ok()?.to_le_bytes());
        out.push(subtype);
        out.extend_from_slice(&bytes);
        kind::BINARY
    };
    Some((kind, out))
}

fn regex(pattern: &str, options: &str, out: &mut Vec<u8>) -> Option<()> {
    let known = options.chars().all(|option| REGEX_OPTIONS.contains(option));
    if !known || pattern.contains('\0') {
        return None;
    }
    for text in [pattern, options] {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
    Some(())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks(2).map(|two| Some(digit(two[0])? << 4 | digit(*two.get(1)?)?)).collect()
}

/// The milliseconds of a datetime to the second.
fn datetime(text: &str) -> Option<i64> {
    let alike = |(found, model): (u8, u8)| if model == b'0' { found.is_ascii_digit() } else { found == model };
    let sound = text.len() == DATETIME.len() && text.bytes().zip(DATETIME.bytes()).all(alike);
    let text = text.strip_suffix('Z').filter(|_| sound)?;
    let time: DateTime = text.parse().ok()?;
    let millis = 1000 * time.duration_since(EPOCH).as_secs();
    // A sixtieth second is taken for the one before it; and ModeShape means another day by an older date.
    (time.to_string() == text && millis >= FIRST_DATETIME).then_some(millis)
}

/// Two numbers of eight bytes, as Java has them.
fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let sound = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| {
            if matches!(at, 8 | 13 | 18 | 23) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()
            }
        });
    let mut bytes: [u8; 16] = hex(&sound.then(|| text.replace('-', ""))?)?.try_into().ok()?;
    bytes[..8].reverse();
    bytes[8..].reverse();
    Some(bytes)
}
