// SPDX-License-Identifier: GPL-2.0

//! A virtual machine on a host that is updated.
//!
//! The program is the init of a guest of `luo-qemu`, independent of the host. It prints to its console
//! what the tests on the host check: a continuing count, whether its memory is unchanged, the number
//! of blocks written to its disk, the number of lines exchanged with a peer outside of the host, and
//! its clocks.
//! The count is also written to a second serial port, as a heartbeat.

mod network;
mod programs;

use crate::support::{
    args::Args,
    error::{At, Result},
};
use rustix::{
    fs::OFlags,
    thread::{sched_getcpu, sched_setaffinity, CpuSet},
    time::{clock_gettime, clock_gettime_dynamic, ClockId, DynamicClockId},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    thread::{self, sleep},
    time::Duration,
};

/// The disk, if the guest has one.
const DISK: &str = "/dev/vda";

/// The port for the heartbeat, if the guest has it.
const PORT: &str = "/dev/ttyS1";

/// The size of a write to the disk.
const BLOCK: usize = 4096;

/// The number of blocks that are written repeatedly.
const BLOCKS: u64 = 256;

/// The clock that the kernel uses.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// The clock of the host, if KVM offers it.
const HOST_CLOCK: &str = "/dev/ptp0";

/// The start and the size of the part of the disk that is written through the guest's own cache.
const CACHED: (u64, usize) = (2 << 20, 2 << 20);

/// A block, aligned for direct I/O.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

/// Counts and checks forever.
pub fn run(args: &Args) -> Result<u8> {
    // CAST: Same size on all machines that have the subsystem.
    let size = args.number("mb", 64)? as usize * 1024 * 1024;
    let seed = seed()?;
    println!("vm: starts with seed {seed:016x}");
    let memory = random(seed, size);
    let digest = Sha256::digest(&memory);
    thread::spawn(move || pinned(1, || check_memory(&memory, digest.as_slice())));
    if fs::exists(DISK).unwrap_or(false) {
        thread::spawn(|| pinned(1, write_cached));
    } else {
        println!("vm: no disk");
    }
    if let Some(address) = args.option("pair") {
        let address = address.parse().ok().at("--pair is no address")?;
        thread::spawn(move || pinned(1, || network::talk_to_guest(address)));
    } else if network::exists() {
        thread::spawn(|| pinned(1, || network::talk(PORT)));
        thread::spawn(|| pinned(1, network::wait_for_guest));
    }
    if programs::has_agent() {
        thread::spawn(|| pinned(1, programs::run_agent));
    }
    if args.option("clock") == Some("chrony") {
        thread::spawn(|| pinned(1, programs::run_chrony));
    }
    let beat = Duration::from_millis(args.number("beat-ms", 100)?);
    pinned(0, || count(beat))?;
    Ok(0)
}

/// Runs a function on one processor, or on the last one if there are fewer. Prints an error to the
/// console, which ends a test.
fn pinned(processor: usize, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut one = CpuSet::new();
    let last = thread::available_parallelism().map_or(0, |number| number.get() - 1);
    one.set(processor.min(last));
    let done = sched_setaffinity(None, &one).at("move to a processor");
    let done = done.and_then(|()| work());
    if let Err(error) = &done {
        println!("vm: BAD {error}");
    }
    done
}

