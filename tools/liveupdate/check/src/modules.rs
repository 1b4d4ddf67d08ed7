// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The formats that modules of a kernel support, which are not in the list in its image.
//!
//! Such a module has an alias, `liveupdate:` and the name of the format. `depmod` collects the aliases
//! of all modules of a kernel in `modules.alias`, in their directory.

use crate::{Image, System};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The maximum size of `modules.alias`, in bytes. Those of distributions have one or two MiB.
const ALIASES_MAX: u64 = 64 << 20;

/// The formats of modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ModuleFormats(BTreeSet<String>);

impl ModuleFormats {
    /// Finds the formats in the text of a `modules.alias`. Other aliases and malformed lines are
    /// ignored.
    pub fn parse(aliases: &str) -> Self {
        let formats = aliases.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let alias = words
                .next()
                .filter(|word| *word == "alias")
                .and(words.next());
            alias?.strip_prefix("liveupdate:").map(same)
        });
        Self(formats.collect())
    }

    /// Returns whether a module supports the format.
    pub fn contains(&self, format: &str) -> bool {
        self.0.contains(&same(format))
    }
}

/// Replaces `-` by `_`: module tools treat these two characters as the same one.
fn same(name: &str) -> String {
    name.replace('-', "_")
}

impl Image {
    /// The release of the kernel, after which the directory of its modules is named; [`None`] if it
    /// is not known, or cannot be the name of a directory.
    pub fn release(&self) -> Option<&str> {
        let release = self.version.as_deref()?.split_ascii_whitespace().next()?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
        let sound = !release.starts_with('.') && release.chars().all(allowed);
        sound.then_some(release)
    }
}

impl System {
    /// Adds the formats of the modules that are installed for the kernel of `image`.
    ///
    /// Adds nothing if no modules are installed, or if their aliases cannot be read.
    pub fn add_modules(&self, image: &mut Image) {
        let Some(release) = image.release() else {
            return;
        };
        let aliases = read(&self.modules.join(release).join("modules.alias"));
        image.modules = aliases.map_or_else(
            |_| ModuleFormats::default(),
            |text| ModuleFormats::parse(&text),
        );
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(ALIASES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_found_among_aliases() {
        let formats = ModuleFormats::parse(
            "# Aliases extracted from modules themselves.\n\
             alias fs-ext4 ext4\n\
             alias liveupdate:mydev-v1 mydev\n\
             alias  liveupdate:my_other-v2\tother\n\
             alias\n\
             options liveupdate:mydev-v3 mydev\n\
             alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n",
        );
        assert!(formats.contains("mydev-v1") && formats.contains("my-other-v2"));
        assert!(!formats.contains("mydev-v3") && !formats.contains("fs-ext4"));
        assert!(!formats.contains("mydev") && !formats.contains("mydev-v11"));
        assert_eq!(ModuleFormats::parse(""), ModuleFormats::default());
    }
}
