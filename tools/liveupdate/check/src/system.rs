// SPDX-License-Identifier: GPL-2.0

//! What the running system tells.

use crate::{Finding, Image, Verdict};
use serde::Serialize;
use std::{collections::BTreeSet, fs, path::Path};

/// The formats that matter for an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// What the next kernel has to understand.
    pub in_use: BTreeSet<String>,
    /// What this kernel could hand over besides.
    pub possible: BTreeSet<String>,
    /// Whether `in_use` is what the kernel said. Else, it is a guess.
    pub complete: bool,
}

/// What every live update hands over: sessions, and luod's registry, which is a memfd.
const USUAL: [&str; 3] = ["kho-v4", "luo-v5", "memfd-v2"];

fn names(path: &Path) -> Option<BTreeSet<String>> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

impl Needs {
    /// What kernels with the formats of Linux 7.2 and 7.3 hand over. A guess.
    pub fn usual() -> Self {
        Self {
            in_use: USUAL.map(str::to_owned).into(),
            ..Self::default()
        }
    }

    /// Asks the running kernel, whose sysfs is at `sysfs`, usually `/sys`.
    ///
    /// For a kernel that does not tell, this is [`Self::usual`].
    pub fn of_system(sysfs: &Path) -> Self {
        let dir = sysfs.join("kernel/liveupdate");
        let mut needs = Self::usual();
        if let Some(possible) = names(&dir.join("compatible")) {
            // The versions of the running kernel, whatever they are.
            let family = |name: &str| {
                USUAL.iter().any(|usual| {
                    usual.rsplit_once("-v").map(|(f, _)| f)
                        == name.rsplit_once("-v").map(|(f, _)| f)
                })
            };
            needs.in_use = possible
                .iter()
                .filter(|name| family(name))
                .cloned()
                .collect();
            needs.possible = possible;
        }
        if let Some(in_use) = names(&dir.join("in_use")) {
            needs.in_use.extend(in_use);
            needs.complete = true;
        }
        needs
    }
}

/// What a kexec would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loaded {
    /// Nothing.
    Nothing,
    /// An image that takes over what is handed over.
    WithHandover,
    /// An image that loses everything.
    WithoutHandover,
    /// An image, of which this kernel tells nothing.
    Something,
    /// Not even that can be found out.
    Unknown,
}

impl Loaded {
    /// Asks the running kernel, whose sysfs is at `sysfs`, usually `/sys`.
    pub fn of_system(sysfs: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(sysfs.join(name)).ok();
        match read("kernel/liveupdate/image").as_deref().map(str::trim) {
            Some("none") => return Self::Nothing,
            Some("with") => return Self::WithHandover,
            Some("without") => return Self::WithoutHandover,
            _ => {}
        }
        match read("kernel/kexec_loaded").as_deref().map(str::trim) {
            Some("0") => Self::Nothing,
            Some("1") => Self::Something,
            _ => Self::Unknown,
        }
    }

    /// Judges it.
    pub fn check(self) -> Finding {
        let (verdict, reason) = match self {
            Self::Nothing => (Verdict::No, "no kernel is loaded; use luoctl load"),
            Self::WithHandover => (Verdict::Yes, "the loaded image carries Kexec Handover"),
            Self::WithoutHandover => (
                Verdict::No,
                "the loaded image cannot take over anything: it was loaded by kexec_load(), or \
                 without kho=on; use luoctl load",
            ),
            Self::Something => (
                Verdict::Unknown,
                "an image is loaded, but this kernel does not tell how; use luoctl load",
            ),
            Self::Unknown => (
                Verdict::Unknown,
                "whether an image is loaded cannot be found out",
            ),
        };
        Finding::new("loaded image", verdict, reason)
    }
}

/// Checks whether there is enough memory to load an image.
///
/// `meminfo` is the content of `/proc/meminfo`.
pub fn check_memory(meminfo: &str, image: &Image, initrd: u64) -> Finding {
    const CHECK: &str = "memory";
    let available = meminfo.lines().find_map(|line| {
        let value = line.strip_prefix("MemAvailable:")?.trim();
        value
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    });
    // The files are read as a whole, and then copied to where the next kernel finds them.
    let files = image.file_size.saturating_add(initrd).saturating_mul(2);
    let needed = files.saturating_add(image.init_size);
    match available {
        None => Finding::new(CHECK, Verdict::Unknown, "/proc/meminfo cannot be read"),
        Some(available) if available < needed => Finding::new(
            CHECK,
            Verdict::No,
            format!(
                "{} MiB are needed to load the image, and {} MiB available",
                needed >> 20,
                available >> 20
            ),
        ),
        Some(_) => Finding::new(
            CHECK,
            Verdict::Yes,
            format!("{} MiB are enough to load the image", needed >> 20),
        ),
    }
}
