// SPDX-License-Identifier: GPL-2.0

//! A guest: its memory, and its QEMU.

mod clock;
mod update;

use crate::{
    allocation::{check_available, Filling},
    hugepages::HugePages,
    memory,
    moved::Moved,
    options,
    process::Process,
    qmp::{self, Qmp},
    run_dir::{Record, RunDir, State},
    spec::Spec,
};
use liveupdate::luod::Result;
use rustix::fs::{memfd_create, MemfdFlags};
use rustix::io::{fcntl_setfd, FdFlags};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The time limit for the start of QEMU.
const START: Duration = Duration::from_secs(60);

/// A guest and its QEMU.
#[derive(Debug)]
pub struct Guest {
    spec: Spec,
    /// The files of [`Spec::memory`].
    memory: Vec<File>,
    /// The file to which QEMU saves the state in the next update.
    state: File,
    description: File,
    directory: RunDir,
    /// Another program than in the spec.
    program: Option<PathBuf>,
    /// Paths that are others than in the session.
    moved: Vec<Moved>,
    running: Option<Running>,
    paused: bool,
    frozen: bool,
    orphan: bool,
    /// Whether a luo-qemu was killed while it restored the guest.
    restoring: bool,
    updates: u64,
    gap_us: Option<u64>,
    /// The lag of its real-time clock: the sum of all pauses since the clock was set.
    lag_us: Option<i64>,
    /// See [`Record::stopped`].
    stopped: Option<String>,
    setting: Option<clock::Setting>,
}

/// A running QEMU.
#[derive(Debug)]
struct Running {
    process: Process,
    qmp: Qmp,
    /// Its descriptors of [`Guest::memory`] and [`Guest::state`].
    memory: Vec<RawFd>,
    state: RawFd,
}

fn memfd(name: &str) -> io::Result<File> {
    memfd_of(name, MemfdFlags::empty())
}

fn memfd_of(name: &str, flags: MemfdFlags) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | flags)?.into())
}

/// Makes files inheritable while it exists. There is only one thread, and therefore only one child.
struct Inherited<'a>(Vec<&'a File>);

impl<'a> Inherited<'a> {
    fn new(files: impl IntoIterator<Item = &'a File>) -> io::Result<Self> {
        let all = Self(files.into_iter().collect());
        for file in &all.0 {
            fcntl_setfd(file, FdFlags::empty())?;
        }
        Ok(all)
    }
}

impl Drop for Inherited<'_> {
    fn drop(&mut self) {
        for file in &self.0 {
            // It cannot fail for a descriptor that is open.
            let _ = fcntl_setfd(file, FdFlags::CLOEXEC);
        }
    }
}

