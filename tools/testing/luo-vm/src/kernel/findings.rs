// SPDX-License-Identifier: GPL-2.0

//! Warnings of the compilers about files of the overlay.

use std::path::{Path, PathBuf};

/// The warnings in a build log about the files `ours`, or of objtool about the crates of the
/// overlay.
pub fn findings(log: &str, ours: &[PathBuf]) -> Vec<String> {
    const CRATES: [&str; 3] = ["luo", "memfd_luo", "rust_liveupdate"];
    let lines: Vec<&str> = log.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((_, what)) = line.split_once("warning: ") else {
            continue;
        };
        // rustc prints the location in one of the next lines, clang in the same.
        let place = lines[at..].iter().take(4).find_map(|l| l.split_once("../"));
        let place = place.map_or("", |(_, place)| {
            place.split_whitespace().next().unwrap_or(place)
        });
        let file = Path::new(place.split(':').next().unwrap_or(place));
        if ours.iter().any(|path| path == file) {
            let place = place.trim_end_matches(':');
            found.push(format!("{place}: {what}"));
        } else if what.starts_with("objtool") && CRATES.iter().any(|name| what.contains(name)) {
            found.push(what.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_in_our_files_are_kept() {
        let log = "warning: unsafe block\n   --> ../mm/memfd_luo.rs:8:2\n    |\n\
                   warning: other\n   --> ../mm/other.rs:1:1\n\
                   ../lib/tests/x.c:3:1: warning: unused x\n\
                   vmlinux.o: warning: objtool: _RNvCs_3luo4init+0x1: bad\n\
                   vmlinux.o: warning: objtool: start_kernel+0x1: bad\n";
        let ours = ["mm/memfd_luo.rs", "lib/tests/x.c"].map(PathBuf::from);
        assert_eq!(
            findings(log, &ours),
            [
                "mm/memfd_luo.rs:8:2: unsafe block",
                "lib/tests/x.c:3:1: unused x",
                "objtool: _RNvCs_3luo4init+0x1: bad",
            ]
        );
    }
}
