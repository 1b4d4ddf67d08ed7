// SPDX-License-Identifier: GPL-2.0

//! Rust driver of QEMU's `edu` device, which goes on working through a live update.
//!
//! QEMU must be run with `-device edu,dma_mask=0xffffffffffffffff`. The driver supports one device.
//!
//! `/dev/rust_edu` can be opened once at a time. A file has a buffer of one page, which can be mapped,
//! and takes orders as text:
//!
//! - `factorial N`: compute the factorial of `N`; the file then reads as the result
//! - `send`: copy the first half of the buffer to the memory of the device
//! - `receive`: copy the memory of the device to the second half of the buffer
//! - `wait`: wait until the last copy is complete
//! - `keep off`: have the device stopped by a live update, `keep on`: have it go on (the default)
//!
//! The device copies by DMA, about 100 ms after the order. When the file is preserved, the device is
//! as well: a copy that was ordered before the live update is carried out while there is no kernel,
//! or during the boot of the next one. It interrupts when it is complete. If this happens before the
//! driver of the next kernel has its handler, the interrupt may be lost, so that the driver looks for
//! it once. The information about a file in /proc counts the interrupts.

#![deny(unsafe_code)]

use core::{
    mem::MaybeUninit,
    ops::Deref, //
};
use kernel::{
    anon_inode,
    device::Core,
    driver,
    fs::{
        file::flags,
        File,
        Kiocb, //
    },
    io::Io,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    irq,
    irq::IrqReturn,
    kho::{
        shared::{
            PreservedPage,
            SharedPage, //
        },
        Claimed,
        PhysAddr, //
    },
    liveupdate::{
        session::{
            IncomingSession,
            OutgoingSession, //
        },
        FileHandler,
        RetrieveError, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    mm::virt::VmaNew,
    new_mutex,
    pci,
    pci::liveupdate::{
        Address,
        PreservedDevice,
        WorkingDevice,
        DEVICES, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            AtomicFlag,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce,
        UniqueArc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// Registers in BAR 0.
mod regs {
    pub(super) const ID: usize = 0x00;
    pub(super) const FACTORIAL: usize = 0x08;
    pub(super) const STATUS: usize = 0x20;
    pub(super) const INTERRUPTS: usize = 0x24;
    pub(super) const ACKNOWLEDGE: usize = 0x64;
    pub(super) const DMA_SOURCE: usize = 0x80;
    pub(super) const DMA_TARGET: usize = 0x88;
    pub(super) const DMA_COUNT: usize = 0x90;
    pub(super) const DMA_COMMAND: usize = 0x98;
    pub(super) const END: usize = 0xa0;

    /// In `ID`: bits that are the same for all versions of the device.
    pub(super) const ID_BITS: u32 = 0xed;
    /// In `STATUS`: the factorial is being computed.
    pub(super) const COMPUTING: u32 = 1;
    /// In `DMA_COMMAND`: start, or not complete yet.
    pub(super) const START: u32 = 1;
    /// In `DMA_COMMAND`: to the memory of the machine.
    pub(super) const TO_RAM: u32 = 2;
    /// In `DMA_COMMAND`: interrupt when the copy is complete.
    pub(super) const INTERRUPT: u32 = 4;
    /// Where the memory of the device is, for its DMA.
    pub(super) const MEMORY: u64 = 0x40000;
}

/// How much is copied: half a page.
const LENGTH: u64 = 2048;

/// The device.
struct Edu {
    pdev: ARef<pci::Device>,
    regs: pci::DevresBar<{ regs::END }>,
    /// Whether there is a file.
    open: AtomicFlag,
    /// The number of interrupts.
    interrupts: Atomic<u32>,
}

impl Edu {
    fn read(&self, offset: usize) -> Result<u32> {
        let regs = self.regs.try_access().ok_or(ENXIO)?;
        (&*regs).try_read32(offset)
    }

    fn write(&self, offset: usize, value: u32) -> Result {
        let regs = self.regs.try_access().ok_or(ENXIO)?;
        (&*regs).try_write32(value, offset)
    }

    fn write64(&self, offset: usize, value: u64) -> Result {
        let regs = self.regs.try_access().ok_or(ENXIO)?;
        (&*regs).try_write64(value, offset)
    }

    fn is_copying(&self) -> Result<bool> {
        Ok(self.read(regs::DMA_COMMAND)? & regs::START != 0)
    }

    /// Waits until `bit` of a register is clear; [`ETIMEDOUT`] after some seconds.
    fn wait_for(&self, offset: usize, bit: u32) -> Result {
        for _ in 0..1000 {
            if self.read(offset)? & bit == 0 {
                return Ok(());
            }
            fsleep(Delta::from_millis(5));
        }
        Err(ETIMEDOUT)
    }

    /// Acknowledges a pending interrupt. Returns whether there was one.
    fn acknowledge(&self) -> bool {
        let pending = self.read(regs::INTERRUPTS).unwrap_or(0);
        if pending == 0 || self.write(regs::ACKNOWLEDGE, pending).is_err() {
            return false;
        }
        self.interrupts.add(1, Relaxed);
        true
    }

    fn copy(&self, source: u64, target: u64, direction: u32) -> Result {
        if self.is_copying()? {
            return Err(EBUSY);
        }
        self.write64(regs::DMA_SOURCE, source)?;
        self.write64(regs::DMA_TARGET, target)?;
        self.write64(regs::DMA_COUNT, LENGTH)?;
        self.write(regs::DMA_COMMAND, regs::START | regs::INTERRUPT | direction)
    }
}

/// The place of the device, if there is one.
type Slot = Mutex<Option<Arc<Edu>>>;

static EDU: SetOnce<Pin<KBox<Slot>>> = SetOnce::new();

/// Returns the device; [`ENODEV`] if there is none.
fn edu() -> Result<Arc<Edu>> {
    let slot = EDU.as_ref().ok_or(ENODEV)?;
    let edu = slot.lock().clone();
    edu.ok_or(ENODEV)
}

/// The character device, which is built in and never unregistered.
static DEVICE: SetOnce<Pin<KBox<MiscDeviceRegistration<Device>>>> = SetOnce::new();

/// The right to be the only file of a device. Dropping it ends that.
struct Claim(Arc<Edu>);

impl Claim {
    /// Fails with [`EBUSY`] if there is a file.
    fn new(edu: Arc<Edu>) -> Result<Self> {
        if edu.open.xchg(true, Relaxed) {
            return Err(EBUSY);
        }
        Ok(Self(edu))
    }
}

impl Deref for Claim {
    type Target = Edu;

    fn deref(&self) -> &Edu {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.open.store(false, Relaxed);
    }
}

/// All that a file needs but its buffer. With it, nothing fails any more.
struct NewFile {
    edu: Claim,
    buffer: UniqueArc<MaybeUninit<SharedPage>>,
    file: KBox<MaybeUninit<EduFile>>,
}

impl NewFile {
    /// Fails with [`EBUSY`] if there is a file, [`ENOMEM`].
    fn new(edu: Arc<Edu>) -> Result<Self> {
        Ok(Self {
            edu: Claim::new(edu)?,
            buffer: UniqueArc::new_uninit(GFP_KERNEL)?,
            file: KBox::new_uninit(GFP_KERNEL)?,
        })
    }

    /// Makes the file. The device must not write to memory other than `buffer`.
    fn with(self, buffer: SharedPage) -> KBox<EduFile> {
        let file = EduFile {
            edu: self.edu,
            buffer: self.buffer.write(buffer).into(),
            keep: AtomicFlag::new(true),
        };
        KBox::write(self.file, file)
    }
}

/// The only file of a device, of either kind.
struct EduFile {
    edu: Claim,
    buffer: Arc<SharedPage>,
    /// Whether a live update preserves the device.
    keep: AtomicFlag,
}

impl EduFile {
    /// The file of a `struct file`; [`None`] for files of others.
    fn of(file: &File) -> Option<&Self> {
        let opened = DEVICE.as_ref().and_then(|device| device.data(file));
        opened.or_else(|| anon_inode::data::<Retrieved>(file))
    }

    fn read(&self, pos: &mut i64, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let text = CString::try_from_fmt(fmt!("{}\n", self.edu.read(regs::FACTORIAL)?))?;
        iov.simple_read_from_buffer(pos, text.to_bytes())
    }

    fn write(&self, pos: &mut i64, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut buf = [0; 32];
        if iov.len() > buf.len() {
            return Err(EINVAL);
        }
        let len = iov.copy_from_iter(&mut buf);
        let text = buf.get(..len).ok_or(EINVAL)?;
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?.trim();
        let (order, value) = text.split_once(' ').unwrap_or((text, ""));
        let edu = &self.edu;
        match (order, value) {
            ("factorial", number) => {
                edu.write(regs::FACTORIAL, number.parse().map_err(|_| EINVAL)?)?;
                edu.wait_for(regs::STATUS, regs::COMPUTING)?;
            }
            ("send", "") => edu.copy(self.buffer.phys(), regs::MEMORY, 0)?,
            ("receive", "") => {
                let target = self.buffer.phys().wrapping_add(LENGTH);
                edu.copy(regs::MEMORY, target, regs::TO_RAM)?;
            }
            ("wait", "") => edu.wait_for(regs::DMA_COMMAND, regs::START)?,
            ("keep", "on") => self.keep.store(true, Relaxed),
            ("keep", "off") => self.keep.store(false, Relaxed),
            _ => return Err(EINVAL),
        }
        // The next read returns the new result.
        *pos = 0;
        Ok(len)
    }

    fn show(&self, m: &SeqFile) {
        let state = match self.edu.is_copying() {
            Ok(true) => "copying",
            Ok(false) => "idle",
            Err(_) => "gone",
        };
        seq_print!(m, "edu-dma:\t{}\n", state);
        let interrupts = self.edu.interrupts.load(Relaxed);
        seq_print!(m, "edu-interrupts:\t{}\n", interrupts);
    }
}

impl Drop for EduFile {
    fn drop(&mut self) {
        if self.edu.wait_for(regs::DMA_COMMAND, regs::START).is_err() {
            dev_err!(self.edu.pdev, "does not stop, its buffer is lost\n");
            core::mem::forget(self.buffer.clone());
        }
    }
}

/// The character device.
struct Device;

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<EduFile>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<EduFile>> {
        let edu = edu()?;
        // It may write to memory of a file that is to be retrieved.
        if edu.pdev.is_handed_over() {
            return Err(EBUSY);
        }
        Ok(NewFile::new(edu)?.with(SharedPage::new()?))
    }

    fn mmap(edu: &EduFile, _file: &File, vma: &VmaNew) -> Result {
        edu.buffer.map(vma)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        kiocb.file().read(kiocb.ki_pos_mut(), iov)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        kiocb.file().write(kiocb.ki_pos_mut(), iov)
    }

    fn show_fdinfo(edu: &EduFile, m: &SeqFile, _file: &File) {
        edu.show(m);
    }
}

/// A retrieved file. It supports the same operations as a file of the device.
struct Retrieved;

#[vtable]
impl anon_inode::FileOperations for Retrieved {
    type Data = KBox<EduFile>;

    fn mmap(edu: &EduFile, _file: &File, vma: &VmaNew) -> Result {
        edu.buffer.map(vma)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Data>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        kiocb.file().read(kiocb.ki_pos_mut(), iov)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Data>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        kiocb.file().write(kiocb.ki_pos_mut(), iov)
    }

    fn show_fdinfo(edu: &EduFile, m: &SeqFile, _file: &File) {
        edu.show(m);
    }
}

/// What is handed over for a file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct EduSer {
    domain: u32,
    bdf: u16,
    /// Whether the device goes on.
    kept: u16,
    /// The physical address of the buffer.
    buffer: u64,
}

/// What is preserved for a file. The device is released before the memory to which it writes.
struct Outgoing {
    _device: Option<PreservedDevice>,
    _buffer: PreservedPage,
}

/// A file in the next kernel, until it is retrieved.
enum Incoming {
    /// The device goes on, and may write to the buffer.
    Working(WorkingDevice<SharedPage>),
    /// The device was stopped.
    Stopped(Option<SharedPage>, Address),
    /// The buffer was not handed over.
    Damaged,
}

struct Handler;

kernel::builtin_file_handler!(Handler, flbs: [DEVICES]);

#[vtable]
impl FileHandler for Handler {
    const COMPATIBLE: &'static CStr = c"rust-sample-edu-v1";

    type Ser = EduSer;
    // There is nothing to wait for.
    type Prepared = ();
    type Outgoing = Outgoing;
    type Incoming = Incoming;

    fn can_preserve(&self, file: &File) -> bool {
        EduFile::of(file).is_some()
    }

    fn preserve(
        &self,
        file: &File,
        _prepared: &mut (),
        ser: &mut EduSer,
        _session: &OutgoingSession<'_>,
    ) -> Result<Outgoing> {
        let file = EduFile::of(file).ok_or(EINVAL)?;
        let keep = file.keep.load(Relaxed);
        let buffer = file.buffer.clone();
        let Address { domain, bdf } = file.edu.pdev.address();
        *ser = EduSer {
            domain,
            bdf,
            kept: keep.into(),
            buffer: buffer.phys(),
        };
        let buffer = buffer.preserve()?;
        let device = match keep {
            true => Some(PreservedDevice::new(&file.edu.pdev)?),
            false => None,
        };
        Ok(Outgoing {
            _device: device,
            _buffer: buffer,
        })
    }

    fn adopt(&self, ser: Claimed<EduSer>) -> Incoming {
        let address = Address {
            domain: ser.domain,
            bdf: ser.bdf,
        };
        let buffer = PhysAddr::new(ser.buffer).ok_or(EINVAL);
        match buffer.and_then(SharedPage::claim) {
            Ok(buffer) if ser.kept == 0 => Incoming::Stopped(Some(buffer), address),
            Ok(buffer) => Incoming::Working(WorkingDevice::new(address, buffer)),
            Err(_) => Incoming::Damaged,
        }
    }

    fn retrieve(
        &self,
        incoming: &mut Incoming,
        _session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        let edu = edu()?;
        let file = NewFile::new(edu.clone())?;
        let permanent = RetrieveError::Permanent;
        let buffer = match incoming {
            Incoming::Working(device) => device.take_over(&edu.pdev).map_err(permanent)?,
            Incoming::Stopped(buffer, address) if *address == edu.pdev.address() => {
                buffer.take().ok_or(permanent(EINVAL))?
            }
            Incoming::Stopped(..) | Incoming::Damaged => return Err(permanent(EINVAL)),
        };
        // If this fails, the buffer is dropped when the device does not use it any more.
        let file = file.with(buffer);
        anon_inode::getfile::<Retrieved>(c"[rust_edu]", file, flags::O_RDWR).map_err(permanent)
    }
}

/// The driver.
struct EduDriver;

kernel::pci_device_table!(
    PCI_TABLE,
    <EduDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::from_raw(0x1234), 0x11e8),
        ()
    )]
);