impl Guest {
    /// A guest that is not running yet, with zeroed memory.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn new(spec: Spec, directory: RunDir, program: Option<PathBuf>) -> io::Result<Self> {
        let mut files = Vec::new();
        for backend in &spec.memory {
            let flags = backend.pages.map_or(MemfdFlags::empty(), HugePages::flags);
            let file = memfd_of(&format!("{}-{}", spec.name, backend.id), flags)?;
            file.set_len(backend.size)?;
            files.push(file);
        }
        Ok(Self {
            spec,
            memory: files,
            state: memfd("state")?,
            description: memfd("description")?,
            directory,
            program,
            moved: Vec::new(),
            running: None,
            paused: false,
            frozen: false,
            orphan: false,
            restoring: false,
            updates: 0,
            gap_us: None,
            lag_us: None,
            stopped: None,
            setting: None,
        })
    }

    /// Replaces paths of the guest when it is restored. The next kernel gets the new ones.
    pub fn replace(&mut self, moved: Vec<Moved>) {
        self.moved = moved;
    }

    /// The name of the guest.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The memory of a backend, in the order of the arguments, for tests.
    pub fn memory_file(&self, index: usize) -> Option<File> {
        self.memory.get(index)?.try_clone().ok()
    }

    /// Returns whether it was started.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns whether the next kernel is being started.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Starts QEMU, and the guest, unless its state is to be loaded from `incoming`.
    ///
    /// The guest is recorded before it is started, so that the next luo-qemu finds it if this one
    /// is killed.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn launch(&mut self, incoming: Option<&File>) -> Result {
        if self.running.is_some() {
            return Err("its QEMU is running already".into());
        }
        if incoming.is_none() {
            check_available(&self.spec.memory, Path::new("/sys"))?;
        }
        let state = match incoming {
            None => State::Starting,
            Some(_) => State::Restoring,
        };
        self.directory.describe(&self.spec)?;
        self.record(state)?;
        let started = self.spawn(incoming).and_then(|()| {
            self.record(state)?;
            // With -S in its arguments, the operator starts the guest.
            let stopped = options::options(&self.spec.arguments).any(|option| option.name == "S");
            if incoming.is_none() && !stopped {
                self.qmp()?.resume()?;
            }
            Ok(())
        });
        if let Err(error) = started {
            self.kill();
            self.directory.clear();
            return Err(error);
        }
        if incoming.is_none() {
            self.report(State::Running);
        }
        Ok(())
    }

    /// Starts QEMU with a stopped guest.
    fn spawn(&mut self, incoming: Option<&File>) -> Result {
        let fds: Vec<RawFd> = self.memory.iter().map(File::as_raw_fd).collect();
        let backends: Vec<_> =
            (self.spec.memory.iter().cloned().zip(fds.iter().copied())).collect();
        let socket = self.directory.qmp();
        let _ = std::fs::remove_file(&socket);
        let program = self.program.as_ref().unwrap_or(&self.spec.program);
        let mut command = Command::new(program);
        command
            .args(memory::arguments(
                &self.spec.arguments,
                &backends,
                incoming.is_some(),
            ))
            .arg("-S")
            .arg("-qmp")
            .arg(self.directory.qmp_argument())
            .env_clear()
            .envs(&self.spec.environment)
            .current_dir(&self.spec.directory);
        if incoming.is_some() {
            command.args(["-incoming", "defer"]);
        }
        let files = self.memory.iter().chain([&self.state]).chain(incoming);
        let inherited = Inherited::new(files)?;
        let mut child = command
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
        drop(inherited);
        let mut filling = Filling::new(&self.spec.name, &self.spec.memory, &self.memory);
        let limit = START + filling.limit();
        let alive = || match child.try_wait()? {
            None => {
                filling.show();
                Ok(())
            }
            Some(status) => Err(io::Error::other(filling.reason().unwrap_or_else(|| {
                format!("it has ended immediately ({status}), see its message")
            }))),
        };
        let qmp = Qmp::connect(&socket, limit, alive).and_then(|mut qmp| {
            qmp.keep_memory()?;
            Ok(qmp)
        });
        match qmp {
            Ok(qmp) => {
                self.running = Some(Running {
                    process: Process::Child(child),
                    qmp,
                    memory: fds,
                    state: self.state.as_raw_fd(),
                });
                Ok(())
            }
            Err(error) => {
                Process::Child(child).end();
                Err(error.into())
            }
        }
    }

    /// Takes over a QEMU that runs still after the luo-qemu that started it was killed. It is the
    /// guest that the killed luo-qemu has started, even if this object was created from other
    /// arguments. True if there is one; if it is paused for an update, see [`Self::is_orphan`]. A
    /// QEMU that has not run a new guest yet is ended.
    ///
    /// # Errors
    ///
    /// If there is a QEMU that cannot be taken over.
    pub fn adopt(&mut self) -> Result<bool> {
        let Some((record, spec)) = self.directory.left()? else {
            return Ok(false);
        };
        let argument = self.directory.qmp_argument();
        if record.qemu == 0 {
            // It was started, but not recorded yet: it has run no guest.
            for process in Process::all(&argument)? {
                process.end();
            }
        }
        let Some(mut process) = Process::adopt(record.qemu, &argument)? else {
            self.directory.clear();
            return Ok(false);
        };
        let (files, state, mut qmp) = match self.reach(&mut process, &record, &spec) {
            // QEMU has ended since it was found.
            Err(_) if process.ended()?.is_some() => {
                self.directory.clear();
                return Ok(false);
            }
            reached => reached?,
        };
        if record.state == State::Starting && qmp.status()? == "prelaunch" {
            process.end();
            self.directory.clear();
            return Ok(false);
        }
        println!("{}: taken over from a luo-qemu that was killed", spec.name);
        self.orphan = record.state == State::Paused;
        self.restoring = record.state == State::Restoring;
        self.spec = spec;
        self.spec.held = record.held;
        self.memory = files;
        self.state = state;
        self.updates = record.updates;
        self.gap_us = record.gap_us;
        self.lag_us = record.lag_us;
        self.spec.paused_us = record.paused_us;
        self.running = Some(Running {
            process,
            qmp,
            memory: record.memory,
            state: record.state_fd,
        });
        self.report(match record.state {
            State::Starting => State::Running,
            other => other,
        });
        // The killed luo-qemu may have been waiting for the agent.
        if record.state == State::Running && self.lag_us.is_some_and(|lag| lag != 0) {
            self.set_clock();
        }
        Ok(true)
    }

    /// Opens the memory of a guest and the file for its state in its QEMU, and connects to this
    /// QEMU.
    fn reach(
        &self,
        process: &mut Process,
        record: &Record,
        spec: &Spec,
    ) -> Result<(Vec<File>, File, Qmp)> {
        let mut files = Vec::new();
        for (fd, backend) in record.memory.iter().zip(&spec.memory) {
            files.push(backend.checked(process.file(*fd)?)?);
        }
        if files.len() != spec.memory.len() {
            return Err("not all of the memory of the guest is known".into());
        }
        let state = process.file(record.state_fd)?;
        let qmp = Qmp::connect(&self.directory.qmp(), START, || match process.ended()? {
            None => Ok(()),
            Some(_) => Err(io::Error::other("QEMU has ended")),
        })?;
        Ok((files, state, qmp))
    }

    /// Whether the guest is still paused for an update: luo-qemu was killed then, or QEMU could not
    /// resume the guest after an abort. It must not run before the update is known to be aborted:
    /// see [`Self::resume`].
    pub fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// Resumes a guest for which [`Self::is_orphan`] returns true.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn resume(&mut self) -> Result {
        self.go_on("no update is in progress")?;
        self.orphan = false;
        Ok(())
    }

    /// Records that there is no session to restore any more. If the guest was taken over from a
    /// luo-qemu that was restoring it, that one has finished the session.
    pub fn joined(&mut self) {
        if std::mem::take(&mut self.restoring) {
            self.report(State::Running);
        }
    }

    fn qmp(&mut self) -> qmp::Result<&mut Qmp> {
        match &mut self.running {
            Some(running) => Ok(&mut running.qmp),
            None => Err(io::Error::other("QEMU has ended").into()),
        }
    }

    /// The state of the guest, as reported by QEMU.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn status(&mut self) -> qmp::Result<String> {
        self.qmp()?.status()
    }

    /// Checks whether a guest that is in no update runs, and records it in the status of the guest
    /// if it does not. Its operator or an error of its disk may have stopped it.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn watch(&mut self) -> qmp::Result {
        if self.paused || self.orphan || self.running.is_none() {
            return Ok(());
        }
        let stopped = match self.status()?.as_str() {
            "running" => None,
            // Its state was saved in an update that was aborted, and its operator has not resumed it.
            "postmigrate" => Some("paused".to_owned()),
            other => Some(other.to_owned()),
        };
        if stopped != self.stopped {
            match &stopped {
                None => println!("{}: runs again", self.spec.name),
                Some(status) => eprintln!("{}: does not run: QEMU says {status}", self.spec.name),
            }
            self.stopped = stopped;
            self.report(State::Running);
        }
        Ok(())
    }

    /// Returns whether QEMU has ended: true if it was successful.
    ///
    /// # Errors
    ///
    /// If this cannot be determined.
    pub fn ended(&mut self) -> io::Result<Option<bool>> {
        let Some(running) = &mut self.running else {
            return Ok(None);
        };
        let Some(success) = running.process.ended()? else {
            return Ok(None);
        };
        self.running = None;
        self.directory.clear();
        Ok(Some(success))
    }

    /// Asks the guest to power down, as its power button does.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn power_down(&mut self) -> qmp::Result {
        let ask = self.qmp()?.call("system_powerdown", serde_json::json!({}));
        ask.map(drop)
    }

    /// Ends QEMU, independent of the guest.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.process.end();
            self.directory.clear();
        }
    }

    /// Writes the status, for other invocations and for a luo-qemu that takes the guest over.
    fn record(&self, state: State) -> io::Result<()> {
        let running = self.running.as_ref();
        self.directory.write(&Record {
            name: self.spec.name.clone(),
            pid: std::process::id(),
            qemu: running.map_or(0, |running| running.process.id()),
            state,
            held: self.spec.held,
            updates: self.updates,
            gap_us: self.gap_us,
            lag_us: self.lag_us,
            paused_us: self.spec.paused_us,
            stopped: self.stopped.clone(),
            memory: running.map_or_else(Vec::new, |running| running.memory.clone()),
            state_fd: running.map_or(-1, |running| running.state),
            arguments: self.spec.arguments.clone(),
        })
    }

    /// The same, if the guest must continue whether or not that succeeds.
    fn report(&self, state: State) {
        if let Err(error) = self.record(state) {
            eprintln!("{}: {error}", self.spec.name);
        }
    }
}
