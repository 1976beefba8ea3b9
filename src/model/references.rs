//! Which binaries a document needs: what a backup has to hold before it may be called complete.
//!
//! A stored binary stands in a node as `{ "$sha1" : "…" , "$len" : … }` (ModeShape's `DocumentConstants`). How often it
//! is used stands in a document of its own, `<sha1>-ref`, with `refCount`; one that nothing uses any more has 0 there,
//! and may be gone.

use memchr::memmem;

use super::digest::Digest;
use super::document::scan;

/// Hands every binary that a sound line refers to over to `found`, as often as it does.
///
/// Looks for the names of fields as bytes: within a string they would stand behind `\`. Costs a small part of what
/// packing the line does.
pub fn references(line: &[u8], mut found: impl FnMut(Digest)) {
    for at in memmem::find_iter(line, b"\"$sha1\"") {
        if let Some(digest) = after_colon(&line[at + 7..]).and_then(quoted).and_then(Digest::from_name) {
            found(digest);
        }
    }
    if let Some(digest) = counted(line) {
        found(digest);
    }
}

/// The binary that a document with a count above zero counts the uses of.
fn counted(line: &[u8]) -> Option<Digest> {
    let at = memmem::find(line, b"\"refCount\"")?;
    let count = after_colon(&line[at + 10..])?;
    let used = count.first().is_some_and(|digit| matches!(digit, b'1'..=b'9'));
    let id = scan(line).ok()?.id;
    Digest::from_name(id.strip_suffix("-ref")?.as_bytes()).filter(|_| used)
}

/// What follows a name: its value.
fn after_colon(rest: &[u8]) -> Option<&[u8]> {
    Some(rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// A string without escapes at the beginning.
fn quoted(value: &[u8]) -> Option<&[u8]> {
    let value = value.strip_prefix(b"\"")?;
    Some(&value[..memchr::memchr(b'"', value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = "6aa9bf7df2242ef867558584c02160023a96f2f9";

    fn of(line: &str) -> Vec<String> {
        assert!(scan(line.as_bytes()).is_ok(), "{line}");
        let mut digests = Vec::new();
        references(line.as_bytes(), |digest| digests.push(digest.to_string()));
        digests
    }

    #[test]
    fn a_node_needs_the_binaries_that_stand_in_it() {
        let other = "0".repeat(40);
        let line = format!(
            r#"{{ "metadata" : {{ "id" : "n" }} , "content" : {{ "data" : {{ "$sha1" : "{GOLDEN}" , "$len" : 5000 }} , "more" : [ {{ "$sha1":"{other}","$len":1 }} ] }} }}"#
        );
        assert_eq!(of(&line), [GOLDEN, &other]);
    }

    #[test]
    fn a_count_above_zero_needs_its_binary_and_another_does_not() {
        let line = |id: &str, count: &str| {
            format!(
                r#"{{ "metadata" : {{ "id" : "{id}" }} , "content" : {{ "sha1" : "{GOLDEN}" , "refCount" : {count} }} }}"#
            )
        };
        assert_eq!(of(&line(&format!("{GOLDEN}-ref"), "1")), [GOLDEN]);
        assert_eq!(of(&line(&format!("{GOLDEN}-ref"), "20")), [GOLDEN]);
        assert_eq!(of(&line(&format!("{GOLDEN}-ref"), "0")), <[&str; 0]>::default());
        assert_eq!(of(&line(&format!("{GOLDEN}-ref"), "-1")), <[&str; 0]>::default());
        assert_eq!(of(&line("node", "1")), <[&str; 0]>::default());
    }

    #[test]
    fn a_text_that_looks_like_a_reference_is_none() {
        let line = format!(
            r#"{{ "metadata" : {{ "id" : "n" }} , "content" : {{ "text" : "\"$sha1\" : \"{GOLDEN}\"" , "x" : "$sha1" }} }}"#
        );
        assert_eq!(of(&line), <[&str; 0]>::default());
        let short = r#"{ "metadata" : { "id" : "n" } , "content" : { "$sha1" : "abc" } }"#;
        assert_eq!(of(short), <[&str; 0]>::default());
    }
}
