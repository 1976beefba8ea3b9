//! What is kept of a password: never itself, but a hash of it that takes time and memory to make (argon2id).

use std::fmt;
use std::str::FromStr;

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{ARGON2ID_IDENT, Argon2, Params, PasswordHash as Phc};

use crate::model::digest::{Algorithm, Digest};

/// The shortest password, in characters.
pub const MIN_PASSWORD: usize = 8;
/// The longest password, in bytes.
pub const MAX_PASSWORD: usize = 1024;
/// The bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// No hash may take more memory to check, in KiB: whoever logs in would have the service use it up.
const MAX_MEMORY_KIB: u32 = 64 << 10;
/// No hash may take more passes or lanes.
const MAX_PASSES: u32 = 16;

/// The hash of a password, as a PHC string: `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Phc);

/// The text is not the hash of a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the hash of a password as `holdfast passwd` writes it: {0}")]
pub struct InvalidHash(String);

/// A password that cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitPassword {
    /// It is too short.
    #[error("the password is shorter than {MIN_PASSWORD} characters")]
    Short,
    /// It is too long.
    #[error("the password is longer than {MAX_PASSWORD} bytes")]
    Long,
    /// It has characters in it that cannot be typed everywhere.
    #[error("there is a control character in the password")]
    Control,
}

/// Refuses a password that is too short, too long, or not one line.
pub fn check_password(password: &str) -> Result<(), UnfitPassword> {
    if password.chars().any(char::is_control) {
        return Err(UnfitPassword::Control);
    }
    if password.chars().count() < MIN_PASSWORD {
        return Err(UnfitPassword::Short);
    }
    if password.len() > MAX_PASSWORD { Err(UnfitPassword::Long) } else { Ok(()) }
}

impl PasswordHash {
    /// The hash of `password` with this salt, which is random and used once. Takes some hundredths of a second and
    /// 19 MiB: what OWASP recommends, and the default of the library.
    pub fn of(password: &str, salt: [u8; SALT_BYTES]) -> Self {
        Self::with(&Argon2::default(), password, salt)
    }

    fn with(argon2: &Argon2<'_>, password: &str, salt: [u8; SALT_BYTES]) -> Self {
        let hash = argon2.hash_password_with_salt(password.as_bytes(), &salt);
        Self(hash.expect("any password has a hash with a salt of this length"))
    }

    /// Whether that is the password; takes as long as making the hash.
    pub fn is_of(&self, password: &str) -> bool {
        Argon2::default().verify_password(password.as_bytes(), &self.0).is_ok()
    }

    /// What tells this hash from every other, and gives nothing of it away.
    pub fn proof(&self) -> Digest {
        Digest::of(Algorithm::Sha256, self.to_string().as_bytes())
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whoever debugs needs to know that there is one.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

impl FromStr for PasswordHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let refuse = |cause: &str| Err(InvalidHash(cause.to_owned()));
        let Ok(hash) = Phc::new(text) else {
            return refuse("it does not read $argon2id$v=19$m=…,t=…,p=…$SALT$HASH");
        };
        if hash.algorithm != ARGON2ID_IDENT {
            return refuse("it is not made with argon2id");
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return refuse("the salt or the hash is missing");
        }
        let Ok(params) = Params::try_from(&hash) else { return refuse("its parameters are not those of argon2id") };
        if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES || params.p_cost() > MAX_PASSES {
            return refuse("it takes more than 64 MiB, 16 passes or 16 lanes to check");
        }
        Ok(Self(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw";

    fn cheap(password: &str) -> PasswordHash {
        let params = Params::new(8, 1, 1, None).unwrap();
        PasswordHash::with(&Argon2::from(params), password, [7; SALT_BYTES])
    }

    #[test]
    fn a_hash_is_of_its_password_alone_also_when_it_was_written_down() {
        let hash: PasswordHash = cheap("correct horse").to_string().parse().unwrap();
        assert_eq!(
            hash.to_string(),
            "$argon2id$v=19$m=8,t=1,p=1$BwcHBwcHBwcHBwcHBwcHBw$d8cWXRYs+kQt2VnROXEXkPhMCRQBCA3xuMvbGFXM8R4"
        );
        assert!(hash.is_of("correct horse"));
        assert!(!hash.is_of("correct horse "));
        assert!(!hash.is_of(""));
        assert_eq!(format!("{hash:?}"), "PasswordHash(…)");
    }

    #[test]
    fn the_proof_changes_with_the_salt() {
        let other = PasswordHash::with(&Argon2::from(Params::new(8, 1, 1, None).unwrap()), "one", [8; SALT_BYTES]);
        assert_eq!(cheap("one").proof(), cheap("one").proof());
        assert_ne!(cheap("one").proof(), other.proof());
    }

    #[test]
    fn what_is_no_argon2id_or_costs_too_much_is_refused() {
        assert!(KNOWN.parse::<PasswordHash>().is_ok());
        for text in [
            "",
            "secret",
            "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
            "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw",
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=9999999,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw",
            "$argon2id$v=19$m=64,t=99,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw",
            "$argon2id$v=19$m=4,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw",
        ] {
            assert!(text.parse::<PasswordHash>().is_err(), "{text}");
        }
    }

    #[test]
    fn passwords_have_a_shortest_and_a_longest_length() {
        assert_eq!(check_password("1234567"), Err(UnfitPassword::Short));
        assert_eq!(check_password("äöüäöüäö"), Ok(()));
        assert_eq!(check_password(&"x".repeat(1025)), Err(UnfitPassword::Long));
        assert_eq!(check_password("two\nlines"), Err(UnfitPassword::Control));
    }
}
