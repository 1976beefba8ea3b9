//! What runs jobs: the clock, the signals, the record of every run, and the daemon around them.

pub mod access;
pub mod bandwidth;
pub mod clock;
pub mod control;
pub mod daemon;
mod dispatcher;
pub mod docket;
pub mod http;
pub mod journal;
pub mod live;
pub mod parts;
pub mod privileges;
pub mod reload;
pub mod request;
pub mod runner;
pub mod scheduler;
pub mod signals;
pub mod site;
mod socket;
pub mod status;
pub mod systemd;
mod timetable;
pub mod watcher;
mod words;

pub use dispatcher::Manager;
