//! A document as it stands in a database: BSON, and the same as ModeShape's JSON text, each made of the other.
//!
//! [`to_json`] writes the text that ModeShape's own backup has for the document, so that one is as good as the other.
//! There are three differences, where ModeShape loses what it cannot read again: a `"`, a `\` or a control character in
//! the name of a field is escaped, and so is U+FFFF in a string, where ModeShape's text would end; ModeShape reads all of
//! these. What has no text at all is an error, and nothing is left out.
//!
//! [`from_json`] makes of a text what a restore by ModeShape makes of it: whole numbers are the smallest that hold them,
//! and objects such as `{ "$uuid" : "…" }` become values of BSON. It keeps what ModeShape would not: nulls, `NaN` and the
//! infinities, and the kind of a binary. A datetime before 1582-10-15, by which ModeShape means another day than the
//! calendar, stays a text.
//!
//! A text has the seconds of a datetime of BSON and not its milliseconds. Only `repository:info` has such values; the
//! dates of nodes are texts.

use std::borrow::Cow;

use jiff::civil::DateTime;

mod double;
mod read;
#[cfg(test)]
mod vectors;
mod write;

pub use read::to_json;
pub use write::from_json;

/// How deep documents may lie in each other, as for their text.
const DEPTH_LIMIT: u32 = 512;

/// Not the BSON of a document, or one that has no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {message}")]
pub struct BsonError {
    /// How many bytes precede the place.
    pub at: usize,
    /// What was expected there, or found.
    pub message: Cow<'static, str>,
}

/// The bytes that say what kind of value follows.
mod kind {
    pub(super) const DOUBLE: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const DOCUMENT: u8 = 0x03;
    pub(super) const ARRAY: u8 = 0x04;
    pub(super) const BINARY: u8 = 0x05;
    pub(super) const OBJECT_ID: u8 = 0x07;
    pub(super) const BOOLEAN: u8 = 0x08;
    pub(super) const DATETIME: u8 = 0x09;
    pub(super) const NULL: u8 = 0x0a;
    pub(super) const REGEX: u8 = 0x0b;
    pub(super) const CODE: u8 = 0x0d;
    pub(super) const SYMBOL: u8 = 0x0e;
    pub(super) const CODE_WITH_SCOPE: u8 = 0x0f;
    pub(super) const INT32: u8 = 0x10;
    pub(super) const TIMESTAMP: u8 = 0x11;
    pub(super) const INT64: u8 = 0x12;
}

