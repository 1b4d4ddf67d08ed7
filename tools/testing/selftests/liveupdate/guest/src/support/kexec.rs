// SPDX-License-Identifier: GPL-2.0

//! Loading and starting the next kernel.

mod cpio;
pub mod image;

use crate::support::{
    args::Args,
    error::{At, Failure, Result},
};
use liveupdate::raw;
use luo_check::bzimage::BzImage;
use rustix::system::RebootCommand;
use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
};

const KERNEL: &str = "/boot/next";
/// The kernel for the second and later kexecs, if it exists.
const LATER_KERNEL: &str = "/boot/next2";
/// Further parameters for the next kernel.
const MORE_PARAMS: &str = "/boot/params";

/// Loads a kernel with an initramfs and a command line.
type Load = fn(BorrowedFd<'_>, Option<BorrowedFd<'_>>, &CStr) -> io::Result<()>;

/// The kernel to start, and its parameters.
pub struct Plan {
    kernel: String,
    cmdline: String,
}

impl Plan {
    /// The next stage of this command. With the option `alternate`, every other kernel has the
    /// parameter that the option names.
    pub fn stage(args: &Args, stage: usize) -> Result<Self> {
        Self::new(args.option("next"), stage, |cmdline| {
            let cmdline = match args.option("alternate") {
                Some(param) => toggle(cmdline, param),
                None => cmdline.into(),
            };
            format!("{cmdline} --stage={stage}")
        })
    }

    /// The command line of this kernel.
    pub fn same(args: &Args) -> Result<Self> {
        Self::new(args.option("next"), 2, |cmdline| cmdline.into())
    }

    /// A kernel that must not be started.
    pub fn dry() -> Result<Self> {
        Self::new(None, 2, |cmdline| cmdline.into())
    }

    fn new(next: Option<&str>, stage: usize, change: impl FnOnce(&str) -> String) -> Result<Self> {
        let kernel = match next {
            Some(path) => path,
            None if stage > 2 && fs::exists(LATER_KERNEL).unwrap_or(false) => LATER_KERNEL,
            None => KERNEL,
        };
        let cmdline = fs::read_to_string("/proc/cmdline").at("read the kernel's command line")?;
        // The number of the last stage is removed because the length of the line is limited.
        let words = cmdline
            .split_ascii_whitespace()
            .filter(|word| !word.starts_with("--stage="));
        let cmdline = words.collect::<Vec<_>>().join(" ");
        let cmdline = match (fs::read_to_string(MORE_PARAMS), cmdline.split_once(" -- ")) {
            // The last parameter applies.
            (Ok(more), Some((params, words))) => format!("{params} {more} -- {words}"),
            _ => cmdline,
        };
        Ok(Self {
            kernel: kernel.into(),
            cmdline: change(&cmdline),
        })
    }

    /// Adds a parameter.
    pub fn with(mut self, param: &str) -> Self {
        self.cmdline = format!("{param} {}", self.cmdline);
        self
    }

    /// Sets another kernel.
    pub fn kernel(mut self, path: &str) -> Self {
        self.kernel = path.into();
        self
    }

    /// The image of the kernel.
    pub fn image(&self) -> Result<Vec<u8>> {
        fs::read(&self.kernel).at(format_args!("read {}", self.kernel))
    }

    /// Whether the kernel in the image is an ELF file, and not compressed. A test that calls this
    /// is skipped on architectures whose images have no boot code.
    pub fn is_plain(&self) -> Result<bool> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Failure::skip("only images of x86 have boot code"));
        }
        let file = self.image()?;
        let image = BzImage::parse(&file).map_err(|error| Failure::new(error.to_string()))?;
        Ok(image.payload.starts_with(b"\x7fELF"))
    }

    /// The command line of the next kernel.
    pub fn cmdline(&self) -> &str {
        &self.cmdline
    }

    fn open(&self) -> Result<File> {
        File::open(&self.kernel).at(format_args!("open {}", self.kernel))
    }

    /// Loads the kernel, with the current root file system.
    pub fn load(&self) -> Result {
        self.load_image(&self.open()?)
    }

    /// Like [`Self::load`], for a kernel that does not start another one: the initramfs contains
    /// no image for that, which would have to be copied and verified.
    pub fn load_last(&self) -> Result {
        let kernel = self.open()?;
        fs::remove_file(&self.kernel).at(format_args!("remove {}", self.kernel))?;
        self.load_image(&kernel)
    }

    /// Like [`Self::load`]; the kernel logs the steps.
    pub fn load_loudly(&self) -> Result {
        self.load_by(&self.open()?, raw::kexec_file_load_debug)
    }

    /// Like [`Self::load`], with another root file system.
    pub fn load_with(&self, initramfs: &File) -> Result<io::Result<()>> {
        let kernel = self.open()?;
        let cmdline = self.c_cmdline()?;
        let initramfs = Some(initramfs.as_fd());
        Ok(raw::kexec_file_load(kernel.as_fd(), initramfs, &cmdline))
    }

    fn c_cmdline(&self) -> Result<CString> {
        CString::new(self.cmdline.as_str())
            .map_err(|_| Failure::new("the command line contains a null byte"))
    }

    fn load_image(&self, kernel: &File) -> Result {
        self.load_by(kernel, raw::kexec_file_load)
    }

    fn load_by(&self, kernel: &File, load: Load) -> Result {
        let initramfs = image::pack_root()?;
        let cmdline = self.c_cmdline()?;
        load(kernel.as_fd(), Some(initramfs.as_fd()), &cmdline)
            .at(format_args!("kexec_file_load {}", self.kernel))
    }
}

