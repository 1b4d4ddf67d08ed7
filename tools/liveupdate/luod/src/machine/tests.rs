// SPDX-License-Identifier: GPL-2.0

//! The machine on a fake machine, whose clock is only advanced by the test.

mod after;
mod audit;
mod before;
mod ending;
mod gate;
mod handover;
mod known;
mod numbers;
mod pause;
mod policy;
mod random;
mod returning;
mod unknown;

use super::*;
use crate::{
    config::{Memlock, Rule},
    fake::FakeWorld,
};
use liveupdate::OutgoingSession;
use luod_protocol::{MarkName, Outcome, SessionInfo, SessionState};
use rustix::fs::{memfd_create, MemfdFlags};
use std::os::fd::AsFd;

/// An event that was sent to a client.
type Sent = (Message<Event>, Option<OwnedFd>);

/// A luod, and the events that were sent to its clients.
struct Luod {
    machine: Machine<FakeWorld>,
    world: FakeWorld,
    inboxes: BTreeMap<ConnId, VecDeque<Sent>>,
    closed: Vec<ConnId>,
    next: u64,
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

impl Luod {
    fn new() -> Self {
        Self::on(FakeWorld::with_own_clock())
    }

    fn on(world: FakeWorld) -> Self {
        let config = Config {
            rules: vec![Rule {
                uid: Some(1000),
                gid: None,
                sessions: vec!["vm-*".into()],
                memlock: Some(Memlock::Unlimited),
                max_sessions: None,
            }],
            ..Config::default()
        };
        let stored = world.stored();
        let mut luod = Self {
            machine: Machine::start(world.clone(), config, stored),
            world,
            inboxes: BTreeMap::new(),
            closed: Vec::new(),
            next: 1,
        };
        // Waits for sessions that luod is finishing.
        luod.machine.tick();
        luod
    }

    /// The luod of the next kernel.
    fn next_kernel(self) -> Self {
        let world = self.world.clone();
        drop(self);
        Self::on(world)
    }

    fn pump(&mut self) {
        while let Some(output) = self.machine.next_output() {
            match output {
                Output::Send { to, message, fd } => {
                    self.inboxes
                        .entry(to)
                        .or_default()
                        .push_back((*message, fd));
                }
                Output::Close(conn) => {
                    self.closed.push(conn);
                    self.machine.disconnected(conn);
                }
                Output::Jump => self.machine.jump(),
            }
        }
    }

    fn connect_as(&mut self, uid: u32) -> ConnId {
        let conn = ConnId(self.next);
        self.next += 1;
        let credentials = Credentials {
            pid: 100,
            uid,
            gid: uid,
        };
        self.machine.connected(conn, credentials.into());
        self.pump();
        conn
    }

    fn connect(&mut self) -> ConnId {
        self.connect_as(0)
    }

    fn leave(&mut self, conn: ConnId) {
        self.machine.disconnected(conn);
        self.pump();
    }

    fn send(&mut self, conn: ConnId, line: &str) {
        let message = Message::parse(line.as_bytes()).unwrap();
        self.machine.request(conn, message, 0);
        self.pump();
    }

    fn pass(&mut self, time: Duration) {
        self.world.pass(time);
        self.machine.tick();
        self.pump();
    }

    fn try_next(&mut self, conn: ConnId) -> Option<(Event, Option<OwnedFd>)> {
        let (message, fd) = self.inboxes.get_mut(&conn)?.pop_front()?;
        Some((message.body, fd))
    }

    fn next(&mut self, conn: ConnId) -> (Event, Option<OwnedFd>) {
        self.try_next(conn).expect("nothing was sent")
    }

    #[track_caller]
    fn nothing(&mut self, conn: ConnId) {
        if let Some((event, _)) = self.try_next(conn) {
            panic!("{event:?}");
        }
    }

    #[track_caller]
    fn error(&mut self, conn: ConnId, line: &str) -> ErrorCode {
        self.inboxes.remove(&conn);
        self.send(conn, line);
        loop {
            match self.next(conn).0 {
                Event::Error { code, message, .. } => {
                    assert!(!message.is_empty());
                    return code;
                }
                other => println!("{other:?}"),
            }
        }
    }

