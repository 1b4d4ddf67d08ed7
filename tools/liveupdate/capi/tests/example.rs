// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The example in C is compiled against the header and linked to the shared library.

use std::{env, path::Path, process::Command};

#[test]
fn the_example_in_c() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Tests are in `deps`, next to or below the library.
    let here = env::current_exe().unwrap();
    let deps = here.parent().unwrap();
    let libraries = [deps, deps.parent().unwrap()];
    let library = libraries
        .iter()
        .find(|dir| dir.join("libliveupdate_c.so").exists())
        .expect("cargo has built the library");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("update");
    let status = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(crate_dir.join("include"))
        .arg("-o")
        .arg(&program)
        .arg(crate_dir.join("examples/update.c"))
        .arg("-L")
        .arg(library)
        .arg("-lliveupdate_c")
        .status()
        .unwrap();
    assert!(status.success());
    let output = Command::new(&program)
        .arg("check")
        .env("LD_LIBRARY_PATH", library)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"checked\n");
}
