//! What is wrong with a configuration, shown with its place and the way out.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::value::Complaint;

/// The configuration cannot be used; shows every problem over several lines.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The configuration file.
    pub file: PathBuf,
    /// What is wrong with it, in the order of the file; at least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; none if it concerns the file as a whole.
    pub spot: Option<Spot>,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub way_out: String,
}

/// A place in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are meant; at least one.
    pub width: usize,
    /// The line, fit to be shown.
    pub text: String,
}

impl ConfigError {
    pub(super) fn of_file(file: &Path, cause: String, way_out: &str) -> Self {
        let problem = Problem { spot: None, cause, way_out: way_out.to_owned() };
        Self { file: file.to_owned(), problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                write!(f, "\n\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some(spot) = &problem.spot {
                writeln!(f, "{}:{}: {}", spot.line, spot.column, problem.cause)?;
                writeln!(f, "{:>5} | {}", spot.line, spot.text)?;
                writeln!(f, "      | {:indent$}{}", "", "^".repeat(spot.width), indent = spot.column - 1)?;
            } else {
                writeln!(f, " {}", problem.cause)?;
            }
            write!(f, "   way out: {}", problem.way_out)?;
        }
        Ok(())
    }
}

/// The text that problems point into.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn spot(&self, span: &Range<usize>) -> Spot {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        // An error at the line's end points behind it.
        let before = &line[..(start - line_start).min(line.len())];
        let meant = &line[before.len()..line.floor_char_boundary((span.end.max(start) - line_start).min(line.len()))];
        Spot {
            line: self.text[..line_start].matches('\n').count() + 1,
            column: before.chars().count() + 1,
            width: meant.chars().count().max(1),
            text: without_passwords(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        }
    }

    pub(super) fn problem(&self, span: Option<Range<usize>>, cause: String, way_out: String) -> Problem {
        Problem { spot: span.map(|span| self.spot(&span)), cause, way_out }
    }

    pub(super) fn error(&self, problems: Vec<Problem>) -> ConfigError {
        ConfigError { file: self.file.to_owned(), problems }
    }

    /// The text is not TOML.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message();
        let way_out = if message.starts_with("duplicate key") {
            "each name stands once: take one of them out, or give it another name"
        } else if message.contains("string values must be quoted") {
            "write texts in quotes: key = \"value\""
        } else {
            "a line is key = value, [table], or # comment; texts stand in quotes"
        };
        let span = error.span();
        let cause = match span.as_ref().and_then(|span| self.text.get(span.clone())) {
            Some(key) if message == "duplicate key" => format!("duplicate key `{key}`"),
            _ => message.to_owned(),
        };
        self.error(vec![self.problem(span, cause, way_out.to_owned())])
    }

    /// The text is TOML and does not say what a configuration says.
    pub(super) fn value(&self, error: &toml::de::Error, table: &DeTable<'_>) -> ConfigError {
        let span = error.span();
        let path = span.as_ref().and_then(|span| path_of(table, span)).unwrap_or_default();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let [key] = path[..]
            && error.message().starts_with("unknown field")
            && !table.get(key).is_some_and(|value| value.get_ref().is_table())
        {
            let cause = format!("`{key}` stands outside of all tables");
            let way_out = "move it below the header of its table, such as [service]".to_owned();
            return self.error(vec![self.problem(span, cause, way_out)]);
        }
        let (cause, way_out) = explain(error.message(), &path);
        self.error(vec![self.problem(span, cause, way_out)])
    }
}

/// What a message of serde's says about the key or value at `path`, in our words.
fn explain(message: &str, path: &[&str]) -> (String, String) {
    if let Some(Complaint { cause, way_out }) = Complaint::read(message) {
        return (cause, way_out);
    }
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut names = rest.split('`').skip(1).step_by(2);
        let unknown = names.next().unwrap_or_default();
        let mut known: Vec<&str> = names.collect();
        known.sort_unstable();
        let (kind, place) = match path {
            [] | [_] => ("table", String::new()),
            [table @ .., _] => ("key", format!(" in [{}]", table.join("."))),
        };
        let meant = did_you_mean(unknown, known.iter().copied());
        let known = known.join(", ");
        return (format!("unknown {kind} `{unknown}`{place}"), format!("{meant}known {kind}s: {known}"));
    }
    if let Some(key) = message.strip_prefix("missing field ").map(|rest| rest.trim_matches('`')) {
        let example = match path.last() {
            Some(&"mysql") => "url = \"mysql://fcrepo@127.0.0.1/fcrepo\"".to_owned(),
            Some(&"postgres") => "url = \"postgresql://fcrepo@127.0.0.1/fcrepo\"".to_owned(),
            _ => example_of(key),
        };
        return (format!("[{}] has no `{key}`", path.join(".")), format!("add {example}"));
    }
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        return explain_type(found, expected, path);
    }
    (message.to_owned(), "etc/holdfast.toml in the source shows every setting".to_owned())
}

