// SPDX-License-Identifier: GPL-2.0

//! A machine with a guest that counts, and what the tests do with them.

use liveupdate::{
    luod::{Client, Member, Notice, SessionName},
    OutgoingSession,
};
use luo_qemu::{
    guest::Guest,
    memory,
    process::Process,
    qmp::Qmp,
    run_dir::{Record, RunDir, State},
    spec::Spec,
};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::{Channel, Event, Outcome, Report, Request};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A time limit that is never reached.
pub const LIMIT: Duration = Duration::from_secs(300);
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

pub struct Machine {
    /// The name of the guest.
    name: &'static str,
    pub dir: TempDir,
    pub arguments: Vec<String>,
    /// The working directory and environment of the guest, if they are not those of the test.
    pub place: Option<(PathBuf, BTreeMap<String, String>)>,
    /// Whether the operator accepts risks.
    pub forced: bool,
}

impl Machine {
    /// A machine with a guest `g`.
    pub fn new() -> Self {
        Self::named("g")
    }

    pub fn named(name: &'static str) -> Self {
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
        Self {
            name,
            dir,
            arguments,
            place: None,
            forced: false,
        }
    }

    /// The directory of the guest. A child that another test starts at this time has inherited the
    /// lock until it executes its program.
    pub fn directory(&self) -> RunDir {
        let start = Instant::now();
        loop {
            match RunDir::take_in(self.dir.path(), self.name) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.unwrap(),
            }
            assert!(start.elapsed() < LIMIT, "the directory is locked");
            sleep(Duration::from_millis(5));
        }
    }

    pub fn guest(&self) -> Guest {
        let memory = memory::backends(&self.arguments, &[], None, None).unwrap();
        let program = "qemu-system-x86_64".into();
        let mut spec = Spec::new(self.name, program, self.arguments.clone(), memory).unwrap();
        spec.forced = self.forced;
        if let Some((directory, environment)) = &self.place {
            spec.directory.clone_from(directory);
            spec.environment.clone_from(environment);
        }
        let directory = self.directory();
        Guest::new(spec, directory, None).unwrap()
    }

    /// What is recorded of the guest.
    pub fn record(&self) -> Record {
        let path = self.dir.path().join(self.name).join("status.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// The recorded state of the guest, and the number of its updates.
    pub fn status(&self) -> (State, u64) {
        let record = self.record();
        (record.state, record.updates)
    }

    /// All QEMUs of the guest.
    pub fn qemus(&self) -> Vec<Process> {
        let socket = self.dir.path().join(self.name).join("qmp.sock");
        Process::all(&format!("unix:{},server=on,wait=off", socket.display())).unwrap()
    }

    /// The process id of the only QEMU of the guest.
    pub fn qemu(&self) -> u32 {
        let all = self.qemus();
        let [only] = all.as_slice() else {
            panic!("there are {} QEMUs", all.len());
        };
        only.id()
    }

    /// Adds arguments, separated by spaces.
    pub fn add(&mut self, arguments: &str) {
        let words = arguments.split_whitespace().map(str::to_owned);
        self.arguments.extend(words);
    }

    /// The operator's own monitor, if the arguments have that of [`Self::add_monitor`].
    pub fn monitor(&self) -> Qmp {
        Qmp::connect(&self.dir.path().join("own.sock"), LIMIT, || Ok(())).unwrap()
    }

    /// Adds a monitor of the operator.
    pub fn add_monitor(&mut self) {
        let socket = self.dir.path().join("own.sock");
        self.add(&format!(
            "-qmp unix:{},server=on,wait=off",
            socket.display()
        ));
    }

    /// Starts luod, and the guest as its client. Returns the path of luod's socket as well.
    pub fn start(&self, world: &FakeWorld) -> (Luod, PathBuf, Member<Guest>) {
        let luod = Luod::start(world, own_config()).unwrap();
        let path = luod.path().to_owned();
        let member = self.join(&path);
        (luod, path, member)
    }

    pub fn join(&self, luod: &Path) -> Member<Guest> {
        let session = format!("vm-{}", self.name);
        let mut member =
            Member::join_at(luod, &session, &[session.as_str()], self.guest()).unwrap();
        if !member.participant().is_running() {
            member.participant_mut().launch(None).unwrap();
        }
        member
    }
}

impl Drop for Machine {
    /// A test that fails leaves no QEMU.
    fn drop(&mut self) {
        for process in self.qemus() {
            process.end();
        }
    }
}

/// The counter of the guest.
pub fn count(memory: &File) -> u32 {
    let number = |at| {
        let mut bytes = [0; 4];
        memory.read_exact_at(&mut bytes, at).unwrap();
        u32::from_le_bytes(bytes)
    };
    assert_eq!(number(WRONG), 0, "the guest's register and memory differ");
    number(COUNTER)
}

/// Waits until the counter increases.
pub fn counts_on(member: &mut Member<Guest>) -> u32 {
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

pub fn update(luod: &Luod, dry_run: bool) -> Channel {
    update_with(luod, dry_run, false)
}

pub fn update_with(luod: &Luod, dry_run: bool, force: bool) -> Channel {
    let mut channel = Channel::connect(luod.path()).unwrap();
    let request = Request::Update {
        timeout_ms: Some(600_000),
        dry_run,
        force,
        expect: None,
    };
    let (answer, _) = channel.call(&request, Some(LIMIT)).unwrap();
    assert!(matches!(answer, Event::Ok { .. }), "{answer:?}");
    channel
}

pub fn result(mut channel: Channel) -> Report {
    loop {
        let (message, _) = channel.receive(Some(LIMIT)).unwrap().unwrap();
        if let Event::Result(report) = message.body {
            return report;
        }
    }
}

/// Replaces the kernel: the guest is paused, and its QEMU ends with the old kernel. Returns the counter
/// of the paused guest.
pub fn jump(luod: Luod, mut member: Member<Guest>) -> u32 {
    let operator = update(&luod, false);
    step_until(&mut member, |member| member.participant().is_frozen());
    assert_eq!(member.participant_mut().status().unwrap(), "postmigrate");
    let paused = count(&member.participant().memory_file(0).unwrap());
    luod.wait();
    drop(operator);
    member.participant_mut().kill();
    paused
}

/// Another client of luod in an update, with its session.
pub struct Other {
    pub client: Client,
    pub id: SessionName,
    _session: OutgoingSession,
}

/// Begins an update in which luod waits for another client, which has preserved nothing. Returns
/// that client, and the operator.
pub fn update_with_other(luod: &Luod) -> (Other, Channel) {
    let mut client = Client::connect_to(luod.path(), "other").unwrap();
    let id = SessionName::new("other").unwrap();
    client.subscribe(&id, Some(LIMIT)).unwrap();
    let operator = update(luod, false);
    let session = loop {
        match client.next(Some(LIMIT)).unwrap().unwrap() {
            Notice::Preserve { session, .. } => break session,
            Notice::Prepare { .. } => {}
            notice => panic!("{notice:?}"),
        }
    };
    let other = Other {
        client,
        id,
        _session: session,
    };
    (other, operator)
}

/// The same, until the guest is paused: the other client has sent PRESERVED, and is not ready.
pub fn pause(luod: &Luod, member: &mut Member<Guest>) -> (Other, Channel) {
    let (mut other, operator) = update_with_other(luod);
    assert!(other.client.preserved(&other.id).unwrap());
    step_until(member, |member| {
        member.participant_mut().status().unwrap() == "postmigrate"
    });
    (other, operator)
}

/// Runs an update that another client refuses while the guest is paused.
pub fn abort(luod: &Luod, member: &mut Member<Guest>) {
    let (mut other, update) = pause(luod, member);
    other.client.refuse(&other.id, "no").unwrap();
    step_until(member, |member| member.is_idle());
    assert_eq!(result(update).outcome, Outcome::Aborted);
}

pub fn step_until(member: &mut Member<Guest>, so: impl Fn(&mut Member<Guest>) -> bool) {
    let start = Instant::now();
    while !so(member) {
        assert!(start.elapsed() < LIMIT);
        member.step(Some(Duration::from_millis(20))).unwrap();
    }
}
