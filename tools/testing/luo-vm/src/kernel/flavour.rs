// SPDX-License-Identifier: GPL-2.0

//! The kernels that can be built, and their configuration fragments.

use clap::ValueEnum;

use crate::kernel::source::Series;

/// A kernel that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Flavour {
    /// The Rust LUO.
    Ours,
    /// The Rust LUO, with the same options as the unchanged base.
    Bench,
    /// The Rust LUO with debugging options.
    Debug,
    /// The same with KASAN and kmemleak.
    Kasan,
    /// The Rust LUO in a kernel with Debian's configuration for virtual machines in a cloud, and with
    /// those of its modules that the tests load.
    Cloud,
    /// The same with all modules.
    CloudFull,
    /// The unchanged base, with the LUO in C.
    Peer,
    /// An older kernel, with the LUO in C.
    Peer72,
}

/// The number of flavours.
pub const FLAVOURS: usize = Flavour::Peer72 as usize + 1;

impl Flavour {
    pub fn name(self) -> &'static str {
        match self {
            Flavour::Ours => "ours",
            Flavour::Bench => "bench",
            Flavour::Debug => "debug",
            Flavour::Kasan => "kasan",
            Flavour::Cloud => "cloud",
            Flavour::CloudFull => "cloud-full",
            Flavour::Peer => "peer",
            Flavour::Peer72 => "peer72",
        }
    }

    pub fn series(self) -> Series {
        match self {
            Flavour::Peer72 => Series::V7_2,
            _ => Series::V7_3,
        }
    }

    /// Returns whether it has the LUO in Rust.
    pub fn is_ours(self) -> bool {
        !matches!(self, Flavour::Peer | Flavour::Peer72)
    }

    /// The configuration of Debian that the fragments are added to, instead of the smallest one that
    /// there is: its name in the package linux-config.
    pub fn debian(self) -> Option<&'static str> {
        matches!(self, Flavour::Cloud | Flavour::CloudFull).then_some("amd64_none_cloud-amd64")
    }

    /// The file in `configs` that lists the modules, if not all of Debian's are built.
    pub fn modules(self) -> Option<&'static str> {
        (self == Flavour::Cloud).then_some("cloud.modules")
    }

    /// Configuration fragments; later ones have priority. All but one have what Debian needs: one
    /// kernel serves all tests, and the others share what the compiler cache has of it.
    pub fn fragments(self) -> &'static [&'static str] {
        match self {
            Flavour::Ours => &["base", "debian", "rust"],
            Flavour::Bench => &["base", "debian", "bench"],
            Flavour::Debug => &["base", "debian", "rust", "debug"],
            Flavour::Kasan => &["base", "debian", "rust", "debug", "kasan"],
            Flavour::Cloud | Flavour::CloudFull => &["cloud"],
            Flavour::Peer | Flavour::Peer72 => &["base", "debian"],
        }
    }

    /// The number of steps of a full build on x86, for the progress of the first build: counted for
    /// `ours` and `cloud`, and estimated for the others from the differences of their configurations.
    pub fn usual_steps(self) -> usize {
        match self {
            Flavour::Ours => 2990,
            Flavour::Bench => 2950,
            Flavour::Debug | Flavour::Kasan => 3020,
            Flavour::Cloud => 3740,
            Flavour::CloudFull => 9000,
            Flavour::Peer | Flavour::Peer72 => 2940,
        }
    }
}
