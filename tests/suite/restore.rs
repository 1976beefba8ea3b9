//! Restores: what they bring, what they leave, and that a restore that fails has changed nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast::jobs::verify::Depth;
use holdfast::jobs::zip::Writer;
use holdfast::model::archive::EntryName;
use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::key::Key;
use holdfast::model::layout::Layout;
use holdfast::model::run::{Outcome, Run};
use holdfast::store::memory::MemoryStore;
use holdfast::store::{ErrorKind, ObjectStore};
use tokio_util::sync::CancellationToken;

use super::broken_store::{BrokenStore, Effect};
use super::lab::{Lab, files_below, manifest_key, noise, sha1};
use super::own_mounts::{in_own_mounts, mount, mount_memory};

const SUCCEEDED: Option<Outcome> = Some(Outcome::Succeeded);
const FAILED: Option<Outcome> = Some(Outcome::Failed);

/// A repository, a store that can be broken, a restore point, and an archive of several volumes.
struct Kept {
    lab: Lab,
    broken: Arc<BrokenStore>,
    digests: Vec<Digest>,
    point: String,
    archive: String,
}

async fn kept_by(layout: Layout) -> Kept {
    let broken = BrokenStore::new(Arc::new(MemoryStore::new("memory:")));
    let mut lab = Lab::with_store(Arc::clone(&broken) as Arc<dyn ObjectStore>);
    (lab.layout, lab.volume_bytes) = (layout, 6_000);
    lab.write_documents(&["one", "two"]);
    let mut digests = lab.add_many(100, "a");
    digests.push(lab.add(&noise(1, 9 << 20)));
    digests.sort();
    if lab.layout == Layout::jackrabbit() {
        std::fs::write(lab.path("binaries/reference.key"), b"key").unwrap();
    }
    let (point, archive) = (lab.copy().await, lab.backup().await);
    assert_eq!((point.outcome, archive.outcome), (SUCCEEDED, SUCCEEDED), "{point:?} {archive:?}");
    broken.take_requests();
    Kept { lab, broken, digests, point: point.result.unwrap(), archive: archive.result.unwrap() }
}

async fn kept() -> Kept {
    kept_by(Layout::modeshape()).await
}

impl Kept {
    fn both(&self) -> [String; 2] {
        [self.point.clone(), self.archive.clone()]
    }

    fn path(&self, number: usize) -> PathBuf {
        self.lab.binaries().path(&self.digests[number])
    }

    /// Takes some binaries away, damages one, adds one, and writes other documents.
    fn spoil(&mut self) -> Spoiled {
        for number in [1, 2, 50, 99] {
            std::fs::remove_file(self.path(number)).unwrap();
        }
        self.lab.write(&self.digests[7], b"damaged");
        let surplus = self.lab.add(b"younger than the backup");
        self.lab.write_documents(&["three"]);
        std::fs::create_dir_all(self.lab.path("documents/changes")).unwrap();
        std::fs::write(self.lab.path("documents/changes/documents_000001.bin"), b"{ }\n").unwrap();
        Spoiled { surplus }
    }

    /// The restore fails, says so by these names, and has changed nothing.
    async fn refuses(&self, from: &str, names: &[&str]) -> Run {
        self.lab.forget_earlier_tries();
        self.refuses_again(from, names).await
    }

    /// The same with what an earlier try fetched.
    async fn refuses_again(&self, from: &str, names: &[&str]) -> Run {
        let before = self.lab.everything();
        let run = self.lab.restore(from).await;
        assert_eq!(run.outcome, FAILED, "{run:?}");
        let text = format!("{} {:?}", run.error.as_ref().unwrap(), run.problems);
        assert!(names.iter().all(|name| text.contains(name)), "{names:?} in {text}");
        assert!(self.lab.everything() == before, "{run:?}");
        assert!(run.quarantine.is_none(), "{run:?}");
        run
    }

    async fn volume_keys(&self) -> Vec<String> {
        let manifest = self.lab.manifest(&self.archive).await;
        let volumes = manifest["volumes"].as_array().unwrap();
        volumes.iter().map(|volume| volume["key"].as_str().unwrap().to_owned()).collect()
    }
}

struct Spoiled {
    surplus: Digest,
}

fn flipped(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    content
}

