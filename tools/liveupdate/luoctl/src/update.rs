// SPDX-License-Identifier: GPL-2.0

//! `luoctl kexec` and `luoctl handover`.

use crate::{
    cli::{self, Cli, Exit, Failure, KexecOptions, Require},
    image, output, talk,
};
use indicatif::{ProgressBar, ProgressStyle};
use luo_check::{worst, Verdict};
use luod_protocol::{
    Direction, ErrorCode, Event, Outcome, Phase, Report, Request, SessionInfo, SessionName,
    SessionState,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

/// The time after which the bar is redrawn without events.
const TICK: Duration = Duration::from_millis(250);

/// A session, and the time since which it has its state.
struct Seen {
    info: SessionInfo,
    at: Instant,
}

impl Seen {
    /// The session, with the time in its state and the time left.
    fn words(&self) -> String {
        let passed = self.at.elapsed();
        let since = Duration::from_millis(self.info.since_ms) + passed;
        let mut text = format!("{}, {:.1} s", self.info.session, since.as_secs_f64());
        if let Some(left) = self.info.left_ms {
            let left = Duration::from_millis(left).saturating_sub(passed);
            text += &format!(", {:.1} s left", left.as_secs_f64());
        }
        let progress = self.info.progress.as_ref();
        if let Some(said) = progress.and_then(|progress| progress.text.as_ref()) {
            text += &format!(", {}", output::clean(said));
        }
        text
    }

    fn is_pending(&self) -> bool {
        matches!(
            self.info.state,
            SessionState::Requested | SessionState::Preserving
        )
    }
}

/// Shows the running update: as a bar on a terminal, otherwise as lines.
struct View {
    bar: Option<ProgressBar>,
    lines: bool,
    sessions: BTreeMap<SessionName, Seen>,
    phase: Option<Phase>,
}

impl View {
    fn new(cli: &Cli) -> Self {
        let bar = (!cli.json && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("[{bar:10}] {pos}/{len} {wide_msg}");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        Self {
            lines: !cli.json && bar.is_none(),
            bar,
            sessions: BTreeMap::new(),
            phase: None,
        }
    }

    fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.println(output::clean(text));
        } else if self.lines {
            // The update continues if standard output is closed.
            let _ = output::line(text);
        }
    }

    fn phase(&mut self, update: u64, phase: Phase) {
        self.phase = Some(phase);
        self.say(&format!("update {update}: {phase}"));
    }

    fn change(&mut self, info: SessionInfo) {
        if info.direction == Direction::Outgoing {
            // On a terminal, the bar shows pending sessions.
            if self.lines || matches!(info.state, SessionState::Ready | SessionState::Dropped) {
                self.say(&talk::line(&info));
            }
            let seen = Seen {
                at: Instant::now(),
                info,
            };
            self.sessions.insert(seen.info.session.clone(), seen);
        }
    }

    /// The sessions for which the update waits.
    fn waits_for(&self) -> String {
        let phase = self.phase.as_ref().map_or("", Phase::as_str);
        let mut pending: Vec<&Seen> = self.sessions.values().filter(|s| s.is_pending()).collect();
        pending.sort_by_key(|seen| seen.info.left_ms);
        let Some(next) = pending.first() else {
            return phase.to_owned();
        };
        let others = match pending.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        format!("{phase}: waiting for {}{others}", next.words())
    }

    fn draw(&self) {
        let Some(bar) = &self.bar else {
            return;
        };
        let done = self.sessions.values().filter(|seen| !seen.is_pending());
        bar.set_length(self.sessions.len() as u64);
        bar.set_position(done.count() as u64);
        bar.set_message(self.waits_for());
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn names(sessions: &[SessionInfo], which: impl Fn(&SessionInfo) -> bool) -> String {
    let names = sessions.iter().filter(|info| which(info));
    let names: Vec<&str> = names.map(|info| info.session.as_str()).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// Warns about the data that a forced update loses.
fn say_what_is_lost(cli: &Cli, against: Option<&str>) -> Result<(), Failure> {
    let sessions = match talk::ask(cli, &Request::List)? {
        Event::List { sessions } => sessions,
        event => return Err(talk::refused(&event)),
    };
    let takes_part = |info: &SessionInfo| info.direction == Direction::Outgoing;
    if !sessions.iter().any(takes_part) {
        output::warn("the update is forced, though no session is subscribed: nothing is preserved");
    }
    if let Some(why) = against {
        let all = names(&sessions, |info| info.state != SessionState::Finished);
        output::warn(&format!("the update is forced, though {why}"));
        output::warn(&format!(
            "the contents of these sessions can be lost: {all}"
        ));
        return Ok(());
    }
    let unfinished = names(&sessions, |info| {
        info.direction == Direction::Incoming && info.state != SessionState::Finished
    });
    let subscribed = names(&sessions, takes_part);
    output::warn(&format!(
        "the update is forced: the contents of these sessions of the last update are lost: {unfinished}"
    ));
    output::warn(&format!(
        "and of these, if they are not ready in time: {subscribed}"
    ));
    Ok(())
}

/// Checks the loaded image, and asks for confirmation.
fn prepare(cli: &Cli, options: &KexecOptions) -> Result<(), Failure> {
    let findings = cli.system().check_loaded();
    let verdict = worst(&findings);
    let against = (verdict == Verdict::No).then(|| image::reasons(&findings, Verdict::No));
    if options.dry_run {
        if verdict != Verdict::Yes {
            let why = image::reasons(&findings, verdict);
            output::warn(&format!("check of the loaded image: {verdict}: {why}"));
        }
        return Ok(());
    }
    if let Some(why) = against.as_deref().filter(|_| !options.force) {
        let message = format!("the update was not started, since data would be lost: {why}");
        return Err(Failure::new(Exit::No, message));
    }
    // Connect to luod before asking for confirmation.
    drop(talk::connect(cli)?);
    if options.force {
        say_what_is_lost(cli, against.as_deref())?;
    }
    let doubt = match verdict {
        Verdict::Likely | Verdict::Unknown => {
            let why = image::reasons(&findings, verdict);
            output::warn(&format!(
                "whether the loaded kernel takes over all data is not certain ({verdict}): {why}"
            ));
            ", which may lose data,"
        }
        Verdict::Yes | Verdict::No => "",
    };
    let enough = match options.require {
        Require::Yes => verdict == Verdict::Yes,
        Require::Likely => matches!(verdict, Verdict::Yes | Verdict::Likely),
    };
    if options.yes && !enough && !options.force {
        let (exit, how) = match verdict {
            Verdict::Likely => (Exit::Likely, "use --require likely"),
            _ => (Exit::Unknown, "start it without --yes, or use --force"),
        };
        let message = format!(
            "the update was not started, since the verdict on the loaded kernel is {verdict}; {how}"
        );
        return Err(Failure::new(exit, message));
    }
    let what = if options.force {
        "replace the running kernel now, and lose the data that cannot be handed over".to_owned()
    } else {
        format!("replace the running kernel{doubt} now")
    };
    cli::confirm(options.yes, &what)
}

/// `luoctl kexec`.
pub fn kexec(cli: &Cli, options: &KexecOptions) -> Result<Exit, Failure> {
    prepare(cli, options)?;
    let request = Request::Update {
        timeout_ms: options.timeout.map(|seconds| seconds.saturating_mul(1000)),
        dry_run: options.dry_run,
        force: options.force,
        expect: options.expect,
    };
    follow(cli, &request, options.detach).map(|(exit, _)| exit)
}

/// `luoctl handover`.
pub fn handover(cli: &Cli) -> Result<Exit, Failure> {
    let (exit, view) = follow(cli, &Request::Handover, false)?;
    let seen = view.sessions.values().map(|seen| &seen.info);
    let mut lost = seen
        .filter(|info| info.state == SessionState::Dropped)
        .peekable();
    let exit = lost.peek().map_or(exit, |_| Exit::Failed);
    for info in lost {
        let name = info.session.as_str();
        let why = info
            .error
            .as_deref()
            .unwrap_or("the update continues without it");
        output::warn(&format!("session {name} is lost: {why}"));
    }
    Ok(exit)
}

/// Returns whether luoctl was asked to end, by Ctrl-C or by a signal.
fn interrupts() -> Result<Arc<AtomicBool>, Failure> {
    let seen = Arc::new(AtomicBool::new(false));
    let cannot = |error| Failure::new(Exit::Failed, format!("cannot catch signals: {error}"));
    for signal in [SIGINT, SIGTERM] {
        // The second one has its default effect and ends luoctl.
        flag::register_conditional_default(signal, Arc::clone(&seen)).map_err(cannot)?;
        flag::register(signal, Arc::clone(&seen)).map_err(cannot)?;
    }
    Ok(seen)
}

/// Requests an update, and shows it to its end, or until it has begun.
fn follow(cli: &Cli, request: &Request, detach: bool) -> Result<(Exit, View), Failure> {
    let mut luod = talk::connect(cli)?;
    let lost = |error: io::Error| {
        let message = format!("{error}; if luod has ended, so has the update: see luoctl status");
        Failure::new(Exit::NoLuod, message)
    };
    let handover = matches!(request, Request::Handover);
    // A handover cannot be aborted.
    let interrupted = match handover || detach {
        true => Arc::default(),
        false => interrupts()?,
    };
    let mut aborting = false;
    // The number of this update, as soon as it is known.
    let mut number = None;
    luod.send(request, Some(1)).map_err(lost)?;
    let mut view = View::new(cli);
    loop {
        if interrupted.load(Ordering::Relaxed) && !aborting {
            if view.phase == Some(Phase::Jump) {
                // systemd ends all programs before it starts the next kernel, including this one.
                view.end();
                return Ok((Exit::Good, view));
            }
            aborting = true;
            output::warn("aborts the update; interrupt again to leave it to luod");
            luod.send(&Request::Abort, Some(2)).map_err(lost)?;
        }
        let message = match luod.receive(Some(TICK)) {
            Ok(None) => {
                view.draw();
                continue;
            }
            Ok(Some((message, _))) => message,
            Err(error) => {
                view.end();
                // The next kernel is being started, so that luod has ended.
                return if view.phase == Some(Phase::Jump) {
                    Ok((Exit::Good, view))
                } else {
                    Err(lost(error))
                };
            }
        };
        if cli.json && !matches!(message.body, Event::Error { .. }) {
            let _ = output::json(&message.body);
        }
        match message.body {
            Event::Error {
                code: ErrorCode::NoKexec,
                ..
            } if handover => return Ok((Exit::Good, view)),
            // The update has ended, or it is too late: the result is printed in any case.
            Event::Error { message, cmd, .. } if aborting && cmd.as_deref() == Some("ABORT") => {
                output::warn(&message);
            }
            Event::Ok { cmd, .. } if detach && cmd == "UPDATE" => {
                view.end();
                view.say("the update continues; luoctl watch shows it");
                return Ok((Exit::Good, view));
            }
            event @ Event::Error { .. } => {
                view.end();
                return Err(talk::refused(&event));
            }
            Event::Phase { phase, update } => {
                number.get_or_insert(update);
                view.phase(update, phase);
                if handover && phase == Phase::Jump {
                    // systemd starts the next kernel, and waits for this program.
                    view.end();
                    return Ok((Exit::Good, view));
                }
            }
            Event::Change { info } => view.change(info),
            // The update that started this kernel ends only now.
            Event::Result(report) if is_earlier(&report, number) => {}
            Event::Result(report) => {
                view.end();
                if !cli.json {
                    for line in talk::report_lines(&report) {
                        let _ = output::line(&line);
                    }
                }
                let exit = match report.outcome {
                    Outcome::Aborted => Exit::Aborted,
                    Outcome::DryRun | Outcome::Updated | Outcome::Running => Exit::Good,
                    // A newer luod may send another word.
                    _ => Exit::Failed,
                };
                return Ok((exit, view));
            }
            _ => {}
        }
        view.draw();
    }
}

/// Whether this is the result of another update than that with this `number`, if it is known: no update
/// of this kernel ends as [`Outcome::Updated`].
fn is_earlier(report: &Report, number: Option<u64>) -> bool {
    match number {
        Some(number) => report.update != number,
        None => report.outcome == Outcome::Updated,
    }
}
