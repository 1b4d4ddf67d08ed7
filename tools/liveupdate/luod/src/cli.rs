// SPDX-License-Identifier: GPL-2.0

//! The command line. The man page and completions are made of the same.

use crate::config::{self, Config};
use clap::Parser;
use std::path::PathBuf;

/// Conducts live updates: asks clients to preserve their files, starts the next kernel, and gives
/// everything back to them.
#[derive(Debug, Parser)]
#[command(name = "luod", version, max_term_width = 100)]
pub struct Args {
    /// Reads the configuration from this file. Without this option, luod reads /etc/luod.toml if
    /// there is such a file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listens at this socket, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Only says whether the configuration is good
    #[arg(long)]
    pub check_config: bool,

    /// Only writes out all file systems, which luod lets another process do
    #[arg(long, hide = true)]
    pub sync: bool,

    /// Logs more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Args {
    /// Reads the configuration that these arguments stand for.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
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
