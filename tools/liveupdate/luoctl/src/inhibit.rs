// SPDX-License-Identifier: GPL-2.0

//! `luoctl inhibit`.

use crate::{
    child::{Running, Signals, TICK},
    cli::{Cli, Exit, Failure},
    output, talk,
};
use luod_protocol::{Channel, Event, Request, VERSION};
use std::{
    ffi::OsString,
    process::{Command, ExitCode},
    thread::sleep,
};

/// Inhibits updates as long as the returned connection is open.
fn connect(cli: &Cli, why: &str, name: &str) -> Result<Channel, Failure> {
    let mut luod = talk::connect(cli)?;
    for request in [
        Request::Hello {
            version: VERSION,
            client: Some(name.to_owned()),
        },
        Request::Inhibit {
            why: why.to_owned(),
        },
    ] {
        match talk::call(&mut luod, &request)? {
            Event::Hello { .. } | Event::Ok { .. } => {}
            event => return Err(talk::refused(&event)),
        }
    }
    Ok(luod)
}

/// Runs a command, and lets no update start before it ends.
pub fn inhibit(cli: &Cli, why: &str, command: &[OsString]) -> Result<ExitCode, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::new(Exit::Usage, "there is no command"));
    };
    let name = program.to_string_lossy();
    let mut luod = Some(connect(cli, why, &name)?);
    let signals = Signals::catch()?;
    let mut running = Running::start(Command::new(program).args(arguments), &signals)?;
    loop {
        if let Some(code) = running.ended()? {
            return Ok(ExitCode::from(code));
        }
        let Some(channel) = &mut luod else {
            // luod is restarted.
            luod = connect(cli, why, &name).ok();
            if luod.is_some() {
                output::warn("updates are inhibited again");
            }
            sleep(TICK);
            continue;
        };
        if channel.receive(Some(TICK)).is_err() {
            output::warn("luod has ended; updates are not inhibited until it is started again");
            luod = None;
        }
    }
}
