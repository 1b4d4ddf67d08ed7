// SPDX-License-Identifier: GPL-2.0

//! The configuration.

#[cfg(test)]
mod tests;
mod window;

pub use window::Window;

use crate::command::output_in_time;
use luo_check::Verdict;
use luod_protocol::SessionName;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use serde::Deserialize;
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

/// The default path of the configuration.
pub const PATH: &str = "/etc/luod.toml";

/// The maximum number of connections that can be configured.
const CONNECTIONS_MAX: usize = 60_000;

/// The maximum number of sessions that can be configured.
const SESSIONS_MAX: usize = 1_000_000;

/// The maximum length of the path of a socket, in bytes; the kernel accepts 107.
const SOCKET_PATH_MAX: usize = 107;

/// The maximum length of a pattern of names of sessions, in bytes; names have 63 at most.
const PATTERN_MAX: usize = 255;

/// The peer of a connection, as reported by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// The identity of a peer, for permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its process.
    pub credentials: Credentials,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its process, if that is known.
    pub process: Option<Process>,
}

/// A process whose number is not used for another one.
#[derive(Clone, Debug)]
pub struct Process(Arc<OwnedFd>);

impl Process {
    /// The process of a `pidfd`.
    pub fn new(pidfd: OwnedFd) -> Self {
        Self(Arc::new(pidfd))
    }

    /// Returns whether it has not ended.
    pub fn lives(&self) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }
}

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Process {}

impl Identity {
    fn is_in(&self, gid: u32) -> bool {
        self.credentials.gid == gid || self.groups.contains(&gid)
    }
}

/// A peer without supplementary groups.
impl From<Credentials> for Identity {
    fn from(credentials: Credentials) -> Self {
        Self {
            credentials,
            groups: Vec::new(),
            process: None,
        }
    }
}

/// How the next kernel is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kexec {
    /// Depends on the program that runs as process 1.
    #[default]
    Auto,
    /// By the system call, immediately.
    Reboot,
    /// By `systemctl kexec`.
    Systemctl,
}

/// Numbers or names of users or groups, or of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Account {
    Number(u32),
    Name(String),
}

/// Sessions that some clients may use.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    user: Option<Account>,
    group: Option<Account>,
    sessions: Vec<String>,
    #[serde(default, rename = "unlimited-memlock")]
    unlimited_memlock: bool,
    #[serde(default, rename = "max-sessions")]
    max_sessions: Option<usize>,
    #[serde(default, rename = "max-bytes")]
    max_bytes: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOperators {
    #[serde(default)]
    users: Vec<Account>,
    #[serde(default)]
    groups: Vec<Account>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Raw {
    socket: PathBuf,
    socket_group: Option<Account>,
    required: Vec<String>,
    minimum_verdict: Verdict,
    windows: Vec<String>,
    claim_timeout: u64,
    kexec: Kexec,
    timeout: u64,
    max_timeout: u64,
    device_timeout: u64,
    jump_timeout: u64,
    hook_timeout: u64,
    max_connections: usize,
    max_connections_per_user: usize,
    max_sessions_per_connection: usize,
    max_sessions: usize,
    operators: RawOperators,
    client: Vec<RawClient>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            socket: luod_protocol::SOCKET_PATH.into(),
            socket_group: None,
            required: Vec::new(),
            minimum_verdict: Verdict::Unknown,
            windows: Vec::new(),
            claim_timeout: 0,
            kexec: Kexec::Auto,
            timeout: 30,
            max_timeout: 600,
            device_timeout: 5,
            jump_timeout: 300,
            hook_timeout: 30,
            max_connections: 512,
            max_connections_per_user: 64,
            max_sessions_per_connection: 64,
            max_sessions: 4096,
            operators: RawOperators::default(),
            client: Vec::new(),
        }
    }
}

/// A limit for locked memory (`RLIMIT_MEMLOCK`), to which the kernel counts preserved memory.
/// They are ordered: no limit is the highest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memlock {
    /// A limit in bytes for all processes of the user together.
    Bytes(u64),
    /// No limit.
    Unlimited,
}

