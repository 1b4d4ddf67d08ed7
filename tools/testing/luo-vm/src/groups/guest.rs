// SPDX-License-Identifier: GPL-2.0

//! The group `guest`: virtual machines that survive live updates of their host.
//!
//! The host is a virtual machine itself: one with a small init and the example `luo-vmm`, or one with
//! Debian and Debian's QEMU. Its processor is emulated, and has AMD's extensions for virtual machines,
//! so its guests run with KVM.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ctx::Ctx;
use crate::image::guest;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::gap::{Gap, Listener};
use crate::machine::named::{Machine, AMD, AMD_LARGE};
use crate::machine::outside::Outside;
use crate::machine::peer::Peer;
use crate::machine::vm::{Vm, BOOT};
use crate::report::results::Report;
use crate::report::step::{print, Step};

/// The number of updates of the guest of QEMU.
const UPDATES: u32 = 2;

/// The number of updates of the guest of the example.
const VMM_UPDATES: u32 = 3;

/// The number of updates of both in `make test-all`.
const LONG_UPDATES: u32 = 20;
const LONG_VMM_UPDATES: u32 = 10;

/// The time after which a machine is considered hung: more than ten times the usual time. The
/// programs in it notice a guest that stands still earlier.
const LIMIT: Duration = BOOT.saturating_mul(4);

