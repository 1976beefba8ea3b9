//! The use cases: copy, backup, restore, verify. Each plans first and acts second.

pub mod zip;