/// The sessions that some clients may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Applies to this user only.
    pub uid: Option<u32>,
    /// Applies to this group only.
    pub gid: Option<u32>,
    /// Patterns of names, in which `*` matches any text and `?` any character.
    pub sessions: Vec<String>,
    /// The limit for locked memory that these clients get, if it is changed.
    pub memlock: Option<Memlock>,
    /// The maximum number of sessions of each user.
    pub max_sessions: Option<usize>,
}

impl Rule {
    /// Returns whether the rule applies to this peer.
    fn applies_to(&self, who: &Identity) -> bool {
        self.uid.is_none_or(|uid| uid == who.credentials.uid)
            && self.gid.is_none_or(|gid| who.is_in(gid))
    }

    /// Returns whether the name of a session matches one of the patterns.
    fn permits(&self, name: &SessionName) -> bool {
        let mut patterns = self.sessions.iter();
        patterns.any(|pattern| matches(pattern.as_bytes(), name.as_str().as_bytes()))
    }
}

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The socket.
    pub socket: PathBuf,
    /// The only group that can connect, besides root.
    pub socket_group: Option<u32>,
    /// Sessions that must be subscribed to start an update.
    pub required: Vec<SessionName>,
    /// The minimum verdict on the loaded kernel to start an update.
    pub minimum_verdict: Verdict,
    /// When updates may start; any time if there are none.
    pub windows: Vec<Window>,
    /// How long a session may stay unclaimed without an alarm.
    pub claim_timeout: Option<Duration>,
    /// How the next kernel is started.
    pub kexec: Kexec,
    /// The time for a client if neither the client nor the operator sets it.
    pub timeout: Duration,
    /// The maximum time for a client.
    pub max_timeout: Duration,
    /// How long luod retries to open `/dev/liveupdate` and to create sessions.
    pub device_timeout: Duration,
    /// The time for the service manager to start the next kernel.
    pub jump_timeout: Duration,
    /// The time for a hook.
    pub hook_timeout: Duration,
    /// The maximum number of connections. Those of operators are not counted.
    pub max_connections: usize,
    /// The maximum number of connections of a user.
    pub max_connections_per_user: usize,
    /// The maximum number of sessions of a connection.
    pub max_sessions_per_connection: usize,
    /// The maximum number of sessions.
    pub max_sessions: usize,
    /// Users who are operators, besides root.
    pub operator_uids: Vec<u32>,
    /// Groups whose members are operators.
    pub operator_gids: Vec<u32>,
    /// Users and groups, besides root, that may use sessions.
    pub rules: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Self {
        // Only the look-up of names can fail, and the defaults have none.
        Self::from_raw(Raw::default(), &Accounts::default()).unwrap_or_else(|_| unreachable!())
    }
}

/// How long to wait for an answer about a name of a user or a group.
const LOOK_UP: Duration = Duration::from_secs(3);

/// Names of users and groups.
#[derive(Debug, Default)]
struct Accounts {
    passwd: String,
    group: String,
    /// Whether names that are not in the files are looked up by the name service switch, as that of
    /// systemd's userdb.
    switch: bool,
}

impl Accounts {
    fn read() -> Self {
        Self {
            passwd: fs::read_to_string("/etc/passwd").unwrap_or_default(),
            group: fs::read_to_string("/etc/group").unwrap_or_default(),
            switch: true,
        }
    }

    /// Finds the number of a name in lines of the form `NAME:PASSWORD:NUMBER:...`.
    fn find(lines: &str, name: &str) -> Option<u32> {
        lines
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find_map(|fields| match fields[..] {
                [found, _, number, ..] if found == name => number.parse().ok(),
                _ => None,
            })
    }

    /// Finds the number of a name in a file, or else by `getent`.
    fn look_up(&self, table: &str, database: &str, account: &Account) -> Result<u32, String> {
        let name = match account {
            Account::Number(number) => return Ok(*number),
            Account::Name(name) => name,
        };
        if let Some(number) = Self::find(table, name) {
            return Ok(number);
        }
        let unknown = format!("/etc/{database} has no '{name}'");
        if !self.switch {
            return Err(unknown);
        }
        let mut getent = Command::new("getent");
        let answer = output_in_time(getent.args([database, "--", name]), LOOK_UP);
        let answer = answer.map_err(|error| match error.to_string() {
            why if why.is_empty() => format!("{unknown}, and getent does not find it"),
            why => format!("{unknown}, and getent failed: {why}"),
        })?;
        Self::find(&answer, name).ok_or(unknown)
    }

