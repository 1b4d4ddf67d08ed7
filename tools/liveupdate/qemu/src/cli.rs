// SPDX-License-Identifier: GPL-2.0

//! The command line of luo-qemu.

use crate::output;
use clap::{Args, CommandFactory, Parser, Subcommand};
use liveupdate::luod::{Member, Result, SOCKET_PATH};
use liveupdate::systemd::Manager;
use luo_qemu::{
    check::{self, Finding},
    guest::Guest,
    hugepages::HugePages,
    memory,
    moved::Moved,
    process::Process,
    run_dir,
    run_dir::{Record, RunDir},
    size,
    spec::Spec,
};
use rustix::process::Signal;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a guest may take to power down; less than the unit gives to luo-qemu.
const POWER_DOWN: Duration = Duration::from_secs(80);

/// The interval of attempts to resume a guest that QEMU does not resume.
const AGAIN: Duration = Duration::from_secs(5);

/// The exit code of commands that fail.
const FAILED: u8 = 1;

/// Where sysfs is mounted.
const SYSFS: &str = "/sys";

/// The time between two checks whether QEMU has ended.
const STEP: Duration = Duration::from_millis(100);

/// The interval between two queries whether the guest runs.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(
    name = "luo-qemu",
    version,
    about = "Runs QEMU guests that survive live updates of their host",
    after_help = "Example: luo-qemu run web -- qemu-system-x86_64 -machine q35,accel=kvm -cpu host -m 4G -drive file=web.raw,format=raw,if=virtio"
)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Args)]
struct Json {
    /// Print a line of JSON, which luo-qemu schema describes
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Run a guest, or resume it if the previous kernel has handed it over
    Run {
        /// The name of the guest; its session is vm-NAME
        name: String,
        /// The id of a memory backend to hand over; by default, all are handed over
        #[arg(long, value_name = "ID")]
        ram_backend: Vec<String>,
        /// The size of the guest's memory if the arguments do not set it
        #[arg(long, value_name = "SIZE")]
        memory: Option<String>,
        /// Make the guest's memory of huge pages of this size (2M or 1G), which must have been set
        /// aside
        #[arg(long, value_name = "SIZE")]
        hugepages: Option<HugePages>,
        /// Run the guest although it cannot take part in live updates, and let it take part if it
        /// only risks data (cache=unsafe)
        #[arg(long)]
        force: bool,
        /// luod's socket
        #[arg(long, default_value = SOCKET_PATH)]
        socket: PathBuf,
        /// QEMU and its arguments
        #[arg(last = true, required = true, value_name = "QEMU")]
        command: Vec<String>,
    },
    /// Resume a guest that the previous kernel has handed over, with the same arguments
    Start {
        /// The name of the guest
        name: String,
        /// Use another QEMU
        #[arg(long, value_name = "PATH")]
        qemu: Option<PathBuf>,
        /// Use the path NEW instead of OLD, and of what is below, in QEMU's arguments; can be repeated
        #[arg(long, value_name = "OLD=NEW")]
        replace: Vec<Moved>,
        /// luod's socket
        #[arg(long, default_value = SOCKET_PATH)]
        socket: PathBuf,
    },
    /// Print the parts of a guest that do not survive a live update
    Check {
        /// A running guest
        #[arg(required_unless_present = "command")]
        name: Option<String>,
        #[command(flatten)]
        json: Json,
        /// QEMU and its arguments
        #[arg(last = true, value_name = "QEMU", conflicts_with = "name")]
        command: Vec<String>,
    },
    /// List running guests
    List {
        #[command(flatten)]
        json: Json,
    },
    /// Show a guest
    Status {
        /// The name of the guest
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Ask a guest to power down, and wait for it
    Stop {
        /// The name of the guest
        name: String,
        /// End QEMU after this number of seconds
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Print the JSON Schema of the output with --json
    Schema,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        /// The directory, which is created if it does not exist
        dir: PathBuf,
    },
}

impl Action {
    /// Whether the output is JSON.
    fn is_json(&self) -> bool {
        match self {
            Self::Check { json, .. } | Self::List { json } | Self::Status { json, .. } => json.json,
            _ => false,
        }
    }
}

/// Runs the command of the arguments, and prints why it fails.
pub fn run() -> ExitCode {
    let action = Cli::parse().command;
    let is_json = action.is_json();
    act(action).unwrap_or_else(|error| {
        if is_json {
            // The exit code contains the error as well.
            let _ = output::failure(&error.to_string(), FAILED);
        } else {
            eprintln!("luo-qemu: {error}");
        }
        ExitCode::from(FAILED)
    })
}

fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Run {
            name,
            ram_backend,
            memory,
            hugepages,
            force,
            socket,
            command,
        } => {
            let memory =
                memory.map(|text| size::parse(&text, 1 << 20).ok_or(memory::Error::Size(text)));
            let memory = memory.transpose()?;
            let (program, arguments) = command.split_first().ok_or("there is no QEMU to run")?;
            let found = check::check(arguments);
            show(&found);
            if !force && found.iter().any(|finding| finding.forbids(false)) {
                return Err("the guest is not started, since it would not survive a live update (--force starts it)".into());
            }
            let backends = memory::backends(arguments, &ram_backend, memory, hugepages)?;
            show(check::check_host(&backends, Path::new(SYSFS)).as_slice());
            let mut spec = Spec::new(&name, program.into(), arguments.to_vec(), backends)?;
            spec.forced = force;
            custody(Guest::new(spec, take(&name)?, None)?, &socket, true)
        }
        Action::Start {
            name,
            qemu,
            replace,
            socket,
        } => {
            let spec = Spec::new(&name, PathBuf::new(), Vec::new(), Vec::new())?;
            let mut guest = Guest::new(spec, take(&name)?, qemu)?;
            guest.replace(replace);
            custody(guest, &socket, false)
        }
        Action::Check {
            name,
            json,
            command,
        } => {
            let found = match name {
                Some(name) => check::check(&known(&name)?.arguments),
                None => {
                    let arguments = command.get(1..).unwrap_or_default();
                    let backends = memory::backends(arguments, &[], None, None)?;
                    let host = check::check_host(&backends, Path::new(SYSFS));
                    check::check(arguments).into_iter().chain(host).collect()
                }
            };
            let forbidden = found.iter().any(|finding| finding.forbids(false));
            if json.json {
                output::check(&found, !forbidden)?;
            } else {
                show(&found);
                if !forbidden {
                    println!("yes: the guest survives a live update, as far as known");
                }
            }
            Ok(ExitCode::from(u8::from(forbidden)))
        }
        Action::List { json } => {
            let found = run_dir::list()?;
            if json.json {
                output::list(&found)?;
            } else {
                println!(
                    "{:<20} {:<10} {:>8} {:>8} {:>8}",
                    "GUEST", "STATE", "QEMU", "UPDATES", "GAP/MS"
                );
                for record in found {
                    let gap = record
                        .gap_us
                        .map_or("-".to_owned(), |gap| (gap / 1000).to_string());
                    println!(
                        "{:<20} {:<10} {:>8} {:>8} {:>8}",
                        record.name,
                        record.does(),
                        record.qemu,
                        record.updates,
                        gap
                    );
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Status { name, json } => {
            let record = known(&name)?;
            if json.json {
                output::status(&record)?;
            } else {
                println!("guest      {}", record.name);
                println!("state      {}", record.does());
                println!("luo-qemu   pid {}", record.pid);
                println!("QEMU       pid {}", record.qemu);
                println!("updates    {}", record.updates);
                if let Some(gap) = record.gap_us {
                    println!("last gap   {} ms", gap / 1000);
                }
                if let Some(lag) = record.lag_us {
                    println!("clock lag  {} ms", lag / 1000);
                }
                println!("arguments  {}", record.arguments.join(" "));
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Stop { name, timeout } => stop(&name, Duration::from_secs(timeout)),
        Action::Schema => {
            io::stdout().write_all(include_bytes!("../luo-qemu.schema.json"))?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "luo-qemu", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Action::Man { dir } => {
            fs::create_dir_all(&dir)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &dir))
                .map_err(|error| format!("{}: {error}", dir.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show(found: &[Finding]) {
    for finding in found {
        eprintln!("luo-qemu: {finding}");
    }
}

fn take(name: &str) -> Result<RunDir> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 60 || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(format!(
            "{name:?} is not a valid name of a guest: use up to 60 letters, digits, '-', '_' and '.'"
        )
        .into());
    }
    RunDir::take(name).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("the guest {name} is running already").into(),
        _ => format!("the directory of the guest {name} cannot be created: {error}").into(),
    })
}

fn known(name: &str) -> Result<Record> {
    let found = run_dir::find(name)?;
    found.ok_or_else(|| format!("there is no guest {name}; `luo-qemu list` lists them").into())
}

/// Manages a guest until it ends.
fn custody(mut guest: Guest, socket: &std::path::Path, fresh: bool) -> Result<ExitCode> {
    let name = guest.name().to_owned();
    let session = format!("vm-{name}");
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    guest.adopt().map_err(|error| {
        format!("the guest {name} runs without a luo-qemu and cannot be taken over: {error}")
    })?;
    let mut member = Member::join_at(socket, &session, &[session.as_str()], guest)
        .map_err(|error| format!("the guest {name}: {error} (luod at {})", socket.display()))?;
    if !member.participant().is_running() {
        if !member.restored().is_empty() && !fresh {
            return Err(format!(
                "the guest {name} has run on this kernel already, and its QEMU has ended: start it anew with luo-qemu run"
            )
            .into());
        }
        if !fresh {
            return Err(format!(
                "there is no session {session}: the previous kernel has not handed over the guest {name}"
            )
            .into());
        }
        member.participant_mut().launch(None)?;
    }
    member.participant_mut().joined();
    println!("{name}: running");
    // If this fails, luo-qemu does not run as a service.
    if let Ok(manager) = Manager::from_env() {
        let _ = manager.notify("READY=1");
    }

    let mut asked: Option<Instant> = None;
    let mut next_try = Instant::now();
    let mut next_look = Instant::now() + LOOK;
    loop {
        member.step(Some(STEP))?;
        if let Some(success) = member.participant_mut().ended()? {
            println!("{name}: QEMU has ended");
            // If it was killed after a request to power down, this end was requested.
            return Ok(if success || ended.load(Ordering::Relaxed) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        member.participant_mut().clock_set();
        if next_look < Instant::now() {
            next_look = Instant::now() + LOOK;
            if let Err(error) = member.participant_mut().watch() {
                eprintln!("{name}: {error}");
            }
        }
        // luod has accepted a new session, so that no update has the old one.
        let idle = member.participant().is_orphan() && member.is_idle();
        if idle && next_try < Instant::now() {
            next_try = Instant::now() + AGAIN;
            if let Err(error) = member.participant_mut().resume() {
                eprintln!("{name}: does not continue yet: {error}");
            }
        }
        if !ended.load(Ordering::Relaxed) {
            continue;
        }
        if member.participant().is_orphan() || member.participant().is_frozen() {
            // luod holds the session; the guest is resumed in the next kernel.
            member.participant_mut().kill();
            return Ok(ExitCode::SUCCESS);
        }
        match asked {
            None => {
                println!("{name}: asked to power down");
                if let Err(error) = member.participant_mut().power_down() {
                    eprintln!("{name}: QEMU is ended: {error}");
                    member.participant_mut().kill();
                    return Ok(ExitCode::FAILURE);
                }
                asked = Some(Instant::now());
            }
            Some(time) if time.elapsed() > POWER_DOWN => {
                println!("{name}: does not power down: QEMU is ended");
                member.participant_mut().kill();
                return Ok(ExitCode::SUCCESS);
            }
            Some(_) => {}
        }
    }
}

/// Asks a guest to power down, and waits until it has ended. It may end at any time, even before a
/// signal is sent. If another luo-qemu takes the guest over, that one is asked as well.
fn stop(name: &str, timeout: Duration) -> Result<ExitCode> {
    known(name)?;
    let argument = run_dir::qmp_argument(name);
    let started = Instant::now();
    let mut asked = None;
    let mut killed = false;
    while let Some(record) = run_dir::find(name)? {
        if asked != Some(record.pid) && Process::signal(record.pid, name, Signal::TERM)? {
            asked = Some(record.pid);
        }
        let late = started.elapsed() > timeout && !killed;
        if late && Process::signal(record.qemu, &argument, Signal::KILL)? {
            eprintln!("luo-qemu: {name} does not power down: QEMU is ended");
            killed = true;
        }
        sleep(STEP);
    }
    println!("{name}: stopped");
    Ok(ExitCode::from(u8::from(killed)))
}
