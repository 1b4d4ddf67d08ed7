// SPDX-License-Identifier: GPL-2.0

//! luoctl and luod, on a fake machine.

mod common;

use common::{read_until, read_until_any, start, wait, Client, Output, Root, SOON};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::{Decoder, Receive};
use rustix::pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    thread::{self, sleep},
    time::{Duration, Instant},
};

const NOWHERE: &str = "/nonexistent/luod.sock";

#[test]
fn without_luod() {
    let root = Root::new();
    for args in [
        &["status"][..],
        &["list"],
        &["report"],
        &["watch"],
        &["abort"],
        &["finish", "a", "--yes"],
        &["discard", "a", "--yes"],
        &["kexec", "--yes"],
        &["kexec", "--dry-run"],
        &["kexec", "--yes", "--force"],
    ] {
        let said = root.run(Path::new(NOWHERE), args).expect(3);
        assert!(said.says("is it running?").out.is_empty());
        let json = [&["--json"], args].concat();
        let said = root.run(Path::new(NOWHERE), &json).expect(3);
        assert_eq!(said.json()[0]["exit"], 3);
    }
}

#[test]
fn wrong_arguments() {
    let root = Root::new();
    let nowhere = Path::new(NOWHERE);
    root.run(nowhere, &["discard", "a b", "--yes"]).expect(2);
    root.run(nowhere, &["discard", "systemd", "--yes"])
        .expect(2);
    root.run(nowhere, &["colour"]).expect(2);
    root.run(nowhere, &["check", "--cmdline", "x"]).expect(2);
}

#[test]
fn status_and_list() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _client = Client::start(luod.path(), "cache");
    let ask = |args: &[&str]| root.run(luod.path(), args).expect(0);
    ask(&["status"])
        .says("phase:      idle")
        .says("subscribed: 1 (0 ready)");
    let status = ask(&["--json", "status"]).json();
    assert_eq!(status[0]["subscribed"], 1);
    assert_eq!(status[0]["image_loaded"], true);
    let said = ask(&["list"]).says("subscribed");
    assert!(said.out.starts_with("cache "), "{said:?}");
    let list = ask(&["list", "--json"]).json();
    assert_eq!(list[0]["sessions"][0]["session"], "cache");
    root.run(luod.path(), &["report"])
        .expect(1)
        .says("no update");
    root.run(luod.path(), &["abort"])
        .expect(1)
        .says("no-update");
    root.run(luod.path(), &["--json", "abort"])
        .expect(1)
        .says("\"exit\":1");
}

#[test]
fn a_dry_run() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _client = Client::start(luod.path(), "cache");
    let said = root.run(luod.path(), &["kexec", "--dry-run"]).expect(0);
    let said = said
        .says("preserving")
        .says("cache ")
        .says(": dry-run")
        .says("preserve ");
    assert!(said.err.is_empty(), "{said:?}");
    let json = root.run(luod.path(), &["--json", "kexec", "--dry-run"]);
    let json = json.expect(0).json();
    assert!(json.iter().any(|event| event["event"] == "PHASE"));
    let last = json.iter().rfind(|event| event["event"] == "RESULT");
    assert_eq!(last.unwrap()["outcome"], "dry-run");
    root.run(luod.path(), &["report"])
        .expect(0)
        .says(": dry-run");
    assert_eq!(world.kernel.updates(), 0);
}

