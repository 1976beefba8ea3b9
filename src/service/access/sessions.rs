//! Who is logged in, in memory: values only. The ledger has the same, so that it outlasts a restart.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::ledger::Session;
use crate::model::account::same_email;
use crate::model::digest::Digest;

/// How many sessions an administrator may have; one more ends the one that would have ended first.
const OF_ONE: usize = 20;
/// How many there may be of all.
const OF_ALL: usize = 1000;
/// How far a clock may be set back before sessions end for it: they would last longer than was meant.
const SET_BACK: SignedDuration = SignedDuration::from_hours(1);

/// Who is logged in.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    live: HashMap<Digest, Session>,
    /// Sessions that are over and are still in the ledger.
    on_record: Vec<Digest>,
}

impl Sessions {
    /// With those that the ledger has.
    pub(super) fn new(recorded: Vec<Session>) -> Self {
        let live = recorded.into_iter().map(|session| (session.token, session)).collect();
        Self { live, on_record: Vec::new() }
    }

    /// Adds one; gives those that are over and must be taken off the record.
    pub(super) fn begin(&mut self, session: &Session, now: Timestamp) -> Vec<Digest> {
        let mut ended = std::mem::take(&mut self.on_record);
        ended.extend(self.live.values().filter(|live| live.expires <= now).map(|live| live.token));
        let email = same_email(&session.email);
        self.live.insert(session.token, session.clone());
        self.live.retain(|token, _| !ended.contains(token));
        let own = |live: &&Session| same_email(&live.email) == email;
        while self.live.values().filter(own).count() > OF_ONE {
            ended.extend(self.first(session, own));
        }
        while self.live.len() > OF_ALL {
            ended.extend(self.first(session, |_| true));
        }
        ended
    }

    /// Takes away the one that would end first of some, and is not `new`.
    fn first(&mut self, new: &Session, of: impl Fn(&&Session) -> bool) -> Option<Digest> {
        let others = self.live.values().filter(|live| live.token != new.token).filter(of);
        let first = others.min_by_key(|live| live.expires)?.token;
        self.live.remove(&first);
        Some(first)
    }

    /// The session of a token, if it is not over; none lasts longer than `longest`, whatever was set when it began.
    pub(super) fn get(&self, token: &Digest, now: Timestamp, longest: Duration) -> Option<Session> {
        let left = self.live.get(token)?.expires.duration_since(now);
        let longest = SignedDuration::try_from(longest).unwrap_or(SignedDuration::MAX).saturating_add(SET_BACK);
        (left > SignedDuration::ZERO && left <= longest).then(|| self.live[token].clone())
    }

    /// Ends one; gives those that must be taken off the record.
    pub(super) fn end(&mut self, token: &Digest) -> Vec<Digest> {
        let mut ended = std::mem::take(&mut self.on_record);
        ended.extend(self.live.remove(token).map(|session| session.token));
        ended
    }

    /// These could not be taken off the record.
    pub(super) fn still_on_record(&mut self, tokens: Vec<Digest>) {
        self.on_record.extend(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const LASTS: Duration = Duration::from_hours(12);

    fn at(minutes: i64) -> Timestamp {
        NOW + SignedDuration::from_mins(minutes)
    }

    fn session(number: u16, email: &str, expires: Timestamp) -> Session {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        let token = Digest::Sha256(bytes);
        Session { token, email: email.to_owned(), proof: token, expires }
    }

    #[test]
    fn a_session_counts_until_its_end_and_no_longer_than_is_set_now() {
        let mut sessions = Sessions::default();
        let one = session(1, "a@b", at(12 * 60));
        assert_eq!(sessions.begin(&one, NOW), []);
        assert_eq!(sessions.get(&one.token, at(719), LASTS), Some(one.clone()));
        assert_eq!(sessions.get(&one.token, at(720), LASTS), None);
        // Set back by a little, and by a day.
        assert_eq!(sessions.get(&one.token, at(-30), LASTS), Some(one.clone()));
        assert_eq!(sessions.get(&one.token, at(-24 * 60), LASTS), None);
        // A shorter setting ends sessions of a longer one.
        assert_eq!(sessions.get(&one.token, NOW, Duration::from_mins(5)), None);
        assert_eq!(sessions.end(&one.token), [one.token]);
        assert_eq!(sessions.get(&one.token, NOW, LASTS), None);
        assert_eq!(sessions.end(&one.token), []);
    }

    #[test]
    fn there_is_a_bound_for_one_and_for_all_and_the_new_one_is_always_in() {
        let mut sessions = Sessions::default();
        for number in 0..20 {
            assert_eq!(sessions.begin(&session(number, "a@b", at(i64::from(number) + 10)), NOW), []);
        }
        // It would end before all others, and is the one that was just asked for.
        let new = session(99, "A@b", at(1));
        assert_eq!(sessions.begin(&new, NOW), [session(0, "a@b", NOW).token]);
        assert!(sessions.get(&new.token, NOW, LASTS).is_some());
        let all: Vec<Session> =
            (100..1200).map(|number| session(number, &format!("{number}@b"), at(i64::from(number)))).collect();
        let ended: usize = all.iter().map(|session| sessions.begin(session, NOW).len()).sum();
        assert_eq!((ended, sessions.live.len()), (120, 1000));
    }

    #[test]
    fn what_could_not_be_taken_off_the_record_is_tried_again() {
        let mut sessions = Sessions::new(vec![session(1, "a@b", at(1)), session(2, "a@b", at(9))]);
        let ended = sessions.end(&session(1, "", NOW).token);
        sessions.still_on_record(ended.clone());
        assert_eq!(sessions.begin(&session(3, "a@b", at(9)), at(5)), ended);
    }
}
