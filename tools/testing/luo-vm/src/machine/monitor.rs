// SPDX-License-Identifier: GPL-2.0

//! QEMU's monitor: questions to QEMU while it runs a machine.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

/// The time limit for an answer of QEMU.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection to QEMU.
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket at `path`. QEMU serves one connection at a time.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
        };
        monitor.message().context("no greeting")?;
        monitor.execute(&json!({"execute": "qmp_capabilities"}))?;
        Ok(monitor)
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Runs a command; events that come before its answer are skipped.
    pub fn execute(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.stream.get_mut(), "{command}")?;
        loop {
            let answer = self.message()?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// Runs a command of the monitor for humans.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let command = json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": line},
        });
        let text = self.execute(&command)?;
        Ok(text.as_str().unwrap_or_default().replace("\r\n", "\n"))
    }
}
