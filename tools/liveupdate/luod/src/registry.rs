// SPDX-License-Identifier: GPL-2.0

//! The registry: data that luod hands over to luod in the next kernel.
//!
//! It is JSON in a sealed memfd, the file [`TOKEN`] of the session [`SESSION`].

use crate::hooks::Stage;
use liveupdate::{IncomingSession, OutgoingSession, Token};
use luod_protocol::{History, Mark, Report, SessionName, Stamp};
use rustix::fs::{fcntl_add_seals, fstat, memfd_create, MemfdFlags, SealFlags};
use serde::{de::DeserializeOwned, Deserialize, Deserializer, Serialize};
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

/// The session of the registry.
pub const SESSION: &str = "luod-internal";

/// The token of the registry.
pub const TOKEN: Token = 0;

/// The version of the format.
///
/// Fields and values can be added without a new version: luod ignores unknown fields and keeps
/// unknown words. If a new field must not be ignored, luod must increase
/// [`Registry::min_reader`].
pub const VERSION: u32 = 1;

/// The maximum size, in bytes.
const SIZE_MAX: u64 = 64 << 20;

/// The registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// The version of the format.
    pub version: u32,
    /// The lowest version that luod must support to read the registry; the default is `version`.
    #[serde(default)]
    pub min_reader: Option<u32>,
    /// The boot in which it was written.
    pub boot_id: String,
    /// The release of the kernel in which it was written.
    pub kernel: String,
    /// The number of the update.
    pub update: u64,
    /// The frequency of the time-stamp counter, in kHz.
    #[serde(default)]
    pub tsc_khz: Option<u64>,
    /// The marks of the update.
    #[serde(deserialize_with = "readable")]
    pub marks: Vec<Mark>,
    /// The sessions.
    pub sessions: Vec<Entry>,
    /// Sessions without which a forced update has continued. If a process still has one open,
    /// the kernel hands it over, although no client needs it.
    #[serde(default)]
    pub dropped: Vec<SessionName>,
    /// Sessions that this update has given up.
    #[serde(default, deserialize_with = "readable")]
    pub lost: Vec<Lost>,
    /// Earlier updates.
    #[serde(
        default,
        deserialize_with = "or_none",
        skip_serializing_if = "History::is_empty"
    )]
    pub history: History,
}

/// A session whose data was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Its name.
    pub name: SessionName,
    /// The name of the client.
    #[serde(default)]
    pub client: Option<String>,
    /// The reason.
    pub error: String,
}

/// A session in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: SessionName,
    /// The name of the client.
    #[serde(default)]
    pub client: Option<String>,
    /// The user of the client.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The time at which it was ready.
    pub ready: Stamp,
    /// The time that it needed to become ready, in microseconds.
    pub preserve_us: u64,
    /// The size of its files in bytes, if the client has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// The state that luod saves for a luod that is started in the same kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The boot in which it was saved.
    pub boot_id: String,
    /// The number of the last update.
    pub update: u64,
    /// Its result.
    #[serde(default, deserialize_with = "if_readable")]
    pub report: Option<Report>,
    /// The subscriptions.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub subscribers: Vec<Subscriber>,
    /// Earlier updates.
    #[serde(
        default,
        deserialize_with = "or_none",
        skip_serializing_if = "History::is_empty"
    )]
    pub history: History,
    /// Hooks after updates that have not ended.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub hooks: Vec<DueHooks>,
}

/// Hooks after an update: they run again if luod is killed before they have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueHooks {
    /// [`Stage::Post`] or [`Stage::Abort`].
    pub stage: Stage,
    /// The result of the update. While it runs, the result that it has if luod is killed.
    pub report: Report,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// The session.
    pub name: SessionName,
    /// The process of the client.
    pub pid: i32,
    /// The name of the client.
    #[serde(default)]
    pub client: Option<String>,
}

/// The fields that determine which luod can read a registry.
#[derive(Deserialize)]
struct Header {
    version: u32,
    #[serde(default)]
    min_reader: Option<u32>,
}

/// Reads a value that is only shown, or none if it is malformed.
fn if_readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// Reads a value that is only shown, or its default if it is malformed.
fn or_none<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    if_readable(deserializer).map(Option::unwrap_or_default)
}

/// Reads a list of values that are only shown, and skips malformed ones.
fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let values = Vec::<serde_json::Value>::deserialize(deserializer)?.into_iter();
    Ok(values
        .filter_map(|value| serde_json::from_value(value).ok())
        .collect())
}

impl Registry {
    /// Preserves the registry in a session.
    ///
    /// # Errors
    ///
    /// If there is no memory, or the kernel does not preserve memfds.
    pub fn preserve(&self, session: &OutgoingSession) -> io::Result<()> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("luod-registry", flags)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        session.preserve(&file, TOKEN)
    }

    /// Retrieves the registry from a session.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the session has not been through an update;
    /// [`io::ErrorKind::InvalidData`] if the registry is malformed.
    pub fn retrieve(session: &IncomingSession) -> io::Result<Self> {
        let file = File::from(session.retrieve(TOKEN)?);
        let size = u64::try_from(fstat(&file)?.st_size).unwrap_or(u64::MAX);
        if size > SIZE_MAX {
            let error = format!("the registry has {size} bytes, which is more than any registry");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
        // Reads from offset 0: the position of the file was handed over as well.
        file.read_exact_at(&mut text, 0)?;
        Self::parse(&text)
    }

    /// Reads the text of a registry.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if it is not a registry, or needs a newer luod.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let not_understood = |error| bad(format!("the registry cannot be read: {error}"));
        let header: Header = serde_json::from_slice(text).map_err(not_understood)?;
        let needed = header.min_reader.unwrap_or(header.version);
        if needed > VERSION {
            return Err(bad(format!(
                "the registry cannot be read: it needs a luod that reads version {needed}, \
                 and this one reads {VERSION}; start a newer luod"
            )));
        }
        serde_json::from_slice(text).map_err(not_understood)
    }
}