#[tokio::test]
async fn an_empty_place_becomes_the_repository_whatever_its_layout() {
    let custom = Layout::custom(Algorithm::Sha1, 3, 2, ".bin").unwrap();
    for layout in [Layout::modeshape(), Layout::jackrabbit(), Layout::artifactory(), custom] {
        let kept = kept_by(layout).await;
        let before = kept.lab.everything();
        for from in kept.both() {
            std::fs::remove_dir_all(kept.lab.path("binaries")).unwrap();
            std::fs::remove_dir_all(kept.lab.path("documents")).unwrap();
            let run = kept.lab.restore(&from).await;
            assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (SUCCEEDED, 101, 2), "{run:?}");
            assert_eq!(run.quarantine, None);
            assert_eq!(kept.lab.document_ids(), ["one", "two"]);
            let binaries = |tree: &super::lab::Tree| -> Vec<_> {
                tree.clone().into_iter().filter(|(path, _)| !path.starts_with("documents")).collect()
            };
            assert!(binaries(&kept.lab.everything()) == binaries(&before), "{:?}", kept.lab.layout);
            assert_eq!(kept.lab.beside(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn an_identical_repository_stays_as_it_is_and_nothing_is_transferred() {
    for layout in [Layout::modeshape(), Layout::jackrabbit()] {
        let kept = kept_by(layout).await;
        for from in kept.both() {
            let before = kept.lab.everything();
            let run = kept.lab.restore(&from).await;
            let requests = kept.broken.take_requests();
            assert_eq!((run.outcome, run.counts.copied, run.counts.skipped), (SUCCEEDED, 0, 101), "{run:?}");
            assert_eq!((run.counts.bytes, run.counts.documents, run.quarantine), (0, 0, None));
            assert!(kept.lab.everything() == before);
            // The manifest and the list, or the manifest and each volume's directory.
            let volumes = kept.volume_keys().await.len();
            let most = if from == kept.point { 2 } else { 1 + 3 * volumes };
            assert_eq!(requests.len(), most, "{requests:?}");
            kept.broken.take_requests();
        }
    }
}

#[tokio::test]
async fn what_is_damaged_or_surplus_goes_to_the_quarantine_and_the_rest_is_brought() {
    for number in 0..2 {
        let mut kept = kept().await;
        let before = kept.lab.snapshot();
        let from = kept.both()[number].clone();
        let spoiled = kept.spoil();
        let run = kept.lab.restore(&from).await;
        assert_eq!((run.outcome, run.counts.copied, run.counts.skipped), (SUCCEEDED, 5, 96), "{run:?}");
        assert_eq!(run.counts.quarantined, 1, "{run:?}");
        assert!(kept.lab.snapshot() == before);
        assert_eq!(kept.lab.document_ids(), ["one", "two"]);
        let quarantine = PathBuf::from(run.quarantine.unwrap());
        assert_eq!(
            quarantine.parent(),
            Some(&*kept.lab.path("")).map(|path| Path::new(path.to_str().unwrap().trim_end_matches('/')))
        );
        let path = |digest: &Digest| quarantine.join("binaries").join(kept.lab.layout.path(digest));
        assert_eq!(std::fs::read(path(&kept.digests[7])).unwrap(), b"damaged");
        assert_eq!(std::fs::read(path(&spoiled.surplus)).unwrap(), b"younger than the backup");
        assert!(quarantine.join("documents/documents_000001.bin").is_file());
        assert!(quarantine.join("documents/changes/documents_000001.bin").is_file());
        assert_eq!(kept.lab.beside().len(), 1, "nothing but the quarantine is left");

        kept.broken.take_requests();
        let run = kept.lab.restore(&from).await;
        assert_eq!((run.outcome, run.counts.bytes, run.counts.documents), (SUCCEEDED, 0, 0), "{run:?}");
        assert_eq!(run.quarantine, None);
    }
}

#[tokio::test]
async fn sidecars_of_what_stays_stay_and_those_of_what_goes_go() {
    let kept = kept().await;
    let surplus = kept.lab.add(b"surplus");
    let [stays, goes] = [&kept.digests[0], &surplus].map(|of| kept.lab.layout.sidecars_of(of).unwrap()[0]);
    kept.lab.write(&stays, b"image/png");
    kept.lab.write(&goes, b"image/png");
    let run = kept.lab.restore(&kept.point).await;
    assert_eq!((run.outcome, run.counts.quarantined), (SUCCEEDED, 2), "{run:?}");
    assert!(kept.lab.binaries().path(&stays).is_file());
    assert!(!kept.lab.binaries().path(&goes).exists());
}

#[tokio::test]
async fn markers_younger_than_the_backup_go_to_the_quarantine_and_older_ones_stay() {
    let kept = kept().await;
    let marker = |digest: &Digest| kept.lab.path("binaries/trash").join(kept.lab.layout.path(digest));
    // The clock of the tests stands in 2100.
    let times = [Duration::from_secs(5_000_000_000), Duration::from_secs(1_000_000_000)];
    let unknown = sha1(b"in no backup");
    for (digest, time) in [(&kept.digests[0], times[0]), (&kept.digests[1], times[1]), (&unknown, times[0])] {
        std::fs::create_dir_all(marker(digest).parent().unwrap()).unwrap();
        let file = std::fs::File::create(marker(digest)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
    }
    let run = kept.lab.restore(&kept.point).await;
    assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
    assert!(!marker(&kept.digests[0]).exists() && marker(&kept.digests[1]).exists() && marker(&unknown).exists());
    let aside = Path::new(&run.quarantine.unwrap()).join("trash").join(kept.lab.layout.path(&kept.digests[0]));
    assert!(aside.is_file());
}

#[tokio::test]
async fn only_what_was_asked_for_is_brought() {
    let mut kept = kept().await;
    let spoiled = kept.spoil();
    let documents = files_below(&kept.lab.path("documents"));
    for from in kept.both() {
        drop(std::fs::remove_file(kept.path(1)));
        let run = kept.lab.restore_only(&from, &[kept.digests[1], kept.digests[0]]).await;
        assert_eq!((run.outcome, run.counts.copied, run.counts.skipped), (SUCCEEDED, 1, 1), "{run:?}");
        assert_eq!(run.quarantine, None);
        assert!(kept.path(1).is_file() && !kept.path(2).exists());
        assert!(kept.lab.binaries().path(&spoiled.surplus).is_file());
        assert_eq!(files_below(&kept.lab.path("documents")), documents);

        let before = kept.lab.everything();
        let run = kept.lab.restore_only(&from, &[kept.digests[2], spoiled.surplus]).await;
        assert_eq!(run.outcome, FAILED);
        assert!(run.error.unwrap().contains(&spoiled.surplus.to_string()));
        assert!(kept.lab.everything() == before);
    }
}

#[tokio::test]
async fn a_plan_has_the_numbers_and_changes_nothing() {
    let mut kept = kept().await;
    let missing: u64 = [1, 2, 50, 99].map(|number| kept.path(number).metadata().unwrap().len()).iter().sum();
    let damaged = kept.path(7).metadata().unwrap().len();
    kept.spoil();
    let before = super::lab::tree_below(&kept.lab.path("binaries/.."));
    for from in kept.both() {
        let plan = kept.lab.plan(&from).await.unwrap();
        assert_eq!(
            (plan.fetch, plan.replace, plan.keep, plan.quarantine, plan.documents),
            (5, 1, 96, 1, 2),
            "{plan:?}"
        );
        assert_eq!((plan.fetch_bytes, &plan.from), (missing + damaged, &from));
        assert!(plan.free_bytes > 0);
        let mut after = super::lab::tree_below(&kept.lab.path("binaries/.."));
        let ours = |path: &PathBuf, _: &mut Option<Vec<u8>>| !path.starts_with("state");
        let mut before = before.clone();
        before.retain(ours);
        after.retain(ours);
        assert!(after == before);
    }
}

#[tokio::test]
async fn a_store_behind_a_link_is_restored_where_the_link_leads() {
    let kept = kept().await;
    std::fs::create_dir(kept.lab.path("volume")).unwrap();
    std::fs::rename(kept.lab.path("binaries"), kept.lab.path("volume/real")).unwrap();
    std::os::unix::fs::symlink(kept.lab.path("volume/real"), kept.lab.path("binaries")).unwrap();
    std::fs::remove_file(kept.path(3)).unwrap();
    kept.lab.add(b"surplus");
    let run = kept.lab.restore(&kept.archive).await;
    assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 1), "{run:?}");
    assert!(kept.path(3).is_file());
    assert!(kept.lab.path("binaries").symlink_metadata().unwrap().is_symlink());
    assert_eq!(Path::new(&run.quarantine.unwrap()).parent(), Some(&*kept.lab.path("volume").canonicalize().unwrap()));
}

/// A record of an archive once went into every store, in place of whatever had its name there.
#[tokio::test]
async fn what_root_restores_belongs_to_whom_the_store_belongs() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let kept = kept().await;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let lab = &kept.lab;
    for root in ["binaries", "documents"] {
        std::fs::remove_dir_all(lab.path(root)).unwrap();
        std::fs::create_dir(lab.path(root)).unwrap();
        chown(lab.path(root), Some(4711), Some(4712)).unwrap();
    }
    assert_eq!(lab.restore(&kept.point).await.outcome, SUCCEEDED);
    let binary = lab.binaries().path(&kept.digests[0]);
    let documents = lab.path("documents/documents_000001.bin.gz");
    for path in binary.ancestors().take(4).chain([documents.as_path()]) {
        let found = path.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (4711, 4712), "{}", path.display());
    }
}

#[tokio::test]
async fn records_go_only_where_the_layout_has_a_place_for_them() {
    let mut kept = kept_by(Layout::jackrabbit()).await;
    std::fs::remove_file(kept.lab.path("binaries/reference.key")).unwrap();
    for from in kept.both() {
        std::fs::write(kept.lab.path("binaries/reference.key"), b"other").unwrap();
        let run = kept.lab.restore(&from).await;
        assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
        assert_eq!(std::fs::read(kept.lab.path("binaries/reference.key")).unwrap(), b"key");
        let aside = Path::new(&run.quarantine.unwrap()).join("records/reference.key");
        assert_eq!(std::fs::read(aside).unwrap(), b"other");
    }
    kept.lab.layout = Layout { levels: 3, ..Layout::artifactory() };
    std::fs::remove_file(kept.lab.path("binaries/reference.key")).unwrap();
    let run = kept.lab.restore(&kept.point).await;
    assert_eq!((run.outcome, run.problems[0].subject.as_str()), (Some(Outcome::Partial), "reference.key"), "{run:?}");
    assert!(!kept.lab.path("binaries/reference.key").exists());
}

#[tokio::test]
async fn a_restore_point_with_a_missing_or_damaged_object_changes_nothing() {
    let mut kept = kept().await;
    kept.spoil();
    let point = kept.point.clone();
    let large = kept.digests.iter().position(|digest| *digest == sha1(&noise(1, 9 << 20))).unwrap();
    drop(std::fs::remove_file(kept.path(large)));
    let document = format!("points/{point}/documents_000001.bin.gz");
    let list = format!("points/{point}/binaries.gz");
    let manifest = manifest_key(&point);
    let binary = |number: usize| Key::binary(&kept.digests[number]).to_string();
    for key in [binary(1), binary(large), document, list, manifest] {
        let content = kept.lab.object(&key).await;
        let file = key.rsplit('/').next().unwrap();
        let name = if file == "point.json" { &point } else { file };
        kept.lab.delete_object(&key).await;
        let run = kept.refuses(&point, &[name]).await;
        assert!(run.counts.requests > 0);
        for damaged in [flipped(&content), content[1..].to_vec(), Vec::new()] {
            kept.lab.replace_object(&key, &damaged).await;
            // A manifest in which a letter is another one may still be one.
            if file != "point.json" || damaged.is_empty() {
                kept.refuses(&point, &[name]).await;
            }
        }
        kept.lab.replace_object(&key, &content).await;
    }
    assert_eq!(kept.lab.restore(&point).await.outcome, SUCCEEDED);
}

#[tokio::test]
async fn a_manifest_of_a_newer_format_or_of_something_else_is_refused() {
    let mut kept = kept().await;
    kept.spoil();
    for from in kept.both() {
        let sound = kept.lab.manifest(&from).await;
        kept.lab.edit_manifest(&from, |manifest| manifest["format"] = 2.into()).await;
        kept.refuses(&from, &["newer holdfast"]).await;
        kept.lab.edit_manifest(&from, |manifest| *manifest = serde_json::json!({ "format": 7, "parts": [] })).await;
        kept.refuses(&from, &["newer holdfast", "format 7"]).await;
        kept.lab.edit_manifest(&from, |manifest| manifest.clone_from(&sound)).await;
        kept.lab
            .edit_manifest(&from, |manifest| {
                let other = if from == kept.point { "20000101T000000Z-1" } else { "BackupDaemonJob1-1" };
                manifest["name"] = other.into();
            })
            .await;
        kept.refuses(&from, &["it is that of"]).await;
    }
}

#[tokio::test]
async fn an_archive_that_is_damaged_anywhere_changes_nothing() {
    let mut kept = kept().await;
    kept.spoil();
    let archive = kept.archive.clone();
    let keys = kept.volume_keys().await;
    let contents = [kept.lab.object(&keys[0]).await, kept.lab.object(&keys[1]).await];
    // Volume by volume: cut, empty, foreign, missing, swapped with another, with a directory that lies.
    let mut directory_lies = contents[0].clone();
    let near_the_end = directory_lies.len() - 40;
    directory_lies[near_the_end] ^= 1;
    let mut foreign = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    foreign.start_file::<_, ()>("evil", zip::write::FileOptions::default()).unwrap();
    let mut foreign = foreign.finish().unwrap().into_inner();
    foreign.resize(contents[0].len(), 0);
    let bad = [contents[0][..contents[0].len() - 1].to_vec(), Vec::new(), foreign, contents[1].clone(), directory_lies];
    for content in bad {
        kept.lab.replace_object(&keys[0], &content).await;
        kept.refuses(&archive, &[&keys[0]]).await;
    }
    // The documents come first in it.
    let mut documents_damaged = contents[0].clone();
    documents_damaged[60] ^= 1;
    kept.lab.replace_object(&keys[0], &documents_damaged).await;
    kept.refuses(&archive, &[&keys[0]]).await;
    kept.lab.replace_object_in_parts(&keys[0], &documents_damaged).await;
    let run = kept.refuses(&archive, &[]).await;
    let error = run.error.unwrap();
    assert!(error.contains(&keys[0]) || error.contains("documents_000001.bin.gz"), "{error}");
    kept.lab.delete_object(&keys[0]).await;
    kept.refuses(&archive, &[&keys[0]]).await;
    kept.lab.replace_object(&keys[0], &contents[0]).await;
    let manifest = manifest_key(&archive);
    let sound = kept.lab.object(&manifest).await;
    kept.lab.replace_object(&manifest, b"{").await;
    kept.refuses(&archive, &[&manifest, "damaged"]).await;
    kept.lab.delete_object(&manifest).await;
    kept.refuses(&archive, &[&archive, "never completed"]).await;
    kept.lab.replace_object(&manifest, &sound).await;
    assert_eq!(kept.lab.restore(&archive).await.outcome, SUCCEEDED);
}

#[tokio::test]
async fn a_hostile_manifest_is_refused() {
    let mut kept = kept().await;
    kept.spoil();
    for from in kept.both() {
        let sound = kept.lab.manifest(&from).await;
        for name in ["../../evil", "/tmp/evil", "documents_1.bin.gz", "damaged/documents.bin.gz"] {
            kept.lab.edit_manifest(&from, |manifest| manifest["documents"]["files"][0]["name"] = name.into()).await;
            kept.refuses(&from, &[name]).await;
        }
        for name in ["../x", "a/b", "", ".hidden"] {
            let record = serde_json::json!([{ "name": name, "sha1": sha1(b"x").to_string(), "bytes": 1, "key": "a" }]);
            kept.lab.edit_manifest(&from, |manifest| manifest.clone_from(&sound)).await;
            kept.lab.edit_manifest(&from, |manifest| manifest["records"] = record).await;
            kept.refuses(&from, &[&format!("`{name}`")]).await;
        }
        kept.lab.edit_manifest(&from, |manifest| manifest.clone_from(&sound)).await;
        kept.lab.edit_manifest(&from, |manifest| manifest["binaries"] = 1.into()).await;
        kept.refuses(&from, &[&from, "101 binaries"]).await;
        for key in ["../evil", "archives/../evil"] {
            kept.lab.edit_manifest(&from, |manifest| manifest.clone_from(&sound)).await;
            let whose = if from == kept.point { "lists" } else { "volumes" };
            kept.lab.edit_manifest(&from, |manifest| manifest[whose][0]["key"] = key.into()).await;
            kept.refuses(&from, &[key]).await;
        }
        kept.lab.edit_manifest(&from, |manifest| manifest.clone_from(&sound)).await;
    }
    assert_eq!(kept.lab.beside(), [""; 0]);
    assert!(!Path::new("/tmp/evil").exists());
}

#[tokio::test]
async fn documents_that_the_volumes_do_not_hold_are_missed_before_anything_is_touched() {
    let mut kept = kept().await;
    kept.spoil();
    let archive = kept.archive.clone();
    kept.lab
        .edit_manifest(&archive, |manifest| {
            let mut second = manifest["documents"]["files"][0].clone();
            second["name"] = "documents_000002.bin.gz".into();
            manifest["documents"]["files"].as_array_mut().unwrap().push(second);
        })
        .await;
    kept.refuses(&archive, &["documents_000002.bin.gz"]).await;
}

/// Writes an archive of one volume with these binaries under whatever names, and a manifest that fits.
async fn forge(lab: &Lab, entries: &[(Digest, Vec<u8>)], edit: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut zip = Writer::new(Vec::new());
    let (mut list, mut bytes) = (String::new(), 0);
    for (digest, content) in entries {
        zip.add_deflated(
            &EntryName::Binary(*digest),
            content.len() as u64,
            crc32fast::hash(content),
            &mut content.as_slice(),
        )
        .unwrap();
        writeln!(list, "{digest} {}", content.len()).unwrap();
        bytes += content.len();
    }
    let mut volume = zip.finish().unwrap();
    edit(&mut volume);
    let name = "BackupDaemonJob1-1";
    let manifest = serde_json::json!({
        "format": 1, "name": name, "repository": "main", "created": "2100-01-01T00:00:00Z", "complete": true,
        "documents": { "count": 0, "files": [] }, "binaries": entries.len(), "bytes": bytes,
        "volumes": [{
            "key": format!("archives/{name}.zip"), "bytes": volume.len(), "sha1": sha1(&volume).to_string(),
            "binaries": entries.len(), "binary_bytes": bytes, "list_sha1": sha1(list.as_bytes()).to_string(),
            "first": entries[0].0.to_string(), "last": entries.last().unwrap().0.to_string(),
        }],
    });
    lab.replace_object(&format!("archives/{name}.zip"), &volume).await;
    lab.replace_object(&format!("archives/{name}.json"), manifest.to_string().as_bytes()).await;
    format!("{name}.zip")
}

#[tokio::test]
async fn an_archive_that_holds_something_else_than_it_says_is_refused() {
    let mut kept = kept().await;
    kept.spoil();
    let (wanted, other) = (sha1(b"wanted"), sha1(b"other"));
    let forged = forge(&kept.lab, &[(wanted, b"wanted".to_vec())], |_| {}).await;
    assert_eq!(kept.lab.plan(&forged).await.unwrap().fetch, 1, "a sound forgery is an archive");

    let forged = forge(&kept.lab, &[(wanted, b"not that".to_vec())], |_| {}).await;
    kept.refuses(&forged, &[&wanted.to_string()]).await;

    // Two entries of one name: the second is made to be called like the first, everywhere.
    let mut pair = [(wanted, b"wanted".to_vec()), (other, b"other".to_vec())];
    pair.sort();
    let (first, second) = (pair[0].0.to_string(), pair[1].0.to_string());
    let path = |digest: &str| format!("binaries/{}/{}/{}/{digest}.bin", &digest[..2], &digest[2..4], &digest[4..6]);
    let forged = forge(&kept.lab, &pair, |volume| replace_all(volume, &path(&second), &path(&first))).await;
    kept.refuses(&forged, &[&first]).await;

    // A name that leads elsewhere.
    let evil = format!("binaries/../../../{first}.bin");
    let forged = forge(&kept.lab, &pair, |volume| replace_all(volume, &path(&first), &evil)).await;
    kept.refuses(&forged, &[&forged]).await;
}

fn replace_all(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut found = 0;
    for at in 0..=bytes.len() - from.len() {
        if &bytes[at..at + from.len()] == from.as_bytes() {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert_eq!(found, 2, "once before the content and once in the directory");
}

#[tokio::test]
async fn an_entry_that_yields_more_than_its_directory_says_fills_no_disk() {
    let mut kept = kept().await;
    kept.spoil();
    let bomb = vec![0; 64 << 20];
    let digest = sha1(b"small");
    // The sizes in the directory and the manifest are those of something small.
    let size = u32::try_from(bomb.len()).unwrap().to_le_bytes();
    let forged = forge(&kept.lab, &[(digest, bomb)], |volume| {
        let directory = volume.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
        assert_eq!(volume[directory + 24..directory + 28], size);
        volume[directory + 24..directory + 28].copy_from_slice(&5_u32.to_le_bytes());
    })
    .await;
    let list = format!("{digest} 5\n");
    kept.lab
        .edit_manifest(&forged, |manifest| {
            manifest["bytes"] = 5.into();
            manifest["volumes"][0]["binary_bytes"] = 5.into();
            manifest["volumes"][0]["list_sha1"] = sha1(list.as_bytes()).to_string().into();
        })
        .await;
    let run = kept.refuses(&forged, &[]).await;
    assert_eq!(run.counts.bytes, 0, "{run:?}");
    assert_eq!(kept.lab.beside(), [""; 0], "not a byte of it is kept");
}

/// A repository that has lost most of its binaries.
async fn kept_in_part() -> Kept {
    let mut kept = kept().await;
    kept.spoil();
    (0..60).for_each(|number| drop(std::fs::remove_file(kept.path(number))));
    kept
}

#[tokio::test]
async fn a_second_try_goes_on_where_the_destination_went_away() {
    for number in 0..2 {
        let undisturbed = kept_in_part().await;
        let whole = undisturbed.lab.restore(&undisturbed.both()[number]).await;
        assert_eq!((whole.outcome, whole.counts.staged), (SUCCEEDED, 0), "{whole:?}");

        let kept = kept_in_part().await;
        let from = kept.both()[number].clone();
        let (beginning, skip) = if from == kept.point {
            ("get binaries/".to_owned(), 40)
        } else {
            // Its directory takes two requests, and the third is for what is in it.
            (format!("get {}", kept.volume_keys().await.last().unwrap()), 2)
        };
        kept.broken.breaks_at(&beginning, skip, Effect::FailsFromThenOn(ErrorKind::Unavailable));
        let first = kept.refuses(&from, &["the test has it break"]).await;
        assert!(kept.broken.heal() && first.counts.copied > 0, "{first:?}");
        let second = kept.lab.restore(&from).await;
        assert_eq!((second.outcome, second.counts.copied + second.counts.staged), (SUCCEEDED, 61), "{second:?}");
        assert!(second.counts.staged >= first.counts.copied, "{first:?} {second:?}");
        assert!(second.counts.bytes < whole.counts.bytes, "{whole:?} {second:?}");
        // A volume is a single request, however much of it is needed.
        let fewer = from == kept.archive || second.counts.requests + 30 < whole.counts.requests;
        assert!(fewer, "{whole:?} {second:?}");
        assert_eq!(kept.lab.beside().len(), 1, "only the quarantine");
    }
}

#[tokio::test]
async fn a_restore_cancelled_at_any_request_changes_nothing() {
    let mut kept = kept().await;
    kept.spoil();
    for from in kept.both() {
        for skip in 0.. {
            let stop = kept.lab.stop.clone();
            kept.broken.breaks_at("", skip, Effect::Happens(Box::new(move || stop.cancel())));
            let before = kept.lab.everything();
            let run = kept.lab.restore(&from).await;
            if !kept.broken.heal() {
                break;
            }
            kept.lab.stop = CancellationToken::new();
            assert_eq!(run.outcome, Some(Outcome::Cancelled), "{skip} {run:?}");
            assert!(kept.lab.everything() == before);
        }
        kept.spoil();
    }
}

/// Puts a file where a directory of the last binary should be, once everything else has been compared.
fn in_the_way(kept: &Kept, last: &Digest) -> (PathBuf, Effect) {
    let path = kept.lab.binaries().path(last).parent().unwrap().to_owned();
    let blocked = path.clone();
    let happens = move || {
        drop(std::fs::remove_dir_all(&blocked));
        std::fs::create_dir_all(blocked.parent().unwrap()).unwrap();
        std::fs::write(&blocked, b"in the way").unwrap();
    };
    (path, Effect::Happens(Box::new(happens)))
}

#[tokio::test]
async fn what_cannot_be_put_in_place_is_taken_back_with_all_before_it() {
    for number in 0..2 {
        let mut kept = kept().await;
        let from = kept.both()[number].clone();
        kept.spoil();
        std::fs::remove_dir_all(kept.path(99).parent().unwrap()).unwrap();
        // Empty directories that were there before stay, and so do those that were not.
        std::fs::remove_dir_all(kept.path(50).parent().unwrap().parent().unwrap()).unwrap();
        let (path, effect) = in_the_way(&kept, &kept.digests[99]);
        let beginning = if from == kept.point { "get binaries/" } else { "get archives/" };
        // In an archive the directories of all volumes are read before.
        let skip = if from == kept.point { 0 } else { 1 + 2 * kept.volume_keys().await.len() };
        kept.broken.breaks_at(beginning, skip, effect);
        let mut before = kept.lab.everything();
        let run = kept.lab.restore(&from).await;
        assert!(kept.broken.heal());
        assert_eq!(run.outcome, FAILED, "{run:?}");
        let error = run.error.unwrap();
        assert!(error.contains("taken back") && error.contains(&kept.digests[99].to_string()), "{error}");
        let relative = path.strip_prefix(kept.lab.path("binaries")).unwrap().to_owned();
        before.insert(relative.clone(), Some(b"in the way".to_vec()));
        assert!(
            kept.lab
                .everything()
                .into_iter()
                .filter(|(path, _)| !relative.starts_with(path))
                .eq(before.into_iter().filter(|(path, _)| !relative.starts_with(path)))
        );
        assert!(!kept.lab.beside().iter().any(|name| name.contains("quarantine")), "{:?}", kept.lab.beside());
        std::fs::remove_file(path).unwrap();
        let run = kept.lab.restore(&from).await;
        assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 0), "{run:?}");
        assert!(run.counts.staged >= 5, "{run:?}");
        assert_eq!(kept.lab.snapshot().len(), 101);
    }
}

#[tokio::test]
async fn documents_that_cannot_be_put_in_place_take_everything_back() {
    let mut kept = kept().await;
    kept.spoil();
    let documents = kept.lab.path("documents");
    let blocked = documents.join("documents_000001.bin.gz");
    let block = blocked.clone();
    let happens = move || std::fs::create_dir_all(block.join("x")).unwrap();
    kept.broken.breaks_at("get binaries/", 0, Effect::Happens(Box::new(happens)));
    let mut before = kept.lab.everything();
    let run = kept.lab.restore(&kept.point).await;
    assert!(kept.broken.heal());
    assert!(run.error.as_ref().unwrap().contains("taken back"), "{run:?}");
    before.insert("documents/documents_000001.bin.gz".into(), None);
    before.insert("documents/documents_000001.bin.gz/x".into(), None);
    assert!(kept.lab.everything() == before);
    assert_eq!(kept.lab.document_ids(), ["three"]);
    std::fs::remove_dir_all(blocked).unwrap();
    assert_eq!(kept.lab.restore(&kept.point).await.outcome, SUCCEEDED);
    assert_eq!(kept.lab.document_ids(), ["one", "two"]);
}

#[tokio::test]
async fn whole_directories_that_were_put_in_place_are_taken_back_and_what_others_put_there_stays() {
    for lost in ["the store", "its first level", "its directories but for one"] {
        let mut kept = kept().await;
        kept.spoil();
        let root = kept.lab.path("binaries");
        let spared = kept.path(40).parent().unwrap().to_owned();
        match lost {
            "the store" => std::fs::remove_dir_all(&root).unwrap(),
            _ => {
                for entry in std::fs::read_dir(&root).unwrap() {
                    let level = entry.unwrap().path();
                    if lost == "its first level" || !spared.starts_with(&level) {
                        std::fs::remove_dir_all(level).unwrap();
                    }
                }
            }
        }
        let before = kept.lab.everything();
        // The old documents are aside when it turns out that there is no place for the new ones.
        let blocked = kept.lab.path("documents/documents_000001.bin.gz");
        let block = blocked.clone();
        let happens = move || std::fs::create_dir_all(block.join("x")).unwrap();
        kept.broken.breaks_at("get binaries/", 0, Effect::Happens(Box::new(happens)));
        let run = kept.lab.restore(&kept.point).await;
        assert!(kept.broken.heal());
        assert!(run.error.as_ref().unwrap().contains("taken back"), "{run:?}");
        std::fs::remove_dir_all(&blocked).unwrap();
        assert!(kept.lab.everything() == before, "{lost}");
        // All that was fetched waits for the next try, which brings it in without a request for a binary.
        kept.broken.take_requests();
        let run = kept.lab.restore(&kept.point).await;
        assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 0), "{run:?}");
        assert!(!kept.broken.take_requests().iter().any(|request| request.starts_with("get binaries/")));
        assert_eq!(kept.lab.snapshot().len(), 101, "{lost}");
    }
}

