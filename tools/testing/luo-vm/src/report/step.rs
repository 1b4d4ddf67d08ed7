// SPDX-License-Identifier: GPL-2.0

//! One line per step: its name, its progress, its duration, and its log.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use regex::Regex;

use crate::ctx::Ctx;

/// Lines of a log with the reason of a failure.
static RELEVANT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(error|fatal|undefined|failed|cannot|no such)\b|\*\*\*|^warning: unused")
        .expect("the pattern is constant")
});

/// The time between two messages that a step is still running, without a terminal.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// The steps in progress on a terminal; several threads may have one.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints a line to the standard output, above the steps in progress.
pub fn print(text: &str) {
    BARS.suspend(|| println!("{text}"));
}

/// Like [`print`], to the standard error.
fn note(text: &str) {
    BARS.suspend(|| eprintln!("{text}"));
}

/// A step in progress.
pub struct Step<'a> {
    ctx: &'a Ctx,
    title: String,
    started: Instant,
    beat: Instant,
    bar: Option<ProgressBar>,
}

impl<'a> Step<'a> {
    pub fn start(ctx: &'a Ctx, title: impl Into<String>) -> Self {
        let title = title.into();
        let bar = (std::io::stderr().is_terminal() && !ctx.verbose).then(|| {
            let bar = BARS.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>5}  {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.set_message(title.clone());
            bar
        });
        if ctx.verbose {
            eprintln!("=== {title}");
        }
        let started = Instant::now();
        Self {
            ctx,
            title,
            started,
            beat: started,
            bar,
        }
    }

    /// Shows the progress of the step.
    pub fn progress(&mut self, detail: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {detail}", self.title)),
            None if self.ctx.verbose => {}
            None => {
                if self.beat.elapsed() >= HEARTBEAT {
                    self.beat = Instant::now();
                    eprintln!("{}  {}: {detail} ...", elapsed(self.started), self.title);
                }
            }
        }
    }

    /// Prints a message, which stays on the screen.
    pub fn say(&self, what: &str) {
        let line = format!("{}    {what}", elapsed(self.started));
        note(&line);
    }

    /// Ends the step; its line stays on the screen.
    pub fn done(self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
        let colon = if detail.is_empty() { "" } else { ": " };
        let time = elapsed(self.started);
        note(&format!("{time}  {}{colon}{detail}", self.title));
    }

    /// Runs `command` with its output in the log file. `line` is called for each line of
    /// output.
    ///
    /// An error names the log and quotes its relevant lines.
    pub fn run_with(
        &mut self,
        command: &mut Command,
        log: &Path,
        mut line: impl FnMut(&mut Self, &str),
    ) -> Result<()> {
        let mut file = File::create(log).with_context(|| self.ctx.shown(log))?;
        writeln!(file, "$ {}", quoted(command))?;
        if self.ctx.verbose {
            eprintln!("$ {}", quoted(command));
        }
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let spawned = command.spawn();
        // Drop the command, which holds the writing ends: otherwise the pipe never ends.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = match spawned {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                bail!("`{program}` is missing: `make doctor` says how to get it.")
            }
            Err(e) => return Err(e).with_context(|| format!("`{program}` cannot be started")),
        };
        let mut reader = BufReader::new(File::from(reader));
        let mut buf = Vec::new();
        let mut tail = Vec::new();
        loop {
            buf.clear();
            if reader.read_until(b'\n', &mut buf)? == 0 {
                break;
            }
            file.write_all(&buf)?;
            let text = String::from_utf8_lossy(&buf);
            let text = text.trim_end();
            if self.ctx.verbose {
                eprintln!("{text}");
            }
            line(self, text);
            tail.push(text.to_owned());
            if tail.len() > 4000 {
                tail.drain(..2000);
            }
        }
        let status = child.wait()?;
        if !status.success() {
            if let Some(bar) = &self.bar {
                bar.finish_and_clear();
                BARS.remove(bar);
            }
            bail!(
                "{}: `{program}` failed ({status}).\n{}\nThe whole log is {}",
                self.title,
                excerpt(&tail),
                self.ctx.shown(log)
            );
        }
        Ok(())
    }

    /// Runs `command` with its output in the log file.
    pub fn run(&mut self, command: &mut Command, log: &Path) -> Result<()> {
        self.run_with(command, log, |_, _| {})
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
    }
}

fn elapsed(since: Instant) -> String {
    format!("{:>7.1} s", since.elapsed().as_secs_f64())
}

fn quoted(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The relevant lines of the output of a failed command.
fn excerpt(lines: &[String]) -> String {
    const MAX: usize = 16;
    let first = lines.iter().position(|l| RELEVANT.is_match(l));
    let from = first
        .unwrap_or(usize::MAX)
        .min(lines.len().saturating_sub(MAX));
    let chosen = &lines[from..lines.len().min(from + 2 * MAX)];
    chosen
        .iter()
        .map(|l| format!("    {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}
