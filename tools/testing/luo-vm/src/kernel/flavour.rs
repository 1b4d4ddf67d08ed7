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

    /// Configuration fragments; later ones have priority. All have the options of Debian: one
    /// kernel serves all tests, and the others share what the compiler cache has of it.
    pub fn fragments(self) -> &'static [&'static str] {
        match self {
            Flavour::Ours => &["base", "debian", "rust"],
            Flavour::Bench => &["base", "debian", "bench"],
            Flavour::Debug => &["base", "debian", "rust", "debug"],
            Flavour::Kasan => &["base", "debian", "rust", "debug", "kasan"],
            Flavour::Peer | Flavour::Peer72 => &["base", "debian"],
        }
    }

    /// The number of steps of a full build on x86, for the progress of the first build: counted for
    /// `ours`, and estimated for the others from the differences of their configurations.
    pub fn usual_steps(self) -> usize {
        match self {
            Flavour::Ours => 2350,
            Flavour::Bench => 2310,
            Flavour::Debug | Flavour::Kasan => 2380,
            Flavour::Peer | Flavour::Peer72 => 2300,
        }
    }
}
