// SPDX-License-Identifier: GPL-2.0

//! The machines that tests run on, by name.

use anyhow::{Context, Result};

/// A kind of machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name in tests.
    pub name: &'static str,
    /// Its QEMU options, in addition to the common ones.
    pub arguments: &'static [&'static str],
    /// Kernel parameters that it needs.
    pub params: &'static str,
    /// Its memory, if it differs from the usual size.
    pub memory: Option<&'static str>,
    /// Whether each processor is in a socket of its own.
    pub sockets: bool,
    /// Whether its clock counts instructions, so that no timer of a device depends on how busy the
    /// host is. Its processors then take turns.
    pub counts: bool,
}

/// An old PC (i440FX) that starts the kernel directly. Tests that name no machine run on it.
pub const PC: Machine = Machine {
    name: "pc",
    arguments: &["-machine", "pc"],
    params: "",
    memory: None,
    sockets: false,
    counts: false,
};

/// A PC with PCI Express (Q35) that starts the kernel directly.
pub const Q35: Machine = Machine {
    name: "q35",
    arguments: &["-machine", "q35"],
    ..PC
};

/// A PC with a server processor of AMD, for hosts of virtual machines. Their guests must not run on
/// the first processor: QEMU (at least 10.0 to 11.1) changes the first one's flags for SVM without a
/// lock whenever another one loads its FPU state. The first processor then keeps nested paging after
/// an exit from the guest, and is reset.
pub const AMD: Machine = Machine {
    name: "amd",
    arguments: &["-machine", "pc", "-cpu", "EPYC-v1"],
    ..PC
};

/// A PC with PCI Express and a device that copies by DMA, below two bridges.
pub const DEVICES: Machine = Machine {
    name: "devices",
    arguments: &[
        "-machine",
        "q35",
        "-device",
        "pcie-root-port,id=above,chassis=1",
        "-device",
        "pcie-pci-bridge,id=below,bus=above",
        "-device",
        "edu,bus=below,dma_mask=0xffffffffffffffff",
        // A device that is not preserved, beside the other one.
        "-device",
        "pci-testdev,bus=below",
    ],
    counts: true,
    ..PC
};

/// A PC with PCI Express and a port, below which a network card can be put: see
/// [`Sender`](crate::machine::sender::Sender).
pub const VFIO: Machine = Machine {
    name: "vfio",
    arguments: &[
        "-machine",
        "q35",
        "-device",
        "pcie-root-port,id=above,chassis=1",
        // A device to whose configuration space the program writes marks.
        "-device",
        "pci-testdev",
    ],
    ..PC
};

/// A PC with PCI Express that starts by UEFI.
pub const UEFI: Machine = Machine {
    name: "uefi",
    arguments: &[
        "-machine",
        "q35",
        "-drive",
        "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive",
        "if=pflash,unit=1,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
    ],
    ..PC
};

/// A PC with two nodes of memory, each with a processor.
pub const NODES: Machine = Machine {
    name: "nodes",
    arguments: &[
        "-machine",
        "q35",
        "-object",
        "memory-backend-ram,id=first,size=1G",
        "-object",
        "memory-backend-ram,id=second,size=1G",
        "-numa",
        "node,nodeid=0,memdev=first,cpus=0",
        "-numa",
        "node,nodeid=1,memdev=second,cpus=1",
    ],
    memory: Some("2G"),
    sockets: true,
    ..PC
};

/// A PC with little memory.
pub const SMALL: Machine = Machine {
    name: "small",
    memory: Some("800M"),
    ..PC
};

/// A PC with memory above four GiB.
pub const LARGE: Machine = Machine {
    name: "large",
    memory: Some("8G"),
    ..PC
};

/// A PC some of whose memory is taken by huge pages of both sizes at boot.
pub const HUGE_PAGES: Machine = Machine {
    name: "huge-pages",
    params: "hugepages=64 hugepagesz=1G hugepages=1",
    memory: Some("4G"),
    ..PC
};

/// A PC on which freed and allocated memory is overwritten, and its owners are recorded.
pub const CHECKED: Machine = Machine {
    name: "checked",
    params: "page_owner=on init_on_alloc=1 init_on_free=1 page_poison=1 kfence.sample_interval=10",
    ..PC
};

/// A PC whose scratch areas have a given size.
pub const SCRATCH: Machine = Machine {
    name: "scratch",
    params: "kho_scratch=64M,96M,64M",
    ..PC
};

/// A PC with a crash kernel in memory of its own.
pub const CRASH: Machine = Machine {
    name: "crash",
    params: "crashkernel=512M",
    memory: Some("3G"),
    ..PC
};

/// A PC whose kernel is locked down, and measures files.
pub const LOCKED: Machine = Machine {
    name: "locked",
    params: "lockdown=integrity ima_policy=tcb",
    ..PC
};

/// A PC with an IOMMU, and a device whose accesses it translates.
pub const IOMMU: Machine = Machine {
    name: "iommu",
    arguments: &[
        "-machine",
        "q35",
        "-device",
        "intel-iommu",
        "-device",
        "virtio-rng-pci,iommu_platform=on,disable-legacy=on",
    ],
    params: "intel_iommu=on iommu.strict=1",
    ..PC
};

/// All machines. A new machine needs an entry here, and tests refer to its name.
const MACHINES: [&Machine; 15] = [
    &PC,
    &Q35,
    &AMD,
    &DEVICES,
    &VFIO,
    &UEFI,
    &NODES,
    &SMALL,
    &LARGE,
    &HUGE_PAGES,
    &CHECKED,
    &SCRATCH,
    &CRASH,
    &LOCKED,
    &IOMMU,
];

/// The machine called `name`; [`PC`] if there is no name.
pub fn machine(name: &str) -> Result<&'static Machine> {
    if name.is_empty() {
        return Ok(&PC);
    }
    let found = MACHINES.iter().find(|machine| machine.name == name);
    found.copied().with_context(|| {
        let names = MACHINES.map(|machine| machine.name).join(", ");
        format!("There is no machine {name}; the machines are {names}.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_found_by_name() {
        for known in MACHINES {
            assert_eq!(machine(known.name).unwrap(), known);
        }
        assert_eq!(machine("").unwrap(), &PC);
        let error = machine("abacus").unwrap_err().to_string();
        assert_eq!(
            error,
            "There is no machine abacus; the machines are pc, q35, amd, devices, vfio, uefi, nodes, \
             small, large, huge-pages, checked, scratch, crash, locked, iommu."
        );
    }
}