/// Adds a parameter to a command line, or removes it.
fn toggle(cmdline: &str, param: &str) -> String {
    let mut words: Vec<_> = cmdline.split(' ').collect();
    match words.iter().position(|word| *word == param) {
        Some(at) => drop(words.remove(at)),
        None => words.insert(0, param),
    }
    words.join(" ")
}

/// Adds a parameter for all following kernels.
pub fn add_param(param: &str) -> Result {
    fs::write(MORE_PARAMS, param).at(MORE_PARAMS)
}

/// Starts the loaded kernel. Returns only on failure.
pub fn try_jump() -> io::Error {
    match rustix::system::reboot(RebootCommand::Kexec) {
        Err(error) => error.into(),
        Ok(()) => io::Error::other("the system call has returned without an error"),
    }
}

/// Like [`try_jump`], with a sentence as error.
pub fn jump() -> Failure {
    Failure::new(format!("the next kernel cannot be started: {}", try_jump()))
}

/// Crashes this kernel: the crash kernel is the loaded one, with the number of the next stage. It runs
/// in the memory of the parameter `crashkernel`, and takes nothing over.
pub fn crash(stage: usize) -> Result {
    const TRIGGER: &str = "/proc/sysrq-trigger";

    let plan = Plan::new(None, stage, |cmdline| {
        let words = cmdline.split(' ');
        let words: Vec<_> = words.filter(|w| !w.starts_with("crashkernel=")).collect();
        let cmdline = words.join(" ");
        format!(
            "{} --stage={stage}",
            cmdline.replace(" -- ", " kho=off liveupdate=off nr_cpus=1 -- ")
        )
    })?;
    plan.load_by(&plan.open()?, raw::kexec_file_load_crash)?;
    println!("# expect-panic sysrq triggered crash");
    fs::write(TRIGGER, "c").at(TRIGGER)
}

/// The arguments of `kexec_load`.
#[repr(C)]
struct Segment {
    buf: *const u8,
    bufsz: usize,
    mem: usize,
    memsz: usize,
}

/// An address without firmware or early kernel data, on all supported machines.
#[cfg(not(target_arch = "aarch64"))]
const ADDRESS: usize = 0x0200_0000;
/// The same for arm64, where memory begins at 1 GiB.
#[cfg(target_arch = "aarch64")]
const ADDRESS: usize = 0x4800_0000;

/// Code that resets the machine by its keyboard controller: `mov $0xfe,%al; out %al,$0x64`, and a
/// jump to the start.
#[cfg(not(target_arch = "aarch64"))]
static RESET: [u8; 6] = [0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfa];
/// Code that resets the machine by its firmware: `mov w0, #9; movk w0, #0x8400, lsl #16; hvc #0`,
/// and a jump to the start.
#[cfg(target_arch = "aarch64")]
static RESET: [u8; 16] = [
    0x20, 0x01, 0x80, 0x52, 0x00, 0x80, 0xb0, 0x72, 0x02, 0x00, 0x00, 0xd4, 0xfd, 0xff, 0xff, 0x17,
];

/// Loads, by the old system call, an image that cannot take over data.
///
/// If it is started anyway, it resets the machine.
pub fn load_legacy() -> io::Result<()> {
    const KEXEC_ARCH_DEFAULT: usize = 0;
    let segment = Segment {
        buf: RESET.as_ptr(),
        bufsz: RESET.len(),
        mem: ADDRESS,
        memsz: 4096,
    };
    // SAFETY: There is one segment, whose bytes live until the end of this function.
    let status = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            ADDRESS,
            1usize,
            std::ptr::from_ref(&segment),
            KEXEC_ARCH_DEFAULT,
        )
    };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod unit {
    use super::toggle;

    #[test]
    fn a_parameter_comes_and_goes() {
        let with = toggle("kho=on -- selftest", "no5lvl");
        assert_eq!(with, "no5lvl kho=on -- selftest");
        assert_eq!(toggle(&with, "no5lvl"), "kho=on -- selftest");
    }
}
