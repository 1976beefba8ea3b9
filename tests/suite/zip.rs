//! Archives by hand: what the usual tools say of ours, and what we say of hostile and damaged ones.
#![allow(clippy::unwrap_used, reason = "all of this file is tests, also what the tests share")]

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::process::{Command, Output};

use holdfast::jobs::zip::{DirectoryReader, ReadError, Reader, Writer, locate, read_single};
use holdfast::model::archive::{CHANGES_SUMMARY, EntryName};
use holdfast::model::digest::{Algorithm, Digest};

type Contents = Vec<(EntryName, Vec<u8>)>;

/// One entry of every kind and every way of writing it.
fn contents() -> Contents {
    let text = b"all work and no play makes jack a dull boy. ".repeat(5);
    let noise: Vec<u8> = (0..60_u8).map(|number| number.wrapping_mul(151)).collect();
    let mut binaries: Contents = [text.clone(), noise, b"".to_vec(), text.repeat(2)]
        .into_iter()
        .map(|content| (EntryName::Binary(Digest::of(Algorithm::Sha1, &content)), content))
        .collect();
    binaries.sort_by_key(|(name, _)| name.to_string());
    let mut contents = vec![
        (EntryName::Documents(1), b"first documents".to_vec()),
        (EntryName::Documents(2), b"more documents".to_vec()),
        (EntryName::DamagedDocuments, b"?".to_vec()),
        (EntryName::Record("reference.key".to_owned()), text),
    ];
    contents.extend(binaries);
    contents.push((EntryName::ChangesSummary, CHANGES_SUMMARY.to_vec()));
    contents
}

fn write(contents: &Contents) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (number, (name, content)) in contents.iter().enumerate() {
        let size = u64::try_from(content.len()).unwrap();
        let crc32 = crc32fast::hash(content);
        match number % 3 {
            0 => writer.add_bytes(name, content).unwrap(),
            1 => writer.add_stored(name, size, crc32, &mut content.as_slice()).unwrap(),
            _ => writer.add_deflated(name, size, crc32, &mut content.as_slice()).unwrap(),
        }
    }
    writer.finish().unwrap()
}

fn read(archive: &[u8]) -> Result<Contents, ReadError> {
    let mut reader = Reader::new(archive).with_limit(1 << 20);
    let mut contents = Vec::new();
    while let Some(mut entry) = reader.next()? {
        let mut content = Vec::new();
        let name = entry.name().clone();
        entry.read_to_end(&mut content).map_err(ReadError::from_content)?;
        contents.push((name, content));
    }
    Ok(contents)
}

/// Only runs over the entries, without reading their content.
fn skim(archive: &[u8]) -> Result<Vec<EntryName>, ReadError> {
    let mut reader = Reader::new(archive).with_limit(1 << 20);
    let mut names = Vec::new();
    while let Some(entry) = reader.next()? {
        names.push(entry.name().clone());
    }
    Ok(names)
}

fn read_singly(archive: &[u8]) -> Result<Contents, ReadError> {
    let length = u64::try_from(archive.len()).unwrap();
    let location = locate(archive, length)?;
    let at = |offset: u64| &archive[usize::try_from(offset).unwrap().min(archive.len())..];
    let mut contents = Vec::new();
    for entry in DirectoryReader::new(at(location.offset), location) {
        let entry = entry?;
        let mut content = Vec::new();
        let single = read_single(&entry, at(entry.offset).take(entry.span()))?;
        single.take(1 << 20).read_to_end(&mut content).map_err(ReadError::from_content)?;
        contents.push((entry.name, content));
    }
    Ok(contents)
}

fn replaced(archive: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "offsets stay as they are");
    let mut archive = archive.to_vec();
    for start in 0..=archive.len() - from.len() {
        if archive[start..].starts_with(from) {
            archive[start..start + to.len()].copy_from_slice(to);
        }
    }
    archive
}

