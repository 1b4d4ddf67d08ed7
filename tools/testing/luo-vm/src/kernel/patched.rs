// SPDX-License-Identifier: GPL-2.0

//! Kernels with a text that was changed after the build.
//!
//! For tests of programs that examine kernels. Building a kernel with another version of a format
//! takes minutes; this takes seconds, and the result boots, since all addresses stay the same.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{bail, ensure, Context, Result};
use luo_check::bzimage::BzImage;
use regex::bytes::Regex;

use crate::ctx::Ctx;
use crate::kernel::build::Kernel;
use crate::report::step::Step;

/// A null-terminated text in the kernel, and its replacement of the same length.
pub type Change = (&'static str, &'static str);

/// The magic number of Zstandard.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The options for compressing a kernel: those of its build, with a higher level.
const PACK: [&str; 4] = [
    "-22",
    "--ultra",
    "--no-check",
    "--zstd=hlog=27,clog=28,slog=12,tlen=131072",
];

/// The length of the uncompressed kernel, which follows the compressed kernel in an image.
const TRAILER: usize = 4;

/// A copy of the image of `kernel` with other texts.
pub fn image(ctx: &Ctx, kernel: &Kernel, name: &str, changes: &[Change]) -> Result<PathBuf> {
    let step = Step::start(ctx, format!("patch kernel {name}"));
    let mut file = fs::read(&kernel.image)?;
    let header = BzImage::parse(&file)?;
    let payload = header.payload.to_vec();
    let at = file
        .windows(payload.len())
        .position(|part| part == payload)
        .context("the image has no payload")?;
    ensure!(payload.starts_with(ZSTD), "not compressed with Zstandard");
    let (packed, trailer) = payload.split_at(payload.len() - TRAILER);

    let mut plain = zstd(&["-d"], packed)?;
    for (from, to) in changes {
        ensure!(from.len() == to.len(), "{from} is not as long as {to}");
        replace(&mut plain, from, to)?;
    }
    make_room(&mut plain)?;
    let mut again = zstd(&PACK, &plain)?;
    if again.len() > packed.len() {
        bail!(
            "the patched kernel is compressed to {} bytes, and there is room for {}",
            again.len(),
            packed.len()
        );
    }
    again.resize(packed.len(), 0);
    again.extend(trailer);
    file[at..at + again.len()].copy_from_slice(&again);
    let path = ctx.build.join("images").join(format!("bzImage-{name}"));
    fs::create_dir_all(ctx.build.join("images"))?;
    fs::write(&path, file)?;
    step.done("");
    Ok(path)
}

/// Changed texts may compress worse than the original ones. To compensate, texts that the kernel
/// only prints are cleared: addresses of web pages, and the names of the compilers.
fn make_room(kernel: &mut [u8]) -> Result<()> {
    let compilers = Regex::new(r"Linux version [^\x00\n]*?\([^\x00\n()]*\) (\([^\x00\n]*\)) #")?;
    let compilers = compilers.captures(kernel).and_then(|found| found.get(1));
    let compilers = compilers.map(|text| text.as_bytes().to_vec());
    let pages = Regex::new(r"https?://[!-$&-~]{12,}")?;
    let mut places: Vec<_> = pages.find_iter(kernel).map(|page| page.range()).collect();
    if let Some(text) = compilers.and_then(|text| String::from_utf8(text).ok()) {
        let all = Regex::new(&regex::escape(&text))?;
        places.extend(all.find_iter(kernel).map(|text| text.range()));
    }
    for place in places {
        kernel[place].fill(b' ');
    }
    Ok(())
}

/// Replaces all occurrences of a text in a kernel.
fn replace(kernel: &mut [u8], from: &str, to: &str) -> Result<()> {
    let text = [from.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = kernel
        .windows(text.len())
        .enumerate()
        .filter(|(_, part)| *part == text)
        .map(|(at, _)| at)
        .collect();
    ensure!(!places.is_empty(), "the kernel has no {from}");
    for at in places {
        kernel[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    Ok(())
}

/// Runs `zstd` to compress or decompress data.
fn zstd(args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut zstd = Command::new("zstd");
    zstd.args(args).args(["-q", "-c"]);
    zstd.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = zstd.spawn().context("zstd is missing")?;
    let mut stdin = child.stdin.take().context("zstd has no input")?;
    let output = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        // If it does not read all input, its exit status is an error.
        let _ = writer.join();
        output
    })?;
    ensure!(output.status.success(), "zstd: {}", output.status);
    Ok(output.stdout)
}
