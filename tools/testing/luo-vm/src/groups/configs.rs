// SPDX-License-Identifier: GPL-2.0

//! The group `configs`: compiles objects of the overlay, and changed files of the base, in unusual
//! configurations.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ctx::Ctx;
use crate::kernel::build;
use crate::kernel::config;
use crate::kernel::findings::findings;
use crate::kernel::source::{self, Series, OUT_PREFIX};
use crate::kernel::tree;
use crate::report::results::Report;
use crate::report::step::Step;

/// The common options of all configurations, on top of `allnoconfig`.
const COMMON: &str = "CONFIG_64BIT=y\nCONFIG_EXPERT=y\nCONFIG_PRINTK=y\nCONFIG_BUG=y\n";

/// Live updates of memfds, with the minimum of other options.
const LIVEUPDATE: &str = "CONFIG_RUST=y\nCONFIG_RELOCATABLE=y\nCONFIG_KEXEC_FILE=y\n\
    CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\nCONFIG_SHMEM=y\nCONFIG_TMPFS=y\n\
    CONFIG_MEMFD_CREATE=y\nCONFIG_NET=y\nCONFIG_SYSFS=y\nCONFIG_PROC_FS=y\n";

/// A configuration: its name, its base, and its further options. The last request for an option
/// applies.
struct Odd {
    name: &'static str,
    base: &'static str,
    more: &'static str,
}

const fn odd(name: &'static str, base: &'static str, more: &'static str) -> Odd {
    Odd { name, base, more }
}

