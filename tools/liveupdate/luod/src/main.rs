// SPDX-License-Identifier: GPL-2.0

//! Coordinates live updates.

use clap::Parser;
use liveupdate::systemd::{self, Manager};
use luod::{
    cli::Args,
    config::Config,
    hooks, logging,
    machine::Machine,
    server::{self, Server, Socket},
    system::System,
    world::World,
};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};
use tracing::Level;

/// Descriptors of the service manager.
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
    if args.sync {
        rustix::fs::sync();
        return ExitCode::SUCCESS;
    }
    if let Some(dir) = &args.run_hooks {
        return run_hooks(dir);
    }
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

/// Runs hooks for luod, in another process. Prints the reason if one fails.
fn run_hooks(dir: &Path) -> ExitCode {
    let input = serde_json::from_reader(io::stdin());
    let input = input.map_err(|error| format!("the input of the hooks is malformed: {error}"));
    match input.and_then(|input| hooks::run(dir, &input)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // A closed standard output leaves the exit code.
            let _ = writeln!(io::stdout(), "{why}");
            ExitCode::FAILURE
        }
    }
}

/// Each session and each connection needs a descriptor.
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
    // The kind of signal is stored separately from the wake-up: signals can
    // arrive together.
    let [stop, hangup] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    for (signal, flag) in [(SIGTERM, &stop), (SIGINT, &stop), (SIGHUP, &hangup)] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    signals.set_nonblocking(true)?;

    let manager = match Manager::from_env() {
        Ok(manager) => Some(manager),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("luod runs without a service manager: {error}");
            None
        }
    };
    let watchdog = manager.as_ref().and_then(|_| systemd::watchdog());
    let socket = config.socket.clone();
    let activated = inherited.listener.is_some();
    let listener = match inherited.listener {
        Some(listener) => Socket::from(listener),
        None => server::listen(&socket).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot listen on {}: {e}", socket.display()),
            )
        })?,
    };
    if config.socket_group.is_some() {
        restrict(&config);
    }
    let kept = inherited.store.iter().map(|(name, _)| name.clone());
    let state = socket.with_extension("state");
    let mut system = System::new(config.kexec, manager, state, kept);
    check_store(&config);
    system.wake_by(sender.try_clone()?);
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
        if hangup.swap(false, Ordering::Relaxed) {
            reload(args, &mut machine);
        }
        if !stop.load(Ordering::Relaxed) {
            continue;
        }
        tracing::info!("stopping");
        machine.world().notify("STOPPING=1");
        machine.stop();
        server.carry_out(&mut machine);
        server.flush(Duration::from_secs(1));
        // Send the results of running operations to their requesters.
        machine.world_mut().wait_for_answers();
        machine.tick();
        server.carry_out(&mut machine);
        server.flush(Duration::from_secs(1));
        machine.world().flush();
        if !activated {
            // A missing text shows that this has failed.
            let _ = std::fs::remove_file(&socket);
        }
        return Ok(());
    }
}

/// Reads the bytes that signal handlers have written.
fn drain(mut stream: &UnixStream) {
    while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
}

fn reload(args: &Args, machine: &mut Machine<System>) {
    machine.world().notify(&reloading());
    match args.read_config() {
        Ok(config) => {
            if config.socket != machine.config().socket {
                tracing::warn!("another socket is only used after a restart");
            }
            if config.socket_group != machine.config().socket_group {
                restrict(&config);
            }
            machine.world_mut().set_kexec(config.kexec);
            check_store(&config);
            machine.reconfigure(config);
            tracing::info!("the configuration is read again");
        }
        Err(error) => tracing::error!("the old configuration is kept: {error}"),
    }
    machine.world().notify("READY=1");
}

/// Warns if the service manager keeps fewer descriptors than the configuration permits.
fn check_store(config: &Config) {
    let most = std::env::var("FDSTORE").ok();
    let most: Option<usize> = most.and_then(|most| most.parse().ok());
    // luod has one session of its own.
    let wanted = config.max_sessions.saturating_add(1);
    if let Some(most) = most.filter(|most| *most < wanted) {
        tracing::warn!(
            "FileDescriptorStoreMax={most} in the unit of luod is too small for max-sessions in \
             its configuration, which needs {wanted}: an update of more is aborted"
        );
    }
}

/// Sets the permissions of the socket.
fn restrict(config: &Config) {
    if let Err(error) = server::restrict(&config.socket, config.socket_group) {
        tracing::error!(
            "cannot change who can connect to {}: {error}",
            config.socket.display()
        );
    }
}

/// The notification that systemd requires before a service reads its
/// configuration again.
fn reloading() -> String {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = time.tv_sec * 1_000_000 + time.tv_nsec / 1000;
    format!("RELOADING=1\nMONOTONIC_USEC={micros}")
}
