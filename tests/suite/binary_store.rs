//! The binary store on disk: what the walk finds, in which order, and what it leaves alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::layout::Layout;
use holdfast::repository::binaries::{BinaryStore, Content};
use holdfast::repository::walk::{Beside, Found, Walk};
use tempfile::TempDir;

use super::lab::{as_nobody, sha1};

fn write(root: &Path, layout: &Layout, digest: &Digest, content: &[u8]) {
    let path = root.join(layout.path(digest));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Writes this many files under names that are digests, and gives the names in order.
fn fill(root: &Path, layout: &Layout, count: usize) -> Vec<Digest> {
    let algorithm = layout.algorithms.iter().cycle();
    let mut digests: Vec<Digest> =
        algorithm.zip(0..count).map(|(algorithm, i)| Digest::of(*algorithm, &i.to_le_bytes())).collect();
    for digest in &digests {
        write(root, layout, digest, b"");
    }
    digests.sort();
    digests
}

/// Everything that the walk finds: names in its order, and the digits of what cannot be read, which come in their place.
fn walk(root: &Path, layout: &Layout, threads: usize) -> (Vec<Digest>, Vec<String>, Beside) {
    let mut walk = Walk::begin(&BinaryStore::at(root, layout), threads).unwrap();
    let (mut names, mut unreadable, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for found in &mut walk {
        match found {
            Found::Binaries(batch) => {
                told.extend(batch.iter().map(Digest::to_string));
                names.extend(batch);
            }
            Found::Unreadable { digits, .. } => {
                told.push(digits.clone());
                unreadable.push(digits);
            }
        }
    }
    assert!(told.is_sorted(), "{told:?}");
    (names, unreadable, walk.beside())
}

fn refusal(root: &Path) -> String {
    format!("{:#}", BinaryStore::open(root, &Layout::modeshape()).unwrap_err())
}

#[test]
fn a_store_that_is_missing_or_a_file_is_refused_with_a_hint() {
    let directory = TempDir::new().unwrap();
    let missing = refusal(&directory.path().join("nowhere"));
    assert!(missing.contains("nowhere") && missing.contains("the volume is mounted"), "{missing}");
    fs::write(directory.path().join("file"), "").unwrap();
    let file = refusal(&directory.path().join("file"));
    assert!(file.contains("not a directory"), "{file}");
    symlink("loop", directory.path().join("loop")).unwrap();
    assert!(refusal(&directory.path().join("loop")).contains("symbolic links"));
    assert!(Walk::begin(&BinaryStore::at(&directory.path().join("file"), &Layout::modeshape()), 2).is_err());
}

#[test]
fn a_store_that_may_not_be_read_is_refused_with_a_hint() {
    as_nobody(|| async {
        let directory = TempDir::new().unwrap();
        let root = directory.path().join("store");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o000)).unwrap();
        let error = refusal(&root);
        assert!(error.contains("Permission denied") && error.contains("have the right"), "{error}");
    });
}

#[test]
fn an_empty_store_has_nothing_in_it() {
    let directory = TempDir::new().unwrap();
    assert_eq!(walk(directory.path(), &Layout::modeshape(), 2), (Vec::new(), Vec::new(), Beside::default()));
}

#[test]
fn every_layout_is_walked_in_the_order_of_digests() {
    let custom = |levels, width, suffix| Layout::custom(Algorithm::Sha1, levels, width, suffix).unwrap();
    let mut layouts =
        vec![Layout::modeshape(), Layout::jackrabbit(), Layout::artifactory(), Layout::git_lfs(), custom(3, 2, ".bin")];
    for levels in 0..=4 {
        layouts.extend((1..=3).map(|width| custom(levels, width, "")));
    }
    for layout in layouts {
        let directory = TempDir::new().unwrap();
        let digests = fill(directory.path(), &layout, 200);
        let (found, unreadable, beside) = walk(directory.path(), &layout, 2);
        assert_eq!(found, digests, "{layout:?}");
        assert_eq!((unreadable, beside), (Vec::new(), Beside::default()), "{layout:?}");
    }
}

#[test]
fn thousands_of_names_come_in_order_however_many_threads_walk() {
    let directory = TempDir::new().unwrap();
    let layout = Layout::artifactory();
    let digests = fill(directory.path(), &layout, 5000);
    for threads in [1, 3, 16] {
        assert_eq!(walk(directory.path(), &layout, threads).0, digests, "{threads} threads");
    }
    // More than a batch in one directory.
    let (flat, layout) = (TempDir::new().unwrap(), Layout::custom(Algorithm::Sha1, 0, 1, "").unwrap());
    let digests = fill(flat.path(), &layout, 3000);
    assert_eq!(walk(flat.path(), &layout, 4).0, digests);
}

