// SPDX-License-Identifier: GPL-2.0

//! `make bench ONLY=guest`: how long guests wait while the kernel of their host is replaced.
//!
//! The host has a small init and the example `luo-vmm`. A guest prints a heartbeat, which is stamped
//! here, outside of the host: KVM does not show the gap to the guest. The host's time-stamp counter,
//! which kexec does not reset, gives the phases. The blackout of the same host without guests is
//! measured in the same run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::{figures, median};
use crate::ctx::Ctx;
use crate::image::guest;
use crate::kernel::build::{self, Kernel};
use crate::kernel::flavour::Flavour;
use crate::machine::gap::Listener;
use crate::machine::named::AMD;
use crate::machine::verdict::GOOD;
use crate::machine::vm::Vm;
use crate::report::step::Step;

/// The name for `ONLY`.
pub const NAME: &str = "guest";

/// Memory of the host: enough for all of its guests.
const MEM: &str = "3G";

/// The time after which a machine is considered hung.
const LIMIT: Duration = Duration::from_secs(3600);

/// Guests on a host.
struct Case {
    name: &'static str,
    title: &'static str,
    host: Flavour,
    /// The parameters of the host's kernel.
    params: &'static str,
    /// The arguments of init.
    init: &'static str,
    /// Whether it is measured with `QUICK=1`.
    quick: bool,
}

const fn case(
    name: &'static str,
    title: &'static str,
    host: Flavour,
    init: &'static str,
    quick: bool,
) -> Case {
    Case {
        name,
        title,
        host,
        params: "",
        init,
        quick,
    }
}

const BARE: &str = "bare";
const C: &str = "c-256m";
const SMALL: &str = "256m";
const SMALL_HUGE: &str = "256m-huge";
const LARGE_HUGE: &str = "1536m-huge";

/// All memory of the guests is allocated. Unless the title says otherwise, they have one processor and
/// memory in pages of 4 KiB.
const CASES: [Case; 10] = [
    case(BARE, "no guest", Flavour::Ours, "bench small", true),
    case(C, "256 MiB, on C", Flavour::Peer, "gap --ram=256", true),
    case(SMALL, "256 MiB", Flavour::Ours, "gap --ram=256", true),
    case(
        SMALL_HUGE,
        "256 MiB, huge pages",
        Flavour::Ours,
        "gap --ram=256 --huge=1",
        true,
    ),
    Case {
        // Some are left for the host.
        params: "hugepages=160",
        ..case(
            "256m-hugetlb",
            "256 MiB, HugeTLB",
            Flavour::Ours,
            "gap --ram=256 --memory=hugetlb",
            true,
        )
    },
    case(
        "256m-guest-memfd",
        "256 MiB, guest_memfd",
        Flavour::Ours,
        "gap --ram=256 --memory=guest-memfd",
        true,
    ),
    case(
        LARGE_HUGE,
        "1.5 GiB, huge pages",
        Flavour::Ours,
        "gap --ram=1536 --huge=1",
        true,
    ),
    case(
        "1g-2",
        "1 GiB, 2 processors",
        Flavour::Ours,
        "gap --ram=1024 --cpus=2",
        false,
    ),
    case(
        "1g-2-huge",
        "1 GiB, 2 processors, huge pages",
        Flavour::Ours,
        "gap --ram=1024 --cpus=2 --huge=1",
        false,
    ),
    case(
        "four-huge",
        "4 x 256 MiB, huge pages",
        Flavour::Ours,
        "gap --ram=256 --guests=4 --huge=1",
        false,
    ),
];

/// In microseconds, by name.
type Values = BTreeMap<&'static str, u64>;

/// The columns of the table, and their figures.
const COLUMNS: [(&str, &str); 8] = [
    ("Gap", "seen"),
    ("by TSC", GAP),
    ("Pause+state", PAUSE),
    ("Jump", "jump_us"),
    ("Boot", "boot_us"),
    ("luod", LUOD),
    ("Claim, resume", CLAIM),
    ("Preserve", "preserve_us"),
];

