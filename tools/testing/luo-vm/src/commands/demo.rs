// SPDX-License-Identifier: GPL-2.0

//! `make run` and `make demo`, which demonstrate live updates, and `make shell`; [`device`] is
//! `make demo-device`, and [`packages`] is `make demo-deb`.

pub mod device;
pub mod packages;

use std::time::Instant;

use anyhow::{anyhow, Result};

use crate::ctx::Ctx;
use crate::image::disk;
use crate::image::guest;
use crate::image::initramfs;
use crate::image::programs;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::machine::console::PROGRESS;
use crate::machine::gap::{Listener, BEAT, BOOTS};
use crate::machine::named::AMD;
use crate::machine::peer::Peer;
use crate::machine::vm::{Vm, BOOT};
use crate::report::results::Report;
use crate::report::step::Step;

/// Phases that only our kernel logs.
const SERIALIZE: &str = "freeze+serialize";

/// Phases of a live update that every demonstration must have timed.
const PHASES: [&str; 8] = [
    "preserve",
    SERIALIZE,
    "jump",
    "kernel boot",
    "open/deserialize",
    "retrieve",
    "finish",
    "blackout",
];

/// Hands over a memfd from the kernel `from` to the kernel `to`. Returns true if all of it was
/// verified.
pub fn run(ctx: &Ctx, from: Flavour, to: Flavour) -> Result<bool> {
    // The guest program is built in parallel with the kernels.
    let (kernels, guest) = std::thread::scope(|scope| {
        let guest = scope.spawn(|| programs::guest(ctx));
        let kernels = [to, from].map(|flavour| build::kernel(ctx, flavour));
        (kernels, guest.join())
    });
    let [next, first] = kernels;
    let (next, first) = (next?, first?);
    let guest = guest.map_err(|_| anyhow!("the build of luo-guest panicked"))??;
    let initrd = initramfs::guest(ctx, "demo", &guest, &[&next], None)?;
    let mb = ctx.settings.memfd_mb;
    let step = Step::start(ctx, format!("live update with a memfd of {mb} MiB"));
    let vm = Vm::new("demo", &first, &initrd)
        .then(&next)
        .kexecs(1)
        .init(format!("demo --mb={mb}"));
    let run = vm.run(ctx)?;
    step.done("");

    let facts = run.console.facts();
    let timeline = run.console.timeline();
    println!(
        "\nLinux {} ({from}) to Linux {} ({to})",
        first.version,
        next.version,
        from = from.name(),
        to = to.name()
    );
    for (key, value) in &facts {
        println!("  {key:<18} {value}");
    }
    println!();
    for (phase, micros) in &timeline {
        println!("  {phase:<18} {:>10.3} ms", *micros as f64 / 1000.0);
    }
    let untimed = PHASES
        .iter()
        .filter(|phase| **phase != SERIALIZE || first.flavour.is_ours())
        .find(|phase| !timeline.iter().any(|(timed, _)| timed == *phase));
    let against = run.guest_complaint().or_else(|| {
        if facts.get("verified").map(String::as_str) != Some("yes") {
            return Some("the new kernel did not verify the content".to_owned());
        }
        untimed.map(|phase| format!("the phase {phase} was not timed"))
    });
    println!();
    match &against {
        None => println!("verified: {mb} MiB survived the live update"),
        Some(why) => println!(
            "FAILED\n{}",
            run.failure(ctx, "everything is verified", why)
        ),
    }
    Ok(against.is_none())
}

