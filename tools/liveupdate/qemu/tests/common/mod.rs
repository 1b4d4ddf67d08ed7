// SPDX-License-Identifier: GPL-2.0

//! luo-qemu, and guests that seem to be running.

use luo_qemu::run_dir::{Record, RunDir, State};
use std::{
    path::Path,
    process::{Command, Output},
};

/// Runs a command, for the guests in the directory `run`.
pub fn luo_qemu(run: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_luo-qemu"))
        .args(arguments.split_whitespace())
        .env("LUO_QEMU_RUN", run)
        .output()
        .unwrap()
}

/// The output of a command that succeeds.
pub fn good(run: &Path, arguments: &str) -> String {
    let output = luo_qemu(run, arguments);
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A guest that seems to be running.
pub fn guest(run: &Path) -> RunDir {
    guest_of(run, std::process::id(), 7)
}

/// The same, with the ids of its luo-qemu and of its QEMU.
pub fn guest_of(run: &Path, pid: u32, qemu: u32) -> RunDir {
    let directory = RunDir::take_in(run, "g").unwrap();
    let arguments = ["-drive", "file=a.raw,cache=unsafe"];
    let record = Record {
        name: "g".into(),
        pid,
        qemu,
        state: State::Restoring,
        held: false,
        updates: 3,
        gap_us: Some(1_500_000),
        lag_us: Some(1_400_000),
        paused_us: 0,
        stopped: None,
        memory: vec![4],
        state_fd: 5,
        arguments: arguments.map(str::to_owned).to_vec(),
    };
    directory.write(&record).unwrap();
    directory
}