fn by_the_zip_crate(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Runs a tool; none if it is not installed.
fn run(program: &str, arguments: &[&str], directory: &std::path::Path) -> Option<Output> {
    match Command::new(program).args(arguments).current_dir(directory).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            #[expect(clippy::print_stderr, reason = "a test that checks nothing should say so")]
            {
                eprintln!("skipped: {program} is not installed");
            }
            None
        }
        output => Some(output.unwrap()),
    }
}

fn assert_succeeds(program: &str, arguments: &[&str], directory: &std::path::Path) {
    if let Some(output) = run(program, arguments, directory) {
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("warning"), "{program} {arguments:?}: {text}");
    }
}

#[test]
fn the_usual_tools_read_it_and_sha1sum_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let contents = contents();
    fs::write(directory.path().join("archive.zip"), write(&contents)).unwrap();
    assert_succeeds("unzip", &["-tq", "archive.zip"], directory.path());
    assert_succeeds("python3", &["-m", "zipfile", "-t", "archive.zip"], directory.path());
    if run("unzip", &["-q", "archive.zip"], directory.path()).is_none() {
        return;
    }
    let mut sums = String::new();
    for (name, content) in &contents {
        assert!(&fs::read(directory.path().join(name.to_string())).unwrap() == content, "{name}");
        if let EntryName::Binary(digest) = name {
            writeln!(sums, "{digest}  {name}").unwrap();
        }
    }
    fs::write(directory.path().join("sums"), sums).unwrap();
    assert_succeeds("sha1sum", &["--check", "--quiet", "sums"], directory.path());
}

#[test]
fn the_usual_tools_read_more_entries_than_plain_records_can_count() {
    let directory = tempfile::tempdir().unwrap();
    let file = io::BufWriter::new(fs::File::create(directory.path().join("archive.zip")).unwrap());
    let mut writer = Writer::new(file);
    for number in 0..66_000_u32 {
        let mut digest = [0; 20];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        writer.add_bytes(&EntryName::Binary(Digest::Sha1(digest)), b"tiny").unwrap();
    }
    drop(writer.finish().unwrap());
    assert_succeeds("unzip", &["-tq", "archive.zip"], directory.path());
    let count = "import zipfile; assert len(zipfile.ZipFile('archive.zip').namelist()) == 66000";
    assert_succeeds("python3", &["-c", count], directory.path());
}

#[test]
fn cut_anywhere_it_is_no_archive() {
    let archive = write(&contents());
    assert_eq!(read(&archive).unwrap(), contents());
    for length in 0..archive.len() {
        let cut = &archive[..length];
        let error = read(cut).expect_err("a cut archive is not whole");
        match length {
            0 => assert!(matches!(error, ReadError::NotAnArchive), "{error}"),
            _ => assert!(matches!(error, ReadError::Truncated { .. }), "{length}: {error}"),
        }
        assert!(matches!(skim(cut), Err(ReadError::Truncated { .. } | ReadError::NotAnArchive)), "{length}");
        read_singly(cut).expect_err("it does not end like an archive");
    }
}

/// A flip inside compressed data may leave the content as it is: DEFLATE has bits that mean nothing.
#[test]
fn every_flipped_bit_is_an_error_unless_it_changes_nothing() {
    let contents = contents();
    let archive = write(&contents);
    let mut harmless = 0;
    for position in 0..archive.len() {
        for flip in [1, 2, 4, 8, 16, 32, 64, 128] {
            let mut flipped = archive.clone();
            flipped[position] ^= flip;
            if let Ok(read) = read(&flipped) {
                assert!(read == contents, "byte {position} ^ {flip}");
                harmless += 1;
            }
            if let Ok(read) = read_singly(&flipped) {
                assert!(read == contents, "byte {position} ^ {flip}, one by one");
            }
        }
    }
    assert!(harmless <= HARMLESS_FLIPS, "{harmless}");
}

