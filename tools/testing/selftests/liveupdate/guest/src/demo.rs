// SPDX-License-Identifier: GPL-2.0

//! A demonstration of a live update.

use crate::support::{
    args::Args,
    clock::{Rate, Ticks},
    error::{ensure, ensure_eq, At, Failure, Result},
    kexec, memfd,
    pattern::{self, Pattern, Sum},
    state,
};
use liveupdate::Device;
use rustix::{
    fs::{SealFlags, SeekFrom},
    thread::{sched_setaffinity, CpuSet},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::mpsc,
    thread,
};

const NAME: &str = "demo";
const MEMORY: u64 = 1;
/// A second memfd hands over the times that the first kernel measures last.
const CLOCK: u64 = 2;

/// The positions of the times in that memfd.
const PRESERVE_START: u64 = 0;
const PRESERVE_END: u64 = 8;
const REBOOT: u64 = 16;
const FREEZE_MICROS: u64 = 24;
const CLOCK_LEN: u64 = 32;

fn put_time(clock: &File, at: u64, value: u64) -> Result {
    clock
        .write_all_at(&value.to_le_bytes(), at)
        .at("write a time")
}

fn time(clock: &File, at: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    clock.read_exact_at(&mut bytes, at).at("read a time")?;
    Ok(u64::from_le_bytes(bytes))
}

fn fact(key: &str, value: impl std::fmt::Display) {
    println!("@fact {key} {value}");
}

/// The duration of the serialization, if a record of the kernel log contains it.
fn freeze_micros(record: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(record);
    let (_, message) = text.split_once("luo: serialized ")?;
    let (_, time) = message.lines().next()?.rsplit_once(" in ")?;
    time.strip_suffix(" us")?.parse().ok()
}

/// Starts a thread that waits for the duration of the serialization in the kernel log, and writes
/// it to the memfd.
///
/// This is one of the last messages of the old kernel while processes still run. Only a thread
/// that polls on a processor of its own can read it; if it does not, the time is included in the
/// jump. The kernel restarts on processor 0.
fn watch_kernel_log(clock: File) -> Result {
    let mut log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .at("open /dev/kmsg")?;
    rustix::fs::seek(&log, SeekFrom::End(0)).at("seek in /dev/kmsg")?;
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let mut processor = CpuSet::new();
        processor.set(1);
        // There may be only one.
        let _ = sched_setaffinity(None, &processor);
        let mut record = [0; 8192];
        let _ = ready.send(());
        loop {
            // It fails if there is no new record, and if records were missed.
            let len = log.read(&mut record).unwrap_or(0);
            if let Some(micros) = record.get(..len).and_then(freeze_micros) {
                let _ = put_time(&clock, FREEZE_MICROS, micros);
                return;
            }
        }
    });
    // It fails if the thread has died; then only the time is missing.
    let _ = is_ready.recv();
    let mut processor = CpuSet::new();
    processor.set(0);
    sched_setaffinity(None, &processor).at("move to processor 0")
}

fn before(args: &Args) -> Result<u8> {
    let len = args.number("mb", 64)? << 20;
    let pattern = Pattern::new(Ticks::now().0, len);
    println!("# filling a memfd with {len} pseudo-random bytes");
    let file = memfd::with(pattern)?;
    let sum = pattern::sum_range(&file, 0, len)?;
    memfd::seal(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    memfd::seek(&file, len / 3)?;
    let clock = memfd::new()?;
    clock.set_len(CLOCK_LEN).at("set the size of a memfd")?;
    put_time(&clock, FREEZE_MICROS, u64::MAX)?;

    fact("size", len);
    fact("seals", format_args!("{:#x}", memfd::seals(&file)?.bits()));
    fact("pos", memfd::position(&file)?);
    fact("sha256", &sum);
    state::put(NAME, "size", &len.to_string())?;
    state::put(NAME, "seals", &memfd::seals(&file)?.bits().to_string())?;
    state::put(NAME, "pos", &memfd::position(&file)?.to_string())?;
    state::put(NAME, "sha256", &sum.to_string())?;
    kexec::Plan::stage(args, 2)?.load()?;
    println!("# the next kernel is loaded");

    let session = Device::open()?.create_session(NAME)?;
    let start = Ticks::now();
    session.preserve(&file, MEMORY)?;
    let end = Ticks::now();
    session.preserve(&clock, CLOCK)?;
    println!("# preserved, starting the next kernel");
    std::io::stdout().flush().at("flush the console")?;
    put_time(&clock, PRESERVE_START, start.0)?;
    put_time(&clock, PRESERVE_END, end.0)?;
    watch_kernel_log(clock.try_clone().at("dup")?)?;
    put_time(&clock, REBOOT, Ticks::now().0)?;
    Err(kexec::jump())
}

fn remembered<T: std::str::FromStr>(key: &str) -> Result<T> {
    let value = state::get(NAME, key)?;
    value
        .parse()
        .map_err(|_| Failure::new(format!("{key} is '{value}'")))
}

fn verify(file: &File) -> Result<Sum> {
    let len = memfd::len(file)?;
    ensure_eq!(len, remembered::<u64>("size")?, "the size");
    ensure_eq!(
        memfd::position(file)?,
        remembered::<u64>("pos")?,
        "the position"
    );
    ensure_eq!(
        memfd::seals(file)?.bits(),
        remembered::<u32>("seals")?,
        "the set of seals"
    );
    let sum = pattern::sum_range(file, 0, len)?;
    let expected = state::get(NAME, "sha256")?;
    ensure!(
        sum.to_string() == expected,
        "the SHA-256 is {sum} instead of {expected}"
    );
    Ok(sum)
}

fn after() -> Result<u8> {
    let started = Ticks::now();
    let session = Device::open()?.retrieve_session(NAME)?;
    let opened = Ticks::now();
    let file = File::from(session.retrieve(MEMORY)?);
    let retrieved = Ticks::now();
    let clock = File::from(session.retrieve(CLOCK)?);
    let sum = verify(&file)?;
    let verified = Ticks::now();
    session.finish()?;
    let finished = Ticks::now();

    fact("size", memfd::len(&file)?);
    fact("seals", format_args!("{:#x}", memfd::seals(&file)?.bits()));
    fact("pos", memfd::position(&file)?);
    fact("sha256", sum);

    let rate = Rate::measure();
    let stored = |at| time(&clock, at).map(Ticks);
    let (reboot, boot) = (stored(REBOOT)?, rate.kernel_start());
    let freeze = time(&clock, FREEZE_MICROS)?;
    let jump = rate.micros(reboot, boot);
    let phase = |name: &str, micros: u64| println!("@timeline {name} {micros}");
    phase(
        "preserve",
        rate.micros(stored(PRESERVE_START)?, stored(PRESERVE_END)?),
    );
    // If the kernel does not log the duration, it is included in the jump.
    if freeze != u64::MAX {
        phase("freeze+serialize", freeze);
        phase("jump", jump.saturating_sub(freeze));
    } else {
        phase("jump", jump);
    }
    phase("kernel boot", rate.micros(boot, started));
    phase("open/deserialize", rate.micros(started, opened));
    phase("retrieve", rate.micros(opened, retrieved));
    phase("finish", rate.micros(verified, finished));
    phase("blackout", rate.micros(reboot, retrieved));
    Ok(0)
}

pub fn run(args: &Args) -> Result<u8> {
    if args.stage()? == 1 {
        return before(args);
    }
    let result = after();
    fact("verified", if result.is_ok() { "yes" } else { "no" });
    result
}