/// Counts, and writes the count to the disk without the guest's cache. `beat` is the time between two
/// counts; if it is zero, the usual time is used, and there is no heartbeat.
fn count(beat: Duration) -> Result<()> {
    // CAST: The flags of the C library have this type.
    let direct = OFlags::DIRECT.bits() as i32;
    let open = |path| OpenOptions::new().write(true).open(path).ok();
    let disk = OpenOptions::new()
        .write(true)
        .custom_flags(direct)
        .open(DISK)
        .ok();
    let mut port = open(PORT).filter(|_| !beat.is_zero());
    let pause = match beat.is_zero() {
        true => Duration::from_millis(100),
        false => beat,
    };
    let mut block = Block([0; BLOCK]);
    for count in 1_u64.. {
        println!("vm: count {count}");
        if let Some(port) = &mut port {
            writeln!(port, "vm: beat {count}").at("write to the serial port")?;
        }
        if let Some(disk) = &disk {
            block.0.fill(count.to_le_bytes()[0]);
            block.0[..8].copy_from_slice(&count.to_le_bytes());
            disk.write_all_at(&block.0, count % BLOCKS * BLOCK as u64)
                .at("write to the disk")?;
            // The others have only reached the cache of the disk.
            if count % 2 == 0 {
                disk.sync_data().at("flush the disk")?;
            }
            println!("vm: stored {count}");
        }
        if count % 5 == 0 {
            print_clocks()?;
        }
        sleep(pause);
    }
    Ok(())
}

/// Prints the monotonic and the real-time clock in nanoseconds, read at the same time.
fn print_clocks() -> Result<()> {
    let now = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    let source = fs::read_to_string(CLOCK).at("read the name of the clock")?;
    // Between two other readings, until no interrupt was in between.
    let (monotonic, real) = loop {
        let before = now(ClockId::Monotonic);
        let real = now(ClockId::Realtime);
        let after = now(ClockId::Monotonic);
        if after - before < 10_000_000 {
            break (before, real);
        }
    };
    println!("vm: clock {monotonic} {real} {}", source.trim());
    if let Some(host) = host_clock() {
        println!("vm: host {}", host - now(ClockId::Realtime));
    }
    Ok(())
}

/// The clock of the host in nanoseconds, by which programs such as chrony set the clock of the
/// guest.
fn host_clock() -> Option<i64> {
    let clock = File::open(HOST_CLOCK).ok()?;
    let time = clock_gettime_dynamic(DynamicClockId::Dynamic(clock.as_fd())).ok()?;
    Some(time.tv_sec * 1_000_000_000 + time.tv_nsec)
}

/// Repeatedly compares memory with its initial contents.
fn check_memory(memory: &[u8], digest: &[u8]) -> Result<()> {
    let name = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    for round in 1_u64.. {
        let good = Sha256::digest(memory).as_slice() == digest;
        let verdict = if good { "good" } else { "BAD" };
        println!(
            "vm: memory {round} {verdict} {name:08x} on processor {}",
            sched_getcpu()
        );
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Writes to the disk through the guest's cache. Every other write is flushed, dropped from the cache
/// and read from the disk; the others are written back at any time.
fn write_cached() -> Result<()> {
    let (start, size) = CACHED;
    let disk = OpenOptions::new().read(true).write(true).open(DISK);
    let disk: File = disk.at("open the disk")?;
    let mut found = vec![0; size];
    for pass in 1_u64.. {
        let content = random(pass, size);
        disk.write_all_at(&content, start).at("write to the disk")?;
        sleep(Duration::from_millis(300));
        if pass % 2 == 0 {
            disk.sync_data().at("flush the disk")?;
            fs::write("/proc/sys/vm/drop_caches", "1").at("drop the cache")?;
        }
        disk.read_exact_at(&mut found, start)
            .at("read from the disk")?;
        let verdict = if found == content { "good" } else { "BAD" };
        println!("vm: cached {pass} {verdict}");
    }
    Ok(())
}

/// A random identifier of this guest.
fn seed() -> Result<u64> {
    let mut seed = [0; 8];
    let mut random = File::open("/dev/urandom").at("open /dev/urandom")?;
    random.read_exact(&mut seed).at("read random bytes")?;
    Ok(u64::from_le_bytes(seed))
}

/// Memory in which all pages differ.
fn random(seed: u64, size: usize) -> Vec<u8> {
    // Zero would stay zero.
    let mut state = seed | 1;
    let mut memory = Vec::with_capacity(size);
    while memory.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memory.extend_from_slice(&state.to_le_bytes());
    }
    memory
}
