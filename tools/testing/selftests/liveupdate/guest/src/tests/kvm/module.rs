// SPDX-License-Identifier: GPL-2.0

//! KVM in modules, as distributions have it: they are loaded before and after a kexec.

use super::{hold, Guest, MEMORY, VM};
use crate::{
    support::{
        error::{ensure_eq, At, Result},
        modules,
        registry::{Case, Stage, Suite},
        sessions::{create, expect_errno, retrieve},
        wait::eventually,
    },
    tests::nodes::GROUP,
};
use rustix::io::Errno;
use std::fs;

/// The module for the processors that QEMU emulates, and the one that it depends on.
const AMD: &str = "kvm-amd";
const KVM: &str = "kvm";

fn load() -> Result {
    modules::load(AMD, "").at("load KVM")
}

/// Unloads both modules, once their last file is released.
fn unload(when: &str) -> Result {
    eventually(&format!("{AMD} has other references {when}"), || {
        Ok(modules::references(AMD)? == Some(0))
    })?;
    for module in [AMD, KVM] {
        modules::unload(module).at(format_args!("unload {module} {when}"))?;
    }
    ensure_eq!(fs::exists("/dev/kvm")?, false, "/dev/kvm {when}");
    Ok(())
}

/// Files that are preserved keep the modules, also if they are closed.
fn preserved() -> Result {
    load()?;
    let guest = Guest::new(30)?;
    let session = create("kvm-module-preserved")?;
    guest.preserve(&session)?;
    drop(guest);
    let result = modules::unload(AMD);
    expect_errno(
        result,
        Errno::WOULDBLOCK,
        "unloading a module with a preserved VM",
    )?;
    drop(session);
    unload("after the session has ended")
}

/// What the next kernel takes over.
fn hand_over(stage: &mut Stage<'_>) -> Result {
    preserved()?;
    load()?;
    for (name, seed) in [
        ("module-early", 31),
        ("module-lost", 32),
        ("module-carried", 33),
    ] {
        hold(stage, name, seed)?;
    }
    Ok(())
}

/// Until the module is loaded, nothing can be retrieved, and nothing is lost.
fn take_over(_: &mut Stage<'_>) -> Result {
    let session = retrieve("kvm-module-early")?;
    for token in [MEMORY, VM, MEMORY] {
        expect_errno(session.retrieve(token), Errno::NODEV, "a file without KVM")?;
    }
    // A session that is finished without KVM is lost.
    retrieve("kvm-module-lost")?.finish()?;
    load()?;
    let guest = Guest::retrieve(&session)?;
    guest.check(31, &[])?;
    guest.store(4, 0xb1)?.at("KVM_RUN")?;
    let result = modules::unload(AMD);
    expect_errno(result, Errno::WOULDBLOCK, "unloading a module with a VM")?;
    session.finish()?;
    guest.check(31, &[(4, 0xb1)])?;
    drop(guest);
    // The last session is carried over without KVM.
    unload("after the VM is closed")
}

/// A session was carried over by a kernel without KVM.
fn take_over_again(_: &mut Stage<'_>) -> Result {
    load()?;
    let session = retrieve("kvm-module-carried")?;
    let guest = Guest::retrieve(&session)?;
    guest.check(33, &[])?;
    guest.store(5, 0xb3)?.at("KVM_RUN")?;
    session.finish()?;
    drop(guest);
    unload("at the end")
}

/// The suite.
pub fn suite() -> Suite {
    let case = Case::chain(
        "guests_over_two_updates",
        [hand_over, take_over, take_over_again],
    );
    Suite::on_machine(GROUP, "kvm_module", case)
}
