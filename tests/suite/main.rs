//! The integration tests: one binary, because linking the AWS SDK takes longer than running them.

#![allow(clippy::unwrap_used, reason = "clippy knows only functions marked as tests; these are what they share")]
#![allow(clippy::print_stderr, reason = "cargo shows it when the test fails or when asked")]

mod access;
mod architecture;
mod backup;
mod beside;
mod binary_store;
mod broken_store;
mod check;
mod closure;
mod command_line;
mod configuration;
mod conformance;
mod copy;
mod crash;
mod demo;
mod directory_store;
mod document_tables;
mod documents;
mod faulty;
mod fcr;
mod fcr_calls;
mod http;
mod http_limits;
mod http_listeners;
mod inspect;
mod lab;
mod ledger;
mod misfortune;
mod mysql;
mod mysql_server;
mod openapi;
mod pending;
mod postgres;
mod postgres_server;
mod restore;
mod restore_table;
mod s3_faults;
mod s3_memory;
mod s3_memory_tests;
mod s3_store;
mod schedule;
mod scheduler;
mod seaweedfs;
mod served;
mod service_lab;
mod service_loop;
mod signals;
mod story;
mod synapse;
mod synapse_walk;
mod systemd;
mod verify;
mod watcher;
mod zip;
