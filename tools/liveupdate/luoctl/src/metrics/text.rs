// SPDX-License-Identifier: GPL-2.0

//! The metrics as text.
//!
//! The types that are used here (gauge, counter, histogram) exist in OpenMetrics and in the older
//! format of Prometheus, which the textfile collector of node_exporter reads.

use luod_protocol::{
    Direction, History, Outcome, PastUpdate, Phase, SessionInfo, SessionState, Status,
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, sync::atomic::AtomicU64, time::Duration};

/// The limits of the buckets for durations, in seconds.
const BUCKETS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

type Labels = Vec<(&'static str, String)>;
type Float = Gauge<f64, AtomicU64>;

/// The reports of luod.
#[derive(Debug)]
pub struct Luod {
    pub status: Status,
    pub sessions: Vec<SessionInfo>,
    pub history: History,
}

/// The state of a machine.
#[derive(Debug)]
pub struct Snapshot {
    /// [`None`] if luod cannot be reached.
    pub luod: Option<Luod>,
    /// The size of the scratch area, in bytes.
    pub scratch: Option<u64>,
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

/// A number that is shown as an integer.
fn number(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

fn float(value: f64) -> Float {
    let gauge = Float::default();
    gauge.set(value);
    gauge
}

fn status(to: &mut Registry, status: &Status) {
    let phases = Family::<Labels, Gauge>::default();
    for phase in Phase::KNOWN.iter().chain([&status.phase]) {
        let labels = vec![("phase", phase.to_string())];
        let now = i64::from(*phase == status.phase);
        phases.get_or_create(&labels).set(now);
    }
    to.register("phase", "The phase of luod: 1 for the current one", phases);
    let versions = Family::<Labels, Gauge>::default();
    let labels = vec![
        ("luod", status.luod.clone()),
        ("kernel", status.kernel.clone()),
    ];
    versions.get_or_create(&labels).set(1);
    to.register("version", "The versions of luod and the kernel", versions);
    for (name, help, value) in [
        (
            "update",
            "The number of the last update, or of the running one",
            status.update,
        ),
        (
            "image_loaded",
            "Whether a kernel is loaded for the next update",
            u64::from(status.image_loaded == Some(true)),
        ),
        (
            "inhibitors",
            "The number of programs that keep updates from starting",
            status.inhibitors.len() as u64,
        ),
        (
            "problem",
            "Whether luod reports a problem, which luoctl status shows",
            u64::from(status.problem.is_some()),
        ),
    ] {
        to.register(name, help, number(value));
    }
}

/// The direction of a session in a state.
fn direction(state: SessionState) -> Direction {
    match state {
        SessionState::Subscribed
        | SessionState::Requested
        | SessionState::Preserving
        | SessionState::Ready
        | SessionState::Dropped => Direction::Outgoing,
        _ => Direction::Incoming,
    }
}

fn sessions(to: &mut Registry, sessions: &[SessionInfo]) {
    let counts = Family::<Labels, Gauge>::default();
    let labels = |direction: Direction, state: SessionState| {
        vec![
            ("direction", direction.to_string()),
            ("state", state.to_string()),
        ]
    };
    for state in SessionState::KNOWN {
        counts.get_or_create_owned(&labels(direction(*state), *state));
    }
    let bytes = Family::<Labels, Gauge>::default();
    let sized = |direction: Direction| vec![("direction", direction.to_string())];
    for direction in Direction::KNOWN {
        bytes.get_or_create_owned(&sized(*direction));
    }
    for info in sessions {
        counts
            .get_or_create(&labels(info.direction, info.state))
            .inc();
        let done = matches!(
            info.state,
            SessionState::Finished | SessionState::Discarded | SessionState::Dropped
        );
        if let Some(size) = info.bytes.filter(|_| !done) {
            let sum = bytes.get_or_create(&sized(info.direction));
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            sum.set(sum.get().saturating_add(size));
        }
    }
    to.register("sessions", "Sessions by their state", counts);
    to.register_with_unit(
        "preserved",
        "The size of preserved files that clients have reported",
        Unit::Bytes,
        bytes,
    );
    let unclaimed = sessions.iter().filter(|info| {
        matches!(
            info.state,
            SessionState::Unclaimed | SessionState::Elsewhere | SessionState::Failed
        )
    });
    let oldest = unclaimed.map(|info| info.since_ms).max().unwrap_or(0);
    to.register_with_unit(
        "oldest_unclaimed_session",
        "How long the oldest unclaimed session waits for its client; 0 if there is none",
        Unit::Seconds,
        float(Duration::from_millis(oldest).as_secs_f64()),
    );
}

fn history(to: &mut Registry, history: &History) {
    let totals = history.totals();
    let counts = Family::<Labels, Counter>::default();
    for (outcome, count) in [
        (Outcome::Updated, totals.updated),
        (Outcome::DryRun, totals.dry_run),
        (Outcome::Aborted, totals.aborted),
    ] {
        let labels = vec![("outcome", outcome.to_string())];
        counts.get_or_create(&labels).inc_by(count);
    }
    let help = "Updates since the machine was reset, by their results";
    to.register("updates", help, counts);

    let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
    let phases = Family::<Labels, Histogram, _>::new_with_constructor(histogram);
    let blackouts = histogram();
    type Duration = fn(&PastUpdate) -> Option<u64>;
    let durations: [(&str, Duration); 4] = [
        ("preserve", |past| past.preserve_us),
        ("freeze", |past| past.freeze_us),
        ("jump", |past| past.jump_us),
        ("restore", |past| past.restore_us),
    ];
    for (phase, duration) in durations {
        let phase = phases.get_or_create_owned(&vec![("phase", phase.to_owned())]);
        for us in history.updates.iter().filter_map(duration) {
            phase.observe(seconds(us));
        }
    }
    for us in history.updates.iter().filter_map(|past| past.blackout_us) {
        blackouts.observe(seconds(us));
    }
    let help = "Durations of the phases of the last 64 updates";
    to.register_with_unit("update_duration", help, Unit::Seconds, phases);
    let help = "Blackouts of the last 64 updates: from all clients being ready to the last \
                session being finished";
    to.register_with_unit("blackout", help, Unit::Seconds, blackouts);

    let updated = |past: &&PastUpdate| past.outcome == Outcome::Updated;
    let Some(last) = history.updates.iter().rfind(updated) else {
        return;
    };
    let help = "The number of sessions whose contents the last update has lost";
    to.register("last_update_lost_sessions", help, number(last.dropped));
    if let Some(us) = last.blackout_us {
        let help = "The blackout of the last update";
        to.register_with_unit("last_blackout", help, Unit::Seconds, float(seconds(us)));
    }
    if let Some(us) = last.requested_us {
        let help = "When the last update was requested";
        let time = float(seconds(us));
        to.register_with_unit("last_update_timestamp", help, Unit::Seconds, time);
    }
}

/// Returns the metrics, in OpenMetrics text.
///
/// # Errors
///
/// None in practice: the text is written to memory.
pub fn render(snapshot: &Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("luo");
    let up = number(u64::from(snapshot.luod.is_some()));
    registry.register("up", "Whether luod answers", up);
    if let Some(luod) = &snapshot.luod {
        status(&mut registry, &luod.status);
        sessions(&mut registry, &luod.sessions);
        history(&mut registry, &luod.history);
    }
    if let Some(bytes) = snapshot.scratch {
        let help = "The size of the scratch area, in which the next kernel boots";
        registry.register_with_unit("scratch", help, Unit::Bytes, number(bytes));
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use luod_protocol::{Report, SessionName};

    fn session(name: &str, state: SessionState, since_ms: u64) -> SessionInfo {
        let name = SessionName::new(name).unwrap();
        let mut info = SessionInfo::new(name, direction(state), state);
        info.since_ms = since_ms;
        info.bytes = Some(4096);
        info
    }

    fn past(update: u64, outcome: Outcome) -> PastUpdate {
        let mut past = PastUpdate::from(&Report::new(update, outcome));
        past.requested_us = Some(1_790_000_000_000_000);
        past.sessions = 3;
        past.dropped = 1;
        past.preserve_us = Some(250_000);
        past.freeze_us = Some(1_000);
        past.jump_us = Some(1_600_000);
        past.restore_us = Some(400_000_000);
        past.blackout_us = Some(2_500_000);
        past
    }

    fn snapshot() -> Snapshot {
        let mut aborted = past(6, Outcome::Aborted);
        aborted.freeze_us = None;
        aborted.jump_us = None;
        aborted.restore_us = None;
        aborted.blackout_us = None;
        let kernel = "7.3.4-\"quoted\"\\".to_owned();
        let mut status = Status::new(Phase::Restoring, kernel, "0.1.0".to_owned());
        status.update = 7;
        status.connections = 1;
        status.subscribed = 1;
        status.incoming = 2;
        status.unclaimed = 2;
        status.image_loaded = Some(false);
        status.problem = Some("why".to_owned());
        let mut history = History::default();
        history.updates = vec![aborted, past(7, Outcome::Updated)];
        history.older.updated = 4;
        history.older.dry_run = 3;
        history.older.aborted = 2;
        Snapshot {
            luod: Some(Luod {
                status,
                sessions: vec![
                    session("a", SessionState::Unclaimed, 1500),
                    session("b", SessionState::Failed, 2500),
                    session("c", SessionState::Finished, 9000),
                    session("a", SessionState::Ready, 9000),
                ],
                history,
            }),
            scratch: Some(192 << 20),
        }
    }

    /// The lines of each metric in a fixed order: the crate has none for label sets.
    fn sorted(text: &str) -> Vec<String> {
        let mut sorted: Vec<String> = Vec::new();
        let mut start = 0;
        for line in text.lines() {
            if line.starts_with('#') {
                sorted[start..].sort();
                start = sorted.len() + 1;
            }
            sorted.push(line.to_owned());
        }
        sorted
    }

    /// The names, types, units and labels are an interface. `tests/golden/metrics.txt` was accepted
    /// by the parsers of the reference library in Python, for OpenMetrics and for the format of
    /// node_exporter.
    #[test]
    fn the_text_is_stable() {
        let golden = include_str!("../../tests/golden/metrics.txt");
        let text = render(&snapshot()).unwrap();
        assert_eq!(sorted(&text), sorted(golden), "{text}");
        let nothing = Snapshot {
            luod: None,
            scratch: None,
        };
        let text = render(&nothing).unwrap();
        assert!(text.contains("\nluo_up 0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