    fn uid(&self, account: &Account) -> Result<u32, String> {
        self.look_up(&self.passwd, "passwd", account)
    }

    fn gid(&self, account: &Account) -> Result<u32, String> {
        self.look_up(&self.group, "group", account)
    }
}

impl Config {
    /// Reads the configuration. If it `may_be_missing`, a missing file is the same as an empty one.
    ///
    /// # Errors
    ///
    /// A sentence that describes the error.
    pub fn read(path: &Path, may_be_missing: bool) -> Result<Self, String> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if may_be_missing && error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        Self::parse(&text, &Accounts::read())
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str, accounts: &Accounts) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|error| error.to_string())?;
        Self::from_raw(raw, accounts)
    }

    fn from_raw(raw: Raw, accounts: &Accounts) -> Result<Self, String> {
        for (name, value) in [
            ("timeout", raw.timeout),
            ("max-timeout", raw.max_timeout),
            ("jump-timeout", raw.jump_timeout),
            ("hook-timeout", raw.hook_timeout),
        ] {
            if !(1..=86_400).contains(&value) {
                return Err(format!("{name} must be between 1 and 86400 seconds"));
            }
        }
        if raw.timeout > raw.max_timeout {
            return Err("timeout must not be longer than max-timeout".into());
        }
        if raw.claim_timeout > 86_400 {
            return Err("claim-timeout must be 86400 seconds at most".into());
        }
        if raw.minimum_verdict == Verdict::No {
            return Err("minimum-verdict must be yes, likely or unknown".into());
        }
        let windows = raw.windows.iter().map(|text| {
            let window = text.parse::<Window>();
            window.map_err(|error| format!("windows: '{text}': {error}"))
        });
        let windows: Vec<Window> = windows.collect::<Result<_, _>>()?;
        if raw.device_timeout > 3_600 {
            return Err("device-timeout must be 3600 seconds at most".into());
        }
        for (name, value, most) in [
            ("max-connections", raw.max_connections, CONNECTIONS_MAX),
            (
                "max-connections-per-user",
                raw.max_connections_per_user,
                CONNECTIONS_MAX,
            ),
            (
                "max-sessions-per-connection",
                raw.max_sessions_per_connection,
                SESSIONS_MAX,
            ),
            ("max-sessions", raw.max_sessions, SESSIONS_MAX),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} must be between 1 and {most}"));
            }
        }
        if !raw.socket.is_absolute() || raw.socket.file_name().is_none() {
            return Err(format!(
                "socket must be an absolute path, which '{}' is not",
                raw.socket.display()
            ));
        }
        if raw.socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(format!(
                "socket must be a path of {SOCKET_PATH_MAX} bytes at most"
            ));
        }
        let required = raw.required.into_iter().map(|name| {
            let what = format!("required: session name '{name}'");
            SessionName::try_from(name).map_err(|error| format!("{what}: {error}"))
        });
        let required: Vec<SessionName> = required.collect::<Result<_, _>>()?;
        if required.len() > raw.max_sessions {
            return Err("required has more sessions than max-sessions allows".into());
        }
        let mut rules = Vec::new();
        for client in raw.client {
            if client.user.is_none() && client.group.is_none() {
                return Err("each [[client]] needs a user or a group".into());
            }
            for pattern in &client.sessions {
                if pattern.is_empty() || pattern.len() > PATTERN_MAX {
                    return Err(format!(
                        "a pattern of sessions must have 1 to {PATTERN_MAX} bytes, \
                         which '{pattern}' has not"
                    ));
                }
            }
            if client.max_sessions == Some(0) {
                return Err("max-sessions of a [[client]] must be at least 1".into());
            }
            if client.sessions.is_empty() {
                return Err(
                    "a [[client]] without sessions permits nothing; name at least one session"
                        .into(),
                );
            }
            let memlock = match (client.max_bytes, client.unlimited_memlock) {
                (Some(_), true) => {
                    return Err("a [[client]] has max-bytes and unlimited-memlock; use one".into())
                }
                (Some(text), false) => Some(Memlock::Bytes(
                    luo_check::cmdline::size(&text)
                        .ok_or_else(|| format!("max-bytes: '{text}' is not a size like \"64G\""))?,
                )),
                (None, true) => Some(Memlock::Unlimited),
                (None, false) => None,
            };
            rules.push(Rule {
                uid: client.user.map(|user| accounts.uid(&user)).transpose()?,
                gid: client.group.map(|group| accounts.gid(&group)).transpose()?,
                sessions: client.sessions,
                memlock,
                max_sessions: client.max_sessions,
            });
        }
        let users = raw.operators.users.iter();
        let groups = raw.operators.groups.iter();
        Ok(Self {
            socket: raw.socket,
            socket_group: raw.socket_group.map(|g| accounts.gid(&g)).transpose()?,
            required,
            minimum_verdict: raw.minimum_verdict,
            windows,
            claim_timeout: (raw.claim_timeout > 0).then(|| Duration::from_secs(raw.claim_timeout)),
            kexec: raw.kexec,
            timeout: Duration::from_secs(raw.timeout),
            max_timeout: Duration::from_secs(raw.max_timeout),
            device_timeout: Duration::from_secs(raw.device_timeout),
            jump_timeout: Duration::from_secs(raw.jump_timeout),
            hook_timeout: Duration::from_secs(raw.hook_timeout),
            max_connections: raw.max_connections,
            max_connections_per_user: raw.max_connections_per_user,
            max_sessions_per_connection: raw.max_sessions_per_connection,
            max_sessions: raw.max_sessions,
            operator_uids: users.map(|u| accounts.uid(u)).collect::<Result<_, _>>()?,
            operator_gids: groups.map(|g| accounts.gid(g)).collect::<Result<_, _>>()?,
            rules,
        })
    }

    /// Returns whether a peer may start updates and see all sessions.
    pub fn is_operator(&self, who: &Identity) -> bool {
        let uid = who.credentials.uid;
        uid == 0
            || self.operator_uids.contains(&uid)
            || self.operator_gids.iter().any(|gid| who.is_in(*gid))
    }

    /// Returns whether a peer may use a session.
    pub fn may_use(&self, who: &Identity, name: &SessionName) -> bool {
        who.credentials.uid == 0 || self.rules_for(who, name).next().is_some()
    }

    /// The limit for locked memory of a client of some sessions, if it is changed: the highest one
    /// of all rules that permit one of them.
    pub fn memlock<'a>(
        &'a self,
        who: &'a Identity,
        names: impl IntoIterator<Item = &'a SessionName>,
    ) -> Option<Memlock> {
        let limits = names.into_iter().flat_map(|name| {
            let rules = self.rules_for(who, name);
            rules.filter_map(|rule| rule.memlock)
        });
        limits.max()
    }

    /// The maximum number of sessions of the user of a client, if it is limited: the highest one
    /// of all rules that permit the session.
    pub fn max_sessions_of(&self, who: &Identity, name: &SessionName) -> Option<usize> {
        // A rule without this limit permits any number.
        let limits = self.rules_for(who, name).map(|rule| rule.max_sessions);
        limits.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// Returns whether an update may start at a time: `CLOCK_REALTIME`, in microseconds.
    pub fn is_in_window(&self, realtime_us: u64) -> bool {
        let mut windows = self.windows.iter();
        self.windows.is_empty() || windows.any(|window| window.contains(realtime_us))
    }

    /// Returns whether any request is permitted to a peer.
    pub fn may_connect(&self, who: &Identity) -> bool {
        self.is_operator(who) || self.rules.iter().any(|rule| rule.applies_to(who))
    }

    /// The rules that permit a session to a peer.
    fn rules_for<'a>(
        &'a self,
        who: &'a Identity,
        name: &'a SessionName,
    ) -> impl Iterator<Item = &'a Rule> {
        let rules = self.rules.iter();
        rules.filter(move |rule| rule.applies_to(who) && rule.permits(name))
    }
}

/// Returns whether a pattern with `*` and `?` matches.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to continue if the last `*` must match more text.
    let mut back = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || Some(c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = back else {
                    return false;
                };
                back = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            }
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|c| *c == b'*')
}
