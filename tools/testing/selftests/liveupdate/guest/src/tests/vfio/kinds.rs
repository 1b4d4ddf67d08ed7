// SPDX-License-Identifier: GPL-2.0

//! Other memory, other interrupts, and a ring that is too small.

use super::{goes_on, Setup, USUAL};
use crate::support::{
    igb::Ring,
    registry::Suite,
    vfio::{DmaMemory, Irq},
};

/// The device raises interrupts by a line.
pub fn intx_suite() -> Suite {
    let setup = Setup {
        irq: Irq::Intx,
        ..USUAL
    };
    goes_on("vfio_intx", "line_works_again", setup)
}

/// The memory is in huge pages.
pub fn huge_suite() -> Suite {
    let setup = Setup {
        memory: DmaMemory::create_huge,
        ..USUAL
    };
    Suite {
        cmdline: "liveupdate=on hugepages=24",
        ..goes_on("vfio_huge", "memory_of_huge_pages", setup)
    }
}

/// The ring is full before the next kernel has a program: further frames are lost, and counted.
pub fn full_suite() -> Suite {
    let setup = Setup {
        len: 256,
        ring: Ring::Small,
        ..USUAL
    };
    goes_on("vfio_full", "lost_frames_are_counted", setup)
}
