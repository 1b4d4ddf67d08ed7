// SPDX-License-Identifier: GPL-2.0

//! The decisions of luod.
//!
//! The owner of the sockets passes events to the machine ([`Machine::connected`],
//! [`Machine::request`], [`Machine::disconnected`], [`Machine::tick`]...) and executes the output
//! of [`Machine::next_output`].

mod arrival;
mod clients;
mod ending;
mod hooks;
mod incoming;
mod known;
mod lookup;
mod operators;
mod part;
mod policy;
mod update;
mod view;
mod witness;

#[cfg(test)]
mod tests;

use crate::{
    audit::Asked,
    config::{Config, Credentials, Identity},
    registry::Subscriber,
    world::{QuestionId, World},
};
use arrival::{Arrival, Unknown};
use ending::Ending;
use hooks::Due;
use incoming::{Doubts, Incoming};
use liveupdate::IncomingSession;
use luod_protocol::{
    Direction, ErrorCode, Event, History, Inhibitor, Message, ParseError, Phase, Progress, Report,
    Request, SessionName, Stamp,
};
use part::{Part, Pause};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::OwnedFd,
    time::Duration,
};
use update::Update;
use witness::Witness;

/// How long to wait until the next check for an answer of the service manager, in microseconds.
const ASK_TICK_US: u64 = 20_000;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// An action to execute.
#[derive(Debug)]
pub enum Output {
    /// Send an event, with a descriptor if there is one.
    Send {
        /// The receiver.
        to: ConnId,
        /// The event.
        message: Box<Message<Event>>,
        /// The descriptor.
        fd: Option<OwnedFd>,
    },
    /// Send all queued lines, then close the connection.
    Close(ConnId),
    /// Send all queued lines, then call [`Machine::jump`].
    Jump,
}

/// A connected peer.
#[derive(Debug)]
struct Peer {
    who: Identity,
    /// Its name in lists and logs.
    client: Option<String>,
    /// Whether it has sent HELLO, so that it supports more than the public sketch of the protocol.
    hello: bool,
    /// Whether it has sent a line.
    spoke: bool,
    /// Its subscribed sessions.
    subscribed: BTreeSet<SessionName>,
    /// Its claimed sessions, which may be finished.
    claimed: BTreeSet<SessionName>,
}

/// A session that a client has subscribed for the next update.
#[derive(Debug)]
struct Subscription {
    /// The connection. A client that is ready can disconnect.
    conn: Option<ConnId>,
    client: Option<String>,
    credentials: Credentials,
    timeout_ms: Option<u64>,
    part: Part,
    since: Stamp,
    progress: Option<Progress>,
    error: Option<String>,
}

/// The refusal of a request.
#[derive(Debug)]
struct Refusal {
    code: ErrorCode,
    message: String,
}

impl Refusal {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// A request that must be answered.
#[derive(Clone, Debug)]
struct Caller {
    conn: ConnId,
    who: Credentials,
    seq: Option<u64>,
    command: &'static str,
    id: Option<SessionName>,
    /// Whether it gets an acknowledgement even without HELLO.
    for_operators: bool,
}

/// The result of a request.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Answer {
    /// Success; operators and clients that have sent HELLO get an acknowledgement.
    Done,
    /// An event, optionally with a descriptor.
    Event(Event, Option<OwnedFd>),
    /// The answer has already been sent, or is sent later.
    Sent,
}

