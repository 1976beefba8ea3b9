//! Restores of a whole repository whose documents are in a database: all of the old or all of the new.

use std::collections::BTreeMap;

use holdfast::jobs::restore::Parts;
use holdfast::model::digest::Digest;
use holdfast::model::run::{Outcome, Run};
use holdfast::repository::documents::DocumentSource;
use tokio::runtime::Runtime;

use crate::lab::{Lab, Tree, sha1};
use crate::postgres_server::{Database, PostgresServer};

const SUCCEEDED: Option<Outcome> = Some(Outcome::Succeeded);
const FAILED: Option<Outcome> = Some(Outcome::Failed);

/// A repository in a database and a directory, with a restore point and an archive of it.
struct Kept {
    runtime: Runtime,
    lab: Lab,
    database: Database<'static>,
    digests: Vec<Digest>,
    point: String,
    archive: String,
}

type Rows = BTreeMap<String, Vec<u8>>;

fn kept() -> Option<Kept> {
    let database = PostgresServer::shared()?.database().with_table();
    let runtime = Runtime::new().unwrap();
    let mut lab = Lab::new();
    lab.documents = Some(DocumentSource::Table(database.table()));
    let digests = lab.add_many(20, "kept");
    let mut sql = database.sql();
    for (number, digest) in digests.iter().enumerate() {
        let content = format!("{{ \"data\" : {{ \"$sha1\" : \"{digest}\" , \"$len\" : 5 }} }}");
        sql.put_document(&format!("node{number}"), &content);
    }
    drop(sql);
    let (point, archive) = (runtime.block_on(lab.copy()), runtime.block_on(lab.backup()));
    for run in [&point, &archive] {
        let counts = (run.counts.documents, run.counts.references, run.counts.missing);
        assert_eq!((run.outcome, counts), (SUCCEEDED, (20, 20, 0)), "{run:?}");
    }
    Some(Kept { runtime, lab, database, digests, point: point.result.unwrap(), archive: archive.result.unwrap() })
}

impl Kept {
    fn rows(&self) -> Rows {
        self.database.sql().contents().into_iter().collect()
    }

    /// Other documents, a damaged binary, one that is missing, and one that the backup does not have.
    fn spoil(&self) -> Digest {
        let mut sql = self.database.sql();
        sql.run("DELETE FROM modeshape_repository WHERE id < 'node15'");
        sql.put_document("new", "{ }");
        self.lab.write(&self.digests[3], b"damaged");
        std::fs::remove_file(self.lab.binaries().path(&self.digests[4])).unwrap();
        self.lab.add(b"surplus")
    }

    fn state(&self) -> (Rows, Tree) {
        (self.rows(), self.lab.everything())
    }

    fn restore(&self, from: &str) -> Run {
        self.runtime.block_on(self.lab.restore(from))
    }
}

#[test]
fn a_restore_brings_binaries_and_the_documents_of_a_table_back() {
    let Some(kept) = kept() else { return };
    let rows = kept.rows();
    for from in [&kept.point, &kept.archive] {
        let surplus = kept.spoil();
        let run = kept.restore(from);
        assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (SUCCEEDED, 2, 20), "{run:?}");
        assert!(kept.rows() == rows, "{:?}", kept.rows().keys());
        assert_eq!(kept.lab.snapshot().len(), 20);
        assert!(!kept.lab.binaries().path(&surplus).exists() && run.quarantine.is_some());
        // All of it is there now.
        let again = kept.restore(from);
        assert_eq!((again.outcome, again.counts.copied, again.counts.documents), (SUCCEEDED, 0, 0), "{again:?}");
    }
}

#[test]
fn a_table_that_is_not_there_is_made_and_a_store_that_is_not_there_appears() {
    let Some(kept) = kept() else { return };
    let rows = kept.rows();
    kept.database.sql().run("DROP TABLE modeshape_repository");
    std::fs::remove_dir_all(kept.lab.path("binaries")).unwrap();
    let run = kept.restore(&kept.point);
    assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (SUCCEEDED, 20, 20), "{run:?}");
    assert!(kept.rows() == rows);
}

#[test]
fn a_restore_is_refused_while_another_program_is_connected_unless_told_otherwise() {
    let Some(kept) = kept() else { return };
    let rows = kept.rows();
    kept.spoil();
    let before = kept.state();
    let mut fedora = kept.database.sql();
    fedora.run("SET application_name = 'Fedora'");
    let run = kept.restore(&kept.point);
    assert_eq!((run.outcome, run.counts.copied), (FAILED, 0), "{run:?}");
    let error = run.error.unwrap();
    for part in ["Fedora", "--ignore-connections", "stop the repository"] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    assert!(kept.state() == before);
    let run = kept.runtime.block_on(kept.lab.restore_as(&kept.point, |order| order.ignore_connections = true));
    assert_eq!(run.outcome, SUCCEEDED, "{run:?}");
    assert!(kept.rows() == rows);
    // All documents are there; a binary that the backup does not have may be one that is just being added.
    let added = kept.lab.add(b"added");
    let run = kept.restore(&kept.point);
    assert_eq!((run.outcome, run.counts.quarantined), (FAILED, 0), "{run:?}");
    assert!(run.error.as_ref().unwrap().contains("take binaries away"), "{run:?}");
    assert!(kept.lab.binaries().path(&added).exists());
    drop(fedora);
    let run = kept.restore(&kept.point);
    assert_eq!((run.outcome, run.counts.quarantined), (SUCCEEDED, 1), "{run:?}");
}