fn explain_type(found: &str, expected: &str, path: &[&str]) -> (String, String) {
    let found = match found.split_once(' ') {
        Some(("integer" | "floating", _)) => {
            found.replace("integer", "the number").replace("floating point", "the number")
        }
        Some(("string", text)) => format!("the text {text}"),
        Some(("boolean", value)) => value.to_owned(),
        _ if found == "map" => "a table".to_owned(),
        _ if found == "sequence" => "a list".to_owned(),
        _ => found.to_owned(),
    };
    let expected = match expected {
        "a map" => "a table",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other => other,
    };
    match path {
        [kind @ ("repository" | "destination" | "copy" | "backup"), key] if expected == "a table" => (
            format!("`{key}` stands in [{kind}], which has no name"),
            format!(
                "write the header as [{kind}.{}], or with a name of your own",
                if *kind == "copy" { "binaries" } else { "main" }
            ),
        ),
        [kind @ ("repository" | "destination" | "copy" | "backup")] => {
            (format!("`{kind}` is {found}, not a table with a name"), format!("write a header such as [{kind}.main]"))
        }
        [.., key] => {
            let way_out = match EXAMPLES.iter().find(|(known, _)| known == key) {
                Some((_, example)) => format!("write for example {key} = {example}"),
                None => format!("write a header such as [{}]", path.join(".")),
            };
            (format!("`{key}` is {found}, not {expected}"), way_out)
        }
        [] => (format!("{found}, not {expected}"), "etc/holdfast.toml in the source shows every setting".to_owned()),
    }
}

/// A value for each key.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("state_dir", "\"/var/lib/holdfast\""),
    ("listen", "\"127.0.0.1:8480\""),
    ("tls", "{ certificate = \"certificate.pem\", key = \"key.pem\" }"),
    ("certificate", "\"certificate.pem\""),
    ("key", "\"key.pem\""),
    ("allow_plaintext_beyond_loopback", "true"),
    ("hosts", "[\"backup.example.org\"]"),
    ("users", "\"/etc/holdfast/users.toml\""),
    ("session", "\"12h\""),
    ("name", "\"Ada Lovelace\""),
    ("password", "\"$argon2id$…\", which `holdfast passwd EMAIL` writes"),
    ("backup", "\"full\""),
    ("binaries", "\"/srv/fcrepo4-data/fcrepo.binary.directory\""),
    ("layout", "\"modeshape\""),
    ("algorithm", "\"sha1\""),
    ("levels", "3"),
    ("width", "2"),
    ("suffix", "\"\""),
    ("documents", "{ directory = \"/srv/modeshape-backup\" }"),
    ("directory", "\"/srv/modeshape-backup\""),
    ("postgres", "{ url = \"postgresql://fcrepo@127.0.0.1/fcrepo\", password_file = \"postgres-password\" }"),
    ("mysql", "{ url = \"mysql://fcrepo@127.0.0.1/fcrepo\", password_file = \"mysql-password\" }"),
    ("fedora", "{ url = \"http://127.0.0.1:8080/rest\", staging = \"/srv/staging\" }"),
    ("staging", "\"/srv/staging\""),
    ("staging_in_fedora", "\"/srv/staging\""),
    ("root_certificate", "\"fedora-ca.pem\""),
    ("timeout", "\"48h\""),
    ("compress", "true"),
    ("table", "\"MODESHAPE_REPOSITORY\""),
    ("password_file", "\"postgres-password\""),
    ("url", "\"s3://bucket/prefix\" or \"file:///var/backups/holdfast\""),
    ("endpoint", "\"http://127.0.0.1:8333\""),
    ("region", "\"us-east-1\""),
    ("path_style", "true"),
    ("credentials", "{ access_key_file = \"access-key\", secret_key_file = \"secret-key\" }"),
    ("access_key_file", "\"access-key\""),
    ("secret_key_file", "\"secret-key\""),
    ("storage_class", "\"STANDARD_IA\""),
    ("sse", "\"aws:kms\""),
    ("kms_key", "\"alias/holdfast\""),
    ("expected_bucket_owner", "\"123456789012\""),
    ("bandwidth", "\"20MiB\""),
    ("bandwidth_timezone", "\"Europe/Berlin\""),
    ("limit", "\"5MiB\""),
    ("from", "\"08:00\""),
    ("to", "\"18:00\""),
    ("days", "\"Mon-Fri\""),
    ("repository", "\"main\""),
    ("destination", "\"main\""),
    ("parallel", "32"),
    ("settle", "\"2s\""),
    ("volume", "\"10GiB\""),
    ("schedule", "\"0 30 2 * * *\""),
    ("timezone", "\"Europe/Berlin\""),
    ("jitter", "\"5m\""),
];

