// SPDX-License-Identifier: GPL-2.0

//! Devices that user space drives: character devices of VFIO.
//!
//! There is no IOMMU: a device gets the physical addresses of a memfd, see [`ioas`].

mod ioas;
mod ioctl;
mod memory;

pub use ioas::Ioas;
pub use memory::{DmaMemory, HUGE_PAGE, PAGE};

use self::ioctl::call;
use crate::support::{
    error::{ensure, At, Failure, Result},
    mapping::map_shared,
    memfd, modules,
    pci::{PciDevice, INTERRUPT_LINE},
};
use rustix::event::EventfdFlags;
use std::{
    ffi::{c_void, CString},
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};
use vfio_bindings::bindings::vfio::{
    vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd, vfio_region_info,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};

/// The command register of the configuration space, and its bits.
const COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;

/// Loads the driver `vfio-pci`, for devices without an IOMMU.
pub fn load_modules() -> Result {
    modules::load("vfio", "enable_unsafe_noiommu_mode=1")?;
    modules::load("vfio-pci", "")
}

/// Binds the only device of a kind to the driver.
pub fn bind(id: (u16, u16)) -> Result<PciDevice> {
    // The rings of a device need memory without gaps.
    memfd::set_huge(true)?;
    load_modules()?;
    let device = PciDevice::find(id)?;
    device.bind("vfio-pci")?;
    Ok(device)
}

/// Whether the driver was loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/vfio_pci").exists()
}

/// How a device raises interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Irq {
    /// By a line. The kernel masks it when it is raised.
    Intx,
    /// By the first vector of MSI-X.
    Msix,
}

impl Irq {
    fn index(self) -> u32 {
        match self {
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
        }
    }
}

/// Opens the device as a member of its group, by which programs had it before there were character
/// devices. It is closed at once.
pub fn open_by_group(device: &PciDevice, ioas: &Ioas) -> Result<rustix::io::Result<()>> {
    let path = device.vfio_group()?;
    let group = File::options().read(true).write(true).open(&path);
    let group = group.at(path.display())?;
    ioctl::set_container(&group, ioas).at("VFIO_GROUP_SET_CONTAINER")?;
    let name = CString::new(device.name()).map_err(|_| Failure::new("a name has a null byte"))?;
    Ok(ioctl::device_of_group(&group, &name).map(drop))
}

/// An open device.
pub struct VfioDevice {
    file: File,
    /// The offset of its configuration space in the file.
    config: u64,
}