/// Those without Rust are first, since they compile quickly.
const CONFIGS: [Odd; 21] = [
    odd("nothing at all", "", "CONFIG_SHMEM=n\n"),
    odd(
        "memfds without shmem",
        "",
        "CONFIG_SHMEM=n\nCONFIG_HUGETLBFS=y\nCONFIG_MEMFD_CREATE=y\n",
    ),
    odd(
        "shmem without tmpfs",
        "",
        "CONFIG_SHMEM=y\nCONFIG_TMPFS=n\n",
    ),
    odd(
        "shmem with all that there is",
        "",
        "CONFIG_SMP=y\nCONFIG_SHMEM=y\nCONFIG_TMPFS=y\nCONFIG_MEMFD_CREATE=y\n\
         CONFIG_TRANSPARENT_HUGEPAGE=y\nCONFIG_BLOCK=y\nCONFIG_SWAP=y\nCONFIG_CGROUPS=y\nCONFIG_MEMCG=y\n\
         CONFIG_USERFAULTFD=y\nCONFIG_NUMA=y\n",
    ),
    odd(
        "kexec without handover",
        "",
        "CONFIG_RELOCATABLE=y\nCONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\nCONFIG_CRASH_DUMP=y\n\
         CONFIG_KEXEC_JUMP=y\nCONFIG_SUSPEND=y\nCONFIG_HIBERNATION=y\nCONFIG_SWAP=y\n\
         CONFIG_BLOCK=y\n",
    ),
    odd(
        "handover without live updates",
        "",
        "CONFIG_RELOCATABLE=y\nCONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_HANDOVER=y\n\
         CONFIG_KEXEC_HANDOVER_DEBUG=y\nCONFIG_X86_MCE=y\nCONFIG_MEMORY_FAILURE=y\n",
    ),
    odd("live updates", LIVEUPDATE, "CONFIG_LIVEUPDATE_MEMFD=y\n"),
    odd(
        "without shmem",
        LIVEUPDATE,
        "CONFIG_SHMEM=n\nCONFIG_TMPFS=n\nCONFIG_MEMFD_CREATE=n\n",
    ),
    odd(
        "memfds without shmem, with live updates",
        LIVEUPDATE,
        "CONFIG_SHMEM=n\nCONFIG_TMPFS=n\nCONFIG_HUGETLBFS=y\nCONFIG_MEMFD_CREATE=y\n",
    ),
    odd("without sysfs", LIVEUPDATE, "CONFIG_SYSFS=n\n"),
    odd("without proc", LIVEUPDATE, "CONFIG_PROC_FS=n\n"),
    odd(
        "without debugfs and printk",
        LIVEUPDATE,
        "CONFIG_KEXEC_HANDOVER_DEBUGFS=n\nCONFIG_DEBUG_FS=n\nCONFIG_PRINTK=n\n",
    ),
    odd(
        "io_uring without net",
        LIVEUPDATE,
        "CONFIG_NET=n\nCONFIG_IO_URING=y\n",
    ),
    odd(
        "neither net nor io_uring",
        LIVEUPDATE,
        "CONFIG_NET=n\nCONFIG_IO_URING=n\n",
    ),
    odd(
        "modules and bad memory",
        LIVEUPDATE,
        "CONFIG_SMP=y\nCONFIG_MODULES=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_X86_MCE=y\n\
         CONFIG_MEMORY_FAILURE=y\nCONFIG_DEFERRED_STRUCT_PAGE_INIT=y\n",
    ),
    odd(
        "samples and test handlers",
        LIVEUPDATE,
        "CONFIG_SAMPLES=y\nCONFIG_SAMPLES_RUST=y\nCONFIG_SAMPLE_RUST_LIVEUPDATE=y\n\
         CONFIG_PCI=y\nCONFIG_SAMPLE_RUST_DRIVER_EDU=y\n\
         CONFIG_DEBUG_KERNEL=y\nCONFIG_RUNTIME_TESTING_MENU=y\nCONFIG_LIVEUPDATE_TEST_HANDLER=y\n\
         CONFIG_LIVEUPDATE_TEST_SHARED=y\n",
    ),
    odd(
        "devices of user space without live updates",
        "",
        "CONFIG_PCI=y\nCONFIG_SYSFS=y\nCONFIG_PCI_MSI=y\nCONFIG_MODULES=y\nCONFIG_IOMMU_SUPPORT=y\n\
         CONFIG_IOMMUFD=y\nCONFIG_VFIO=m\nCONFIG_VFIO_GROUP=y\nCONFIG_VFIO_DEVICE_CDEV=y\n\
         CONFIG_VFIO_PCI=m\nCONFIG_PCI_IOV=y\nCONFIG_PCI_DOE=y\nCONFIG_PCIEPORTBUS=y\n\
         CONFIG_HOTPLUG_PCI=y\nCONFIG_HOTPLUG_PCI_PCIE=y\n",
    ),
    odd(
        "devices of user space",
        LIVEUPDATE,
        "CONFIG_PCI=y\nCONFIG_PCI_MSI=y\nCONFIG_IOMMU_SUPPORT=y\nCONFIG_IOMMUFD=y\n\
         CONFIG_VFIO=y\nCONFIG_VFIO_GROUP=y\nCONFIG_VFIO_DEVICE_CDEV=y\nCONFIG_VFIO_PCI=y\n\
         CONFIG_PCI_IOV=y\nCONFIG_PCI_DOE=y\nCONFIG_PCIEPORTBUS=y\nCONFIG_HOTPLUG_PCI=y\n\
         CONFIG_HOTPLUG_PCI_PCIE=y\n",
    ),
    odd(
        "guests without live updates",
        "",
        "CONFIG_SMP=y\nCONFIG_CPU_SUP_AMD=y\nCONFIG_HIGH_RES_TIMERS=y\nCONFIG_VIRTUALIZATION=y\n\
         CONFIG_KVM=y\nCONFIG_KVM_AMD=y\n",
    ),
    odd(
        "guests",
        LIVEUPDATE,
        "CONFIG_SMP=y\nCONFIG_CPU_SUP_AMD=y\nCONFIG_HIGH_RES_TIMERS=y\nCONFIG_VIRTUALIZATION=y\n\
         CONFIG_KVM=y\nCONFIG_KVM_AMD=y\nCONFIG_LIVEUPDATE_MEMFD=y\n",
    ),
    odd(
        "kunit and failures",
        LIVEUPDATE,
        "CONFIG_KUNIT=y\nCONFIG_LIVEUPDATE_KUNIT_TEST=y\nCONFIG_DEBUG_KERNEL=y\n\
         CONFIG_DEBUG_FS=y\nCONFIG_RUNTIME_TESTING_MENU=y\nCONFIG_FAULT_INJECTION=y\n\
         CONFIG_LIVEUPDATE_ERROR_INJECTION=y\nCONFIG_FTRACE=y\nCONFIG_ENABLE_DEFAULT_TRACERS=y\n\
         CONFIG_JUMP_LABEL=y\n",
    ),
];

/// An object, and the option without which it is not built.
type Object = (&'static str, &'static str);

