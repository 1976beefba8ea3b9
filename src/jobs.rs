//! The use cases: copy, backup, export, restore, verify. Each plans first and acts second.

pub mod backup;
pub mod buffers;
pub mod catalogue;
pub mod closure;
pub mod context;
pub mod copy;
pub mod cursor;
pub mod download;
pub mod export;
pub mod inspect;
pub mod learn;
pub mod list;
pub mod reading;
pub mod restore;
pub mod send;
pub mod sidecars;
pub mod source;
pub mod upload;
pub mod verify;
pub mod zip;
