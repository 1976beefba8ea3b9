//! A line of documents as JSON that any program reads.
//!
//! ModeShape's text differs from JSON in three places: `'` stands behind `\` in strings, a null is nothing at all, and
//! `NaN`, `Infinity` and `-Infinity` stand bare; these become strings here.

use std::borrow::Cow;

/// The same document in JSON (RFC 8259). The line has to be sound ([`scan`](super::document::scan)); names that
/// contain `"` or `\` unescaped stay as they are.
pub fn strict(line: &str) -> Cow<'_, str> {
    if !line.contains("\\'") && !line.contains("  ") && !line.contains("NaN") && !line.contains("Infinity") {
        return Cow::Borrowed(line);
    }
    let mut text = String::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some(at) = rest.find('"') {
        let (between, string) = rest.split_at(at);
        bare(between, &mut text);
        let len = string_length(string);
        text.push_str(&string[..len].replace("\\'", "'"));
        rest = &string[len..];
    }
    bare(rest, &mut text);
    Cow::Owned(text)
}

/// How long the string is that begins here, with its quotes.
fn string_length(string: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in string.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    string.len()
}

/// What stands between strings: numbers, words, and nothing where a null is meant.
fn bare(between: &str, text: &mut String) {
    let mut rest = between;
    while let Some(at) = rest.find([':', ',', '[', ']', '}', 'N', 'I', '-']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        if let Some(word) = word {
            text.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        let (sign, after) = rest.split_at(1);
        text.push_str(sign);
        rest = after;
        let value_may_follow = matches!(sign, ":" | "," | "[");
        if value_may_follow && rest.starts_with("  ") && rest[2..].starts_with([',', ']', '}']) {
            text.push_str(" null ");
            rest = &rest[2..];
        }
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::document::scan;

    #[test]
    fn what_modeshape_writes_becomes_what_every_program_reads() {
        let line = r#"{ "metadata" : { "id" : "n" } , "content" : { "a" : "it\'s \\\" \\" , "b" :  , "c" : [  , 1 ,  , "x  ," ] , "d" : NaN , "e" : [ -Infinity , Infinity ] , "f" : -1.5E-7 , "g" :  } }"#;
        assert!(scan(line.as_bytes()).is_ok());
        let value: Value = serde_json::from_str(&strict(line)).unwrap();
        assert_eq!(
            value["content"],
            json!({"a": "it's \\\" \\", "b": null, "c": [null, 1, null, "x  ,"], "d": "NaN",
                   "e": ["-Infinity", "Infinity"], "f": -1.5e-7, "g": null})
        );
    }

    #[test]
    fn what_is_json_already_stays_as_it_is() {
        let line = r#"{ "metadata" : { "id" : "n" } , "content" : { "a" : [ 1 , { } , "b" ] } }"#;
        assert!(matches!(strict(line), Cow::Borrowed(_)));
    }
}
