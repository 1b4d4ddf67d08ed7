// SPDX-License-Identifier: GPL-2.0

//! luo-qemu or luod is killed, at any point: the guest is neither lost nor run twice.

use crate::machine::{counts_on, jump, pause, step_until, Machine};
use liveupdate::luod::{Member, Participant, Result, SessionName};
use liveupdate::{IncomingSession, OutgoingSession};
use luo_qemu::{
    guest::Guest,
    memory,
    run_dir::{Record, State},
    spec,
    spec::Spec,
    state,
};
use luod::fake::{own_config, FakeWorld, Luod};
use std::{fs::File, process::Command};

/// The step at which luo-qemu is killed.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// The new QEMU has loaded the state.
    Loaded,
    /// The state is marked as used.
    Marked,
    /// The guest runs, and its session is not finished.
    Runs,
}

/// A luo-qemu that is killed while it restores a guest.
#[derive(Debug)]
struct Killed {
    guest: Guest,
    at: Point,
}

impl Participant for Killed {
    fn preserve(&mut self, _: &SessionName, _: &OutgoingSession) -> Result {
        unreachable!("it is killed before the next update")
    }

    fn cancelled(&mut self, _: &SessionName, _: &str) {}

    fn restore(&mut self, _: &SessionName, session: &IncomingSession) -> Result {
        let incoming = File::from(session.retrieve(spec::STATE)?);
        let mark = incoming.try_clone()?;
        let loaded = self.guest.load(session, incoming)?;
        assert_eq!(self.guest.status()?, "paused", "it runs too early");
        match self.at {
            Point::Loaded => {}
            Point::Marked => state::mark_used(&mark)?,
            Point::Runs => self.guest.run(loaded)?,
        }
        Err("killed".into())
    }
}

/// A machine after an update, on which luo-qemu was killed while it restored the guest.
struct Scene {
    machine: Machine,
    world: FakeWorld,
    luod: Luod,
    /// The counter of the guest when it was paused.
    before: u32,
    /// The QEMU that was left.
    first: u32,
}

impl Scene {
    fn new(at: Point) -> Self {
        let machine = Machine::new();
        let world = FakeWorld::new();
        let (luod, path, mut member) = machine.start(&world);
        counts_on(&mut member);
        let before = jump(luod, member);

        let luod = Luod::start_at(&world, own_config(), &path).unwrap();
        let guest = machine.guest();
        let error = Member::join_at(&path, "vm-g", &["vm-g"], Killed { guest, at }).unwrap_err();
        assert_eq!(error.to_string(), "killed");
        assert!(is_kept(&world), "the session is kept");
        let first = machine.qemu();
        Self {
            machine,
            world,
            luod,
            before,
            first,
        }
    }

    /// The next luo-qemu; `adopts` is true if it must find a QEMU.
    fn join(&self, adopts: bool) -> Member<Guest> {
        let mut guest = self.machine.guest();
        assert_eq!(guest.adopt().unwrap(), adopts);
        let member = Member::join_at(self.luod.path(), "vm-g", &["vm-g"], guest).unwrap();
        assert_eq!(member.restored().len(), 1);
        assert!(!is_kept(&self.world), "the session is finished");
        member
    }
}

/// Whether the kernel has the session of the guest.
fn is_kept(world: &FakeWorld) -> bool {
    world.kernel.incoming().iter().any(|name| name == "vm-g")
}

#[test]
fn a_guest_that_has_not_run_is_restored_again() {
    let scene = Scene::new(Point::Loaded);
    assert_eq!(scene.machine.status(), (State::Restoring, 0));
    let mut member = scene.join(true);
    assert_ne!(scene.machine.qemu(), scene.first);
    assert!(counts_on(&mut member) > scene.before);
    assert_eq!(scene.machine.status(), (State::Running, 1));
    member.participant_mut().kill();
}

#[test]
fn a_guest_that_runs_is_not_started_again() {
    for at in [Point::Marked, Point::Runs] {
        let scene = Scene::new(at);
        let mut member = scene.join(true);
        assert_eq!(scene.machine.qemu(), scene.first);
        assert!(counts_on(&mut member) > scene.before);
        assert_eq!(scene.machine.status(), (State::Running, 1));
        // The lag by the pause is still known.
        assert!(scene.machine.record().lag_us.unwrap() > 0, "{at:?}");
        member.participant_mut().kill();
    }
}