/// A directory is renamed with all that is in it.
#[tokio::test]
async fn what_an_earlier_try_left_comes_in_only_if_it_is_asked_for() {
    let kept = kept_in_part().await;
    kept.broken.breaks_at("get binaries/", 14, Effect::FailsFromThenOn(ErrorKind::Unavailable));
    assert_eq!(kept.lab.restore(&kept.point).await.outcome, FAILED);
    kept.broken.heal();
    let staged = kept.lab.path("").join(&kept.lab.beside()[0]).join("binaries");
    let wanted = files_below(&staged).into_keys().next().unwrap();
    let wanted: Digest = wanted.file_name().unwrap().to_str().unwrap().parse().unwrap();
    // Cut while it was written, and beside the one that is asked for.
    let beside =
        staged.join(Layout::modeshape().path(&wanted)).with_file_name(format!("{:.6}{:034}", wanted.to_string(), 7));
    std::fs::write(&beside, b"cut").unwrap();
    std::fs::remove_dir_all(kept.lab.path("binaries")).unwrap();
    let run = kept.lab.restore_only(&kept.point, &[wanted]).await;
    assert_eq!((run.outcome, run.counts.staged), (SUCCEEDED, 1), "{run:?}");
    assert_eq!(kept.lab.snapshot().into_keys().collect::<Vec<_>>(), [Layout::modeshape().path(&wanted)]);
    let levels = files_below(&kept.lab.path("binaries"));
    assert_eq!(levels.len(), 1, "{levels:?}");
}

