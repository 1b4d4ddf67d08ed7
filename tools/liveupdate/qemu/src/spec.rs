// SPDX-License-Identifier: GPL-2.0

//! The description of a guest for the next kernel, which is preserved in the session
//! of the guest.

use crate::memory::Backend;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// The token of the file with a [`Spec`].
pub const SPEC: u64 = 0;
/// The token of the file with the state of everything but the memory.
pub const STATE: u64 = 1;
/// The token of the first memory backend; the others follow.
pub const MEMORY: u64 = 16;

/// The version of the format.
const VERSION: u32 = 1;
/// The maximum length of a description.
const MAX_LEN: u64 = 1 << 20;
/// The maximum number of memory backends.
const MAX_BACKENDS: usize = 256;

/// How a guest was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The version of the format; readers refuse newer ones.
    pub version: u32,
    /// The name of the guest.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, as given by the operator.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// The guest's memory.
    pub memory: Vec<Backend>,
    /// Whether the operator accepts the risks of [`crate::check`] in updates.
    #[serde(default)]
    pub forced: bool,
    /// Whether the guest was paused by its operator when the update began: it is not resumed.
    #[serde(default)]
    pub held: bool,
    /// When the guest was paused, in microseconds since 1970.
    #[serde(default)]
    pub paused_us: u64,
    /// By how many microseconds its real-time clock lagged before that.
    #[serde(default)]
    pub lag_us: i64,
    /// The number of updates that the guest has survived before.
    #[serde(default)]
    pub updates: u64,
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

impl Spec {
    /// Describes a guest that this process starts.
    pub fn new(
        name: &str,
        program: PathBuf,
        arguments: Vec<String>,
        memory: Vec<Backend>,
    ) -> io::Result<Self> {
        Ok(Self {
            version: VERSION,
            name: name.to_owned(),
            program,
            arguments,
            // Variables that are not UTF-8 cannot be written.
            environment: std::env::vars_os()
                .filter_map(|(key, value)| {
                    Some((key.into_string().ok()?, value.into_string().ok()?))
                })
                .filter(|(key, _)| !is_of_service(key))
                .collect(),
            directory: std::env::current_dir()?,
            memory,
            forced: false,
            held: false,
            paused_us: 0,
            lag_us: 0,
            updates: 0,
        })
    }

    /// Writes it to an empty file.
    pub fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(0)?;
        file.write_all_at(&serde_json::to_vec(self)?, 0)
    }

    /// Reads and checks a description that [`Self::write`] has written.
    pub fn read(file: &File) -> io::Result<Self> {
        let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let len = file.metadata()?.len();
        if len == 0 || len > MAX_LEN {
            return Err(bad(format!("the description of the guest has {len} bytes")));
        }
        let mut text = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut text, 0)?;
        let spec: Self = serde_json::from_slice(&text)
            .map_err(|error| bad(format!("the description of the guest: {error}")))?;
        if spec.version > VERSION {
            return Err(bad(format!(
                "the description of the guest has version {}, this luo-qemu supports {VERSION}",
                spec.version
            )));
        }
        if spec.memory.is_empty() || spec.memory.len() > MAX_BACKENDS {
            return Err(bad(format!(
                "the description of the guest names {} memory backends",
                spec.memory.len()
            )));
        }
        Ok(spec)
    }
}

/// Returns whether a variable applies only to this instance of a service.
fn is_of_service(key: &str) -> bool {
    const OWN: [&str; 8] = [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
    ];
    OWN.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let memory = vec![Backend {
            id: "r".into(),
            size: 4096,
            pages: None,
        }];
        Spec::new("g", "qemu".into(), vec!["-S".into()], memory).unwrap()
    }

    #[test]
    fn it_comes_back_as_it_was() {
        let file = tempfile::tempfile().unwrap();
        spec().write(&file).unwrap();
        let found = Spec::read(&file).unwrap();
        assert_eq!(found.arguments, ["-S"]);
        assert_eq!(found.memory, spec().memory);
    }

    #[test]
    fn nonsense_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Spec::read(&file).is_err());
        file.write_all_at(b"{}", 0).unwrap();
        assert!(Spec::read(&file).is_err());
        let mut newer = spec();
        newer.version = VERSION + 1;
        newer.write(&file).unwrap();
        assert!(Spec::read(&file)
            .unwrap_err()
            .to_string()
            .contains("version"));
        let mut none = spec();
        none.memory.clear();
        none.write(&file).unwrap();
        assert!(Spec::read(&file).is_err());
        file.set_len(MAX_LEN + 1).unwrap();
        assert!(Spec::read(&file).is_err());
    }
}
