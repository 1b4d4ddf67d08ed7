// SPDX-License-Identifier: GPL-2.0

//! The directory of a running guest, below /run/luo-qemu: its QMP socket and its status.

use crate::spec::Spec;
use rustix::fs::{flock, FlockOperation};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The directory of all guests, unless LUO_QEMU_RUN is set.
const ROOT: &str = "/run/luo-qemu";

/// The file with the description of a guest.
const SPEC: &str = "spec.json";

/// The QMP socket of its QEMU.
const QMP: &str = "qmp.sock";

/// The state of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its QEMU is being started, and the guest has not run yet.
    Starting,
    /// It runs.
    Running,
    /// It is paused for an update.
    Paused,
    /// It is being resumed after an update. Whether it has run is in the file with its state: see
    /// [`crate::state::is_used`].
    Restoring,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restoring => "restoring",
        })
    }
}

/// The status of a guest, for other invocations.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The name of the guest.
    pub name: String,
    /// The process number of its luo-qemu.
    pub pid: u32,
    /// The process number of its QEMU, or 0 until QEMU has answered.
    pub qemu: u32,
    /// Its state.
    pub state: State,
    /// Whether its operator had paused it before the last update.
    #[serde(default)]
    pub held: bool,
    /// The number of updates that it has survived.
    pub updates: u64,
    /// How long the guest was paused in the last update, by the clock of the host.
    pub gap_us: Option<u64>,
    /// The lag of its real-time clock, as far as known: the sum of all pauses since the clock was
    /// set.
    #[serde(default)]
    pub lag_us: Option<i64>,
    /// When the guest was paused for the last update, in microseconds since 1970.
    #[serde(default)]
    pub paused_us: u64,
    /// The state that QEMU reports of a guest that does not run although it is in no update, such
    /// as
    /// `paused` or `io-error`.
    #[serde(default)]
    pub stopped: Option<String>,
    /// The memory of the guest: descriptors in the QEMU.
    pub memory: Vec<i32>,
    /// The file to which its state is saved: a descriptor in the QEMU.
    pub state_fd: i32,
    /// Its command line.
    pub arguments: Vec<String>,
}

impl Record {
    /// Returns the state of the guest, as it is shown to the operator.
    pub fn does(&self) -> String {
        let stopped = self
            .stopped
            .clone()
            .filter(|_| self.state == State::Running);
        stopped.unwrap_or_else(|| self.state.to_string())
    }
}

/// The directory of a guest, locked against other instances of luo-qemu.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

fn root() -> PathBuf {
    std::env::var_os("LUO_QEMU_RUN").map_or_else(|| ROOT.into(), PathBuf::from)
}

impl RunDir {
    /// Locks the directory of the guest `name`, and creates it if necessary.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if another luo-qemu has locked it.
    pub fn take(name: &str) -> io::Result<Self> {
        Self::take_in(&root(), name)
    }

    /// The same, with another parent directory.
    ///
    /// # Errors
    ///
    /// See [`Self::take`].
    pub fn take_in(root: &Path, name: &str) -> io::Result<Self> {
        let path = root.join(name);
        fs::create_dir_all(&path)?;
        let lock = File::create(path.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: lock })
    }

    /// The QMP socket of QEMU.
    pub fn qmp(&self) -> PathBuf {
        self.path.join(QMP)
    }

    /// The argument of QEMU for that socket. No other process has it.
    pub fn qmp_argument(&self) -> String {
        argument(&self.path)
    }

    /// Writes the status.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let new = self.path.join("status.json.new");
        let text = serde_json::to_vec_pretty(record)?;
        let written = fs::write(&new, text);
        let written = written.and_then(|()| fs::rename(new, self.path.join("status.json")));
        written.map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &io::Error) -> io::Error {
        let path = self.path.display();
        io::Error::new(
            error.kind(),
            format!("the status of the guest cannot be written to {path}: {error}"),
        )
    }

    /// The status and the description of the guest that an earlier luo-qemu has written; [`None`]
    /// if there are none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn left(&self) -> io::Result<Option<(Record, Spec)>> {
        let record = match read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let spec = Spec::read(&File::open(self.path.join(SPEC))?)?;
        Ok(Some((record, spec)))
    }

    /// Writes the description of the guest.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn describe(&self, spec: &Spec) -> io::Result<()> {
        let new = self.path.join("spec.json.new");
        let mut options = OpenOptions::new();
        // Other users must not read the environment of the guest.
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&new).and_then(|file| spec.write(&file));
        let written = written.and_then(|()| fs::rename(new, self.path.join(SPEC)));
        written.map_err(|error| self.unwritable(&error))
    }

    /// Removes the status, since the guest has ended.
    pub fn clear(&self) {
        for name in ["status.json", SPEC, QMP] {
            // A remaining file has no effect.
            let _ = fs::remove_file(self.path.join(name));
        }
    }
}

fn read(path: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fs::read(
        path.join("status.json"),
    )?)?)
}

fn argument(path: &Path) -> String {
    format!("unix:{},server=on,wait=off", path.join(QMP).display())
}

/// The argument that only the QEMU of the guest `name` has.
pub fn qmp_argument(name: &str) -> String {
    argument(&root().join(name))
}

/// Returns whether the directory is locked.
fn is_taken(path: &Path) -> bool {
    let lock = File::open(path.join("lock"));
    lock.is_ok_and(|lock| flock(lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// The guest `name`, if it is running.
pub fn find(name: &str) -> io::Result<Option<Record>> {
    let path = root().join(name);
    if !is_taken(&path) {
        return Ok(None);
    }
    match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// All running guests, by name.
pub fn list() -> io::Result<Vec<Record>> {
    let entries = match fs::read_dir(root()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(record) = name.to_str().map(find).transpose()?.flatten() {
            found.push(record);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
