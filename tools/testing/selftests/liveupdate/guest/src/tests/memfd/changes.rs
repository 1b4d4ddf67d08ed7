// SPDX-License-Identifier: GPL-2.0

//! Swapping, limits, bad memory, and changes of properties of memfds.

use super::{broken, moving};
use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    mapping::map_shared,
    memfd,
    pattern::Pattern,
    process::drop_ipc_lock,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
};
use crate::tests::hazards::not_in_c;
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags, XattrFlags},
    io::Errno,
    mm::Advice,
    process::{Resource, Rlimit},
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    thread,
};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

fn chmod(file: &File, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
}

/// Sets an access control list that only permits the owner to read.
fn restrict(file: &File) -> rustix::io::Result<()> {
    const VERSION: u32 = 2;
    /// Tag, permissions.
    const ENTRIES: [(u16, u16); 3] = [(0x01, 4), (0x04, 0), (0x20, 0)];
    let mut list = VERSION.to_ne_bytes().to_vec();
    for (tag, permissions) in ENTRIES {
        list.extend(tag.to_ne_bytes());
        list.extend(permissions.to_ne_bytes());
        list.extend(u32::MAX.to_ne_bytes());
    }
    rustix::fs::fsetxattr(file, "system.posix_acl_access", &list, XattrFlags::empty())
}

/// The mode at the time of PRESERVE_FD is handed over, since it cannot change afterwards.
fn late_mode() -> Case {
    let pattern = Pattern::new(40, 10_000);
    let mode = |file: &File| -> Result<u32> { Ok(file.metadata()?.mode() & 0o7777) };
    Case::two(
        "mode",
        move |stage| {
            let file = memfd::with(pattern)?;
            let session = create("changes-mode")?;
            session.preserve(&file, 1)?;
            ensure_eq!(chmod(&file, 0o400), Err(Errno::PERM), "fchmod");
            chmod(&file, 0o777).at("fchmod to the same mode")?;
            match restrict(&file) {
                Err(Errno::PERM | Errno::OPNOTSUPP) => (),
                other => return Err(Failure::new(format!("fsetxattr: {other:?}"))),
            }
            ensure_eq!(mode(&file)?, 0o777, "the mode");

            let other = memfd::with(pattern)?;
            let given_up = create("changes-mode-given-up")?;
            given_up.preserve(&other, 1)?;
            drop(given_up);
            chmod(&other, 0o400).at("fchmod of a file that is not preserved any more")?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("changes-mode")?;
            let file = memfd::check(session.retrieve(1)?, pattern)?;
            ensure_eq!(mode(&file)?, 0o777, "the mode");
            Ok(session.finish()?)
        },
    )
    .hazard("1B.1")
}

/// The open flags at the time of PRESERVE_FD are handed over: a change does not abort the kexec.
fn late_flags() -> Case {
    let pattern = Pattern::new(40, 10_000);
    Case::two(
        "append",
        move |stage| {
            let file = memfd::with(pattern)?;
            let session = create("changes-append")?;
            session.preserve(&file, 1)?;
            rustix::fs::fcntl_setfl(&file, OFlags::APPEND).at("F_SETFL")?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("changes-append")?;
            let file = memfd::check(session.retrieve(1)?, pattern)?;
            let flags = rustix::fs::fcntl_getfl(&file).at("F_GETFL")?;
            ensure!(!flags.contains(OFlags::APPEND), "O_APPEND is set");
            Ok(session.finish()?)
        },
    )
    .hazard_unseen("5.1", not_in_c::NOT_CHECKED)
}