#[test]
fn an_update() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let path = luod.path().to_owned();
    let client = Client::start(&path, "cache");
    let stray = Client::start(&path, "stray");
    // There is no terminal to ask.
    root.run(&path, &["kexec"]).expect(8).says("--yes");
    assert_eq!(world.kernel.updates(), 0);
    let said = root.run(&path, &["kexec", "--yes"]).expect(0);
    said.says("cache ").says("ready").says("update 1: jump");
    luod.wait();
    assert_eq!(world.kernel.updates(), 1);
    drop((client, stray));

    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    root.run(&path, &["status"])
        .expect(0)
        .says("incoming:   2 (2 unclaimed)");
    root.run(&path, &["kexec", "--yes"])
        .expect(1)
        .says("not finished: cache, stray");
    root.run(&path, &["finish", "stray", "--yes"]).expect(1);
    root.run(&path, &["discard", "stray"]).expect(8);
    root.run(&path, &["discard", "stray", "--yes"]).expect(0);
    let _client = Client::start(&path, "cache");
    wait(|| {
        let list = root.run(&path, &["list", "--json"]).json();
        let mut sessions = list[0]["sessions"].as_array().unwrap().iter();
        sessions.any(|s| s["session"] == "cache" && s["state"] == "finished")
    });
    let report = root.run(&path, &["report"]).expect(0);
    let report = report
        .says("update 1: updated")
        .says("from 7.3.0 to 7.3.1")
        .says("blackout: ")
        .says("jump: ");
    for mark in ["requested", "ready", "boot", "serving", "finished"] {
        assert!(report.out.contains(mark), "{mark}: {report:?}");
    }
    let json = root.run(&path, &["report", "--json"]).json();
    assert_eq!(json[0]["outcome"], "updated");
    assert!(json[0]["blackout_us"].as_u64().unwrap() > 0);
    drop(luod);
}

#[test]
fn clients_that_fail() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _good = Client::start(luod.path(), "good");
    let bad = Client::with_fault(luod.path(), "bad", Some("no\u{1b}[31m time"));
    root.run(luod.path(), &["kexec", "--yes"])
        .expect(7)
        .says("update 1: aborted")
        .says("session bad");
    let said = root.run(luod.path(), &["kexec", "--yes", "--json"]);
    let json = said.expect(7).json();
    assert!(json.iter().any(|event| event["outcome"] == "aborted"));
    root.run(luod.path(), &["report"])
        .expect(0)
        .says("update 2: aborted");
    drop(bad);

    // Clients close the sessions of an update after luod has reported its end to luoctl, and
    // luod detects a closed connection later than this test.
    wait(|| world.kernel.outgoing().is_empty());
    wait(|| !root.run(luod.path(), &["list"]).out.contains("bad "));
    let _slow = Client::with_fault(luod.path(), "slow", Some("hang"));
    root.run(luod.path(), &["kexec", "--yes", "--timeout", "1"])
        .expect(7)
        .says("not ready in time");
    assert_eq!(world.kernel.updates(), 0);
}

