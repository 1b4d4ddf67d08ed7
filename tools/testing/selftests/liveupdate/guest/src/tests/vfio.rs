// SPDX-License-Identifier: GPL-2.0

//! A PCI device that user space drives through VFIO, and that goes on working through a live update:
//! QEMU's network card `igb`, which receives numbered frames all the time.
//!
//! The driver of the machine sends them. It repeats a run in which the ring was full, and checks what
//! was written to the configuration space between two marks.

pub mod variants;

use crate::support::{
    error::{ensure, ensure_eq, Result},
    igb::{Igb, Link, ID},
    pci::{self, PciDevice},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    vfio::{self, DmaMemory, Ioas, VfioDevice},
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    mem,
};

/// The group of these suites, which need a machine with the network card.
pub const GROUP: &str = "vfio";

/// A ring that is emptied all the time.
const SHORT: usize = 4096;

/// A ring that is not emptied while the kernel is replaced.
const LONG: usize = 32768;

/// The tokens of the files.
const MEMORY: u64 = 1;
const DEVICE: u64 = 2;

/// The marks between which nothing disturbs the device: see [`pci::mark`].
const BEFORE: u8 = 0xb1;
const AFTER: u8 = 0xb2;

/// Binds the device to its driver.
fn bind() -> Result<PciDevice> {
    // The ring needs memory without gaps: huge pages, if the kernel has them.
    let _ = fs::write(
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always",
    );
    vfio::load_modules()?;
    let device = PciDevice::find(ID)?;
    device.bind("vfio-pci")?;
    Ok(device)
}

/// Starts the device with a ring of `len` descriptors; then the sender starts.
///
/// The address space must exist as long as the device works.
fn start(len: usize) -> Result<(Ioas, Link)> {
    let cdev = bind()?.vfio_cdev()?;
    let ioas = Ioas::new()?;
    let device = VfioDevice::open(&cdev, &ioas)?;
    let memory = DmaMemory::new(DmaMemory::create(Igb::memory_size(len))?, &ioas)?;
    let link = Link(Igb::start(device, memory, len)?);
    link.send(1)?;
    Ok((ioas, link))
}

fn suite(name: &'static str, case: Case) -> Suite {
    Suite {
        group: GROUP,
        // With parameters, it is not among those that run if none is named.
        cmdline: "liveupdate=on",
        ..Suite::new(name, vec![case])
    }
}

/// Frames are received, sent and raise interrupts, without a live update.
pub fn plain_suite() -> Suite {
    let case = Case::one("frames_come_in_order", |_| {
        let (_ioas, link) = start(SHORT)?;
        link.receive(2000)?;
        link.send(100)?;
        link.receive_answer()?;
        link.interrupts()?;
        link.0.stop()
    });
    suite("igb_plain", case)
}

/// A number that tells lists of physical addresses apart.
fn digest(pages: &[u64]) -> u64 {
    let mut hash = Sha256::new();
    for page in pages {
        hash.update(page.to_le_bytes());
    }
    let bytes = hash.finalize();
    u64::from_le_bytes(bytes.first_chunk().copied().unwrap_or_default())
}

/// Preserves the memory and the file of a device, which works on while the kernel is replaced.
fn before_with(stage: &mut Stage<'_>, (ioas, link): (Ioas, Link), name: &str) -> Result {
    link.receive(1000)?;
    link.interrupts()?;
    let session = create(name)?;
    session.preserve(link.0.memory(), MEMORY)?;
    session.preserve(link.0.device(), DEVICE)?;
    stage.put("pages", digest(link.0.memory().pages()))?;
    stage.hold(session);
    stage.last(move || {
        link.drain()?;
        let result = pci::mark(BEFORE);
        // To close the files would stop the device.
        mem::forget((ioas, link));
        result
    });
    Ok(())
}

/// Takes the device over: all frames are in the ring.
fn take_over(stage: &Stage<'_>, name: &str) -> Result<(Ioas, Link)> {
    let session = retrieve(name)?;
    let early = session.retrieve(DEVICE).map(drop);
    expect_errno(early, Errno::NODEV, "RETRIEVE_FD without vfio-pci")?;
    let cdev = bind()?.vfio_cdev()?;
    let opened = File::options().read(true).write(true).open(cdev).map(drop);
    expect_errno(opened, Errno::BUSY, "opening the device")?;
    let memory = session.retrieve(MEMORY)?;
    let ioas = Ioas::new()?;
    let device = VfioDevice::retrieved(session.retrieve(DEVICE)?, &ioas)?;
    let memory = DmaMemory::new(memory.into(), &ioas)?;
    ensure_eq!(
        digest(memory.pages()),
        stage.get("pages")?,
        "the digest of the physical addresses"
    );
    let link = Link(Igb::attach(device, memory)?);
    ensure!(link.0.is_master()?, "the device was stopped");
    let (received, pending) = (link.received(), link.0.pending());
    stage.note(format_args!(
        "{received} frames before, {pending} in the ring"
    ));
    pci::mark(AFTER)?;
    ensure!(pending > 0, "no frame was received");
    link.drain()?;
    ensure!(
        link.received() >= received + pending as u64,
        "the ring has less frames than the device says"
    );
    link.send(100)?;
    link.receive_answer()?;
    link.receive(1000)?;
    link.interrupts()?;
    session.finish()?;
    link.receive(1000)?;
    Ok((ioas, link))
}

/// Takes the device over, and stops it.
fn after(stage: &Stage<'_>, name: &str) -> Result {
    let (_ioas, link) = take_over(stage, name)?;
    link.0.stop()
}

/// The device goes on receiving while the kernel is replaced, and with the next kernel.
pub fn preserved_suite() -> Suite {
    let case = Case::two(
        "no_frame_is_missing",
        |stage| before_with(stage, start(LONG)?, "vfio"),
        |stage| after(stage, "vfio"),
    );
    suite("vfio_preserved", case)
}

/// The same through two live updates.
pub fn again_suite() -> Suite {
    let mut case = Case::two(
        "two_updates",
        |stage| before_with(stage, start(LONG)?, "vfio"),
        |stage| {
            let taken = take_over(stage, "vfio")?;
            before_with(stage, taken, "vfio-again")
        },
    );
    case.parts
        .push(Box::new(|stage| after(stage, "vfio-again")));
    suite("vfio_again", case)
}
