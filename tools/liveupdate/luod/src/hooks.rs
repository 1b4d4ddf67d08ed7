// SPDX-License-Identifier: GPL-2.0

//! Hooks: programs of the administrator that run before and after an update.
//!
//! They are the executable files in `pre.d`, `post.d` and `abort.d` of a directory, and run one
//! after another in the order of their names. Each gets a line of JSON ([`Input`]) on its standard
//! input, and has a deadline.

use crate::text::printable;
use luod_protocol::{Report, SessionInfo, SessionName};
use rustix::{
    fs::{memfd_create, MemfdFlags},
    process::{kill_process_group, Pid, Signal},
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread::sleep,
    time::{Duration, Instant},
};

/// The default directory of the directories of hooks.
pub const DIR: &str = "/etc/luod";

/// The version of [`Input`]. Fields are only added.
const VERSION: u32 = 1;

/// The time between two checks whether a hook has ended.
const TICK: Duration = Duration::from_millis(5);

/// The maximum length of the last line of a hook in an error, in characters.
const LINE_MAX: usize = 200;

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Before clients are asked. If a hook fails, the update is aborted.
    Pre,
    /// In the next kernel, after all sessions are finished.
    Post,
    /// After an update was aborted, and after a dry run.
    Abort,
}

impl Stage {
    /// The name of the stage, and of its directory without `.d`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post => "post",
            Self::Abort => "abort",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The input of a hook, as JSON on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The version of this format.
    pub version: u32,
    /// The stage, which is also in the environment, as `LUOD_STAGE`.
    pub stage: Stage,
    /// The number of the update.
    pub update: u64,
    /// Whether this is a dry run.
    pub dry_run: bool,
    /// Whether the update is forced.
    pub force: bool,
    /// Whether systemd starts the next kernel, so that the update cannot be aborted.
    pub handover: bool,
    /// The release of the running kernel.
    pub kernel: String,
    /// The time for each hook, in milliseconds.
    pub timeout_ms: u64,
    /// The sessions before the update; empty in the other stages.
    pub sessions: Vec<SessionInfo>,
    /// Sessions that the configuration requires and that no client has finished after the update,
    /// so that their contents are lost. Empty in other stages.
    #[serde(default)]
    pub missing: Vec<SessionName>,
    /// The result of the update; missing before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

impl Input {
    /// Creates the input for hooks before an update.
    pub fn new(stage: Stage, update: u64, kernel: String, timeout: Duration) -> Self {
        Self {
            version: VERSION,
            stage,
            update,
            dry_run: false,
            force: false,
            handover: false,
            kernel,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            sessions: Vec::new(),
            missing: Vec::new(),
            report: None,
        }
    }
}

/// Returns whether a file name is not that of a backup or of a package manager.
fn is_hook_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let left_over = [".dpkg-", ".rpm", ".ucf-", ".bak", ".orig"];
    !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(allowed)
        && !left_over.iter().any(|part| name.contains(part))
}

/// The hooks of a stage, in order. A missing directory is empty.
///
/// # Errors
///
/// A sentence, if the directory cannot be read.
pub fn find(dir: &Path, stage: Stage) -> Result<Vec<PathBuf>, String> {
    let dir = dir.join(format!("{stage}.d"));
    let cannot = |error: io::Error| format!("cannot read {}: {error}", dir.display());
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot(error)),
    };
    let mut hooks = Vec::new();
    for entry in entries {
        let entry = entry.map_err(cannot)?;
        let path = entry.path();
        if !entry.file_name().to_str().is_some_and(is_hook_name) {
            continue;
        }
        // Symbolic links are followed.
        let runs = fs::metadata(&path);
        if runs.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0) {
            hooks.push(path);
        }
    }
    hooks.sort();
    Ok(hooks)
}

/// A file in memory: neither reading nor writing it ever blocks a hook.
fn memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("hook", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// The last line that a hook has written.
fn last_line(output: &mut File) -> String {
    let mut text = Vec::new();
    let end = output.seek(SeekFrom::End(0)).unwrap_or(0);
    let start = output.seek(SeekFrom::Start(end.saturating_sub(4096)));
    // Without output, the exit status must do.
    let _ = start.and_then(|_| output.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    printable(line.unwrap_or_default(), LINE_MAX)
}

/// Waits for the end of a hook. [`None`] if it was killed at its deadline, with all processes of
/// its group.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let Some(group) = group {
                // The group exists as long as the child is not waited for.
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
            return Ok(None);
        }
        sleep(TICK);
    }
}

