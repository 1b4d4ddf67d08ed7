// SPDX-License-Identifier: GPL-2.0

//! `make bench ONLY=kinds`: the costs of memory of several kinds.
//!
//! They are compared with a memfd of pages of 4 KiB on the implementation in C, which cannot preserve
//! huge pages of a pool.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{catalogue::Run, measure, median};
use crate::ctx::Ctx;
use crate::image::programs;
use crate::kernel::build;
use crate::kernel::flavour::Flavour;
use crate::report::step::Step;

/// The name for `ONLY`.
pub const NAME: &str = "kinds";

/// Memory of the machine, for kinds of 1 GiB.
const MEM: &str = "5G";

/// A kind of memory, and the kernel that is measured.
struct Kind {
    host: Flavour,
    run: Run,
}

const fn kind(
    host: Flavour,
    name: &'static str,
    title: &'static str,
    arguments: &'static str,
) -> Kind {
    let run = Run {
        name,
        title,
        arguments,
        params: "",
        quick: true,
        targets: &[],
        curve: None,
    };
    Kind { host, run }
}

/// Huge pages that are set aside at boot.
const fn at_boot(kind: Kind, params: &'static str) -> Kind {
    let run = Run { params, ..kind.run };
    Kind { run, ..kind }
}

/// The others are compared with the first one.
const KINDS: [Kind; 6] = [
    kind(
        Flavour::Peer,
        "kind-pages",
        "memfd, 4 KiB pages, on C",
        "memory --mb=1024",
    ),
    kind(
        Flavour::Ours,
        "kind-pages",
        "memfd, 4 KiB pages",
        "memory --mb=1024",
    ),
    kind(
        Flavour::Ours,
        "kind-transparent",
        "memfd, transparent huge pages",
        "memory --mb=1024 --huge=1",
    ),
    kind(
        Flavour::Ours,
        "kind-collapsed",
        "memfd, collapsed before",
        "memory --mb=1024 --collapse=1",
    ),
    at_boot(
        kind(
            Flavour::Ours,
            "kind-hugetlb",
            "HugeTLB, 2 MiB",
            "memory --mb=1024 --hugetlb=2M",
        ),
        "hugepages=512",
    ),
    at_boot(
        kind(
            Flavour::Ours,
            "kind-gigantic",
            "HugeTLB, 1 GiB",
            "memory --mb=1024 --hugetlb=1G",
        ),
        "hugepagesz=1G hugepages=1",
    ),
];

/// What is measured, with the name of the value that the guest prints.
const FIGURES: [(&str, &str); 5] = [
    ("collapse", "collapse_us"),
    ("PRESERVE_FD", "preserve_us"),
    ("RETRIEVE_FD", "retrieve_us"),
    ("FINISH", "finish_us"),
    ("reboot to init", "blackout_us"),
];

/// All values of a kind, in microseconds.
type Values = BTreeMap<&'static str, Vec<u64>>;

/// Measures in `rounds` rounds, and writes the table to a file in `dir`.
pub fn run(ctx: &Ctx, rounds: u32, dir: &Path) -> Result<()> {
    let ours = build::kernel(ctx, Flavour::Ours)?;
    let c = build::kernel(ctx, Flavour::Peer)?;
    programs::guest(ctx)?;
    let mut ctx = ctx.clone();
    ctx.settings.mem = MEM.to_owned();
    // The host needs more time to provide memory than the guest to use it.
    ctx.prefault = true;
    let mut measured: [Values; KINDS.len()] = Default::default();
    for round in 1..=rounds {
        for (kind, values) in KINDS.iter().zip(&mut measured) {
            let host = match kind.host {
                Flavour::Peer => &c,
                _ => &ours,
            };
            let what = format!(
                "bench {}, {}, round {round}",
                kind.run.name,
                host.flavour.name()
            );
            let step = Step::start(&ctx, what);
            let found = measure(&ctx, host, &kind.run, round)?;
            for (_, key) in FIGURES {
                if let Some(value) = found.get(key) {
                    values.entry(key).or_default().push(*value);
                }
            }
            step.done("");
        }
    }
    let table = table(&measured);
    println!(
        "\n1 GiB of several kinds, and the ratio to the first one; medians of {rounds}\n\n{table}"
    );
    fs::create_dir_all(dir)?;
    fs::write(dir.join("kinds.txt"), table).context("write the table")
}

fn table(measured: &[Values; KINDS.len()]) -> String {
    let mut text = format!("{:<32}", "");
    for (title, _) in FIGURES {
        let _ = write!(text, "{title:>24}");
    }
    text.push('\n');
    for (kind, values) in KINDS.iter().zip(measured) {
        let _ = write!(text, "{:<32}", kind.run.title);
        for (_, key) in FIGURES {
            let of = |values: &Values| values.get(key).map(|all| median(all));
            let cell = match (of(values), of(&measured[0])) {
                (Some(value), Some(first)) => {
                    let ratio = value as f64 / first.max(1) as f64;
                    format!("{:.4} s ({ratio:.3})", value as f64 / 1e6)
                }
                (Some(value), None) => format!("{:.4} s", value as f64 / 1e6),
                _ => "-".to_owned(),
            };
            let _ = write!(text, "{cell:>24}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_ratios() {
        let mut measured: [Values; KINDS.len()] = Default::default();
        measured[0].insert("retrieve_us", vec![1000, 3000, 2000]);
        measured[1].insert("retrieve_us", vec![100]);
        measured[2].insert("collapse_us", vec![5]);
        let text = table(&measured);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("0.0020 s (1.000)"), "{text}");
        assert!(lines[2].contains("0.0001 s (0.050)"), "{text}");
        assert!(lines[3].contains("0.0000 s   "), "{text}");
        assert_eq!(lines.len(), 1 + KINDS.len());
    }
}