#[test]
fn abort_while_a_client_hangs() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _slow = Client::with_fault(luod.path(), "slow", Some("hang"));
    let mut watch = root.luoctl(luod.path(), &["watch"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut watched = watch.stdout.take().unwrap();
    read_until(&mut watched, "slow ");
    let kexec = root
        .luoctl(luod.path(), &["kexec", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    read_until(&mut watched, "preserving");
    root.run(luod.path(), &["kexec", "--yes"])
        .expect(1)
        .says("update-running");
    root.run(luod.path(), &["abort"]).expect(0);
    Output::of(kexec)
        .expect(7)
        .says("the operator has aborted it");
    read_until(&mut watched, "update 1: idle");
    // Standard output may be closed, and luod may end.
    drop(watched);
    root.run(luod.path(), &["kexec", "--dry-run", "--timeout", "1"])
        .expect(7);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    let mut watch = root
        .luoctl(luod.path(), &["watch", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // luod may not have read the request of a connected client.
    let said = read_until(watch.stdout.as_mut().unwrap(), "\"sessions\"");
    assert!(
        said.starts_with("{\"version\":1,\"event\":\"STATUS\""),
        "{said}"
    );
    drop(luod);
    Output::of(watch).expect(3);
}

#[test]
fn the_loaded_image() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let path = luod.path();
    let _client = Client::start(path, "cache");
    let kexec = |args: &[&str]| root.run(path, &[&["kexec"], args].concat());

    // Loaded by kexec_load().
    root.put("sys/kernel/liveupdate/image", "without\n");
    kexec(&["--yes"]).expect(4).says("kexec_load()");
    let json = kexec(&["--yes", "--json"]).expect(4).json();
    assert_eq!(json[0]["exit"], 4);
    // Unloaded since.
    root.put("sys/kernel/liveupdate/image", "none\n");
    kexec(&["--yes"]).expect(4).says("luoctl load");
    // A format that it does not support came into use after it was loaded.
    root.put("sys/kernel/liveupdate/image", "with\n");
    root.put("sys/kernel/liveupdate/in_use", "memfd-v2\nvfio-v1\n");
    kexec(&["--yes"]).expect(4).says("vfio-v1");
    assert_eq!(world.kernel.updates(), 0);
    assert!(world.kernel.outgoing().is_empty());
    kexec(&["--dry-run"]).expect(0).says("vfio-v1");

    // With --force: the loss is reported, and the update continues.
    kexec(&["--force"]).expect(8).says("can be lost: cache");
    kexec(&["--force", "--yes"])
        .expect(0)
        .says("vfio-v1")
        .says("can be lost: cache");
    assert_eq!(world.kernel.updates(), 1);
}

#[test]
fn luod_looks_again() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _client = Client::start(luod.path(), "cache");
    // The formats in use are only known when clients have preserved their files.
    world.state().objection = Some("it does not understand vfio-v1".into());
    for how in ["--yes", "--dry-run"] {
        root.run(luod.path(), &["kexec", how])
            .expect(7)
            .says("would lose data")
            .says("vfio-v1");
    }
    assert_eq!(world.kernel.updates(), 0);
    // The client closes its session after luod has told luoctl.
    wait(|| world.kernel.outgoing().is_empty());
    root.run(luod.path(), &["kexec", "--yes", "--force"])
        .expect(0);
    assert_eq!(world.kernel.updates(), 1);
}

#[test]
fn an_image_that_nobody_knows() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    root.remove("run/luod/image.json");
    root.run(luod.path(), &["kexec"])
        .expect(8)
        .says("may lose data");
    root.run(luod.path(), &["kexec", "--yes", "--force"])
        .expect(0)
        .says("not certain (unknown)");
    assert_eq!(world.kernel.updates(), 1);
}

/// luoctl on a terminal.
fn on_terminal(root: &Root, luod: &Path, args: &[&str]) -> (Child, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let mut options = OpenOptions::new();
    let other = options
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let child = root
        .luoctl(luod, args)
        .env("TERM", "xterm")
        .stdin(other.try_clone().unwrap())
        .stdout(other.try_clone().unwrap())
        .stderr(other)
        .spawn()
        .unwrap();
    (child, File::from(terminal))
}

#[test]
fn a_terminal() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _good = Client::start(luod.path(), "good");
    let _slow = Client::with_fault(luod.path(), "slow", Some("hang"));

    let (mut luoctl, mut terminal) = on_terminal(&root, luod.path(), &["kexec"]);
    read_until(&mut terminal, "Really replace the running kernel now?");
    terminal.write_all(b"n\n").unwrap();
    read_until(&mut terminal, "nothing was done");
    assert_eq!(luoctl.wait().unwrap().code(), Some(8));
    assert_eq!(world.kernel.updates(), 0);

    let args = ["kexec", "--timeout", "600"];
    let (mut luoctl, mut terminal) = on_terminal(&root, luod.path(), &args);
    read_until(&mut terminal, "[y/N]");
    terminal.write_all(b"y\n").unwrap();
    // The output has the pending client and its time, without events.
    let times: Vec<String> = (1..600).map(|time| format!("slow, {time}.")).collect();
    let times: Vec<&str> = times.iter().map(String::as_str).collect();
    read_until_any(&mut terminal, &times);
    root.run(luod.path(), &["abort"]).expect(0);
    read_until(&mut terminal, "aborted");
    drop(terminal);
    assert_eq!(luoctl.wait().unwrap().code(), Some(7));
}

#[test]
fn a_hostile_luod() {
    let root = Root::new();
    let path = root.path("hostile.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let evil = "\\u001b[2J\\u009b2J\\u202e\\n";
    let info = format!(
        r#""session":"a","direction":"outgoing","state":"ready","client":"{evil}","since_ms":1,"error":"{evil}","progress":{{"text":"{evil}"}}"#
    );
    let report = format!(
        r#""update":1,"outcome":"aborted","reason":"{evil}","from":"{evil}","marks":[],"sessions":[{{"session":"a","state":"ready","error":"{evil}"}}]"#
    );
    let status = format!(
        r#""phase":"idle","update":1,"connections":1,"subscribed":0,"ready":0,"incoming":0,"unclaimed":0,"image_loaded":null,"kernel":"{evil}","luod":"","problem":"{evil}""#
    );
    let answers = [
        (&["status"][..], 0, format!(r#""event":"STATUS",{status}"#)),
        (
            &["list"],
            0,
            format!(r#""event":"LIST","sessions":[{{{info}}}]"#),
        ),
        (&["report"], 0, format!(r#""event":"REPORT",{report}"#)),
        (
            &["abort"],
            1,
            format!(r#""event":"ERROR","code":"no-update","message":"{evil}""#),
        ),
        (
            &["kexec", "--dry-run"],
            7,
            format!("\"event\":\"CHANGE\",{info}}}\n{{\"event\":\"RESULT\",{report}"),
        ),
        (&["list"], 3, "nonsense".to_owned()),
        (&["list"], 1, r#""event":"OK","cmd":"LIST""#.to_owned()),
    ];
    for (args, code, answer) in answers {
        for json in [false, true] {
            let listener = listener.try_clone().unwrap();
            let answer = answer.clone();
            let server = thread::spawn(move || serve(&listener, &answer));
            let args = if json {
                [&["--json"], args].concat()
            } else {
                args.to_vec()
            };
            // Every run of luoctl checks that the output contains no control characters.
            let said = root.run(&path, &args).expect(code);
            if json && args.contains(&"status") {
                // JSON contains the complete text.
                let kernel = "\u{1b}[2J\u{9b}2J\u{202e}\n";
                assert_eq!(said.json()[0]["kernel"], kernel);
            }
            server.join().unwrap();
        }
    }

    let info = info.replace("ready", "preserving");
    let answer = format!("\"event\":\"CHANGE\",{info}");
    let (seen, is_seen) = mpsc::channel::<()>();
    let server = thread::spawn(move || {
        let _stream = serve(&listener, &answer);
        // The connection ends when the other end of the channel does.
        let _ = is_seen.recv();
    });
    let args = ["kexec", "--dry-run"];
    let (mut luoctl, mut terminal) = on_terminal(&root, &path, &args);
    let said = read_until(&mut terminal, "waiting for a, ");
    drop(seen);
    let said = said + &read_until(&mut terminal, "see luoctl status");
    assert!(!said.contains(['\u{9b}', '\u{202e}']) && !said.contains("[2J\u{9b}"));
    assert_eq!(luoctl.wait().unwrap().code(), Some(3));
    server.join().unwrap();
}

/// Answers one request; the connection ends when the returned value is dropped.
fn serve(listener: &UnixListener, answer: &str) -> UnixStream {
    let (stream, _) = listener.accept().unwrap();
    let request = request(&stream);
    let seq = request["seq"].as_u64().unwrap();
    // The client may have closed the connection.
    let _ = (&stream).write_all(format!("{{\"seq\":{seq},{answer}}}\n").as_bytes());
    stream
}

fn request(stream: &UnixStream) -> serde_json::Value {
    let mut decoder = Decoder::new(1 << 16);
    let start = Instant::now();
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            return serde_json::from_slice(&frame.line).unwrap();
        }
        assert!(start.elapsed() < SOON);
        match decoder.receive(stream).unwrap() {
            Receive::End => panic!("luoctl has closed the connection"),
            _ => sleep(Duration::from_millis(5)),
        }
    }
}

/// The first Ctrl-C aborts the update.
#[test]
fn interrupted() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _slow = Client::with_fault(luod.path(), "slow", Some("hang"));
    let mut kexec = root.luoctl(luod.path(), &["kexec", "--yes"]);
    let kexec = kexec.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut kexec = kexec.spawn().unwrap();
    let said = read_until(kexec.stdout.as_mut().unwrap(), "slow ");
    let pid = rustix::process::Pid::from_child(&kexec);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = Output::of(kexec);
    assert!(said.contains("preserving"), "{said}");
    output.expect(7).says("aborts the update");
    assert_eq!(world.kernel.updates(), 0);
    root.run(luod.path(), &["status"]).expect(0).says("idle");
}

#[test]
fn detached() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _slow = Client::with_fault(luod.path(), "slow", Some("hang"));
    root.run(luod.path(), &["kexec", "--yes", "--detach"])
        .expect(0)
        .says("continues");
    root.run(luod.path(), &["status"]).says("preserving");
    root.run(luod.path(), &["abort"]).expect(0);
}

/// `--yes` does not confirm an unknown verdict.
#[test]
fn what_the_check_has_to_say() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    root.remove("run/luod/image.json");
    root.run(luod.path(), &["kexec", "--yes"])
        .expect(5)
        .says("is unknown");
    assert_eq!(world.kernel.updates(), 0);
    root.run(luod.path(), &["kexec", "--yes", "--require", "unknown"])
        .expect(2);
    root.run(luod.path(), &["kexec", "--yes", "--timeout", "0"])
        .expect(2);
    root.run(luod.path(), &["kexec", "--yes", "--force", "--expect", "1"])
        .expect(0);
}

/// The verdict "likely" is sufficient, unless --require is given.
#[test]
fn what_is_likely() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _client = Client::start(luod.path(), "cache");
    // This kernel does not report the formats in use.
    root.remove("sys/kernel/liveupdate/in_use");
    root.run(luod.path(), &["kexec", "--yes", "--require", "yes"])
        .expect(6)
        .says("is likely");
    assert_eq!(world.kernel.updates(), 0);
    root.run(luod.path(), &["kexec", "--yes"])
        .expect(0)
        .says("not certain (likely)");
    assert_eq!(world.kernel.updates(), 1);
}

/// The second Ctrl-C ends luoctl, and luod continues.
#[test]
fn interrupted_twice() {
    let root = Root::new();
    let path = root.path("luod.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut kexec = root.luoctl(&path, &["kexec", "--yes", "--dry-run"]);
    let mut kexec = kexec.stderr(Stdio::piped()).spawn().unwrap();
    // A luod that does not answer; first comes the update, and then its end.
    let (stream, _) = listener.accept().unwrap();
    assert_eq!(request(&stream)["cmd"], "UPDATE");
    let pid = rustix::process::Pid::from_child(&kexec);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    read_until(kexec.stderr.as_mut().unwrap(), "interrupt again");
    assert_eq!(request(&stream)["cmd"], "ABORT");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = kexec.wait().unwrap();
    assert_eq!(status.code(), None, "{status}");
}

#[test]
fn fewer_than_expected() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    let _good = Client::start(luod.path(), "good");
    root.run(luod.path(), &["kexec", "--yes", "--expect", "2"])
        .expect(1)
        .says("2 are expected");
    assert_eq!(world.kernel.updates(), 0);
    root.run(luod.path(), &["kexec", "--yes", "--expect", "1"])
        .expect(0);
}

/// Without clients, no update is started.
#[test]
fn nobody_is_on_board() {
    let (root, world) = (Root::new(), FakeWorld::new());
    let luod = start(&world);
    for args in [&["--yes"][..], &["--dry-run"], &["--yes", "--detach"]] {
        root.run(luod.path(), &[&["kexec"], args].concat())
            .expect(1)
            .says("no session is subscribed")
            .says("--expect 0");
    }
    root.run(luod.path(), &["kexec", "--dry-run", "--force"])
        .expect(0);
    assert_eq!(world.kernel.updates(), 0);
    root.run(luod.path(), &["kexec", "--yes", "--expect", "0"])
        .expect(0);
    assert_eq!(world.kernel.updates(), 1);

    let luod = start(&world);
    root.run(luod.path(), &["kexec", "--yes", "--force"])
        .expect(0)
        .says("nothing is preserved");
    assert_eq!(world.kernel.updates(), 2);
}
