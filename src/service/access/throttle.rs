//! How those are slowed down who guess passwords: values only.
//!
//! Failures are counted by where they come from and by whom they are about. Whoever has some of their own waits for
//! longer and longer; how often others failed makes that begin sooner, and never makes somebody wait who has not failed.
//! So an administrator can be kept from logging in by nobody who is somewhere else. A try counts when it begins: a
//! hundred at once are a hundred.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::account::same_email;
use crate::model::digest::{Algorithm, Digest};
use crate::service::http::Peer;

/// How many tries one has before waiting.
const FREE: u32 = 5;
/// How many failures about one address there are, from anywhere, before each has only one try of their own.
const FREE_OF_EMAIL: u32 = 20;
/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// After this long without another, failures are forgotten.
const FORGET_AFTER: Duration = Duration::from_mins(15);
/// How many are remembered of either kind; those who failed longest ago are forgotten first.
const REMEMBERED: usize = 4096;

/// Where a try comes from: a network of IPv6 is one place, as whoever has one address there has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Machine,
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<Peer> for Place {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Control | Peer::Socket => Self::Machine,
            Peer::Address(address) => match address.to_canonical() {
                IpAddr::V4(address) => Self::V4(address.octets()),
                IpAddr::V6(address) => {
                    let mut network = [0; 8];
                    network.copy_from_slice(&address.octets()[..8]);
                    Self::V6(network)
                }
            },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

/// A try that is under way, and counts as failed until it is forgiven.
#[derive(Debug)]
pub(super) struct Attempt {
    place: Place,
    email: Digest,
}

/// What is remembered of failures.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    places: HashMap<Place, Failures>,
    /// By digest: what somebody sends as an address may be long, and is often a password.
    emails: HashMap<Digest, Failures>,
}

impl Throttle {
    /// Lets a try begin, or says how long to wait with it.
    pub(super) fn begin(&mut self, from: Peer, email: &str, now: Instant) -> Result<Attempt, Duration> {
        let place = Place::from(from);
        let email = Digest::of(Algorithm::Sha256, same_email(email).as_bytes());
        let about_email = recent(&self.emails, &email, now).map_or(0, |failures| failures.count);
        if let Some(own) = recent(&self.places, &place, now) {
            let free = if about_email >= FREE_OF_EMAIL { 1 } else { FREE };
            let waited = now.saturating_duration_since(own.last);
            let wait = wait(own.count, free).saturating_sub(waited);
            if !wait.is_zero() {
                return Err(wait);
            }
        }
        count(&mut self.places, place, now);
        count(&mut self.emails, email, now);
        Ok(Attempt { place, email })
    }

