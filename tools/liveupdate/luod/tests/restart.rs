// SPDX-License-Identifier: GPL-2.0

//! luod is killed, or cannot answer, while a client restores.

use liveupdate::{
    luod::{Client, Member, Participant, Result, SessionName},
    IncomingSession, OutgoingSession,
};
use luod::fake::{own_config, FakeWorld, Luod};
use luod_protocol::{Channel, Event, Phase, Request, SessionState};
use rustix::fs::{memfd_create, MemfdFlags};
use std::{
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(60);

/// An event during the restoration of a session.
type Happening = Box<dyn FnMut(&SessionName) -> Result + Send>;

/// A program that keeps a number, and an event during its restoration.
struct Program {
    memory: File,
    happens: Option<Happening>,
    frozen: bool,
}

impl Program {
    fn new(value: u8) -> Self {
        let memory = File::from(memfd_create("number", MemfdFlags::CLOEXEC).unwrap());
        memory.write_all_at(&[value], 0).unwrap();
        Self {
            memory,
            happens: None,
            frozen: false,
        }
    }

    fn to_which(happens: impl FnMut(&SessionName) -> Result + Send + 'static) -> Self {
        Self {
            happens: Some(Box::new(happens)),
            ..Self::new(0)
        }
    }

    fn value(&self) -> u8 {
        let mut value = [0];
        self.memory.read_exact_at(&mut value, 0).unwrap();
        value[0]
    }
}

impl Participant for Program {
    fn preserve(&mut self, _: &SessionName, session: &OutgoingSession) -> Result {
        Ok(session.preserve(&self.memory, 1)?)
    }

    fn cancelled(&mut self, _: &SessionName, _: &str) {}

    fn restore(&mut self, id: &SessionName, session: &IncomingSession) -> Result {
        self.memory = session.retrieve(1)?.into();
        self.happens.as_mut().map_or(Ok(()), |happens| happens(id))
    }

    fn frozen(&mut self, _: &SessionName) {
        self.frozen = true;
    }
}

fn request(path: &Path, request: &Request) -> Event {
    Channel::connect(path)
        .unwrap()
        .call(request, Some(SOON))
        .unwrap()
        .0
}

fn states(path: &Path) -> Vec<(String, SessionState)> {
    match request(path, &Request::List) {
        Event::List { sessions } => sessions
            .into_iter()
            .map(|info| (info.session.to_string(), info.state))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn phase(path: &Path) -> Phase {
    match request(path, &Request::Status) {
        Event::Status(status) => status.phase,
        other => panic!("{other:?}"),
    }
}

fn wait(mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < SOON);
        thread::sleep(Duration::from_millis(10));
    }
}

/// A machine after an update of clients with these sessions, whose number is 42, and the path of
/// luod.
fn updated(ids: &[&str]) -> (FakeWorld, PathBuf) {
    let world = FakeWorld::new();
    let luod = Luod::start(&world, own_config()).unwrap();
    let path = luod.path().to_owned();
    let members: Vec<JoinHandle<()>> = ids
        .iter()
        .map(|id| {
            let mut member = Member::join_at(&path, "program", &[id], Program::new(42)).unwrap();
            thread::spawn(move || {
                while !member.participant().frozen {
                    member.step(Some(SOON)).unwrap();
                }
            })
        })
        .collect();
    let update = Request::Update {
        timeout_ms: None,
        dry_run: false,
        force: false,
        expect: None,
    };
    let mut operator = Channel::connect(&path).unwrap();
    operator.call(&update, Some(SOON)).unwrap();
    luod.wait();
    for member in members {
        member.join().unwrap();
    }
    (world, path)
}

fn start(world: &FakeWorld, path: &Path) -> Luod {
    Luod::start_at(world, own_config(), path).unwrap()
}

/// luod is killed while the client restores, and started again before or after it has finished.
#[test]
fn luod_is_restarted_while_a_client_restores() {
    for at_once in [true, false] {
        let (world, path) = updated(&["a"]);
        let mut luod = Some(start(&world, &path));
        let (sender, receiver) = std::sync::mpsc::channel();
        let (other_world, other_path) = (world.clone(), path.clone());
        let program = Program::to_which(move |_| {
            drop(luod.take());
            if at_once {
                sender.send(start(&other_world, &other_path)).unwrap();
            }
            Ok(())
        });
        let mut member = Member::join_at(&path, "program", &["a"], program).unwrap();
        assert_eq!(member.participant().value(), 42);
        assert_eq!(member.restored().len(), 1);
        assert!(world.kernel.incoming().iter().all(|name| name != "a"));
        let _luod = match receiver.try_recv() {
            Ok(luod) => luod,
            Err(_) => start(&world, &path),
        };
        wait(|| {
            member.step(Some(Duration::from_millis(20))).unwrap();
            member.is_idle()
        });
        // luod was told, and the next start of the client finds no empty session.
        wait(|| phase(&path) == Phase::Idle);
        assert!(world.kernel.incoming().is_empty());
        let mut client = Client::connect_to(&path, "again").unwrap();
        assert!(client
            .claim(&SessionName::new("a").unwrap())
            .unwrap()
            .is_none());
    }
}

/// The client and luod die right after the client has finished the session.
#[test]
fn nobody_tells_luod() {
    let (world, path) = updated(&["a", "b"]);
    let mut luod = Some(start(&world, &path));
    let program = Program::to_which(move |_| {
        drop(luod.take());
        Ok(())
    });
    drop(Member::join_at(&path, "program", &["a"], program).unwrap());
    let _luod = start(&world, &path);
    wait(|| states(&path)[0].1 == SessionState::Finished);
    assert_eq!(states(&path)[1].1, SessionState::Unclaimed);
    let member = Member::join_at(&path, "program", &["a"], Program::new(7)).unwrap();
    assert_eq!(member.participant().value(), 7);
}

/// luod is restarted between two sessions of a client.
#[test]
fn luod_is_restarted_between_two_sessions() {
    let (world, path) = updated(&["a", "b"]);
    let mut luod = Some(start(&world, &path));
    let (sender, receiver) = std::sync::mpsc::channel();
    let (other_world, other_path) = (world.clone(), path.clone());
    let program = Program::to_which(move |_| {
        if luod.take().is_some() {
            sender.send(start(&other_world, &other_path)).unwrap();
        }
        Ok(())
    });
    let mut member = Member::join_at(&path, "program", &["a", "b"], program).unwrap();
    assert_eq!(member.restored().len(), 2);
    let _luod = receiver.recv().unwrap();
    wait(|| {
        member.step(Some(Duration::from_millis(20))).unwrap();
        member.is_idle() && phase(&path) == Phase::Idle
    });
    assert!(world.kernel.incoming().is_empty());
}

/// The second session cannot be restored: the first one is not lost.
#[test]
fn one_of_two_sessions_fails() {
    let (world, path) = updated(&["a", "b"]);
    let _luod = start(&world, &path);
    let program = Program::to_which(|id| match id.as_str() {
        "b" => Err("not this one".into()),
        _ => Ok(()),
    });
    let joined = Member::join_at(&path, "program", &["a", "b"], program);
    assert!(joined.is_err_and(|error| error.to_string().contains("not this one")));
    wait(|| states(&path).iter().all(|s| s.1 == SessionState::Unclaimed));
    let member = Member::join_at(&path, "program", &["a", "b"], Program::new(7)).unwrap();
    assert_eq!(member.restored().len(), 2);
    assert_eq!(member.participant().value(), 42);
}

/// The device is busy for a while: the client waits, and does not start without data.
#[test]
fn the_client_waits_until_it_is_known() {
    let (world, path) = updated(&["a"]);
    let device = world.kernel.open().unwrap();
    let _luod = start(&world, &path);
    let patience = Duration::from_millis(500);
    let joined = Member::join_within(&path, "program", &["a"], Program::new(7), patience);
    let Err(error) = joined else {
        panic!("it has started without data");
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    // On a busy machine, the client may not have received the reason.
    let text = error.to_string();
    let heard = text.contains("could not read") && text.contains("busy");
    assert!(
        heard || text.contains("did not answer whether there is"),
        "{text}"
    );
    let other = path.clone();
    let client =
        thread::spawn(move || Member::join_at(&other, "program", &["a"], Program::new(7)).unwrap());
    thread::sleep(Duration::from_millis(700));
    drop(device);
    assert_eq!(client.join().unwrap().participant().value(), 42);
}