#[tokio::test]
async fn restored_directories_pass_on_the_group_as_the_store_does() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let kept = kept().await;
    let root = kept.lab.path("binaries");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o2755)).unwrap();
    let level = kept.path(0).parent().unwrap().to_owned();
    std::fs::remove_dir_all(level.parent().unwrap().parent().unwrap()).unwrap();
    let run = kept.lab.restore(&kept.point).await;
    assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
    let mode = level.metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o2755, "{mode:o}");
}

#[tokio::test]
async fn a_state_that_a_crash_left_half_installed_is_completed_by_the_next_restore() {
    let mut kept = kept().await;
    let all = kept.lab.snapshot();
    kept.spoil();
    for number in 10..20 {
        std::fs::remove_file(kept.path(number)).unwrap();
    }
    let happens = Effect::FailsFromThenOn(ErrorKind::Unavailable);
    kept.broken.breaks_at("get binaries/", 14, happens);
    assert_eq!(kept.lab.restore(&kept.point).await.outcome, FAILED);
    kept.broken.heal();
    // What was staged, half of it renamed in, the old documents away and the new ones not there yet.
    let staging = kept.lab.path("").join(&kept.lab.beside()[0]);
    let staged: Vec<PathBuf> = files_below(&staging.join("binaries")).into_keys().collect();
    for path in staged.iter().take(staged.len() / 2) {
        let digest: Digest = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let target = kept.lab.binaries().path(&digest);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::rename(staging.join("binaries").join(path), target).unwrap();
    }
    std::fs::remove_dir_all(kept.lab.path("documents")).unwrap();
    // And one file that was cut while it was written.
    let cut = staged.last().unwrap();
    std::fs::write(staging.join("binaries").join(cut), b"").unwrap();
    let run = kept.lab.restore(&kept.point).await;
    assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
    assert!(run.counts.staged > 0, "{run:?}");
    assert!(kept.lab.snapshot() == all);
    assert_eq!(kept.lab.document_ids(), ["one", "two"]);
    assert!(!kept.lab.beside().iter().any(|name| name.contains("restore")), "{:?}", kept.lab.beside());
}

