// SPDX-License-Identifier: GPL-2.0

//! The amounts of total and free memory, in KiB.

use crate::support::error::{At, Result};
use std::fs;

const PAGE_KIB: u64 = 4;

/// A line of /proc/meminfo.
pub fn line(key: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").at("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib = kib.at(format_args!("/proc/meminfo has no {key}"))?;
    Ok(kib.parse()?)
}

/// Free memory, including the per-processor lists, which `MemFree` does not include: up to tens of
/// MiB of recently freed memory.
pub fn free() -> Result<u64> {
    let zones = fs::read_to_string("/proc/zoneinfo").at("/proc/zoneinfo")?;
    let mut pages = 0;
    for line in zones.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some("nr_free_pages" | "count:"), Some(number)) = (words.next(), words.next()) {
            pages += number.parse::<u64>().at("/proc/zoneinfo")?;
        }
    }
    Ok(pages * PAGE_KIB)
}

/// Like [`free`], after dropping caches.
pub fn free_without_caches() -> Result<u64> {
    const DROP: &str = "/proc/sys/vm/drop_caches";
    fs::write(DROP, "3").at(DROP)?;
    free()
}
