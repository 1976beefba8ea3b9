//! Documents as ModeShape itself writes them, as BSON in its table and as lines in its backup.

use super::{from_json, to_json};

const VECTORS: &str = include_str!("../../../tests/interop/vectors.tsv");

struct Vector {
    id: &'static str,
    bson: Vec<u8>,
    line: &'static str,
    /// What its own restore of the line writes; none where that cannot read it.
    restored: Option<Vec<u8>>,
}

fn vectors() -> Vec<Vector> {
    let bytes = |hex: &str| {
        let digits = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
        digits.collect::<Result<Vec<u8>, _>>().unwrap()
    };
    let vector = |row: &'static str| {
        let [id, bson, line, restored] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
        Vector { id, bson: bytes(bson), line, restored: (restored != "-").then(|| bytes(restored)) }
    };
    VECTORS.lines().filter(|row| !row.starts_with('#')).map(vector).collect()
}

/// The line and the BSON of a whole document that has these as its content, unless they are whole themselves.
fn whole(line: &str, bson: Option<&Vec<u8>>) -> (String, Option<Vec<u8>>) {
    if line.starts_with("{ \"metadata\" : ") {
        return (line.to_owned(), bson.cloned());
    }
    let document = |fields: Vec<u8>| {
        let len = i32::try_from(fields.len() + 5).unwrap();
        [&len.to_le_bytes()[..], &fields, &[0]].concat()
    };
    let metadata = document(b"\x02id\0\x02\0\0\0n\0".to_vec());
    let around = |content: &Vec<u8>| document([b"\x03metadata\0", &metadata[..], b"\x03content\0", content].concat());
    (format!("{{ \"metadata\" : {{ \"id\" : \"n\" }} , \"content\" : {line} }}"), bson.map(around))
}

/// Where Java's own text of a double is longer than it need be: the value is the same.
const SAME_VALUE: [&str; 4] = [
    "82ca2557505d6471a7b9d4-288c-49a4-92a0-8aabb0b4a043",
    "double 44c52d02c7e14af6",
    "double 447c7e83209e90b2",
    "double 44b52d02c7e14af6",
];
/// What ModeShape's text loses, or cannot be read again from, is escaped, or has no text.
const OTHER_TEXT: [&str; 8] = [
    "text 21",
    "name 10",
    "name 11",
    "date -62135596800000",
    "date 253402300800000",
    "date -62135596800001",
    "min key",
    "max key",
];
/// What ModeShape's restore changes or cannot read is kept: `NaN`, nulls, the kind of a binary, dates that are none.
const OTHER_BSON: [&str; 16] = [
    "double 7ff8000000000000",
    "double 7ff0000000000000",
    "double fff0000000000000",
    "name 10",
    "null",
    "date -62135596800000",
    "date 253402300800000",
    "date -62135596800001",
    "binary type 4",
    "empty binary type 4",
    "binary type -128",
    "empty binary type -128",
    "document of $date",
    "document of a short date",
    "list of several",
    "list of null",
];

fn bson_of(line: &str) -> Option<Vec<u8>> {
    let mut bson = Vec::new();
    from_json(line.as_bytes(), &mut bson).ok().map(|_| bson)
}

#[test]
fn the_text_is_that_of_modeshape_but_for_what_that_loses() {
    let mut others = Vec::new();
    for Vector { id, bson, line, .. } in vectors() {
        let mut text = Vec::new();
        let text = to_json(&bson, &mut text).ok().map(|()| String::from_utf8(text).unwrap());
        if text.as_deref() == Some(line) {
            continue;
        }
        if SAME_VALUE.contains(&id) {
            assert_eq!(bson_of(&whole(&text.unwrap(), None).0), bson_of(&whole(line, None).0), "{id}");
        } else {
            others.push(id);
        }
    }
    assert_eq!(others, OTHER_TEXT);
}

#[test]
fn a_line_becomes_what_modeshapes_restore_makes_of_it_but_for_what_that_changes() {
    let mut others = Vec::new();
    for Vector { id, line, restored, .. } in vectors() {
        let (line, restored) = whole(line, restored.as_ref());
        if bson_of(&line) != restored {
            others.push(id);
        }
    }
    assert_eq!(others, OTHER_BSON);
}
