// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Properties of the running system.

use crate::{Finding, Image, Record, Verdict};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The files of the running system.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct System {
    /// Usually `/sys`.
    pub sysfs: PathBuf,
    /// Usually `/proc`.
    pub procfs: PathBuf,
    /// The directories of the modules of installed kernels: usually `/lib/modules`.
    pub modules: PathBuf,
    /// The record of the loaded image: usually `/run/luod/image.json`.
    pub record: PathBuf,
}

impl Default for System {
    /// The running system.
    fn default() -> Self {
        Self::at(Path::new("/"))
    }
}

impl System {
    /// A system with the root directory `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            sysfs: root.join("sys"),
            procfs: root.join("proc"),
            modules: root.join("lib/modules"),
            record: root.join("run/luod/image.json"),
        }
    }

    /// The identifier of this boot.
    pub fn boot_id(&self) -> String {
        let id = fs::read_to_string(self.procfs.join("sys/kernel/random/boot_id"));
        id.unwrap_or_default().trim().to_owned()
    }

    /// The command line of the running kernel.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn cmdline(&self) -> io::Result<String> {
        let cmdline = fs::read_to_string(self.procfs.join("cmdline"))?;
        Ok(cmdline.trim().to_owned())
    }

    /// Checks whether there is enough memory to load an image.
    pub fn check_memory(&self, image: &Image, initrd: u64) -> Finding {
        let meminfo = fs::read_to_string(self.procfs.join("meminfo")).unwrap_or_default();
        check_memory(&meminfo, image, initrd)
    }

    /// The record of the image that was loaded in this boot.
    ///
    /// # Errors
    ///
    /// See [`Record::read`].
    pub fn record(&self) -> io::Result<Option<Record>> {
        let record = Record::read(&self.record)?;
        let here = self.boot_id();
        Ok(record.filter(|record| record.boot_id == here && !here.is_empty()))
    }

    /// Checks the loaded image: whether it can take over data, and whether it supports the
    /// formats that would be handed over now.
    pub fn check_loaded(&self) -> Vec<Finding> {
        const CHECK: &str = "formats";
        let loaded = Loaded::of_system(&self.sysfs);
        if loaded == Loaded::Nothing {
            return vec![loaded.check()];
        }
        let record = match self.record() {
            Ok(Some(record)) => record,
            Ok(None) => {
                let why = "the image was not loaded by luoctl load, which would have examined \
                    the formats that it supports";
                return vec![loaded.check(), Finding::new(CHECK, Verdict::Unknown, why)];
            }
            Err(error) => {
                let why = format!("{} cannot be used: {error}", self.record.display());
                return vec![loaded.check(), Finding::new(CHECK, Verdict::Unknown, why)];
            }
        };
        let other = match (record.loads_left, self.loads_left()) {
            (Some(then), Some(now)) if then == now => None,
            (Some(_), Some(_)) => Some(
                "another program has loaded an image, or tried to, since luoctl load: use luoctl \
                 load again",
            ),
            _ => Some(
                "this kernel does not report whether the loaded image is still the one that luoctl \
                 has loaded",
            ),
        };
        if let Some(why) = other {
            return vec![loaded.check(), Finding::new(CHECK, Verdict::Unknown, why)];
        }
        let first = if loaded == Loaded::Something {
            // luoctl load always uses kexec_file_load().
            Finding::new(
                "loaded image",
                Verdict::Likely,
                "luoctl has loaded the image, but this kernel does not report whether it supports \
                 Kexec Handover",
            )
        } else {
            loaded.check()
        };
        let mut findings = vec![first];
        findings.extend(record.check(&Needs::of_system(&self.sysfs)));
        findings
    }
}

/// The formats that are relevant for an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Needs {
    /// The formats that the next kernel must support.
    pub in_use: BTreeSet<String>,
    /// Other formats of this kernel, which are not in use.
    pub possible: BTreeSet<String>,
    /// Whether the kernel has reported `in_use`. Otherwise it is a guess.
    pub complete: bool,
}

/// The formats of every live update: sessions, and luod's registry, which is a memfd.
const USUAL: [&str; 3] = ["kho-v4", "luo-v5", "memfd-v2"];

fn names(path: &Path) -> Option<BTreeSet<String>> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

impl Needs {
    /// The formats of Linux 7.2 and 7.3, as a guess.
    pub fn usual() -> Self {
        Self {
            in_use: USUAL.map(str::to_owned).into(),
            ..Self::default()
        }
    }

    /// Asks the running kernel, whose sysfs is at `sysfs`, usually `/sys`.
    ///
    /// Returns [`Self::usual`] if the kernel does not report them.
    pub fn of_system(sysfs: &Path) -> Self {
        let dir = sysfs.join("kernel/liveupdate");
        let mut needs = Self::usual();
        if let Some(possible) = names(&dir.join("compatible")) {
            // The versions of the running kernel.
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

/// The image that a kexec would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Loaded {
    /// No image.
    Nothing,
    /// An image that supports Kexec Handover.
    WithHandover,
    /// An image that would lose all data.
    WithoutHandover,
    /// An image without further information.
    Something,
    /// It is not known whether an image is loaded.
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

    /// Converts it to a finding.
    pub fn check(self) -> Finding {
        let (verdict, reason) = match self {
            Self::Nothing => (Verdict::No, "no kernel is loaded; use luoctl load"),
            Self::WithHandover => (Verdict::Yes, "the loaded image supports Kexec Handover"),
            Self::WithoutHandover => (
                Verdict::No,
                "the loaded image cannot take over data: it was loaded by kexec_load(), or \
                 without kho=on; use luoctl load",
            ),
            Self::Something => (
                Verdict::Unknown,
                "an image is loaded, but this kernel does not report how; use luoctl load",
            ),
            Self::Unknown => (
                Verdict::Unknown,
                "it is not known whether an image is loaded",
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
    // The kernel reads the files completely, and then copies them to their destination.
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