/// What datetimes are counted from.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// The first datetime that Java's two calendars agree on, in milliseconds: 1582-10-15.
const FIRST_DATETIME: i64 = -12_219_292_800_000;
/// The kind of binary that is a UUID.
const UUID_SUBTYPE: u8 = 3;
/// The options of a regular expression, in the order in which they are written.
const REGEX_OPTIONS: &str = "cdimstux";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::document::scan;

    const REFERENCE_TEXT: &str = r#"{ "metadata" : { "id" : "6aa9bf7df2242ef867558584c02160023a96f2f9-ref" } , "content" : { "sha1" : "6aa9bf7df2242ef867558584c02160023a96f2f9" , "refCount" : 1 } }"#;
    const REFERENCE_BSON: &str = "9c000000036d65746164617461003a000000026964002d00000036616139626637646632323432656638363735353835383463303231363030323361393666326639\
        2d726566000003636f6e74656e74004a00000002736861310029000000366161396266376466323234326566383637353538353834633032313630303233613936663266390012726566436f756e740001000000000000000000";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    fn text(bson: &[u8]) -> Result<String, BsonError> {
        let mut out = Vec::new();
        to_json(bson, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn bson(line: &str) -> Vec<u8> {
        let mut out = Vec::new();
        from_json(line.as_bytes(), &mut out).unwrap_or_else(|error| panic!("{line}: {error}"));
        out
    }

    /// The text of a document with this content, and the content out of its BSON.
    fn line_of(content: &str) -> String {
        format!(r#"{{ "metadata" : {{ "id" : "x" }} , "content" : {content} }}"#)
    }

    fn content_of(bson: &[u8]) -> Vec<u8> {
        let head = bytes("036d65746164617461000f000000026964000200000078000003636f6e74656e7400");
        assert_eq!(bson[4..4 + head.len()], head);
        bson[4 + head.len()..bson.len() - 1].to_vec()
    }

    #[test]
    fn the_reference_document_is_what_fedora_has_in_its_table() {
        let stored = bytes(REFERENCE_BSON);
        assert_eq!(stored.len(), 156);
        assert_eq!(text(&stored).unwrap(), REFERENCE_TEXT);
        // A restore makes the count an int32, as one by ModeShape does.
        let restored = bson(REFERENCE_TEXT);
        assert_eq!((restored.len(), restored[0]), (152, 0x98));
        assert_eq!(text(&restored).unwrap(), REFERENCE_TEXT);
    }

    #[test]
    fn every_golden_vector_holds_in_both_directions() {
        for (stored, written, restored) in [
            ("0500000000", "{ }", "0500000000"),
            (
                "12000000056400050000000068656c6c6f00",
                r#"{ "d" : { "$type" : 0 , "$base64" : "aGVsbG8=" } }"#,
                "12000000056400050000000068656c6c6f00",
            ),
            (
                "1000000009640095483ff14901000000",
                r#"{ "d" : { "$date" : "2014-11-27T12:34:56Z" } }"#,
                "10000000096400 80453ff149010000 00",
            ),
            (
                "31000000036400290000000224646174650019000000323031342d31312d32375431323a33343a35362e3738395a000000",
                r#"{ "d" : { "$date" : "2014-11-27T12:34:56.789Z" } }"#,
                "31000000036400290000000224646174650019000000323031342d31312d32375431323a33343a35362e3738395a000000",
            ),
            (
                "1d00000005640010000000037766554433221100ffeeddccbbaa998800",
                r#"{ "d" : { "$uuid" : "00112233-4455-6677-8899-aabbccddeeff" } }"#,
                "1d00000005640010000000037766554433221100ffeeddccbbaa998800",
            ),
            (
                "280000000364002000000002246e616d6500100000006e743a756e73747275637475726564000000",
                r#"{ "d" : { "$name" : "nt:unstructured" } }"#,
                "280000000364002000000002246e616d6500100000006e743a756e73747275637475726564000000",
            ),
        ] {
            assert_eq!(text(&bytes(stored)).as_deref(), Ok(written), "{stored}");
            assert_eq!(content_of(&bson(&line_of(written))), bytes(restored), "{written}");
        }
    }

    #[test]
    fn texts_that_modeshape_writes_come_back_as_they_are() {
        for content in [
            r#"{ "s" : "a\'b\"c/d\\e\n\t\u0001€" }"#,
            r#"{ "a" : [ ] , "b" : [ 1 , "x" , [ ] ] }"#,
            r#"{ "n" :  , "m" : 1 }"#,
            r#"{ "m" : 1 , "n" :  }"#,
            "{ \"a\" : [  ] , \"b\" : [  , 1 ,  , 2 ,  ] }",
            r#"{ "d" : NaN , "e" : Infinity , "f" : [ -Infinity , -0.0 , 1.0E7 , 1.23E-5 , 4.9E-324 ] }"#,
            r#"{ "l" : -9223372036854775808 , "i" : 2147483648 , "b" : true , "c" : false }"#,
            r#"{ "o" : { "$oid" : "0123456789abcdef01234567" } , "t" : { "$ts" : 5 , "$inc" : -1 } }"#,
            r#"{ "r" : { "$regex" : "a.*" } , "s" : { "$regex" : "\'" , "$options" : "imx" } }"#,
            r#"{ "c" : { "$code" : "f()" } , "s" : { "$code" : "g" , "$scope" : { "x" : [ 1 ] } } }"#,
            r#"{ "b" : { "$type" : -128 , "$base64" : "/+8=" } , "e" : { "$type" : 5 , "$base64" : "" } }"#,
            r#"{ "data" : { "$sha1" : "6aa9bf7df2242ef867558584c02160023a96f2f9" , "$len" : 5000 } }"#,
            r#"{ "$path" : [ "a" , "b" ] , "p" : { "$path" : [ "a" ] , "$relative" : false } }"#,
            r#"{ "it's" : "it\'s" , "{http://x/}l" : 1 , "" : { "workspaces" : [ "default" ] } }"#,
            // What is no value of BSON after all stays an object.
            r#"{ "a" : { "$oid" : "01" } , "b" : { "$uuid" : "x" } , "c" : { "$date" : 7 } , "d" : { "$date" : "2014-02-30T00:00:00Z" } }"#,
            r#"{ "a" : { "$type" : 3 , "$base64" : "aGVsbG8=" } , "b" : { "$type" : 0 , "$base64" : "*" } , "c" : { "$type" : 300 , "$base64" : "" } }"#,
            r#"{ "a" : { "$regex" : "x" , "$options" : "g" } , "b" : { "$code" : "x" , "n" : 1 } , "c" : { "$ts" : 1 , "$inc" : 5000000000 } }"#,
            r#"{ "$date" : "2014-11-27T12:34:56Z" }"#,
        ] {
            let line = line_of(content);
            assert_eq!(text(&bson(&line)).as_deref(), Ok(line.as_str()));
        }
        let metadata = r#"{ "metadata" : { "id" : "c362428317f1e7jcr:system/mode:metadata" } , "content" : { "key" : "c362428317f1e7jcr:system/mode:metadata" , "properties" : { "" : { "workspaces" : [ "default" ] , "accessControl" : false } } } }"#;
        assert_eq!(text(&bson(metadata)).as_deref(), Ok(metadata));
    }

    #[test]
    fn what_modeshape_would_lose_is_written_so_that_it_reads_it() {
        for (written, read) in [
            // The text of ModeShape would end before it.
            ("{ \"s\" : \"a\u{ffff}b\" }", r#"{ "s" : "a\uffffb" }"#),
            // It writes names raw, and reads escapes in them.
            (r#"{ "a\"b\\c" : 1 , "t\tb" : "x" }"#, r#"{ "a\"b\\c" : 1 , "t\tb" : "x" }"#),
            (r#"{ "a"b" : 1 }"#, r#"{ "a\"b" : 1 }"#),
            // Its own words for these would be strings afterwards.
            (r#"{ "n" : null }"#, r#"{ "n" :  }"#),
        ] {
            assert_eq!(text(&bson(&line_of(written))).unwrap(), line_of(read));
            assert_eq!(text(&bson(&line_of(read))).unwrap(), line_of(read));
        }
    }

    #[test]
    fn a_symbol_is_a_string_as_for_modeshape() {
        assert_eq!(text(&bytes("0e0000000e73000200000061 0000")).as_deref(), Ok(r#"{ "s" : "a" }"#));
    }

    #[test]
    fn what_is_no_document_is_refused_with_the_place() {
        for (stored, error) in [
            ("", "at byte 0: the length of a document does not fit in here"),
            ("040000", "at byte 0: the length of a document does not fit in here"),
            ("0400000000", "at byte 0: a document of 4 bytes cannot be"),
            ("ffffffff00", "at byte 0: a document of -1 bytes cannot be"),
            ("0600000000", "at byte 0: a document says that it has 6 bytes, and there are 5"),
            ("060000000000", "at byte 4: a document ends before its length is reached"),
            ("050000000000", "at byte 5: the document has ended, but bytes follow"),
            ("0500000001", "at byte 4: a document does not end with a zero byte"),
        ] {
            assert_eq!(text(&bytes(stored)).map_err(|error| error.to_string()), Err(error.to_owned()), "{stored}");
        }
    }

    #[test]
    fn elements_that_have_no_text_or_are_none_are_refused_with_the_place() {
        for (elements, error) in [
            ("06 6100", "at byte 4: values of type 0x06 (undefined) have no text"),
            (
                "0c 6100 01000000 00 000000000000000000000000",
                "at byte 4: values of type 0x0c (a pointer into a database) have no text",
            ),
            ("13 6100 00000000000000000000000000000000", "at byte 4: values of type 0x13 (decimal) have no text"),
            ("7f 6100", "at byte 4: values of type 0x7f (the largest key) have no text"),
            ("ff 6100", "at byte 4: values of type 0xff (the smallest key) have no text"),
            ("42 6100", "at byte 4: there is no type 0x42"),
            ("0a 6161", "at byte 5: a name has no end"),
            ("0a ff00", "at byte 5: a name is not UTF-8"),
            ("08 6100 02", "at byte 7: a boolean is neither 0 nor 1"),
            ("01 6100 00000000", "at byte 7: a value goes beyond its document"),
            ("02 6100 00000000 00", "at byte 7: a string of 0 bytes cannot be"),
            ("02 6100 00000080 00", "at byte 7: a string of -2147483648 bytes cannot be"),
            ("02 6100 ffffff7f 00", "at byte 11: a value goes beyond its document"),
            ("02 6100 01000000 61", "at byte 11: a string does not end with a zero byte"),
            ("02 6100 02000000 ff00", "at byte 11: a string is not UTF-8"),
            ("02 6100 04000000 eda08000", "at byte 11: a string is not UTF-8"),
            ("05 6100 ffffffff 00", "at byte 7: a binary of -1 bytes cannot be"),
            ("05 6100 01000000 03 61", "at byte 7: a UUID of 1 bytes cannot be"),
            ("05 6100 10000000 03 61", "at byte 12: a value goes beyond its document"),
            ("04 6100 0c000000 10 3100 01000000 00", "at byte 12: the elements of an array are not numbered from 0"),
            ("09 6100 ffffffffffffff7f", "at byte 7: a datetime before 1582-10-15 or after the year 9999 has no text"),
            ("0b 6100 6100 6700", "at byte 9: a regular expression has an option that ModeShape does not know"),
            ("0b 6100 6100 69", "at byte 9: a list of options has no end"),
            ("0f 6100 10000000 02000000 6100 0500000000", "at byte 7: the length of code with a scope is wrong"),
            ("03 6100 07000000 00", "at byte 7: a document says that it has 7 bytes, and there are 5"),
            ("03 6100 05000000 01", "at byte 11: a document does not end with a zero byte"),
        ] {
            let elements = bytes(elements);
            let len = u32::try_from(elements.len() + 5).unwrap();
            let stored = [&len.to_le_bytes()[..], &elements, &[0]].concat();
            assert_eq!(text(&stored).map_err(|error| error.to_string()), Err(error.to_owned()), "{stored:02x?}");
        }
    }

    #[test]
    fn depth_is_bounded_and_what_is_within_it_has_a_sound_text() {
        let nest = |levels: usize| {
            let mut inner = bytes("0500000000");
            for _ in 0..levels {
                let len = u32::try_from(inner.len() + 8).unwrap();
                inner = [&len.to_le_bytes()[..], &[0x03, b'a', 0], &inner, &[0]].concat();
            }
            inner
        };
        assert!(text(&nest(512)).is_ok());
        assert!(text(&nest(513)).unwrap_err().message.contains("nested more than 512 deep"));
        assert!(text(&nest(100_000)).is_err());

        let mut whole = bytes("036d65746164617461000f000000026964000200000078000003636f6e74656e7400");
        whole.extend(nest(511));
        whole.push(0);
        let whole = [&u32::try_from(whole.len() + 4).unwrap().to_le_bytes()[..], &whole].concat();
        let line = text(&whole).unwrap();
        assert_eq!(scan(line.as_bytes()).unwrap().id, "x");
        assert_eq!(bson(&line), whole);
    }

    #[test]
    fn what_bson_cannot_hold_is_refused_with_the_place() {
        for (content, error) in [
            (r#"{ "a" : 9223372036854775808 }"#, "at byte 52: the number does not fit into 64 bits"),
            (r#"{ "a\u0000" : 1 }"#, "at byte 46: there is a zero byte in a name"),
            (r#"{ "a" : "\ud800" }"#, "at byte 52: the string holds half of a surrogate pair"),
        ] {
            let mut out = Vec::new();
            let found = from_json(line_of(content).as_bytes(), &mut out).map(drop).map_err(|error| error.to_string());
            assert_eq!(found, Err(error.to_owned()), "{content}");
            assert!(out.is_empty());
        }
    }

    /// Values that a text has for itself, as BSON: what is made of the text again is the same.
    fn contents() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            any::<f64>().prop_map(|number| (0x01, number.to_le_bytes().to_vec())),
            "\\PC{0,12}".prop_map(|text| (0x02, string(&text))),
            any::<String>().prop_map(|text| (0x02, string(&text))),
            (prop_oneof![Just(0_u8), Just(2), Just(5), Just(128)], prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(subtype, bytes)| (0x05, [&len_of(&bytes)[..], &[subtype], &bytes].concat())),
            any::<[u8; 16]>().prop_map(|uuid| (0x05, [&[16, 0, 0, 0, 3][..], &uuid].concat())),
            any::<[u8; 12]>().prop_map(|id| (0x07, id.to_vec())),
            any::<bool>().prop_map(|truth| (0x08, vec![u8::from(truth)])),
            (-12_219_292_800_i64..253_402_300_800).prop_map(|s| (0x09, (s * 1000).to_le_bytes().to_vec())),
            Just((0x0a, vec![])),
            ("[^\u{0}]{0,8}", "c?d?i?m?s?t?u?x?")
                .prop_map(|(pattern, options)| (0x0b, [pattern.as_bytes(), &[0], options.as_bytes(), &[0]].concat())),
            any::<String>().prop_map(|text| (0x0d, string(&text))),
            any::<i32>().prop_map(|number| (0x10, number.to_le_bytes().to_vec())),
            any::<[u8; 8]>().prop_map(|bytes| (0x11, bytes.to_vec())),
            any::<i64>()
                .prop_filter("one that is not smaller", |number| i32::try_from(*number).is_err())
                .prop_map(|number| (0x12, number.to_le_bytes().to_vec())),
        ];
        let element = leaf.prop_recursive(5, 40, 6, |inner| {
            let name = "[a-z\"\\\\'€\t\u{1}\u{ffff}]{0,6}";
            let fields = prop::collection::vec((name, inner.clone()), 0..6);
            prop_oneof![
                fields.clone().prop_map(|fields| (0x03, document(&fields))),
                prop::collection::vec(inner, 0..6).prop_map(|values| {
                    let named: Vec<_> = values.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect();
                    (0x04, document(&named))
                }),
                ("[a-z]{0,5}", fields).prop_map(|(code, scope)| {
                    let inner = [string(&code), document(&scope)].concat();
                    (0x0f, [&u32::try_from(inner.len() + 4).unwrap().to_le_bytes()[..], &inner].concat())
                }),
            ]
        });
        prop::collection::vec(("[a-z:]{0,8}", element), 0..6).prop_map(|fields| document(&fields))
    }

    fn len_of(bytes: &[u8]) -> [u8; 4] {
        u32::try_from(bytes.len()).unwrap().to_le_bytes()
    }

    fn string(text: &str) -> Vec<u8> {
        let bytes = [text.as_bytes(), &[0]].concat();
        [&len_of(&bytes)[..], &bytes].concat()
    }

    fn document(fields: &[(String, (u8, Vec<u8>))]) -> Vec<u8> {
        let mut inner = Vec::new();
        for (name, (kind, value)) in fields {
            inner.push(*kind);
            inner.extend(name.as_bytes());
            inner.push(0);
            inner.extend(value);
        }
        inner.push(0);
        [&u32::try_from(inner.len() + 4).unwrap().to_le_bytes()[..], &inner].concat()
    }

    fn entry(id: &str, content: &[u8]) -> Vec<u8> {
        let metadata = document(&[("id".to_owned(), (0x02, string(id)))]);
        document(&[("metadata".to_owned(), (0x03, metadata)), ("content".to_owned(), (0x03, content.to_vec()))])
    }

    fn same(one: &[u8], other: &[u8]) -> bool {
        // Every NaN is written with one word, which comes back as one NaN.
        one == other || one.windows(8).any(|w| f64::from_le_bytes(w.try_into().unwrap()).is_nan())
    }

    proptest! {
        #[test]
        fn a_document_comes_back_from_its_text_and_the_text_is_sound(id in "\\PC{1,20}", content in contents()) {
            let stored = entry(&id, &content);
            let line = text(&stored).unwrap();
            let scanned = scan(line.as_bytes()).map(|scanned| scanned.id.into_owned());
            prop_assert_eq!(scanned, Ok(id), "{}", line);
            let again = bson(&line);
            prop_assert_eq!(&text(&again), &Ok(line.clone()));
            prop_assert!(same(&again, &stored), "{}\n{:02x?}\n{:02x?}", line, again, stored);
        }

        #[test]
        fn any_bytes_are_judged(bytes in any::<Vec<u8>>()) {
            let _judged = text(&bytes);
            let mut out = Vec::new();
            let _judged = from_json(&bytes, &mut out);
        }

        #[test]
        fn a_document_with_a_byte_changed_or_an_end_cut_is_judged(content in contents(), at in any::<usize>(), byte in any::<u8>()) {
            let mut stored = entry("x", &content);
            let at = at % stored.len();
            prop_assert!(text(&stored[..at]).is_err());
            stored[at] = byte;
            if let Ok(line) = text(&stored) {
                // What has a text can be read again; unless the change made it another document than one of ours.
                if scan(line.as_bytes()).is_ok() {
                    prop_assert_eq!(text(&bson(&line)), Ok(line));
                }
            }
        }
    }
}