/// Up to seven bits of padding after each compressed entry; the archive has five of them.
const HARMLESS_FLIPS: usize = 40;

#[test]
fn a_path_out_of_the_directory_is_foreign() {
    let archive = write(&vec![(EntryName::Record("reference.key".to_owned()), b"key".to_vec())]);
    for name in
        [b"../../../etc/passwd.x", b"/etc/cron.d/reference", b"records/../erence.key", b"records/refe\0ence.key"]
    {
        let hostile = replaced(&archive, b"records/reference.key", name);
        for error in [read(&hostile).unwrap_err(), read_singly(&hostile).unwrap_err()] {
            assert!(matches!(error, ReadError::Foreign { .. }), "{error}");
        }
    }
    let foreign = by_the_zip_crate(&[("../evil", b"x")]);
    let error = read(&foreign).unwrap_err();
    assert_eq!(error.to_string(), "read archive: `../evil` is not a file of a backup");
}

#[test]
fn a_name_of_sixty_kilobytes_is_refused_unread() {
    let name = "a/".repeat(30_000);
    let error = read(&by_the_zip_crate(&[(&name, b"x")])).unwrap_err();
    assert_eq!(error.to_string(), "read archive: `… (a name of 60000 bytes)` is not a file of a backup");
}

#[test]
fn links_and_directories_are_foreign() {
    let archive = write(&vec![(EntryName::Record("reference.key".to_owned()), b"/etc/passwd".to_vec())]);
    let mode = |mode: u32| (mode << 16).to_le_bytes();
    for kind in [0o120_777, 0o040_755, 0o020_644] {
        let hostile = replaced(&archive, &mode(0o100_644), &mode(kind));
        assert!(matches!(read(&hostile), Err(ReadError::Foreign { .. })));
        assert!(matches!(read_singly(&hostile), Err(ReadError::Foreign { .. })));
    }
    let directory = by_the_zip_crate(&[("binaries/", b"")]);
    assert!(matches!(read(&directory), Err(ReadError::Foreign { .. })));
}

#[test]
fn an_entry_that_comes_twice_is_refused() {
    let record = |name: &str| (EntryName::Record(name.to_owned()), b"same".to_vec());
    let twice = replaced(&write(&vec![record("a"), record("b")]), b"records/b", b"records/a");
    for error in [read(&twice).unwrap_err(), read_singly(&twice).unwrap_err()] {
        assert_eq!(error.to_string(), "read archive: `records/a` comes twice or out of order");
    }
}

#[test]
fn an_entry_that_yields_more_than_it_may_is_refused() {
    let zeros = vec![0; 2 << 20];
    let size = u64::try_from(zeros.len()).unwrap();
    let mut writer = Writer::new(Vec::new());
    let name = EntryName::Record("bomb".to_owned());
    writer.add_deflated(&name, size, crc32fast::hash(&zeros), &mut zeros.as_slice()).unwrap();
    let bomb = writer.finish().unwrap();
    let error = read(&bomb).unwrap_err();
    assert_eq!(error.to_string(), "read `records/bomb` in the archive: it holds more than 1048576 bytes");
    assert!(matches!(skim(&bomb), Err(ReadError::Damaged { .. })));

    let mut writer = Writer::new(Vec::new());
    writer.add_bytes(&name, &zeros).unwrap();
    let bomb = replaced(&writer.finish().unwrap(), &2_097_152_u32.to_le_bytes(), &10_u32.to_le_bytes());
    for error in [read(&bomb).unwrap_err(), read_singly(&bomb).unwrap_err()] {
        assert_eq!(error.to_string(), "read `records/bomb` in the archive: it holds more than 10 bytes");
    }
}