const GAP: &str = "gap_us";
const PAUSE: &str = "pause_us";
const LUOD: &str = "luod_us";
const CLAIM: &str = "claim_us";
const BLACKOUT: &str = "blackout_us";

/// Figures that the program in the host prints.
const PRINTED: [&str; 5] = [GAP, "boot_us", LUOD, CLAIM, BLACKOUT];

/// Measures in `rounds` rounds, and writes the table to a file in `dir`.
pub fn run(ctx: &Ctx, quick: bool, rounds: u32, dir: &Path) -> Result<()> {
    let mut ctx = ctx.clone();
    ctx.settings.mem = MEM.to_owned();
    // The outer host needs more time to provide memory than the machine to use it.
    ctx.prefault = true;
    let ctx = &ctx;
    let ours = build::kernel(ctx, Flavour::Ours)?;
    let c = build::kernel(ctx, Flavour::Peer)?;
    let mut measured: BTreeMap<&'static str, Vec<Values>> = BTreeMap::new();
    for round in 1..=rounds {
        for case in CASES.iter().filter(|case| !quick || case.quick) {
            let host = if case.host == Flavour::Peer {
                &c
            } else {
                &ours
            };
            let step = Step::start(ctx, format!("bench guest {}, round {round}", case.name));
            let values = measure(ctx, host, case, round)?;
            measured.entry(case.name).or_default().push(values);
            step.done("");
        }
    }
    let measured = measured.into_iter();
    let medians = measured.map(|(name, rounds)| (name, medians(&rounds)));
    let text = table(&medians.collect());
    println!("\nGaps of guests of luo-vmm; medians of {rounds}\n\n{text}");
    fs::create_dir_all(dir)?;
    fs::write(dir.join("guest.txt"), text).context("write the table")
}

fn measure(ctx: &Ctx, host: &Kernel, case: &Case, round: u32) -> Result<Values> {
    let image = guest::initramfs(ctx, host)?;
    let vm = Vm::new(format!("bench-guest-{}-{round}", case.name), host, &image)
        .on(&AMD)
        .params(case.params)
        .init(case.init)
        .limit(LIMIT);
    let mut listener = Listener::default();
    let run = vm.run_with(ctx, |line| listener.hear(line, Instant::now()))?;
    if let Some(why) = run.guest_complaint() {
        bail!(run.failure(ctx, GOOD, &why));
    }
    let lines = &run.console.user;
    let printed = figures(lines);
    if printed.get("verified") != Some(&1) {
        bail!(run.failure(ctx, "verified guests", "they were not verified"));
    }
    let printed = PRINTED.map(|name| Some((name, *printed.get(name)?)));
    let mut values: Values = printed.into_iter().flatten().collect();
    if let Some(gap) = listener.gaps.first() {
        values.insert("seen", gap.all().as_micros() as u64);
    }
    // From lines that the programs print in the first kernel: the largest number of all guests.
    for (name, words) in [
        (PAUSE, "of state within "),
        ("preserve_us", " preserve_us="),
    ] {
        let numbers = lines.iter().filter_map(|line| number_after(line, words));
        values.extend(numbers.max().map(|number| (name, number)));
    }
    if let Some(jump) = jump(&values) {
        values.insert("jump_us", jump);
    }
    Ok(values)
}

