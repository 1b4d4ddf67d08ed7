// SPDX-License-Identifier: GPL-2.0

//! What luod hands over to the luod in the next kernel.
//!
//! It is JSON in a sealed memfd, the file [`TOKEN`] of the session [`SESSION`].

use liveupdate::{IncomingSession, OutgoingSession, Token};
use luod_protocol::{Mark, Report, SessionName, Stamp};
use rustix::fs::{fcntl_add_seals, fstat, memfd_create, MemfdFlags, SealFlags};
use serde::{de::DeserializeOwned, Deserialize, Deserializer, Serialize};
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

/// The session that has the registry.
pub const SESSION: &str = "luod-internal";

/// What the registry is called there.
pub const TOKEN: Token = 0;

/// The version of the format.
///
/// Fields and values can be added without a new one: luod ignores fields and keeps words that it
/// does not know. A luod that adds something without which the registry must not be used says so
/// in [`Registry::min_reader`].
pub const VERSION: u32 = 1;

/// How much is read at most, in bytes.
const SIZE_MAX: u64 = 64 << 20;

/// The registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// The version of the format.
    pub version: u32,
    /// The version that a luod has to know at least to read it; without it, that is `version`.
    #[serde(default)]
    pub min_reader: Option<u32>,
    /// The boot that it was written in.
    pub boot_id: String,
    /// The release of the kernel that it was written in.
    pub kernel: String,
    /// The number of the update.
    pub update: u64,
    /// How fast the time-stamp counter runs, in kHz.
    #[serde(default)]
    pub tsc_khz: Option<u64>,
    /// What happened until then.
    #[serde(deserialize_with = "readable")]
    pub marks: Vec<Mark>,
    /// The sessions.
    pub sessions: Vec<Entry>,
    /// Sessions that were left out of a forced update. A process that has one open still carries
    /// it over, though no client waits for it.
    #[serde(default)]
    pub dropped: Vec<SessionName>,
    /// What was given up by this update.
    #[serde(default, deserialize_with = "readable")]
    pub lost: Vec<Lost>,
}

/// A session whose data did not come along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Its name.
    pub name: SessionName,
    /// How the client called itself.
    #[serde(default)]
    pub client: Option<String>,
    /// Why.
    pub error: String,
}

/// A session in the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: SessionName,
    /// How the client called itself.
    #[serde(default)]
    pub client: Option<String>,
    /// The user of the client.
    #[serde(default)]
    pub uid: Option<u32>,
    /// When it was ready.
    pub ready: Stamp,
    /// How long it took to get there, in microseconds.
    pub preserve_us: u64,
}

/// What luod remembers for a luod that is started in the same kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The boot that it is about.
    pub boot_id: String,
    /// The number of the last update.
    pub update: u64,
    /// What became of it.
    #[serde(default, deserialize_with = "if_readable")]
    pub report: Option<Report>,
    /// Who has subscribed.
    #[serde(
        default,
        deserialize_with = "readable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub subscribers: Vec<Subscriber>,
}

/// Who has subscribed a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// The session.
    pub name: SessionName,
    /// The process of the client.
    pub pid: i32,
    /// How the client called itself.
    #[serde(default)]
    pub client: Option<String>,
}

/// What says which luod can read a registry.
#[derive(Deserialize)]
struct Header {
    version: u32,
    #[serde(default)]
    min_reader: Option<u32>,
}

/// Reads a value that is only shown, if it is understood.
fn if_readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// Reads a list of what is only shown, without what is not understood.
fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let values = Vec::<serde_json::Value>::deserialize(deserializer)?.into_iter();
    Ok(values
        .filter_map(|value| serde_json::from_value(value).ok())
        .collect())
}

impl Registry {
    /// Puts the registry into a session.
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

    /// Takes the registry out of a session.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the session has not been through an update;
    /// [`io::ErrorKind::InvalidData`] if the registry makes no sense.
    pub fn retrieve(session: &IncomingSession) -> io::Result<Self> {
        let file = File::from(session.retrieve(TOKEN)?);
        let size = u64::try_from(fstat(&file)?.st_size).unwrap_or(u64::MAX);
        if size > SIZE_MAX {
            let error = format!("the registry has {size} bytes, which cannot be true");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let mut text = vec![0; usize::try_from(size).unwrap_or_default()];
        // Not from where the file is: that came over, too.
        file.read_exact_at(&mut text, 0)?;
        Self::parse(&text)
    }

    /// Reads the text of a registry.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if it is none, or needs a newer luod.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let not_understood = |error| bad(format!("the registry is not understood: {error}"));
        let header: Header = serde_json::from_slice(text).map_err(not_understood)?;
        let needed = header.min_reader.unwrap_or(header.version);
        if needed > VERSION {
            return Err(bad(format!(
                "the registry is not understood: it needs a luod that reads version {needed}, \
                 and this one reads {VERSION}; start a newer luod"
            )));
        }
        serde_json::from_slice(text).map_err(not_understood)
    }
}
