//! The repository on disk: its binary store and the source and sink of its documents.

pub mod documents;