/// Seals do not make a file executable.
fn late_seals_and_mode() -> Case {
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::FUTURE_WRITE;
    Case::two(
        "seals_that_would_change_the_mode",
        move |stage| {
            let file = memfd::create(MemfdFlags::NOEXEC_SEAL)?;
            let session = create("changes-seals-mode")?;
            session.preserve(&file, 1)?;
            let added = rustix::fs::fcntl_add_seals(&file, seals);
            ensure_eq!(added, Err(Errno::BUSY), "adding all seals");
            memfd::seal(&file, SealFlags::GROW)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("changes-seals-mode")?;
            let file = File::from(session.retrieve(1)?);
            ensure_eq!(file.metadata()?.mode() & 0o7777, 0o666, "the mode");
            ensure_eq!(
                memfd::seals(&file)?,
                SealFlags::GROW | SealFlags::EXEC,
                "the seals"
            );
            Ok(session.finish()?)
        },
    )
}

/// The seals at the time of the kexec are handed over.
fn late_seals() -> Case {
    let pattern = Pattern::new(41, 5000);
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    Case::two(
        "seals_added_after_preserve",
        move |stage| {
            let file = memfd::with(pattern)?;
            let session = create("changes-seals")?;
            session.preserve(&file, 1)?;
            memfd::seal(&file, seals)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("changes-seals")?;
            let file = memfd::check(session.retrieve(1)?, pattern)?;
            ensure_eq!(memfd::seals(&file)?, seals, "the seals");
            expect_errno(file.write_all_at(b"x", 0), Errno::PERM, "writing")?;
            Ok(session.finish()?)
        },
    )
    .hazard("1A.8")
}

/// Uses the first zram device as swap space, unless there is some.
pub fn swap_on() -> Result {
    const SIZE: u64 = 64 * MIB;
    let device = "/dev/zram0";
    let swaps = fs::read_to_string("/proc/swaps").at("/proc/swaps")?;
    if swaps.lines().count() > 1 {
        return Ok(());
    }
    if !fs::exists(device).unwrap_or(false) {
        return Err(Failure::skip("there is no /dev/zram0"));
    }
    fs::write("/sys/block/zram0/disksize", SIZE.to_string()).at("zram0/disksize")?;
    let mut header = [0; PAGE as usize];
    let version = 1u32;
    let last_page = (SIZE / PAGE - 1) as u32;
    header[1024..1028].copy_from_slice(&version.to_ne_bytes());
    header[1028..1032].copy_from_slice(&last_page.to_ne_bytes());
    header[4086..].copy_from_slice(b"SWAPSPACE2");
    let file = File::options().write(true).open(device).at(device)?;
    file.write_all_at(&header, 0).at("write the swap header")?;
    drop(file);
    // SAFETY: The path is terminated by a null byte.
    match unsafe { libc::swapon(c"/dev/zram0".as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).at("swapon"),
    }
}

/// Swapped out pages are read back for the kexec.
fn swapped_out() -> Case {
    let pattern = Pattern::new(42, 8 * MIB);
    Case::two(
        "swapped_out",
        move |stage| {
            swap_on()?;
            let file = memfd::with(pattern)?;
            file.set_len(16 * MIB).at("set the size")?;
            let memory = map_shared(&file, 0, pattern.len)?;
            let swapped = || -> Result<u64> {
                let text = fs::read_to_string("/proc/swaps").at("/proc/swaps")?;
                let used = text
                    .lines()
                    .nth(1)
                    .and_then(|l| l.split_whitespace().nth(3));
                Ok(used.at("/proc/swaps has no line")?.parse()?)
            };
            // Only mapped pages are swapped out.
            for at in (0..pattern.len).step_by(PAGE as usize) {
                // SAFETY: The mapping belongs to this function.
                unsafe { memory.cast::<u8>().add(at as usize).read_volatile() };
            }
            // SAFETY: The mapping belongs to this function; its content does not
            // change.
            unsafe { rustix::mm::madvise(memory, pattern.len as usize, Advice::LinuxPageOut) }
                .at("MADV_PAGEOUT")?;
            let used = swapped()?;
            stage.note(format_args!("{used} KiB are swapped out"));
            ensure!(used > 1024, "only {used} KiB were swapped out");
            let session = create("changes-swapped")?;
            session.preserve(&file, 1)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve("changes-swapped")?;
            let file = File::from(session.retrieve(1)?);
            pattern.check(&file, 0)?;
            Ok(session.finish()?)
        },
    )
}