#[test]
fn foreign_files_are_told_from_damaged_archives() {
    assert!(matches!(read(b""), Err(ReadError::NotAnArchive)));
    assert!(matches!(read(b"%PDF-1.7 and so on and so on"), Err(ReadError::NotAnArchive)));
    assert!(matches!(read_singly(b"%PDF-1.7 and so on and so on"), Err(ReadError::NotAnArchive)));
    assert!(matches!(read(&by_the_zip_crate(&[("word/document.xml", b"<w/>")])), Err(ReadError::Foreign { .. })));
    let error = read(&[&write(&contents())[..], b"x"].concat()).unwrap_err();
    assert_eq!(error.to_string(), "read `central directory` in the archive: data follows the end of the archive");
    let two = [write(&contents()), write(&contents())].concat();
    assert!(matches!(read(&two), Err(ReadError::Damaged { .. })));
    assert!(matches!(read_singly(&two), Err(ReadError::Damaged { .. })));
}

#[test]
fn a_directory_that_lists_other_entries_is_damage() {
    let record = |name: &str, content: &[u8]| (EntryName::Record(name.to_owned()), content.to_vec());
    let one = write(&vec![record("a", b"aaa"), record("b", b"bbb")]);
    let other = write(&vec![record("a", b"aaa"), record("b", b"ccc")]);
    let start = usize::try_from(locate(&one, u64::try_from(one.len()).unwrap()).unwrap().offset).unwrap();
    let mixed = [&one[..start], &other[start..]].concat();
    let error = read(&mixed).unwrap_err();
    let text = "read `central directory` in the archive: it does not list the entries as they are";
    assert_eq!(error.to_string(), text);
    assert!(matches!(read_singly(&mixed), Err(ReadError::Damaged { .. })));
    let shorter = write(&vec![record("a", b"aaa")]);
    let end = shorter.len() - 22 - 46 - "records/a".len();
    let mixed = [&one[..start], &shorter[end..]].concat();
    let text = "read `central directory` in the archive: it lists fewer entries than there are";
    assert_eq!(read(&mixed).unwrap_err().to_string(), text);
    let mixed = [&shorter[..end], &one[start..]].concat();
    let text = "read `central directory` in the archive: it lists more entries than there are";
    assert_eq!(read(&mixed).unwrap_err().to_string(), text);
}

#[test]
fn what_holdfast_does_not_write_is_unsupported() {
    let archive = write(&vec![(EntryName::Record("key".to_owned()), b"key".to_vec())]);
    let unsupported = |position: usize, value: u8, what: &str| {
        let mut archive = archive.clone();
        archive[position] = value;
        let error = read(&archive).unwrap_err();
        assert_eq!(error.to_string(), format!("read `records/key` in the archive: unsupported {what}"));
    };
    unsupported(6, 1, "encryption");
    unsupported(6, 8, "size after stored content, whose end nothing tells");
    unsupported(7, 8, "flags 0x0800");
    unsupported(8, 12, "method 12");
    let end = archive.len() - 22;
    for (position, what) in [(4, "archive of several disks"), (6, "archive of several disks"), (20, "comment")] {
        let mut archive = archive.clone();
        archive[end + position] = 1;
        let error = read(&archive).unwrap_err();
        assert_eq!(error.to_string(), format!("read `central directory` in the archive: unsupported {what}"));
    }
}

#[test]
fn after_an_error_there_is_no_next_entry() {
    let mut archive = write(&contents());
    let position = archive.windows(5).position(|bytes| bytes == b"first").unwrap();
    archive[position] = b'F';
    let mut reader = Reader::new(&archive[..]);
    let mut entry = reader.next().unwrap().unwrap();
    let mut content = [0; 15];
    let error = ReadError::from_content(entry.read_exact(&mut content).unwrap_err());
    assert!(matches!(&error, ReadError::Damaged { what, .. } if what.contains("CRC-32")), "{error}");
    entry.read_exact(&mut content).unwrap_err();
    reader.next().map(|_| ()).unwrap_err();
    reader.next().map(|_| ()).unwrap_err();
}
