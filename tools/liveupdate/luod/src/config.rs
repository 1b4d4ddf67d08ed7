// SPDX-License-Identifier: GPL-2.0

//! The configuration.

use luod_protocol::SessionName;
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The default path of the configuration.
pub const PATH: &str = "/etc/luod.toml";

/// The most connections that can be configured.
const CONNECTIONS_MAX: usize = 60_000;

/// The most sessions that can be configured.
const SESSIONS_MAX: usize = 1_000_000;

/// The longest path of a socket, in bytes; the kernel accepts 107.
const SOCKET_PATH_MAX: usize = 107;

/// The longest pattern of names of sessions, in bytes; names have 63 at most.
const PATTERN_MAX: usize = 255;

/// The peer of a connection, as reported by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group. Supplementary groups are not checked.
    pub gid: u32,
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

/// Which sessions some clients may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Applies to this user only.
    pub uid: Option<u32>,
    /// Applies to this group only.
    pub gid: Option<u32>,
    /// Patterns of names, in which `*` matches any text and `?` any character.
    pub sessions: Vec<String>,
    /// Whether the limit for locked memory (`RLIMIT_MEMLOCK`) of these clients is removed.
    pub unlimited_memlock: bool,
}

impl Rule {
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

/// Names of users and groups.
#[derive(Debug, Default)]
struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    fn read() -> Self {
        Self {
            passwd: fs::read_to_string("/etc/passwd").unwrap_or_default(),
            group: fs::read_to_string("/etc/group").unwrap_or_default(),
        }
    }

    /// Finds the number of a name in a file with lines of the form `NAME:PASSWORD:NUMBER:...`.
    fn look_up(table: &str, file: &str, account: &Account) -> Result<u32, String> {
        let name = match account {
            Account::Number(number) => return Ok(*number),
            Account::Name(name) => name,
        };
        table
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find_map(|fields| match fields[..] {
                [found, _, number, ..] if found == name => number.parse().ok(),
                _ => None,
            })
            .ok_or_else(|| format!("{file} has no '{name}'"))
    }

    fn uid(&self, account: &Account) -> Result<u32, String> {
        Self::look_up(&self.passwd, "/etc/passwd", account)
    }

