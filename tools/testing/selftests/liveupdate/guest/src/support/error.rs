// SPDX-License-Identifier: GPL-2.0

//! Errors that are printed as sentences.

use std::{fmt, io};

/// The reason of a failure.
#[derive(Debug)]
pub struct Failure {
    message: String,
    skip: bool,
}

pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            skip: false,
        }
    }

    /// For a test that is not applicable on this machine.
    pub fn skip(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            skip: true,
        }
    }

    pub fn is_skip(&self) -> bool {
        self.skip
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<liveupdate::FinishError> for Failure {
    fn from(error: liveupdate::FinishError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<std::num::ParseIntError> for Failure {
    fn from(error: std::num::ParseIntError) -> Self {
        Self::new(error.to_string())
    }
}

/// Adds the location of an error.
pub trait At<T> {
    /// Prepends `place` and a colon to the message.
    fn at(self, place: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Failure>> At<T> for std::result::Result<T, E> {
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let Failure { message, skip } = error.into();
            let message = format!("{place}: {message}");
            Failure { message, skip }
        })
    }
}

impl<T> At<T> for Option<T> {
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Failure::new(place.to_string()))
    }
}

/// Fails with a message unless a condition holds.
macro_rules! ensure {
    ($cond:expr, $($message:tt)+) => {
        if !$cond {
            return Err($crate::support::error::Failure::new(format!($($message)+)));
        }
    };
}

/// Fails unless two values are the same.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($what:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) if found == expected => (),
            (found, expected) => {
                return Err($crate::support::error::Failure::new(format!(
                    "{} is {found:?} instead of {expected:?}",
                    format_args!($($what)+)
                )))
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq};