/// The objects of all C files and crates that belong to the overlay, or that patches change.
const OBJECTS: [Object; 49] = [
    ("mm/memblock.o", ""),
    ("mm/shmem.o", ""),
    ("mm/memfd.o", "MEMFD_CREATE"),
    ("mm/memory-failure.o", "MEMORY_FAILURE"),
    ("mm/hugetlb.o", "HUGETLBFS"),
    ("fs/hugetlbfs/inode.o", "HUGETLBFS"),
    ("kernel/dma/swiotlb.o", "SWIOTLB"),
    ("kernel/time/clocksource.o", ""),
    ("kernel/trace/ring_buffer.o", "RING_BUFFER"),
    ("kernel/kexec_core.o", "KEXEC_CORE"),
    ("kernel/kexec_file.o", "KEXEC_FILE"),
    ("kernel/liveupdate/kexec_handover.o", "KEXEC_HANDOVER"),
    (
        "kernel/liveupdate/kexec_handover_debugfs.o",
        "KEXEC_HANDOVER_DEBUGFS",
    ),
    (
        "kernel/liveupdate/kho_hwpoison.o",
        "KEXEC_HANDOVER+MEMORY_FAILURE",
    ),
    ("arch/x86/kernel/kexec-bzimage64.o", "KEXEC_FILE"),
    ("arch/x86/kernel/kexec-vmlinux.o", "KEXEC_FILE"),
    ("arch/x86/kernel/kho_timers.o", "KEXEC_HANDOVER"),
    ("arch/x86/kernel/apic/apic.o", "X86_LOCAL_APIC"),
    ("arch/x86/kernel/time.o", ""),
    ("arch/x86/kernel/tsc.o", ""),
    ("rust/kernel.o", "RUST"),
    ("rust/helpers/helpers.o", "RUST"),
    (
        "kernel/liveupdate/luo.o+kernel/liveupdate/luo_exports.o+kernel/liveupdate/luo_trace.o",
        "LIVEUPDATE",
    ),
    ("mm/luo_shmem.o", "LIVEUPDATE_MEMFD"),
    ("mm/luo_hugetlb.o", "LIVEUPDATE_MEMFD+HUGETLBFS"),
    ("mm/memfd_luo.o", "LIVEUPDATE_MEMFD"),
    ("drivers/pci/access.o", "PCI"),
    ("drivers/pci/doe.o", "PCI_DOE"),
    ("drivers/pci/hotplug/pciehp_ctrl.o", "HOTPLUG_PCI_PCIE"),
    ("drivers/pci/iov.o", "PCI_IOV"),
    ("drivers/pci/pci-driver.o", "PCI"),
    ("drivers/pci/pci-sysfs.o", "PCI+SYSFS"),
    ("drivers/pci/pci.o", "PCI"),
    ("drivers/pci/pcie/aspm.o", "PCIEASPM"),
    ("drivers/pci/pcie/portdrv.o", "PCIEPORTBUS"),
    ("drivers/pci/probe.o", "PCI"),
    ("drivers/pci/setup-bus.o", "PCI"),
    ("drivers/pci/setup-res.o", "PCI"),
    (
        "drivers/pci/liveupdate/core.o+drivers/pci/liveupdate/pci_liveupdate.o",
        "PCI_LIVEUPDATE",
    ),
    ("drivers/usb/host/pci-quirks.o", "USB_PCI"),
    (
        "drivers/vfio/pci/liveupdate/core.o+drivers/vfio/pci/liveupdate/vfio_pci_liveupdate.o+\
         drivers/vfio/liveupdate.o+drivers/vfio/pci/vfio_pci_liveupdate.o",
        "VFIO_PCI_LIVEUPDATE",
    ),
    (
        "drivers/iommu/iommufd/device.o+drivers/vfio/device_cdev.o+drivers/vfio/vfio_main.o+\
         drivers/vfio/pci/vfio_pci.o+drivers/vfio/pci/vfio_pci_core.o+\
         drivers/vfio/pci/vfio_pci_intrs.o",
        "VFIO_PCI+IOMMUFD+VFIO_DEVICE_CDEV",
    ),
    (
        "mm/luo_guest_memfd.o+virt/kvm/liveupdate/core.o+virt/kvm/liveupdate/kvm_liveupdate.o+\
         arch/x86/kvm/../../../virt/kvm/kvm_liveupdate.o",
        "KVM_LIVEUPDATE",
    ),
    (
        "arch/x86/kvm/../../../virt/kvm/guest_memfd.o+arch/x86/kvm/../../../virt/kvm/kvm_main.o",
        "KVM_GUEST_MEMFD",
    ),
    ("samples/rust/rust_liveupdate.o", "SAMPLE_RUST_LIVEUPDATE"),
    (
        "samples/rust/rust_driver_edu/rust_driver_edu.o",
        "SAMPLE_RUST_DRIVER_EDU",
    ),
    (
        "lib/tests/liveupdate_handler.o+lib/tests/liveupdate_vital.o",
        "LIVEUPDATE_TEST_HANDLER",
    ),
    ("lib/tests/liveupdate_shared.o", "LIVEUPDATE_TEST_SHARED"),
    ("lib/tests/liveupdate_fault.o", "LIVEUPDATE_ERROR_INJECTION"),
];