/// Runs a hook.
fn run_one(hook: &Path, input: &Input) -> Result<(), String> {
    let cannot = |error: io::Error| format!("the hook {} cannot run: {error}", hook.display());
    let mut text = serde_json::to_vec(input).map_err(|error| cannot(error.into()))?;
    text.push(b'\n');
    let mut output = memory(b"").map_err(cannot)?;
    let errors = output.try_clone().map_err(cannot)?;
    let mut command = Command::new(hook);
    command
        .env("LUOD_STAGE", input.stage.as_str())
        .stdin(memory(&text).map_err(cannot)?)
        .stdout(output.try_clone().map_err(cannot)?)
        .stderr(errors)
        .process_group(0);
    let mut child = command.spawn().map_err(cannot)?;
    let timeout = Duration::from_millis(input.timeout_ms);
    let how = match wait(&mut child, timeout).map_err(cannot)? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => format!("failed ({status})"),
        None => format!(
            "did not end within {} s and was killed",
            timeout.as_secs_f32()
        ),
    };
    let said = last_line(&mut output);
    let colon = if said.is_empty() { "" } else { ": " };
    Err(format!("the hook {} {how}{colon}{said}", hook.display()))
}

/// Runs all hooks of a stage. Before an update, the first failure ends the stage; otherwise, all
/// hooks run.
///
/// # Errors
///
/// A sentence for each hook that has failed or was late.
pub fn run(dir: &Path, input: &Input) -> Result<(), String> {
    let mut failures = Vec::new();
    for hook in find(dir, input.stage)? {
        let Err(why) = run_one(&hook, input) else {
            continue;
        };
        failures.push(why);
        if input.stage == Stage::Pre {
            break;
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Hooks(PathBuf);

    impl Hooks {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);

            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("luod-hooks-{}-{number}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn put(&self, name: &str, script: &str, mode: u32) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // A file that is open for writing cannot be executed, and a test in another thread can
            // fork while it is open.
            let status = Command::new("sh")
                .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\""])
                .args(["sh", script])
                .arg(&path)
                .status();
            assert!(status.unwrap().success());
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn run(&self, stage: Stage, timeout: Duration) -> Result<(), String> {
            run(&self.0, &Input::new(stage, 7, "7.3.4".into(), timeout))
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap_or_default()
        }
    }

    impl Drop for Hooks {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// No test may depend on it.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn in_order_with_their_input() {
        let hooks = Hooks::new();
        assert_eq!(hooks.run(Stage::Pre, LONG), Ok(()));
        let log = hooks.0.join("log");
        for name in ["20-b", "10-a", "30-c"] {
            let script = format!("echo {name} $LUOD_STAGE >> {0}; cat >> {0}", log.display());
            hooks.put(&format!("pre.d/{name}"), &script, 0o755);
        }
        for (name, mode) in [
            ("40-off", 0o644),
            ("50-old.dpkg-old", 0o755),
            (".60-hidden", 0o755),
            ("70-backup~", 0o755),
        ] {
            hooks.put(&format!("pre.d/{name}"), "exit 1", mode);
        }
        assert_eq!(hooks.run(Stage::Pre, LONG), Ok(()));
        let log = hooks.read("log");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 6, "{log}");
        assert_eq!(
            [lines[0], lines[2], lines[4]],
            ["10-a pre", "20-b pre", "30-c pre"]
        );
        let input: Input = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(
            (input.version, input.stage, input.update),
            (1, Stage::Pre, 7)
        );
    }

    #[test]
    fn failures() {
        let hooks = Hooks::new();
        let log = hooks.0.join("log");
        let more = format!("echo x >> {}", log.display());
        for stage in ["pre", "post"] {
            let script = "echo first; echo 'the disk is\tfull' >&2; echo; exit 3";
            hooks.put(&format!("{stage}.d/10"), script, 0o755);
            hooks.put(&format!("{stage}.d/20"), &more, 0o755);
        }
        let why = hooks.run(Stage::Pre, LONG).unwrap_err();
        assert!(
            why.contains("pre.d/10 failed (exit status: 3): the disk is full"),
            "{why}"
        );
        assert_eq!(hooks.read("log"), "");
        // After an update, a failure does not keep the other hooks from running.
        let why = hooks.run(Stage::Post, LONG).unwrap_err();
        assert!(why.contains("post.d/10 failed"), "{why}");
        assert_eq!(hooks.read("log"), "x\n");
        hooks.put("abort.d/10", "", 0o755);
        fs::remove_file(hooks.0.join("abort.d/10")).unwrap();
        std::os::unix::fs::symlink("/bin/false", hooks.0.join("abort.d/10")).unwrap();
        assert!(hooks.run(Stage::Abort, LONG).is_err());
    }

    /// A hook is killed with its children, also if it does not read its input.
    #[test]
    fn deadlines() {
        let hooks = Hooks::new();
        let pid = hooks.0.join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        hooks.put("pre.d/10", &script, 0o755);
        let why = loop {
            // On a busy machine, the script may not have started before its deadline.
            let why = hooks
                .run(Stage::Pre, Duration::from_millis(300))
                .unwrap_err();
            if hooks.read("pid").ends_with('\n') {
                break why;
            }
        };
        assert!(
            why.contains("pre.d/10 did not end within 0.3 s and was killed"),
            "{why}"
        );
        let pid: i32 = hooks.read("pid").trim().parse().unwrap();
        let gone = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        let start = Instant::now();
        while !gone() {
            assert!(start.elapsed() < LONG, "the child still runs");
            sleep(TICK);
        }
    }
}
