// SPDX-License-Identifier: GPL-2.0

//! A guest: its memory, its QEMU, and their handling in a live update.

use crate::{
    hugepages::{check_available, HugePages},
    memory, next_kernel,
    process::Process,
    qmp::{self, Qmp},
    run_dir::{Record, RunDir},
    spec::{self, Spec},
};
use liveupdate::luod::{Participant, Result, SessionName};
use liveupdate::{IncomingSession, OutgoingSession};
use luo_check::System;
use rustix::fs::{memfd_create, MemfdFlags};
use rustix::io::{fcntl_setfd, FdFlags};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The state of a guest that runs, as it is recorded.
const RUNNING: &str = "running";

/// The time limit for the start of QEMU.
const START: Duration = Duration::from_secs(60);
/// The time limit for saving or loading the state of devices and processors.
const MOVE: Duration = Duration::from_secs(60);

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
    running: Option<Running>,
    paused: bool,
    frozen: bool,
    orphan: bool,
    updates: u64,
    gap_us: Option<u64>,
}

/// A running QEMU.
#[derive(Debug)]
struct Running {
    process: Process,
    qmp: Qmp,
    /// What descriptors it has for [`Guest::memory`] and [`Guest::state`].
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

fn uri(fd: RawFd) -> String {
    format!("file:/proc/self/fd/{fd}")
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
            running: None,
            paused: false,
            frozen: false,
            orphan: false,
            updates: 0,
            gap_us: None,
        })
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

    /// Starts QEMU, with the state in `incoming`.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn launch(&mut self, incoming: Option<&File>) -> Result {
        if incoming.is_none() {
            check_available(&self.spec.memory, Path::new("/sys"))?;
        }
        let fds: Vec<RawFd> = self.memory.iter().map(File::as_raw_fd).collect();
        let backends: Vec<_> =
            (self.spec.memory.iter().cloned().zip(fds.iter().copied())).collect();
        let socket = self.directory.qmp();
        let _ = std::fs::remove_file(&socket);
        let program = self.program.as_ref().unwrap_or(&self.spec.program);
        let mut command = Command::new(program);
        command
            .args(memory::arguments(&self.spec.arguments, &backends))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
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
        let alive = || match child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!(
                "it has ended immediately ({status}), see its message"
            ))),
        };
        let qmp = Qmp::connect(&socket, START, alive).and_then(|mut qmp| {
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
            }
            Err(error) => {
                Process::Child(child).end();
                return Err(error.into());
            }
        }
        if let Err(error) = self.directory.describe(&self.spec) {
            eprintln!(
                "{}: its description cannot be written: {error}",
                self.spec.name
            );
        }
        self.record(RUNNING);
        Ok(())
    }

    /// Takes over a QEMU that runs still after the luo-qemu that started it was killed. It is what
    /// that one has started, whatever this guest was made from. True if there is one; if it is
    /// paused for an update, see [`Self::is_orphan`].
    ///
    /// # Errors
    ///
    /// If there is a QEMU that cannot be taken over.
    pub fn adopt(&mut self) -> Result<bool> {
        let Some((record, spec)) = self.directory.left()? else {
            return Ok(false);
        };
        let socket = self.directory.qmp();
        let Some(mut process) = Process::adopt(record.qemu, &socket)? else {
            self.directory.clear();
            return Ok(false);
        };
        let mut files = Vec::new();
        for (fd, backend) in record.memory.iter().zip(&spec.memory) {
            let file = process.file(*fd)?;
            if file.metadata()?.len() != backend.size {
                return Err(format!("the memory {} has another size", backend.id).into());
            }
            files.push(file);
        }
        if files.len() != spec.memory.len() {
            return Err("not all of the memory of the guest is known".into());
        }
        let state = process.file(record.state_fd)?;
        let qmp = Qmp::connect(&socket, START, || match process.ended()? {
            None => Ok(()),
            Some(_) => Err(io::Error::other("QEMU has ended")),
        })?;
        println!("{}: taken over from a luo-qemu that was killed", spec.name);
        self.orphan = record.state != RUNNING;
        self.spec = spec;
        self.memory = files;
        self.state = state;
        self.updates = record.updates;
        self.gap_us = record.gap_us;
        self.running = Some(Running {
            process,
            qmp,
            memory: record.memory,
            state: record.state_fd,
        });
        self.record(&record.state);
        Ok(true)
    }

    /// Whether the guest was paused for an update by a luo-qemu that was killed then. It must not
    /// run before the update is known to be aborted: see [`Self::resume`].
    pub fn is_orphan(&self) -> bool {
        self.orphan
    }

    /// Lets a guest go on of which [`Self::is_orphan`] is true.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn resume(&mut self) -> Result {
        self.qmp()?.go_on()?;
        self.orphan = false;
        println!("{}: continues: no update is in progress", self.spec.name);
        self.record(RUNNING);
        Ok(())
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

    /// Writes the status for other invocations.
    fn record(&self, state: &str) {
        let running = self.running.as_ref();
        let record = Record {
            name: self.spec.name.clone(),
            pid: std::process::id(),
            qemu: running.map_or(0, |running| running.process.id()),
            state: state.to_owned(),
            updates: self.updates,
            gap_us: self.gap_us,
            memory: running.map_or_else(Vec::new, |running| running.memory.clone()),
            state_fd: running.map_or(-1, |running| running.state),
            arguments: self.spec.arguments.clone(),
        };
        if let Err(error) = self.directory.write(&record) {
            eprintln!("{}: its status cannot be written: {error}", self.spec.name);
        }
    }

    fn save(&mut self) -> Result {
        let state = self.running.as_ref().map(|running| running.state);
        let uri = uri(state.ok_or("QEMU has ended")?);
        self.state.set_len(0)?;
        let started = Instant::now();
        self.spec.paused_us = spec::now_us();
        self.paused = true;
        self.record("paused");
        self.qmp()?.save(&uri, MOVE)?;
        let took = started.elapsed();
        println!(
            "{}: paused, state of {} bytes saved within {} us",
            self.spec.name,
            self.state.metadata()?.len(),
            took.as_micros()
        );
        Ok(())
    }
}