/// Calls `work` in a thread of its own, after `prepare`, which may only affect that thread.
fn in_thread<R: Send>(
    prepare: impl FnOnce() -> Result + Send,
    work: impl FnOnce() -> Result<R> + Send,
) -> Result<R> {
    let result = thread::scope(|scope| {
        scope
            .spawn(|| {
                prepare()
                    .and_then(|()| work())
                    .map_err(|failure| failure.to_string())
            })
            .join()
    });
    match result {
        Ok(result) => result.map_err(Failure::new),
        Err(_) => Err(Failure::new("the thread has died")),
    }
}

/// Calls a function as an ordinary user.
fn as_user<R: Send>(work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    const UID: libc::uid_t = 1000;
    let become_user = || {
        // The wrapper of the C library would change all threads.
        // SAFETY: Affects only this thread.
        match unsafe { libc::syscall(libc::SYS_setresuid, UID, UID, UID) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).at("setresuid"),
        }
    };
    in_thread(become_user, work)
}

/// Runs `work` with another limit for locked memory.
fn with_limit<R>(limit: u64, work: impl FnOnce() -> R) -> Result<R> {
    let old = rustix::process::getrlimit(Resource::Memlock);
    let new = Rlimit {
        current: Some(limit),
        maximum: old.maximum,
    };
    rustix::process::setrlimit(Resource::Memlock, new).at("setrlimit")?;
    let result = work();
    rustix::process::setrlimit(Resource::Memlock, old).at("setrlimit")?;
    Ok(result)
}

/// Memory that processes without a limit preserve is not counted for processes of the same user with
/// a limit.
fn unlimited_is_not_counted() -> Case {
    const LIMIT: u64 = MIB;
    Case::one("unlimited_is_not_counted", |_| {
        let session = create("changes-unlimited")?;
        let files = [
            memfd::with(Pattern::new(47, 4 * LIMIT))?,
            memfd::with(Pattern::new(48, LIMIT / 2))?,
            memfd::with(Pattern::new(49, LIMIT))?,
        ];
        // With CAP_IPC_LOCK.
        session.preserve(&files[0], 0)?;
        with_limit(LIMIT, || {
            in_thread(drop_ipc_lock, || {
                session.preserve(&files[1], 1)?;
                expect_errno(
                    session.preserve(&files[2], 2),
                    Errno::NOMEM,
                    "preserving more than the limit",
                )
            })
        })?
    })
    .hazard_unseen("5.5", not_in_c::NOT_COUNTED)
}

/// Preserved memory is counted as locked memory of the user who preserves it.
fn memory_limit() -> Case {
    const LIMIT: u64 = MIB;
    Case::one("memory_limit", |_| {
        let session = create("changes-limit")?;
        let other = create("changes-limit-other")?;
        let files = [
            memfd::with(Pattern::new(43, LIMIT / 2))?,
            memfd::with(Pattern::new(44, LIMIT))?,
            memfd::with(Pattern::new(45, LIMIT / 2))?,
        ];
        with_limit(LIMIT, || {
            as_user(|| {
                session.preserve(&files[0], 0)?;
                expect_errno(
                    session.preserve(&files[1], 1),
                    Errno::NOMEM,
                    "preserving more than the limit",
                )?;
                // The failed call is not counted, and released memory is no longer counted.
                other.preserve(&files[2], 2)?;
                drop(other);
                Ok(session.preserve(&files[2], 2)?)
            })?;
            // A process that may lock any amount of memory can preserve any amount.
            Ok(session.preserve(&files[1], 1)?)
        })?
    })
    .hazard("1B.3")
}

pub fn suite() -> Suite {
    let mut cases = broken::cases();
    cases.extend(moving::cases());
    cases.extend(others());
    Suite::new("memfd_changes", cases)
}

fn others() -> Vec<Case> {
    vec![
        late_mode(),
        late_flags(),
        late_seals_and_mode(),
        late_seals(),
        swapped_out(),
        memory_limit(),
        unlimited_is_not_counted(),
    ]
}
