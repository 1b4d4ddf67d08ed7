// SPDX-License-Identifier: GPL-2.0

//! Tracepoints, and the events of the previous kernel in memory that Kexec Handover preserves.

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    kexec, memfd,
    pattern::Pattern,
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::TestDevice,
};
use rustix::io::Errno;
use std::{fs, io, path::PathBuf};

const INSTANCES: &str = "/sys/kernel/tracing/instances";

/// A buffer of its own, and a copy of what it had when this kernel was started.
const PARAMETERS: &str = "reserve_mem=1M:4096:luo_trace \
     trace_instance=luo@luo_trace,liveupdate trace_instance=luo_previous=luo";

/// An event of a live update.
#[derive(Clone, Debug)]
struct Event {
    /// Its name and fields, without the session and the duration.
    what: String,
    /// The session, unless the event belongs to all of them.
    session: Option<String>,
    duration: u64,
}

impl Event {
    /// Reads a line of a buffer; [`None`] if it is a comment. The kernel prints events of the previous
    /// one field by field, with all numbers in both notations.
    fn parse(line: &str) -> Result<Option<Self>> {
        if line.starts_with('#') || line.is_empty() {
            return Ok(None);
        }
        let malformed = || Failure::new(format!("not an event of a live update: {line}"));
        let (_, event) = line.split_once(": luo_").ok_or_else(malformed)?;
        let (name, fields) = event.split_once(": ").ok_or_else(malformed)?;
        let fields = decimal(fields);
        let (fields, duration) = fields.split_once(" duration_ns=").ok_or_else(malformed)?;
        let (session, fields) = match fields.strip_prefix("session=") {
            Some(rest) => {
                let (session, fields) = rest.split_once(' ').ok_or_else(malformed)?;
                (Some(session.to_owned()), fields)
            }
            None => (None, fields),
        };
        Ok(Some(Self {
            what: format!("{name} {fields}"),
            session,
            duration: duration.trim().parse()?,
        }))
    }
}

/// Replaces numbers such as `0xa (10)` by `10`.
fn decimal(fields: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in fields.split(' ') {
        let number = word.strip_prefix('(').and_then(|n| n.strip_suffix(')'));
        match (number, words.last_mut()) {
            (Some(number), Some(last)) => {
                let key = last.split("=0x").next().unwrap_or_default();
                *last = format!("{key}={number}");
            }
            _ => words.push(word.to_owned()),
        }
    }
    words.join(" ")
}

/// Skips the test if the kernel has no tracepoints.
fn need_tracepoints() -> Result {
    match fs::exists(INSTANCES).at(INSTANCES)? {
        true => Ok(()),
        false => Err(Failure::skip("this kernel has no tracepoints")),
    }
}

/// The events in the buffer of an instance.
fn events(instance: &str) -> Result<Vec<Event>> {
    let path = format!("{INSTANCES}/{instance}/trace");
    let text = fs::read_to_string(&path).at(path)?;
    let events = text.lines().map(Event::parse);
    events.filter_map(Result::transpose).collect()
}

/// The events of a session, or those of all sessions.
fn of<'a>(events: &'a [Event], session: Option<&str>) -> Vec<&'a str> {
    let wanted = events
        .iter()
        .filter(|event| event.session.as_deref() == session);
    wanted.map(|event| event.what.as_str()).collect()
}

