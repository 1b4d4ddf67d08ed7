// SPDX-License-Identifier: GPL-2.0

//! Requests to luod.

use crate::{
    cli::{Cli, Exit, Failure},
    output,
};
use luod_protocol::{Channel, Event, Report, Request, SessionInfo, Status};
use serde::Serialize;
use std::{io, time::Duration};

/// The time limit for an answer of luod.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to luod.
pub fn connect(cli: &Cli) -> Result<Channel, Failure> {
    Channel::connect(&cli.socket).map_err(|error| {
        Failure::new(
            Exit::NoLuod,
            format!(
                "cannot talk to luod at {}: {error}; is it running?",
                cli.socket.display()
            ),
        )
    })
}

/// Converts an error of luod.
pub fn refused(event: &Event) -> Failure {
    match event {
        Event::Error { code, message, .. } => {
            Failure::new(Exit::Failed, format!("{message} ({code})"))
        }
        _ => Failure::new(Exit::Failed, "luod has sent an unexpected answer"),
    }
}

/// Returns how long to wait for the answer to a request; [`None`] if it takes as long as the kernel needs
/// to free the memory of a session.
fn patience(request: &Request) -> Option<Duration> {
    match request {
        Request::Finish { .. } | Request::Discard { .. } | Request::Forget => None,
        _ => Some(PATIENCE),
    }
}

/// Sends a request on a connection, and waits for its answer.
pub fn call(luod: &mut Channel, request: &Request) -> Result<Event, Failure> {
    let (event, _) = luod
        .call(request, patience(request))
        .map_err(|error| Failure::new(Exit::NoLuod, error))?;
    Ok(event)
}

pub fn ask(cli: &Cli, request: &Request) -> Result<Event, Failure> {
    call(&mut connect(cli)?, request)
}

/// Prints an answer, as JSON or as lines.
fn print(cli: &Cli, value: &impl Serialize, lines: impl FnOnce() -> Vec<String>) -> io::Result<()> {
    if cli.json {
        return output::json(value);
    }
    lines().iter().try_for_each(|line| output::line(line))
}

pub fn simple(cli: &Cli, request: Request) -> Result<Exit, Failure> {
    match ask(cli, &request)? {
        event @ Event::Ok { .. } => {
            // The request is done, even if standard output is closed.
            let _ = print(cli, &event, Vec::new);
            Ok(Exit::Good)
        }
        event => Err(refused(&event)),
    }
}

