// SPDX-License-Identifier: GPL-2.0

//! `luoctl load`.

use crate::{
    cli::{Cli, Exit, Failure, LoadOptions},
    image,
};
use luo_check::{worst, Verdict};
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsRawFd, RawFd},
};

/// `kexec_file_load()`, which neither the standard library nor rustix has.
#[allow(unsafe_code)]
fn kexec_file_load(kernel: &File, initrd: Option<&File>, cmdline: &CString) -> io::Result<()> {
    /// `KEXEC_FILE_NO_INITRAMFS`.
    const NO_INITRAMFS: libc::c_ulong = 4;
    let initrd_fd: RawFd = initrd.map_or(-1, |file| file.as_raw_fd());
    let flags = if initrd.is_some() { 0 } else { NO_INITRAMFS };
    // SAFETY: The descriptors are open; the kernel reads the command line, which lives until the
    // call returns, and whose length includes the terminator.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd_fd,
            cmdline.as_bytes_with_nul().len(),
            cmdline.as_ptr(),
            flags,
        )
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `luoctl load IMAGE`.
pub fn load(cli: &Cli, options: &LoadOptions) -> Result<Exit, Failure> {
    let failed =
        |what: &str, error: io::Error| Failure::new(Exit::Failed, format!("{what}: {error}"));
    let cmdline = match &options.cmdline {
        Some(cmdline) => cmdline.clone(),
        None => {
            fs::read_to_string("/proc/cmdline").map_err(|error| failed("/proc/cmdline", error))?
        }
    };
    let cmdline = cmdline.trim();
    let name = options.image.display().to_string();
    let initrd = match &options.initrd {
        None => None,
        Some(path) => {
            Some(File::open(path).map_err(|error| failed(&path.display().to_string(), error))?)
        }
    };
    let initrd_len = initrd
        .as_ref()
        .and_then(|file| file.metadata().ok())
        .map_or(0, |data| data.len());

    match image::read(&options.image) {
        Ok(image) => {
            let findings = image::findings(&image, initrd_len, Some(cmdline));
            image::show(cli, &findings);
            if worst(&findings) == Verdict::No && !options.force {
                return Err(Failure::new(
                    Exit::No,
                    format!("{name} was not loaded: an update to it would lose data; --force loads it all the same"),
                ));
            }
        }
        Err(failure) if failure.exit == Exit::Unknown => eprintln!("luoctl: {}", failure.message),
        Err(failure) => return Err(failure),
    }

    let kernel = File::open(&options.image).map_err(|error| failed(&name, error))?;
    let cmdline = CString::new(cmdline)
        .map_err(|_| Failure::new(Exit::Usage, "the command line contains a null byte"))?;
    kexec_file_load(&kernel, initrd.as_ref(), &cmdline)
        .map_err(|error| failed(&format!("the kernel cannot load {name}"), error))?;
    let loaded = image::loaded();
    if loaded.verdict == Verdict::No && !options.force {
        return Err(Failure::new(Exit::No, loaded.reason));
    }
    if !cli.json {
        println!("{name} is loaded; luoctl kexec starts it");
    }
    Ok(Exit::Good)
}
