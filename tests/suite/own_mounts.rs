//! Tests that need file systems of their own: small ones, or several.

use std::path::Path;
use std::process::Command;

/// Whether this is the child of [`in_own_mounts`].
const OWN_MOUNTS: &str = "HOLDFAST_TEST_OWN_MOUNTS";

/// Runs a test once more, as a child that may mount what it likes; true in the child.
pub(crate) fn in_own_mounts(test: &str) -> bool {
    if std::env::var_os(OWN_MOUNTS).is_some() {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a file system of its own needs root and unshare");
        return false;
    }
    let mut child = unshare();
    child.arg(std::env::current_exe().unwrap()).args(["--exact", "--nocapture", test]);
    let output = child.env(OWN_MOUNTS, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// Mounts something at a directory.
pub(crate) fn mount(arguments: &[&str], at: &Path) {
    assert!(Command::new("mount").args(arguments).arg(at).status().unwrap().success());
}

/// Mounts an empty file system of this size at a directory, which is made.
pub(crate) fn mount_memory(size: &str, at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"], at);
}