/// Sources that are compiled only for other architectures, or only for a complete image.
const ELSEWHERE: [&str; 2] = ["arch/arm64/", "arch/x86/boot/"];

/// Compiles the objects in all configurations.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    let base = source::base(ctx, Series::V7_3)?;
    let _lock = base.lock()?;
    let prepared = tree::prepare(ctx, &base)?;
    report.check(
        "all files of C are compiled",
        missed(
            prepared
                .files
                .iter()
                .map(PathBuf::as_path)
                // Removed files are treated as changed.
                .filter(|file| prepared.dir.join(file).exists()),
        ),
    );
    let out = prepared.dir.join(format!("{OUT_PREFIX}configs"));
    fs::create_dir_all(&out)?;
    let ours: Vec<PathBuf> = prepared.files.iter().cloned().collect();
    for odd in &CONFIGS {
        report.attempt(odd.name, compile(ctx, odd, &out, &ours));
    }
    Ok(())
}

/// The C files that belong to no object.
fn missed<'a>(files: impl Iterator<Item = &'a Path>) -> Option<String> {
    let is_missed = |file: &&Path| {
        let object = file.with_extension("o");
        let is_built = OBJECTS
            .iter()
            .flat_map(|(objects, _)| objects.split('+'))
            // KVM is compiled from the directory of its architecture.
            .filter_map(|known| known.rsplit("../").next())
            .any(|known| Path::new(known) == object);
        let kernel = ["arch", "drivers", "kernel", "lib", "mm", "virt"];
        file.extension().is_some_and(|extension| extension == "c")
            && kernel.iter().any(|dir| file.starts_with(dir))
            && !ELSEWHERE.iter().any(|dir| file.starts_with(dir))
            && !is_built
    };
    let missed: Vec<String> = files
        .filter(is_missed)
        .map(|file| file.display().to_string())
        .collect();
    (!missed.is_empty()).then(|| format!("{} belong to no object", missed.join(", ")))
}

/// Compiles the objects in one configuration; returns the warnings, if there are any.
fn compile(ctx: &Ctx, odd: &Odd, out: &Path, ours: &[PathBuf]) -> Result<Option<String>> {
    let name: String = odd
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let log = ctx.log(&format!("configs-{name}"));
    let mut step = Step::start(ctx, odd.name);
    let requests = [COMMON, odd.base, odd.more].concat();
    let file = out.join("odd.config");
    fs::write(&file, last_requests(&requests))?;
    let mut configure = build::make(ctx, out);
    configure.env("KCONFIG_ALLCONFIG", &file).arg("allnoconfig");
    step.run(&mut configure, &log)?;
    let got = fs::read_to_string(out.join(".config")).context("there is no .config")?;
    let missing = config::missing(&requests, &got);
    if !missing.is_empty() {
        step.done("refused");
        return Ok(Some(format!(
            "Kconfig did not accept {}",
            missing.join(", ")
        )));
    }

    let is_set = |option: &str| {
        let line = format!("CONFIG_{option}=y");
        option.is_empty() || got.lines().any(|other| other == line)
    };
    let objects: Vec<&str> = OBJECTS
        .iter()
        .filter(|(_, options)| options.split('+').all(is_set))
        .flat_map(|(objects, _)| objects.split('+'))
        .collect();
    let mut compile = build::make(ctx, out);
    let outcome = step.run(compile.args(&objects), &log);
    step.done(&format!("{} objects", objects.len()));
    if let Err(error) = outcome {
        return Ok(Some(format!("{error:#}")));
    }
    let found = findings(&fs::read_to_string(&log)?, ours);
    Ok((!found.is_empty()).then(|| found.join("\n")))
}

/// `requests` without those that later ones replace, about which Kconfig would print warnings.
fn last_requests(requests: &str) -> String {
    let lines: Vec<&str> = requests.lines().collect();
    let name = |line: &str| line.split('=').next().unwrap_or(line).to_owned();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        if !lines[at + 1..]
            .iter()
            .any(|later| name(later) == name(line))
        {
            text += line;
            text += "\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_an_object_are_named() {
        let files = ["mm/shmem.c", "mm/shmem.rs", "arch/arm64/kernel/x.c"].map(Path::new);
        assert_eq!(missed(files.into_iter()), None);
        let files = [Path::new("mm/new.c")];
        assert_eq!(
            missed(files.into_iter()),
            Some("mm/new.c belong to no object".to_owned())
        );
    }

    #[test]
    fn the_last_request_counts() {
        let text = last_requests("CONFIG_A=y\nCONFIG_B=y\nCONFIG_A=n\n");
        assert_eq!(text, "CONFIG_B=y\nCONFIG_A=n\n");
    }
}
