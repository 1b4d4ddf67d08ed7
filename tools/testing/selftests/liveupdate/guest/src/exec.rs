// SPDX-License-Identifier: GPL-2.0

//! Running other programs.

use crate::support::{
    args::Args,
    error::{At, Failure, Result},
    kexec,
};
use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitStatus},
};

/// The exit status of a process in the convention of shells.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    // CAST: Both fit into a byte; other values would not mean success.
    code.map_or(255, |code| code as u8)
}

fn run_to_end(command: &mut Command) -> Result<u8> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.env("PATH", "/bin:/sbin");
    let status = command.status().at(format_args!("run {program}"))?;
    Ok(code(status))
}

/// Runs a program as the child of init, once in every kernel.
pub fn program(args: &Args) -> Result<u8> {
    let stages = args.number("stages", 1)? as usize;
    let stage = args.stage()?;
    let [program, rest @ ..] = args.rest() else {
        return Err(Failure::new("there is no program to run"));
    };
    let mut command = Command::new(program);
    command.args(rest);
    if stages > 1 {
        command.args(["-s", &stage.to_string()]);
    }
    let code = run_to_end(&mut command)?;
    println!("# exit {code}");
    if code != 0 || stage >= stages {
        return Ok(code);
    }
    // Its background processes keep its sessions open.
    kexec::Plan::stage(args, stage + 1)?.load()?;
    Err(kexec::jump())
}

/// Runs a shell on the console.
pub fn shell() -> Result<u8> {
    println!("# `/init kexec` starts the next kernel, `exit` ends the machine");
    let mut command = Command::new("/bin/busybox");
    command.arg("sh").env("HOME", "/").current_dir("/");
    // SAFETY: Between fork and exec there are only system calls.
    unsafe {
        command.pre_exec(|| {
            // Job control needs a controlling terminal; the shell also works without it.
            let ports = ["/dev/ttyS0", "/dev/ttyAMA0"].into_iter();
            let mut ports =
                ports.flat_map(|port| std::fs::File::options().read(true).write(true).open(port));
            if let Some(tty) = ports.next() {
                let _ = rustix::process::setsid();
                let _ = rustix::process::ioctl_tiocsctty(&tty);
                rustix::stdio::dup2_stdin(&tty)?;
                rustix::stdio::dup2_stdout(&tty)?;
                rustix::stdio::dup2_stderr(&tty)?;
            }
            Ok(())
        });
    }
    run_to_end(&mut command)
}
