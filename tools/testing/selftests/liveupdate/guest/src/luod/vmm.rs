// SPDX-License-Identifier: GPL-2.0

//! A guest of the example `luo-vmm`, in several live updates of its host.
//!
//! The guest runs [`crate::vm`], which counts and checks its memory on two processors. Its console
//! is passed on to the console of this machine, where the driver checks that no number is missing
//! and none comes twice.

use super::{
    fixture::{aborted, begin_update, counter, start_luod, wait_for},
    monitor::{NewGuest, Vmm},
    results::{case, conclude},
};
use crate::support::{
    args::Args,
    error::{ensure, Result},
    kexec, state,
};
use luod_protocol::SessionState;

const NAME: &str = "guest";
/// The number of its processors.
const CPUS: u64 = 2;

/// The file with the last count, for the next kernel.
const STATE: &str = "vmm";
const COUNT: &str = "count";

/// The guest is saved and restored several times within this kernel, while it boots.
fn boots(args: &Args, vmm: &mut Option<Vmm>) -> Result {
    let ram = args.option("memory").unwrap_or("memfd");
    // A guest_memfd belongs to one VM.
    let usual = if ram == "guest-memfd" { 0 } else { 10 };
    let rehearsals = args.number("rehearsals", usual)?;
    let rehearse = rehearsals.to_string();
    let guest = NewGuest {
        cpus: args.number("cpus", CPUS)?,
        ram_mb: args.number("ram", 128)?,
        arguments: vec!["--ram", ram, "--rehearse", &rehearse],
        params: args.option("guest-params").unwrap_or_default(),
        program: format!("vm --mb={}", args.number("mb", 4)?),
    };
    let vmm = vmm.insert(Vmm::start(NAME, &guest)?);
    vmm.wait("rehearsals", |heard| heard.restored >= rehearsals)?;
    vmm.runs().map(drop)
}

/// Waits until the guest is to take part in the next update.
fn subscribed() -> Result {
    wait_for(NAME, SessionState::Subscribed)
}

/// The guest continues after an update that another client refuses.
fn aborts(vmm: &Vmm) -> Result {
    subscribed()?;
    let bad = counter("bad", &["late-refuse"])?;
    aborted(begin_update(None, false)?, "bad")?;
    vmm.wait("the guest continues", |heard| heard.continued > 0)?;
    drop(bad);
    vmm.runs().map(drop)
}

/// Starts the next kernel. Returns only if it is not started.
fn update(args: &Args, vmm: &Vmm) -> Result {
    subscribed()?;
    state::put(STATE, COUNT, &vmm.heard().beat.to_string())?;
    kexec::Plan::stage(args, args.stage()? + 1)?.load()?;
    aborted(begin_update(None, false)?, "the next kernel")
}

/// The guest has gone on in this kernel.
fn comes_back(args: &Args, vmm: &mut Option<Vmm>) -> Result {
    let vmm = vmm.insert(Vmm::restore(NAME, args.number("cpus", CPUS)?)?);
    vmm.wait("the guest is restored", |heard| heard.restored == 1)?;
    let first = vmm.wait("the guest counts", |heard| heard.beat != 0)?.beat;
    let last: u64 = state::get(STATE, COUNT)?.trim().parse()?;
    ensure!(first > last, "the guest counts {first} after {last}");
    vmm.runs().map(drop)
}

/// Runs the part for this kernel.
pub fn run(args: &Args) -> Result<u8> {
    let stage = args.stage()?;
    let updates = args.number("updates", 3)? as usize;
    let _luod = start_luod()?;
    let mut vmm = None;
    if stage == 1 {
        case("boots", || boots(args, &mut vmm))?;
        kexec::Plan::stage(args, 2)?.load()?;
        if let Some(vmm) = &vmm {
            case("aborts", || aborts(vmm))?;
        }
    } else {
        case(&format!("comes_back_{}", stage - 1), || {
            comes_back(args, &mut vmm)
        })?;
    }
    if let (Some(vmm), true) = (&vmm, stage <= updates) {
        // The results so far go along.
        case("update", || update(args, vmm))?;
    }
    drop(vmm);
    conclude("vmm")
}
