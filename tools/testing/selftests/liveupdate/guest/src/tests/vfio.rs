// SPDX-License-Identifier: GPL-2.0

//! A PCI device that user space drives through VFIO, and that keeps working through a live update:
//! QEMU's network card `igb`, which receives numbered frames all the time.
//!
//! The driver of the machine sends them. It repeats a run in which the ring was full, and checks what
//! was written to the configuration space between two marks.

pub mod absent;
pub mod express;
pub mod faults;
pub mod forced;
pub mod kinds;
pub mod parts;
pub mod variants;

use crate::support::{
    clock::{Rate, Ticks},
    error::{ensure, ensure_eq, Result},
    igb::{Igb, Link, Ring, ID},
    memfd,
    pci::{self, PciDevice},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    vfio::{self, DmaMemory, Ioas, Irq, VfioDevice, PAGE},
};
use liveupdate::OutgoingSession;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::{fs::File, iter, mem, ops::Range};

/// The group of these suites, which need a machine with the network card.
pub const GROUP: &str = "vfio";

/// A ring that is emptied all the time.
const SHORT: usize = 4096;

/// A ring that is not emptied while the kernel is replaced.
const LONG: usize = 32768;

/// The number that user space writes to the interrupt line, which the next kernel must know.
const LINE: u8 = 0xa7;

/// Where memory is mapped that is not preserved.
const ELSEWHERE: u64 = 1 << 40;

/// The tokens of the files.
const MEMORY: u64 = 1;
const DEVICE: u64 = 2;

/// How a device is used.
#[derive(Debug, Clone, Copy)]
struct Setup {
    /// The number of descriptors of the ring.
    len: usize,
    ring: Ring,
    irq: Irq,
    /// Creates a memfd of at least this number of bytes.
    memory: fn(usize) -> Result<File>,
    /// The parts of a memfd of this number of bytes that are mapped for the device, one by one.
    areas: fn(u64) -> Vec<Range<u64>>,
}

/// The usual way. The ring is not emptied while the kernel is replaced.
const USUAL: Setup = Setup {
    len: LONG,
    ring: Ring::Large,
    irq: Irq::Msix,
    memory: DmaMemory::create,
    areas: |len| iter::once(0..len).collect(),
};

/// Binds the device to its driver.
fn bind() -> Result<PciDevice> {
    vfio::bind(ID)
}

/// Maps a memfd for the device and its driver.
fn map(memfd: File, ioas: &Ioas, setup: Setup) -> Result<DmaMemory> {
    let areas = (setup.areas)(memfd::len(&memfd)?);
    DmaMemory::in_areas(memfd, ioas, &areas)
}

/// Starts the device; then the sender starts.
///
/// The address space must exist as long as the device works.
fn start(setup: Setup) -> Result<(Ioas, Link)> {
    let cdev = bind()?.vfio_cdev()?;
    let ioas = Ioas::new()?;
    let device = VfioDevice::open(&cdev, &ioas)?;
    let memory = (setup.memory)(Igb::memory_size(setup.len))?;
    let memory = map(memory, &ioas, setup)?;
    let igb = Igb::start(device, memory, setup.irq, setup.len)?;
    let link = Link::new(igb, setup.ring);
    link.send(1)?;
    Ok((ioas, link))
}

fn suite(name: &'static str, case: Case) -> Suite {
    Suite::on_machine(GROUP, name, case)
}

/// Frames are received, sent and raise interrupts, without a live update.
pub fn plain_suite() -> Suite {
    let case = Case::one("frames_come_in_order", |_| {
        let (_ioas, link) = start(Setup {
            len: SHORT,
            ..USUAL
        })?;
        link.receive(2000)?;
        link.send(100)?;
        link.receive_answer()?;
        link.interrupts()?;
        link.igb.stop()
    });
    suite("igb_plain", case)
}

/// A number that tells the physical addresses apart of the memory that the driver of a device with a
/// ring of `len` descriptors uses.
fn digest(memory: &DmaMemory, len: usize) -> u64 {
    let mut hash = Sha256::new();
    for page in memory.pages().iter().take(Igb::memory_size(len) / PAGE) {
        hash.update(page.to_le_bytes());
    }
    let bytes = hash.finalize();
    u64::from_le_bytes(bytes.first_chunk().copied().unwrap_or_default())
}

/// A session with the memory and the file of a device, which has received frames.
fn preserve(link: &Link, name: &str) -> Result<OutgoingSession> {
    link.receive(1000)?;
    let session = create(name)?;
    session.preserve(link.igb.memory(), MEMORY)?;
    session.preserve(link.igb.device(), DEVICE)?;
    Ok(session)
}

/// Maps memory that is not preserved.
fn map_elsewhere(ioas: &Ioas) -> Result<File> {
    let memory = DmaMemory::create(PAGE)?;
    ioas.map(&memory, 0..PAGE as u64, ELSEWHERE)?;
    Ok(memory)
}