#[test]
fn a_walk_that_is_dropped_in_the_middle_ends() {
    let directory = TempDir::new().unwrap();
    let layout = Layout::artifactory();
    fill(directory.path(), &layout, 3000);
    for taken in [0, 1, 20] {
        let mut walk = Walk::begin(&BinaryStore::at(directory.path(), &layout), 4).unwrap();
        assert_eq!(walk.by_ref().take(taken).count(), taken);
        // This waits for its threads, which wait for somebody to take what they found.
        drop(walk);
    }
}

#[test]
fn what_is_not_of_the_layout_is_foreign_and_counted() {
    let directory = TempDir::new().unwrap();
    let (root, layout) = (directory.path(), Layout::modeshape());
    let digests = fill(root, &layout, 3);
    let at = |digest: &Digest| root.join(layout.path(digest));
    let parent = at(&digests[0]).parent().unwrap().to_owned();
    let upper = parent.join(digests[0].to_string().to_uppercase());
    assert_ne!(upper, at(&digests[0]));
    fs::write(upper, "").unwrap();
    fs::write(parent.join(digests[1].to_string()), "in the wrong directory").unwrap();
    fs::write(parent.join(digests[0].to_string() + ".tmp"), "").unwrap();
    fs::write(root.join("README"), "").unwrap();
    fs::create_dir(root.join("AB")).unwrap();
    fs::create_dir_all(parent.join("deeper/still")).unwrap();
    fs::create_dir_all(root.join("trash/aa/bb")).unwrap();
    fs::create_dir_all(root.join(".holdfast-staging/aa")).unwrap();
    let (found, unreadable, beside) = walk(root, &layout, 2);
    assert_eq!((found, unreadable), (digests, Vec::new()));
    assert_eq!(beside.foreign, 6, "{:?}", beside.examples);
    assert!(beside.examples.contains(&"README".to_owned()), "{:?}", beside.examples);
}

#[test]
fn a_file_or_link_in_the_place_of_a_directory_of_binaries_is_unreadable_and_links_are_never_followed() {
    let directory = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let (root, layout) = (directory.path(), Layout::modeshape());
    let digests = fill(root, &layout, 1);
    let outside = fill(elsewhere.path(), &layout, 50);
    // Out of the store, in a circle, and to a file, at each level.
    let first_level = |digest: &Digest| digest.to_string()[..2].to_owned();
    let other = outside.iter().map(first_level).find(|other| *other != first_level(&digests[0])).unwrap();
    symlink(elsewhere.path().join(&other), root.join(&other)).unwrap();
    let first = root.join(first_level(&digests[0]));
    symlink(root, first.join("00")).unwrap();
    let parent = root.join(layout.path(&digests[0])).parent().unwrap().to_owned();
    let name = format!("{}{}", &digests[0].to_string()[..6], "0".repeat(34));
    symlink("/etc/passwd", parent.join(&name)).unwrap();
    let file = if first_level(&digests[0]) == "ff" || other == "ff" { "fe" } else { "ff" };
    fs::write(root.join(file), "a file where a directory should be").unwrap();
    let (found, mut unreadable, beside) = walk(root, &layout, 2);
    unreadable.sort();
    let mut expected = vec![other, first_level(&digests[0]) + "00", file.to_owned()];
    expected.sort();
    assert_eq!((found, unreadable, beside.foreign), (digests, expected, 1), "{:?}", beside.examples);
    // Nor is the link read when it took a file's place after the walk.
    let store = BinaryStore::at(root, &layout);
    let name: Digest = name.parse().unwrap();
    assert!(store.open_file(&name).is_err() && store.stamp(&name).is_err());
}

#[test]
fn what_is_unreadable_at_the_last_level_comes_between_its_neighbours() {
    let directory = TempDir::new().unwrap();
    let (root, layout) = (directory.path(), Layout::git_lfs());
    let name = |last: u8, digit: char| format!("ab{last:02x}{}", String::from(digit).repeat(60));
    let mut digests: Vec<Digest> = Vec::new();
    for last in 0..40 {
        for digit in ['f', '0'] {
            digests.push(name(last, digit).parse().unwrap());
            write(root, &layout, digests.last().unwrap(), b"");
        }
    }
    digests.sort();
    // The first, the last, and some that follow each other, made in another order than that of their names.
    let mut expected = Vec::new();
    for last in [0x27, 0x00, 0x11, 0x10] {
        fs::remove_dir_all(root.join(format!("ab/{last:02x}"))).unwrap();
        fs::write(root.join(format!("ab/{last:02x}")), "").unwrap();
        digests.retain(|digest| !digest.to_string().starts_with(&format!("ab{last:02x}")));
        expected.push(format!("ab{last:02x}"));
    }
    expected.sort();
    let (found, unreadable, _) = walk(root, &layout, 2);
    assert_eq!((found, unreadable), (digests, expected));
}