#[test]
fn a_commit_that_fails_leaves_documents_and_binaries_as_they_were() {
    let Some(kept) = kept() else { return };
    kept.spoil();
    // It is found wrong at the last moment, when the binaries are in place.
    kept.database.sql().run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON modeshape_repository
         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let before = kept.state();
    for from in [&kept.point, &kept.archive] {
        let run = kept.restore(from);
        assert_eq!(run.outcome, FAILED, "{run:?}");
        let error = run.error.unwrap();
        assert!(error.contains("not today") && error.contains("taken back"), "{error}");
        assert!(kept.state() == before);
    }
    kept.database.sql().run("DROP TRIGGER refuse ON modeshape_repository");
    assert_eq!(kept.restore(&kept.point).outcome, SUCCEEDED);
}

#[test]
fn documents_or_binaries_alone_leave_the_other_as_they_are() {
    let Some(kept) = kept() else { return };
    let (rows, binaries) = (kept.rows(), kept.lab.snapshot());
    let surplus = kept.spoil();
    let (spoiled_rows, spoiled_binaries) = (kept.rows(), kept.lab.snapshot());
    let run = kept.runtime.block_on(kept.lab.restore_as(&kept.point, |order| order.parts = Parts::Documents));
    assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (SUCCEEDED, 0, 20), "{run:?}");
    assert!(kept.rows() == rows && kept.lab.snapshot() == spoiled_binaries);

    kept.database.sql().run("DELETE FROM modeshape_repository WHERE id < 'node15'");
    kept.database.sql().put_document("new", "{ }");
    assert!(kept.rows() == spoiled_rows);
    let run = kept.runtime.block_on(kept.lab.restore_as(&kept.archive, |order| order.parts = Parts::Binaries));
    assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (SUCCEEDED, 2, 0), "{run:?}");
    // The documents that stay may refer to what the backup does not have.
    assert!(kept.lab.binaries().path(&surplus).exists());
    assert_eq!(kept.lab.snapshot().len(), binaries.len() + 1);
    assert!(kept.rows() == spoiled_rows);
}

#[test]
fn a_database_that_is_away_is_found_out_before_anything_is_fetched() {
    let Some(kept) = kept() else { return };
    let mut lab = kept.lab;
    let nobody = kept.database.table_at("postgresql://fcrepo@127.0.0.1:1/fcrepo", "modeshape_repository");
    lab.documents = Some(DocumentSource::Table(nobody));
    std::fs::remove_file(lab.binaries().path(&kept.digests[0])).unwrap();
    let before = lab.everything();
    let run = kept.runtime.block_on(lab.restore(&kept.point));
    assert_eq!((run.outcome, run.counts.copied), (FAILED, 0), "{run:?}");
    assert!(run.error.as_ref().unwrap().contains("127.0.0.1:1"), "{run:?}");
    assert!(lab.everything() == before);
}

#[test]
fn a_user_who_may_not_write_is_found_out_before_anything_is_fetched() {
    let Some(kept) = kept() else { return };
    kept.spoil();
    let reader = format!("reader_{}", kept.database.name);
    kept.database.sql().run(&format!(
        "CREATE ROLE {reader} LOGIN PASSWORD 'secret'; GRANT SELECT ON modeshape_repository TO {reader}"
    ));
    let before = kept.state();
    let mut lab = kept.lab;
    let url = kept.database.url().replace("fcrepo@", &format!("{reader}@"));
    lab.documents = Some(DocumentSource::Table(kept.database.table_at(&url, "modeshape_repository")));
    let run = kept.runtime.block_on(lab.restore(&kept.point));
    assert_eq!((run.outcome, run.counts.copied), (FAILED, 0), "{run:?}");
    assert!(run.error.as_ref().unwrap().contains("grant DELETE and INSERT"), "{run:?}");
    assert!(lab.everything() == before.1);
    assert!(kept.database.sql().contents().into_iter().collect::<Rows>() == before.0);
}

/// Documents that a backup was told of and that are no longer what they were: a guard against comparing too little.
#[test]
fn a_document_that_differs_in_one_byte_is_replaced() {
    let Some(kept) = kept() else { return };
    let rows = kept.rows();
    let other = sha1(b"another");
    kept.database
        .sql()
        .put_document("node7", &format!("{{ \"data\" : {{ \"$sha1\" : \"{other}\" , \"$len\" : 5 }} }}"));
    let run = kept.restore(&kept.point);
    assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (SUCCEEDED, 0, 20), "{run:?}");
    assert!(kept.rows() == rows);
}
