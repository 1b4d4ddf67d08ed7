// SPDX-License-Identifier: GPL-2.0

//! Checks whether the loaded kernel can run the guest.

use crate::options::{self, options};
use luo_check::System;

/// The vendors' parts of KVM: the directory of a loaded one in sysfs, and its setting in the
/// configuration of a kernel.
const VENDORS: [(&str, &str); 2] = [("kvm_amd", "KVM_AMD"), ("kvm_intel", "KVM_INTEL")];

/// Whether a guest with these arguments uses KVM, or may use it.
fn uses_kvm(args: &[String]) -> bool {
    let mut accelerators = options::all(args, &["accel"], "accel")
        .chain(options::all(args, &["machine", "M"], "type"))
        .filter_map(|(_, found)| Some(found.get("accel")?.to_owned()));
    options(args).any(|option| option.name == "enable-kvm")
        || accelerators.any(|name| name.split(':').any(|name| name == "kvm"))
}

/// Returns why the loaded kernel cannot run a guest with these arguments. [`None`] if it can, or if
/// its configuration is not known.
pub fn obstacle(system: &System, args: &[String]) -> Option<String> {
    if !uses_kvm(args) {
        return None;
    }
    let record = system.record().ok()??;
    let image = record.image.as_ref()?;
    let modules = system.sysfs.join("module");
    let vendors = VENDORS
        .iter()
        .filter(|(module, _)| modules.join(module).exists());
    let mut settings = ["KVM"]
        .into_iter()
        .chain(vendors.map(|(_, setting)| *setting));
    let missing = settings.find(|setting| image.setting(setting) == Some("n"))?;
    Some(format!(
        "the guest needs KVM, and CONFIG_{missing} is not set in {}: load another kernel with luoctl load",
        record.source.path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use luo_check::{record::Source, Formats, Image, Machine, Record};
    use std::{fs, path::Path};

    fn args(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn kvm_is_found_in_the_arguments() {
        for with in [
            "-machine q35,accel=kvm -m 1G",
            "-M pc,accel=kvm:tcg",
            "-accel kvm",
            "-enable-kvm -m 1G",
        ] {
            assert!(uses_kvm(&args(with)), "{with}");
        }
        for without in ["-machine q35,accel=tcg", "-accel tcg,thread=multi", "-m 1G"] {
            assert!(!uses_kvm(&args(without)), "{without}");
        }
    }

    /// A machine with AMD's KVM, for which a kernel with these settings is loaded.
    fn loaded(root: &Path, settings: Option<&[(&str, &str)]>) -> System {
        let system = System::at(root);
        fs::create_dir_all(system.sysfs.join("module/kvm_amd")).unwrap();
        let random = system.procfs.join("sys/kernel/random");
        fs::create_dir_all(&random).unwrap();
        fs::write(random.join("boot_id"), "this boot\n").unwrap();
        fs::write(root.join("vmlinuz"), "").unwrap();
        let path = Path::new("/boot/vmlinuz");
        let source = Source::new(path, &fs::metadata(root.join("vmlinuz")).unwrap());
        let mut image = Image::new(Machine::default(), Formats::Strings(Default::default()));
        image.config = settings.map(|settings| {
            let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
            settings.iter().map(owned).collect()
        });
        let mut record = Record::new(system.boot_id(), source, String::new());
        record.image = Some(image);
        record.write(&system.record).unwrap();
        system
    }

    #[test]
    fn a_kernel_without_kvm_is_an_obstacle() {
        let kvm = args("-accel kvm");
        for (settings, missing) in [
            (&[][..], Some("CONFIG_KVM ")),
            (&[("KVM", "m")], Some("CONFIG_KVM_AMD ")),
            (&[("KVM", "m"), ("KVM_AMD", "m")], None),
            (&[("KVM", "y"), ("KVM_AMD", "y")], None),
        ] {
            let root = tempfile::tempdir().unwrap();
            let system = loaded(root.path(), Some(settings));
            let found = obstacle(&system, &kvm);
            assert_eq!(found.is_some(), missing.is_some(), "{settings:?}");
            if let (Some(found), Some(missing)) = (found, missing) {
                assert!(found.contains(missing), "{found}");
            }
            assert_eq!(obstacle(&system, &args("-accel tcg")), None);
        }
    }

    #[test]
    fn an_unknown_configuration_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let system = loaded(root.path(), None);
        assert_eq!(obstacle(&system, &args("-accel kvm")), None);
        fs::remove_file(&system.record).unwrap();
        assert_eq!(obstacle(&system, &args("-accel kvm")), None);
    }
}
