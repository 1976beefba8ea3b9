//! Whether a destination can be reached, and what it can do.

use std::path::Path;

use super::Findings;
use super::machine::{Kept, may_write};
use crate::cli::destination::{loose_secrets, probe};
use crate::config::{Destination, Place};
use crate::store::Capabilities;

pub(super) async fn check(findings: &mut Findings, destination: &Destination, kept: Option<&Kept>) {
    let subject = format!("destination {}", destination.name);
    for (file, complaint) in loose_secrets(&destination.place) {
        findings.warning(&subject, complaint, format!("chmod 600 {}", file.display()));
    }
    if let Place::Directory(path) = &destination.place
        && !path.exists()
    {
        return missing_directory(findings, &subject, path);
    }
    let found = match probe(destination, kept.map(|kept| &kept.ledger)).await {
        Ok(found) => found,
        Err(error) => return findings.failure(&subject, &error),
    };
    findings.ok(&subject, format!("reached {}", destination.place));
    for ability in abilities(found) {
        if ability.present {
            findings.ok(&subject, ability.with);
        } else {
            findings.warning(&subject, ability.without, ability.instead);
        }
    }
    record(findings, &subject, destination, found, kept);
}

fn missing_directory(findings: &mut Findings, subject: &str, path: &Path) {
    let shown = path.display();
    if path.parent().is_some_and(may_write) {
        let hint = "nothing to do if no backup was made yet; otherwise mount the disk";
        findings.warning(subject, format!("`{shown}` is not there yet; the first run makes it"), hint);
    } else {
        let hint = "make the directory it is to lie in, or mount the disk";
        findings.error(subject, format!("`{shown}` is not there, and cannot be made"), hint);
    }
}

fn record(findings: &mut Findings, subject: &str, destination: &Destination, found: Capabilities, kept: Option<&Kept>) {
    let Some(Kept { ledger, .. }) = kept else {
        return findings.ok(subject, "what it can do is not recorded now; the first run finds it out by itself");
    };
    let recorded = ledger.destination(&destination.place.to_string()).and_then(|id| {
        let before = ledger.capabilities(id)?;
        let now = serde_json::to_string(&found)?;
        ledger.record_capabilities(id, &now)?;
        Ok(before.is_some_and(|before| before != now))
    });
    match recorded {
        Ok(true) => findings.ok(subject, "it can do other things than before; that is recorded"),
        Ok(false) => {}
        Err(error) => findings.failure(subject, &error),
    }
}

/// Something a store can do, in words.
struct Ability {
    present: bool,
    with: &'static str,
    without: &'static str,
    /// What Holdfast does where it is missing, and what is to be done about it.
    instead: &'static str,
}

fn abilities(found: Capabilities) -> [Ability; 6] {
    [
        Ability {
            present: found.conditional_put,
            with: "refuses to overwrite (If-None-Match)",
            without: "overwrites what is there, though asked not to (If-None-Match)",
            instead: "Holdfast looks before it puts; let one machine alone write below this prefix",
        },
        Ability {
            present: found.conditional_complete,
            with: "refuses to overwrite when an upload in parts is completed",
            without: "overwrites what is there when an upload in parts is completed",
            instead: "Holdfast looks before it completes; let one machine alone write below this prefix",
        },
        Ability {
            present: found.verifies_sha1,
            with: "refuses what arrives damaged (SHA-1)",
            without: "takes what arrives damaged (SHA-1)",
            instead: "Holdfast reads back what it has put, which doubles the traffic",
        },
        Ability {
            present: found.returns_sha1,
            with: "tells the SHA-1 of what it holds",
            without: "does not tell the SHA-1 of what it holds",
            instead: "`holdfast verify --quick` compares sizes alone; run it without `--quick` now and then",
        },
        Ability {
            present: found.verifies_parts,
            with: "refuses parts that arrive damaged (CRC32)",
            without: "takes parts that arrive damaged (CRC32)",
            instead: "Holdfast reads back what it has uploaded, which doubles the traffic",
        },
        Ability {
            present: found.lists_unfinished,
            with: "lists unfinished uploads, so that none is left behind",
            without: "does not list unfinished uploads",
            instead: "Holdfast takes away those that its ledger knows; let a lifecycle rule of the bucket abort the rest",
        },
    ]
}
