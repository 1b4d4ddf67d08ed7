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
    /// Whether its clock counts instructions, so that no timer of a device depends on how busy the
    /// host is. Its processors then take turns.
    pub counts: bool,
}

/// An old PC (i440FX) that starts the kernel directly. Tests that name no machine run on it.
pub const PC: Machine = Machine {
    name: "pc",
    arguments: &["-machine", "pc"],
    params: "",
    counts: false,
};

/// A PC with PCI Express (Q35) that starts the kernel directly.
pub const Q35: Machine = Machine {
    name: "q35",
    arguments: &["-machine", "q35"],
    params: "",
    counts: false,
};

/// A PC with a server processor of AMD, for hosts of virtual machines. Their guests must not run on
/// the first processor: QEMU (at least 10.0 to 11.1) changes the first one's flags for SVM without a
/// lock whenever another one loads its FPU state. The first processor then keeps nested paging after
/// an exit from the guest, and is reset.
pub const AMD: Machine = Machine {
    name: "amd",
    arguments: &["-machine", "pc", "-cpu", "EPYC-v1"],
    params: "",
    counts: false,
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
    params: "",
    counts: true,
};

/// All machines. A new machine needs an entry here, and tests refer to its name.
const MACHINES: [&Machine; 4] = [&PC, &Q35, &AMD, &DEVICES];

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
            "There is no machine abacus; the machines are pc, q35, amd, devices."
        );
    }
}
