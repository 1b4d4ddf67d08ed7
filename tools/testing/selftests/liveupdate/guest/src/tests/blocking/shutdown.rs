// SPDX-License-Identifier: GPL-2.0

//! After the serialization, the devices are shut down, which may wait for locks of tasks that access
//! memory of preserved files. These tasks must not wait for the next kernel.

use crate::support::{
    error::{ensure_eq, At, Result},
    mapping::map_shared,
    memfd,
    registry::Case,
    sessions::{create, retrieve},
    test_device::{TestDevice, NO_HANDLER},
};
use rustix::{
    io::Errno,
    mm::{mmap_anonymous, mprotect, MapFlags, MprotectFlags, ProtFlags},
};
use std::{ffi::c_void, fs, ptr, thread, time::Duration};

const PAGE: usize = 4096;
/// Far more pages than the test fills.
const LEN: u64 = 64 << 20;

/// The delay of the reboot in milliseconds, during which other tasks access the memory.
const DELAY: &str = "/sys/module/liveupdate_handler/parameters/reboot_delay_ms";

/// The driver adds this to the error number that it reports.
const MET: u64 = 1000;

/// Fills holes of a file as long as possible, and repeatedly changes the protection of the memory,
/// which needs the locks of the address space.
fn fill_and_protect(memory: *mut c_void) {
    let pages = LEN as usize / PAGE;
    let start = memory.addr();
    thread::spawn(move || {
        for page in 0..pages / 2 {
            // SAFETY: Within the mapping, which stays and has no other users.
            unsafe { ((start + page * PAGE) as *mut u8).write_volatile(1) };
            thread::sleep(Duration::from_millis(5));
        }
    });
    let last = start + LEN as usize - PAGE;
    thread::spawn(move || loop {
        for flags in [
            MprotectFlags::READ,
            MprotectFlags::READ | MprotectFlags::WRITE,
        ] {
            // SAFETY: The page is part of the mapping, and has no users.
            let _ = unsafe { mprotect(last as *mut c_void, PAGE, flags) };
            thread::sleep(Duration::from_millis(5));
        }
    });
}

/// A driver accesses `memory`, with a lock held that the shutdown of its device takes.
fn access(
    name: &'static str,
    hazard: &'static str,
    token: u64,
    memory: impl Fn(*mut c_void) -> Result<*mut c_void> + 'static,
    errno: u64,
) -> Case {
    Case::two(
        name,
        move |stage| {
            let device = TestDevice::open(TestDevice::C)?;
            fs::write(DELAY, "1000").at(DELAY)?;
            let file = memfd::new()?;
            file.set_len(LEN).at("set the size")?;
            let map = map_shared(&file, 0, LEN)?;
            let session = create(name)?;
            session.preserve(&file, token)?;
            session.preserve(&device, token + 1)?;
            let address = memory(map)?.addr();
            let order = format!("access-late {address:#x}");
            let theirs = TestDevice::from(
                std::os::fd::AsFd::as_fd(&device)
                    .try_clone_to_owned()
                    .at("dup")?,
            );
            // The thread ends with the kernel.
            thread::spawn(move || theirs.write(&order).is_ok());
            stage.hold((session, file, device));
            Ok(())
        },
        move |_| {
            let session = retrieve(name)?;
            drop(session.retrieve(token)?);
            let device = TestDevice::from(session.retrieve(token + 1)?);
            ensure_eq!(device.value()?, MET + errno, "the error of the driver");
            Ok(session.finish()?)
        },
    )
    .hazard_unseen(hazard, NO_HANDLER)
}

pub fn cases() -> Vec<Case> {
    let hole = |map: *mut c_void| Ok(map.wrapping_byte_add(LEN as usize / 4 * 3));
    let other = |map: *mut c_void| {
        fill_and_protect(map);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The kernel chooses an unused address.
        unsafe { mmap_anonymous(ptr::null_mut(), PAGE, prot, MapFlags::PRIVATE) }.at("mmap")
    };
    vec![
        access(
            "driver_fills_hole",
            "1C.16",
            1,
            hole,
            Errno::FAULT.raw_os_error() as u64,
        ),
        access("driver_behind_filler", "1C.16", 1, other, 0),
    ]
}
