// SPDX-License-Identifier: GPL-2.0

//! A guest under the real QEMU, with luod and a kernel in the process of the test. Needs
//! qemu-system-x86_64.

use liveupdate::luod::Member;
use luo_qemu::{guest::Guest, memory, process::Process, run_dir::RunDir, spec::Spec};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::{Channel, Event, Outcome, Report, Request};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A time limit that is never reached.
const LIMIT: Duration = Duration::from_secs(300);
/// The address of the counter, and of the flag for a mismatch of register and memory.
const COUNTER: u64 = 0x7e00;
const WRONG: u64 = 0x7e08;

/// A boot sector that counts in a register and in memory, and stops if these differ.
const PROGRAM: [u8; 41] = [
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0x66, 0x31, 0xdb, // xor ebx, ebx
    0x66, 0x89, 0x1e, 0x00, 0x7e, // mov [COUNTER], ebx
    0x66, 0x43, // 1: inc ebx
    0x66, 0xa1, 0x00, 0x7e, // mov eax, [COUNTER]
    0x66, 0x40, // inc eax
    0x66, 0xa3, 0x00, 0x7e, // mov [COUNTER], eax
    0x66, 0x39, 0xd8, // cmp eax, ebx
    0x74, 0xef, // je 1b
    0x66, 0xc7, 0x06, 0x08, 0x7e, 0xad, 0xde, 0x00, 0x00, // mov dword [WRONG], 0xdead
    0xeb, 0xfe, // 1: jmp 1b
    0x90, // nop
];

struct Machine {
    dir: TempDir,
    arguments: Vec<String>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        let mut sector = vec![0; 512 * 128];
        sector[..PROGRAM.len()].copy_from_slice(&PROGRAM);
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&disk, sector).unwrap();
        let drive = format!("file={},format=raw,if=ide,index=0", disk.display());
        let arguments = [
            "-machine",
            "pc,accel=tcg",
            "-m",
            "16M",
            "-nodefaults",
            "-display",
            "none",
            "-drive",
            &drive,
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        Self { dir, arguments }
    }

    fn guest(&self) -> Guest {
        let memory = memory::backends(&self.arguments, &[], None, None).unwrap();
        let program = "qemu-system-x86_64".into();
        let spec = Spec::new("g", program, self.arguments.clone(), memory).unwrap();
        let directory = RunDir::take_in(self.dir.path(), "g").unwrap();
        Guest::new(spec, directory, None).unwrap()
    }

    fn join(&self, luod: &Path) -> Member<Guest> {
        let mut member = Member::join_at(luod, "vm-g", &["vm-g"], self.guest()).unwrap();
        if !member.participant().is_running() {
            member.participant_mut().launch(None).unwrap();
        }
        member
    }
}

impl Drop for Machine {
    /// A test that fails leaves no QEMU.
    fn drop(&mut self) {
        let left = RunDir::take_in(self.dir.path(), "g").and_then(|directory| {
            let left = directory.left()?;
            Ok((directory.qmp(), left))
        });
        if let Ok((qmp, Some((record, _)))) = left {
            if let Ok(Some(process)) = Process::adopt(record.qemu, &qmp) {
                process.end();
            }
        }
    }
}

/// The counter of the guest.
fn count(memory: &File) -> u32 {
    let number = |at| {
        let mut bytes = [0; 4];
        memory.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    };
    assert_eq!(number(WRONG), 0, "the guest's register and memory differ");
    number(COUNTER)
}

/// Waits until the counter increases.
fn counts_on(member: &mut Member<Guest>) -> u32 {
    let start = Instant::now();
    let memory = member.participant().memory_file(0).unwrap();
    let first = count(&memory);
    loop {
        let now = count(&memory);
        if now != first && now > 1000 {
            return now;
        }
        assert!(start.elapsed() < LIMIT, "the guest does not count");
        assert_eq!(member.participant_mut().ended().unwrap(), None);
        sleep(Duration::from_millis(5));
    }
}

fn update(luod: &Luod, dry_run: bool) -> Channel {
    let mut channel = Channel::connect(luod.path()).unwrap();
    let request = Request::Update {
        timeout_ms: Some(600_000),
        dry_run,
        force: false,
        expect: None,
    };
    let (answer, _) = channel.call(&request, Some(LIMIT)).unwrap();
    assert!(matches!(answer, Event::Ok { .. }), "{answer:?}");
    channel
}