/// Preserves the memory and the file of a device, which works on while the kernel is replaced.
fn before_with(
    stage: &mut Stage<'_>,
    (ioas, link): (Ioas, Link),
    name: &str,
    setup: Setup,
) -> Result {
    link.receive(1000)?;
    link.interrupts()?;
    link.igb.device().set_interrupt_line(LINE)?;
    let session = create(name)?;
    let started = Ticks::now();
    session.preserve(link.igb.memory(), MEMORY)?;
    let between = Ticks::now();
    session.preserve(link.igb.device(), DEVICE)?;
    let ended = Ticks::now();
    let rate = Rate::measure();
    let figure = |name, start, end| println!("@bench {name} {}", rate.micros(start, end));
    figure("preserve_memory_us", started, between);
    figure("preserve_device_us", between, ended);
    stage.put("pages", digest(link.igb.memory(), setup.len))?;
    stage.hold(session);
    // The device raises interrupts to the end.
    let counter = link.igb.enable_interrupt()?;
    stage.last(move || {
        link.drain()?;
        // The sender measures the time until the next frame.
        link.send(1)?;
        let result = pci::mark(pci::BEFORE);
        // To close the files would stop the device.
        mem::forget((ioas, link, counter));
        result
    });
    Ok(())
}

/// Takes the device over: all frames are in the ring, or as many as it has room for.
fn take_over(stage: &Stage<'_>, name: &str, setup: Setup) -> Result<(Ioas, Link)> {
    let session = retrieve(name)?;
    let early = session.retrieve(DEVICE).map(drop);
    expect_errno(early, Errno::NODEV, "RETRIEVE_FD without vfio-pci")?;
    let cdev = bind()?.vfio_cdev()?;
    let opened = File::options().read(true).write(true).open(cdev).map(drop);
    expect_errno(opened, Errno::BUSY, "opening the device")?;
    let opened = vfio::open_by_group(&PciDevice::find(ID)?, &Ioas::new()?)?;
    ensure_eq!(opened.err(), Some(Errno::BUSY), "opening it by its group");
    let memory = session.retrieve(MEMORY)?;
    let ioas = Ioas::new()?;
    let device = VfioDevice::retrieved(session.retrieve(DEVICE)?, &ioas)?;
    let memory = map(memory.into(), &ioas, setup)?;
    ensure_eq!(
        digest(&memory, setup.len),
        stage.get("pages")?,
        "the digest of the physical addresses"
    );
    ensure_eq!(device.interrupt_line()?, LINE, "the interrupt line");
    let link = Link::new(Igb::attach(device, memory, setup.irq)?, setup.ring);
    ensure!(link.igb.device().is_master()?, "the device was stopped");
    let (received, pending) = (link.received(), link.igb.pending());
    stage.note(format_args!(
        "{received} frames before, {pending} in the ring"
    ));
    pci::mark(pci::AFTER)?;
    ensure!(pending > 0, "no frame was received");
    let reset = PciDevice::find(ID)?.reset();
    expect_errno(reset, Errno::BUSY, "a reset of the device through sysfs")?;
    if setup.ring == Ring::Small {
        ensure_eq!(pending, setup.len - 1, "the frames in a ring that is full");
    }
    link.receive(1)?;
    link.send(1)?;
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
    let is_master = PciDevice::find(ID)?.is_master()?;
    ensure!(is_master, "the device was silenced by FINISH");
    link.receive(1000)?;
    if setup.ring == Ring::Small {
        // The driver of the machine reads this, and has counted itself.
        stage.note(format_args!(
            "{} frames of {} were lost",
            link.lost(),
            link.received()
        ));
    }
    Ok((ioas, link))
}

/// Takes the device over, and stops it.
fn after(stage: &Stage<'_>, name: &str, setup: Setup) -> Result {
    let (_ioas, link) = take_over(stage, name, setup)?;
    link.igb.stop()
}

/// A suite in which the device keeps working while the kernel is replaced, and with the next kernel.
fn goes_on(suite_name: &'static str, case: &str, setup: Setup) -> Suite {
    let case = Case::two(
        case,
        move |stage| before_with(stage, start(setup)?, "vfio", setup),
        move |stage| after(stage, "vfio", setup),
    );
    suite(suite_name, case)
}

/// The device keeps receiving while the kernel is replaced, and with the next kernel.
pub fn preserved_suite() -> Suite {
    goes_on("vfio_preserved", "no_frame_is_missing", USUAL)
}

/// The same through two live updates.
pub fn again_suite() -> Suite {
    let mut case = Case::two(
        "two_updates",
        |stage| before_with(stage, start(USUAL)?, "vfio", USUAL),
        |stage| {
            let taken = take_over(stage, "vfio", USUAL)?;
            before_with(stage, taken, "vfio-again", USUAL)
        },
    );
    case.parts
        .push(Box::new(|stage| after(stage, "vfio-again", USUAL)));
    suite("vfio_again", case)
}
