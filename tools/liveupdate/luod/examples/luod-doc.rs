// SPDX-License-Identifier: GPL-2.0

//! Writes the man page of luod and completions for shells, generated from its
//! command line.
//!
//! Run as `luod-doc MAN_DIR COMPLETIONS_DIR`.

use clap::CommandFactory;
use clap_complete::{generate_to, Shell};
use clap_mangen::Man;
use luod::cli::Args;
use std::{env, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let mut dirs = env::args_os().skip(1).map(PathBuf::from);
    let (Some(man), Some(completions)) = (dirs.next(), dirs.next()) else {
        return Err(io::Error::other("usage: luod-doc MAN_DIR COMPLETIONS_DIR"));
    };
    fs::create_dir_all(&man)?;
    let mut page = Vec::new();
    Man::new(Args::command()).section("8").render(&mut page)?;
    fs::write(man.join("luod.8"), page)?;
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Args::command(), "luod", &completions)?;
    }
    Ok(())
}
