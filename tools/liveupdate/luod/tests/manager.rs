// SPDX-License-Identifier: GPL-2.0

//! Questions of luod to systemd: a script called systemctl answers them, and a socket receives
//! the notifications.
//!
//! One test, since it changes the environment of its process.

use liveupdate::{fake::Kernel, systemd::Manager};
use luod::{
    config::Kexec,
    system::System,
    world::{Question, QuestionId, World},
};
use std::{
    env,
    fs::{self, Permissions},
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixStream},
        },
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The time after which an event is considered missing.
const SOON: Duration = Duration::from_secs(120);

const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
[ -p waits ] && read -r line <waits
case "$*" in
"show --property=Version --value") cat version ;;
"show --property=NFileDescriptorStore,"*" luod.service") cat store ;;
"show --property=Job --value kexec.target") cat job ;;
"kexec --no-block") echo started >kexec ;;
*) echo "what is $*?" >&2; exit 1 ;;
esac
"#;

const GOOD: &str =
    "NFileDescriptorStore=2\nFileDescriptorStoreMax=8\nFileDescriptorStorePreserve=yes\n";

/// Waits for the answer to a question.
fn answer(system: &mut System, id: QuestionId) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        match system.answer() {
            Some((of, answer)) => {
                assert_eq!(of, id);
                return answer;
            }
            None => assert!(start.elapsed() < SOON),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn ask(system: &mut System, question: Question) -> Result<bool, String> {
    let id = system.ask(question);
    answer(system, id).map_err(|error| error.to_string())
}

fn put(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn what_systemd_keeps() {
    let dir = env::temp_dir().join(format!("luod-manager-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    put(&dir, "systemctl", SCRIPT);
    fs::set_permissions(dir.join("systemctl"), Permissions::from_mode(0o755)).unwrap();
    put(&dir, "version", "261.2-1\n");
    put(&dir, "store", GOOD);
    put(&dir, "cgroup", "0::/system.slice/luod.service\n");
    let path = env::var("PATH").unwrap();
    env::set_var("PATH", format!("{}:{path}", dir.display()));
    // systemd reads and closes the descriptors.
    let hears = UnixDatagram::bind(dir.join("notify")).unwrap();
    env::set_var("NOTIFY_SOCKET", dir.join("notify"));
    thread::spawn(move || while hears.recv(&mut [0; 4096]).is_ok() {});
    let manager = Manager::from_env().unwrap();
    let kept = ["a".to_owned()];
    let mut system = System::new(Kexec::Systemctl, Some(manager), dir.join("state"), kept);
    system.set_cgroup(dir.join("cgroup"));
    // A session and the registry: there are two descriptors now.
    system.keep("luod-internal", hears_anything().as_fd());

    let is_kept = Question::IsKept { handover: false };
    assert_eq!(ask(&mut system, is_kept), Ok(true));
    for (file, text, part) in [
        ("version", "260\n".to_owned(), "newer systemd"),
        (
            "store",
            GOOD.replace("=yes", "=no"),
            "set FileDescriptorStorePreserve=yes",
        ),
        (
            "store",
            GOOD.replace("=yes", ""),
            "set FileDescriptorStorePreserve=yes",
        ),
        (
            "store",
            GOOD.replace("=8", "=1"),
            "raise FileDescriptorStoreMax=",
        ),
        (
            "store",
            GOOD.replace("=2", "=1"),
            "keeps 1 sessions of luod, and there are 2",
        ),
        (
            "store",
            GOOD.replace("=2", "=3"),
            "keeps 3 sessions of luod, and there are 2",
        ),
        ("store", String::new(), "does not report"),
        (
            "cgroup",
            "0::/user.slice/session-1.scope\n".to_owned(),
            "not a service",
        ),
    ] {
        let before = fs::read_to_string(dir.join(file)).unwrap();
        put(&dir, file, &text);
        let error = ask(&mut system, is_kept).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
        put(&dir, file, &before);
    }
    // The answer is not needed if luod starts the next kernel itself.
    put(&dir, "version", "260\n");
    system.set_kexec(Kexec::Reboot);
    assert_eq!(ask(&mut system, is_kept), Ok(true));
    assert!(ask(&mut system, Question::IsKept { handover: true }).is_err());
    system.set_kexec(Kexec::Systemctl);
    put(&dir, "version", "261\n");

    // systemctl does not answer: luod does not wait for it, and is woken by the answer.
    let (mut woken, wake) = UnixStream::pair().unwrap();
    system.wake_by(wake);
    let fifo = dir.join("waits");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let id = system.ask(Question::Kexec);
    assert!(system.answer().is_none());
    assert!(!dir.join("kexec").exists());
    let mut waits = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    assert!(system.answer().is_none());
    fs::remove_file(&fifo).unwrap();
    waits.write_all(b"continue\n").unwrap();
    woken.read_exact(&mut [0]).unwrap();
    assert!(answer(&mut system, id).unwrap());
    assert!(dir.join("kexec").exists());

    // Finishing a session for a long time does not block luod.
    let kernel = Kernel::new();
    let session = kernel.open().unwrap().create_session("s").unwrap();
    kernel.kexec();
    drop(session);
    let session = kernel.open().unwrap().retrieve_session("s").unwrap();
    kernel.hold_finishes(true);
    let id = system.finish(session);
    assert_eq!(kernel.incoming(), ["s"]);
    assert!(system.answer().is_none());
    kernel.hold_finishes(false);
    assert!(answer(&mut system, id).unwrap());
    assert!(kernel.incoming().is_empty());

    // systemd does not read, and its socket becomes full. This does not block luod, and when
    // systemd reads again, it gets all notifications, in order.
    let slow = UnixDatagram::bind(dir.join("slow")).unwrap();
    env::set_var("NOTIFY_SOCKET", dir.join("slow"));
    let manager = Manager::from_env().unwrap();
    let room = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
    let many = 3 * room.trim().parse::<usize>().unwrap() + 3;
    let mut busy = System::new(Kexec::Systemctl, Some(manager), dir.join("state"), []);
    for number in 0..many {
        busy.keep(&format!("s{number}"), hears_anything().as_fd());
        busy.forget(&format!("s{number}"));
        busy.status("busy");
    }
    let settled = busy.ask(Question::Settle);
    assert!(busy.answer().is_none());
    for number in 0..many {
        for expected in [
            format!("FDSTORE=1\nFDPOLL=0\nFDNAME=s{number}"),
            format!("FDSTOREREMOVE=1\nFDNAME=s{number}"),
            "STATUS=busy".to_owned(),
        ] {
            let mut text = [0; 100];
            let length = slow.recv(&mut text).unwrap();
            assert_eq!(std::str::from_utf8(&text[..length]).unwrap(), expected);
        }
    }
    thread::spawn(move || while slow.recv(&mut [0; 4096]).is_ok() {});
    assert!(answer(&mut busy, settled).unwrap());

    // luod waits for the answer at its end.
    let id = system.ask(Question::Settle);
    system.wait_for_answers();
    assert!(matches!(system.answer(), Some((of, Ok(true))) if of == id));
    fs::remove_dir_all(&dir).unwrap();
}

/// A descriptor to be kept.
fn hears_anything() -> UnixStream {
    UnixStream::pair().unwrap().0
}
