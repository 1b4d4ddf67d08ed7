// SPDX-License-Identifier: GPL-2.0

//! The machines that tests run on, by name.

use anyhow::{Context, Result};

use crate::arch::Arch;

/// A kind of machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name in tests.
    pub name: &'static str,
    /// Its type in QEMU, if it is not the usual one of the architecture. Such machines are PCs.
    pub board: Option<&'static str>,
    /// Its processor, if it is not the usual one of the architecture.
    pub cpu: Option<&'static str>,
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

/// The usual machine of an architecture, which starts the kernel directly: an old PC (i440FX), or
/// QEMU's `virt`. Tests that name no machine run on it.
pub const USUAL: Machine = Machine {
    name: "usual",
    board: None,
    cpu: None,
    arguments: &[],
    params: "",
    memory: None,
    sockets: false,
    counts: false,
};

/// A PC with PCI Express (Q35) that starts the kernel directly.
pub const Q35: Machine = Machine {
    name: "q35",
    board: Some("q35"),
    ..USUAL
};

/// A PC with a server processor of AMD, for hosts of virtual machines. Their guests must not run on
/// the first processor: QEMU (at least 10.0 to 11.1) changes the first one's flags for SVM without a
/// lock whenever another one loads its FPU state. The first processor then keeps nested paging after
/// an exit from the guest, and is reset.
pub const AMD: Machine = Machine {
    name: "amd",
    board: Some("pc"),
    cpu: Some("EPYC-v1"),
    ..USUAL
};

/// The same, with memory for huge pages of 1 GiB.
pub const AMD_LARGE: Machine = Machine {
    name: "amd-large",
    memory: Some("6G"),
    ..AMD
};

/// A PC with PCI Express and a device that copies by DMA, below two bridges.
pub const DEVICES: Machine = Machine {
    name: "devices",
    board: Some("q35"),
    arguments: &[
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
    ..USUAL
};

/// A PC with PCI Express and a port, below which a network card can be put: see
/// [`Sender`](crate::machine::sender::Sender).
pub const VFIO: Machine = Machine {
    name: "vfio",
    board: Some("q35"),
    arguments: &[
        "-device",
        "pcie-root-port,id=above,chassis=1",
        // A device to whose configuration space the program writes marks.
        "-device",
        "pci-testdev",
    ],
    ..USUAL
};

/// The same, with a port below which devices are plugged in and taken away by the kernel's own driver
/// and not by ACPI.
pub const PORTS: Machine = Machine {
    name: "ports",
    arguments: &[
        "-global",
        "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
        "-device",
        "pcie-root-port,id=above,chassis=1",
        "-device",
        "pci-testdev",
    ],
    ..VFIO
};

/// A PC with PCI Express that starts by UEFI.
pub const UEFI: Machine = Machine {
    name: "uefi",
    board: Some("q35"),
    arguments: &[
        "-drive",
        "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive",
        "if=pflash,unit=1,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
    ],
    ..USUAL
};

/// A PC with two nodes of memory, each with a processor.
pub const NODES: Machine = Machine {
    name: "nodes",
    board: Some("q35"),
    arguments: &[
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
    ..USUAL
};

/// One with little memory.
pub const SMALL: Machine = Machine {
    name: "small",
    memory: Some("800M"),
    ..USUAL
};

/// One with memory above four GiB.
pub const LARGE: Machine = Machine {
    name: "large",
    memory: Some("8G"),
    ..USUAL
};

/// One some of whose memory is taken by huge pages of both sizes at boot.
pub const HUGE_PAGES: Machine = Machine {
    name: "huge-pages",
    params: "hugepages=64 hugepagesz=1G hugepages=1",
    memory: Some("4G"),
    ..USUAL
};

/// A PC with two nodes of memory. Huge pages of 1 GiB are set aside at boot, without most of their
/// page structures. The first node has memory for two of them above four GiB, the second one for
/// three.
pub const GIGANTIC: Machine = Machine {
    name: "gigantic",
    board: Some("q35"),
    arguments: &[
        "-object",
        "memory-backend-ram,id=first,size=5G",
        "-object",
        "memory-backend-ram,id=second,size=4G",
        "-numa",
        "node,nodeid=0,memdev=first,cpus=0",
        "-numa",
        "node,nodeid=1,memdev=second,cpus=1",
    ],
    params: "hugepagesz=1G hugepages=3 hugetlb_free_vmemmap=on",
    memory: Some("9G"),
    sockets: true,
    ..USUAL
};

/// One on which freed and allocated memory is overwritten, and its owners are recorded.
pub const CHECKED: Machine = Machine {
    name: "checked",
    params: "page_owner=on init_on_alloc=1 init_on_free=1 page_poison=1 kfence.sample_interval=10",
    ..USUAL
};

/// One whose scratch areas have a given size.
pub const SCRATCH: Machine = Machine {
    name: "scratch",
    params: "kho_scratch=64M,96M,64M",
    ..USUAL
};

/// One with a crash kernel in memory of its own.
pub const CRASH: Machine = Machine {
    name: "crash",
    params: "crashkernel=512M",
    memory: Some("3G"),
    ..USUAL
};

/// One whose kernel is locked down, and measures files.
pub const LOCKED: Machine = Machine {
    name: "locked",
    params: "lockdown=integrity ima_policy=tcb",
    ..USUAL
};

/// A PC with an IOMMU, and a device whose accesses it translates.
pub const IOMMU: Machine = Machine {
    name: "iommu",
    board: Some("q35"),
    arguments: &[
        "-device",
        "intel-iommu",
        "-device",
        "virtio-rng-pci,iommu_platform=on,disable-legacy=on",
    ],
    params: "intel_iommu=on iommu.strict=1",
    ..USUAL
};

/// All machines. A new machine needs an entry here, and tests refer to its name.
const MACHINES: [&Machine; 18] = [
    &USUAL,
    &Q35,
    &AMD,
    &AMD_LARGE,
    &DEVICES,
    &VFIO,
    &PORTS,
    &UEFI,
    &NODES,
    &SMALL,
    &LARGE,
    &HUGE_PAGES,
    &GIGANTIC,
    &CHECKED,
    &SCRATCH,
    &CRASH,
    &LOCKED,
    &IOMMU,
];

/// The machine called `name`; [`USUAL`] if there is no name.
pub fn machine(name: &str) -> Result<&'static Machine> {
    if name.is_empty() {
        return Ok(&USUAL);
    }
    let found = MACHINES.iter().find(|machine| machine.name == name);
    found.copied().with_context(|| {
        let names = MACHINES.map(|machine| machine.name).join(", ");
        format!("There is no machine {name}; the machines are {names}.")
    })
}

impl Machine {
    /// Returns whether the architecture has such machines.
    pub fn is_of(&self, arch: Arch) -> bool {
        self.board.is_none() || arch == Arch::X86
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_found_by_name() {
        for known in MACHINES {
            assert_eq!(machine(known.name).unwrap(), known);
        }
        assert_eq!(machine("").unwrap(), &USUAL);
        assert!(LARGE.is_of(Arch::Arm64) && LARGE.is_of(Arch::X86));
        assert!(!UEFI.is_of(Arch::Arm64) && UEFI.is_of(Arch::X86));
        let error = machine("abacus").unwrap_err().to_string();
        assert_eq!(
            error,
            "There is no machine abacus; the machines are usual, q35, amd, amd-large, devices, vfio, ports, \
             uefi, nodes, small, large, huge-pages, gigantic, checked, scratch, crash, locked, iommu."
        );
    }
}
