// SPDX-License-Identifier: GPL-2.0

//! The hook that keeps peers from resetting connections.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// Set if the test runs in a network of its own.
const INSIDE: &str = "LUOD_TEST_NETWORK";

const UNIT: &str = include_str!("../units/luod-hold-connections.service");

struct Hook(PathBuf);

impl Hook {
    fn new(name: &str, conf: &str) -> Self {
        let dir = env::temp_dir().join(format!("luod-hold-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("conf"), conf).unwrap();
        Self(dir)
    }

    /// A program that the hook calls.
    fn program(&self, name: &str, script: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, stage: &str) -> Output {
        let path = env::var("PATH").unwrap_or_default();
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks/hold-connections");
        let mut command = Command::new("sh");
        command.arg(hook).env("LUOD_STAGE", stage);
        if matches!(stage, "arrive" | "follow") {
            command.env_remove("LUOD_STAGE").arg(stage);
        }
        command.env("LUOD_HOLD_CONF", self.0.join("conf"));
        command.env(
            "PATH",
            format!("{}:{path}:/usr/sbin:/sbin", self.0.display()),
        );
        command.output().unwrap()
    }

    fn rules(&self) -> String {
        let rules = fs::read_to_string(self.0.join("rules")).unwrap_or_default();
        let _ = fs::remove_file(self.0.join("rules"));
        rules
    }

    /// A luod in this phase, or one that does not answer.
    fn luod(&self, phase: Option<&str>) {
        let script = match phase {
            Some(phase) => format!(r#"echo '{{"phase":"{phase}"}}'"#),
            None => "exit 3".to_owned(),
        };
        self.program("luoctl", &script);
    }

    /// An nft that has a file for each table.
    fn tables(&self) {
        let dir = self.0.display();
        self.program(
            "nft",
            &format!(
                r#"if [ "$1" = list ]; then test -e {dir}/"$4"; exit; fi
                while read -r word inet name rest; do
                    case "$word $rest" in
                    'table {{'*) touch {dir}/"$name" ;;
                    'delete '*) rm {dir}/"$rest" ;;
                    esac
                done"#
            ),
        );
    }

    /// Whether the connections are held for an update, and after one.
    fn held(&self) -> (bool, bool) {
        let exists = |name| self.0.join(name).exists();
        (exists("luod_hold"), exists("luod_hold_arrival"))
    }

    #[track_caller]
    fn succeeds(&self, stage: &str) {
        let output = self.run(stage);
        assert!(output.status.success(), "{stage}: {output:?}");
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn rules() {
    let hook = Hook::new("rules", "# a comment\n\ntcp 11211\nudp 4789\n");
    let rules = hook.0.join("rules");
    hook.program("nft", &format!("cat >> {}", rules.display()));
    assert!(hook.run("pre").status.success());
    let rules = hook.rules();
    for rule in [
        "add rule inet luod_hold in tcp dport 11211 drop",
        "add rule inet luod_hold out tcp sport 11211 drop",
        "add rule inet luod_hold in udp dport 4789 drop",
    ] {
        assert!(rules.contains(rule), "{rules}");
    }
    for stage in ["abort", "post"] {
        assert!(hook.run(stage).status.success());
        let rules = hook.rules();
        assert!(rules.contains("delete table inet luod_hold"), "{rules}");
        assert!(!rules.contains("drop"), "{rules}");
    }
    // After a boot without an update, nothing is held.
    for (phase, held) in [("idle", false), ("restoring", true), ("unknown", true)] {
        hook.program("luoctl", &format!(r#"echo '{{"phase":"{phase}"}}'"#));
        assert!(hook.run("arrive").status.success());
        let rules = hook.rules();
        assert_eq!(rules.contains("drop"), held, "{phase}: {rules}");
    }
    for conf in ["sctp 7", "tcp", "tcp x", "tcp 7; flush ruleset", "tcp 7 8"] {
        fs::write(hook.0.join("conf"), format!("{conf}\n")).unwrap();
        let output = hook.run("pre");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("conf: '"),
            "{conf}: {said}"
        );
        assert_eq!(hook.rules(), "", "{conf}");
    }
    fs::write(hook.0.join("conf"), "\n").unwrap();
    assert!(hook.run("pre").status.success());
    assert_eq!(hook.rules(), "");
}

/// The phase after an update can end without post.d: by FORGET, or if the device was only busy.
#[test]
fn the_phase_ends_without_a_hook() {
    let hook = Hook::new("follow", "tcp 11211\n");
    hook.tables();
    // Each time that the hook waits: luod becomes idle, post.d still runs, and then ends.
    let dir = hook.0.display();
    let script = format!(
        r#"echo >> {dir}/slept
        case $(wc -l < {dir}/slept) in
        1) echo 'echo "{{\"phase\":\"idle\"}}"' > {dir}/luoctl ;;
        3) echo 'echo inactive' > {dir}/systemctl ;;
        esac"#
    );
    hook.program("sleep", &script);
    for phase in [Some("unknown"), Some("restoring"), None] {
        hook.luod(phase);
        hook.program("systemctl", "echo inactive; echo inactive; echo activating");
        hook.succeeds("arrive");
        assert_eq!(hook.held(), (false, true), "{phase:?}");
        hook.succeeds("follow");
        let slept = hook.0.join("slept");
        let times = fs::read_to_string(&slept).unwrap_or_default().len();
        assert!(times >= 5, "{phase:?}: {times}");
        fs::remove_file(slept).unwrap();
        assert_eq!(hook.held(), (false, false), "{phase:?}");
    }
    // Nothing is held, or post.d has released it.
    hook.program("sleep", "kill $PPID");
    hook.luod(Some("idle"));
    hook.succeeds("arrive");
    assert_eq!(hook.held(), (false, false));
    hook.succeeds("follow");
    hook.luod(Some("restoring"));
    hook.succeeds("arrive");
    hook.succeeds("post");
    hook.succeeds("follow");
    assert_eq!(hook.held(), (false, false));
}

/// The end of an update does not release what is held for another one.
#[test]
fn the_next_update() {
    let hook = Hook::new("next", "tcp 11211\n");
    hook.tables();
    hook.program("sleep", "true");
    hook.program("systemctl", "echo inactive");
    hook.luod(Some("restoring"));
    hook.succeeds("arrive");
    hook.succeeds("pre");
    assert_eq!(hook.held(), (true, true));
    hook.succeeds("abort");
    assert_eq!(hook.held(), (false, true));
    hook.succeeds("pre");
    hook.luod(Some("idle"));
    hook.succeeds("follow");
    assert_eq!(hook.held(), (true, false));
    // Also if the configuration was removed in between.
    fs::remove_file(hook.0.join("conf")).unwrap();
    hook.succeeds("abort");
    assert_eq!(hook.held(), (false, false));
}

/// The network is set up after the connections are held, not after they are released.
#[test]
fn the_service() {
    let program = "/usr/lib/luod/hooks/hold-connections";
    for line in [
        "Type=exec".to_owned(),
        format!("ExecStartPre={program} arrive"),
        format!("ExecStart={program} follow"),
        "Before=network-pre.target shutdown.target".to_owned(),
        "Restart=on-failure".to_owned(),
    ] {
        assert!(UNIT.lines().any(|other| other == line), "{line}");
    }
}

/// A peer gets neither a reset nor the end of the connection while it is held. This needs nftables
/// and a network namespace, and is skipped without them.
#[test]
fn a_peer_is_not_reset() {
    if env::var_os(INSIDE).is_none() {
        let ready = "ip link set lo up && nft list ruleset > /dev/null";
        let usable = Command::new("unshare")
            .args(["-rn", "sh", "-c", ready])
            .output();
        if !usable.is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no nftables here, or no network namespace");
            return;
        }
        let script = "ip link set lo up && exec \"$@\"";
        let status = Command::new("unshare")
            .args(["-rn", "sh", "-c", script, "sh"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", "a_peer_is_not_reset", "--nocapture"])
            .env(INSIDE, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hook = Hook::new("peer", &format!("tcp {port}\n"));
    let mut peer = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (server, _) = listener.accept().unwrap();
    let output = hook.run("pre");
    assert!(output.status.success(), "{output:?}");
    // The server ends as in an update, and the next kernel does not know the connection.
    drop((server, listener));
    peer.write_all(b"lost?").unwrap();
    peer.set_read_timeout(Some(Duration::from_millis(600)))
        .unwrap();
    let waiting = peer.read(&mut [0]).unwrap_err().kind();
    assert_eq!(waiting, ErrorKind::WouldBlock);
    // The peer retransmits, and is answered.
    assert!(hook.run("post").status.success());
    peer.set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    let answered = peer.read(&mut [0]);
    let reset = matches!(&answered, Err(error) if error.kind() == ErrorKind::ConnectionReset);
    assert!(reset || matches!(answered, Ok(0)), "{answered:?}");
}