/// A quarantine is found by the number of its run, and a lost ledger gives numbers again.
#[tokio::test]
async fn an_earlier_quarantine_and_the_staging_of_a_store_beside_this_one_are_left_alone() {
    let mut kept = kept().await;
    kept.spoil();
    let mine = kept.lab.path(".holdfast-quarantine-binaries-1");
    let others = kept.lab.path(".holdfast-restore-binaries-2-20260101T000000Z-1");
    let stale = kept.lab.path(".holdfast-restore-binaries-20260101T000000Z-1");
    for directory in [&mine, &others, &stale] {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join("kept"), b"x").unwrap();
    }
    kept.lab.lose_the_ledger();
    let run = kept.lab.restore(&kept.point).await;
    assert_eq!((run.outcome, run.id.get()), (SUCCEEDED, 1), "{run:?}");
    assert!(mine.join("kept").is_file() && others.join("kept").is_file() && !stale.exists());
    assert_ne!(Path::new(&run.quarantine.unwrap()), mine);
}

#[tokio::test]
async fn a_full_disk_is_called_so_and_nothing_of_ours_stays_on_it() {
    if !in_own_mounts("restore::a_full_disk_is_called_so_and_nothing_of_ours_stays_on_it") {
        return;
    }
    for (many, reason) in [(true, "full"), (false, "make room")] {
        let broken = BrokenStore::new(Arc::new(MemoryStore::new("memory:")));
        let lab = Lab::with_store(Arc::clone(&broken) as Arc<dyn ObjectStore>);
        if many {
            // Each takes a page of 4 KiB, which nobody can know from the sizes.
            lab.add_many(2000, "a");
        } else {
            lab.add(&noise(1, 5 << 20));
        }
        let (point, archive) = (lab.copy().await.result.unwrap(), lab.backup().await.result.unwrap());
        std::fs::remove_dir_all(lab.path("binaries")).unwrap();
        mount_memory("3m", &lab.path("disk"));
        std::fs::create_dir(lab.path("disk/binaries")).unwrap();
        std::os::unix::fs::symlink(lab.path("disk/binaries"), lab.path("binaries")).unwrap();
        lab.add(b"surplus");
        let kept = Kept { lab, broken, digests: Vec::new(), point, archive };
        for from in kept.both() {
            let run = kept.refuses(&from, &[reason]).await;
            assert_eq!(super::lab::tree_below(&kept.lab.path("disk")).len(), 5, "{run:?}");
        }
    }
}

