// SPDX-License-Identifier: GPL-2.0

//! Faults of QEMU itself, which end it and say nothing about the kernel in the machine.

use std::fmt;

use anyhow::Error;

/// Parts of the messages with which QEMU ends.
///
/// `iotlb_to_section`: a processor looks up a device in a map of the physical address space that
/// another processor has just replaced, for example by the assignment of a BAR. Seen once in QEMU
/// 10.0, on a busy host; later versions of QEMU do not have this lookup.
const KNOWN: [&str; 1] = ["iotlb_to_section: Assertion"];

/// The message of a QEMU that has ended by a known fault of its own.
#[derive(Debug)]
pub struct KnownFault(String);

impl KnownFault {
    /// Recognizes the fault in what QEMU `said` to its standard error.
    pub fn of(said: &str) -> Option<Self> {
        let known = KNOWN.iter().any(|part| said.contains(part));
        known.then(|| Self(said.to_owned()))
    }

    /// Returns the fault that is the cause of `error`.
    pub fn in_error(error: &Error) -> Option<&Self> {
        error.downcast_ref()
    }
}

impl fmt::Display for KnownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU ended by a known fault of its own: {}", self.0)
    }
}

impl std::error::Error for KnownFault {}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn only_known_faults_are_recognized() {
        let said = "qemu: physmem.c:1: iotlb_to_section: Assertion `a < b' failed.";
        let error = Error::from(KnownFault::of(said).unwrap()).context("vm x");
        assert!(KnownFault::in_error(&error).is_some());
        assert!(KnownFault::of("qemu: another: Assertion `a < b' failed.").is_none());
        assert!(KnownFault::in_error(&anyhow!("{said}")).is_none());
    }
}
