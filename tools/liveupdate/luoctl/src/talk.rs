// SPDX-License-Identifier: GPL-2.0

//! Questions to luod.

use crate::cli::{Cli, Exit, Failure};
use luod_protocol::{Channel, Event, Report, Request, SessionInfo, Status};
use serde::Serialize;
use std::time::Duration;

/// How long luod may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// What luod says instead of an answer.
pub fn refused(event: &Event) -> Failure {
    match event {
        Event::Error { code, message, .. } => {
            Failure::new(Exit::Failed, format!("{message} ({code})"))
        }
        _ => Failure::new(
            Exit::Failed,
            "luod answers something that luoctl does not understand",
        ),
    }
}

fn ask(cli: &Cli, request: &Request) -> Result<Event, Failure> {
    let (event, _) = connect(cli)?
        .call(request, Some(PATIENCE))
        .map_err(|error| Failure::new(Exit::NoLuod, error))?;
    Ok(event)
}

/// Prints one value as a line of JSON.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("luoctl: {error}"),
    }
}

pub fn simple(cli: &Cli, request: Request) -> Result<Exit, Failure> {
    match ask(cli, &request)? {
        event @ Event::Ok { .. } => {
            if cli.json {
                json(&event);
            }
            Ok(Exit::Good)
        }
        event => Err(refused(&event)),
    }
}

fn show_status(status: &Status) {
    println!("phase:      {}", status.phase);
    println!(
        "update:     {}{}",
        status.update,
        if status.dry_run { " (dry run)" } else { "" }
    );
    println!("kernel:     {}", status.kernel);
    println!(
        "image:      {}",
        match status.image_loaded {
            Some(true) => "loaded",
            Some(false) => "none loaded",
            None => "unknown",
        }
    );
    println!("subscribed: {} ({} ready)", status.subscribed, status.ready);
    println!(
        "incoming:   {} ({} unclaimed)",
        status.incoming, status.unclaimed
    );
    if let Some(problem) = &status.problem {
        println!("problem:    {problem}");
    }
}

/// One line about a session.
pub fn line(info: &SessionInfo) -> String {
    let mut line = format!("{:24} {:10}", info.session.to_string(), info.state);
    line += &format!(
        " {:6.1} s",
        Duration::from_millis(info.since_ms).as_secs_f64()
    );
    if let Some(left) = info.left_ms {
        line += &format!(", {:.1} s left", Duration::from_millis(left).as_secs_f64());
    }
    if let Some(client) = &info.client {
        line += &format!("  {client}");
    }
    if let Some(pid) = info.pid {
        line += &format!("  pid {pid}");
    }
    if let Some(progress) = info
        .progress
        .as_ref()
        .and_then(|progress| progress.text.as_ref())
    {
        line += &format!("  {progress}");
    }
    if let Some(error) = &info.error {
        line += &format!("  {error}");
    }
    // What clients say must not control the terminal.
    line.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Shows an update from start to end.
pub fn show_report(report: &Report) {
    println!("update {}: {}", report.update, report.outcome);
    if let Some(reason) = &report.reason {
        println!("reason: {reason}");
    }
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
    for mark in &report.marks {
        match mark.offset_us {
            Some(offset) => println!("{:>12.1} ms  {}", ms(offset), mark.name),
            None => println!("{:>12}     {}", "?", mark.name),
        }
    }
    for session in &report.sessions {
        let mut line = format!("session {}: {}", session.session, session.state);
        for (what, time) in [
            ("preserve", session.preserve_us),
            ("restore", session.restore_us),
            ("blackout", session.blackout_us),
        ] {
            if let Some(us) = time {
                line += &format!(", {what} {:.1} ms", ms(us));
            }
        }
        println!("{line}");
    }
    for (what, time) in [("jump", report.jump_us), ("blackout", report.blackout_us)] {
        if let Some(us) = time {
            println!("{what}: {:.1} ms", ms(us));
        }
    }
}

pub fn status(cli: &Cli) -> Result<Exit, Failure> {
    match ask(cli, &Request::Status)? {
        Event::Status(status) if cli.json => json(&status),
        Event::Status(status) => show_status(&status),
        event => return Err(refused(&event)),
    }
    Ok(Exit::Good)
}

pub fn list(cli: &Cli) -> Result<Exit, Failure> {
    match ask(cli, &Request::List)? {
        Event::List { sessions } if cli.json => json(&sessions),
        Event::List { sessions } => sessions.iter().for_each(|info| println!("{}", line(info))),
        event => return Err(refused(&event)),
    }
    Ok(Exit::Good)
}

pub fn report(cli: &Cli) -> Result<Exit, Failure> {
    match ask(cli, &Request::Report)? {
        Event::Report(report) if cli.json => json(&report),
        Event::Report(report) => show_report(&report),
        event => return Err(refused(&event)),
    }
    Ok(Exit::Good)
}

/// Shows an event as a line, or several.
pub fn show_event(cli: &Cli, event: &Event) {
    if cli.json {
        return json(event);
    }
    match event {
        Event::Status(status) => show_status(status),
        Event::List { sessions } => sessions.iter().for_each(|info| println!("{}", line(info))),
        Event::Phase { phase, update } => println!("update {update}: {phase}"),
        Event::Change { info } => println!("{}", line(info)),
        Event::Gone { session, state } => println!("{session} is gone, it was {state}"),
        Event::Result(report) | Event::Report(report) => show_report(report),
        _ => {}
    }
}

pub fn watch(cli: &Cli) -> Result<Exit, Failure> {
    let lost = |error| Failure::new(Exit::NoLuod, error);
    let mut luod = connect(cli)?;
    luod.send(&Request::Watch, None).map_err(lost)?;
    while let Some((message, _)) = luod.receive(None).map_err(lost)? {
        if matches!(message.body, Event::Error { .. }) {
            return Err(refused(&message.body));
        }
        show_event(cli, &message.body);
    }
    Ok(Exit::Good)
}
