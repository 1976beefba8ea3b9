//! Documents in a directory: what is read, what is handed over, and what is said of the rest.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may panic as tests may")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use holdfast::model::archive::DAMAGED_DOCUMENTS;
use holdfast::model::digest::Algorithm;
use holdfast::model::digest::Digest;
use holdfast::repository::documents::DocumentDirectory;
use holdfast::repository::documents::DocumentReport;
use holdfast::repository::documents::DocumentsChanged;
use holdfast::repository::documents::Earlier;
use holdfast::repository::documents::PackedDocuments;
use holdfast::repository::documents::Stopped;
use holdfast::repository::documents::count_documents;
use proptest::prelude::*;
use tempfile::TempDir;

/// A directory as a backup of ModeShape leaves it.
struct Backup(TempDir);

impl Backup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("changes")).unwrap();
        Self(directory)
    }

    /// A backup of one file.
    fn of(lines: &[String]) -> Self {
        Self::new().with("documents_000001.bin.gz", lines)
    }

    fn with(self, name: &str, lines: &[String]) -> Self {
        let text = text(lines);
        self.raw(name, &if name.ends_with(".gz") { gzip(text.as_bytes()) } else { text.into_bytes() })
    }

    fn raw(self, name: &str, content: &[u8]) -> Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn documents(&self) -> DocumentDirectory {
        DocumentDirectory::new(self.0.path())
    }

    fn read(&self) -> anyhow::Result<Reading> {
        self.read_until(&|| false)
    }

    fn read_until(&self, stop: &dyn Fn() -> bool) -> anyhow::Result<Reading> {
        read(&self.documents(), stop)
    }
}

struct Reading {
    report: DocumentReport,
    packs: Vec<PackedDocuments>,
}

fn read(documents: &DocumentDirectory, stop: &dyn Fn() -> bool) -> anyhow::Result<Reading> {
    let mut packs = Vec::new();
    let report = documents.read(&mut HashMap::<[u8; 16], Earlier>::new(), stop, &mut |packed| {
        packs.push(packed);
        Ok(())
    })?;
    Ok(Reading { report, packs })
}

impl Reading {
    /// The documents handed over, after a look at everything that the files promise.
    fn lines(&self) -> Vec<String> {
        let mut text = String::new();
        let mut documents = 0;
        for (number, pack) in self.packs.iter().filter(|pack| pack.name != DAMAGED_DOCUMENTS).enumerate() {
            assert_eq!(pack.name, format!("documents_{:06}.bin.gz", number + 1));
            assert_eq!(pack.sha1, Digest::of(Algorithm::Sha1, &pack.content));
            assert_eq!(&pack.content[..8], b"\x1f\x8b\x08\0\0\0\0\0", "a header without name and time");
            assert_eq!(count_documents(&pack.content[..]).unwrap(), pack.documents);
            documents += pack.documents;
            text.push_str(&gunzip(&pack.content));
        }
        assert_eq!(documents, self.report.documents);
        assert_eq!(self.report.content_sha1, Digest::of(Algorithm::Sha1, text.as_bytes()));
        text.lines().map(str::to_owned).collect()
    }

    fn damaged(&self) -> Option<String> {
        let last = self.packs.last().filter(|pack| pack.name == DAMAGED_DOCUMENTS)?;
        Some(gunzip(&last.content))
    }

    /// Documents, duplicates, conflicting, damaged, warnings, losses.
    fn counts(&self) -> [u64; 6] {
        let DocumentReport { documents, duplicates, conflicting, damaged, warnings, losses, .. } = self.report;
        [documents, duplicates, conflicting, damaged, warnings, losses]
    }

