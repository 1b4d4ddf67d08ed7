// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Errors with a description of the operation.

use std::{error::Error, fmt, io};

/// An error of the kernel, and the operation.
#[derive(Debug)]
struct Failed {
    attempt: String,
    source: io::Error,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.attempt, self.source)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Returns the error number in an error of this library.
///
/// The errors of this library wrap those of the kernel, so that [`io::Error::raw_os_error`]
/// returns [`None`] for them. Returns [`None`] for errors that are not from the kernel, such as
/// a name that is too long.
pub fn errno(error: &io::Error) -> Option<i32> {
    if let Some(errno) = error.raw_os_error() {
        return Some(errno);
    }
    let mut source = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(inner) = source {
        let os = inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        if os.is_some() {
            return os;
        }
        source = inner.source();
    }
    None
}

/// Adds the attempted operation to an error.
pub(crate) trait Context<T> {
    /// `attempt` completes the sentence "cannot ...".
    fn context(self, attempt: impl FnOnce() -> String) -> io::Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, attempt: impl FnOnce() -> String) -> io::Result<T> {
        self.map_err(|error| {
            let source = error.into();
            let attempt = attempt();
            io::Error::new(source.kind(), Failed { attempt, source })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_is_found_behind_the_context() {
        let error = Err::<(), _>(io::Error::from_raw_os_error(16))
            .context(|| "open the device".into())
            .unwrap_err();
        assert_eq!(errno(&error), Some(16));
        assert!(error.to_string().starts_with("cannot open the device: "));
    }

    #[test]
    fn errno_of_our_own_errors_is_none() {
        assert_eq!(errno(&io::Error::other("no")), None);
    }
}
