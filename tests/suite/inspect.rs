//! Looking into backups: `holdfast documents` and `holdfast diff`.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use holdfast::ledger::StateLock;
use holdfast::model::layout::Layout;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::lab::sha1;

/// A repository with documents and a destination in a directory.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["binaries", "documents"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let text = "[service]\nstate_dir = \"state\"\n[repository.main]\nbinaries = \"binaries\"\n\
                    [repository.main.documents]\ndirectory = \"documents\"\n\
                    [destination.main]\nurl = \"file:backups\"\n[copy.binaries]\n[backup.full]\n";
        fs::write(directory.path().join("holdfast.toml"), text).unwrap();
        Self(directory)
    }

    fn binary(&self, content: &str) -> String {
        let digest = sha1(content.as_bytes());
        let path = self.0.path().join("binaries").join(Layout::modeshape().path(&digest));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        digest.to_string()
    }

    /// Documents by id and what stands in their content.
    fn documents(&self, documents: &[(&str, &str)]) {
        let line = |(id, content): &(&str, &str)| {
            format!("{{ \"metadata\" : {{ \"id\" : \"{id}\" }} , \"content\" : {{ {content} }} }}\n")
        };
        let lines: String = documents.iter().map(line).collect();
        fs::write(self.0.path().join("documents/documents_000001.bin"), lines).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.arg("--config").arg(self.0.path().join("holdfast.toml")).args(arguments);
        command.stdin(Stdio::null()).env_remove("HOLDFAST_CONFIG");
        command
    }

    #[track_caller]
    fn holdfast(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(status), "out:\n{out}\nerr:\n{err}");
        out
    }

    #[track_caller]
    fn made_by(&self, job: &str) -> String {
        let run: Value = serde_json::from_str(&self.holdfast(0, &["run", job, "--json"])).unwrap();
        run["result"].as_str().unwrap().to_owned()
    }
}

fn names_in(directory: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn documents_are_printed_as_json_that_every_program_reads_or_as_they_stand() {
    let site = Site::new();
    site.binary("one");
    site.documents(&[("a", r#""text" : "it\'s" , "none" : "#), ("b", r#""number" : NaN"#), ("c", "")]);
    for name in [site.made_by("copy.binaries"), site.made_by("backup.full")] {
        assert_eq!(site.holdfast(0, &["documents", &name, "--count"]), "3\n");
        let printed = site.holdfast(0, &["documents", &name]);
        let values: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(values[0]["content"], json!({"text": "it's", "none": null}));
        assert_eq!((values.len(), &values[1]["content"]["number"]), (3, &json!("NaN")));
        assert_eq!(
            site.holdfast(0, &["documents", &name, "--id", "b", "--raw"]),
            "{ \"metadata\" : { \"id\" : \"b\" } , \"content\" : { \"number\" : NaN } }\n"
        );
        assert_eq!(site.holdfast(0, &["documents", &name, "--grep", "it\\'s", "--count"]), "1\n");
        assert_eq!(site.holdfast(1, &["documents", &name, "--id", "d"]), "");
    }
}

#[test]
fn looking_into_a_backup_works_beside_a_run_and_leaves_nothing_behind() {
    let site = Site::new();
    site.binary("one");
    site.documents(&[("a", "")]);
    let point = site.made_by("copy.binaries");
    let state = site.0.path().join("state");
    let temporary = tempfile::tempdir().unwrap();
    let (before, _lock) = (names_in(&state), StateLock::take(&state, "a test").unwrap());
    for arguments in [&["documents", &point][..], &["diff", &point, &point]] {
        let status = site.command(arguments).env("TMPDIR", temporary.path()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
    }
    assert_eq!(names_in(&state), before);
    assert_eq!(names_in(temporary.path()), <[&str; 0]>::default());
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let site = Site::new();
    site.binary("one");
    let filler = "x".repeat(200_000);
    let content = format!("\"filler\" : \"{filler}\"");
    let ids: Vec<String> = (0..40).map(|number| format!("id{number}")).collect();
    site.documents(&ids.iter().map(|id| (id.as_str(), content.as_str())).collect::<Vec<_>>());
    let point = site.made_by("copy.binaries");
    let mut child = site.command(&["documents", &point]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut beginning = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut beginning).unwrap();
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert!(child.wait().unwrap().success(), "{complaint}");
    assert_eq!(complaint, "");
}

#[test]
fn a_difference_counts_and_names_what_was_added_changed_and_removed() {
    let site = Site::new();
    let (kept, gone) = (site.binary("kept"), site.binary("gone"));
    site.documents(&[("same", ""), ("changed", r#""x" : 1"#), ("gone", "")]);
    let (point, archive) = (site.made_by("copy.binaries"), site.made_by("backup.full"));
    let text = site.holdfast(0, &["diff", &point, &archive]);
    assert_eq!(text, format!("{point} -> {archive}\nthey hold the same\n"));

    let path = Layout::modeshape().path(&gone.parse().unwrap());
    fs::remove_file(site.0.path().join("binaries").join(path)).unwrap();
    let (new, newer) = (site.binary("new"), site.binary("newer"));
    site.documents(&[("new", ""), ("changed", r#""x" : 2"#), ("same", "")]);
    let later = site.made_by("copy.binaries");
    for from in [&point, &archive] {
        let difference: Value =
            serde_json::from_str(&site.holdfast(0, &["diff", from, &later, "--json", "--limit", "1"])).unwrap();
        let several = |count: u64, first: &str| json!({"count": count, "first": [first]});
        assert_eq!(
            difference,
            json!({
                "from": from, "to": later,
                "binaries_added": several(2, (&new).min(&newer)),
                "binaries_removed": several(1, &gone),
                "documents_added": several(1, "new"),
                "documents_changed": several(1, "changed"),
                "documents_removed": several(1, "gone"),
            })
        );
    }
    let text = site.holdfast(0, &["diff", &point, &later]);
    for line in ["1 documents changed\n  ~ changed\n", "  - gone\n", &format!("  - {gone}\n"), &format!("  + {new}\n")]
    {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    assert!(!text.contains(&kept), "{text}");
}
