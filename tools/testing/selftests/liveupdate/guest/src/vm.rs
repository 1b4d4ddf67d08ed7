// SPDX-License-Identifier: GPL-2.0

//! A virtual machine on a host that is updated.
//!
//! The program is the init of a guest of `luo-qemu`. It knows nothing of the host, and only says on
//! its console what the host's tests compare: a count that goes on, whether its memory is as it
//! was, and which blocks of its disk it saw written. The count also goes to a second serial port,
//! as a heartbeat.

use crate::support::{
    args::Args,
    error::{At, Result},
};
use rustix::{
    fs::OFlags,
    thread::{sched_getcpu, sched_setaffinity, CpuSet},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    thread::{self, sleep},
    time::Duration,
};

/// The disk, if the guest has one.
const DISK: &str = "/dev/vda";

/// Where the heartbeat goes, if the guest has it.
const PORT: &str = "/dev/ttyS1";

/// What is written to the disk at once.
const BLOCK: usize = 4096;

/// How many blocks are written, one after another and again.
const BLOCKS: u64 = 256;

/// Where on the disk that begins which is written through the guest's own cache, and its size.
const CACHED: (u64, usize) = (2 << 20, 2 << 20);

/// A block, aligned as direct I/O wants it.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

/// Counts, and checks, for ever.
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
    pinned(0, count)?;
    Ok(0)
}

/// Runs something on one processor. Says on the console if it fails, which ends a test.
fn pinned(processor: usize, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(processor);
    let done = sched_setaffinity(None, &one).at("move to a processor");
    let done = done.and_then(|()| work());
    if let Err(error) = &done {
        println!("vm: BAD {error}");
    }
    done
}

/// Counts, and writes the count to the disk without the guest's cache.
fn count() -> Result<()> {
    // CAST: The flags of the C library have this type.
    let direct = OFlags::DIRECT.bits() as i32;
    let open = |path| OpenOptions::new().write(true).open(path).ok();
    let disk = OpenOptions::new()
        .write(true)
        .custom_flags(direct)
        .open(DISK)
        .ok();
    let mut port = open(PORT);
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
            // Every other block has only reached the disk's cache.
            if count % 2 == 0 {
                disk.sync_data().at("flush the disk")?;
            }
            println!("vm: stored {count}");
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Compares memory with what it was in the beginning, again and again.
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

/// Writes to the disk through the guest's cache. Every other time it is flushed, dropped from the
/// cache and read from the disk; else it stays in memory as long as the kernel likes.
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

/// What tells this guest apart from any other.
fn seed() -> Result<u64> {
    let mut seed = [0; 8];
    let mut random = File::open("/dev/urandom").at("open /dev/urandom")?;
    random.read_exact(&mut seed).at("read random bytes")?;
    Ok(u64::from_le_bytes(seed))
}

/// Memory that no page of looks like another one.
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
