//! What runs jobs: the clock, the signals, and the record of every run.

pub mod clock;
pub mod runner;
pub mod signals;
