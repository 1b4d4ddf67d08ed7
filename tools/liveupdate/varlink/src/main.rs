// SPDX-License-Identifier: GPL-2.0

//! See [`luod_varlink`].

use clap::Parser;
use luod_protocol::SOCKET_PATH;
use std::{path::PathBuf, process::ExitCode};
use varlink::{ErrorKind, ListenConfig};

/// The read-only Varlink interface io.luod.LiveUpdate of luod.
///
/// Serves the socket that systemd passes, or creates one, and ends after a minute without a new
/// connection, if no connection is open then.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The socket of luod.
    #[arg(long, value_name = "PATH", default_value = SOCKET_PATH)]
    socket: PathBuf,
    /// The socket to create, unless systemd passes one.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/luod/io.luod.LiveUpdate"
    )]
    listen: String,
}

/// The time without a new connection after which the program ends if no connection is open, in
/// seconds.
const IDLE: u64 = 60;

/// Connections that are served at a time.
const CONNECTIONS: usize = 16;

fn main() -> ExitCode {
    let args = Args::parse();
    let config = ListenConfig {
        max_worker_threads: CONNECTIONS,
        idle_timeout: IDLE,
        ..ListenConfig::default()
    };
    let address = format!("unix:{}", args.listen);
    match varlink::listen(luod_varlink::service(args.socket), &address, &config) {
        Err(error) if *error.kind() != ErrorKind::Timeout => {
            eprintln!("luod-varlink: cannot serve {}: {error}", args.listen);
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
