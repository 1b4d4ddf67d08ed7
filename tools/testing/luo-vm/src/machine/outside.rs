// SPDX-License-Identifier: GPL-2.0

//! A disk of a guest, read outside of the guest's host.
//!
//! The disk is a file of this machine. The guest writes blocks to it. Each block has a number that
//! is one more than the previous one, and that determines its place. The contents of the disk are
//! copied at each kexec of the host: all blocks whose writes the guest saw complete must be there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::gap::BOOTS;

/// The size of the disk.
const SIZE: u64 = 8 << 20;

/// The size of a block, and the number of blocks that are written repeatedly.
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 256;

/// What the host prints after each kexec, and at the end: the last number that the guest saw stored
/// before that.
const STORED: &str = "@stored ";

/// The disk.
pub struct Outside {
    path: PathBuf,
    /// The contents at each start of a kernel.
    kept: Vec<Vec<u8>>,
    stored: Vec<u64>,
}

impl Outside {
    /// An empty disk in a directory.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join("outside.raw");
        File::create(&path)?.set_len(SIZE)?;
        Ok(Self {
            path,
            kept: Vec::new(),
            stored: Vec::new(),
        })
    }

    /// The QEMU options for the disk, which is the last one of the host.
    pub fn devices(&self) -> [String; 4] {
        let path = self.path.display();
        [
            "-drive".to_owned(),
            format!("if=none,id=outside,format=raw,snapshot=off,file={path}"),
            "-device".to_owned(),
            "virtio-blk-pci,drive=outside,addr=1e".to_owned(),
        ]
    }

    /// Takes a line of the host's console.
    pub fn hear(&mut self, line: &str) {
        if line.contains(BOOTS) {
            self.keep();
        } else if let Some((_, number)) = line.split_once(STORED) {
            self.stored.extend(number.trim().parse::<u64>());
        }
    }

    fn keep(&mut self) {
        // If the disk cannot be read, all numbers are missing.
        self.kept.push(fs::read(&self.path).unwrap_or_default());
    }

    /// Returns the first number that is missing, if there is one. Must be called after the host has
    /// ended.
    pub fn complaint(&mut self) -> Option<String> {
        self.keep();
        // The disk was empty when the first kernel started.
        let kept = self.kept.get(1..).unwrap_or_default();
        if kept.len() != self.stored.len() {
            let stored = self.stored.len();
            return Some(format!(
                "{} contents of the disk for {stored} numbers",
                kept.len()
            ));
        }
        let mut pairs = kept.iter().zip(&self.stored);
        pairs.find_map(|(content, stored)| missing(content, *stored))
    }
}

/// The first of the numbers up to `stored` that is not in `content`.
fn missing(content: &[u8], stored: u64) -> Option<String> {
    if stored == 0 {
        return Some("the guest has stored nothing".to_owned());
    }
    // The guest may have written the next ones already.
    let first = stored.saturating_sub(BLOCKS / 2).max(1);
    (first..=stored).find_map(|number| {
        let at = usize::try_from(number % BLOCKS * BLOCK).ok()?;
        let found = content
            .get(at..)?
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes));
        let found = found.unwrap_or(0);
        let good = found >= number && (found - number) % BLOCKS == 0;
        (!good).then(|| format!("{number} was stored, the disk has {found}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(last: u64) -> Vec<u8> {
        let mut content = vec![0; SIZE as usize];
        for number in 1..=last {
            let at = (number % BLOCKS * BLOCK) as usize;
            content[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        content
    }

    #[test]
    fn a_write_that_is_lost_is_noticed() {
        assert_eq!(missing(&content(300), 300), None);
        assert_eq!(missing(&content(305), 300), None);
        let why = missing(&content(299), 300).unwrap();
        assert_eq!(why, "300 was stored, the disk has 44");
        assert_eq!(
            missing(&content(3), 0).unwrap(),
            "the guest has stored nothing"
        );
    }

    #[test]
    fn contents_are_kept_when_a_kernel_starts() {
        let dir = std::env::temp_dir().join(format!("luo-outside-{}", std::process::id()));
        let mut disk = Outside::new(&dir).unwrap();
        disk.hear("[    0.000000] Linux version 7.3.4");
        fs::write(&disk.path, content(7)).unwrap();
        disk.hear("[    0.000000] Linux version 7.3.4");
        // What is written later is not on the disk of that time.
        fs::write(&disk.path, content(20)).unwrap();
        disk.hear("@stored 8");
        disk.hear("@stored 20");
        assert_eq!(disk.complaint().unwrap(), "8 was stored, the disk has 0");
        disk.stored[0] = 7;
        disk.kept.pop();
        assert_eq!(disk.complaint(), None);
        fs::remove_dir_all(dir).unwrap();
    }
}
