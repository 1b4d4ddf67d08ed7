// SPDX-License-Identifier: GPL-2.0

//! Boot entries of type 1 of the Boot Loader Specification: small text files.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// The maximum size of an entry, in bytes.
const ENTRY_MAX: u64 = 64 << 10;

/// The name of this machine's architecture in entries.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "aa64"
} else {
    "x64"
};

/// Why an entry cannot be used.
#[derive(Debug)]
pub enum Bad {
    Io(io::Error),
    TooLarge,
    NotText,
    /// A key that must be there once.
    Missing(&'static str),
    Repeated(&'static str),
    /// A path that is not one, or that leaves the partition.
    Path(String),
    /// Something that kexec cannot do.
    Unsupported(&'static str),
    /// Text that the boot loader replaces.
    Variable(String),
    Architecture(String),
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::TooLarge => write!(f, "it is larger than {} KiB", ENTRY_MAX >> 10),
            Self::NotText => f.write_str("it is not text in UTF-8"),
            Self::Missing(key) => write!(f, "it has no line {key}, so that it starts no Linux"),
            Self::Repeated(key) => write!(f, "it has more than one line {key}"),
            Self::Path(path) => write!(f, "{path:?} is not a path on its partition"),
            Self::Unsupported(what) => write!(
                f,
                "it has {what}, which kexec cannot use: name the kernel with luoctl load IMAGE"
            ),
            Self::Variable(word) => write!(
                f,
                "{word} is a variable of the boot loader: use --cmdline, or name the kernel with \
                 luoctl load IMAGE"
            ),
            Self::Architecture(name) => write!(f, "it is for the architecture {name:?}"),
        }
    }
}

/// A path on the partition of an entry, which does not leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner(PathBuf);

impl Inner {
    fn parse(text: &str) -> Result<Self, Bad> {
        let bad = || Bad::Path(text.to_owned());
        if text.starts_with('$') {
            return Err(Bad::Variable(text.to_owned()));
        }
        let path = Path::new(text.trim_start_matches('/'));
        let normal = |part| matches!(part, Component::Normal(_));
        if text.contains('\0') || path.as_os_str().is_empty() || !path.components().all(normal) {
            return Err(bad());
        }
        Ok(Self(path.to_owned()))
    }

