//! The repository on disk: its binary store, and where its documents come from.

pub mod backup_directory;
pub mod binaries;
pub mod branches;
pub mod documents;
pub mod walk;