    /// A client that uses only the public sketch of the protocol.
    fn subscriber(&mut self, name: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, &format!(r#"{{"cmd":"SUBSCRIBE","id":"{name}"}}"#));
        self.nothing(conn);
        conn
    }

    /// An operator starts an update.
    fn update(&mut self, options: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, &format!(r#"{{"cmd":"UPDATE"{options}}}"#));
        let (answer, _) = self.next(conn);
        assert!(
            matches!(&answer, Event::Ok { cmd, .. } if cmd == "UPDATE"),
            "{answer:?}"
        );
        conn
    }

    /// Returns the session that was sent to a client.
    #[track_caller]
    fn session(&mut self, conn: ConnId, name: &str) -> OutgoingSession {
        let (event, fd) = self.next(conn);
        assert!(
            matches!(&event, Event::PreservationRequest { id, .. } if id.as_str() == name),
            "{event:?}"
        );
        assert!(fd.is_none());
        let (event, fd) = self.next(conn);
        assert!(
            matches!(&event, Event::StartPreservation { id, .. } if id.as_str() == name),
            "{event:?}"
        );
        OutgoingSession::from(fd.expect("the session did not come along"))
    }

    /// A correct client preserves its file.
    #[track_caller]
    fn preserve(&mut self, conn: ConnId, name: &str) -> OutgoingSession {
        let session = self.session(conn, name);
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, name.as_bytes()).unwrap();
        session.preserve(&file, 1).unwrap();
        self.send(conn, &format!(r#"{{"cmd":"READY","id":"{name}"}}"#));
        session
    }

    /// A correct client claims and finishes its session.
    #[track_caller]
    fn restore(&mut self, name: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, &format!(r#"{{"cmd":"CLAIM","id":"{name}"}}"#));
        let session = self.claimed(conn, name);
        let file = session.retrieve(1).unwrap();
        let mut text = vec![0; name.len()];
        rustix::io::pread(&file, &mut text, 0).unwrap();
        assert_eq!(text, name.as_bytes());
        session.finish().unwrap();
        self.send(conn, &format!(r#"{{"cmd":"FINISHED","id":"{name}"}}"#));
        self.nothing(conn);
        conn
    }

    #[track_caller]
    fn claimed(&mut self, conn: ConnId, name: &str) -> IncomingSession {
        let (event, fd) = self.next(conn);
        assert!(
            matches!(&event, Event::Session { id, .. } if id.as_str() == name),
            "{event:?}"
        );
        IncomingSession::from(fd.expect("the session did not come along"))
    }

    #[track_caller]
    fn cancelled(&mut self, conn: ConnId, part: &str) {
        loop {
            match self.next(conn).0 {
                Event::Cancelled { reason, .. } => {
                    assert!(reason.contains(part), "{reason}");
                    break;
                }
                Event::PreservationRequest { .. } | Event::StartPreservation { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        self.nothing(conn);
    }

    #[track_caller]
    fn result(&mut self, conn: ConnId) -> Report {
        loop {
            match self.next(conn).0 {
                Event::Result(report) => return report,
                Event::Phase { .. } | Event::Change { .. } | Event::Gone { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// No state of an update is left, and the next update works.
    #[track_caller]
    fn is_as_before(&mut self) {
        assert_eq!(self.machine.phase(), Phase::Idle);
        assert!(self.world.kernel.outgoing().is_empty());
        let stored = self.world.stored();
        assert!(stored.is_empty(), "{stored:?}");
        assert_eq!(self.world.state().kexecs, 0);
    }

    fn list(&mut self) -> Vec<SessionInfo> {
        let conn = self.connect();
        self.send(conn, r#"{"cmd":"LIST"}"#);
        let (event, _) = self.next(conn);
        self.leave(conn);
        match event {
            Event::List { sessions } => sessions,
            other => panic!("{other:?}"),
        }
    }

    fn states(&mut self) -> Vec<(String, SessionState)> {
        let list = self.list().into_iter();
        list.map(|info| (info.session.to_string(), info.state))
            .collect()
    }
}
