//! What ModeShape's own reader of backups would lose without a word, and Fedora with it.
//!
//! A name with `"` ends the reading of its file there, one with `\\` becomes another, and a text ends before U+FFFF. A
//! database takes all of them.

use crate::model::document::DocumentError;
use crate::model::document::Scanned;
use crate::model::document::Visitor;
use crate::model::document::scan;
use crate::model::document::visit;

/// Checks that ModeShape reads all of a line; the error says what it would not.
pub fn check_readable(line: &[u8]) -> Result<Scanned<'_>, DocumentError> {
    visit(line, || Reader).map(|(scanned, _)| scanned).map_err(|error| match scan(line) {
        // As JSON such a name makes no sense, and that is what was found first.
        Ok(_) if error.message != TEXT => DocumentError { message: NAME, ..error },
        _ => error,
    })
}

const NAME: &str = "a name has a quote or a backslash in it";
const TEXT: &str = "a text has the character U+FFFF in it";

struct Reader;

impl Visitor for Reader {
    const WANTED: bool = true;

    fn name(&mut self, name: &str) -> Result<(), &'static str> {
        // A backslash that ModeShape wrote as it was may have been read as an escape.
        let odd = |character: char| matches!(character, '"' | '\\') || character.is_control();
        if name.contains(odd) { Err(NAME) } else { self.string(name) }
    }

    fn string(&mut self, text: &str) -> Result<(), &'static str> {
        if text.contains('\u{ffff}') { Err(TEXT) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_modeshape_would_lose_is_refused_and_nothing_else() {
        let line = |content: &str| format!(r#"{{ "metadata" : {{ "id" : "a" }} , "content" : {{ {content} }} }}"#);
        for content in [r#""a" : "b \" c \\ d""#, r#""ä" : [ 1 , NaN , "\u00e4" ]"#, ""] {
            assert_eq!(check_readable(line(content).as_bytes()).unwrap().id, "a", "{content}");
        }
        for (content, message) in [
            (r#""a"b" : 1"#, NAME),
            (r#""a\b" : 1"#, NAME),
            (r#""a" : "b\uffffc""#, TEXT),
            ("\"a\" : [ \"\u{ffff}\" ]", TEXT),
        ] {
            assert_eq!(check_readable(line(content).as_bytes()).unwrap_err().message, message, "{content}");
        }
        assert_eq!(check_readable(b"{ }"), scan(b"{ }"));
    }
}
