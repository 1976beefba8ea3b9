//! Holdfast backs up, copies and restores content-addressed repositories.
//!
//! The modules in reading order; each uses only the ones before it (`docs/architecture.md`).

pub mod model;

pub mod ledger;
pub mod repository;
pub mod store;

pub mod jobs;

pub mod service;

pub mod config;

pub mod cli;
