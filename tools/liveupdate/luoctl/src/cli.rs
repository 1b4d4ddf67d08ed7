// SPDX-License-Identifier: GPL-2.0

//! The command line. Man pages and completions are generated from it.

use crate::name::{EntryId, Version};
use clap::{Args, Parser, Subcommand};
use luo_check::System;
use luod_protocol::{SessionName, SOCKET_PATH};
use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success; `check`: yes.
    Good = 0,
    /// Failure.
    Failed = 1,
    /// Wrong arguments; clap uses the same.
    Usage = 2,
    /// luod cannot be reached.
    NoLuod = 3,
    /// `check`, and commands that depend on it: no.
    No = 4,
    /// `check`: unknown.
    Unknown = 5,
    /// `check`: likely.
    Likely = 6,
    /// The update was aborted; clients continue.
    Aborted = 7,
    /// The operator did not confirm, or could not be asked.
    NotConfirmed = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
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

/// Run and watch live updates.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 success (check: yes), 1 failure, 2 wrong arguments, 3 luod cannot \
be reached, 4 check: no, 5 check: unknown, 6 check: likely, 7 update aborted, 8 not confirmed."
)]
pub struct Cli {
    /// Print JSON, one object in a line, which luoctl schema describes.
    #[arg(long, global = true)]
    pub json: bool,
    /// The socket of luod.
    #[arg(long, global = true, default_value = SOCKET_PATH)]
    pub socket: PathBuf,
    /// The root of /sys, /proc and /run, for tests.
    #[arg(long, global = true, hide = true, default_value = "/")]
    pub root: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The files of the running system.
    pub fn system(&self) -> System {
        System::at(&self.root)
    }

