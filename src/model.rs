//! The values Holdfast speaks of, and pure functions over them: no input or output, no clock.

pub mod account;
pub mod address;
pub mod archive;
pub mod bandwidth;
pub mod branch;
pub mod bson;
pub mod cron;
pub mod database;
pub mod digest;
pub mod document;
pub mod fedora;
pub mod key;
pub mod layout;
pub mod password;
pub mod point;
pub mod readable;
pub mod references;
pub mod run;
pub mod schedule;
pub mod shard;
pub mod slots;
pub mod strict;
pub mod url;