/// The state of luod.
#[derive(Debug)]
pub struct Machine<W> {
    world: W,
    config: Config,
    peers: BTreeMap<ConnId, Peer>,
    /// The connections that get all events.
    watchers: BTreeSet<ConnId>,
    subscriptions: BTreeMap<SessionName, Subscription>,
    /// Programs that keep updates from starting, by their connections.
    inhibitors: BTreeMap<ConnId, Inhibitor>,
    /// Clients that had subscribed before luod was restarted and have not subscribed again.
    absent: BTreeMap<SessionName, Subscriber>,
    /// Whether the subscriptions have changed since they were saved.
    subscribers_changed: bool,
    /// When they were saved, and when they must be saved next.
    remembered: Option<u64>,
    remember_at: Option<u64>,
    update: Option<Update>,
    /// Sessions of the previous kernel.
    incoming: BTreeMap<SessionName, Incoming>,
    /// The unfinished ones.
    unfinished: BTreeSet<SessionName>,
    /// An unclaimed one.
    unclaimed: Witness,
    /// The session with the registry of luod in the previous kernel, until all sessions are
    /// finished.
    internal: Option<IncomingSession>,
    arrival: Option<Arrival>,
    /// Why the sessions of the previous kernel cannot be read.
    unknown: Option<Unknown>,
    doubts: Doubts,
    /// Sessions that are being finished.
    endings: BTreeMap<QuestionId, Ending>,
    /// When luod started.
    started: Stamp,
    /// The number of the last update.
    number: u64,
    /// The result of the last update, if it did not start this kernel.
    last: Option<Report>,
    /// Hooks after updates that have not ended.
    due: Vec<Due>,
    /// Earlier updates, except the one that started this kernel.
    past: History,
    problem: Option<String>,
    /// When sessions may be unclaimed for too long.
    alarm_at: Option<u64>,
    /// Sessions that clients were told to close, in updates that were aborted or continue without
    /// them. The kernel would hand over those that are still open.
    cancelled: BTreeSet<SessionName>,
    outputs: VecDeque<Output>,
    /// The connections that have requested a handover, while the service manager is asked whether
    /// it starts the next kernel.
    handovers: Vec<(ConnId, Option<u64>)>,
    handover_asked: Option<QuestionId>,
    /// Sessions whose clients must be asked to preserve their files.
    late: Vec<SessionName>,
    /// Failed sessions with the reason.
    failures: Vec<(SessionName, String)>,
    /// Whether a change of the phase must be announced.
    phase_changed: bool,
}

impl<W: World> Machine<W> {
    fn new(world: W, config: Config) -> Self {
        Self {
            started: world.now(),
            world,
            config,
            peers: BTreeMap::new(),
            watchers: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            inhibitors: BTreeMap::new(),
            absent: BTreeMap::new(),
            subscribers_changed: false,
            remembered: None,
            remember_at: None,
            update: None,
            incoming: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            unclaimed: Witness::default(),
            internal: None,
            arrival: None,
            unknown: None,
            doubts: Doubts::default(),
            endings: BTreeMap::new(),
            number: 0,
            last: None,
            due: Vec::new(),
            past: History::default(),
            problem: None,
            alarm_at: None,
            cancelled: BTreeSet::new(),
            outputs: VecDeque::new(),
            handovers: Vec::new(),
            handover_asked: None,
            late: Vec::new(),
            failures: Vec::new(),
            phase_changed: false,
        }
    }

    /// The outside world.
    pub fn world(&self) -> &W {
        &self.world
    }