#[tokio::test]
async fn a_store_that_is_a_mount_point_has_everything_inside_and_nothing_left_there() {
    if !in_own_mounts("restore::a_store_that_is_a_mount_point_has_everything_inside_and_nothing_left_there") {
        return;
    }
    for bind in [false, true] {
        let kept = kept().await;
        let all = kept.lab.snapshot();
        let root = kept.lab.path("binaries");
        std::fs::remove_dir_all(&root).unwrap();
        std::fs::create_dir(&root).unwrap();
        if bind {
            // What systemd makes of each of ReadWritePaths=: the device is that of the directory around it.
            mount(&["--bind", root.to_str().unwrap()], &root);
        } else {
            mount_memory("64m", &root);
        }
        kept.lab.add(b"surplus");
        let missing = Key::binary(&kept.digests[99]).to_string();
        let content = kept.lab.object(&missing).await;
        kept.lab.delete_object(&missing).await;
        kept.refuses(&kept.point, &[&missing]).await;
        kept.lab.replace_object(&missing, &content).await;
        let run = kept.lab.restore(&kept.point).await;
        assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
        let quarantine = PathBuf::from(run.quarantine.unwrap());
        assert!(quarantine.starts_with(&root));
        std::fs::remove_dir_all(quarantine).unwrap();
        assert!(kept.lab.snapshot() == all);
    }
}