/// Updates the kernel of Debian with a running guest of its QEMU, and shows both consoles. Returns
/// true if the guest has continued, and all tests in the machine have passed.
pub fn guest(ctx: &Ctx) -> Result<bool> {
    let host = build::kernel(ctx, Flavour::Ours)?;
    let image = guest::disk(ctx, &host, "guest")?;
    let peer = Peer::new()?;
    let vm = Vm::new("demo-vm", &host, &image)
        .on(&AMD)
        .devices(peer.devices())
        .params(guest::params(1))
        .limit(8 * BOOT);
    println!(
        "\nA guest of QEMU, with KVM, counts; then the kernel of its host is replaced.\n\
         Lines of the guest begin with |, lines about the host do not.\n"
    );
    let mut listener = Listener::default();
    let mut kernels = 0;
    let run = vm.run_with(ctx, |line| {
        let known = listener.gaps.len();
        listener.hear(line, Instant::now());
        peer.hear(line);
        if let Some(gap) = listener.gaps.get(known) {
            println!("the guest was silent for {gap}");
        }
        if let Some((_, count)) = line.split_once(BEAT) {
            // The line of another program may follow without a newline.
            println!(
                "| {}",
                count
                    .split(|c: char| !c.is_ascii_digit())
                    .next()
                    .unwrap_or("")
            );
        } else if line.contains(BOOTS) {
            kernels += 1;
            println!("kernel {kernels} of the host starts");
        } else if line.contains("running in system mode") {
            println!("systemd starts");
        } else if let Some((_, test)) = line.split_once("# ok guest.") {
            println!("{test}");
        } else if line.contains("systemd-shutdown[1]: Rebooting with kexec") {
            println!("systemd starts the next kernel");
        }
    })?;
    let mut report = Report::new("demo-vm");
    run.judge(ctx, &mut report, "", &["guest"]);
    report.check("a peer outside gets each line once", peer.complaint());
    let gap = listener.gaps.first().filter(|_| report.failed() == 0);
    println!();
    match gap {
        Some(gap) => println!("verified: the guest survived the update; it was silent for {gap}"),
        None => println!("FAILED: see {}", ctx.shown(&ctx.log("vm-demo-vm"))),
    }
    Ok(gap.is_some())
}

/// Updates the kernel of Debian under load on memcached. Returns true if the whole data set was
/// verified.
pub fn cache(ctx: &Ctx) -> Result<bool> {
    let kernel = build::kernel(ctx, Flavour::Ours)?;
    let image = disk::disk(ctx, &kernel)?;
    let mb = ctx.settings.memfd_mb;
    let step = Step::start(ctx, format!("live update under memcached with {mb} MiB"));
    let vm = Vm::new("demo-cache", &kernel, &image)
        .params(format!(
            "{} luo_demo_mb={mb}",
            disk::params("luo-demo.target")
        ))
        .kexecs(1);
    let mut boots = 0;
    let run = vm.run_with(ctx, |line| {
        if let Some((_, what)) = line.split_once(PROGRESS) {
            step.say(what);
        } else if line.contains("systemd-shutdown[1]: Rebooting with kexec") {
            step.say("systemd starts the next kernel");
        } else if line.contains("] Linux version ") {
            boots += 1;
            step.say(&format!("kernel {boots} starts"));
        } else if line.contains("running in system mode") {
            step.say("systemd starts");
        }
    })?;
    step.done("");

    println!();
    let marked = |line: &&String| !line.starts_with('@') && !line.starts_with("luo-guest:");
    let shown = run.console.user.iter().filter(marked);
    for line in shown.skip_while(|line| !line.starts_with("$ ")) {
        // Messages of systemd for a terminal.
        if !line.contains('\x1b') && !line.starts_with("Powering off") {
            println!("{line}");
        }
    }
    let facts = run.console.facts();
    let fact = |name: &str| facts.get(name).map_or("", String::as_str);
    let against = run.guest_complaint().or_else(|| {
        let good = fact("verified") == "yes" && !fact("gap").is_empty();
        (!good).then(|| "the data set was not verified".to_owned())
    });
    println!();
    match &against {
        None => println!(
            "verified: {} items of {mb} MiB survived the live update; no answer for {} s",
            fact("found"),
            fact("gap")
        ),
        Some(why) => println!(
            "FAILED\n{}",
            run.failure(ctx, "everything is verified", why)
        ),
    }
    Ok(against.is_none())
}

/// A busybox shell on this terminal.
pub fn shell(ctx: &Ctx, flavour: Flavour) -> Result<()> {
    let kernel = build::kernel(ctx, flavour)?;
    let guest = programs::guest(ctx)?;
    let initrd = initramfs::guest(ctx, "shell", &guest, &[&kernel], None)?;
    eprintln!("`exit` ends the machine, ctrl-a x kills it; `/init kexec` starts the next kernel");
    let vm = Vm::new("shell", &kernel, &initrd)
        .params("quiet")
        .init("shell");
    vm.interact(ctx)
}
