//! What the service manager is told, over the socket that it names; without one, nobody.

use std::time::Duration;

use sd_notify::NotifyState;

use super::dispatcher::Manager;
use super::journal::{Level, say};

/// How often the loop goes round where no watchdog wants it oftener: the words about what it does stay fresh.
const BEAT: Duration = Duration::from_secs(30);

/// The service manager.
#[derive(Clone, Copy, Debug, Default)]
pub struct Systemd;

impl Systemd {
    /// How often [`Manager::beat`] must be called: three times in the watchdog's time.
    pub fn beat_every(self) -> Duration {
        sd_notify::watchdog_enabled().map_or(BEAT, |limit| (limit / 3).min(BEAT))
    }

    /// The service is up.
    pub fn ready(self) {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again, until [`Systemd::ready`]; with the time, as `Type=notify-reload` wants it.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => say(Level::Warning, format_args!("read the monotonic clock: {error}")),
        }
    }

    /// The service is about to end.
    pub fn stopping(self) {
        tell(&[NotifyState::Stopping]);
    }
}

impl Manager for Systemd {
    fn beat(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    fn status(&self, words: &str) {
        tell(&[NotifyState::Status(words)]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        say(Level::Warning, format_args!("tell the service manager: {error}"));
    }
}