/// A buffer that the test has created.
struct Trace(&'static str);

impl Trace {
    /// Enables the events.
    fn start(name: &'static str) -> Result<Self> {
        need_tracepoints()?;
        let dir = PathBuf::from(INSTANCES).join(name);
        fs::create_dir(&dir).at(dir.display())?;
        // The clocks of the processors may differ.
        fs::write(dir.join("trace_clock"), "global").at("trace_clock")?;
        fs::write(dir.join("events/liveupdate/enable"), "1").at("enable the events")?;
        Ok(Self(name))
    }

    fn events(&self) -> Result<Vec<Event>> {
        events(self.0)
    }
}

/// Each step is recorded with its session, token, handler and result.
fn steps() -> Case {
    const NAME: &str = "trace-steps";
    const CLOSED: &str = "trace-closed";
    const UNKNOWN: &str = "trace-unknown";
    Case::two(
        "steps",
        |stage| {
            let trace = Trace::start("before")?;
            let device = TestDevice::open(TestDevice::C)?;
            device.write("5")?;
            let file = memfd::with(Pattern::new(900, 100_000))?;
            let session = create(NAME)?;
            session.preserve(&file, 1)?;
            expect_errno(session.preserve(&file, 1), Errno::EXIST, "PRESERVE_FD")?;
            session.preserve(&device, u64::MAX)?;
            let closed = create(CLOSED)?;
            closed.preserve(memfd::with(Pattern::new(901, 10))?, 3)?;
            drop(closed);

            kexec::Plan::dry()?.load()?;
            device.write("fail-freeze 5")?;
            let refused: io::Result<()> = Err(kexec::try_jump());
            device.write("fail-freeze 0")?;
            expect_errno(refused, Errno::IO, "reboot(KEXEC)")?;

            let events = trace.events()?;
            let device_is = format!("token={} handler=luo-test-v1", u64::MAX);
            ensure_eq!(
                of(&events, Some(NAME)),
                [
                    "preserve token=1 handler=memfd-v2 result=0",
                    "preserve token=1 handler=(null) result=-17",
                    &format!("preserve {device_is} result=0"),
                    "freeze token=1 handler=memfd-v2 result=0",
                    &format!("freeze {device_is} result=-5"),
                    "unfreeze token=1 handler=memfd-v2 result=0",
                ],
                "the events of the session"
            );
            ensure_eq!(
                of(&events, Some(CLOSED)),
                [
                    "preserve token=3 handler=memfd-v2 result=0",
                    "unpreserve token=3 handler=memfd-v2 result=0",
                ],
                "the events of a session that was closed"
            );
            ensure_eq!(
                of(&events, None),
                ["serialize sessions=0 files=0 result=-5"],
                "the events of all sessions"
            );
            // A part is not longer than the whole.
            let of_step = |step: &str| -> u64 {
                let steps = events.iter().filter(|event| event.what.starts_with(step));
                steps.map(|event| event.duration).sum()
            };
            let (parts, whole) = (of_step("freeze "), of_step("serialize "));
            ensure!(
                0 < parts && parts <= whole,
                "freeze takes {parts} ns of {whole} ns"
            );
            stage.hold((session, device, file));
            Ok(())
        },
        |_| {
            let trace = Trace::start("after")?;
            expect_errno(retrieve_raw(UNKNOWN), Errno::NOENT, "RETRIEVE_SESSION")?;
            let session = retrieve(NAME)?;
            // The second call returns the same file.
            drop((session.retrieve(1)?, session.retrieve(1)?));
            session.finish()?;
            let events = trace.events()?;
            ensure_eq!(
                of(&events, Some(NAME)),
                [
                    "claim files=2 result=0",
                    "retrieve token=1 handler=memfd-v2 result=0",
                    &format!(
                        "finish_file token={} handler=luo-test-v1 result=0",
                        u64::MAX
                    ),
                    "finish_file token=1 handler=memfd-v2 result=0",
                    "finish files=2 result=0",
                ],
                "the events of the session"
            );
            ensure_eq!(
                of(&events, Some(UNKNOWN)),
                ["claim files=0 result=-2"],
                "the events of a session that does not exist"
            );
            Ok(())
        },
    )
}

/// Retrieves a session.
fn retrieve_raw(name: &str) -> io::Result<liveupdate::IncomingSession> {
    liveupdate::Device::open()?.retrieve_session(name)
}

pub fn suite() -> Suite {
    Suite::new("trace", vec![steps()])
}

fn kept(number: u64) -> String {
    format!("trace-kept-{number}")
}

/// Preserves a file for the next kernel.
fn keep(stage: &mut Stage<'_>, number: u64) -> Result {
    let session = create(&kept(number))?;
    let file = memfd::with(Pattern::new(910 + number, 10_000))?;
    session.preserve(&file, number)?;
    stage.hold((session, file));
    Ok(())
}

/// The buffer of the previous kernel has the last steps of session `number`, and nothing of the
/// session before it.
fn has_end_of(number: u64) -> Result<Vec<Event>> {
    let previous = events("luo_previous")?;
    let session = kept(number);
    let steps = of(&previous, Some(&session));
    for step in ["preserve", "freeze"] {
        let wanted = format!("{step} token={number} handler=memfd-v2 result=0");
        ensure!(steps.contains(&wanted.as_str()), "{wanted}: {steps:?}");
    }
    let all = of(&previous, None);
    ensure_eq!(
        all,
        ["serialize sessions=1 files=1 result=0"],
        "the events of all sessions"
    );
    ensure_eq!(
        of(&events("luo")?, Some(&session)),
        [""; 0],
        "what this kernel has recorded"
    );
    Ok(previous)
}

/// Each kernel has the events of the one before it, up to the jump.
fn previous_kernel() -> Case {
    Case::chain(
        "previous_kernel",
        [
            |stage| {
                need_tracepoints()?;
                ensure_eq!(
                    events("luo_previous")?.len(),
                    0,
                    "events before the first kernel"
                );
                keep(stage, 1)
            },
            |stage| {
                need_tracepoints()?;
                has_end_of(1)?;
                retrieve(&kept(1))?.finish()?;
                keep(stage, 2)
            },
            |_| {
                need_tracepoints()?;
                let previous = has_end_of(2)?;
                let steps = of(&previous, Some(&kept(1)));
                ensure_eq!(
                    steps,
                    [
                        "claim files=1 result=0",
                        "finish_file token=1 handler=memfd-v2 result=0",
                        "finish files=1 result=0"
                    ],
                    "the events of the session before it"
                );
                Ok(retrieve(&kept(2))?.finish()?)
            },
        ],
    )
}

/// With a buffer that Kexec Handover preserves.
pub fn previous_suite() -> Suite {
    Suite {
        cmdline: PARAMETERS,
        ..Suite::new("trace_previous", vec![previous_kernel()])
    }
}