fn result(mut channel: Channel) -> Report {
    loop {
        let (message, _) = channel.receive(Some(LIMIT)).unwrap().unwrap();
        if let Event::Result(report) = message.body {
            return report;
        }
    }
}

fn step_until(member: &mut Member<Guest>, so: impl Fn(&mut Member<Guest>) -> bool) {
    let start = Instant::now();
    while !so(member) {
        assert!(start.elapsed() < LIMIT);
        member.step(Some(Duration::from_millis(20))).unwrap();
    }
}

#[test]
fn a_guest_survives() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let mut luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let mut member = machine.join(&path);
    counts_on(&mut member);

    // An update that is aborted.
    let dry = update(&luod, true);
    step_until(&mut member, |member| !member.is_idle());
    step_until(&mut member, |member| member.is_idle());
    assert_eq!(result(dry).outcome, Outcome::DryRun);
    assert_eq!(member.participant_mut().status().unwrap(), "running");
    counts_on(&mut member);

    for _ in 0..2 {
        let operator = update(&luod, false);
        step_until(&mut member, |member| member.participant().is_frozen());
        let status = member.participant_mut().status().unwrap();
        assert_eq!(status, "postmigrate");
        let before = count(&member.participant().memory_file(0).unwrap());
        luod.wait();
        drop(operator);
        member.participant_mut().kill();
        drop(member);

        luod = Luod::start_at(&world, own_config(), &path).unwrap();
        member = machine.join(&path);
        assert_eq!(member.restored().len(), 1);
        assert!(
            world.kernel.incoming().is_empty(),
            "the session is finished"
        );
        let after = counts_on(&mut member);
        assert!(after > before, "it was {before} and is {after}");
    }
    member.participant_mut().kill();
}

#[test]
fn a_guest_outlives_its_custodian() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let mut member = machine.join(&path);
    let before = counts_on(&mut member);
    let adopt = || {
        let mut guest = machine.guest();
        assert!(guest.adopt().unwrap());
        Member::join_at(&path, "vm-g", &["vm-g"], guest).unwrap()
    };

    // As if luo-qemu were killed: nothing is said to QEMU.
    drop(member);
    member = adopt();
    assert!(!member.participant().is_orphan());
    let after = counts_on(&mut member);
    assert!(after > before, "it was {before} and is {after}");

    // The same while the guest is paused: it must not run before the update is over.
    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    drop(member);
    luod.wait();
    drop(operator);
    let mut guest = machine.guest();
    assert!(guest.adopt().unwrap());
    assert!(guest.is_orphan());
    assert_eq!(guest.status().unwrap(), "postmigrate");
    let memory = guest.memory_file(0).unwrap();
    let paused = count(&memory);
    guest.resume().unwrap();
    let start = Instant::now();
    while count(&memory) == paused {
        assert!(start.elapsed() < LIMIT, "the guest does not count");
    }
    guest.kill();
    drop(guest);

    // There is nobody to take over any more.
    assert!(!machine.guest().adopt().unwrap());
}

#[test]
fn a_guest_that_cannot_go_on_is_kept() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let mut member = machine.join(&path);
    let before = counts_on(&mut member);
    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    luod.wait();
    drop(operator);
    member.participant_mut().kill();
    drop(member);

    let _luod = Luod::start_at(&world, own_config(), &path).unwrap();
    // There is no QEMU on the new host, and then one that ends immediately.
    for program in ["/nonexistent/qemu", "/bin/false"] {
        let directory = RunDir::take_in(machine.dir.path(), "g").unwrap();
        let spec = Spec::new("g", "".into(), Vec::new(), Vec::new()).unwrap();
        let guest = Guest::new(spec, directory, Some(program.into())).unwrap();
        let error = Member::join_at(&path, "vm-g", &["vm-g"], guest).unwrap_err();
        assert!(
            error.to_string().contains("QEMU") || error.to_string().contains("qemu"),
            "{error}"
        );
        let kept = world.kernel.incoming();
        assert!(kept.iter().any(|name| name == "vm-g"), "{kept:?}");
    }
    let mut member = machine.join(&path);
    assert!(counts_on(&mut member) > before);
    member.participant_mut().kill();
}
