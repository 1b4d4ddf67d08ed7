// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Names of sessions.

use liveupdate_uapi::LIVEUPDATE_SESSION_NAME_LENGTH;
use serde::{Deserialize, Serialize};
use std::{error::Error, fmt, str::FromStr};

/// Reserved names: systemd preserves the descriptors of its units in one of these sessions, luod
/// its registry in the other.
pub const RESERVED_NAMES: [&str; 2] = ["systemd", "luod-internal"];

/// The name of a session of a client of luod.
///
/// 1 to 63 bytes of printable ASCII, without spaces, `/`, `:`, `"` and `\`, and none of
/// [`RESERVED_NAMES`]. The kernel permits more; these names can be printed, stored and compared
/// without escaping.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

impl SessionName {
    /// The maximum length of a name in bytes.
    pub const MAX: usize = LIVEUPDATE_SESSION_NAME_LENGTH - 1;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// The rule that the name violates.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::MAX {
            return Err(NameError::TooLong);
        }
        let bad = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '"' | '\\');
        if let Some(c) = name.chars().find(|c| bad(*c)) {
            return Err(NameError::Character(c));
        }
        if RESERVED_NAMES.contains(&name.as_str()) {
            return Err(NameError::Reserved(name));
        }
        Ok(Self(name))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The violated rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// It is empty.
    Empty,
    /// It has more than [`SessionName::MAX`] bytes.
    TooLong,
    /// It has an invalid character.
    Character(char),
    /// It is one of [`RESERVED_NAMES`].
    Reserved(String),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the name of a session cannot be empty"),
            Self::TooLong => write!(
                f,
                "the name of a session cannot have more than {} bytes",
                SessionName::MAX
            ),
            Self::Character(c) => {
                write!(f, "the name of a session cannot contain {c:?}")
            }
            Self::Reserved(name) => write!(f, "the session name {name} is reserved"),
        }
    }
}

impl Error for NameError {}

impl TryFrom<String> for SessionName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl FromStr for SessionName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.0
    }
}

impl AsRef<str> for SessionName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for SessionName {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::borrow::Borrow<str> for SessionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        for good in ["a", "vm-1", "cache@host.1", "vm.service_2", &"x".repeat(63)] {
            assert_eq!(SessionName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "a/b", "a b", "a\n", "a\0", "ä", "a:b", "\"", "\\", "\x7f",
        ] {
            assert!(SessionName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SessionName::new("x".repeat(64)), Err(NameError::TooLong));
        for reserved in RESERVED_NAMES {
            assert!(matches!(
                SessionName::new(reserved),
                Err(NameError::Reserved(_))
            ));
        }
    }

    #[test]
    fn json_is_checked() {
        assert!(serde_json::from_str::<SessionName>("\"vm\"").is_ok());
        assert!(serde_json::from_str::<SessionName>("\"systemd\"").is_err());
        assert!(serde_json::from_str::<SessionName>("7").is_err());
    }
}
