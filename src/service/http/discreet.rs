//! Texts for those who must not learn where things lie on this machine.

/// The text in one line of at most so many characters, with the name alone in the place of every path.
pub(super) fn discreet(text: &str, limit: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown = without_paths(&line);
    if let Some((end, _)) = shown.char_indices().nth(limit) {
        let end = shown[..end].char_indices().next_back().map_or(0, |(last, _)| last);
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

fn without_paths(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = next_path(rest, shown.chars().next_back()) {
        let (before, path) = rest.split_at(at);
        shown.push_str(before);
        let end = match before.chars().next_back().or(shown.chars().next_back()) {
            // In quotes there may be spaces in it.
            Some(quote @ ('`' | '"' | '\'')) => path.find(quote).unwrap_or(path.len()),
            _ => path
                .find(|c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | ')' | ']' | ',' | ';'))
                .unwrap_or(path.len()),
        };
        let (path, behind) = path.split_at(end);
        let bare = path.trim_end_matches([':', '.']);
        let name = bare.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        shown.push_str(if name.is_empty() || name == "file:" { "…" } else { name });
        shown.push_str(&path[bare.len()..]);
        rest = behind;
    }
    shown + rest
}

/// Where the next absolute path begins; `before` is what stands in front of the text. An object's key, and what follows
/// the host of a URL, are none.
fn next_path(text: &str, before: Option<char>) -> Option<usize> {
    let mut before = before;
    for (at, c) in text.char_indices() {
        let begins =
            before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '/' | '.' | '-' | '_' | '%' | '~' | ']'));
        let rest = &text[at..];
        if begins && (rest.starts_with("file:/") || c == '/' && !(before == Some(':') && rest.starts_with("//"))) {
            return Some(at);
        }
        before = Some(c);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_directories_and_nothing_else_changes() {
        for (text, expected) in [
            ("open `/srv/my data/fcrepo`: denied", "open `fcrepo`: denied"),
            ("read directory /srv/fcrepo/aa: denied", "read directory aa: denied"),
            (
                "at `disk` (file:///var/backups/holdfast): `holdfast points` lists",
                "at `disk` (holdfast): `holdfast points` lists",
            ),
            ("/var/lib", "lib"),
            ("in \"/\" or /.", "in \"…\" or …."),
            ("a=/x/y, b:/x/z; (/q)", "a=y, b:z; (q)"),
            (
                "put `archives/BackupDaemonJob1-2.zip` in `s3://bucket/prefix at http://127.0.0.1:8333`: busy",
                "put `archives/BackupDaemonJob1-2.zip` in `s3://bucket/prefix at http://127.0.0.1:8333`: busy",
            ),
            ("allow s3:GetObject on `vault/fedora/*`", "allow s3:GetObject on `vault/fedora/*`"),
            ("holdfast://disk/archives/x and https://host/a/b", "holdfast://disk/archives/x and https://host/a/b"),
            ("one\n   two  1/2", "one two 1/2"),
            ("`/unclosed and on", "`unclosed and on"),
        ] {
            assert_eq!(discreet(text, 1000), expected, "{text}");
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(discreet("äöüäöü", 6), "äöüäöü");
        assert_eq!(discreet("äöüäöüä", 6), "äöüäö…");
        assert_eq!(discreet("", 6), "");
    }
}
