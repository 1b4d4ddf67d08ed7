// SPDX-License-Identifier: GPL-2.0

//! Memory of which only parts are mapped for the device.

use super::{
    after, before_with, bind, start, suite, variants, Setup, DEVICE, ELSEWHERE, MEMORY, USUAL,
};
use crate::support::{
    error::{ensure, At},
    igb::ID,
    memfd,
    pci::{self, PciDevice},
    registry::{Case, Suite},
    sessions::retrieve,
    vfio::{DmaMemory, Ioas, VfioDevice, HUGE_PAGE, PAGE},
};
use std::{fs::File, ops::Range, os::fd::AsFd};

/// A page of the memory.
const LEFT_OUT: Range<u64> = 5 * PAGE as u64..6 * PAGE as u64;

/// The program of the next kernel maps all of the memory except one page: the device is silenced when
/// the session is finished, since nothing would pin this page.
pub fn left_out_suite() -> Suite {
    let case = Case::two(
        "page_is_left_out",
        |stage| before_with(stage, start(USUAL)?, "vfio", USUAL),
        |_| {
            bind()?;
            let session = retrieve("vfio")?;
            let ioas = Ioas::new()?;
            let device = VfioDevice::retrieved(session.retrieve(DEVICE)?, &ioas)?;
            let memory = File::from(session.retrieve(MEMORY)?);
            for area in [0..LEFT_OUT.start, LEFT_OUT.end..memfd::len(&memory)?] {
                ioas.map(&memory, area.clone(), ELSEWHERE + area.start)?;
            }
            let is_master = || PciDevice::find(ID)?.is_master();
            ensure!(is_master()?, "the device was stopped");
            pci::mark(pci::AFTER)?;
            session.finish()?;
            ensure!(!is_master()?, "the device was not silenced");
            drop(device);
            variants::open_again()
        },
    );
    suite("vfio_left_out", case)
}

/// The size of the rest of the memory, of which only the first page is mapped at the kexec.
const REST: u64 = HUGE_PAGE as u64;

/// The memfd of `len` bytes without the rest, as two areas that meet at `middle`.
fn halves(len: u64, middle: u64) -> [Range<u64>; 2] {
    [0..middle, middle..len - REST]
}

/// The device reaches a part of a memfd. In both kernels, this is mapped as two areas, which are not
/// the same ones: the device keeps working. The rest of the memfd is unmapped after the file was
/// preserved, and one page of it is mapped again.
pub fn areas_suite() -> Suite {
    let setup = Setup {
        memory: |len| DmaMemory::create(len + HUGE_PAGE),
        areas: |len| {
            let [first, second] = halves(len, LEFT_OUT.start);
            vec![second, first]
        },
        ..USUAL
    };
    let setup_after = Setup {
        areas: |len| {
            let [first, second] = halves(len, LEFT_OUT.end);
            let rest = second.end;
            vec![first, second, rest..rest + PAGE as u64]
        },
        ..setup
    };
    let case = Case::two(
        "part_is_mapped_in_other_areas",
        move |stage| {
            let (ioas, link) = start(setup)?;
            let memory = link.igb.memory();
            let rest = (memory.pages().len() * PAGE) as u64;
            ioas.map(memory, rest..rest + REST, ELSEWHERE)?;
            let same = ioas.try_clone()?;
            let memory = memory.as_fd().try_clone_to_owned().at("duplicate")?;
            before_with(stage, (ioas, link), "vfio", setup)?;
            same.unmap(ELSEWHERE, REST)?;
            same.map(&memory, rest..rest + PAGE as u64, ELSEWHERE)
        },
        move |stage| after(stage, "vfio", setup_after),
    );
    suite("vfio_areas", case)
}