    /// The outside world.
    pub fn world_mut(&mut self) -> &mut W {
        &mut self.world
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Uses another configuration. Existing connections and sessions that it does not permit stay.
    pub fn reconfigure(&mut self, config: Config) {
        self.config = config;
        self.watch_unclaimed();
    }

    /// Returns the next action.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Handles a new connection.
    pub fn connected(&mut self, conn: ConnId, who: Identity) {
        let credentials = who.credentials;
        let permitted = self.config.may_connect(&who);
        let peer = Peer {
            who,
            client: None,
            hello: false,
            spoke: false,
            subscribed: BTreeSet::new(),
            claimed: BTreeSet::new(),
        };
        self.peers.insert(conn, peer);
        if !permitted {
            let refusal = Refusal::new(
                ErrorCode::NotAllowed,
                format!(
                    "the configuration of luod permits nothing to the user {} and the group {}",
                    credentials.uid, credentials.gid
                ),
            );
            self.refuse(conn, None, None, refusal);
            self.outputs.push_back(Output::Close(conn));
        }
    }

    /// Handles a closed connection.
    pub fn disconnected(&mut self, conn: ConnId) {
        let Some(peer) = self.peers.remove(&conn) else {
            return;
        };
        self.watchers.remove(&conn);
        self.inhibitors.remove(&conn);
        self.requester_left(conn);
        self.claimant_left(conn, peer.claimed);
        self.subscriber_left(peer.subscribed);
    }

    /// Handles a line that is not a message. Its descriptors are already closed.
    pub fn bad_line(&mut self, conn: ConnId, error: ParseError) {
        let refusal = Refusal::new(error.code, error.message);
        self.refuse(conn, error.seq, None, refusal);
    }

    /// Handles a message with `fds` descriptors, which are already closed.
    pub fn request(&mut self, conn: ConnId, message: Message<Request>, fds: usize) {
        let Message { seq, body } = message;
        let Some(peer) = self.peers.get_mut(&conn) else {
            return;
        };
        let first = !std::mem::replace(&mut peer.spoke, true);
        let credentials = peer.who.credentials;
        let operator = self.config.is_operator(&peer.who);
        let asked = Asked::of(&body);
        let caller = Caller {
            conn,
            who: credentials,
            seq,
            command: body.command(),
            id: session_of(&body).cloned(),
            for_operators: body.is_for_operators(),
        };
        let answer = if fds > 0 {
            Err(Refusal::new(
                ErrorCode::UnexpectedFds,
                format!(
                    "{} does not accept descriptors; they were closed",
                    caller.command
                ),
            ))
        } else if caller.for_operators && !operator {
            Err(Refusal::new(
                ErrorCode::NotAllowed,
                format!(
                    "{} is only permitted to operators, whom the configuration of luod names; \
                     the user {} is none",
                    caller.command, credentials.uid
                ),
            ))
        } else {
            self.dispatch(&caller, first, body)
        };
        // The service manager has not answered yet whether a handover begins.
        let asked = asked.filter(|_| !matches!(answer, Err(_) | Ok(Answer::Sent)));
        if let Some(asked) = asked {
            asked.log(credentials, self.number);
        }
        self.reply(&caller, answer);
        // Other events of this request are sent after its answer.
        self.go_on();
    }

    /// Answers a request.
    fn reply(&mut self, caller: &Caller, answer: Result<Answer, Refusal>) {
        let Caller { conn, seq, .. } = *caller;
        match answer {
            Ok(Answer::Sent) => {}
            Ok(Answer::Event(event, fd)) => self.send(conn, seq, event, fd),
            Ok(Answer::Done) => {
                let hello = self.peers.get(&conn).is_some_and(|peer| peer.hello);
                if hello || caller.for_operators {
                    let (cmd, id) = (caller.command.to_owned(), caller.id.clone());
                    self.send(conn, seq, Event::Ok { cmd, id }, None);
                }
            }
            Err(refusal) => {
                let about = Some((caller.command, caller.id.clone()));
                self.refuse(conn, seq, about, refusal);
            }
        }
    }

    fn dispatch(
        &mut self,
        caller: &Caller,
        first: bool,
        request: Request,
    ) -> Result<Answer, Refusal> {
        let Caller { conn, seq, .. } = *caller;
        match request {
            Request::Hello { version, client } => self.hello(conn, first, version, client),
            Request::Subscribe { id, timeout_ms } => self.subscribe(conn, id, timeout_ms),
            Request::Unsubscribe { id } => self.unsubscribe(conn, &id),
            Request::Preserved { id } => self.preserved(conn, &id),
            Request::Ready { id, bytes } => self.ready(conn, id, bytes),
            Request::Refuse { id, update, reason } => {
                self.client_refuses(conn, id, update, &reason)
            }
            Request::Progress { id, progress } => self.progress(conn, id, &progress),
            Request::Claim { id } => self.claim(conn, id),
            Request::Finished { id } => self.finished(caller, &id),
            Request::Status => Ok(Answer::Event(Event::Status(self.status()), None)),
            Request::List => {
                let sessions = self.list();
                Ok(Answer::Event(Event::List { sessions }, None))
            }
            Request::Update {
                timeout_ms,
                dry_run,
                force,
                expect,
            } => self.start_update(conn, timeout_ms, dry_run, force, expect),
            Request::Handover => Ok(self.handover(conn, seq)),
            Request::Inhibit { why } => self.inhibit(conn, &why),
            Request::Abort => self.operator_aborts(),
            Request::Finish { session } => self.operator_finishes(caller, &session),
            Request::Discard { session } => self.operator_discards(caller, &session),
            Request::Forget => self.operator_forgets(caller),
            Request::Report => self.operator_report(),
            Request::History => Ok(Answer::Event(Event::History(self.history()), None)),
            Request::Watch => self.watch(conn, seq),
        }
    }

    /// The phase of luod.
    pub fn phase(&self) -> Phase {
        match &self.update {
            Some(update) => update.phase(),
            None if self.unknown.is_some() => Phase::Unknown,
            None if !self.unfinished.is_empty() => Phase::Restoring,
            None => Phase::Idle,
        }
    }

    /// The time from now after which [`Self::tick`] must be called at the latest.
    pub fn next_tick(&self) -> Option<Duration> {
        let update = self.update.as_ref().map(Update::next_tick);
        let unknown = self.unknown.as_ref().map(|unknown| unknown.retry.at);
        let doubts = self.doubts.next_tick();
        let now = self.world.now().monotonic_us;
        // An answer normally wakes the server; this covers a world that does not wake it.
        let asks = self.handover_asked.is_some() || self.update.as_ref().is_some_and(Update::asks);
        let asks = asks || self.due.iter().any(|due| due.asked.is_some());
        let asks = asks || !self.endings.is_empty();
        let asks = asks.then(|| now.saturating_add(ASK_TICK_US));
        let next = [
            update.flatten(),
            unknown,
            doubts,
            self.remember_at,
            self.alarm_at,
            asks,
        ];
        let next = next.into_iter().flatten().min()?;
        let left = next.saturating_sub(now);
        Some(Duration::from_micros(left))
    }

    /// Handles deadlines.
    pub fn tick(&mut self) {
        self.look_again();
        self.settle_doubts();
        self.alarm();
        self.deadlines();
        self.go_on();
        self.remember_subscribers();
    }

    /// The peer of a connection.
    fn who(&self, conn: ConnId) -> Credentials {
        let nobody = Credentials {
            pid: 0,
            uid: u32::MAX,
            gid: u32::MAX,
        };
        self.peers
            .get(&conn)
            .map_or(nobody, |peer| peer.who.credentials)
    }

    fn send(&mut self, to: ConnId, seq: Option<u64>, body: Event, fd: Option<OwnedFd>) {
        if self.peers.contains_key(&to) {
            let message = Box::new(Message { seq, body });
            self.outputs.push_back(Output::Send { to, message, fd });
        }
    }

    fn refuse(
        &mut self,
        conn: ConnId,
        seq: Option<u64>,
        about: Option<(&str, Option<SessionName>)>,
        refusal: Refusal,
    ) {
        tracing::debug!(conn = conn.0, code = %refusal.code, "{}", refusal.message);
        let (cmd, id) = about.unzip();
        let event = Event::Error {
            code: refusal.code,
            message: refusal.message,
            cmd: cmd.map(str::to_owned),
            id: id.flatten(),
        };
        self.send(conn, seq, event, None);
    }

    /// Sends an event to all watchers.
    fn announce(&mut self, event: &Event) {
        let requester = self.update.as_ref().and_then(|update| update.requester);
        let requester = requester.filter(|conn| !self.watchers.contains(conn));
        let to: Vec<ConnId> = self.watchers.iter().copied().chain(requester).collect();
        for conn in to {
            self.send(conn, None, event.clone(), None);
        }
    }

    /// Sends the new state of a session to all watchers.
    fn announce_change(&mut self, name: &SessionName, direction: Direction) {
        let info = match direction {
            Direction::Outgoing => self.outgoing_info(name),
            Direction::Incoming => self.incoming_info(name),
            _ => None,
        };
        if let Some(info) = info {
            self.announce(&Event::Change { info });
        }
    }

    fn announce_phase(&mut self) {
        let phase = self.phase();
        let update = self.number;
        tracing::debug!(update, %phase, "phase");
        self.world.status(&format!("{phase}, update {update}"));
        self.announce(&Event::Phase { phase, update });
    }
}

/// The session that a request names.
fn session_of(request: &Request) -> Option<&SessionName> {
    match request {
        Request::Subscribe { id, .. }
        | Request::Unsubscribe { id }
        | Request::Preserved { id }
        | Request::Claim { id }
        | Request::Finished { id } => Some(id),
        Request::Ready { id, .. } | Request::Refuse { id, .. } | Request::Progress { id, .. } => {
            id.as_ref()
        }
        Request::Finish { session } | Request::Discard { session } => Some(session),
        Request::Hello { .. }
        | Request::Status
        | Request::List
        | Request::Update { .. }
        | Request::Handover
        | Request::Inhibit { .. }
        | Request::Abort
        | Request::Forget
        | Request::Report
        | Request::History
        | Request::Watch => None,
    }
}

/// Microseconds from one time to another, in the same kernel.
fn micros(from: Stamp, to: Stamp) -> u64 {
    to.monotonic_us.saturating_sub(from.monotonic_us)
}

/// Duplicates a descriptor to send it to a client.
fn give(fd: impl std::os::fd::AsFd) -> std::io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}
