// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A virtual machine monitor whose guest survives live updates of its host.
//!
//! It is an example for authors of such programs. It boots Linux with a serial console and nothing
//! else; what matters for updates is complete:
//!
//! - [`guest`]: the steps of an update, as a client of luod;
//! - [`state`]: the format of what is handed over;
//! - [`vcpu`] and [`machine`]: where that comes from, and in which order KVM gets it back;
//! - [`ram`], [`serial`]: the devices; [`boot`]: the start of a new guest.
//!
//! Run as root, with a luod: `luo-vmm NAME --kernel bzImage --initrd FILE --cmdline console=ttyS0`.
//! After an update, `luo-vmm NAME` restores the guest.

mod boot;
mod guest;
mod machine;
mod plain;
mod ram;
mod serial;
mod state;
mod vcpu;

use clap::Parser;
use guest::Guest;
use liveupdate::luod::{Member, Result, SOCKET_PATH};
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

/// The time between two checks whether the guest has ended.
const LOOK: Duration = Duration::from_millis(100);
/// The time between rehearsals.
const REHEARSE: Duration = Duration::from_secs(1);

/// Runs a guest that survives live updates of its host.
#[derive(Parser)]
pub struct Options {
    /// The name of the guest, and of its session.
    name: String,
    /// The kernel of a new guest, a bzImage.
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// The initramfs of a new guest.
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// Parameters for the kernel of a new guest.
    #[arg(long, default_value = "console=ttyS0")]
    cmdline: String,
    /// The RAM of a new guest, in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(64..=(ram::MAX >> 20)))]
    memory: u64,
    /// The number of processors of a new guest.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(state::MAX_CPUS)))]
    cpus: u8,
    /// What the RAM of a new guest consists of.
    #[arg(long, value_enum, default_value_t = ram::Kind::Memfd)]
    ram: ram::Kind,
    /// Allocates all of the RAM of a new guest before it starts.
    #[arg(long)]
    populate: bool,
    /// The socket of luod.
    #[arg(long, default_value = SOCKET_PATH)]
    socket: PathBuf,
    /// Saves and restores the guest that number of times, once a second, without an update.
    #[arg(long, default_value_t = 0)]
    rehearse: u32,
}

fn run(options: Options) -> Result {
    if options.rehearse > 0 && options.ram == ram::Kind::GuestMemfd {
        return Err("--rehearse needs another kind of RAM: a guest_memfd belongs to one VM".into());
    }
    let name = options.name.clone();
    let mut rehearsals = options.rehearse;
    let socket = options.socket.clone();
    let guest = Guest::new(options);
    // Restores the guest if the last kernel has handed it over.
    let mut member = Member::join_at(socket, "luo-vmm", &[&name], guest)?;
    if member.restored().is_empty() {
        member.participant_mut().start()?;
    }
    let mut last = Instant::now();
    loop {
        member.step(Some(LOOK))?;
        if let Some(end) = member.participant().end() {
            println!("{name}: the guest has ended: {end}");
            return Ok(());
        }
        if rehearsals > 0 && last.elapsed() > REHEARSE {
            member.participant_mut().rehearse()?;
            rehearsals -= 1;
            last = Instant::now();
        }
    }
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("luo-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}
