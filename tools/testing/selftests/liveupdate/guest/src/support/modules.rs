// SPDX-License-Identifier: GPL-2.0

//! Loading kernel modules from the initramfs, and unloading them.

use crate::support::error::{At, Failure, Result};
use rustix::io::Errno;
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const DIR: &str = "/lib/modules";

/// The module of handlers in C whose files share state.
pub const SHARED: &str = "liveupdate_shared";
/// The module of the sample in Rust.
pub const RUST: &str = "rust_liveupdate";

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(format!("{name}.ko"))
}

/// The name of a module when it is loaded.
fn loaded(name: &str) -> String {
    name.replace('-', "_")
}

/// Returns whether a module exists, loaded or not.
pub fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Loads a module, after those that it depends on. Without effect if it is loaded.
pub fn load(name: &str, params: &str) -> Result {
    let path = path(name);
    let module = fs::read(&path).at(path.display())?;
    for dependency in dependencies(&module) {
        load(&dependency, "")?;
    }
    let file = File::open(&path).at(path.display())?;
    let params = CString::new(params).map_err(|_| Failure::new("a parameter has a null byte"))?;
    match rustix::system::finit_module(&file, &params, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).at(format_args!("load {}", path.display())),
    }
}

/// Unloads a module.
///
/// # Errors
///
/// [`Errno::WOULDBLOCK`] if it is in use, [`Errno::NOENT`] if it is not loaded.
pub fn unload(name: &str) -> io::Result<()> {
    let name = CString::new(loaded(name))?;
    Ok(rustix::system::delete_module(&name, libc::O_NONBLOCK)?)
}

/// The number of references to a module; [`None`] if it is not loaded.
pub fn references(name: &str) -> Result<Option<u64>> {
    let count = format!("/sys/module/{}/refcnt", loaded(name));
    match fs::read_to_string(&count) {
        Ok(text) => Ok(Some(text.trim().parse()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at(count),
    }
}

/// The aliases of a module, by which programs look for it.
pub fn aliases(name: &str) -> Result<Vec<String>> {
    let path = path(name);
    Ok(strings(&fs::read(&path).at(path.display())?, "alias="))
}

/// The modules that a module depends on.
fn dependencies(module: &[u8]) -> Vec<String> {
    let lists = strings(module, "depends=");
    let names = lists.iter().flat_map(|list| list.split(','));
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The values of the strings in a module's section `.modinfo` that begin with `key`.
fn strings(module: &[u8], key: &str) -> Vec<String> {
    let strings = module.split(|byte| *byte == 0);
    let values = strings.filter_map(|string| string.strip_prefix(key.as_bytes()));
    values
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect()
}

#[cfg(test)]
mod unit {
    use super::{dependencies, strings};

    #[test]
    fn dependencies_are_found() {
        let module = b"\x7fELF\0license=GPL v2\0depends=vfio-pci-core,vfio\0name=vfio_pci\0";
        assert_eq!(strings(module, "name="), ["vfio_pci"]);
        assert!(strings(module, "alias=").is_empty());
        assert_eq!(dependencies(module), ["vfio-pci-core", "vfio"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
