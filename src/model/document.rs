//! A document as it stands in a line of `documents_000001.bin`: JSON in ModeShape's own dialect.
//!
//! [`scan`] checks a line and finds the document's id, and builds nothing: what Holdfast keeps are the bytes
//! themselves. It accepts strict JSON, and beyond that only what ModeShape writes: `\'` in strings; `NaN`, `Infinity`
//! and `-Infinity`; nothing at all between two spaces, for a null; and names of fields without any escaping.

use std::borrow::Cow;

/// How deep values may be nested, as the scanner recurses; ModeShape's own stay below ten.
const DEPTH_LIMIT: u32 = 512;

/// What a sound line says of its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// `metadata.id`, the key that the repository stores the document under.
    pub id: Cow<'a, str>,
}

/// The line is not a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {message}")]
pub struct DocumentError {
    /// How many bytes of the line precede the place.
    pub at: usize,
    /// What was expected there, or found.
    pub message: &'static str,
}

/// Checks that `line` is one whole document, in time linear in its length.
pub fn scan(line: &[u8]) -> Result<Scanned<'_>, DocumentError> {
    visit(line, || Unvisited).map(|(scanned, _)| scanned)
}

/// Checks a line as [`scan`] does, and tells the visitor what stands there. A line may be read in two ways, so that a
/// visitor is made for each.
pub(in crate::model) fn visit<V: Visitor>(
    line: &[u8],
    visitor: impl Fn() -> V,
) -> Result<(Scanned<'_>, V), DocumentError> {
    let text = std::str::from_utf8(line)
        .map_err(|error| DocumentError { at: error.valid_up_to(), message: "this is not UTF-8" })?;
    let scan = |names| Scanner { text, at: 0, depth: 0, names, visitor: visitor() }.document();
    scan(Names::Escaped).or_else(|escaped| {
        if V::WANTED
            && (Scanner { text, at: 0, depth: 0, names: Names::Escaped, visitor: Unvisited }).document().is_ok()
        {
            // It makes sense, and the visitor refuses it.
            return Err(escaped);
        }
        // A name with `"` or `\` in it, as ModeShape writes it, makes no sense as JSON; then the other reading decides.
        scan(Names::Raw).map_err(|raw| if raw.at > escaped.at { raw } else { escaped })
    })
}

/// Is told what stands in a document, in the order in which it stands there; what it refuses is no document to it.
pub(in crate::model) trait Visitor {
    /// Whether names and strings are to be told, which costs taking out their escapes.
    const WANTED: bool;

    fn begin_object(&mut self) -> Result<(), &'static str> {
        Ok(())
    }

    fn begin_array(&mut self) -> Result<(), &'static str> {
        Ok(())
    }

    /// The end of the object or array that began last.
    fn end(&mut self) -> Result<(), &'static str> {
        Ok(())
    }

    fn name(&mut self, _name: &str) -> Result<(), &'static str> {
        Ok(())
    }

    fn string(&mut self, _text: &str) -> Result<(), &'static str> {
        Ok(())
    }

    /// A number, or `-Infinity`.
    fn number(&mut self, _text: &str) -> Result<(), &'static str> {
        Ok(())
    }

    /// One of `true`, `false`, `null`, `NaN` and `Infinity`; nothing at all is told as `null`.
    fn word(&mut self, _word: &str) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Nobody wants to know.
struct Unvisited;

impl Visitor for Unvisited {
    const WANTED: bool = false;
}

/// What stands for a value and is neither text nor number.
const WORDS: [&str; 5] = ["true", "false", "null", "NaN", "Infinity"];

/// How the names of fields are read; the two readings contradict each other, so that a line has one for all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// As JSON has it: a string.
    Escaped,
    /// As ModeShape writes it: whatever precedes `" : `.
    Raw,
}

type Result<T, E = DocumentError> = std::result::Result<T, E>;

struct Scanner<'a, V> {
    text: &'a str,
    at: usize,
    depth: u32,
    names: Names,
    visitor: V,
}

