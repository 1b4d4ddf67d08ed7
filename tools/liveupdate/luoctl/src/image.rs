// SPDX-License-Identifier: GPL-2.0

//! `luoctl check`.

use crate::cli::{Cli, Exit, Failure};
use luo_check::{check_formats, system, worst, Finding, Image, Needs, Verdict, IMAGE_MAX};
use std::{
    fs::File,
    io::{IsTerminal, Read},
    path::Path,
};

const SYSFS: &str = "/sys";

fn failed(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}

/// Reads and examines an image.
pub fn read(path: &Path) -> Result<Image, Failure> {
    let limit = u64::try_from(IMAGE_MAX).unwrap_or(u64::MAX);
    let mut file = Vec::new();
    File::open(path)
        .and_then(|source| source.take(limit).read_to_end(&mut file))
        .map_err(|error| failed(path, error))?;
    Image::parse(&file).map_err(|error| match error {
        luo_check::ImageError::Unsupported(_) => {
            Failure::new(Exit::Unknown, format!("{}: {error}", path.display()))
        }
        _ => failed(path, error),
    })
}

/// What can be said against an image.
pub fn findings(image: &Image, initrd: u64, cmdline: Option<&str>) -> Vec<Finding> {
    let mut findings = check_formats(image, &Needs::of_system(Path::new(SYSFS)));
    if let Some(cmdline) = cmdline {
        findings.extend(luo_check::cmdline::check(cmdline, Some(image)));
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    findings.push(system::check_memory(&meminfo, image, initrd));
    findings
}

/// Checks the loaded image.
pub fn loaded() -> Finding {
    system::Loaded::of_system(Path::new(SYSFS)).check()
}

/// Shows findings.
pub fn show(cli: &Cli, findings: &[Finding]) {
    let verdict = worst(findings);
    if cli.json {
        println!(
            "{}",
            serde_json::json!({ "verdict": verdict, "findings": findings })
        );
        return;
    }
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let paint = |verdict: Verdict| match (colour, verdict) {
        (false, _) => format!("{verdict:8}"),
        (true, Verdict::Yes) => format!("\x1b[32m{verdict:8}\x1b[0m"),
        (true, Verdict::No) => format!("\x1b[31m{verdict:8}\x1b[0m"),
        (true, _) => format!("\x1b[33m{verdict:8}\x1b[0m"),
    };
    for finding in findings {
        println!(
            "{} {}: {}",
            paint(finding.verdict),
            finding.check,
            finding.reason
        );
    }
    println!("{} all together", paint(verdict));
}

/// The exit code for a verdict.
pub fn exit(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Yes => Exit::Good,
        Verdict::Likely => Exit::Likely,
        Verdict::Unknown => Exit::Unknown,
        Verdict::No => Exit::No,
    }
}

/// `luoctl check [IMAGE]`.
pub fn check(cli: &Cli, image: Option<&Path>) -> Result<Exit, Failure> {
    let findings = match image {
        Some(path) => findings(&read(path)?, 0, None),
        None => vec![loaded()],
    };
    show(cli, &findings);
    Ok(exit(worst(&findings)))
}