#[tokio::test]
async fn documents_on_a_file_system_of_their_own_are_replaced_and_taken_back() {
    if !in_own_mounts("restore::documents_on_a_file_system_of_their_own_are_replaced_and_taken_back") {
        return;
    }
    let mut kept = kept().await;
    std::fs::remove_file(kept.lab.path("documents/documents_000001.bin")).unwrap();
    mount_memory("1m", &kept.lab.path("documents"));
    kept.spoil();
    let block = kept.lab.path("documents/documents_000001.bin.gz");
    let happens = {
        let block = block.clone();
        move || std::fs::create_dir_all(block.join("x")).unwrap()
    };
    kept.broken.breaks_at("get binaries/", 0, Effect::Happens(Box::new(happens)));
    let mut before = kept.lab.everything();
    before.insert("documents/documents_000001.bin.gz".into(), None);
    before.insert("documents/documents_000001.bin.gz/x".into(), None);
    let run = kept.lab.restore(&kept.point).await;
    assert!(run.error.as_ref().is_some_and(|error| error.contains("taken back")), "{run:?}");
    assert!(kept.lab.everything() == before);
    std::fs::remove_dir_all(block).unwrap();
    kept.broken.heal();
    let run = kept.lab.restore(&kept.point).await;
    assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
    assert_eq!(kept.lab.document_ids(), ["one", "two"]);
    assert!(Path::new(&run.quarantine.unwrap()).join("documents/documents_000001.bin").is_file());
}