/// The line with a dot for each character of a password in a url: whoever reads logs need not see it.
fn without_passwords(line: &str) -> String {
    let mut shown = line.to_owned();
    let mut hide = |from: usize, to: usize| {
        let dots = "·".repeat(line[from..to].chars().count());
        // Only the first in a line, as the places after it are no longer the same.
        if shown == line {
            shown = format!("{}{dots}{}", &line[..from], &line[to..]);
        }
    };
    let end_of = |from: usize, ends: &[char]| line[from..].find(ends).map_or(line.len(), |len| from + len);
    for (at, mark) in line.match_indices("://") {
        let from = at + mark.len();
        let authority = &line[from..end_of(from, &['"', '\'', ' '])];
        if let Some(end) = authority.rfind('@')
            && let Some(colon) = authority[..end].find(':')
        {
            hide(from + colon + 1, from + end);
        }
    }
    for (at, mark) in line.match_indices("password=") {
        let from = at + mark.len();
        hide(from, end_of(from, &['"', '\'', ' ', '&']));
    }
    shown
}

fn example_of(key: &str) -> String {
    match EXAMPLES.iter().find(|(known, _)| *known == key) {
        Some((_, example)) => format!("{key} = {example}"),
        None => format!("`{key}`"),
    }
}

/// The names that lead to the key or value at exactly this place.
fn path_of(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    table.iter().find_map(|(key, value)| {
        let deeper = match value.get_ref() {
            DeValue::Table(table) => path_of(table, span),
            // Items of a list have no names.
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(table) => path_of(table, span).or_else(|| (item.span() == *span).then(Vec::new)),
                _ => (item.span() == *span).then(Vec::new),
            }),
            _ => None,
        };
        let here = || (key.span() == *span || value.span() == *span).then(Vec::new);
        let mut path = deeper.or_else(here)?;
        path.insert(0, key.get_ref().to_string());
        Some(path)
    })
}

/// "did you mean `x`? ", or nothing.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default()
}

/// The known word that a slip of the fingers turns into `word`.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (distance(&word.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= known.chars().count().div_ceil(3))
        .min()
        .map(|(_, known)| known)
}

/// How many letters must be added, taken away, changed or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let change = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_recognised_and_another_word_is_not() {
        let known = ["binaries", "layout", "documents"];
        for (word, meant) in [
            ("binareis", Some("binaries")),
            ("Layout", Some("layout")),
            ("layuot", Some("layout")),
            ("document", Some("documents")),
            ("postgres", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        for (line, shown) in [
            ("url = \"postgresql://u:hush@h/x\"", "url = \"postgresql://u:····@h/x\""),
            ("url = \"https://k:a@b@h\"", "url = \"https://k:···@h\""),
            ("url = \"postgresql://u@h/x?password=hush&a=b\"", "url = \"postgresql://u@h/x?password=····&a=b\""),
            ("url = \"postgresql://u@h:5432/x\" # a: b", "url = \"postgresql://u@h:5432/x\" # a: b"),
            ("url = \"http://127.0.0.1:8333\"", "url = \"http://127.0.0.1:8333\""),
        ] {
            assert_eq!(without_passwords(line), shown);
        }
    }

    #[test]
    fn spots_count_characters_and_stay_on_the_line() {
        let source = Source { file: Path::new("f"), text: "a = 1\n\tä = \"ö\"\r\nx" };
        let at = source.text.find("\"ö").unwrap();
        let spot = source.spot(&(at..source.text.len()));
        assert_eq!((spot.line, spot.column, spot.width, spot.text.as_str()), (2, 6, 3, " ä = \"ö\""));
        let end = source.spot(&(source.text.len()..source.text.len()));
        assert_eq!((end.line, end.column, end.width), (3, 2, 1));
    }
}