impl<'a, V: Visitor> Scanner<'a, V> {
    fn document(mut self) -> Result<(Scanned<'a>, V)> {
        let mut id = None;
        let mut content = false;
        self.space();
        self.fields(|scanner, name| match &*scanner.plain(name)? {
            "metadata" if id.is_some() => Err(scanner.error("`metadata` stands here a second time")),
            "content" if content => Err(scanner.error("`content` stands here a second time")),
            "metadata" => {
                id = Some(scanner.metadata()?);
                Ok(())
            }
            "content" => {
                content = true;
                scanner.fields(|scanner, _| scanner.value())
            }
            _ => scanner.value(),
        })?;
        self.space();
        if self.at < self.text.len() {
            return Err(self.error("the document has ended, but the line goes on"));
        }
        match (id, content) {
            (Some(id), true) => Ok((Scanned { id }, self.visitor)),
            (None, _) => Err(self.error("the document has no `metadata`")),
            (_, false) => Err(self.error("the document has no `content`")),
        }
    }

    fn metadata(&mut self) -> Result<Cow<'a, str>> {
        let mut id = None;
        self.fields(|scanner, name| {
            if scanner.plain(name)? != "id" {
                return scanner.value();
            }
            let start = scanner.at;
            let problem = |message| Err(DocumentError { at: start, message });
            if id.is_some() {
                return problem("`metadata.id` stands here a second time");
            }
            let text = unescaped(scanner.string()?);
            if let (true, Some(text)) = (V::WANTED, &text) {
                scanner.tell(start, |visitor| visitor.string(text))?;
            }
            match text {
                None => return problem("`metadata.id` holds half of a surrogate pair"),
                Some(text) if text.is_empty() => return problem("`metadata.id` is empty"),
                text => id = text,
            }
            Ok(())
        })?;
        id.ok_or_else(|| self.error("`metadata` has no `id`"))
    }

    /// Reads an object; `field` gets each name and reads the value, unless there is none.
    fn fields(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Result<()>) -> Result<()> {
        self.expect(b'{', "expected `{`")?;
        self.tell(self.at, V::begin_object)?;
        self.space();
        if self.eat(b'}') {
            return self.tell(self.at, V::end);
        }
        loop {
            self.space();
            let start = self.at;
            let name = self.name()?;
            self.space();
            self.expect(b':', "expected `:` after a name")?;
            if V::WANTED {
                let plain = self.plain(name)?;
                self.tell(start, |visitor| visitor.name(&plain))?;
            }
            if self.nothing(b'}') {
                self.tell(self.at, |visitor| visitor.word("null"))?;
            } else {
                self.space();
                field(self, name)?;
            }
            self.space();
            if self.eat(b'}') {
                return self.tell(self.at, V::end);
            }
            self.expect(b',', "expected `,` or `}`")?;
        }
    }

    fn tell(&mut self, at: usize, what: impl FnOnce(&mut V) -> Result<(), &'static str>) -> Result<()> {
        what(&mut self.visitor).map_err(|message| DocumentError { at, message })
    }

    fn array(&mut self) -> Result<()> {
        self.expect(b'[', "expected `[`")?;
        self.tell(self.at, V::begin_array)?;
        if self.nothing(b']') {
            self.tell(self.at, |visitor| visitor.word("null"))?;
        } else {
            self.space();
            if self.eat(b']') {
                return self.tell(self.at, V::end);
            }
            self.value()?;
        }
        loop {
            self.space();
            if self.eat(b']') {
                return self.tell(self.at, V::end);
            }
            self.expect(b',', "expected `,` or `]`")?;
            if self.nothing(b']') {
                self.tell(self.at, |visitor| visitor.word("null"))?;
            } else {
                self.space();
                self.value()?;
            }
        }
    }

    fn value(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'"') => {
                let start = self.at;
                let string = self.string()?;
                if V::WANTED {
                    let problem = || DocumentError { at: start, message: "the string holds half of a surrogate pair" };
                    let text = unescaped(string).ok_or_else(problem)?;
                    self.tell(start, |visitor| visitor.string(&text))?;
                }
                Ok(())
            }
            Some(b'{') => self.nested(|scanner| scanner.fields(|scanner, _| scanner.value())),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                self.number()?;
                let number = &self.text[start..self.at];
                self.tell(start, |visitor| visitor.number(number))
            }
            _ => match WORDS.iter().find(|word| self.eat_word(word)) {
                Some(word) => self.tell(self.at, |visitor| visitor.word(word)),
                None => Err(self.error("expected a value")),
            },
        }
    }

    fn number(&mut self) -> Result<()> {
        if self.eat_word("-Infinity") {
            return Ok(());
        }
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'-') {
                self.eat(b'+');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.error("expected a digit")) }
    }

    fn name(&mut self) -> Result<&'a str> {
        if self.names == Names::Escaped {
            return self.string();
        }
        let opening = self.at;
        self.expect(b'"', "expected a name")?;
        let rest = &self.text[self.at..];
        let Some(len) = rest.find("\" : ") else {
            return Err(DocumentError { at: opening, message: "the name that begins here is not followed by `\" : `" });
        };
        let name = &rest[..len];
        // Names in JCR are made of the characters of XML, which has these two below the space.
        if let Some(at) = name.bytes().position(|byte| byte < b' ' && byte != b'\t' && byte != b'\r') {
            return Err(DocumentError { at: self.at + at, message: "there is a control character in a name" });
        }
        self.at += len + 1;
        Ok(name)
    }

    /// Reads a string and gives what stands between its quotes.
    fn string(&mut self) -> Result<&'a str> {
        let opening = self.at;
        self.expect(b'"', "expected a string")?;
        let bytes = self.text.as_bytes();
        loop {
            while bytes.get(self.at).is_some_and(|byte| PLAIN[usize::from(*byte)]) {
                self.at += 1;
            }
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.text[opening + 1..self.at - 1]);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.error("there is a control character in a string")),
                None => return Err(DocumentError { at: opening, message: "the string that begins here does not end" }),
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        let len = match rest.first() {
            Some(b'"' | b'\'' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if rest.get(1..5).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => 6,
            _ => return Err(self.error("there is no such escape")),
        };
        self.at += len;
        Ok(())
    }

    /// Whether there is nothing where a value could be: ModeShape's null, two spaces before `,` or `end`.
    fn nothing(&self, end: u8) -> bool {
        matches!(self.text.as_bytes().get(self.at..), Some([b' ', b' ', next, ..]) if *next == b',' || *next == end)
    }

    /// The name without escapes, where the reading has any.
    fn plain(&self, name: &'a str) -> Result<Cow<'a, str>> {
        match self.names {
            Names::Raw => Ok(Cow::Borrowed(name)),
            Names::Escaped => unescaped(name).ok_or_else(|| self.error("the name holds half of a surrogate pair")),
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.depth == DEPTH_LIMIT {
            return Err(self.error("this is nested more than 512 deep"));
        }
        self.depth += 1;
        read(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn expect(&mut self, byte: u8, message: &'static str) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.error(message)) }
    }

    fn error(&self, message: &'static str) -> DocumentError {
        DocumentError { at: self.at, message }
    }
}

/// The bytes that stand for themselves in a string.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

/// What a scanned string says; none if that is no text, because of half a surrogate pair.
fn unescaped(string: &str) -> Option<Cow<'_, str>> {
    if !string.contains('\\') {
        return Some(Cow::Borrowed(string));
    }
    let mut text = String::with_capacity(string.len());
    let mut rest = string;
    while let Some((before, escape)) = rest.split_once('\\') {
        text.push_str(before);
        let mut len = 1;
        text.push(match escape.as_bytes().first()? {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let character = utf16(escape)?;
                len = 5 + 6 * (character.len_utf16() - 1);
                character
            }
            other => char::from(*other),
        });
        rest = &escape[len..];
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

/// The character of `uXXXX` or `uXXXX\uXXXX`.
fn utf16(escape: &str) -> Option<char> {
    let unit = |from: usize| u16::from_str_radix(escape.get(from..from + 4)?, 16).ok();
    let first = unit(1)?;
    let second = escape.get(5..7).filter(|next| *next == "\\u").and_then(|_| unit(7));
    char::decode_utf16([Some(first), second].into_iter().flatten()).next()?.ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REFERENCE: &str = "{ \"metadata\" : { \"id\" : \"6aa9bf7df2242ef867558584c02160023a96f2f9-ref\" } , \"content\" \
                             : { \"sha1\" : \"6aa9bf7df2242ef867558584c02160023a96f2f9\" , \"refCount\" : 1 } }";

    /// A document with this content.
    fn holding(content: &str) -> String {
        format!(r#"{{ "metadata" : {{ "id" : "x" }} , "content" : {content} }}"#)
    }

    fn id(line: &str) -> String {
        match scan(line.as_bytes()) {
            Ok(scanned) => scanned.id.into_owned(),
            Err(error) => panic!("{line}: {error}"),
        }
    }

    #[test]
    fn genuine_documents_are_accepted() {
        assert_eq!(REFERENCE.len(), 161);
        assert_eq!(id(REFERENCE), "6aa9bf7df2242ef867558584c02160023a96f2f9-ref");
        let metadata = r#"{ "metadata" : { "id" : "c362428317f1e7jcr:system/mode:metadata" } , "content" : { "key" : "c362428317f1e7jcr:system/mode:metadata" , "properties" : { "" : { "workspaces" : [ "default" ] , "accessControl" : false } } } }"#;
        assert_eq!(id(metadata), "c362428317f1e7jcr:system/mode:metadata");
        let old = r#"{ "metadata" : { "id" : "a-ref" , "contentType" : "application/json" } , "content" : { } }"#;
        assert_eq!(id(old), "a-ref");
    }

    #[test]
    fn everything_that_modeshape_writes_is_accepted() {
        for content in [
            "{ }",
            r#"{ "d" : { "$type" : 0 , "$base64" : "aGVsbG8=" } }"#,
            r#"{ "d" : { "$date" : "2014-11-27T12:34:56.789Z" } }"#,
            r#"{ "d" : { "$uuid" : "00112233-4455-6677-8899-aabbccddeeff" } }"#,
            r#"{ "data" : { "$sha1" : "6aa9bf7df2242ef867558584c02160023a96f2f9" , "$len" : 5000 } }"#,
            r#"{ "s" : "a\'b\"c/d\\e\n\t\u0001€" }"#,
            "{ \"s\" : \"\u{7f}\u{85}\u{10ffff}\" }",
            r#"{ "a" : [ ] , "b" : [ 1 , "x" , [ ] ] }"#,
            r#"{ "n" :  , "m" : 1 }"#,
            r#"{ "m" : 1 , "n" :  }"#,
            r#"{ "n" :  , "o" :  , "p" : null }"#,
            "{ \"a\" : [  ] , \"b\" : [  , 1 ,  , 2 ,  ] }",
            r#"{ "d" : NaN , "e" : Infinity , "f" : [ -Infinity , -0.0 , 1.0E7 , 1.23E-5 , 4.9E-324 ] }"#,
            r#"{ "l" : -9223372036854775808 , "b" : true , "c" : false }"#,
            // Names are written raw.
            r#"{ "" : 1 , "a"b" : 2 }"#,
            r#"{ "a\" : 1 , "b\" : "x" }"#,
            r#"{ "a\q" : "say \"hi\"" , "\u12" : { "a"" :  , """ : [ 1 ] } }"#,
            r#"{ "it's" : "it\'s" , "{http://x/}l" : 1 }"#,
            "{ \"a\tb\" : 1 }",
        ] {
            assert_eq!(id(&holding(content)), "x", "{content}");
        }
    }

    #[test]
    fn strict_json_is_accepted() {
        for line in [
            r#"{"metadata":{"id":"x"},"content":{}}"#,
            r#"{"content":{"a":[1,2.5e+3,null,{"b":"\/\b\ud83d\ude00\ud800"}]},"other":[],"metadata":{"n":1,"id":"x"}}"#,
            "\t{ \"metadata\" : {\"id\" :\"\\u0078\"}, \"content\":{\"a\\\"\\\\\" :[ ]}}\r\n",
            r#"{"m\u0065tadata":{"\u0069d":"x"},"content":{"a\" : ":1}}"#,
        ] {
            assert_eq!(id(line), "x", "{line}");
        }
    }

    #[test]
    fn the_id_is_given_without_escapes() {
        for (written, meant) in [
            (r"it\'s", "it's"),
            (r#"a\"b\\c\/d"#, "a\"b\\c/d"),
            (r"\b\f\n\r\t\u0001é\u20ac", "\u{8}\u{c}\n\r\t\u{1}é€"),
            (r"\ud83d\ude00!\u0041", "😀!A"),
        ] {
            let line = format!(r#"{{ "metadata" : {{ "id" : "{written}" }} , "content" : {{ }} }}"#);
            assert_eq!(id(&line), meant);
        }
    }

    #[test]
    fn what_is_no_document_is_refused_with_the_place() {
        let nested = holding(&format!("{{\"a\":{}{}}}", "[".repeat(600), "]".repeat(600)));
        for (line, error) in [
            ("", "at byte 0: expected `{`"),
            ("[]", "at byte 0: expected `{`"),
            ("{}", "at byte 2: the document has no `metadata`"),
            (r#"{"metadata":{"id":"x"}}"#, "at byte 23: the document has no `content`"),
            (r#"{"metadata":{},"content":{}}"#, "at byte 14: `metadata` has no `id`"),
            (r#"{"metadata":{"id":""},"content":{}}"#, "at byte 18: `metadata.id` is empty"),
            (r#"{"metadata":{"id":7},"content":{}}"#, "at byte 18: expected a string"),
            (
                r#"{"metadata":{"id":"\ud800"},"content":{}}"#,
                "at byte 18: `metadata.id` holds half of a surrogate pair",
            ),
            (
                r#"{"metadata":{"id":"\udc00\ud800"},"content":{}}"#,
                "at byte 18: `metadata.id` holds half of a surrogate pair",
            ),
            (r#"{"metadata":{"id":"a","id":"b"},"content":{}}"#, "at byte 27: `metadata.id` stands here a second time"),
            (
                r#"{"metadata":{"id":"a"},"metadata":{"id":"b"},"content":{}}"#,
                "at byte 34: `metadata` stands here a second time",
            ),
            (r#"{"metadata":{"id":"a"},"content":{},"content":{}}"#, "at byte 46: `content` stands here a second time"),
            (r#"{"metadata":{"id":"a"},"content":[]}"#, "at byte 33: expected `{`"),
            (r#"{ "metadata" : { "id" :  } , "content" : { } }"#, "at byte 26: `metadata` has no `id`"),
            (r#"{"metadata":{"id":"a"},"content":{}}{"#, "at byte 36: the document has ended, but the line goes on"),
            (r#"{"metadata":{"id":"a"},"content":{"b":1"#, "at byte 39: expected `,` or `}`"),
            (r#"{"metadata":{"id":"a"},"content":{"b":"cd"#, "at byte 38: the string that begins here does not end"),
            (&nested, "at byte 561: this is nested more than 512 deep"),
        ] {
            let found = scan(line.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(found.err().as_deref(), Some(error), "{line}");
        }
        let latin1 = scan(b"{\"metadata\":{\"id\":\"\xe9\"},\"content\":{}}");
        assert_eq!(latin1, Err(DocumentError { at: 19, message: "this is not UTF-8" }));
    }

    #[test]
    fn beyond_json_nothing_is_accepted_that_modeshape_does_not_write() {
        for content in [
            "{\"a\":}",
            "{ \"a\" : }",
            "{ \"a\" :   }",
            "{ \"a\" : 1 , }",
            "{ , \"a\" : 1 }",
            "{ \"a\" : 'x' }",
            "{ \"a\" = 1 }",
            "{ \"a\" : 1 ; \"b\" : 2 }",
            "{ a : 1 }",
            "{ \"a\" : 01 }",
            "{ \"a\" : 1. }",
            "{ \"a\" : .5 }",
            "{ \"a\" : 1E }",
            "{ \"a\" : +1 }",
            "{ \"a\" : -NaN }",
            "{ \"a\" : nan }",
            "{ \"a\" : truely }",
            "{ \"a\" : [ 1 2 ] }",
            "{ \"a\" : [ 1 , ] }",
            "{ \"a\" : \"\\x\" }",
            "{ \"a\" : \"\\u12g4\" }",
            "{ \"a\" : \"tab\t\" }",
            "{ \"a\" : \"nul\0\" }",
            "{ \"a\0\" : 1 }",
            "{ \"a\"b\": 1 }",
        ] {
            assert!(scan(holding(content).as_bytes()).is_err(), "{content}");
        }
    }

    #[test]
    fn no_part_of_a_document_is_a_document() {
        for line in [REFERENCE.to_owned(), holding(r#"{ "a"b" : [ 1.5 ,  , "\'" ] , "n" :  }"#)] {
            for len in 0..line.len() {
                assert!(scan(&line.as_bytes()[..len]).is_err(), "{}", &line[..len]);
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Value {
        Bare(String),
        Text(String),
        Array(Vec<Value>),
        Object(Vec<(String, Value)>),
    }

    /// Values as `CompactJsonWriter` writes them.
    fn dialect(value: &Value) -> String {
        match value {
            Value::Bare(text) => text.clone(),
            Value::Text(text) => string(text),
            Value::Array(values) if values.is_empty() => "[ ]".to_owned(),
            Value::Array(values) => format!("[ {} ]", values.iter().map(dialect).collect::<Vec<_>>().join(" , ")),
            Value::Object(fields) if fields.is_empty() => "{ }".to_owned(),
            Value::Object(fields) => {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("\"{name}\" : {}", dialect(value))).collect();
                format!("{{ {} }}", fields.join(" , "))
            }
        }
    }

    fn string(text: &str) -> String {
        let escape = |character| match character {
            '"' | '\'' | '\\' => format!("\\{character}"),
            '\n' => "\\n".to_owned(),
            '\t' => "\\t".to_owned(),
            '\0'..' ' => format!("\\u{:04x}", u32::from(character)),
            other => other.to_string(),
        };
        format!("\"{}\"", text.chars().map(escape).collect::<String>())
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|number| Value::Bare(number.to_string())),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(|n| Value::Bare(format!("{n:E}"))),
            prop::sample::select(vec!["true", "false", "null", "", "NaN", "Infinity", "-Infinity"])
                .prop_map(|word| Value::Bare(word.to_owned())),
            any::<String>().prop_map(Value::Text),
        ];
        let name = prop_oneof!["[a-z\"\\\\:{}\\[\\],' \tu0é€]{0,9}", "[a-z:/.]{0,30}"]
            .prop_filter("a name that holds its own end", |name| {
                format!("{name}\" : ").find("\" : ") == Some(name.len())
            });
        leaf.prop_recursive(6, 60, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                prop::collection::vec((name.clone(), inner), 0..8).prop_map(Value::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(line in any::<Vec<u8>>()) {
            let _judged = scan(&line);
        }

        #[test]
        fn anything_like_a_document_is_judged(line in "[\\\\\"{}\\[\\]:, a0.eE'u\u{e9}\u{1}-]{0,60}") {
            let _judged = scan(holding(&line).as_bytes());
        }

        #[test]
        fn every_document_in_the_dialect_is_accepted(name in "\\PC{1,20}", content in values()) {
            let content = Value::Object(vec![("v".to_owned(), content)]);
            let line =
                format!("{{ \"metadata\" : {{ \"id\" : {} }} , \"content\" : {} }}", string(&name), dialect(&content));
            prop_assert_eq!(scan(line.as_bytes()).map(|scanned| scanned.id.into_owned()), Ok(name));
        }

        #[test]
        fn whatever_a_strict_reader_accepts_is_accepted(content in "[\\\\\"{}\\[\\]:, a0.eE\u{e9}-]{0,12}") {
            let line = holding(&format!("{{\"a\":{content}}}"));
            if serde_json::from_str::<serde_json::Value>(&line).is_ok_and(|value| value.as_object().is_some_and(|o| o.len() == 2)) {
                prop_assert!(scan(line.as_bytes()).is_ok(), "{}", line);
            }
        }
    }
}
