// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The machines that a kernel is for.

use crate::{Finding, Verdict};
use serde::{Deserialize, Serialize};

/// The machines that a kernel is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "arch", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Machine {
    /// x86-64, whose pages have 4 KiB.
    #[default]
    X86_64,
    /// arm64.
    Arm64 {
        /// The size of the pages of the kernel, in bytes; [`None`] if the image does not tell it.
        page_size: Option<u32>,
    },
}

impl Machine {
    /// The finding about a kernel for these machines on a machine whose architecture
    /// [`std::env::consts::ARCH`] calls `arch`, and whose kernel has pages of `page_size` bytes.
    /// [`None`] if nothing is to be said against it.
    ///
    /// Memory is handed over in units of pages, so that both kernels must have the same.
    ///
    /// ```
    /// use luo_check::{Machine, Verdict};
    ///
    /// let large = Machine::Arm64 { page_size: Some(64 << 10) };
    /// let finding = large.check("aarch64", 4096).unwrap();
    /// assert_eq!(finding.verdict, Verdict::No);
    /// assert!(large.check("aarch64", 64 << 10).is_none());
    /// ```
    pub fn check(self, arch: &str, page_size: usize) -> Option<Finding> {
        let no = |reason: String| Some(Finding::new("image", Verdict::No, reason));
        let (name, this) = match self {
            Self::X86_64 => ("x86-64", "x86_64"),
            Self::Arm64 { .. } => ("arm64", "aarch64"),
        };
        if this != arch {
            return no(format!(
                "the image is for {name}, and this machine is another one"
            ));
        }
        match self {
            Self::X86_64 => None,
            Self::Arm64 { page_size: None } => {
                let reason =
                    "the image does not tell the size of its pages, which must be the same";
                Some(Finding::new("image", Verdict::Unknown, reason))
            }
            Self::Arm64 {
                page_size: Some(size),
            } if usize::try_from(size) != Ok(page_size) => no(format!(
                "the image has pages of {} KiB, and this kernel of {} KiB: memory cannot be handed \
                 over",
                size >> 10,
                page_size >> 10
            )),
            Self::Arm64 { .. } => None,
        }
    }
}
