// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks whether a kernel image supports the formats that a live update would hand over.
//!
//! The formats of the image ([`Image`]) are compared with the formats to be handed over
//! ([`Needs`]): each [`Finding`] has a [`Verdict`] and a reason, and the worst verdict is the
//! verdict on the image. "yes" requires a list of formats in the image: for kernels without a list,
//! strings and the configuration lead to "likely" at most, and so do formats of modules.
//!
//! ```
//! use luo_check::{cmdline, Verdict};
//!
//! let findings = cmdline::check("kho=on liveupdate=on quiet", None);
//! assert!(findings.iter().all(|finding| finding.verdict == Verdict::Yes));
//! ```

pub mod arm64;
pub mod bzimage;
pub mod cmdline;
mod decompress;
mod elf;
mod formats;
mod image;
mod loads;
mod machine;
mod modules;
pub mod record;
pub mod system;
mod verdict;

pub use formats::{Features, Formats};
pub use image::{unpack, Image, ImageError, IMAGE_MAX, KERNEL_MAX};
pub use machine::Machine;
pub use modules::ModuleFormats;
pub use record::Record;
pub use system::{Needs, System};
pub use verdict::{check_formats, worst, Finding, Verdict};

#[cfg(test)]
mod tests;
