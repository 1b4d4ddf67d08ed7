// SPDX-License-Identifier: GPL-2.0

//! Commands that answer a question.

use std::{
    io::{self, Read},
    process::{Command, Stdio},
    sync::mpsc::{channel, Receiver},
    thread,
    time::{Duration, Instant},
};

/// The maximum size of an output.
const OUTPUT_MAX: u64 = 16 << 20;

/// Reads a pipe of a child in a thread, so that the child does not wait for a reader.
fn read(pipe: Option<impl Read + Send + 'static>) -> Receiver<io::Result<String>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = pipe.map_or(Ok(0), |pipe| {
            pipe.take(OUTPUT_MAX).read_to_string(&mut text)
        });
        // The other thread may have stopped waiting.
        let _ = sender.send(read.map(|_| text));
    });
    receiver
}

/// Runs a command up to a time.
pub(crate) fn output_in_time(command: &mut Command, time: Duration) -> io::Result<String> {
    let command = command.stdin(Stdio::null());
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (output, error) = (read(child.stdout.take()), read(child.stderr.take()));
    let end = Instant::now() + time;
    let late = || {
        let message = format!("no answer in {} s", time.as_secs_f32());
        io::Error::new(io::ErrorKind::TimedOut, message)
    };
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Err(late());
        }
        thread::sleep(Duration::from_millis(2));
    };
    // A process that the command has started may keep the pipes open.
    let text = |from: Receiver<io::Result<String>>| {
        let left = end.saturating_duration_since(Instant::now());
        from.recv_timeout(left.max(Duration::from_millis(100)))
            .map_err(|_| late())?
    };
    if status.success() {
        text(output)
    } else {
        Err(io::Error::other(text(error)?.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_take_too_long() {
        let mut sleep = Command::new("sleep");
        let error = output_in_time(sleep.arg("1000"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut echo = Command::new("echo");
        assert_eq!(
            output_in_time(echo.arg("a"), Duration::from_secs(120)).unwrap(),
            "a\n"
        );
    }

    #[test]
    fn an_output_that_does_not_fit_into_a_pipe() {
        let mut head = Command::new("head");
        head.args(["-c", "300000", "/dev/zero"]);
        let output = output_in_time(&mut head, Duration::from_secs(120)).unwrap();
        assert_eq!(output.len(), 300_000);
        let mut shell = Command::new("sh");
        shell.args(["-c", "head -c 300000 /dev/zero >&2; exit 1"]);
        let error = output_in_time(&mut shell, Duration::from_secs(120)).unwrap_err();
        assert_eq!(error.to_string().len(), 300_000);
    }
}
