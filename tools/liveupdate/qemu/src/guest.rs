// SPDX-License-Identifier: GPL-2.0

//! A guest: its memory, its QEMU, and what happens to both in a live update.

use crate::{
    memory,
    qmp::{self, Qmp},
    run_dir::{Record, RunDir},
    spec::{self, Spec},
};
use liveupdate::luod::{Participant, Result, SessionName};
use liveupdate::{IncomingSession, OutgoingSession};
use rustix::fs::{memfd_create, MemfdFlags};
use rustix::io::{fcntl_setfd, FdFlags};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

/// How long QEMU may take to start.
const START: Duration = Duration::from_secs(60);
/// How long it may take to save or load the state of devices and processors.
const MOVE: Duration = Duration::from_secs(60);

/// A guest and its QEMU.
#[derive(Debug)]
pub struct Guest {
    spec: Spec,
    /// The files of [`Spec::memory`].
    memory: Vec<File>,
    /// Where QEMU saves the state in the next update.
    state: File,
    description: File,
    directory: RunDir,
    /// Another program than in the spec.
    program: Option<PathBuf>,
    running: Option<Running>,
    paused: bool,
    frozen: bool,
    updates: u64,
    gap_us: Option<u64>,
}

/// A QEMU that was started.
#[derive(Debug)]
struct Running {
    child: Child,
    qmp: Qmp,
}

fn memfd(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

/// Lets children inherit files as long as it lives. There is only one thread, hence only one child.
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

fn uri(file: &File) -> String {
    format!("file:/proc/self/fd/{}", file.as_raw_fd())
}

impl Guest {
    /// A guest that is not running yet, with memory that is all zero.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn new(spec: Spec, directory: RunDir, program: Option<PathBuf>) -> io::Result<Self> {
        let mut files = Vec::new();
        for backend in &spec.memory {
            let file = memfd(&format!("{}-{}", spec.name, backend.id))?;
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
            updates: 0,
            gap_us: None,
        })
    }

    /// What the guest is called.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The memory of a backend, in the order of the arguments, to be looked at from outside.
    pub fn memory_file(&self, index: usize) -> Option<File> {
        self.memory.get(index)?.try_clone().ok()
    }

    /// Whether it was started.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether the next kernel is on its way.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Starts QEMU, with the state in `incoming`.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn launch(&mut self, incoming: Option<&File>) -> Result {
        let fds: Vec<RawFd> = self.memory.iter().map(File::as_raw_fd).collect();
        let backends: Vec<_> = self.spec.memory.iter().cloned().zip(fds).collect();
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
                "it has ended at once ({status}), its message says why"
            ))),
        };
        let qmp = Qmp::connect(&socket, START, alive).and_then(|mut qmp| {
            qmp.keep_memory()?;
            Ok(qmp)
        });
        match qmp {
            Ok(qmp) => self.running = Some(Running { child, qmp }),
            Err(error) => {
                end(child);
                return Err(error.into());
            }
        }
        self.record("running");
        Ok(())
    }

    fn qmp(&mut self) -> qmp::Result<&mut Qmp> {
        match &mut self.running {
            Some(running) => Ok(&mut running.qmp),
            None => Err(io::Error::other("QEMU has ended").into()),
        }
    }

    /// What the guest is doing, as QEMU calls it.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn status(&mut self) -> qmp::Result<String> {
        self.qmp()?.status()
    }

    /// Whether QEMU has ended, and how: true if it was successful.
    ///
    /// # Errors
    ///
    /// If that cannot be found out.
    pub fn ended(&mut self) -> io::Result<Option<bool>> {
        let Some(running) = &mut self.running else {
            return Ok(None);
        };
        let Some(status) = running.child.try_wait()? else {
            return Ok(None);
        };
        self.running = None;
        self.directory.clear();
        Ok(Some(status.success()))
    }

    /// Asks the guest to power down, as by its power button.
    ///
    /// # Errors
    ///
    /// If QEMU does not answer.
    pub fn power_down(&mut self) -> qmp::Result {
        let ask = self.qmp()?.call("system_powerdown", serde_json::json!({}));
        ask.map(drop)
    }

    /// Ends QEMU, whatever the guest does.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            end(running.child);
            self.directory.clear();
        }
    }

    /// Writes down what other invocations may want to know.
    fn record(&self, state: &str) {
        let record = Record {
            name: self.spec.name.clone(),
            pid: std::process::id(),
            qemu: self
                .running
                .as_ref()
                .map_or(0, |running| running.child.id()),
            state: state.to_owned(),
            updates: self.updates,
            gap_us: self.gap_us,
            memory: self.memory.iter().map(File::as_raw_fd).collect(),
            arguments: self.spec.arguments.clone(),
        };
        if let Err(error) = self.directory.write(&record) {
            eprintln!(
                "{}: its status cannot be written down: {error}",
                self.spec.name
            );
        }
    }

    fn save(&mut self) -> Result {
        let uri = uri(&self.state);
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

fn end(mut child: Child) {
    // Both fail only if it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

impl Participant for Guest {
    fn prepare(&mut self, _id: &SessionName, _deadline: Duration) -> Result {
        match self.qmp()?.status()?.as_str() {
            "running" | "paused" => Ok(()),
            other => Err(format!("the guest is {other}").into()),
        }
    }

    /// The memory goes first, while the guest runs: the kernel collects what changes until the
    /// jump. Then the guest is paused, and the rest follows.
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
            Ok(()) => println!("{}: goes on: {reason}", self.spec.name),
            Err(error) => eprintln!("{}: does not go on: {error}", self.spec.name),
        }
        self.record("running");
    }

    fn frozen(&mut self, _id: &SessionName) {
        self.frozen = true;
    }

    /// The session is finished after this, and the guest cannot be restored once more: it returns
    /// only when the guest runs.
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
        let uri = uri(&incoming);
        let loaded = self.qmp()?.load(&uri, MOVE);
        if let Err(error) = loaded.and_then(|()| self.qmp()?.go_on()) {
            self.kill();
            return Err(error.into());
        }
        self.updates += 1;
        self.gap_us = spec::now_us().checked_sub(paused_us);
        println!(
            "{}: goes on; retrieved within {} us, QEMU started within {} us, all within {} us; gap {} us",
            self.spec.name,
            retrieved.as_micros(),
            (launched - retrieved).as_micros(),
            started.elapsed().as_micros(),
            self.gap_us.unwrap_or(0),
        );
        self.record("running");
        Ok(())
    }
}