/// The number after some words of a line.
fn number_after(line: &str, words: &str) -> Option<u64> {
    let rest = line.split_once(words)?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

/// The rest of the gap: the time from the saved state to the start of the next kernel.
fn jump(values: &Values) -> Option<u64> {
    let others = [PAUSE, "boot_us", LUOD, CLAIM];
    let others = others.map(|name| values.get(name)).into_iter();
    let others: u64 = others.sum::<Option<u64>>()?;
    Some(values.get(GAP)?.saturating_sub(others))
}

fn medians(rounds: &[Values]) -> Values {
    let names = rounds.iter().flat_map(|values| values.keys());
    let of = |name| -> Vec<u64> {
        let all = rounds.iter();
        all.filter_map(|values| values.get(name).copied()).collect()
    };
    names.map(|name| (*name, median(&of(name)))).collect()
}

fn table(of: &BTreeMap<&'static str, Values>) -> String {
    let mut text = format!("{:<32}", "Guests (seconds)");
    for (title, _) in COLUMNS {
        let _ = write!(text, " {title:>13}");
    }
    text.push('\n');
    for case in &CASES {
        let Some(values) = of.get(case.name) else {
            continue;
        };
        let _ = write!(text, "{:<32}", case.title);
        for (_, name) in COLUMNS {
            // The blackout of a host without guests is shown as their gap.
            let name = if case.name == BARE && name == GAP {
                BLACKOUT
            } else {
                name
            };
            let value = values
                .get(name)
                .map(|micros| format!("{:.4}", *micros as f64 / 1e6));
            let _ = write!(text, " {:>13}", value.as_deref().unwrap_or("-"));
        }
        text.push('\n');
    }
    text.push_str("\nRatio                                                  Value    Goal\n");
    for (title, over, under, goal) in ratios(of) {
        if let (Some(over), Some(under)) = (over, under) {
            let ratio = over as f64 / under.max(1) as f64;
            let goal = goal.map_or(String::new(), |goal| format!("{goal:.2}"));
            let _ = writeln!(text, "{title:<52} {ratio:>7.3} {goal:>7}");
        }
    }
    text
}

/// What is compared with what, and the goal, if there is one.
type Ratio = (&'static str, Option<u64>, Option<u64>, Option<f64>);

fn ratios(of: &BTreeMap<&'static str, Values>) -> [Ratio; 6] {
    let value = |case, name| of.get(case)?.get(name).copied();
    let gap = |case| value(case, GAP);
    let luod = value(SMALL, LUOD).zip(value(SMALL, CLAIM));
    let bare = value(BARE, BLACKOUT);
    [
        (
            "256 MiB: pause and state to the gap",
            value(SMALL, PAUSE),
            gap(SMALL),
            Some(0.05),
        ),
        (
            "256 MiB: from init to the guest, to the gap",
            luod.map(|(luod, claim)| luod + claim),
            gap(SMALL),
            Some(0.25),
        ),
        (
            "256 MiB: gap to the bare blackout",
            gap(SMALL),
            bare,
            Some(1.1),
        ),
        (
            "256 MiB, huge pages: gap to the bare blackout",
            gap(SMALL_HUGE),
            bare,
            Some(1.1),
        ),
        (
            "1.5 GiB to 256 MiB, huge pages: gap",
            gap(LARGE_HUGE),
            gap(SMALL_HUGE),
            Some(1.1),
        ),
        ("256 MiB: gap to that on C", gap(SMALL), gap(C), None),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_gap_is_the_jump() {
        let values = [
            (GAP, 1000),
            (PAUSE, 10),
            ("boot_us", 300),
            (LUOD, 50),
            (CLAIM, 40),
        ];
        assert_eq!(jump(&values.into()), Some(600));
        assert_eq!(jump(&[(GAP, 1000)].into()), None);
    }

    #[test]
    fn numbers_are_found_in_lines() {
        let line = "guest0: paused; 21138 bytes of state within 4143 us";
        assert_eq!(number_after(line, "of state within "), Some(4143));
        assert_eq!(number_after(line, "preserve_us="), None);
        assert_eq!(
            number_after("x preserve_us=98812", " preserve_us="),
            Some(98812)
        );
    }

    #[test]
    fn table_has_goals() {
        let guest = [(GAP, 2_000_000), (PAUSE, 20_000), ("seen", 2_100_000)];
        let of = [
            (BARE, [(BLACKOUT, 1_600_000)].into()),
            (SMALL, guest.into()),
        ];
        let text = table(&of.into());
        assert!(
            text.contains(": gap to the bare blackout                      1.250    1.10"),
            "{text}"
        );
        assert!(
            text.contains(" to the gap                    0.010    0.05"),
            "{text}"
        );
        assert!(!text.contains("on C "), "{text}");
    }
}
