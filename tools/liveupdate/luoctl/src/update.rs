// SPDX-License-Identifier: GPL-2.0

//! `luoctl kexec`.

use crate::{
    cli::{self, Cli, Exit, Failure, KexecOptions},
    image, talk,
};
use indicatif::{ProgressBar, ProgressStyle};
use luo_check::Verdict;
use luod_protocol::{Event, Outcome, Phase, Request, SessionInfo, SessionState};
use std::{collections::BTreeMap, io, time::Duration};

/// How often the bar moves when nothing happens.
const TICK: Duration = Duration::from_millis(250);

/// What is known of the update that is under way.
struct View {
    bar: ProgressBar,
    sessions: BTreeMap<String, SessionInfo>,
    phase: Option<Phase>,
}

impl View {
    fn new(cli: &Cli) -> Self {
        // Without a terminal, indicatif draws nothing.
        let bar = if cli.json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        if let Ok(style) =
            ProgressStyle::with_template("{elapsed:>4} [{bar:20}] {pos}/{len} {wide_msg}")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            sessions: BTreeMap::new(),
            phase: None,
        }
    }

    fn draw(&self) {
        let ready = |info: &&SessionInfo| info.state == SessionState::Ready;
        let count = self.sessions.values().filter(ready).count();
        self.bar.set_length(self.sessions.len() as u64);
        self.bar.set_position(count as u64);
        let pending = self.sessions.values().find(|info| !ready(info));
        let phase = self.phase.map_or("", Phase::as_str);
        self.bar.set_message(match pending {
            Some(info) => format!("{phase}: waiting for {}", talk::line(info)),
            None => phase.to_owned(),
        });
    }
}

/// `luoctl kexec`.
pub fn kexec(cli: &Cli, options: &KexecOptions) -> Result<Exit, Failure> {
    let loaded = image::loaded();
    if loaded.verdict == Verdict::No && !options.dry_run {
        if !options.force {
            return Err(Failure::new(Exit::No, loaded.reason));
        }
        eprintln!(
            "luoctl: going on all the same, all sessions will be lost: {}",
            loaded.reason
        );
    }
    if !options.dry_run {
        let what = if options.force {
            "replace the running kernel now, even if sessions are lost"
        } else {
            "replace the running kernel now"
        };
        cli::confirm(options.yes, what)?;
    }

    let lost = |error: io::Error| Failure::new(Exit::NoLuod, error);
    let mut luod = talk::connect(cli)?;
    let request = Request::Update {
        timeout_ms: options.timeout.map(|seconds| seconds.saturating_mul(1000)),
        dry_run: options.dry_run,
        force: options.force,
    };
    luod.send(&request, Some(1)).map_err(lost)?;
    let mut view = View::new(cli);
    loop {
        let message = match luod.receive(Some(TICK)) {
            Ok(None) => {
                view.draw();
                continue;
            }
            Ok(Some((message, _))) => message,
            // The kernel goes down, and luod with it.
            Err(_) if view.phase == Some(Phase::Jump) => return Ok(Exit::Good),
            Err(error) => return Err(lost(error)),
        };
        if cli.json {
            talk::json(&message.body);
        }
        match message.body {
            event @ Event::Error { .. } => {
                view.bar.finish_and_clear();
                return Err(talk::refused(&event));
            }
            Event::Phase { phase, .. } => view.phase = Some(phase),
            Event::Change { info } => {
                view.sessions.insert(info.session.to_string(), info);
            }
            Event::Result(report) => {
                view.bar.finish_and_clear();
                if !cli.json {
                    talk::show_report(&report);
                }
                return Ok(if report.outcome == Outcome::Aborted {
                    Exit::Aborted
                } else {
                    Exit::Good
                });
            }
            _ => {}
        }
        view.draw();
    }
}