impl VfioDevice {
    /// Opens the character device at `path`, and attaches it to `ioas`.
    pub fn open(path: &Path, ioas: &Ioas) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Self::new(file.at(path.display())?, ioas)
    }

    /// Attaches the device to `ioas` again, whose file another kernel has opened.
    pub fn retrieved(file: OwnedFd, ioas: &Ioas) -> Result<Self> {
        Self::new(file.into(), ioas)
    }

    fn new(file: File, ioas: &Ioas) -> Result<Self> {
        let mut bind = vfio_device_bind_iommufd {
            argsz: size_of::<vfio_device_bind_iommufd>() as u32,
            iommufd: ioas.as_fd().as_raw_fd(),
            ..Default::default()
        };
        call(&file, &mut bind).at("VFIO_DEVICE_BIND_IOMMUFD")?;
        let mut attach = vfio_device_attach_iommufd_pt {
            argsz: size_of::<vfio_device_attach_iommufd_pt>() as u32,
            pt_id: ioas.id(),
            ..Default::default()
        };
        call(&file, &mut attach).at("VFIO_DEVICE_ATTACH_IOMMUFD_PT")?;
        let config = region(&file, VFIO_PCI_CONFIG_REGION_INDEX)?.offset;
        Ok(Self { file, config })
    }

    /// Whether the device may write to memory.
    pub fn is_master(&self) -> Result<bool> {
        Ok(self.config(COMMAND)? & COMMAND_MASTER != 0)
    }

    /// Lets the device decode its registers and write to memory.
    pub fn turn_on(&self) -> Result {
        let command = self.config(COMMAND)?;
        self.set_config(COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER)
    }

    /// The number of the interrupt, which the kernel keeps for user space.
    pub fn interrupt_line(&self) -> Result<u8> {
        let [line, _pin] = self.config(INTERRUPT_LINE)?.to_le_bytes();
        Ok(line)
    }

    /// Sets this number. The kernel does not pass it to the device.
    pub fn set_interrupt_line(&self, line: u8) -> Result {
        let [_, pin] = self.config(INTERRUPT_LINE)?.to_le_bytes();
        self.set_config(INTERRUPT_LINE, u16::from_le_bytes([line, pin]))
    }

    /// Reads a register of the configuration space.
    fn config(&self, at: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        let result = self.file.read_exact_at(&mut bytes, self.config + at);
        result.at("read the configuration space")?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes a register of the configuration space.
    fn set_config(&self, at: u64, value: u16) -> Result {
        self.file
            .write_all_at(&value.to_le_bytes(), self.config + at)
            .at("write the configuration space")
    }

    /// Maps the registers of BAR 0.
    pub fn registers(&self) -> Result<Registers> {
        let bar = region(&self.file, VFIO_PCI_BAR0_REGION_INDEX)?;
        Ok(Registers {
            start: map_shared(&self.file, bar.offset, bar.size)?,
            len: bar.size,
        })
    }

    /// Sets up interrupts: each one increments the returned counter.
    pub fn enable_irq(&self, irq: Irq) -> Result<OwnedFd> {
        let counter = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .at("eventfd")?;
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs(irq, flags, 1, counter.as_raw_fd())?;
        Ok(counter)
    }

    /// Lets the device raise the next interrupt.
    pub fn unmask_irq(&self, irq: Irq) -> Result {
        if irq == Irq::Msix {
            return Ok(());
        }
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
        self.set_irqs(irq, flags, 1, -1)
    }

    /// Turns interrupts off.
    pub fn disable_irq(&self, irq: Irq) -> Result {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_irqs(irq, flags, 0, -1)
    }

    fn set_irqs(&self, irq: Irq, flags: u32, count: u32, eventfd: i32) -> Result {
        let mut set = ioctl::SetIrqs {
            argsz: size_of::<ioctl::SetIrqs>() as u32,
            flags,
            index: irq.index(),
            start: 0,
            count,
            eventfd,
        };
        call(&self.file, &mut set).at("VFIO_DEVICE_SET_IRQS")
    }
}

impl AsFd for VfioDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn region(file: &File, index: u32) -> Result<vfio_region_info> {
    let mut info = vfio_region_info {
        argsz: size_of::<vfio_region_info>() as u32,
        index,
        ..Default::default()
    };
    call(file, &mut info).at("VFIO_DEVICE_GET_REGION_INFO")?;
    ensure!(info.size > 0, "region {index} of the device is empty");
    Ok(info)
}

/// The mapped registers of a device. They stay mapped until the end of the process.
pub struct Registers {
    start: *mut c_void,
    len: u64,
}

impl Registers {
    /// The address of the register at the offset `at`.
    ///
    /// # Panics
    ///
    /// If there is no such register.
    fn register(&self, at: u32) -> *mut u32 {
        assert!(at % 4 == 0 && u64::from(at) + 4 <= self.len);
        self.start.wrapping_byte_add(at as usize).cast()
    }

    /// Reads a register.
    pub fn read(&self, at: u32) -> u32 {
        // SAFETY: `register()` returns an aligned address within the mapping, which is never removed.
        u32::from_le(unsafe { self.register(at).read_volatile() })
    }

    /// Writes a register.
    pub fn write(&self, at: u32, value: u32) {
        // SAFETY: `register()` returns an aligned address within the mapping, which is never removed.
        unsafe { self.register(at).write_volatile(value.to_le()) };
    }
}
