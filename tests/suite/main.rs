//! The integration tests: one binary, because linking the AWS SDK takes longer than running them.

mod zip;
