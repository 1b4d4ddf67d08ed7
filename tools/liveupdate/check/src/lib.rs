// SPDX-License-Identifier: GPL-2.0

//! Tells whether a kernel image understands what a live update would hand over to it.
//!
//! The image is read ([`Image`]), what is going to be handed over is found out ([`Needs`]), and the
//! two are compared: each [`Finding`] has a [`Verdict`] and a reason, and the worst verdict is that
//! of the whole. There is never a "yes" without a list of formats in the image: for kernels that
//! have none, what can be said from strings and the configuration is at most "likely".
//!
//! ```
//! use luo_check::{cmdline, Verdict};
//!
//! let findings = cmdline::check("kho=on liveupdate=on quiet", None);
//! assert!(findings.iter().all(|finding| finding.verdict == Verdict::Yes));
//! ```

pub mod bzimage;
pub mod cmdline;
mod decompress;
mod elf;
mod formats;
mod image;
mod loads;
pub mod record;
pub mod system;
mod verdict;

pub use formats::{Features, Formats};
pub use image::{Image, ImageError, IMAGE_MAX, KERNEL_MAX};
pub use record::Record;
pub use system::{Needs, System};
pub use verdict::{check_formats, worst, Finding, Verdict};

#[cfg(test)]
mod tests;