    fn problems(&self) -> Vec<String> {
        let spell = |problem: &holdfast::model::run::Problem| {
            format!("{}: {}: {}", problem.kind, problem.subject, problem.message)
        };
        self.report.problems.iter().map(spell).collect()
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(content: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(content).read_to_string(&mut text).unwrap();
    text
}

fn document(id: &str, content: impl std::fmt::Display) -> String {
    format!(r#"{{ "metadata" : {{ "id" : "{id}" }} , "content" : {{ "value" : {content} }} }}"#)
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| document(&format!("id{number}"), number)).collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

fn error(result: anyhow::Result<Reading>) -> anyhow::Error {
    result.err().expect("an error")
}

/// Calls that count up, with something done at one of them.
fn at_line(line: u32, act: impl Fn()) -> impl Fn() -> bool {
    let calls = Cell::new(0);
    move || {
        calls.set(calls.get() + 1);
        if calls.get() == line {
            act();
        }
        false
    }
}

#[test]
fn documents_of_all_files_are_read_in_order() {
    let all = numbered(0..40);
    let backup = Backup::new()
        .with("documents_000002.bin", &all[10..20])
        .with("documents_000001.bin.gz", &all[..10])
        .with("changes/documents_000001.bin.gz", &all[30..])
        .with("documents_000003.bin.gz", &all[20..30])
        .raw("documents_000004.bin.gz.part", b"foreign")
        .raw("changes/summary_of_changes.json", b"{ \"unusedBinaryKeys\" : [ ] }");
    let reading = backup.read().unwrap();
    assert_eq!(reading.lines(), all);
    assert_eq!(reading.counts(), [40, 0, 0, 0, 0, 0]);
    assert_eq!(reading.problems(), [""; 0]);
}

#[test]
fn each_document_stays_as_it_was_written() {
    let lines = [
        document("it\\'s", r#""it\'s" , "say "hi"" : "\u00e9é" , "n" :  , "m" : 1.0E7"#),
        document("b", r#"NaN , "a\" : Infinity , "z" : 1 , "a" : 2"#),
        "{\"metadata\":{\"id\":\"strict\"},\"content\":{}}".to_owned(),
        document("c", r#"[  , -Infinity ] , "http://x/" : { "" : [ ] }"#),
    ];
    assert_eq!(Backup::of(&lines).read().unwrap().lines(), lines);
}

#[test]
fn line_ends_and_blank_lines_are_made_plain() {
    let [a, b, c] = [document("a", 1), document("b", 2), document("c", 3)];
    let backup = Backup::new().raw("documents_000001.bin", format!("{a}\r\n\n  \n\t{b} \n{c}").as_bytes());
    let reading = backup.read().unwrap();
    assert_eq!(reading.lines(), [a, b, c]);
    assert_eq!(reading.counts(), [3, 0, 0, 0, 0, 0]);
}

#[test]
fn identical_documents_are_kept_once_and_counted() {
    let metadata = document("87a0a8c317f1e7jcr:system/mode:metadata", true);
    let backup = Backup::of(&[metadata.clone(), document("b", 1), metadata.clone()])
        .with("documents_000002.bin.gz", &[format!(" {metadata}\r")]);
    let reading = backup.read().unwrap();
    assert_eq!(reading.lines(), [document("b", 1), metadata]);
    assert_eq!(reading.counts(), [2, 2, 0, 0, 0, 0]);
}

#[test]
fn of_differing_documents_the_last_is_kept_and_named() {
    let backup = Backup::of(&[document("a", 1), document("b", 1), document("a", 2), document("a", 2)])
        .with("changes/documents_000001.bin.gz", &[document("c", 1), document("a", 1), document("\\u0062", 3)]);
    let reading = backup.read().unwrap();
    assert_eq!(reading.lines(), [document("c", 1), document("a", 1), document("\\u0062", 3)]);
    assert_eq!(reading.counts(), [3, 1, 3, 0, 3, 0]);
    assert_eq!(
        reading.problems(),
        [
            "documents: a: stands in documents_000001.bin.gz line 1 and differently in documents_000001.bin.gz line 3, \
             which is kept",
            "documents: a: stands in documents_000001.bin.gz line 4 and differently in \
             changes/documents_000001.bin.gz line 2, which is kept",
            "documents: b: stands in documents_000001.bin.gz line 2 and differently in \
             changes/documents_000001.bin.gz line 3, which is kept",
        ]
    );
}

#[test]
fn what_follows_a_missing_number_is_read_and_the_number_named() {
    let all = numbered(0..4);
    let backup = Backup::new()
        .with("documents_000002.bin", &all[..1])
        .with("documents_000003.bin", &all[1..2])
        .with("documents_000009.bin", &all[2..3])
        .with("changes/documents_000002.bin", &all[3..]);
    let reading = backup.read().unwrap();
    assert_eq!(reading.lines(), all);
    assert_eq!(reading.counts(), [4, 0, 0, 0, 0, 3]);
    assert_eq!(
        reading.problems(),
        [
            "missing: documents_000001: is missing; the files after it are read all the same",
            "missing: documents_000004: and all up to 000008 are missing; the files after them are read all the same",
            "missing: changes/documents_000001: is missing; the files after it are read all the same",
        ]
    );
}

#[test]
fn changes_alone_are_not_everything() {
    let backup = Backup::new().with("changes/documents_000001.bin", &numbered(0..1));
    let reading = backup.read().unwrap();
    assert_eq!(reading.counts(), [1, 0, 0, 0, 0, 1]);
    assert!(reading.problems()[0].starts_with("missing: documents_000001: is missing"));
}

#[test]
fn a_directory_without_changes_is_a_backup_too() {
    let backup = Backup::of(&numbered(0..1));
    fs::remove_dir(backup.path("changes")).unwrap();
    assert_eq!(backup.read().unwrap().counts(), [1, 0, 0, 0, 0, 0]);
}

#[test]
fn of_two_files_of_one_number_the_compressed_one_is_read() {
    let backup = Backup::of(&numbered(0..2)).with("documents_000001.bin", &numbered(5..9));
    let reading = backup.read().unwrap();
    assert_eq!(reading.lines(), numbered(0..2));
    assert_eq!(reading.counts(), [2, 0, 0, 0, 1, 0]);
    assert_eq!(
        reading.problems(),
        ["documents: documents_000001.bin: is not read, as `documents_000001.bin.gz` stands beside it"]
    );
}

#[test]
fn a_directory_with_the_name_of_a_file_is_named() {
    let backup = Backup::new().with("documents_000002.bin.gz", &numbered(0..1));
    fs::create_dir(backup.path("documents_000001.bin")).unwrap();
    fs::create_dir(backup.path("documents_000002.bin")).unwrap();
    let reading = backup.read().unwrap();
    assert_eq!(reading.counts(), [1, 0, 0, 0, 1, 1]);
    assert_eq!(
        reading.problems(),
        [
            "missing: documents_000001.bin: is not a file; the documents of this number are missing",
            "documents: documents_000002.bin: is not a file",
        ]
    );
}

#[test]
fn without_any_documents_file_the_error_says_what_to_do() {
    let backup = Backup::new();
    fs::create_dir(backup.path("documents_000001.bin")).unwrap();
    let missing = DocumentDirectory::new(backup.path("nowhere"));
    for (documents, cause) in [
        (backup.documents(), "there is no documents_000001.bin.gz or .bin; name the directory that a backup"),
        (missing, "name a directory that holds documents_000001.bin.gz or .bin: No such file"),
    ] {
        let error = format!("{:#}", error(read(&documents, &|| false)));
        let start = format!("look for documents in `{}`: {cause}", documents.path().display());
        assert!(error.starts_with(&start), "{error}");
        assert_eq!(format!("{:#}", documents.fingerprint().expect_err("an error")), error);
    }
}

#[test]
fn files_without_any_document_are_an_error() {
    let backup = Backup::of(&[]).raw("documents_000002.bin", b" \n");
    let error = format!("{:#}", error(backup.read()));
    assert!(error.ends_with("its files hold none; make the backup there once more"), "{error}");
}

#[test]
fn a_damaged_line_is_kept_aside_and_what_follows_is_not_lost() {
    let mut lines = numbered(0..5);
    lines[2].truncate(40);
    let backup = Backup::of(&lines).raw("documents_000002.bin", b"\xff\xfe\0rubbish");
    let reading = backup.read().unwrap();
    let damaged = lines.remove(2);
    assert_eq!(reading.lines(), lines);
    assert_eq!(reading.counts(), [4, 0, 0, 2, 0, 2]);
    assert_eq!(
        reading.problems(),
        [
            "damaged: documents_000001.bin.gz line 3: is no document: at byte 34: the string that begins here does not end",
            "damaged: documents_000002.bin line 1: is no document: at byte 0: this is not UTF-8",
        ]
    );
    let last = reading.packs.last().unwrap();
    assert_eq!((&*last.name, last.documents), (DAMAGED_DOCUMENTS, 2));
    let mut kept = Vec::new();
    GzDecoder::new(&last.content[..]).read_to_end(&mut kept).unwrap();
    assert_eq!(kept, [damaged.as_bytes(), b"\n\xff\xfe\0rubbish\n"].concat());
}

#[test]
fn lines_that_are_all_damaged_are_kept_aside() {
    let reading = Backup::of(&["{".to_owned(), "}".to_owned()]).read().unwrap();
    assert_eq!(reading.counts(), [0, 0, 0, 2, 0, 2]);
    assert_eq!(reading.packs.len(), 1);
    assert_eq!(reading.damaged().as_deref(), Some("{\n}\n"));
}

#[test]
fn of_a_file_that_is_cut_off_all_that_can_be_read_is_kept() {
    let text = text(&numbered(0..2000));
    let whole = gzip(text.as_bytes());
    let after = numbered(5000..5001);
    for len in [0, 5, 10, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
        let backup =
            Backup::new().raw("documents_000001.bin.gz", &whole[..len]).with("documents_000002.bin.gz", &after);
        let reading = backup.read().unwrap();
        assert_eq!(reading.counts()[3..], [1, 0, 1], "{len}");
        let mut lines = reading.lines();
        assert_eq!(lines.pop(), after.first().cloned());
        assert_eq!(lines, numbered(0..u32::try_from(lines.len()).unwrap()));
        let problem = &reading.problems()[0];
        let place = format!("damaged: documents_000001.bin.gz line {}: the gzip stream is damaged", lines.len() + 1);
        assert!(problem.starts_with(&place), "{problem}");
        if len == whole.len() / 2 {
            assert!(lines.len() > 900, "{}", lines.len());
            let damaged = reading.damaged().unwrap();
            assert!(document(&format!("id{0}", lines.len()), lines.len()).starts_with(damaged.trim_end()));
        }
    }
}

#[test]
fn a_file_that_is_corrupt_in_the_middle_is_named() {
    let text = text(&numbered(0..20_000));
    let mut content = gzip(text.as_bytes());
    let middle = content.len() / 2;
    content[middle..middle + 64].fill(0xff);
    let reading = Backup::new().raw("documents_000001.bin.gz", &content).read().unwrap();
    let [documents, _, _, damaged, _, losses] = reading.counts();
    assert!(documents > 5000 && damaged > 0 && losses > 0, "{:?}", reading.counts());
    assert_eq!(&reading.lines()[..5000], numbered(0..5000));
}

#[test]
fn a_wrong_checksum_is_damage() {
    let mut content = gzip(format!("{}\n", document("a", 1)).as_bytes());
    let crc = content.len() - 8;
    content[crc] ^= 1;
    let reading = Backup::new().raw("documents_000001.bin.gz", &content).read().unwrap();
    assert_eq!(reading.lines(), [document("a", 1)]);
    assert_eq!(reading.counts(), [1, 0, 0, 1, 0, 1]);
    assert_eq!(reading.damaged(), None);
}

#[test]
fn gzip_members_one_after_the_other_are_one_file() {
    let member = |id| gzip(format!("{}\n", document(id, 1)).as_bytes());
    let backup = Backup::new().raw("documents_000001.bin.gz", &[member("a"), member("b")].concat());
    assert_eq!(backup.read().unwrap().lines(), [document("a", 1), document("b", 1)]);
}

#[test]
fn a_line_that_is_too_long_is_kept_aside_in_pieces() {
    let long = format!("{}\n", "x".repeat((64 << 20) + 5));
    let text = [document("a", 1), "\n".to_owned(), long.clone(), document("b", 1)].concat();
    let reading = Backup::new().raw("documents_000001.bin", text.as_bytes()).read().unwrap();
    assert_eq!(reading.lines(), [document("a", 1), document("b", 1)]);
    assert_eq!(reading.counts(), [2, 0, 0, 1, 0, 1]);
    assert_eq!(reading.problems(), ["damaged: documents_000001.bin line 2: is longer than 64 MiB"]);
    assert!(reading.damaged().as_deref() == Some(&long));
    assert_eq!(reading.packs.last().unwrap().documents, 1);
}

#[test]
fn a_hundred_problems_are_named_and_all_are_counted() {
    let mut lines: Vec<String> = (0..300).map(|number| document("same", number)).collect();
    lines.extend((0..60).map(|number| format!("rubbish {number}")));
    let reading = Backup::of(&lines).read().unwrap();
    assert_eq!(reading.counts(), [1, 0, 299, 60, 299, 60]);
    let kinds = |kind| reading.report.problems.iter().filter(|problem| problem.kind == kind).count();
    assert_eq!([kinds("damaged"), kinds("documents")], [60, 40]);
}

#[test]
fn a_file_holds_a_hundred_thousand_documents() {
    let lines: Vec<String> =
        (0..100_001).map(|number| format!("{{\"metadata\":{{\"id\":\"{number}\"}},\"content\":{{}}}}")).collect();
    let reading = Backup::of(&lines).read().unwrap();
    assert_eq!(reading.packs.iter().map(|pack| pack.documents).collect::<Vec<_>>(), [100_000, 1]);
    assert_eq!(reading.lines(), lines);
}

#[test]
fn a_file_stays_below_eight_mebibytes_unless_one_document_is_larger() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut text = |len: usize| {
        let mut bytes = vec![0; len];
        random.fill(&mut bytes);
        for byte in &mut bytes {
            *byte = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[usize::from(*byte & 63)];
        }
        String::from_utf8(bytes).unwrap()
    };
    let mut lines: Vec<String> =
        (0..180).map(|id| document(&id.to_string(), format!("\"{}\"", text(64 << 10)))).collect();
    lines.push(document("large", format!("\"{}\"", text(12 << 20))));
    lines.push(document("small", 1));
    let reading = Backup::new().with("documents_000001.bin", &lines).read().unwrap();
    let sizes: Vec<usize> = reading.packs.iter().map(|pack| pack.content.len()).collect();
    assert_eq!(sizes.len(), 4, "{sizes:?}");
    assert!(sizes[0] <= 8 << 20 && sizes[0] > 7 << 20, "{sizes:?}");
    assert!(sizes[2] > 8 << 20, "{sizes:?}");
    assert_eq!(reading.lines(), lines);
}

#[test]
fn the_fingerprint_changes_with_the_files_and_only_with_them() {
    let backup = Backup::of(&numbered(0..2));
    let fingerprint = || backup.documents().fingerprint().unwrap().to_string();
    let first = fingerprint();
    fs::write(backup.path("foreign"), "x").unwrap();
    fs::write(backup.path("changes/summary_of_changes.json"), "x").unwrap();
    assert_eq!(fingerprint(), first);

    let file = fs::File::options().append(true).open(backup.path("documents_000001.bin.gz")).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified + std::time::Duration::from_millis(1)).unwrap();
    let second = fingerprint();
    assert_ne!(second, first);
    file.set_modified(modified).unwrap();
    assert_eq!(fingerprint(), first);
    fs::write(backup.path("changes/documents_000001.bin"), "").unwrap();
    assert_ne!(fingerprint(), first);
}

#[test]
fn what_changes_while_it_is_read_is_an_error_that_says_so() {
    let lines = numbered(0..10);
    for line in 1..20 {
        for step in 0..4 {
            let backup = Backup::of(&lines[..5]).with("documents_000002.bin", &lines[5..]);
            let stop = at_line(line, || match step {
                0 => fs::remove_file(backup.path("documents_000002.bin")).unwrap(),
                1 => fs::write(backup.path("changes/documents_000001.bin"), &lines[0]).unwrap(),
                2 => fs::write(backup.path("documents_000001.bin.gz"), gzip(b"{}\n")).unwrap(),
                _ => fs::remove_dir_all(backup.0.path()).unwrap(),
            });
            let error = error(backup.read_until(&stop));
            assert!(error.downcast_ref::<DocumentsChanged>().is_some(), "{line} {step} {error:#}");
            assert!(format!("{error:#}").starts_with("documents changed while they were read: `"), "{error:#}");
        }
    }
}

#[test]
fn a_change_that_leaves_the_outside_as_it_was_is_seen_by_the_content() {
    let backup = Backup::new().with("documents_000001.bin", &numbered(0..5));
    let path = backup.path("documents_000001.bin");
    let stop = at_line(6, || {
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let text = fs::read_to_string(&path).unwrap().replace("id3", "id9");
        fs::write(&path, text).unwrap();
        fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    });
    // Small files are read at once, so the change comes too late for this reading and is no change to it.
    let reading = backup.read_until(&stop);
    assert!(reading.is_ok_and(|reading| reading.lines() == numbered(0..5)));

    let stop = at_line(5, || {
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let text = fs::read_to_string(&path).unwrap().replace("id9", "id7");
        fs::write(&path, text).unwrap();
        fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
    });
    let error = error(backup.read_until(&stop));
    assert_eq!(error.to_string(), "documents changed while they were read: `documents_000001.bin`");
}

#[test]
fn it_stops_when_told_and_passes_on_what_the_sink_says() {
    let backup = Backup::of(&numbered(0..5));
    for line in 1..=10 {
        let calls = Cell::new(0);
        let stop = || {
            calls.set(calls.get() + 1);
            calls.get() == line
        };
        assert!(error(backup.read_until(&stop)).is::<Stopped>());
    }
    let mut full = |_| anyhow::bail!("disk full");
    let result = backup.documents().read(&mut HashMap::<[u8; 16], Earlier>::new(), &|| false, &mut full);
    assert_eq!(result.expect_err("an error").to_string(), "disk full");
}

#[test]
fn only_whole_files_of_documents_are_counted() {
    let [a, b] = [document("a", 1), document("b", 2)];
    assert_eq!(count_documents(&gzip(b"")[..]).unwrap(), 0);
    assert_eq!(count_documents(&gzip(format!("{a}\n{b}\n").as_bytes())[..]).unwrap(), 2);
    let whole = gzip(format!("{a}\n").as_bytes());
    for (file, cause) in [
        (whole[..whole.len() - 3].to_vec(), "check line 2 of documents: unexpected end of file"),
        ([&whole[..], b"more than a header"].concat(), "check line 2 of documents: invalid gzip header"),
        (a.clone().into_bytes(), "check line 1 of documents: invalid gzip header"),
        (Vec::new(), "check line 1 of documents: unexpected end of file"),
        (gzip(format!("{a}\n\n").as_bytes()), "check line 2 of documents: at byte 1: expected `{`"),
        (gzip(format!("{a}\n {b}\n").as_bytes()), "check line 2 of documents: it does not begin with `{`"),
        (gzip(b"{}\n"), "check line 1 of documents: at byte 3: the document has no `metadata`"),
    ] {
        assert_eq!(format!("{:#}", count_documents(&file[..]).expect_err("an error")), cause);
    }
}

/// The genuine backup of a ModeShape 3.8, if this machine has it.
fn genuine() -> Option<PathBuf> {
    let shared = std::env::var_os("HOLDFAST_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    Some(shared.join("data/modeshape-backup-3.8")).filter(|path| path.is_dir())
}

#[test]
#[expect(clippy::print_stderr, reason = "it says that it tested nothing")]
fn a_genuine_backup_is_read_whole() {
    let Some(path) = genuine() else {
        eprintln!("skipped: there is no genuine backup; HOLDFAST_SHARED names the directory above data/");
        return;
    };
    let reading = read(&DocumentDirectory::new(&path), &|| false).unwrap();
    assert_eq!(reading.counts(), [252, 1, 0, 0, 0, 0]);
    let original = gunzip(&fs::read(path.join("documents_000001.bin.gz")).unwrap());
    let mut original: Vec<&str> = original.lines().collect();
    assert_eq!(original.len(), 253);
    let metadata = *original.last().unwrap();
    assert!(metadata.contains("mode:metadata"));
    let first = original.iter().position(|line| *line == metadata).unwrap();
    original.remove(first);
    assert_eq!(reading.lines(), original);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Documents anywhere, in any file, any number of times: the result is that of putting them into a map.
    #[test]
    fn reading_is_putting_into_a_map(
        files in prop::collection::vec(
            (any::<bool>(), prop::collection::vec((0..12_u8, 0..3_u8), 0..15)), 1..6),
        changes in prop::collection::vec((0..12_u8, 0..3_u8), 0..10),
    ) {
        let lines = |file: &[(u8, u8)]| -> Vec<String> {
            file.iter().map(|(id, version)| document(&format!("id{id}"), version)).collect()
        };
        let mut backup = Backup::new();
        let mut read = Vec::new();
        for (number, (gzip, file)) in files.iter().enumerate() {
            let suffix = if *gzip { ".gz" } else { "" };
            backup = backup.with(&format!("documents_{:06}.bin{suffix}", number + 1), &lines(file));
            read.extend(file);
        }
        backup = backup.with("changes/documents_000001.bin.gz", &lines(&changes));
        read.extend(&changes);

        let mut model = BTreeMap::new();
        let [mut duplicates, mut conflicting] = [0, 0];
        for (id, version) in &read {
            match model.insert(*id, *version) {
                Some(earlier) if earlier == *version => duplicates += 1,
                Some(_) => conflicting += 1,
                None => {}
            }
        }
        if model.is_empty() {
            prop_assert!(backup.read().is_err());
            return Ok(());
        }
        let reading = backup.read().unwrap();
        prop_assert_eq!(reading.counts(), [model.len() as u64, duplicates, conflicting, 0, conflicting, 0]);
        let mut found = reading.lines();
        found.sort_unstable();
        let mut expected = lines(&model.into_iter().collect::<Vec<_>>());
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}
