// SPDX-License-Identifier: GPL-2.0

//! The architectures that kernels are built for and machines are emulated of. What differs between
//! them is in their [`Description`]; the rest of the program asks it.

use clap::ValueEnum;

/// An architecture, by the name of its directory in the kernel's `arch/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64, the architecture of this machine.
    X86,
    /// AArch64, cross-built.
    Arm64,
}

/// What an architecture needs.
#[derive(Debug)]
pub struct Description {
    /// Its name in the kernel's `arch/`, and of the directory of its configuration fragments.
    pub name: &'static str,
    /// Arguments of the kernel's `make`.
    pub kbuild: &'static [&'static str],
    /// The target of `make` that builds the image that QEMU and kexec load.
    pub image: &'static str,
    /// What the names of kernels, logs and files end in; empty for x86.
    pub suffix: &'static str,
    /// Whether this machine runs its programs.
    pub native: bool,
    /// Fragments that its kernels do not have.
    pub without: &'static [&'static str],
    /// How many steps a build has less than on x86, about.
    pub fewer_steps: usize,
    /// The system emulator.
    pub qemu: &'static str,
    /// The package of the emulator.
    pub qemu_package: &'static str,
    /// The emulated processor.
    pub cpu: &'static str,
    /// The type of machine, if the [kind of machine](crate::machine::named) does not say.
    pub board: &'static str,
    /// The serial port that the tests read.
    pub console: &'static str,
    /// Kernel parameters of all machines.
    pub params: &'static str,
    /// The target of Rust programs.
    pub triple: &'static str,
    /// The compiler and linker of programs, with its options.
    pub cc: &'static [&'static str],
    /// Options of the Rust compiler for linking.
    pub link: &'static [&'static str],
}

static X86: Description = Description {
    name: "x86",
    kbuild: &[],
    image: "bzImage",
    suffix: "",
    native: true,
    without: &[],
    fewer_steps: 0,
    qemu: "qemu-system-x86_64",
    qemu_package: "qemu-system-x86",
    // Whatever can be emulated, but for fast `rep movsb` and `rep stosb`: real processors are best at
    // these, whereas the emulator takes a step for each byte. Without, the kernel uses whole words.
    cpu: "max,-erms,-fsrm,-fsrs,-fzrm",
    board: "pc",
    console: "ttyS0",
    // A busy host delays the timer such that the kernel takes it for broken.
    params: "no_timer_check",
    triple: "x86_64-unknown-linux-gnu",
    cc: &["gcc"],
    link: &[],
};

static ARM64: Description = Description {
    name: "arm64",
    kbuild: &["ARCH=arm64"],
    image: "Image",
    suffix: "-arm64",
    native: false,
    // For a build of some minutes: no test under Debian runs on this architecture yet.
    without: &["debian"],
    fewer_steps: 1000,
    qemu: "qemu-system-aarch64",
    qemu_package: "qemu-system-arm",
    // Signing pointers as the architecture describes it takes the emulator long.
    cpu: "max,pauth-impdef=on",
    board: "virt,gic-version=3",
    console: "ttyAMA0",
    // Without this, a kernel that panics before its serial port has a driver prints nothing.
    params: "earlycon",
    triple: "aarch64-unknown-linux-gnu",
    cc: &["clang", "--target=aarch64-linux-gnu", "-fuse-ld=lld"],
    link: &[
        "-Clinker=clang",
        "-Clink-arg=--target=aarch64-linux-gnu",
        "-Clink-arg=-fuse-ld=lld",
    ],
};

impl Arch {
    /// What this architecture needs.
    pub fn describe(self) -> &'static Description {
        match self {
            Arch::X86 => &X86,
            Arch::Arm64 => &ARM64,
        }
    }
}

impl Description {
    /// `name` with what distinguishes files of this architecture from those of x86.
    pub fn suffixed(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_do_not_share_files() {
        let names: Vec<String> = Arch::value_variants()
            .iter()
            .map(|arch| arch.describe().suffixed("kernel"))
            .collect();
        assert_eq!(names, ["kernel", "kernel-arm64"]);
    }
}