/// The handler of the interrupt.
struct Interrupt(Arc<Edu>);

impl irq::Handler for Interrupt {
    fn handle(&self) -> IrqReturn {
        match self.0.acknowledge() {
            true => IrqReturn::Handled,
            // The line may be shared.
            false => IrqReturn::None,
        }
    }
}

/// The entry in the slot. Dropping it ends the use by new files.
struct Listed(Arc<Edu>);

impl Listed {
    /// Fails with [`EBUSY`] if there is another device.
    fn new(slot: &Slot, edu: Arc<Edu>) -> Result<Self> {
        let mut first = slot.lock();
        if first.is_some() {
            dev_err!(edu.pdev, "there is another one\n");
            return Err(EBUSY);
        }
        *first = Some(edu.clone());
        Ok(Self(edu))
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(slot) = EDU.as_ref() {
            *slot.lock() = None;
        }
    }
}

/// What exists while the driver is bound.
#[pin_data]
struct Bound<'a> {
    #[pin]
    _interrupt: irq::Registration<'a, Interrupt>,
    listed: Listed,
}

impl pci::Driver for EduDriver {
    type IdInfo = ();
    type Data<'bound> = Bound<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;
    const TAKES_OVER: bool = true;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            let slot = EDU.as_ref().ok_or(ENODEV)?;
            pdev.enable_device_mem()?;
            let regs = pdev.iomap_region_sized::<{ regs::END }>(0, c"rust_driver_edu")?;
            if regs.read32(regs::ID) & 0xff != regs::ID_BITS {
                return Err(ENODEV);
            }
            // Files know the buffer by its physical address only.
            pdev.direct_dma_address(0)?;
            let edu = Edu {
                pdev: pdev.into(),
                regs: regs.into_devres()?,
                open: AtomicFlag::new(false),
                interrupts: Atomic::new(0),
            };
            if pdev.is_handed_over() {
                dev_info!(pdev, "goes on working\n");
            } else {
                // A copy that was ordered by the previous kernel must not come to anything.
                edu.wait_for(regs::DMA_COMMAND, regs::START)?;
                pdev.set_master();
            }
            let edu = Arc::new(edu, GFP_KERNEL)?;
            let handler = Interrupt(edu.clone());
            Ok(try_pin_init!(Bound {
                _interrupt <- pdev.register_intx(c"rust_driver_edu", Ok(handler)),
                // The interrupt controller was set up again since the device went on.
                _: {
                    edu.acknowledge();
                },
                listed: Listed::new(slot, edu)?,
            }? Error))
        })
    }

    fn shutdown<'bound>(pdev: &'bound pci::Device<Core<'_>>, this: Pin<&Bound<'bound>>) {
        if pdev.is_preserved() {
            let copying = this.listed.0.is_copying().unwrap_or(false);
            let what = if copying { "copying" } else { "idle" };
            dev_info!(pdev, "left working by shutdown, {}\n", what);
        } else if this.listed.0.is_copying().unwrap_or(false) {
            dev_info!(pdev, "stopped by shutdown, copying\n");
        }
    }
}

/// The sample as a module, which must be built in.
#[pin_data]
struct RustDriverEdu {
    #[pin]
    _driver: driver::Registration<pci::Adapter<EduDriver>>,
}

impl kernel::InPlaceModule for RustDriverEdu {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let set_up = || -> Result {
            EDU.populate(KBox::pin_init(
                new_mutex!(None, "rust_driver_edu"),
                GFP_KERNEL,
            )?);
            let options = MiscDeviceOptions { name: c"rust_edu" };
            let device = MiscDeviceRegistration::register(options);
            DEVICE.populate(KBox::pin_init(device, GFP_KERNEL)?);
            Ok(())
        };
        try_pin_init!(Self {
            _driver <- {
                set_up()?;
                driver::Registration::new(c"rust_driver_edu", module)
            },
        })
    }
}

module! {
    type: RustDriverEdu,
    name: "rust_driver_edu",
    authors: ["Rust for Linux Contributors"],
    description: "Rust driver of QEMU's edu device, with live update",
    license: "GPL",
}