/// A suite, which is a machine: its name, and what runs it.
type Suite = (&'static str, fn(&Ctx, &mut Report, &Kernel) -> Result<()>);

/// The suites of `make test`.
const SUITES: [Suite; 6] = [
    ("vmm", vmm),
    ("vmm-hugetlb", vmm_on_hugetlb),
    ("vmm-guest-memfd", vmm_on_guest_memfd),
    ("guest", qemu),
    ("guest-huge-pages", qemu_on_huge_pages),
    ("guest-agent", with_agent),
];

/// The suites of `make test-all`: many updates in a row, several guests, and other kernels.
const LONG_SUITES: [Suite; 8] = [
    ("guest-gigantic-pages", qemu_on_gigantic_pages),
    ("guest-modules", with_modules),
    ("guest-two", two),
    ("guest-from-c", from_c),
    ("guest-to-c", to_c),
    ("guest-only-c", only_c),
    ("vmm-soak", vmm_soak),
    ("guest-soak", qemu_soak),
];

/// Runs the group of `make test`.
pub fn run(ctx: &Ctx, report: &mut Report) -> Result<()> {
    run_suites(ctx, report, "guest", &SUITES)
}

/// Runs the group of `make test-all`.
pub fn run_long(ctx: &Ctx, report: &mut Report) -> Result<()> {
    run_suites(ctx, report, "guest-long", &LONG_SUITES)
}

/// Runs those of the `suites` of a group that are wanted.
fn run_suites(ctx: &Ctx, report: &mut Report, group: &str, suites: &[Suite]) -> Result<()> {
    let known = suites.iter().map(|(name, _)| *name);
    ctx.settings.check_suites(group, known)?;
    let host = build::kernel(ctx, Flavour::Ours)?;
    for (name, suite) in suites {
        if ctx.settings.wants(name) {
            suite(ctx, report, &host)?;
        }
    }
    Ok(())
}

/// Updates under a guest of the example `luo-vmm`, on a host with nothing else.
fn vmm(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    vmm_updates(ctx, report, host, "vmm", VMM_UPDATES, "")
}

/// One update under a guest whose RAM consists of huge pages, of which more are set aside than it
/// needs.
fn vmm_on_hugetlb(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    vmm_updates(ctx, report, host, "vmm-hugetlb", 1, "hugetlb")
}

/// One update under a guest whose RAM is a guest_memfd.
fn vmm_on_guest_memfd(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    vmm_updates(ctx, report, host, "vmm-guest-memfd", 1, "guest-memfd")
}

fn vmm_soak(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    vmm_updates(ctx, report, host, "vmm-soak", LONG_VMM_UPDATES, "")
}

fn vmm_updates(
    ctx: &Ctx,
    report: &mut Report,
    host: &Kernel,
    name: &str,
    updates: u32,
    ram: &str,
) -> Result<()> {
    let image = guest::initramfs(ctx, host)?;
    let mut init = format!("vmm --updates={updates}");
    if !ram.is_empty() {
        init = format!("{init} --memory={ram}");
    }
    let params = if ram == "hugetlb" { "hugepages=80" } else { "" };
    let vm = Vm::new(name, host, &image)
        .on(&AMD)
        .params(params)
        .init(init)
        .limit(LIMIT.saturating_mul(updates.div_ceil(VMM_UPDATES)));
    let mut listener = Listener::default();
    let step = Step::start(ctx, format!("vm {}", vm.name));
    let run = vm.run_with(ctx, |line| listener.hear(line, Instant::now()))?;
    step.done("");
    for (number, gap) in (1..).zip(&listener.gaps) {
        print(&format!(
            "the guest of luo-vmm was silent in update {number} for {gap}"
        ));
    }
    let prefix = match ram {
        "" => String::new(),
        _ => format!("{name}: "),
    };
    run.judge(ctx, report, &prefix, &["vmm"]);
    heard(report, name, &listener);
    let what = "the guest does not count a number twice";
    report.check(&format!("{name}: {what}"), repeated(&run.console.user));
    Ok(())
}

/// Fails if nothing is known about how long the guest was silent.
fn heard(report: &mut Report, name: &str, listener: &Listener) {
    let nothing = || "no heartbeat was heard both before and after a kexec".to_owned();
    let what = "it is known how long the guest was silent";
    report.check(
        &format!("{name}: {what}"),
        listener.gaps.is_empty().then(nothing),
    );
}

/// The first fault in the numbers that the guest prints, seen from outside of its host. Some may be
/// missing: their lines can get lost with the host's kernel.
fn repeated(lines: &[String]) -> Option<String> {
    let mut last = 0;
    for line in lines {
        let number = || line.split_once("vm: count ")?.1.parse().ok();
        match number() {
            Some(count) if count <= last => return Some(format!("{count} follows {last}")),
            Some(count) => last = count,
            None => {}
        }
    }
    (last == 0).then(|| "there are none".to_owned())
}

/// Two updates by `luoctl kexec` under a guest of `luo-qemu@.service`.
fn qemu(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let image = guest::disk_with_refused(ctx, host)?;
    let peer = Peer::new()?;
    let vm = Vm::new("guest", host, &image)
        .on(&AMD)
        .devices(peer.devices())
        .params(guest::params(UPDATES))
        .limit(LIMIT);
    let gaps = updates(ctx, report, &vm, &peer, |_| {})?;
    if let [slow, fast] = gaps[..] {
        print(&format!(
            "with units that wait for the rest of the machine the guest was silent {:.2} times as \
             long",
            slow.all().as_secs_f64() / fast.all().as_secs_f64()
        ));
    }
    Ok(())
}

/// A guest whose memory consists of huge pages.
struct OnHugePages {
    /// The name of the suite.
    name: &'static str,
    /// The machine that it runs on.
    host: &'static Machine,
    /// The size of the pages.
    pages: &'static str,
    /// The size of its memory.
    memory: &'static str,
    /// The parameters by which more pages are set aside than it needs.
    params: &'static str,
}

/// An update under a guest of the usual size, on huge pages of the usual size.
fn qemu_on_huge_pages(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let kind = OnHugePages {
        name: "guest-huge-pages",
        host: &AMD,
        pages: "2M",
        memory: "256M",
        params: "hugepages=160",
    };
    on_huge_pages(ctx, report, host, &kind)
}

/// An update under a guest whose memory is one huge page of 1 GiB.
fn qemu_on_gigantic_pages(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let kind = OnHugePages {
        name: "guest-gigantic-pages",
        host: &AMD_LARGE,
        pages: "1G",
        memory: "1G",
        params: "hugepagesz=1G hugepages=2",
    };
    on_huge_pages(ctx, report, host, &kind)
}

/// An update under a guest on huge pages, whose disk is read outside of the host.
fn on_huge_pages(ctx: &Ctx, report: &mut Report, host: &Kernel, kind: &OnHugePages) -> Result<()> {
    let name = kind.name;
    let image = guest::disk_on_huge_pages(ctx, host, name, kind.pages, kind.memory)?;
    let mut disk = Outside::new(&ctx.build.join(name))?;
    let peer = Peer::new()?;
    let vm = Vm::new(name, host, &image)
        .on(kind.host)
        .devices(peer.devices())
        .devices(disk.devices())
        .params(format!("{} {}", guest::params(1), kind.params))
        .limit(LIMIT);
    updates(ctx, report, &vm, &peer, |line| disk.hear(line))?;
    let what = "what the guest saw stored is on its disk, read outside";
    report.check(&format!("{name}: {what}"), disk.complaint());
    Ok(())
}

/// Many updates: the memory of the guest, its disk and its connection are checked after each.
fn qemu_soak(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let image = guest::disk(ctx, host, "guest-soak")?;
    let params = guest::params(LONG_UPDATES);
    plain_updates(
        ctx,
        report,
        "guest-soak",
        host,
        &image,
        params,
        LONG_UPDATES,
    )
}

/// An update under a guest whose agent sets its clock.
fn with_agent(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let image = guest::disk_with_agent(ctx, host)?;
    let params = format!("{} luo_agent=1", guest::params(1));
    plain_updates(ctx, report, "guest-agent", host, &image, params, 1)
}

/// An update under two guests with a connection between them. At first, QEMU cannot save the state
/// of one of them.
fn two(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let image = guest::disk_with_chrony(ctx, host)?;
    let params = format!("{} luo_two=1", guest::params(1));
    plain_updates(ctx, report, "guest-two", host, &image, params, 2)
}

/// An update of a kernel with the configuration of a distribution, in which KVM and the guest's network
/// are modules.
fn with_modules(ctx: &Ctx, report: &mut Report, inside: &Kernel) -> Result<()> {
    const NAME: &str = "guest-modules";
    let host = build::kernel(ctx, Flavour::Cloud)?;
    let image = guest::disk_with_modules(ctx, &host, inside, NAME)?;
    plain_updates(ctx, report, NAME, &host, &image, guest::params(1), 1)
}

/// An update from the kernel with the implementation in C.
fn from_c(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let peer = build::kernel(ctx, Flavour::Peer)?;
    one_update(ctx, report, "guest-from-c", &peer, host)
}

/// An update to that kernel.
fn to_c(ctx: &Ctx, report: &mut Report, host: &Kernel) -> Result<()> {
    let peer = build::kernel(ctx, Flavour::Peer)?;
    one_update(ctx, report, "guest-to-c", host, &peer)
}

/// An update without our kernel, to compare how long the guest is silent.
fn only_c(ctx: &Ctx, report: &mut Report, _: &Kernel) -> Result<()> {
    let peer = build::kernel(ctx, Flavour::Peer)?;
    one_update(ctx, report, "guest-only-c", &peer, &peer)
}

/// An update from one kernel to another one, in the machine `name`.
fn one_update(
    ctx: &Ctx,
    report: &mut Report,
    name: &str,
    first: &Kernel,
    next: &Kernel,
) -> Result<()> {
    let image = guest::disk(ctx, next, name)?;
    plain_updates(ctx, report, name, first, &image, guest::params(1), 1)
}

/// Runs the tests in the machine `name`, which begins with the kernel `first`. `times` is by how much it
/// may take longer than one update under one guest.
fn plain_updates(
    ctx: &Ctx,
    report: &mut Report,
    name: &str,
    first: &Kernel,
    image: &Path,
    params: String,
    times: u32,
) -> Result<()> {
    let peer = Peer::new()?;
    let vm = Vm::new(name, first, image)
        .on(&AMD)
        .devices(peer.devices())
        .params(params)
        .limit(LIMIT.saturating_mul(times));
    updates(ctx, report, &vm, &peer, |_| {}).map(drop)
}

/// Runs the tests in a machine; `seen` gets each line of its console. Returns how long the guest
/// was silent in each update.
fn updates(
    ctx: &Ctx,
    report: &mut Report,
    vm: &Vm<'_>,
    peer: &Peer,
    mut seen: impl FnMut(&str),
) -> Result<Vec<Gap>> {
    let name = &vm.name;
    let mut listener = Listener::default();
    let step = Step::start(ctx, format!("vm {name}"));
    let run = vm.run_with(ctx, |line| {
        listener.hear(line, Instant::now());
        peer.hear(line);
        seen(line);
    })?;
    step.done("");
    for (number, gap) in (1..).zip(&listener.gaps) {
        print(&format!(
            "{name}: the guest was silent in update {number} for {gap}"
        ));
    }
    run.judge(ctx, report, &format!("{name}: "), &["guest"]);
    heard(report, name, &listener);
    let what = "a peer outside gets each line once";
    report.check(&format!("{name}: {what}"), peer.complaint());
    Ok(listener.gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_numbers_are_noticed() {
        let complaint = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            repeated(&lines)
        };
        assert_eq!(
            complaint(&["vm: count 1", "# vm: count 2", "x", "vm: count 4"]),
            None
        );
        assert_eq!(complaint(&["x"]).unwrap(), "there are none");
        assert_eq!(
            complaint(&["vm: count 2", "vm: count 2"]).unwrap(),
            "2 follows 2"
        );
    }
}
