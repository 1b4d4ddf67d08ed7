// SPDX-License-Identifier: GPL-2.0

//! Conducts live updates.

use clap::Parser;
use liveupdate::systemd::{self, Manager};
use luod::{
    config::{self, Config},
    logging,
    machine::Machine,
    server::{self, Server},
    system::System,
};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};
use tracing::Level;

/// Conducts live updates: asks clients to preserve their files, starts the next kernel, and gives
/// everything back to them.
#[derive(Debug, Parser)]
#[command(name = "luod", version, max_term_width = 100)]
struct Args {
    /// Reads the configuration from this file. Without this option, luod reads /etc/luod.toml if
    /// there is such a file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Listens at this socket, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Only says whether the configuration is good
    #[arg(long)]
    check_config: bool,

    /// Logs more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Args {
    fn read_config(&self) -> Result<Config, String> {
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

/// What came from the service manager.
struct Inherited {
    listener: Option<UnixListener>,
    store: Vec<(String, OwnedFd)>,
}

impl Inherited {
    fn take() -> Self {
        let mut inherited = Self {
            listener: None,
            store: Vec::new(),
        };
        for (name, fd) in systemd::inherited() {
            let listens = rustix::net::sockopt::socket_acceptconn(&fd).unwrap_or(false);
            if listens && inherited.listener.is_none() {
                inherited.listener = Some(UnixListener::from(fd));
            } else {
                inherited.store.push((name, fd));
            }
        }
        inherited
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(match args.verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    });
    let config = match args.read_config() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(2);
        }
    };
    if args.check_config {
        return ExitCode::SUCCESS;
    }
    match run(&args, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Each session and each connection takes a descriptor.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

fn run(args: &Args, config: Config) -> io::Result<()> {
    raise_limit();
    let inherited = Inherited::take();
    let (signals, sender) = UnixStream::pair()?;
    let (hangups, hangup_sender) = UnixStream::pair()?;
    hangups.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    signal_hook::low_level::pipe::register(SIGHUP, hangup_sender)?;
    signal_hook::low_level::pipe::register(SIGHUP, sender)?;
    signals.set_nonblocking(true)?;

    let manager = match Manager::from_env() {
        Ok(manager) => Some(manager),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("goes on without a service manager: {error}");
            None
        }
    };
    let watchdog = manager.as_ref().and_then(|_| systemd::watchdog());
    let socket = config.socket.clone();
    let activated = inherited.listener.is_some();
    let listener = match inherited.listener {
        Some(listener) => listener,
        None => server::listen(&socket).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot listen at {}: {e}", socket.display()),
            )
        })?,
    };
    let system = System::new(config.kexec, manager, socket.with_extension("state"));
    let mut machine = Machine::start(system, config, inherited.store);
    let mut server = Server::new(listener)?;
    machine.world().notify("READY=1");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), phase = %machine.phase(), "started");

    let mut last_ping = Instant::now();
    loop {
        if let Some(every) = watchdog.filter(|every| last_ping.elapsed() >= *every) {
            machine.world().notify("WATCHDOG=1");
            last_ping = Instant::now();
            tracing::trace!(?every, "watchdog");
        }
        let timeout = watchdog.map(|every| every.saturating_sub(last_ping.elapsed()));
        if !server.turn(&mut machine, &signals, timeout)? {
            continue;
        }
        drain(&signals);
        if drain(&hangups) {
            reload(args, &mut machine);
            continue;
        }
        tracing::info!("stopping");
        machine.world().notify("STOPPING=1");
        machine.stop();
        server.carry_out(&mut machine);
        server.flush(Duration::from_secs(1));
        if !activated {
            // Not there any more is what everybody understands.
            let _ = std::fs::remove_file(&socket);
        }
        return Ok(());
    }
}

/// Reads what signals have written; false if there was nothing.
fn drain(mut stream: &UnixStream) -> bool {
    let mut any = false;
    while matches!(stream.read(&mut [0; 64]), Ok(1..)) {
        any = true;
    }
    any
}

fn reload(args: &Args, machine: &mut Machine<System>) {
    machine.world().notify(&reloading());
    match args.read_config() {
        Ok(config) => {
            if config.socket != machine.config().socket {
                tracing::warn!("another socket is only used after a restart");
            }
            machine.world_mut().set_kexec(config.kexec);
            machine.reconfigure(config);
            tracing::info!("the configuration is read again");
        }
        Err(error) => tracing::error!("the old configuration is kept: {error}"),
    }
    machine.world().notify("READY=1");
}

/// What systemd wants to hear before a service reads its configuration again.
fn reloading() -> String {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = time.tv_sec * 1_000_000 + time.tv_nsec / 1000;
    format!("RELOADING=1\nMONOTONIC_USEC={micros}")
}
