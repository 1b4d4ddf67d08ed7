// SPDX-License-Identifier: GPL-2.0

//! Loading kernel modules from the initramfs.

use crate::support::error::{At, Failure, Result};
use rustix::io::Errno;
use std::{
    ffi::CString,
    fs::{self, File},
    path::Path,
};

const DIR: &str = "/lib/modules";

/// Loads a module, after those that it depends on. Without effect if it is loaded.
pub fn load(name: &str, params: &str) -> Result {
    let path = Path::new(DIR).join(format!("{name}.ko"));
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

/// The modules that a module depends on, from the string `depends=` of its section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let strings = module.split(|byte| *byte == 0);
    let list = strings
        .filter_map(|string| string.strip_prefix(b"depends="))
        .map(String::from_utf8_lossy)
        .next()
        .unwrap_or_default();
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod unit {
    use super::dependencies;

    #[test]
    fn dependencies_are_found() {
        let module = b"\x7fELF\0license=GPL v2\0depends=vfio-pci-core,vfio\0name=vfio_pci\0";
        assert_eq!(dependencies(module), ["vfio-pci-core", "vfio"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