impl Participant for Guest {
    fn prepare(&mut self, _id: &SessionName, _deadline: Duration) -> Result {
        match self.qmp()?.status()?.as_str() {
            "running" | "paused" => {}
            other => return Err(format!("the guest is {other}").into()),
        }
        if let Some(why) = next_kernel::obstacle(&System::default(), &self.spec.arguments) {
            return Err(why.into());
        }
        match self.qmp()?.obstacles()?.as_slice() {
            [] => Ok(()),
            reasons => Err(format!(
                "QEMU cannot save the state of the guest: {}",
                reasons.join("; ")
            )
            .into()),
        }
    }

    /// The memory is preserved first, while the guest runs: changes until the jump are handed over
    /// as well. Then the guest is paused, and the other state is preserved.
    fn preserve(&mut self, _id: &SessionName, session: &OutgoingSession) -> Result {
        let started = Instant::now();
        for (token, file) in (spec::MEMORY..).zip(&self.memory) {
            session.preserve(file, token)?;
        }
        let took = started.elapsed().as_micros();
        println!("{}: memory preserved within {took} us", self.spec.name);
        self.save()?;
        session.preserve(&self.state, spec::STATE)?;
        self.spec.write(&self.description)?;
        session.preserve(&self.description, spec::SPEC)?;
        Ok(())
    }

    fn cancelled(&mut self, _id: &SessionName, reason: &str) {
        self.frozen = false;
        if !std::mem::take(&mut self.paused) {
            return;
        }
        let went_on = self.qmp().and_then(Qmp::go_on);
        match went_on {
            Ok(()) => println!("{}: continues: {reason}", self.spec.name),
            Err(error) => eprintln!("{}: does not continue: {error}", self.spec.name),
        }
        self.record(RUNNING);
    }

    fn frozen(&mut self, _id: &SessionName) {
        self.frozen = true;
    }

    /// The session is finished after this, and the guest cannot be restored again: it returns only
    /// when the guest runs.
    fn restore(&mut self, _id: &SessionName, session: &IncomingSession) -> Result {
        let started = Instant::now();
        let mut spec = Spec::read(&session.retrieve(spec::SPEC)?.into())?;
        if spec.name != self.spec.name {
            return Err(format!("the session has the guest {}", spec.name).into());
        }
        let mut files = Vec::new();
        for (token, backend) in (spec::MEMORY..).zip(&spec.memory) {
            let file = File::from(session.retrieve(token)?);
            if file.metadata()?.len() != backend.size {
                return Err(format!("the memory {} has another size", backend.id).into());
            }
            files.push(file);
        }
        let incoming = File::from(session.retrieve(spec::STATE)?);
        let paused_us = std::mem::take(&mut spec.paused_us);
        self.spec = spec;
        self.memory = files;
        let retrieved = started.elapsed();

        self.launch(Some(&incoming))?;
        let launched = started.elapsed();
        let uri = uri(incoming.as_raw_fd());
        let loaded = self.qmp()?.load(&uri, MOVE);
        if let Err(error) = loaded.and_then(|()| self.qmp()?.go_on()) {
            self.kill();
            return Err(error.into());
        }
        self.updates += 1;
        self.gap_us = spec::now_us().checked_sub(paused_us);
        println!(
            "{}: continues; retrieved within {} us, QEMU started within {} us, all within {} us; gap {} us",
            self.spec.name,
            retrieved.as_micros(),
            (launched - retrieved).as_micros(),
            started.elapsed().as_micros(),
            self.gap_us.unwrap_or(0),
        );
        self.record(RUNNING);
        Ok(())
    }
}
