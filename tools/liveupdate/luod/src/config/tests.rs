// SPDX-License-Identifier: GPL-2.0

//! Tests of the configuration.

use super::*;

fn who(uid: u32, gid: u32) -> Identity {
    Credentials { pid: 1, uid, gid }.into()
}

fn name(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

fn accounts() -> Accounts {
    Accounts {
        passwd: "root:x:0:0:r:/:/bin/sh\nqemu:x:64055:103::/:/bin/false\n".into(),
        group: "kvm:x:103:qemu\n".into(),
        switch: false,
    }
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, &accounts())
}

#[test]
fn only_root_by_default() {
    let config = Config::default();
    assert_eq!(parse("").unwrap(), config);
    assert!(config.is_operator(&who(0, 0)));
    assert!(config.may_use(&who(0, 5), &name("vm")));
    for other in [who(1, 0), who(1000, 1000)] {
        assert!(!config.is_operator(&other));
        assert!(!config.may_connect(&other));
        assert!(!config.may_use(&other, &name("vm")));
    }
}

/// The sample contains the defaults, and examples of all other settings.
#[test]
fn the_sample() {
    let sample = include_str!("../../luod.toml");
    assert_eq!(parse(sample).unwrap(), Config::default());
    let options = sample.lines().map(|line| match line.strip_prefix('#') {
        Some(option) if !option.starts_with([' ', '!']) => option,
        _ => "",
    });
    let text = options.collect::<Vec<_>>().join("\n");
    let accounts = Accounts {
        passwd: "admin:x:5:5:::\nlibvirt-qemu:x:6:6:::\n".into(),
        group: "memcache:x:7:\n".into(),
        switch: false,
    };
    let config = Config::parse(&text, &accounts).unwrap();
    assert_eq!(config.rules.len(), 2);
    assert_eq!(config.operator_gids, [27]);
    assert_eq!(config.socket_group, Some(7));
    assert_eq!(config.required, [name("vm-1"), name("memcached")]);
    assert_eq!(config.windows.len(), 2);
    assert_eq!(config.rules[1].max_sessions, Some(4));
    assert_eq!(config.rules[1].memlock, Some(Memlock::Bytes(8 << 30)));
    let defaults = Config {
        socket_group: None,
        required: Vec::new(),
        windows: Vec::new(),
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
        max-sessions = 2
        max-bytes = "1G"
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
    assert!(config.is_operator(&who(7, 1)));
    assert!(config.is_operator(&who(8, 103)));
    assert!(!config.is_operator(&who(64055, 1)));
    let member = |groups: &[u32]| Identity {
        groups: groups.to_vec(),
        ..who(9, 1)
    };
    assert!(config.is_operator(&member(&[5, 103])));
    assert!(!config.is_operator(&member(&[5, 104])));
    assert!(config.may_use(&member(&[10]), &name("a")));
    assert!(!config.may_use(&member(&[11]), &name("a")));
    assert!(config.may_use(&who(64055, 1), &name("vm-1")));
    assert!(config.may_use(&who(64055, 1), &name("qemu")));
    assert!(!config.may_use(&who(64055, 1), &name("qemu2")));
    assert!(!config.may_use(&who(9, 9), &name("a")));
    assert!(config.may_use(&who(9, 10), &name("a")));
    let memlock = |who: Identity, session| config.memlock(&who, [&name(session)]);
    assert_eq!(memlock(who(9, 10), "a"), Some(Memlock::Unlimited));
    assert_eq!(memlock(who(9, 9), "a"), None);
    assert_eq!(
        memlock(who(64055, 1), "vm-1"),
        Some(Memlock::Bytes(1 << 30))
    );
    assert_eq!(
        config.max_sessions_of(&who(64055, 1), &name("vm-1")),
        Some(2)
    );
    assert_eq!(config.max_sessions_of(&who(9, 10), &name("a")), None);
    assert!(!config.may_use(&who(7, 1), &name("a")));
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
        ("minimum-verdict = \"no\"", "minimum-verdict"),
        ("minimum-verdict = \"maybe\"", "maybe"),
        ("windows = [\"Sat\"]", "in UTC"),
        ("claim-timeout = 100000", "claim-timeout"),
        (
            "[[client]]\nuser = 1\nsessions = [\"a\"]\nmax-bytes = \"much\"",
            "max-bytes",
        ),
        (
            "[[client]]\nuser = 1\nsessions = [\"a\"]\nmax-bytes = \"1G\"\n\
             unlimited-memlock = true",
            "use one",
        ),
        (
            "[[client]]\nuser = 1\nsessions = [\"a\"]\nmax-sessions = 0",
            "max-sessions",
        ),
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