/// Where genuine data lies, if it is here.
fn genuine(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let path = std::env::var_os("HOLDFAST_SHARED").map_or_else(beside, PathBuf::from).join("data").join(name);
    if !path.is_dir() {
        eprintln!("skipped: there is no {}", path.display());
    }
    path.is_dir().then_some(path)
}

fn copy_tree(from: &Path, to: &Path) {
    for (path, what) in super::lab::tree_below(from) {
        match what {
            None => std::fs::create_dir_all(to.join(path)).unwrap(),
            Some(content) => {
                std::fs::create_dir_all(to.join(&path).parent().unwrap()).unwrap();
                std::fs::write(to.join(path), content).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_genuine_modeshape_backup_comes_back_with_every_document_and_binary() {
    let Some(data) = genuine("modeshape-backup-3.8") else { return };
    let mut lab = Lab::new();
    lab.layout = Layout::custom(Algorithm::Sha1, 3, 2, ".bin").unwrap();
    lab.with_documents = true;
    copy_tree(&data.join("binaries"), &lab.path("binaries"));
    copy_tree(&data, &lab.path("documents"));
    let binaries = lab.snapshot();
    let lines = sorted_lines(&lab.path("documents/documents_000001.bin.gz"));
    for run in [lab.copy().await, lab.backup().await] {
        assert_eq!((run.outcome, run.counts.copied > 0), (SUCCEEDED, !binaries.is_empty()), "{run:?}");
        assert_eq!(run.counts.documents, lines.len() as u64, "{run:?}");
        let name = run.result.unwrap();
        let verified = lab.verify(&name, Depth::Whole).await;
        assert_eq!((verified.outcome, verified.counts.examined), (SUCCEEDED, binaries.len() as u64), "{verified:?}");
        std::fs::remove_dir_all(lab.path("binaries")).unwrap();
        std::fs::remove_dir_all(lab.path("documents")).unwrap();
        let run = lab.restore(&name).await;
        assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
        assert!(lab.snapshot() == binaries);
        assert!(sorted_lines(&lab.path("documents/documents_000001.bin.gz")) == lines);
        copy_tree(&data, &lab.path("documents"));
    }
}

/// The lines of a compressed file, each once.
fn sorted_lines(path: &Path) -> Vec<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

#[tokio::test]
async fn the_sidecars_of_a_genuine_fedora_are_told_from_its_binaries() {
    let Some(data) = genuine("fedora-4.7-home/fcrepo.binary.directory") else { return };
    let lab = Lab::new();
    copy_tree(&data, &lab.path("binaries"));
    for run in [lab.copy().await, lab.backup().await] {
        assert_eq!((run.outcome, run.counts.copied, run.counts.sidecars), (SUCCEEDED, 3, 3), "{run:?}");
    }
}