    /// The command line of the next kernel: `wanted`, or the current one.
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
#[command(group = clap::ArgGroup::new("what").required(true).args(["image", "kernel", "entry"]))]
pub struct LoadOptions {
    /// The kernel image: a bzImage, or an arm64 Image, which may be compressed for EFI (zboot).
    pub image: Option<PathBuf>,
    /// Load an installed kernel: /boot/vmlinuz-VERSION with /boot/initrd.img-VERSION.
    #[arg(long, value_name = "VERSION")]
    pub kernel: Option<Version>,
    /// Load a boot entry in /boot, /efi or /boot/efi: ID.conf in loader/entries, or the unified
    /// kernel image ID.efi in EFI/Linux. Its command line is the default.
    #[arg(long, value_name = "ID")]
    pub entry: Option<EntryId>,
    /// The initial RAM file system.
    #[arg(long, conflicts_with_all = ["kernel", "entry"], value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Use the command line of the running kernel. This is the default for IMAGE, and for --kernel
    /// without what the boot loader has added.
    #[arg(long)]
    pub reuse_cmdline: bool,
    /// Use the command line of the first entry for the kernel in /boot/grub/grub.cfg.
    #[arg(long, conflicts_with_all = ["image", "entry", "reuse_cmdline"])]
    pub grub_cmdline: bool,
    /// Use this command line.
    #[arg(long, conflicts_with_all = ["reuse_cmdline", "grub_cmdline"])]
    pub cmdline: Option<String>,
    /// Load the image even if the verdict of the check is "no".
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct CheckOptions {
    /// The kernel image; without it, the loaded one.
    pub image: Option<PathBuf>,
    /// The command line for the image, if it is not that of the running kernel.
    #[arg(long, requires = "image")]
    pub cmdline: Option<String>,
}

/// The required verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Require {
    /// "yes".
    Yes,
    /// "yes" or "likely".
    Likely,
}

#[derive(Debug, Args)]
pub struct KexecOptions {
    /// Let clients preserve their files, then abort the update.
    #[arg(long)]
    pub dry_run: bool,
    /// The time for the clients, in seconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Do not ask. The verdict of the check must be at least that of --require.
    #[arg(long)]
    pub yes: bool,
    /// The minimum verdict of the check of the loaded kernel, for --yes.
    #[arg(long, value_enum, default_value_t = Require::Likely)]
    pub require: Require,
    /// Start no update unless at least this number of sessions is subscribed. The default is 1; an
    /// update without sessions requires --expect 0 or --force.
    #[arg(long, value_name = "N")]
    pub expect: Option<u64>,
    /// Do not wait for the end of the update. Without this option, Ctrl-C aborts the update.
    #[arg(long)]
    pub detach: bool,
    /// Continue in spite of the verdict "no", without clients that fail, and without unfinished
    /// sessions of the last update. The contents of these sessions are lost.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct ExecOptions {
    /// The name of the session.
    pub session: String,
    /// Run the command in every update, to preserve its files in a new session.
    #[arg(long)]
    pub preserve: bool,
    /// With --preserve: what sh must run if the command has succeeded, but no kernel was started,
    /// since the update was aborted. It can take back what the command did besides preserving
    /// files, such as stopping a process.
    #[arg(long, value_name = "SCRIPT", requires = "preserve")]
    pub undo: Option<OsString>,
    /// Finish the session if the command succeeds. Without this option, the command must do it.
    #[arg(long, conflicts_with = "preserve")]
    pub finish: bool,
    /// The command with its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct ReportOptions {
    /// Print the last lines of the log of the previous kernel instead, and its last events of live
    /// updates. This does not need luod; both kernels must have been started with reserve_mem=,
    /// ramoops and trace_instance=, as by Debian's package.
    #[arg(long)]
    pub log: bool,
    /// The number of lines, and of events.
    #[arg(long, value_name = "N", default_value_t = 40, requires = "log")]
    pub lines: usize,
}

#[derive(Debug, Args)]
pub struct MetricsOptions {
    /// Replace this file atomically, instead of printing. For the textfile collector of
    /// node_exporter, the name must end with .prom.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a kernel and load it for the next update.
    ///
    /// If this fails, the previously loaded image stays loaded. If the kernel and the initrd do not
    /// fit into the scratch area of Kexec Handover, it prints the parameter kho_scratch= with which
    /// the running kernel must be booted.
    Load(LoadOptions),
    /// Check whether a kernel supports the formats that would be handed over.
    ///
    /// The verdict "yes" requires a complete image with a correct checksum and a list of formats
    /// that contains all formats in use, and, without IMAGE, that no other program has loaded an
    /// image since luoctl load.
    Check(CheckOptions),
    /// Show the status of luod.
    Status,
    /// List all sessions.
    List,
    /// Start the loaded kernel in a live update.
    ///
    /// Ctrl-C aborts the update, and luoctl prints the result; a second Ctrl-C ends only luoctl.
    Kexec(KexecOptions),
    /// Let clients preserve their files, if systemd is about to start the loaded kernel.
    ///
    /// luod-handover.service calls it when the machine is shut down. It does nothing in other
    /// shutdowns. The data of clients that refuse, fail or are late is lost, since the shutdown
    /// cannot wait for them.
    Handover,
    /// Run a command with a session.
    ///
    /// The session is the descriptor 3 of the command. LUO_SESSION_FD contains this number, and
    /// LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID are set as for services of systemd. luoctl claims
    /// the session of this name that the previous kernel handed over; the exit code is that of the
    /// command. If the session is not finished then, it can be claimed again.
    ///
    /// With --preserve, luoctl subscribes the session, and runs the command in every update. If the
    /// command succeeds, its files are handed over; if it fails, the update is aborted. A command
    /// that does not end in time is terminated by SIGTERM. luoctl ends when the next kernel is
    /// started.
    Exec(ExecOptions),
    /// Run a command, and let no update start before it ends.
    ///
    /// The exit code is that of the command. An update that is running is not inhibited, and --force
    /// overrides it. Use systemd-inhibit --what=shutdown --mode=block to inhibit other shutdowns as
    /// well: luod honours that.
    Inhibit {
        /// The reason, for display.
        why: String,
        /// The command with its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Abort the running update.
    Abort,
    /// Finish a session that a client has claimed.
    Finish {
        session: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Discard a session that no client has claimed: its contents are lost.
    Discard {
        #[arg(required_unless_present = "unknown")]
        session: Option<String>,
        /// Give up the sessions that luod could not read, in the phase "unknown".
        #[arg(long, conflicts_with = "session")]
        unknown: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show the timeline of the last update, or the log of the previous kernel.
    Report(ReportOptions),
    /// Print metrics in OpenMetrics text.
    ///
    /// If luod cannot be reached, luo_up is 0, and the exit code is 3. The metrics are described in
    /// Documentation/admin-guide/liveupdate/fleet.rst. luod-metrics.timer writes them to a file for
    /// node_exporter every minute.
    Metrics(MetricsOptions),
    /// Show events as they happen.
    Watch,
    /// Print the JSON Schema of the output with --json.
    Schema,
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Write the man pages to a directory.
    #[command(hide = true)]
    Man { dir: PathBuf },
}

pub fn session(name: &str) -> Result<SessionName, Failure> {
    SessionName::try_from(name.to_owned())
        .map_err(|error| Failure::new(Exit::Usage, format!("session name '{name}': {error}")))
}

/// Asks for confirmation on a terminal.
pub fn confirm(yes: bool, what: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(
            Exit::NotConfirmed,
            format!("there is no terminal to ask whether to {what}; use --yes"),
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