    /// The path, if `root` is the root directory of the partition.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

/// What an entry starts.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// A kernel, with initrds in this order.
    Linux { kernel: Inner, initrds: Vec<Inner> },
    /// A unified kernel image.
    Unified(Inner),
}

/// An entry.
#[derive(Debug)]
pub struct Entry {
    pub what: What,
    /// The command line.
    pub options: String,
}

/// Reads an entry.
pub fn read(file: File) -> Result<String, Bad> {
    let mut bytes = Vec::new();
    let mut file = file.take(ENTRY_MAX + 1);
    file.read_to_end(&mut bytes).map_err(Bad::Io)?;
    if bytes.len() as u64 > ENTRY_MAX {
        return Err(Bad::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| Bad::NotText)
}

/// Sets what may be set once.
fn once(slot: &mut Option<Inner>, key: &'static str, value: &str) -> Result<(), Bad> {
    match slot.replace(Inner::parse(value)?) {
        None => Ok(()),
        Some(_) => Err(Bad::Repeated(key)),
    }
}

impl Entry {
    /// Parses the text of an entry. Unknown keys are ignored, as the specification demands.
    pub fn parse(text: &str) -> Result<Self, Bad> {
        let (mut kernel, mut unified) = (None, None);
        let mut initrds = Vec::new();
        let mut options = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = value.trim();
            match key {
                "linux" => once(&mut kernel, "linux", value)?,
                "uki" => once(&mut unified, "uki", value)?,
                "initrd" => initrds.push(Inner::parse(value)?),
                "options" => options.push(value),
                "architecture" if !value.eq_ignore_ascii_case(ARCHITECTURE) => {
                    return Err(Bad::Architecture(value.to_owned()));
                }
                "efi" => return Err(Bad::Unsupported("an EFI program")),
                "uki-url" => return Err(Bad::Unsupported("an image on a server")),
                "profile" => return Err(Bad::Unsupported("a profile")),
                "extra" => return Err(Bad::Unsupported("addons")),
                "devicetree" | "devicetree-overlay" => {
                    return Err(Bad::Unsupported("a device tree"));
                }
                _ => {}
            }
        }
        let mut words = options.iter().flat_map(|line| line.split_whitespace());
        if let Some(word) = words.find(|word| word.starts_with('$')) {
            return Err(Bad::Variable(word.to_owned()));
        }
        let what = match (kernel, unified) {
            (Some(_), Some(_)) => return Err(Bad::Repeated("linux or uki")),
            (Some(kernel), None) => What::Linux { kernel, initrds },
            (None, Some(path)) if initrds.is_empty() => What::Unified(path),
            (None, Some(_)) => return Err(Bad::Unsupported("an initrd beside a uki")),
            (None, None) => return Err(Bad::Missing("linux")),
        };
        let options = options.join(" ");
        Ok(Self { what, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As kernel-install of systemd writes it.
    const ENTRY: &str = "\
# Boot Loader Specification type#1 entry
title      Debian GNU/Linux forky/sid
version    7.3.4-cloud-amd64
machine-id 0123456789abcdef0123456789abcdef
sort-key   debian
options    root=UUID=0a ro
linux      /0123456789abcdef0123456789abcdef/7.3.4-cloud-amd64/linux
initrd     /0123456789abcdef0123456789abcdef/7.3.4-cloud-amd64/microcode
initrd     /0123456789abcdef0123456789abcdef/7.3.4-cloud-amd64/initrd.img
options    kho=on liveupdate=on
";

    fn inner(text: &str) -> Inner {
        Inner::parse(text).unwrap()
    }

    #[test]
    fn kernels() {
        let entry = Entry::parse(ENTRY).unwrap();
        assert_eq!(entry.options, "root=UUID=0a ro kho=on liveupdate=on");
        let dir = "0123456789abcdef0123456789abcdef/7.3.4-cloud-amd64";
        let expected = What::Linux {
            kernel: inner(&format!("{dir}/linux")),
            initrds: vec![
                inner(&format!("{dir}/microcode")),
                inner(&format!("//{dir}/initrd.img")),
            ],
        };
        assert_eq!(entry.what, expected);
        let path = inner("/a/linux").below(Path::new("/efi"));
        assert_eq!(path, Path::new("/efi/a/linux"));
    }

    #[test]
    fn refusals() {
        for (text, says) in [
            ("", "no line linux"),
            ("title x\noptions a", "no line linux"),
            ("linux /a\nlinux /b", "more than one line linux"),
            ("linux /a\nuki /b", "more than one line linux or uki"),
            ("linux", "not a path"),
            ("linux /", "not a path"),
            ("linux /../../etc/shadow", "not a path"),
            ("linux /a\ninitrd ../x", "not a path"),
            (
                "linux /a\ninitrd $tuned_initrd",
                "variable of the boot loader",
            ),
            (
                "linux /a\noptions ro $kernelopts",
                "$kernelopts is a variable",
            ),
            ("efi /EFI/x.efi", "an EFI program"),
            ("linux /a\ndevicetree /b", "a device tree"),
            ("linux /a\nextra /b", "addons"),
            ("linux /a\narchitecture riscv64", "architecture \"riscv64\""),
            ("uki /a\nprofile 1", "a profile"),
            ("uki /a\ninitrd /b", "an initrd beside a uki"),
        ] {
            let why = Entry::parse(text).unwrap_err().to_string();
            assert!(why.contains(says), "{text:?}: {why}");
        }
        let here = format!("linux /a\narchitecture {}", ARCHITECTURE.to_uppercase());
        assert!(Entry::parse(&here).is_ok());
    }

    proptest! {
        /// No path of an entry leaves its partition.
        #[test]
        fn any_text(text in "((linux|uki|initrd|options|x)[ \t]+[/.a$\\\\]{0,9}\n){0,6}") {
            let Ok(entry) = Entry::parse(&text) else { return Ok(()) };
            let paths = match entry.what {
                What::Linux { kernel, mut initrds } => { initrds.push(kernel); initrds }
                What::Unified(path) => vec![path],
            };
            for path in paths {
                let path = path.below(Path::new("/root"));
                prop_assert!(path.starts_with("/root") && path != Path::new("/root"));
                prop_assert!(!path.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
