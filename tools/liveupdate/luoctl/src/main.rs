// SPDX-License-Identifier: GPL-2.0

//! `luoctl`: runs and watches live updates from the command line.

mod boot;
mod child;
mod cli;
mod events;
mod exec;
mod image;
mod inhibit;
mod load;
mod log;
mod metrics;
mod name;
mod output;
mod talk;
mod update;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command, Exit, Failure};
use std::{
    io::{self, Write},
    process::ExitCode,
};

fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let exit = match &cli.command {
        Command::Exec(options) => return exec::exec(cli, options),
        Command::Inhibit { why, command } => return inhibit::inhibit(cli, why, command),
        Command::Load(options) => load::load(cli, options),
        Command::Check(options) => image::check(cli, options),
        Command::Status => talk::status(cli),
        Command::List => talk::list(cli),
        Command::Kexec(options) => update::kexec(cli, options),
        Command::Handover => update::handover(cli),
        Command::Abort => talk::simple(cli, luod_protocol::Request::Abort),
        Command::Finish { session, yes } => {
            cli::confirm(
                *yes,
                &format!("end session {session}, which a client has claimed"),
            )?;
            let session = cli::session(session)?;
            talk::simple(cli, luod_protocol::Request::Finish { session })
        }
        Command::Discard { session, yes, .. } => {
            let what = session.as_ref().map_or(
                "give up all sessions of the last update that luod could not read".to_owned(),
                |session| format!("discard session {session} and its contents"),
            );
            cli::confirm(*yes, &what)?;
            let request = match session {
                Some(session) => luod_protocol::Request::Discard {
                    session: cli::session(session)?,
                },
                None => luod_protocol::Request::Forget,
            };
            talk::simple(cli, request)
        }
        Command::Report(options) if options.log => log::show(cli, options.lines),
        Command::Report(_) => talk::report(cli),
        Command::Metrics(options) => metrics::metrics(cli, options),
        Command::Watch => talk::watch(cli),
        Command::Schema => {
            // A closed standard output is ignored, as by the other commands.
            let _ = io::stdout().write_all(include_bytes!("../luoctl.schema.json"));
            Ok(Exit::Good)
        }
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "luoctl", &mut io::stdout());
            Ok(Exit::Good)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(dir)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
                .map_err(|error| {
                    Failure::new(Exit::Failed, format!("{}: {error}", dir.display()))
                })?;
            Ok(Exit::Good)
        }
    };
    exit.map(ExitCode::from)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run(&cli).unwrap_or_else(|failure| {
        if cli.json {
            let error = serde_json::json!({ "error": failure.message, "exit": failure.exit as u8 });
            // The exit code contains the error as well.
            let _ = output::json(&error);
        } else {
            output::warn(&failure.message);
        }
        failure.exit.into()
    })
}
