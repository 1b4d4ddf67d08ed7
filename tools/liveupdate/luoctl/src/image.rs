// SPDX-License-Identifier: GPL-2.0

//! `luoctl check`.

use crate::{
    cli::{CheckOptions, Cli, Exit, Failure},
    output,
};
use luo_check::{
    check_formats, worst, Finding, Image, ImageError, Needs, System, Verdict, IMAGE_MAX,
};
use rustix::fs::{memfd_create, MemfdFlags, OFlags};
use std::{
    fmt::Display,
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Read, Seek, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

/// The maximum size of a configuration, in bytes.
const CONFIG_MAX: u64 = 4 << 20;

pub fn failed(path: &Path, error: impl Display) -> Failure {
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}

/// Opens a regular file. Other files are not opened: opening a device can have side effects,
/// and opening a pipe can block.
pub fn open(path: &Path) -> Result<File, Failure> {
    let other = || failed(path, "it is not a regular file");
    let metadata = fs::metadata(path).map_err(|error| failed(path, error))?;
    if !metadata.is_file() {
        return Err(other());
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| failed(path, error))?;
    // It may have been replaced since it was examined.
    let metadata = file.metadata().map_err(|error| failed(path, error))?;
    if metadata.is_file() {
        Ok(file)
    } else {
        Err(other())
    }
}

/// The configuration that distributions install beside an image: `config-VERSION` beside
/// `vmlinuz-VERSION`. [`None`] if there is none.
fn config(image: &Path) -> Option<String> {
    let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
    let file = open(&image.with_file_name(format!("config-{version}"))).ok()?;
    let mut text = String::new();
    file.take(CONFIG_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Reads and examines an image; returns the reason if this is not possible, or if the image
/// would not boot.
pub fn examine(
    system: &System,
    path: &Path,
    file: &File,
) -> Result<Result<Image, Finding>, Failure> {
    let length = file.metadata().map_err(|error| failed(path, error))?.len();
    if length > IMAGE_MAX as u64 {
        let reason = format!("{}: {}", path.display(), ImageError::TooLarge);
        return Ok(Err(Finding::new("image", Verdict::Unknown, reason)));
    }
    // One byte more than the limit, to detect a larger file.
    let limit = u64::try_from(IMAGE_MAX).unwrap_or(u64::MAX - 1) + 1;
    let mut content = Vec::new();
    file.take(limit)
        .read_to_end(&mut content)
        .map_err(|error| failed(path, error))?;
    let result = if content.len() > IMAGE_MAX {
        Err(ImageError::TooLarge)
    } else {
        Image::parse(&content)
    };
    match result {
        Ok(mut image) => {
            if let Some(config) = config(path) {
                image.add_config(&config);
            }
            system.add_modules(&mut image);
            Ok(Ok(image))
        }
        Err(error @ (ImageError::Unsupported(_) | ImageError::TooLarge)) => {
            let reason = error.to_string();
            Ok(Err(Finding::new("image", Verdict::Unknown, reason)))
        }
        Err(error @ (ImageError::Damaged(_) | ImageError::Unbootable(_))) => {
            let reason = error.to_string();
            Ok(Err(Finding::new("image", Verdict::No, reason)))
        }
        Err(error) => Err(failed(path, error)),
    }
}

/// A copy of the kernel in `file`, without a name, if it is one that `kexec_file_load()` only takes
/// unpacked; [`None`] for others.
pub fn unpacked(path: &Path, file: &File) -> Result<Option<File>, Failure> {
    let mut content = Vec::new();
    let limit = u64::try_from(IMAGE_MAX).unwrap_or(u64::MAX);
    let mut read = || -> io::Result<Option<File>> {
        let mut start = file;
        start.rewind()?;
        start.take(limit).read_to_end(&mut content)?;
        let Some(kernel) = luo_check::unpack(&content).map_err(io::Error::other)? else {
            return Ok(None);
        };
        let mut copy = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC)?);
        copy.write_all(&kernel)?;
        // The kernel reads from no file that is open for writing.
        File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).map(Some)
    };
    read().map_err(|error| failed(path, error))
}

/// The findings about an image.
pub fn findings(
    cli: &Cli,
    image: &Result<Image, Finding>,
    initrd: u64,
    cmdline: &str,
) -> Vec<Finding> {
    let system = cli.system();
    match image {
        Ok(image) => {
            let mut findings = check_formats(image, &Needs::of_system(&system.sysfs));
            findings.extend(luo_check::cmdline::check(cmdline, Some(image)));
            findings.push(system.check_memory(image, initrd));
            let arch = std::env::consts::ARCH;
            findings.extend(image.machine.check(arch, rustix::param::page_size()));
            findings
        }
        Err(finding) => {
            let mut findings = vec![finding.clone()];
            findings.extend(luo_check::cmdline::check(cmdline, None));
            findings
        }
    }
}

/// Shows findings.
pub fn show(cli: &Cli, findings: &[Finding]) {
    let verdict = worst(findings);
    // A closed standard output is ignored.
    if cli.json {
        let _ = output::json(&serde_json::json!({ "verdict": verdict, "findings": findings }));
        return;
    }
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let paint = |verdict: Verdict| match (colour, verdict) {
        (false, _) => format!("{verdict:8}"),
        (true, Verdict::Yes) => format!("\x1b[32m{verdict:8}\x1b[0m"),
        (true, Verdict::No) => format!("\x1b[31m{verdict:8}\x1b[0m"),
        (true, _) => format!("\x1b[33m{verdict:8}\x1b[0m"),
    };
    let mut text = String::new();
    for finding in findings {
        let reason = output::clean(&finding.reason);
        text += &format!("{} {}: {reason}\n", paint(finding.verdict), finding.check);
    }
    text += &format!("{} all together\n", paint(verdict));
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
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

/// The reasons of all findings that are as bad as `verdict`.
pub fn reasons(findings: &[Finding], verdict: Verdict) -> String {
    let of_these = findings.iter().filter(|f| f.verdict == verdict);
    let reasons: Vec<&str> = of_these.map(|finding| finding.reason.as_str()).collect();
    reasons.join("; ")
}

/// `luoctl check [IMAGE]`.
pub fn check(cli: &Cli, options: &CheckOptions) -> Result<Exit, Failure> {
    let findings = match &options.image {
        Some(path) => {
            let file = open(path)?;
            let cmdline = cli.cmdline(options.cmdline.as_deref())?;
            findings(cli, &examine(&cli.system(), path, &file)?, 0, &cmdline)
        }
        None => cli.system().check_loaded(),
    };
    show(cli, &findings);
    Ok(exit(worst(&findings)))
}
