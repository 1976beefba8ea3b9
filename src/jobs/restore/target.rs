//! Documents on their way into a database or a Fedora, which take them all at once or not at all.

use std::fs;
use std::ops::ControlFlow;

use anyhow::{Context as _, ensure};

use super::RestoreOrder;
use super::compare::Comparison;
use super::contents::Contents;
use super::staging::Staging;
use crate::jobs::context::RunContext;
use crate::model::database::DocumentTable;
use crate::repository::documents::{DocumentSink, DocumentSource, each_line};

/// How many other programs an error names.
const NAMED: usize = 3;

/// An error if documents cannot be written where they belong, or should not be because other programs are connected to
/// the database: one that goes on with what it remembers would write over them. Found out before anything is fetched.
pub(super) async fn check_target(run: &RunContext, order: &RestoreOrder) -> anyhow::Result<()> {
    let Some(documents) = order.documents.clone() else { return Ok(()) };
    let ignore_connections = order.ignore_connections;
    run.blocking(move |_| {
        let table = match &documents {
            DocumentSource::Directory(_) => return Ok(()),
            DocumentSource::Fedora(server) => return server.look().context("restore documents"),
            DocumentSource::Table(table) => table,
        };
        ensure!(
            table.look()?.writable,
            "restore documents to {}: its user may not write {}: grant DELETE and INSERT on it, or, if there is no such \
             table, the right to make it",
            table.url,
            table.table
        );
        refuse_others(table, ignore_connections).with_context(|| format!("restore documents to {}", table.url))
    })
    .await
}

/// An error if binaries that the backup does not have should not be taken away, because another program may be adding
/// them: its documents are written after them.
pub(super) async fn check_alone(run: &RunContext, order: &RestoreOrder) -> anyhow::Result<()> {
    let Some(DocumentSource::Table(table)) = order.documents.clone() else { return Ok(()) };
    let ignore_connections = order.ignore_connections;
    run.blocking(move |_| {
        let doing = || format!("take binaries away that no document in {} may need", table.url);
        refuse_others(&table, ignore_connections).with_context(doing)
    })
    .await
}

fn refuse_others(table: &DocumentTable, ignore_connections: bool) -> anyhow::Result<()> {
    if ignore_connections {
        return Ok(());
    }
    let others = table.other_connections()?;
    let named: Vec<_> = others.iter().take(NAMED).map(ToString::to_string).collect();
    ensure!(
        others.is_empty(),
        "{} other connections to the database are open ({}): stop the repository (Fedora) first, or add \
         --ignore-connections",
        others.len(),
        named.join("; ")
    );
    Ok(())
}

/// Writes the staged documents to where they belong; nobody sees them there before they are committed.
pub(super) async fn write_documents(
    run: &RunContext,
    order: &RestoreOrder,
    contents: &Contents,
    comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<(Comparison, Option<Box<dyn DocumentSink>>)> {
    let Some(target) = order.documents.clone() else { return Ok((comparison, None)) };
    if comparison.documents.is_empty() || matches!(target, DocumentSource::Directory(_)) {
        return Ok((comparison, None));
    }
    check_target(run, order).await?;
    let expected = contents.documents().count;
    run.report.phase(format!("writing documents to {target}"), "documents", Some(expected));
    let staging = staging.paths();
    run.blocking(move |run| {
        let stop = || run.stop.is_cancelled();
        let written = (|| {
            let Some(mut sink) = target.replace(&stop)? else { return Ok(None) };
            for name in &comparison.documents {
                let path = staging.document(name);
                let content = fs::read(&path).with_context(|| format!("read `{}`", path.display()))?;
                let read = each_line(&content, &mut |line| {
                    sink.write(line, &stop)?;
                    run.report.advance(1);
                    Ok(ControlFlow::Continue(()))
                })?;
                ensure!(read.is_continue(), "read `{}`: it was not read to its end", path.display());
            }
            let written = sink.finish(&stop)?;
            ensure!(
                written == expected,
                "write documents to {target}: {written} were written, the backup has {expected}; nothing was changed"
            );
            Ok(Some(sink))
        })();
        run.go_on()?;
        Ok((comparison, written?))
    })
    .await
}