#[test]
fn a_directory_that_is_replaced_during_the_walk_is_unreadable_and_one_that_vanished_is_not() {
    let directory = TempDir::new().unwrap();
    let (root, layout) = (directory.path(), Layout::artifactory());
    fill(root, &layout, 3000);
    // The walk looks only a few directories ahead of what is taken from it.
    let mut walk = Walk::begin(&BinaryStore::at(root, &layout), 2).unwrap();
    for name in ["c0", "c1", "c2"] {
        fs::remove_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("c0"), "").unwrap();
    symlink("c1", root.join("c1")).unwrap();
    let (mut names, mut unreadable) = (Vec::new(), Vec::new());
    for found in &mut walk {
        match found {
            Found::Binaries(batch) => names.extend(batch.iter().map(|digest| digest.to_string()[..2].to_owned())),
            Found::Unreadable { digits, path, cause } => {
                assert!(!cause.is_empty() && path == root.join(&digits), "{path:?}: {cause}");
                assert!(names.iter().all(|name| *name < digits), "it comes in its place");
                unreadable.push(digits);
            }
        }
    }
    assert_eq!(unreadable, ["c0", "c1"]);
    assert!(names.iter().any(|name| name == "c3") && !names.iter().any(|name| name == "c2"));
}

#[test]
fn a_directory_that_may_not_be_read_is_named_with_its_digits() {
    as_nobody(|| async {
        let directory = TempDir::new().unwrap();
        let (root, layout) = (directory.path(), Layout::modeshape());
        let digests = fill(root, &layout, 60);
        let closed = digests[30].to_string()[..4].to_owned();
        let path = root.join(&closed[..2]).join(&closed[2..]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let (found, unreadable, _) = walk(root, &layout, 3);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let open: Vec<Digest> = digests.into_iter().filter(|digest| !digest.to_string().starts_with(&closed)).collect();
        assert_eq!((found, unreadable), (open, vec![closed]));
    });
}

#[test]
fn jackrabbit_keeps_records_and_artifactory_has_uploads_under_way() {
    let directory = TempDir::new().unwrap();
    let digests = fill(directory.path(), &Layout::jackrabbit(), 40);
    assert!(digests.iter().any(|digest| digest.algorithm() == Algorithm::Sha256));
    for name in ["reference.key", "repository-1f2e", "tmp1234.tmp", "stray"] {
        fs::write(directory.path().join(name), "").unwrap();
    }
    let (found, _, beside) = walk(directory.path(), &Layout::jackrabbit(), 2);
    assert_eq!(found, digests);
    assert_eq!(beside.records, ["reference.key", "repository-1f2e"]);
    assert_eq!((beside.foreign, beside.examples), (1, vec!["stray".to_owned()]));

    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("_pre")).unwrap();
    fs::write(directory.path().join("_pre/dbRecord123.bin"), "").unwrap();
    assert_eq!(walk(directory.path(), &Layout::artifactory(), 2).2, Beside::default());
    assert_eq!(walk(directory.path(), &Layout::modeshape(), 2).2.foreign, 1);
}

#[test]
fn a_file_is_sound_only_if_its_content_is_its_name() {
    let directory = TempDir::new().unwrap();
    let (root, layout) = (directory.path(), Layout::modeshape());
    let store = BinaryStore::at(root, &layout);
    let read = |digest: &Digest| store.read_from(&store.open_file(digest).unwrap(), 0, digest, 100).unwrap();
    let (full, empty, damaged) = (sha1(b"full"), sha1(b""), sha1(b"damaged"));
    write(root, &layout, &full, b"full");
    write(root, &layout, &empty, b"");
    write(root, &layout, &damaged, b"");
    assert!(matches!(read(&full), Content::Sound(content) if content == b"full"));
    assert!(matches!(read(&empty), Content::Sound(content) if content.is_empty()));
    assert!(matches!(read(&damaged), Content::Other { bytes: 0, small: Some(_) }));
    write(root, &layout, &sha1(&[7; 101]), &[7; 101]);
    assert!(matches!(read(&sha1(&[7; 101])), Content::Other { bytes: 101, .. }), "longer than asked for");
    let pipe = root.join(layout.path(&full));
    fs::remove_file(&pipe).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(store.open_file(&full).is_err(), "a pipe would be waited for");
}
