// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Past updates, for statistics.

use crate::{MarkName, Outcome, Report, SessionState};
use serde::{Deserialize, Serialize};

/// An update that has ended, in short.
///
/// All durations are in microseconds. They are missing if the update has ended before, or if
/// no clock measures them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PastUpdate {
    /// Its number.
    pub update: u64,
    /// Its result.
    pub outcome: Outcome,
    /// When it was requested: `CLOCK_REALTIME`, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_us: Option<u64>,
    /// The number of its sessions.
    #[serde(default)]
    pub sessions: u64,
    /// The number of those that it has lost.
    #[serde(default)]
    pub dropped: u64,
    /// From the request to the time when all clients were ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_us: Option<u64>,
    /// From then to the jump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_us: Option<u64>,
    /// From the jump to the time when luod served claims again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump_us: Option<u64>,
    /// From then to the end of the last session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_us: Option<u64>,
    /// From the time when all clients were ready to the end of the last session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_us: Option<u64>,
}

impl From<&Report> for PastUpdate {
    fn from(report: &Report) -> Self {
        let find = |name| report.marks.iter().find(|mark| mark.name == name);
        let offset = |name| find(name)?.offset_us;
        let between = |from, to| offset(to)?.checked_sub(offset(from)?);
        let lost = |state| matches!(state, SessionState::Dropped | SessionState::Discarded);
        let dropped = report.sessions.iter().filter(|s| lost(s.state));
        Self {
            update: report.update,
            outcome: report.outcome,
            requested_us: find(MarkName::Requested).map(|mark| mark.stamp.realtime_us),
            sessions: report.sessions.len() as u64,
            dropped: dropped.count() as u64,
            preserve_us: between(MarkName::Requested, MarkName::Ready),
            freeze_us: between(MarkName::Ready, MarkName::Jump),
            jump_us: report.jump_us,
            restore_us: between(MarkName::Serving, MarkName::Finished),
            blackout_us: report.blackout_us,
        }
    }
}

/// Numbers of updates by their results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Totals {
    /// Updates that have started another kernel.
    pub updated: u64,
    /// Dry runs.
    pub dry_run: u64,
    /// Aborted updates.
    pub aborted: u64,
}

impl Totals {
    /// Counts an update.
    pub fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Updated => self.updated += 1,
            Outcome::DryRun => self.dry_run += 1,
            Outcome::Aborted => self.aborted += 1,
            Outcome::Running | Outcome::Other(_) => {}
        }
    }
}

/// The updates since the machine was reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct History {
    /// The last updates, by their numbers.
    pub updates: Vec<PastUpdate>,
    /// The results of older ones.
    pub older: Totals,
}

impl History {
    /// The number of updates that are remembered.
    pub const MAX: usize = 64;

    /// Returns whether there was no update.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds an update, or replaces the entry with its number.
    pub fn put(&mut self, past: PastUpdate) {
        let number = |past: &PastUpdate| past.update;
        match self.updates.binary_search_by_key(&past.update, number) {
            Ok(at) => {
                if let Some(old) = self.updates.get_mut(at) {
                    *old = past;
                }
            }
            // It is counted already.
            Err(0) if self.updates.len() >= Self::MAX => {}
            Err(at) => self.updates.insert(at, past),
        }
        if self.updates.len() > Self::MAX {
            let old = self.updates.remove(0);
            self.older.count(old.outcome);
        }
    }

    /// The results of all updates.
    pub fn totals(&self) -> Totals {
        let mut totals = self.older;
        for past in &self.updates {
            totals.count(past.outcome);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mark, Stamp};

    fn report(update: u64, outcome: Outcome) -> Report {
        Report::new(update, outcome)
    }

    #[test]
    fn durations() {
        let marks = [
            (MarkName::Requested, Some(0)),
            (MarkName::Ready, Some(20)),
            (MarkName::Jump, Some(25)),
            (MarkName::Serving, Some(100)),
            (MarkName::Finished, None),
        ];
        let marks = marks.map(|(name, offset_us)| Mark {
            name,
            stamp: Stamp {
                realtime_us: 7,
                ..Stamp::default()
            },
            offset_us,
        });
        let report = Report {
            marks: marks.to_vec(),
            jump_us: Some(75),
            ..report(3, Outcome::Updated)
        };
        let past = PastUpdate::from(&report);
        assert_eq!(past.requested_us, Some(7));
        assert_eq!(past.preserve_us, Some(20));
        assert_eq!(past.freeze_us, Some(5));
        assert_eq!(past.jump_us, Some(75));
        assert_eq!(past.restore_us, None);
    }

    #[test]
    fn old_updates_are_only_counted() {
        let mut history = History::default();
        for update in 1..=100 {
            let outcome = match update % 2 {
                0 => Outcome::Updated,
                _ => Outcome::Aborted,
            };
            history.put((&report(update, outcome)).into());
            history.put((&report(update, outcome)).into());
        }
        assert_eq!(history.updates.len(), History::MAX);
        assert_eq!(history.updates[0].update, 37);
        let totals = Totals {
            updated: 50,
            dry_run: 0,
            aborted: 50,
        };
        assert_eq!(history.totals(), totals);
        // The update that started this kernel is added again and again.
        history.put((&report(1, Outcome::Updated)).into());
        assert_eq!(history.totals(), totals);
        let again = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&again).unwrap(), history);
        assert_eq!(
            serde_json::from_str::<History>("{}").unwrap(),
            History::default()
        );
    }
}
