// SPDX-License-Identifier: GPL-2.0

//! The command line. The man page and completions are generated from it.

use crate::config::{self, Config};
use clap::Parser;
use std::path::PathBuf;

/// Coordinates live updates: asks clients to preserve their files, starts the next kernel, and
/// returns the files to them.
#[derive(Debug, Parser)]
#[command(name = "luod", version, max_term_width = 100)]
pub struct Args {
    /// Reads the configuration from this file. Without this option, luod reads /etc/luod.toml if
    /// it exists
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listens on this socket instead of the one in the configuration
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Checks the configuration and exits
    #[arg(long)]
    pub check_config: bool,

    /// Runs the hooks in this directory, with the standard input; luod-hooks@.service does this
    #[arg(long, hide = true, value_name = "DIR")]
    pub run_hooks: Option<PathBuf>,

    /// Syncs all file systems and exits; luod runs this in another process
    #[arg(long, hide = true)]
    pub sync: bool,

    /// Logs more; if given twice, logs everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Args {
    /// Reads the configuration that these arguments select.
    ///
    /// # Errors
    ///
    /// A sentence that describes the error in the file.
    pub fn read_config(&self) -> Result<Config, String> {
        let mut config = match &self.config {
            Some(path) => Config::read(path, false),
            None => Config::read(config::PATH.as_ref(), true),
        }?;
        if let Some(socket) = &self.socket {
            config.socket.clone_from(socket);
        }
        Ok(config)
    }
}