fn status_lines(status: &Status) -> Vec<String> {
    let dry_run = if status.dry_run { " (dry run)" } else { "" };
    let image = match status.image_loaded {
        Some(true) => "loaded",
        Some(false) => "none loaded",
        None => "unknown",
    };
    let mut lines = vec![
        format!("phase:      {}", status.phase),
        format!("update:     {}{dry_run}", status.update),
        format!("kernel:     {}", status.kernel),
        format!("image:      {image}"),
        format!("subscribed: {} ({} ready)", status.subscribed, status.ready),
        format!(
            "incoming:   {} ({} unclaimed)",
            status.incoming, status.unclaimed
        ),
    ];
    for inhibitor in &status.inhibitors {
        let client = inhibitor.client.as_deref().unwrap_or_default();
        lines.push(format!(
            "inhibited:  {} ({client} pid {})",
            inhibitor.why, inhibitor.pid
        ));
    }
    lines.extend(
        status
            .problem
            .iter()
            .map(|problem| format!("problem:    {problem}")),
    );
    lines
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// One line about a session.
pub fn line(info: &SessionInfo) -> String {
    let name = info.session.as_str();
    let mut line = format!(
        "{name:24} {:10} {:6.1} s",
        info.state,
        seconds(info.since_ms)
    );
    if let Some(left) = info.left_ms {
        line += &format!(", {:.1} s left", seconds(left));
    }
    if let Some(client) = &info.client {
        line += &format!("  {client}");
    }
    if let Some(pid) = info.pid {
        line += &format!("  pid {pid}");
    }
    if let Some(progress) = &info.progress {
        match (progress.done, progress.total) {
            (Some(done), Some(total)) => line += &format!("  {done}/{total}"),
            (Some(done), None) => line += &format!("  {done}"),
            _ => {}
        }
        if let Some(text) = &progress.text {
            line += &format!("  {text}");
        }
    }
    if let Some(error) = &info.error {
        line += &format!("  {error}");
    }
    output::clean(&line)
}

fn list_lines(sessions: &[SessionInfo]) -> Vec<String> {
    sessions.iter().map(line).collect()
}

/// An update from start to end.
pub fn report_lines(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("update {}: {}", report.update, report.outcome)];
    if let Some(reason) = &report.reason {
        lines.push(format!("reason: {reason}"));
    }
    match (&report.from, &report.to) {
        (Some(from), Some(to)) => lines.push(format!("from {from} to {to}")),
        (Some(from), None) => lines.push(format!("from {from}")),
        _ => {}
    }
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
    for mark in &report.marks {
        lines.push(match mark.offset_us {
            Some(offset) => format!("{:>12.1} ms  {}", ms(offset), mark.name),
            None => format!("{:>12}     {}", "?", mark.name),
        });
    }
    for session in &report.sessions {
        let mut line = format!("session {}: {}", session.session.as_str(), session.state);
        for (what, time) in [
            ("preserve", session.preserve_us),
            ("restore", session.restore_us),
            ("blackout", session.blackout_us),
        ] {
            if let Some(us) = time {
                line += &format!(", {what} {:.1} ms", ms(us));
            }
        }
        if let Some(error) = &session.error {
            line += &format!(", {error}");
        }
        lines.push(line);
    }
    for (what, time) in [("jump", report.jump_us), ("blackout", report.blackout_us)] {
        if let Some(us) = time {
            lines.push(format!("{what}: {:.1} ms", ms(us)));
        }
    }
    if let Some(us) = report.precision_us.filter(|_| report.jump_us.is_some()) {
        lines.push(format!(
            "times across the jump are exact to {:.0} ms",
            ms(us)
        ));
    }
    lines
}

/// Prints the answer to a request. A closed standard output is ignored.
fn show(cli: &Cli, request: &Request) -> Result<Exit, Failure> {
    let _ = match ask(cli, request)? {
        Event::Status(status) => print(cli, &status, || status_lines(&status)),
        Event::List { sessions } => {
            let list = serde_json::json!({ "sessions": sessions });
            print(cli, &list, || list_lines(&sessions))
        }
        Event::Report(report) => print(cli, &report, || report_lines(&report)),
        event => return Err(refused(&event)),
    };
    Ok(Exit::Good)
}

pub fn status(cli: &Cli) -> Result<Exit, Failure> {
    show(cli, &Request::Status)
}

pub fn list(cli: &Cli) -> Result<Exit, Failure> {
    show(cli, &Request::List)
}

pub fn report(cli: &Cli) -> Result<Exit, Failure> {
    show(cli, &Request::Report)
}

/// An event as a line, or several.
fn event_lines(event: &Event) -> Vec<String> {
    match event {
        Event::Status(status) => status_lines(status),
        Event::List { sessions } => list_lines(sessions),
        Event::Phase { phase, update } => vec![format!("update {update}: {phase}")],
        Event::Change { info } => vec![line(info)],
        Event::Gone { session, state } => {
            vec![format!("{} is removed, it was {state}", session.as_str())]
        }
        Event::Result(report) | Event::Report(report) => report_lines(report),
        _ => Vec::new(),
    }
}

pub fn watch(cli: &Cli) -> Result<Exit, Failure> {
    let lost = |error| Failure::new(Exit::NoLuod, error);
    let mut luod = connect(cli)?;
    luod.send(&Request::Watch, None).map_err(lost)?;
    while let Some((message, _)) = luod.receive(None).map_err(lost)? {
        let event = message.body;
        if matches!(event, Event::Error { .. }) {
            return Err(refused(&event));
        }
        if print(cli, &event, || event_lines(&event)).is_err() {
            // Standard output is closed.
            return Ok(Exit::Good);
        }
    }
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use luod_protocol::SessionName;

    #[test]
    fn freeing_memory_takes_as_long_as_it_takes() {
        let session = SessionName::new("vm").unwrap();
        assert_eq!(patience(&Request::Discard { session }), None);
        assert_eq!(patience(&Request::Forget), None);
        assert_eq!(patience(&Request::Status), Some(PATIENCE));
    }
}
