// SPDX-License-Identifier: GPL-2.0

//! PCI devices in sysfs.

use crate::support::{
    config_space::ConfigSpace,
    error::{ensure, At, Failure, Result},
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const BUS: &str = "/sys/bus/pci";

/// The services of PCI Express ports. They are named after the port and [`PortService`].
const PORT_SERVICES: &str = "/sys/bus/pci_express/devices";

/// A service of a PCI Express root port, as in the names of Linux.
#[derive(Debug, Clone, Copy)]
pub enum PortService {
    /// Reports of errors (AER).
    Errors = 0x2,
    /// Hotplug: devices are plugged in and taken away.
    Hotplug = 0x4,
}

/// The length of a header, without the number of the interrupt.
pub const HEADER: usize = 0x3c;

/// The command register, and its bus master bit.
const COMMAND: usize = 4;
const MASTER: u8 = 4;

/// The control register of a slot, in the capability of PCI Express, and its value if the power and the
/// power indicator are off.
const SLOT_CONTROL: u64 = 0x18;
const SLOT_OFF: u16 = 0x700;

/// The register with the number of an interrupt, which the hardware does not use.
pub const INTERRUPT_LINE: u64 = 0x3c;

/// Vendor and device of QEMU's `pci-testdev`.
const TEST_DEVICE: (u16, u16) = (0x1b36, 0x0005);

/// The marks between which the configuration space of a device that keeps working is not disturbed; see
/// [`mark`].
pub const BEFORE: u8 = 0xb1;
pub const AFTER: u8 = 0xb2;

/// A device.
pub struct PciDevice {
    /// Its directory.
    path: PathBuf,
    /// See [`Self::name`].
    name: String,
}

impl PciDevice {
    /// Finds the only device of this kind.
    pub fn find((vendor, device): (u16, u16)) -> Result<Self> {
        let dir = Path::new(BUS).join("devices");
        for entry in fs::read_dir(&dir).at(dir.display())? {
            let entry = entry.at(dir.display())?;
            let path = entry.path();
            if id(&path, "vendor")? == vendor && id(&path, "device")? == device {
                let name = entry.file_name().to_string_lossy().into_owned();
                return Ok(Self { path, name });
            }
        }
        Err(Failure::new(format!(
            "there is no PCI device {vendor:04x}:{device:04x}"
        )))
    }

    /// Binds the device to the driver `driver`, and to no other one.
    pub fn bind(&self, driver: &str) -> Result {
        let chosen = self.path.join("driver_override");
        fs::write(&chosen, driver).at(chosen.display())?;
        let probe = Path::new(BUS).join("drivers_probe");
        fs::write(&probe, &self.name).at(probe.display())?;
        let bound = fs::read_link(self.path.join("driver"));
        match bound.at(format_args!("{} has no driver", self.name))? {
            path if path.ends_with(driver) => Ok(()),
            path => Err(Failure::new(format!(
                "{} has the driver {}",
                self.name,
                path.display()
            ))),
        }
    }

    /// The files of the configuration spaces of the device, and of the bridges above it.
    fn configs(&self) -> Result<Vec<PathBuf>> {
        let real = self.path.canonicalize().at(self.path.display())?;
        let configs = real.ancestors().map(|dir| dir.join("config"));
        Ok(configs.take_while(|config| config.exists()).collect())
    }

    /// The configuration spaces of the device, and of the bridges above it.
    pub fn config_spaces(&self) -> Result<Vec<ConfigSpace>> {
        let configs = self.configs()?;
        configs.iter().map(|path| ConfigSpace::read(path)).collect()
    }

    /// Whether a service of the port above the device has a driver.
    pub fn port_has(&self, service: PortService) -> Result<bool> {
        let real = self.path.canonicalize().at(self.path.display())?;
        let port = real.parent().and_then(Path::file_name);
        let port = port.at("the port above the device")?.to_string_lossy();
        let name = format!("{port}:pcie{:03x}", service as u32);
        let driver = Path::new(PORT_SERVICES).join(name).join("driver");
        Ok(driver.exists())
    }

    /// Removes the device, and has the kernel discover it again.
    pub fn discover_again(&self) -> Result {
        let path = self.path.join("remove");
        fs::write(&path, "1").at(path.display())?;
        ensure!(!self.path.exists(), "the device was not removed");
        let path = Path::new(BUS).join("rescan");
        fs::write(&path, "1").at(path.display())?;
        ensure!(self.path.exists(), "the device was not discovered again");
        Ok(())
    }

    /// Turns off the power of the device's slot, as an operator does before taking the device out.
    pub fn power_slot_off(&self) -> Result<io::Result<()>> {
        let (address, _function) = self.name.split_once('.').at("a name without a function")?;
        let slots = Path::new(BUS).join("slots");
        for entry in fs::read_dir(&slots).at(slots.display())? {
            let slot = entry.at(slots.display())?.path();
            let path = slot.join("address");
            if fs::read_to_string(&path).at(path.display())?.trim() == address {
                return Ok(fs::write(slot.join("power"), "0"));
            }
        }
        Err(Failure::new(format!("{address} is in no slot")))
    }

    /// The number of virtual functions that the device can have.
    pub fn total_functions(&self) -> Result<u32> {
        let path = self.path.join("sriov_totalvfs");
        let text = fs::read_to_string(&path).at(path.display())?;
        text.trim().parse::<u32>().at(path.display())
    }

    /// Turns virtual functions on.
    pub fn enable_functions(&self, count: u32) -> io::Result<()> {
        fs::write(self.path.join("sriov_numvfs"), count.to_string())
    }

    /// The headers in the configuration space of the device, and of the bridges above it.
    pub fn headers(&self) -> Result<Vec<[u8; HEADER]>> {
        let mut headers = Vec::new();
        for config in self.configs()? {
            let mut header = [0; HEADER];
            let result = File::open(&config).and_then(|file| file.read_exact_at(&mut header, 0));
            result.at(config.display())?;
            headers.push(header);
        }
        Ok(headers)
    }

    /// Whether a driver is bound to the device.
    pub fn has_driver(&self) -> bool {
        self.path.join("driver").exists()
    }

    /// Resets the device by its file in sysfs.
    pub fn reset(&self) -> io::Result<()> {
        fs::write(self.path.join("reset"), "1")
    }

    /// Turns the power of the slot of a PCI Express device off: then the device is taken away.
    pub fn unplug(&self) -> Result {
        let real = self.path.canonicalize().at(self.path.display())?;
        let path = real.parent().map(|port| port.join("config"));
        let path = path.at("the port above the device")?;
        let config = File::options().read(true).write(true).open(&path);
        let config = config.at(path.display())?;
        let control = pcie_capability(&config)? + SLOT_CONTROL;
        config
            .write_all_at(&SLOT_OFF.to_le_bytes(), control)
            .at(path.display())?;
        let mut vendor = [0; 2];
        let gone = File::open(self.path.join("config"))
            .and_then(|config| config.read_exact_at(&mut vendor, 0))
            .is_err();
        ensure!(gone || vendor == [0xff; 2], "the device was not taken away");
        Ok(())
    }

    /// Whether the device may write to memory.
    pub fn is_master(&self) -> Result<bool> {
        let headers = self.headers()?;
        let header = headers.first().at("the header of the device")?;
        Ok(header[COMMAND] & MASTER != 0)
    }

    /// The group of VFIO for the device, without an IOMMU; it must be bound to `vfio-pci`.
    pub fn vfio_group(&self) -> Result<PathBuf> {
        let link = self.path.join("iommu_group");
        let group = fs::read_link(&link).at(link.display())?;
        let number = group.file_name().at("the number of the group")?;
        let name = format!("noiommu-{}", number.to_string_lossy());
        Ok(Path::new("/dev/vfio").join(name))
    }

    /// Its address.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The character device of VFIO for the device, which must be bound to `vfio-pci`.
    pub fn vfio_cdev(&self) -> Result<PathBuf> {
        let dir = self.path.join("vfio-dev");
        let entry = fs::read_dir(&dir).at(dir.display())?.next();
        let entry = entry.at(format_args!("{} is empty", dir.display()))?;
        let name = entry.at(dir.display())?.file_name();
        Ok(Path::new("/dev/vfio/devices").join(name))
    }
}

/// Where the capability of PCI Express is in a configuration space.
fn pcie_capability(config: &File) -> Result<u64> {
    const FIRST: u64 = 0x34;
    const EXPRESS: u8 = 0x10;

    let mut next = [0];
    config
        .read_exact_at(&mut next, FIRST)
        .at("read a pointer")?;
    // There is room for 48 capabilities.
    for _ in 0..48 {
        let at = u64::from(next[0]);
        let mut head = [0; 2];
        config
            .read_exact_at(&mut head, at)
            .at("read a capability")?;
        if head[0] == EXPRESS {
            return Ok(at);
        }
        next = [head[1]];
    }
    Err(Failure::new("the port has no capability of PCI Express"))
}

fn id(device: &Path, file: &str) -> Result<u16> {
    let path = device.join(file);
    let text = fs::read_to_string(&path).at(path.display())?;
    let digits = text.trim().trim_start_matches("0x");
    u16::from_str_radix(digits, 16).at(path.display())
}

/// Writes `value` to a register of the device `pci-testdev` that has no effect: the driver of the
/// machine sees in its trace which writes to the configuration spaces came before.
pub fn mark(value: u8) -> Result {
    let path = PciDevice::find(TEST_DEVICE)?.path.join("config");
    let config = File::options().write(true).open(&path).at(path.display())?;
    config
        .write_all_at(&[value], INTERRUPT_LINE)
        .at(path.display())
}
