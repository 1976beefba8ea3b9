//! Documents in a real MariaDB: read in one snapshot while others write, and written all at once or not at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast::model::database::DocumentTable;
use holdfast::model::run::Outcome;
use holdfast::repository::documents::{DocumentReport, DocumentSource, Earlier, Stopped};

use crate::document_tables::{
    Ends, METADATA, REFERENCE, bson, gzip, line, read, read_error, replace, try_read, unpacked,
};
use crate::lab::Lab;
use crate::mysql_server::{Database, MariaDb, Sql, TABLE};

/// A database with ModeShape's table on the server of all tests.
fn database() -> Option<Database<'static>> {
    Some(MariaDb::shared()?.database().with_table())
}

#[test]
fn documents_are_read_plain_and_as_gzip_with_the_metadata_last() {
    let Some(database) = database() else { return };
    let mut sql = database.sql();
    let apostrophe = line("z", r#"{ "s" : "it\'s \u0001 ☃ 😀" , "n" :  }"#);
    sql.put("87a0a8c317f1e7jcr:system/mode:metadata", &bson(METADATA));
    sql.put("z", &gzip(&bson(&apostrophe)));
    sql.put("6aa9bf7df2242ef867558584c02160023a96f2f9-ref", &bson(REFERENCE));
    let read = read(&database.table());
    assert_eq!(read.lines(), [REFERENCE, &apostrophe, METADATA]);
    let DocumentReport { documents, damaged, losses, .. } = read.report;
    assert_eq!((documents, damaged, losses), (3, 0, 0));
}

#[test]
fn rows_that_are_no_documents_are_kept_byte_for_byte_and_large_ones_are_read_in_pieces() {
    let Some(database) = database() else { return };
    // The server sends 16 MiB at once.
    let mut sql = database.sql();
    let large = line("large", &format!("{{ \"x\" : \"{}\" }}", "x".repeat(20 << 20)));
    let repeated = |bytes: u32| {
        format!("INSERT INTO MODESHAPE_REPOSITORY (ID, CONTENT) VALUES ('too large', REPEAT('a', {bytes}))")
    };
    sql.run("SET GLOBAL max_allowed_packet = 134217728");
    {
        let mut sql = database.sql();
        sql.put("large", &bson(&large));
        sql.run(&repeated((64 << 20) + 7));
    }
    sql.run("SET GLOBAL max_allowed_packet = 16777216");
    sql.put("nothing", b"hello");
    sql.put_document("sound", "{ }");
    let read = read(&database.table());
    assert_eq!(read.lines(), [line("sound", "{ }"), large]);
    assert_eq!((read.report.documents, read.report.damaged), (2, 2));
    let kept: BTreeMap<_, _> =
        read.damaged().into_iter().map(|kept| (kept["id"].as_str().unwrap().to_owned(), kept)).collect();
    let content = |id: &str| base64_simd::STANDARD.decode_to_vec(kept[id]["content"].as_str().unwrap()).unwrap();
    assert_eq!(content("nothing"), b"hello");
    assert!(content("too large") == vec![b'a'; (64 << 20) + 7]);
    assert!(kept["too large"]["problem"].as_str().unwrap().contains("64 MiB is the most"));
}

#[test]
fn each_reading_is_of_one_moment_while_others_write_at_full_rate() {
    let Some(database) = database() else { return };
    let mut sql = database.sql();
    for account in 0..50 {
        sql.put_document(&format!("account {account:02}"), "{ \"n\" : 100 }");
    }
    sql.fill(3_000, 200);
    let (ended, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Also when a reading fails.
        let _end = Ends(&ended);
        let (database, ended, written) = (&database, &ended, &written);
        scope.spawn(move || {
            let mut sql = database.sql();
            let (mut held, mut turn) = ([100_i64; 50], 0);
            while !ended.load(Ordering::Relaxed) {
                let (from, to) = (turn * 7 % 50, turn * 11 % 50);
                turn += 1;
                held[from] -= 1;
                held[to] += 1;
                sql.run("START TRANSACTION");
                for account in [from, to] {
                    sql.put_document(&format!("account {account:02}"), &format!("{{ \"n\" : {} }}", held[account]));
                }
                sql.run("COMMIT");
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut contents = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let before = written.load(Ordering::Relaxed);
            let read = read(&database.table());
            let lines = read.lines();
            let of = |line: &String| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["content"]["n"].as_i64().unwrap()
            };
            assert_eq!(lines.iter().filter(|line| line.contains("account ")).map(of).sum::<i64>(), 5_000);
            contents.insert(read.report.content_sha1);
            while written.load(Ordering::Relaxed) < before + 20 {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        assert!(contents.len() > 3, "{} different contents", contents.len());
    });
}

#[test]
fn what_was_opened_stays_as_it_was_and_the_same_documents_look_the_same() {
    let Some(database) = database() else { return };
    let mut sql = database.sql();
    sql.put_document("a", "{ }");
    sql.put_document("b", "{ }");
    let mut open = DocumentSource::Table(database.table()).open(&|| false).unwrap();
    sql.put_document("b", r#"{ "changed" : true }"#);
    sql.run("DELETE FROM MODESHAPE_REPOSITORY WHERE ID = 'a'");
    let mut lines = String::new();
    let mut seen: HashMap<[u8; 16], Earlier> = HashMap::new();
    open.read(&mut seen, &|| false, &mut |file| {
        lines += &unpacked(&file.content);
        Ok(())
    })
    .unwrap();
    assert_eq!(lines, format!("{}\n{}\n", line("a", "{ }"), line("b", "{ }")));
    drop(open);
    let (first, second) = (read(&database.table()), read(&database.table()));
    assert_eq!((&first.fingerprint, &first.files), (&second.fingerprint, &second.files));
    let mut before = first.fingerprint;
    for change in [
        "UPDATE MODESHAPE_REPOSITORY SET CONTENT = 'x'",
        "INSERT INTO MODESHAPE_REPOSITORY (ID, CONTENT) VALUES ('c', 'x')",
        "UPDATE MODESHAPE_REPOSITORY SET ID = 'd' WHERE ID = 'c'",
        "DELETE FROM MODESHAPE_REPOSITORY WHERE ID = 'd'",
    ] {
        sql.run(change);
        let after = DocumentSource::Table(database.table()).open(&|| false).unwrap().fingerprint().unwrap();
        assert_ne!(before, after, "{change}");
        before = after;
    }
}

#[test]
fn what_is_wrong_is_said_with_the_way_out() {
    let Some(server) = MariaDb::shared() else { return };
    let database = server.database();
    let table = |name: &str| database.table_at(&database.url(), name);
    assert!(read_error(&table("modeshape_repository")).contains("there is none in mysql://fcrepo@127.0.0.1:"));
    let mut sql = database.sql();
    sql.run(TABLE);
    sql.put_document("a", "{ }");
    assert_eq!(read(&table("modeshape_repository")).report.documents, 1);
    for order in [
        "CREATE VIEW looks AS SELECT 1 AS id",
        "CREATE TABLE mine (ID VARCHAR(9), CONTENT LONGBLOB) ENGINE = MyISAM",
        "CREATE TABLE texts (ID VARCHAR(9), CONTENT LONGTEXT)",
        "CREATE TABLE nothing (ID VARCHAR(9), CONTENT LONGBLOB)",
    ] {
        sql.run(order);
    }
    for (name, expected) in [
        ("looks", "is a view, not a table"),
        ("mine", "kept by MyISAM, which has neither snapshots nor transactions"),
        ("texts", "its column CONTENT is longtext, not longblob"),
        ("nothing", "the table is empty"),
    ] {
        let error = read_error(&table(name));
        assert!(error.contains(expected), "{name}: {error}");
    }
    let scratch = tempfile::tempdir().unwrap();
    let wrong = scratch.path().join("password");
    std::fs::write(&wrong, "guess").unwrap();
    let mut as_guest = table("modeshape_repository");
    as_guest.password_file = Some(wrong);
    let error = read_error(&as_guest);
    assert!(error.contains("Access denied") && error.contains("`password_file`"), "{error}");

    sql.run("CREATE OR REPLACE USER reader@'127.0.0.1' IDENTIFIED BY 'secret'");
    sql.run(&format!("GRANT SELECT ON {}.MODESHAPE_REPOSITORY TO reader@'127.0.0.1'", database.name));
    let as_reader = database.table_at(&database.url().replace("fcrepo@", "reader@"), "modeshape_repository");
    assert_eq!(read(&as_reader).report.documents, 1);
    let report = as_reader.look().unwrap();
    assert_eq!((report.documents, report.writable), (1, false));
    assert!(format!("{:#}", as_reader.replace(&|| false).err().unwrap()).contains("denied"));
    let report = table("modeshape_repository").look().unwrap();
    assert!(report.writable && report.server.starts_with("MariaDB "), "{report:?}");
    let socket = format!("mysql://fcrepo@/{}?socket={}/socket", database.name, server.directory().display());
    assert_eq!(database.table_at(&socket, "modeshape_repository").look().unwrap().documents, 1);
}

#[test]
fn reading_stops_when_it_is_told_to_and_a_lost_server_is_an_error() {
    let Some(database) = database() else { return };
    let mut sql = database.sql();
    sql.fill(20_000, 1_000);
    let asked = AtomicU64::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) > 5_000;
    assert!(try_read(&database.table(), &stop).err().unwrap().is::<Stopped>());

    let mut open = DocumentSource::Table(database.table()).open(&|| false).unwrap();
    let asked = AtomicU64::new(0);
    let stop = || {
        if asked.fetch_add(1, Ordering::Relaxed) == 2_000 {
            let mut sql = database.sql();
            let ours: Vec<u64> = sql.rows(
                "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND STATE LIKE '%riting%' OR \
                 DB = DATABASE() AND INFO LIKE 'SELECT `ID`, CASE%'",
                (),
            );
            assert_eq!(ours.len(), 1);
            sql.run(&format!("KILL CONNECTION {}", ours[0]));
        }
        false
    };
    let mut seen: HashMap<[u8; 16], Earlier> = HashMap::new();
    let error = open.read(&mut seen, &stop, &mut |_| Ok(())).unwrap_err();
    assert!(format!("{error:#}").contains("read documents of"), "{error:#}");
}

#[test]
fn documents_are_replaced_all_at_once_and_others_see_the_old_ones_until_then() {
    let Some(database) = database() else { return };
    let mut sql = database.sql();
    sql.fill(500, 100);
    let (table, old) = (database.table(), sql.contents());
    let new: Vec<String> = (0..3_000)
        .map(|n| line(&format!("new {n}"), &format!("{{ \"n\" : {n} , \"s\" : \"it\\'s\" }}")))
        .chain([line("large", &format!("{{ \"x\" : \"{}\" }}", "x".repeat(5 << 20))), METADATA.to_owned()])
        .collect();
    let mut sink = table.replace(&|| false).unwrap();
    for line in &new {
        sink.write(line.as_bytes(), &|| false).unwrap();
    }
    assert_eq!(sink.finish(&|| false).unwrap(), 3_002);
    assert_eq!(sql.contents(), old);
    // Nobody else may write meanwhile.
    sql.run("SET SESSION innodb_lock_wait_timeout = 1");
    assert!(sql.try_run("INSERT INTO MODESHAPE_REPOSITORY (ID, CONTENT) VALUES ('x', 'x')").is_err());
    assert!(sql.try_run("UPDATE MODESHAPE_REPOSITORY SET CONTENT = 'x' WHERE ID = '00000001'").is_err());
    sink.commit().unwrap();
    let mut lines = read(&table).lines();
    lines.sort();
    let mut expected = new;
    expected.sort();
    assert!(lines == expected);
}

#[test]
fn after_an_error_or_without_a_commit_the_old_documents_are_there() {
    let Some(database) = database() else { return };
    let mut sql = database.sql();
    sql.fill(100, 100);
    let (table, old) = (database.table(), sql.contents());
    let error = |lines: &[String]| format!("{:#}", replace(&table, lines).unwrap_err());
    assert!(error(&[line("a", "{ }"), line("b", "{ }"), line("a", "{ }")]).contains("Duplicate entry 'a'"));
    assert!(error(&[line("a", "{ }"), line("b", "{ } }")]).contains("write document 2: at byte"));
    // Without strictness the server would cut it.
    assert!(error(&[line(&"x".repeat(256), "{ }")]).contains("Data too long"));
    let large = line("large", &format!("{{ \"x\" : \"{}\" }}", "x".repeat(17 << 20)));
    assert!(error(&[large]).contains("write document `large`: it has"));
    let mut sink = table.replace(&|| false).unwrap();
    sink.write(line("a", "{ }").as_bytes(), &|| false).unwrap();
    assert!(format!("{:#}", sink.commit().unwrap_err()).contains("not all have been written"));
    let mut sink = table.replace(&|| false).unwrap();
    sink.write(line("a", "{ }").as_bytes(), &|| false).unwrap();
    sink.finish(&|| false).unwrap();
    drop(sink);
    assert_eq!(sql.contents(), old);

    sql.run("DROP TABLE MODESHAPE_REPOSITORY");
    replace(&table, &[line("a", "{ }")]).unwrap();
    let made: Vec<(String, String)> = sql.rows("SHOW CREATE TABLE MODESHAPE_REPOSITORY", ());
    sql.run("DROP TABLE MODESHAPE_REPOSITORY");
    sql.run(TABLE);
    assert_eq!(made, sql.rows("SHOW CREATE TABLE MODESHAPE_REPOSITORY", ()));
    // As the table keeps them.
    sql.put("z", &gzip(&bson(&line("z", "{ }"))));
    replace(&table, &[line("a", "{ }")]).unwrap();
    assert!(sql.contents()[0].1.starts_with(&[0x1f, 0x8b]));
    assert_eq!(read(&table).lines(), [line("a", "{ }")]);
    replace(&DocumentTable { compress: Some(false), ..table }, &[line("a", "{ }")]).unwrap();
    assert!(!sql.contents()[0].1.starts_with(&[0x1f, 0x8b]));
}

#[test]
fn a_server_that_crashes_in_the_middle_has_the_old_documents_and_is_an_error() {
    let Some(mut server) = MariaDb::start(|_| {}) else { return };
    let (table, old) = {
        let database = server.database().with_table();
        database.sql().fill(500, 200);
        (database.table(), database.sql().contents())
    };
    let name = table.url.database.clone();
    let document = |n: usize| line(&format!("{n}"), &format!("{{ \"x\" : \"{}\" }}", "x".repeat(900)));
    let mut sink = table.replace(&|| false).unwrap();
    for n in 0..3_000 {
        sink.write(document(n).as_bytes(), &|| false).unwrap();
    }
    server.crash();
    let failed = (3_000..20_000).find_map(|n| sink.write(document(n).as_bytes(), &|| false).err());
    assert!(format!("{:#}", failed.expect("an error")).contains("write documents to"));
    drop(sink);
    server.restart();
    let contents = |server: &MariaDb| Sql::connect(server, &name).unwrap().contents();
    assert_eq!(contents(&server), old);
    let mut sink = table.replace(&|| false).unwrap();
    sink.write(document(1).as_bytes(), &|| false).unwrap();
    sink.finish(&|| false).unwrap();
    server.crash();
    assert!(format!("{:#}", sink.commit().unwrap_err()).contains("commit the documents of"));
    server.restart();
    assert_eq!(contents(&server), old);
}

#[test]
fn copies_and_backups_bring_the_documents_of_a_table_and_only_what_changed() {
    let Some(database) = database() else { return };
    let mut sql = database.sql();
    sql.fill(500, 50);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut lab = Lab::new();
    lab.documents = Some(DocumentSource::Table(database.table()));
    lab.add(b"binary");
    let first = runtime.block_on(lab.copy());
    assert_eq!((first.outcome, first.counts.documents), (Some(Outcome::Succeeded), 500), "{first:?}");
    let again = runtime.block_on(lab.copy());
    assert_eq!((again.counts.documents, &again.result), (0, &first.result));
    sql.put("damaged", b"nothing");
    let partial = runtime.block_on(lab.backup());
    assert_eq!((partial.outcome, partial.counts.damaged_documents), (Some(Outcome::Partial), 1));
}

#[test]
fn connections_of_our_own_that_have_just_ended_are_not_taken_for_others() {
    let Some(database) = database() else { return };
    let table = database.table();
    for _ in 0..30 {
        table.look().unwrap();
        assert_eq!(table.other_connections().unwrap(), []);
    }
}

#[test]
fn encryption_is_what_the_url_says() {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let prepare = |directory: &std::path::Path| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join("server.crt"), certificate.pem()).unwrap();
        std::fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
    };
    let Some(server) = MariaDb::start(prepare) else { return };
    let database = server.database().with_table();
    let ca_file = database.password_file.with_file_name("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let ca_file = ca_file.display();
    let look = |server: &Database<'_>, parameters: &str| {
        server.table_at(&format!("{}?{parameters}", server.url()), "MODESHAPE_REPOSITORY").look()
    };
    for (parameters, encrypted) in [
        ("ssl-mode=DISABLED".to_owned(), false),
        ("ssl-mode=PREFERRED".to_owned(), true),
        ("ssl-mode=REQUIRED".to_owned(), true),
        (format!("ssl-mode=VERIFY_IDENTITY&ssl-ca={ca_file}"), true),
    ] {
        let report = look(&database, &parameters).unwrap_or_else(|error| panic!("{parameters}: {error:#}"));
        assert_eq!(report.encrypted, encrypted, "{parameters}");
    }
    let error = format!("{:#}", look(&database, "ssl-mode=VERIFY_IDENTITY").unwrap_err());
    assert!(error.contains("certificate"), "{error}");
    // Without any, encryption that was asked for is missed, and what was only preferred is not.
    let plain = MariaDb::shared().unwrap().database();
    assert!(look(&plain, "ssl-mode=REQUIRED").is_err());
    assert!(!look(&plain, "ssl-mode=PREFERRED").unwrap().encrypted);
}
