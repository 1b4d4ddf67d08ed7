// SPDX-License-Identifier: GPL-2.0

//! Work that several threads need and one thread does.

use std::sync::OnceLock;

use anyhow::{Error, Result};

/// The result of work that the first thread does; other threads wait for it.
pub struct Once<T>(OnceLock<Result<T, String>>);

impl<T: Clone> Once<T> {
    /// Work that has not been done yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The result of `work`, or the result of an earlier call.
    pub fn get(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = self.0.get_or_init(|| work().map_err(|e| format!("{e:#}")));
        result.clone().map_err(Error::msg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn work_is_done_once() {
        let once = Once::new();
        assert_eq!(once.get(|| Ok(1)).unwrap(), 1);
        assert_eq!(once.get(|| Ok(2)).unwrap(), 1);
    }

    #[test]
    fn a_failure_stays() {
        let once: Once<u32> = Once::new();
        assert!(once.get(|| bail!("first")).is_err());
        let error = once.get(|| Ok(2)).unwrap_err();
        assert_eq!(error.to_string(), "first");
    }
}
