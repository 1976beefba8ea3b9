//! The integration tests: one binary, because linking the AWS SDK takes longer than running them.

mod command_line;
mod configuration;
mod documents;
mod s3_memory;
mod s3_memory_tests;
