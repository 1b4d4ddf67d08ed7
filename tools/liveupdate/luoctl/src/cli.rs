// SPDX-License-Identifier: GPL-2.0

//! The command line. Man pages and completions are made of the same.

use clap::{Args, Parser, Subcommand};
use luo_check::System;
use luod_protocol::{SessionName, SOCKET_PATH};
use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success; `check`: yes.
    Good = 0,
    /// It did not work.
    Failed = 1,
    /// Wrong arguments; clap uses the same.
    Usage = 2,
    /// luod cannot be reached.
    NoLuod = 3,
    /// `check` and what depends on it: no.
    No = 4,
    /// `check`: unknown.
    Unknown = 5,
    /// `check`: likely.
    Likely = 6,
    /// The update was aborted; everything runs as before.
    Aborted = 7,
    /// The operator said no, or could not be asked.
    NotConfirmed = 8,
}

/// Why a command ends.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }
}

/// Conduct and watch live updates.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 success (check: yes), 1 failure, 2 wrong arguments, 3 luod cannot \
be reached, 4 check: no, 5 check: unknown, 6 check: likely, 7 update aborted, 8 not confirmed."
)]
pub struct Cli {
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Where luod listens.
    #[arg(long, global = true, default_value = SOCKET_PATH)]
    pub socket: PathBuf,
    /// Where /sys, /proc and /run are, for tests.
    #[arg(long, global = true, hide = true, default_value = "/")]
    pub root: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Where the running system is asked.
    pub fn system(&self) -> System {
        System::at(&self.root)
    }

    /// The command line of the next kernel, if it is to be `wanted`.
    pub fn cmdline(&self, wanted: Option<&str>) -> Result<String, Failure> {
        match wanted {
            Some(cmdline) => Ok(cmdline.trim().to_owned()),
            None => self.system().cmdline().map_err(|error| {
                let what = "the command line of the running kernel cannot be read";
                Failure::new(Exit::Failed, format!("{what}: {error}"))
            }),
        }
    }
}

#[derive(Debug, Args)]
pub struct LoadOptions {
    /// The kernel image, a bzImage.
    pub image: PathBuf,
    /// The initial RAM file system.
    #[arg(long)]
    pub initrd: Option<PathBuf>,
    /// Use the command line of the running kernel (the default).
    #[arg(long, conflicts_with = "cmdline")]
    pub reuse_cmdline: bool,
    /// Use this command line.
    #[arg(long)]
    pub cmdline: Option<String>,
    /// Load the image even if the check says no.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct CheckOptions {
    /// The kernel image; without it, the loaded one.
    pub image: Option<PathBuf>,
    /// The command line that it would get, if not that of the running kernel.
    #[arg(long, requires = "image")]
    pub cmdline: Option<String>,
}

/// What a check has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Require {
    /// "yes".
    Yes,
    /// "yes" or "likely".
    Likely,
}

#[derive(Debug, Args)]
pub struct KexecOptions {
    /// Let clients preserve everything, then take it all back.
    #[arg(long)]
    pub dry_run: bool,
    /// How many seconds the clients get.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Do not ask. What the check says has to be at least what --require names.
    #[arg(long)]
    pub yes: bool,
    /// What the check of the loaded kernel has to say at least, for --yes.
    #[arg(long, value_enum, default_value_t = Require::Likely)]
    pub require: Require,
    /// Start no update unless that many sessions are subscribed. Without this option, one is
    /// enough; an update with none takes --expect 0 or --force.
    #[arg(long, value_name = "N")]
    pub expect: Option<u64>,
    /// Do not wait for the end of the update, which Ctrl-C would abort otherwise.
    #[arg(long)]
    pub detach: bool,
    /// Go on if the check says no, without clients that fail, and without sessions of the last
    /// update that are not finished. What is in them is lost.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a kernel, and load it for the next update.
    ///
    /// If it cannot be loaded, what was loaded before is loaded still. If the kernel and the initrd
    /// do not fit into the scratch area of Kexec Handover, this tells which kho_scratch= to boot
    /// the running kernel with.
    Load(LoadOptions),
    /// Tell whether a kernel understands what would be handed over to it.
    ///
    /// "yes" needs a complete bzImage with a checksum that is right and a list of formats that has
    /// those in use, or, without IMAGE, that no other program has loaded one since luoctl load.
    Check(CheckOptions),
    /// Show what luod is doing.
    Status,
    /// List all sessions.
    List,
    /// Start the loaded kernel in a live update.
    ///
    /// Ctrl-C aborts the update, and luoctl says how it ends; a second one ends luoctl only.
    Kexec(KexecOptions),
    /// Let clients preserve their files, if systemd is about to start the loaded kernel.
    ///
    /// Does nothing else. luod-handover.service calls it when the machine is shut down. What a
    /// client that refuses, fails or is late has is lost: it is too late to wait for it.
    Handover,
    /// Abort the update that is under way.
    Abort,
    /// End a session that a client has claimed.
    Finish {
        session: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// End a session that nobody has claimed: what is in it is lost.
    Discard {
        #[arg(required_unless_present = "unknown")]
        session: Option<String>,
        /// Give up what luod could not find out, in the phase "unknown".
        #[arg(long, conflicts_with = "session")]
        unknown: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show the timeline of the last update.
    Report,
    /// Show what happens while it happens.
    Watch,
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Write the man pages into a directory.
    #[command(hide = true)]
    Man { dir: PathBuf },
}

pub fn session(name: &str) -> Result<SessionName, Failure> {
    SessionName::try_from(name.to_owned())
        .map_err(|error| Failure::new(Exit::Usage, format!("session name '{name}': {error}")))
}

/// Asks on a terminal whether to do something.
pub fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(
            Exit::NotConfirmed,
            format!("nobody can be asked whether to {what}; use --yes"),
        ));
    }
    eprint!("Really {what}? [y/N] ");
    let mut answer = String::new();
    let read = io::stderr()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut answer));
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::new(Exit::NotConfirmed, "nothing was done")),
    }
}