#[test]
fn a_guest_that_has_run_and_ended_is_not_started_again() {
    let scene = Scene::new(Point::Runs);
    for process in scene.machine.qemus() {
        process.end();
    }
    let member = scene.join(false);
    assert!(!member.participant().is_running());
    assert!(scene.machine.qemus().is_empty());
}

#[test]
fn a_qemu_that_is_not_recorded_is_ended() {
    // Before QEMU has answered, its process id is not recorded.
    let forget = |machine: &Machine| {
        let path = machine.dir.path().join("g/status.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let id = format!("\"qemu\": {}", machine.qemu());
        assert!(text.contains(&id), "{text}");
        std::fs::write(path, text.replace(&id, "\"qemu\": 0")).unwrap();
    };
    let scene = Scene::new(Point::Loaded);
    forget(&scene.machine);
    let mut member = scene.join(false);
    assert_ne!(scene.machine.qemu(), scene.first);
    assert!(counts_on(&mut member) > scene.before);
    member.participant_mut().kill();
}

#[test]
fn a_qemu_that_ends_is_not_taken_over() {
    let machine = Machine::new();
    let directory = machine.directory();
    let backends = memory::backends(&machine.arguments, &[], None, None).unwrap();
    let file = File::create_new(machine.dir.path().join("memory")).unwrap();
    file.set_len(backends[0].size).unwrap();
    // This QEMU is found, and ends before it has answered.
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1; true", &directory.qmp_argument()]);
    let mut qemu = command.stdin(file).spawn().unwrap();
    let spec = Spec::new("g", "qemu".into(), Vec::new(), backends).unwrap();
    directory.describe(&spec).unwrap();
    let record = Record {
        name: "g".into(),
        pid: std::process::id(),
        qemu: qemu.id(),
        state: State::Running,
        held: false,
        updates: 0,
        gap_us: None,
        lag_us: None,
        paused_us: 0,
        stopped: None,
        memory: vec![0],
        state_fd: 0,
        arguments: Vec::new(),
    };
    directory.write(&record).unwrap();
    drop(directory);
    assert!(!machine.guest().adopt().unwrap());
    assert!(qemu.wait().unwrap().success());
}

#[test]
fn what_is_started_is_recorded_first() {
    let mut machine = Machine::new();
    // The operator starts the guest, which therefore does not run.
    machine.arguments.push("-S".into());
    let mut guest = machine.guest();
    guest.launch(None).unwrap();
    assert_eq!(guest.status().unwrap(), "prelaunch");
    drop(guest);

    // A luo-qemu that was killed before it started the guest.
    let path = machine.dir.path().join("g/status.json");
    let starts = || {
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"running\"", "\"starting\"")).unwrap();
        assert_eq!(machine.status().0, State::Starting);
    };
    starts();
    assert!(!machine.guest().adopt().unwrap());
    assert!(machine.qemus().is_empty());

    // The same after that.
    let mut guest = machine.guest();
    guest.launch(None).unwrap();
    starts();
    guest.resume().unwrap();
    starts();
    drop(guest);
    let mut guest = machine.guest();
    assert!(guest.adopt().unwrap());
    assert_eq!(machine.status().0, State::Running);
    guest.kill();
    drop(guest);

    // There is no QEMU without a record.
    std::fs::create_dir(machine.dir.path().join("g/status.json.new")).unwrap();
    let error = machine.guest().launch(None).unwrap_err().to_string();
    assert!(
        error.contains("the status of the guest cannot be"),
        "{error}"
    );
    assert!(machine.qemus().is_empty());
}

#[test]
fn a_guest_goes_on_if_luod_is_killed() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    counts_on(&mut member);
    let (other, operator) = pause(&luod, &mut member);
    assert_eq!(machine.status().0, State::Paused);
    drop((luod, operator, other));
    step_until(&mut member, |member| {
        member.participant_mut().status().unwrap() == "running"
    });
    counts_on(&mut member);
    assert_eq!(machine.status().0, State::Running);
    step_until(&mut member, |_| world.kernel.outgoing().is_empty());

    // The next luod can update.
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    step_until(&mut member, |member| member.is_idle());
    jump(luod, member);
}