    fn gid(&self, account: &Account) -> Result<u32, String> {
        Self::look_up(&self.group, "/etc/group", account)
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
            if client.sessions.is_empty() {
                return Err(
                    "a [[client]] without sessions permits nothing; name at least one session"
                        .into(),
                );
            }
            rules.push(Rule {
                uid: client.user.map(|user| accounts.uid(&user)).transpose()?,
                gid: client.group.map(|group| accounts.gid(&group)).transpose()?,
                sessions: client.sessions,
                unlimited_memlock: client.unlimited_memlock,
            });
        }
        let users = raw.operators.users.iter();
        let groups = raw.operators.groups.iter();
        Ok(Self {
            socket: raw.socket,
            socket_group: raw.socket_group.map(|g| accounts.gid(&g)).transpose()?,
            required,
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
    pub fn is_operator(&self, who: Credentials) -> bool {
        who.uid == 0
            || self.operator_uids.contains(&who.uid)
            || self.operator_gids.contains(&who.gid)
    }

    /// Returns whether a peer may use a session.
    pub fn may_use(&self, who: Credentials, name: &SessionName) -> bool {
        who.uid == 0 || self.rules_for(who).any(|rule| rule.permits(name))
    }

    /// Returns whether the limit for locked memory of a client of a session is removed.
    pub fn unlimited_memlock(&self, who: Credentials, name: &SessionName) -> bool {
        let mut rules = self.rules_for(who);
        rules.any(|rule| rule.unlimited_memlock && rule.permits(name))
    }

    /// Returns whether any request is permitted to a peer.
    pub fn may_connect(&self, who: Credentials) -> bool {
        self.is_operator(who) || self.rules_for(who).next().is_some()
    }

    fn rules_for(&self, who: Credentials) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| {
            rule.uid.is_none_or(|uid| uid == who.uid) && rule.gid.is_none_or(|gid| gid == who.gid)
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn who(uid: u32, gid: u32) -> Credentials {
        Credentials { pid: 1, uid, gid }
    }

    fn name(name: &str) -> SessionName {
        SessionName::new(name).unwrap()
    }

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:r:/:/bin/sh\nqemu:x:64055:103::/:/bin/false\n".into(),
            group: "kvm:x:103:qemu\n".into(),
        }
    }

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, &accounts())
    }

    #[test]
    fn only_root_by_default() {
        let config = Config::default();
        assert_eq!(parse("").unwrap(), config);
        assert!(config.is_operator(who(0, 0)));
        assert!(config.may_use(who(0, 5), &name("vm")));
        for other in [who(1, 0), who(1000, 1000)] {
            assert!(!config.is_operator(other));
            assert!(!config.may_connect(other));
            assert!(!config.may_use(other, &name("vm")));
        }
    }

    /// The sample contains the defaults, and examples of all other settings.
    #[test]
    fn the_sample() {
        let sample = include_str!("../luod.toml");
        assert_eq!(parse(sample).unwrap(), Config::default());
        let options = sample.lines().map(|line| match line.strip_prefix('#') {
            Some(option) if !option.starts_with([' ', '!']) => option,
            _ => "",
        });
        let text = options.collect::<Vec<_>>().join("\n");
        let accounts = Accounts {
            passwd: "admin:x:5:5:::\nlibvirt-qemu:x:6:6:::\n".into(),
            group: "memcache:x:7:\n".into(),
        };
        let config = Config::parse(&text, &accounts).unwrap();
        assert_eq!(config.rules.len(), 2);
        assert_eq!(config.operator_gids, [27]);
        assert_eq!(config.socket_group, Some(7));
        assert_eq!(config.required, [name("vm-1"), name("memcached")]);
        let defaults = Config {
            socket_group: None,
            required: Vec::new(),
            operator_uids: Vec::new(),
            operator_gids: Vec::new(),
            rules: Vec::new(),
            ..config
        };
        assert_eq!(defaults, Config::default());
    }

    #[test]
    fn rules() {
        let config = parse(
            r#"
            timeout = 5
            kexec = "reboot"
            [operators]
            users = [7]
            groups = ["kvm"]
            [[client]]
            user = "qemu"
            sessions = ["vm-*", "qemu"]
            [[client]]
            user = 9
            group = 10
            sessions = ["*"]
            unlimited-memlock = true
            "#,
        )
        .unwrap();
        assert_eq!(config.timeout, Duration::from_secs(5));
        assert_eq!(config.kexec, Kexec::Reboot);
        assert!(config.is_operator(who(7, 1)));
        assert!(config.is_operator(who(8, 103)));
        assert!(!config.is_operator(who(64055, 1)));
        assert!(config.may_use(who(64055, 1), &name("vm-1")));
        assert!(config.may_use(who(64055, 1), &name("qemu")));
        assert!(!config.may_use(who(64055, 1), &name("qemu2")));
        assert!(!config.may_use(who(9, 9), &name("a")));
        assert!(config.may_use(who(9, 10), &name("a")));
        assert!(config.unlimited_memlock(who(9, 10), &name("a")));
        assert!(!config.unlimited_memlock(who(9, 9), &name("a")));
        assert!(!config.unlimited_memlock(who(64055, 1), &name("vm-1")));
        assert!(!config.may_use(who(7, 1), &name("a")));
    }

    #[test]
    fn mistakes() {
        let long = format!("socket = \"/{}\"", "x".repeat(107));
        for (text, part) in [
            (long.as_str(), "107 bytes"),
            ("colour = 1", "colour"),
            ("timeout = 0", "timeout"),
            ("kexec = \"magic\"", "magic"),
            ("[[client]]\nsessions = []", "needs a user"),
            (
                "[[client]]\nuser = \"nobody\"\nsessions = [\"a\"]",
                "no 'nobody'",
            ),
            ("[operators]\ngroups = [\"x\"]", "/etc/group"),
            ("timeout = ", "timeout"),
            ("timeout = 700", "max-timeout"),
            ("device-timeout = 100000000000000", "device-timeout"),
            ("max-connections = 0", "max-connections"),
            ("max-connections-per-user = 0", "max-connections-per-user"),
            (
                "max-sessions-per-connection = 0",
                "max-sessions-per-connection",
            ),
            ("max-sessions = 0", "max-sessions"),
            ("max-sessions = -1", "max-sessions"),
            ("max-sessions = 100000000", "max-sessions"),
            ("socket = \"\"", "absolute"),
            ("socket = \"run/sock\"", "absolute"),
            ("socket = \"/\"", "absolute"),
            ("socket-group = \"x\"", "/etc/group"),
            ("required = [\"a b\", \"\"]", "required"),
            ("max-sessions = 1\nrequired = [\"a\", \"b\"]", "required"),
            ("[[client]]\nuser = 1\nsessions = [\"\"]", "pattern"),
            ("[[client]]\nuser = 1\nsessions = []", "without sessions"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, result) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("*ab*ab", "abxabab", true),
            ("*ab*abc", "abxabab", false),
            ("v?-*", "vm-1", true),
            ("?", "", false),
            ("a", "ab", false),
            ("**", "x", true),
        ] {
            let seen = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(seen, result, "{pattern} {text}");
        }
        // The time must not be exponential.
        let pattern = "*a".repeat(500);
        assert!(!matches(pattern.as_bytes(), "b".repeat(5000).as_bytes()));
    }
}
