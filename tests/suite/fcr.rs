//! ModeShape backup directories: made, and restored from.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast::jobs::export::{ExportOrder, export};
use holdfast::model::digest::Digest;
use holdfast::model::layout::Layout;
use holdfast::model::run::{Kind, Outcome, Run};

use super::document_tables::gzip;
use super::lab::{Lab, noise, sha1};
use super::own_mounts::{in_own_mounts, mount_memory};

/// A line that refers to a binary, as ModeShape has one for each.
fn reference(digest: &Digest) -> String {
    format!(
        "{{ \"metadata\" : {{ \"id\" : \"{digest}-ref\" }} , \"content\" : {{ \"sha1\" : \"{digest}\" , \"refCount\" : 1 }} }}\n"
    )
}

/// A repository with some binaries and a document for each.
fn repository() -> (Lab, Vec<Digest>) {
    let mut lab = Lab::new();
    let digests = lab.add_many(20, "binary");
    lab.write_lines(&digests.iter().map(reference).collect::<String>());
    (lab, digests)
}

/// A backup directory as ModeShape makes it.
struct Original(PathBuf);

impl Original {
    fn new(path: PathBuf, lines: &str) -> Self {
        fs::create_dir_all(path.join("changes")).unwrap();
        fs::create_dir_all(path.join("binaries")).unwrap();
        fs::write(path.join("documents_000001.bin.gz"), gzip(lines.as_bytes())).unwrap();
        fs::write(path.join("changes/summary_of_changes.json"), "{ \"unusedBinaryKeys\" : [ ] }").unwrap();
        Self(path)
    }

    fn path_of(&self, digest: &Digest, suffix: &str) -> PathBuf {
        self.0.join("binaries").join(Layout::modeshape().path(digest)).with_extension(suffix)
    }

