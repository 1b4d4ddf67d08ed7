// SPDX-License-Identifier: GPL-2.0

//! A demonstration: a device copies to memory while the kernel is replaced.

use crate::support::{
    args::Args,
    edu::{Edu, HALF},
    error::{ensure_eq, At, Result},
    kexec,
};
use liveupdate::Device;
use std::io::Write;

const NAME: &str = "demo-device";
const TOKEN: u64 = 1;

/// What is in the buffer.
const SEED: u8 = 10;
/// Which factorial the device computes, and the result.
const OPERAND: u32 = 10;
const FACTORIAL: u64 = 3_628_800;

fn say(what: impl std::fmt::Display) {
    println!("@progress {what}");
}

fn fact(key: &str, value: impl std::fmt::Display) {
    println!("@fact {key} {value}");
}

fn before(args: &Args) -> Result<u8> {
    let edu = Edu::open()?;
    edu.send(SEED)?;
    edu.device.write(&format!("factorial {OPERAND}"))?;
    let result = edu.device.value()?;
    say(format_args!(
        "a program has the device compute {OPERAND}! = {result}, and preserves its file"
    ));
    kexec::Plan::stage(args, 2)?.load()?;
    let session = Device::open()?.create_session(NAME)?;
    session.preserve(&edu.device, TOKEN)?;
    say(format_args!(
        "it orders a copy of {HALF} bytes to its buffer, which takes 100 ms, and starts the next kernel"
    ));
    std::io::stdout().flush().at("flush the console")?;
    edu.device.write("receive")?;
    Err(kexec::jump())
}

fn after() -> Result<u8> {
    let session = Device::open()?.retrieve_session(NAME)?;
    let edu = Edu::new(session.retrieve(TOKEN)?)?;
    let arrived = edu.received(SEED);
    let result = edu.device.value()?;
    say(format_args!(
        "the program has its file again: {arrived} of {HALF} bytes are in the buffer, the register of \
         the result has {result}"
    ));
    fact("arrived", arrived);
    ensure_eq!(arrived, HALF, "bytes that arrived");
    ensure_eq!(result, FACTORIAL, "the register of the result");
    session.finish()?;
    edu.works(SEED + 1)?;
    say("the device computes, copies and interrupts under the new kernel");
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