    /// It was no try after all: nobody looked at the password.
    pub(super) fn retract(&mut self, attempt: &Attempt) {
        let counts = [self.places.get_mut(&attempt.place), self.emails.get_mut(&attempt.email)];
        for failures in counts.into_iter().flatten() {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    /// It did not fail: what failed before it was slips of the fingers.
    pub(super) fn forgive(&mut self, attempt: &Attempt) {
        self.places.remove(&attempt.place);
        self.emails.remove(&attempt.email);
    }
}

/// How long after the last of so many failures the next try may be.
fn wait(failures: u32, free: u32) -> Duration {
    match failures.checked_sub(free) {
        Some(more) => FIRST_WAIT.saturating_mul(1 << more.min(16)).min(LONGEST_WAIT),
        None => Duration::ZERO,
    }
}

fn recent<K: Eq + Hash>(of: &HashMap<K, Failures>, key: &K, now: Instant) -> Option<Failures> {
    of.get(key).copied().filter(|failures| now.saturating_duration_since(failures.last) < FORGET_AFTER)
}

fn count<K: Eq + Hash + Copy>(of: &mut HashMap<K, Failures>, key: K, now: Instant) {
    if of.len() >= REMEMBERED && !of.contains_key(&key) {
        of.retain(|_, failures| now.saturating_duration_since(failures.last) < FORGET_AFTER);
        // A quarter at once, so that the next ones need not look.
        if of.len() >= REMEMBERED {
            let mut times: Vec<Instant> = of.values().map(|failures| failures.last).collect();
            times.sort_unstable();
            let until = times[REMEMBERED / 4];
            of.retain(|_, failures| failures.last > until);
        }
    }
    let before = recent(of, &key, now).map_or(0, |failures| failures.count);
    of.insert(key, Failures { count: before.saturating_add(1), last: now });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Address(text.parse().unwrap())
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_grow_to_a_longest_and_failures_are_forgotten() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..5 {
            assert!(throttle.begin(peer("10.0.0.1"), "a@b", start).is_ok());
        }
        let mut now = start;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(throttle.begin(peer("10.0.0.1"), "c@d", now).unwrap_err(), secs(wait));
            now = after(now, wait);
            assert!(throttle.begin(peer("10.0.0.1"), "a@b", now).is_ok());
        }
        let later = now + FORGET_AFTER;
        for _ in 0..5 {
            assert!(throttle.begin(peer("10.0.0.1"), "a@b", later).is_ok());
        }
        assert!(throttle.begin(peer("10.0.0.1"), "a@b", later).is_err());
    }

    #[test]
    fn nobody_is_kept_out_by_what_others_do_elsewhere() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for number in 0..200 {
            throttle.begin(peer(&format!("10.0.1.{number}")), "a@b", start).unwrap();
        }
        // One try each is left to guess with, and the next one after a wait.
        assert_eq!(throttle.begin(peer("10.0.1.7"), "a@b", start).unwrap_err(), secs(1));
        // Who has not failed is let in at once, and after a slip waits no longer than anyone.
        assert!(throttle.begin(peer("10.9.9.9"), "a@b", start).is_ok());
        let slipped = throttle.begin(peer("10.9.9.9"), "a@b", start).unwrap_err();
        assert_eq!(slipped, secs(1));
        let attempt = throttle.begin(peer("10.9.9.9"), "a@b", after(start, 1)).unwrap();
        throttle.forgive(&attempt);
        assert!(throttle.begin(peer("10.9.9.9"), "a@b", after(start, 1)).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_place_and_so_are_both_spellings_of_ipv4() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for number in 0..5 {
            throttle.begin(peer(&format!("2001:db8::{number}")), "a@b", start).unwrap();
        }
        assert!(throttle.begin(peer("2001:db8::ffff:1"), "a@b", start).is_err());
        assert!(throttle.begin(peer("2001:db8:0:1::1"), "a@b", start).is_ok());
        for _ in 0..5 {
            throttle.begin(peer("10.0.0.1"), "c@d", start).unwrap();
        }
        assert!(throttle.begin(peer("::ffff:10.0.0.1"), "c@d", start).is_err());
    }

    #[test]
    fn what_nobody_looked_at_counts_for_nothing_and_makes_up_for_nothing() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..4 {
            throttle.begin(peer("10.0.0.1"), "a@b", start).unwrap();
        }
        for _ in 0..9 {
            let attempt = throttle.begin(peer("10.0.0.1"), "a@b", start).unwrap();
            throttle.retract(&attempt);
        }
        assert!(throttle.begin(peer("10.0.0.1"), "a@b", start).is_ok());
        assert!(throttle.begin(peer("10.0.0.1"), "a@b", start).is_err());
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for number in 0..20_000_u32 {
            let address = IpAddr::from(number.to_be_bytes());
            let now = start + Duration::from_millis(u64::from(number));
            throttle.begin(Peer::Address(address), &format!("{number}@b"), now).unwrap();
        }
        assert!(throttle.places.len() <= REMEMBERED && throttle.emails.len() <= REMEMBERED);
        assert!(throttle.emails.len() > REMEMBERED / 2);
    }
}