    fn put(&self, digest: &Digest, suffix: &str, bytes: &[u8]) {
        let path = self.path_of(digest, suffix);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn add(&self, content: &[u8], gzipped: bool) -> Digest {
        let digest = sha1(content);
        if gzipped {
            self.put(&digest, "bin.gz", &gzip(content));
        } else {
            self.put(&digest, "bin", content);
        }
        digest
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

async fn export_to(lab: &Lab, directory: &Path) -> Run {
    let order = ExportOrder {
        source: lab.source(),
        directory: directory.to_owned(),
        made: false,
        settle: Duration::from_secs(2),
    };
    lab.run("fcr:backup", Kind::Backup, async |run, _| export(run, &order).await).await
}

fn succeeded(run: &Run) {
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{:?} {:?}", run.error, run.problems);
}

fn refused(run: &Run, why: &str) {
    let error = run.error.as_deref().unwrap_or_default();
    assert!(
        run.outcome == Some(Outcome::Failed) && error.contains(why),
        "{:?} {error} {:?}",
        run.outcome,
        run.problems
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_brings_a_lost_repository_back() {
    let (lab, digests) = repository();
    let target = lab.path("backup");
    fs::create_dir(&target).unwrap();
    let made = export_to(&lab, &target).await;
    succeeded(&made);
    assert_eq!((made.counts.documents, made.counts.references, made.counts.copied), (20, 20, 20));
    assert_eq!(made.result.as_deref(), target.canonicalize().unwrap().to_str());
    assert_eq!(fs::read(target.join("changes/summary_of_changes.json")).unwrap(), b"{ \"unusedBinaryKeys\" : [ ] }");
    for digest in &digests {
        let path = target.join("binaries").join(Layout::modeshape().path(digest)).with_extension("bin");
        assert!(digest.matches(&fs::read(path).unwrap()));
    }
    let before = lab.snapshot();
    for name in ["binaries", "documents"] {
        fs::remove_dir_all(lab.path(name)).unwrap();
    }
    let restored = lab.restore(target.to_str().unwrap()).await;
    succeeded(&restored);
    assert_eq!((restored.counts.documents, restored.counts.copied), (20, 20));
    assert_eq!(lab.snapshot(), before);
    let again = export_to(&lab, &target).await;
    succeeded(&again);
    assert_eq!(again.counts.documents, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn modeshapes_own_directories_are_restored_with_duplicates_kept_once_and_binaries_unpacked() {
    let mut lab = Lab::new();
    let surplus = lab.add(b"of the repository alone");
    lab.write_documents(&["old"]);
    let line = reference(&sha1(b"packed"));
    let twice = format!("{line}{}{line}", reference(&sha1(b"plain")));
    let original = Original::new(lab.path("original"), &twice);
    let expected = [original.add(b"packed", true), original.add(b"plain", false)];
    let plan = lab.plan(&original.name()).await.unwrap();
    assert_eq!((plan.documents, plan.fetch, plan.quarantine, plan.keep), (2, 2, 1, 0));
    let run = lab.restore(&original.name()).await;
    succeeded(&run);
    assert_eq!((run.counts.documents, run.counts.duplicate_documents, run.counts.quarantined), (2, 1, 1));
    for digest in expected {
        assert!(digest.matches(&fs::read(lab.binaries().path(&digest)).unwrap()));
    }
    assert!(!lab.binaries().path(&surplus).exists() && !lab.path("documents/documents_000001.bin").exists());
    // All is there now.
    let plan = lab.plan(&original.name()).await.unwrap();
    assert_eq!((plan.documents, plan.fetch, plan.keep), (0, 0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn some_binaries_are_restored_by_name_and_nothing_else_is_read() {
    let mut lab = Lab::new();
    lab.write_documents(&["old"]);
    let original = Original::new(lab.path("original"), "damaged\n");
    let (one, other) = (original.add(b"one", true), original.add(b"other", false));
    original.put(&other, "bin", b"damaged");
    succeeded(&lab.restore_only(&original.name(), &[one]).await);
    assert!(lab.binaries().path(&one).exists());
    refused(&lab.restore_only(&original.name(), &[other]).await, "damaged");
    refused(&lab.restore_only(&original.name(), &[sha1(b"none")]).await, "does not have");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_empty_or_missing_directory_is_refused_and_nothing_changes() {
    let mut lab = Lab::new();
    let kept = lab.add(b"of the repository");
    lab.write_lines(&reference(&kept));
    let before = lab.snapshot();
    let sound = reference(&sha1(b"content"));
    let make = |name: &str, lines: &str| {
        let original = Original::new(lab.path(name), lines);
        original.add(b"content", true);
        original
    };

    let other_content = make("other-content", &sound);
    other_content.put(&sha1(b"more"), "bin.gz", &gzip(b"something else"));
    let cut = make("cut", &sound);
    cut.put(&sha1(b"more"), "bin.gz", &gzip(b"more")[..12]);
    let raw = make("raw", &sound);
    raw.put(&sha1(b"more"), "bin.gz", b"more");
    for original in [other_content, cut, raw] {
        refused(&lab.restore(&original.name()).await, "1 of its binaries are damaged");
    }

    let no_line = make("no-line", &format!("{sound}no document\n"));
    refused(&lab.restore(&no_line.name()).await, "is no document");
    let cut = make("cut-documents", &sound);
    let packed = fs::read(cut.0.join("documents_000001.bin.gz")).unwrap();
    fs::write(cut.0.join("documents_000001.bin.gz"), &packed[..packed.len() - 4]).unwrap();
    refused(&lab.restore(&cut.name()).await, "damaged");
    let gap = make("gap", &sound);
    fs::write(gap.0.join("documents_000003.bin"), &sound).unwrap();
    refused(&lab.restore(&gap.name()).await, "documents_000002");
    let link = make("link", &sound);
    fs::rename(link.0.join("documents_000001.bin.gz"), lab.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(lab.path("elsewhere"), link.0.join("documents_000001.bin.gz")).unwrap();
    refused(&lab.restore(&link.name()).await, "symbolic link");
    let no_binaries = make("no-binaries", &sound);
    fs::remove_dir_all(no_binaries.0.join("binaries")).unwrap();
    refused(&lab.restore(&no_binaries.name()).await, "no directory `binaries`");

    let blank = make("blank", "\n");
    refused(&lab.restore(&blank.name()).await, "hold none");
    fs::create_dir(lab.path("empty")).unwrap();
    refused(&lab.restore(lab.path("empty").to_str().unwrap()).await, "there is no documents_000001.bin.gz");
    refused(&lab.restore(lab.path("none").to_str().unwrap()).await, "No such file");
    fs::write(lab.path("file"), "").unwrap();
    refused(&lab.restore(lab.path("file").to_str().unwrap()).await, "not a directory");
    assert_eq!(lab.snapshot(), before);
    assert_eq!(fs::read(lab.path("documents/documents_000001.bin")).unwrap(), reference(&kept).as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_documents_need_and_only_the_repository_has_stays_there() {
    let mut lab = Lab::new();
    let (needed, surplus) = (lab.add(b"needed"), lab.add(b"surplus"));
    lab.write_documents(&["old"]);
    let original =
        Original::new(lab.path("original"), &format!("{}{}", reference(&needed), reference(&sha1(b"in it"))));
    original.add(b"in it", true);
    let run = lab.restore(&original.name()).await;
    succeeded(&run);
    assert!(lab.binaries().path(&needed).exists() && !lab.binaries().path(&surplus).exists());
    fs::remove_file(lab.binaries().path(&needed)).unwrap();
    let run = lab.restore(&original.name()).await;
    assert_eq!((run.outcome, run.counts.missing), (Some(Outcome::Partial), 1), "{:?}", run.error);
    assert_eq!(run.problems[0].subject, needed.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_is_replaced_by_a_whole_one_and_stays_when_there_is_none() {
    let (lab, digests) = repository();
    let target = Original::new(lab.path("backup"), &reference(&sha1(b"older")));
    target.add(b"older", true);
    // ModeShape leaves these of a larger backup, and reads them.
    fs::write(target.0.join("documents_000002.bin.gz"), gzip(b"stale\n")).unwrap();
    fs::write(target.0.join("changes/documents_000001.bin.gz"), gzip(b"stale\n")).unwrap();
    let before = files(&target.0);

    let content = fs::read(lab.binaries().path(&digests[0])).unwrap();
    lab.write(&digests[0], b"damaged");
    let run = export_to(&lab, &target.0).await;
    refused(&run, "the older one stays");
    assert!(run.problems.iter().any(|problem| problem.subject == digests[0].to_string()));
    assert_eq!(files(&target.0), before);
    // What there is goes into a directory without one, and what is damaged is not in it.
    fs::create_dir(lab.path("other")).unwrap();
    let run = export_to(&lab, &lab.path("other")).await;
    assert_eq!((run.outcome, run.counts.missing, run.counts.copied), (Some(Outcome::Partial), 1, 19));
    let names: Vec<_> = files(&lab.path("other")).into_iter().map(|(path, _)| path.display().to_string()).collect();
    assert!(!names.iter().any(|name| name.contains(&digests[0].to_string())), "{names:?}");

    lab.write(&digests[0], &content);
    let cancelled = {
        lab.stop.cancel();
        export_to(&lab, &target.0).await
    };
    assert_eq!(cancelled.outcome, Some(Outcome::Cancelled));
    assert_eq!(files(&target.0), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_older_backup_stays_in_a_new_one() {
    let (lab, _) = repository();
    let target = Original::new(lab.path("backup"), &reference(&sha1(b"older")));
    target.add(b"older", true);
    fs::write(target.0.join("documents_000002.bin.gz"), gzip(b"stale\n")).unwrap();
    fs::write(target.0.join("changes/documents_000001.bin.gz"), gzip(b"stale\n")).unwrap();
    fs::create_dir(lab.path("fresh")).unwrap();
    for directory in [&target.0, &lab.path("fresh")] {
        succeeded(&export_to(&lab, directory).await);
    }
    let below = |root: &Path| -> Vec<_> {
        files(root).into_iter().map(|(path, content)| (path.strip_prefix(root).unwrap().to_owned(), content)).collect()
    };
    assert_eq!(below(&target.0), below(&lab.path("fresh")));
    let left: Vec<_> = fs::read_dir(lab.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".holdfast")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_and_damaged_lines_are_told_from_what_is_lost() {
    let (mut lab, digests) = repository();
    let sidecar = Layout::modeshape().sidecars_of(&digests[0]).unwrap().into_iter().next().unwrap();
    lab.write(&sidecar, b"text/plain");
    lab.write_lines(&format!("{}{}", reference(&digests[0]), reference(&digests[0])));
    fs::create_dir(lab.path("backup")).unwrap();
    let run = export_to(&lab, &lab.path("backup")).await;
    succeeded(&run);
    assert_eq!((run.counts.sidecars, run.counts.duplicate_documents, run.counts.unreferenced), (1, 1, 19));
    lab.with_documents = false;
    refused(&export_to(&lab, &lab.path("backup")).await, "[repository.main.documents]");
}

#[tokio::test]
async fn an_export_that_fills_the_disk_leaves_the_older_one_and_nothing_of_its_own() {
    if !in_own_mounts("fcr::an_export_that_fills_the_disk_leaves_the_older_one_and_nothing_of_its_own") {
        return;
    }
    let (lab, _) = repository();
    let disk = lab.path("disk");
    mount_memory("2m", &disk);
    let (old, new) = (disk.join("old"), disk.join("new"));
    fs::create_dir(&old).unwrap();
    fs::create_dir(&new).unwrap();
    succeeded(&export_to(&lab, &old).await);
    let before = files(&disk);
    // Held in memory on its way, and copied: neither has room.
    for large in [noise(1, 3 << 20), noise(2, 5 << 20)] {
        let digest = lab.add(&large);
        for directory in [&old, &new] {
            refused(&export_to(&lab, directory).await, "its file system is full, and what was there is as it was");
            assert!(files(&disk) == before, "{}", directory.display());
        }
        fs::remove_file(lab.binaries().path(&digest)).unwrap();
    }
    succeeded(&export_to(&lab, &new).await);
}
