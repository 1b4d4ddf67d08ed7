// SPDX-License-Identifier: GPL-2.0

//! What happens to a memfd besides reading and writing: swapping, limits, broken memory, changes of
//! properties.

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    kexec,
    mapping::map_shared,
    memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
};
use rustix::{
    fs::{Mode, OFlags, SealFlags},
    io::Errno,
    mm::Advice,
    process::{Resource, Rlimit},
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    thread,
};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Fails unless a kexec, to a kernel that could take over, is refused with `errno`.
fn refused(errno: Errno) -> Result {
    kexec::Plan::dry()?.load()?;
    expect_errno(Err::<(), _>(kexec::try_jump()), errno, "reboot(KEXEC)")
}

/// A change that the format cannot express calls the kexec off, until it is taken back.
fn inexpressible(
    name: &'static str,
    change: fn(&File) -> Result,
    take_back: fn(&File) -> Result,
) -> Case {
    let pattern = Pattern::new(40, 10_000);
    Case::two(
        name,
        move |stage| {
            let file = memfd::with(pattern)?;
            let session = create(&format!("changes-{name}"))?;
            session.preserve(&file, 1)?;
            change(&file)?;
            refused(Errno::OPNOTSUPP)?;
            take_back(&file)?;
            stage.hold((session, file));
            Ok(())
        },
        move |_| {
            let session = retrieve(&format!("changes-{name}"))?;
            memfd::check(session.retrieve(1)?, pattern)?;
            Ok(session.finish()?)
        },
    )
    .hazard("1B.1")
}

fn chmod(file: &File, mode: u32) -> Result {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).at("fchmod")
}

fn set_flags(file: &File, flags: OFlags) -> Result {
    rustix::fs::fcntl_setfl(file, flags).at("F_SETFL")
}

/// Seals count as they are when the kernel is left.
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

/// Turns the first zram device into swap space.
fn swap_on() -> Result {
    const SIZE: u64 = 64 * MIB;
    let device = "/dev/zram0";
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

/// What is in swap space comes back for the kexec.
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
            // Only what is mapped is swapped out.
            for at in (0..pattern.len).step_by(PAGE as usize) {
                // SAFETY: The mapping is ours.
                unsafe { memory.cast::<u8>().add(at as usize).read_volatile() };
            }
            // SAFETY: The mapping is ours; its content does not change.
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

/// Does something as an ordinary user, in a thread of its own.
fn as_user<R: Send>(work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    const UID: libc::uid_t = 1000;
    let result = thread::scope(|scope| {
        scope
            .spawn(|| {
                // The wrapper of the C library would change all threads.
                // SAFETY: Concerns nothing but this thread.
                match unsafe { libc::syscall(libc::SYS_setresuid, UID, UID, UID) } {
                    0 => work().map_err(|failure| failure.to_string()),
                    _ => Err(format!("setresuid: {}", io::Error::last_os_error())),
                }
            })
            .join()
    });
    match result {
        Ok(result) => result.map_err(Failure::new),
        Err(_) => Err(Failure::new("the thread has died")),
    }
}

/// Preserved memory counts as locked memory of the user who preserves it.
fn memory_limit() -> Case {
    const LIMIT: u64 = MIB;
    Case::one("memory_limit", |_| {
        let old = rustix::process::getrlimit(Resource::Memlock);
        let limit = Rlimit {
            current: Some(LIMIT),
            maximum: old.maximum,
        };
        rustix::process::setrlimit(Resource::Memlock, limit).at("setrlimit")?;
        let session = create("changes-limit")?;
        let other = create("changes-limit-other")?;
        let files = [
            memfd::with(Pattern::new(43, LIMIT / 2))?,
            memfd::with(Pattern::new(44, LIMIT))?,
            memfd::with(Pattern::new(45, LIMIT / 2))?,
        ];
        let result = as_user(|| {
            session.preserve(&files[0], 0)?;
            expect_errno(
                session.preserve(&files[1], 1),
                Errno::NOMEM,
                "preserving more than the limit",
            )?;
            // That did not count, and what is given back does not count any more.
            other.preserve(&files[2], 2)?;
            drop(other);
            Ok(session.preserve(&files[2], 2)?)
        });
        // Who may lock any amount of memory can preserve any amount.
        let privileged = session.preserve(&files[1], 1);
        rustix::process::setrlimit(Resource::Memlock, old).at("setrlimit")?;
        result?;
        Ok(privileged?)
    })
    .hazard("1B.3")
}

/// A file with memory that is broken cannot be handed over.
fn broken_memory() -> Case {
    Case::one("broken_memory", |_| {
        let pattern = Pattern::new(46, 64 * PAGE);
        let file = memfd::with(pattern)?;
        let memory = map_shared(&file, 0, pattern.len)?;
        let broken = memory.wrapping_byte_add(10 * PAGE as usize);
        // SAFETY: The page is ours.
        match unsafe { libc::madvise(broken, PAGE as usize, libc::MADV_HWPOISON) } {
            0 => {}
            _ => return Err(io::Error::last_os_error()).at("MADV_HWPOISON"),
        }
        let session = create("changes-broken")?;
        expect_errno(
            session.preserve(&file, 1),
            Errno::HWPOISON,
            "preserving broken memory",
        )
    })
    .hazard("1E.1")
}

pub fn suite() -> Suite {
    Suite::new(
        "memfd_changes",
        vec![
            inexpressible("mode", |f| chmod(f, 0o400), |f| chmod(f, 0o777)),
            inexpressible(
                "append",
                |f| set_flags(f, OFlags::APPEND),
                |f| set_flags(f, OFlags::empty()),
            ),
            late_seals(),
            swapped_out(),
            memory_limit(),
            broken_memory(),
        ],
    )
}
