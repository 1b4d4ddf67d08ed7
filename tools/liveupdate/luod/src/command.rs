// SPDX-License-Identifier: GPL-2.0

//! Commands that answer a question.

use std::{
    io::{self, Read},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Runs a command whose output fits into a pipe, up to a time.
pub(crate) fn output_in_time(command: &mut Command, time: Duration) -> io::Result<String> {
    let command = command.stdin(Stdio::null());
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let end = Instant::now() + time;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer in {} s", time.as_secs_f32()),
            ));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let (mut output, mut error) = (String::new(), String::new());
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut output)?;
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut error)?;
    }
    if status.success() {
        Ok(output)
    } else {
        Err(io::Error::other(error.trim().to_owned()))
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
}
