// SPDX-License-Identifier: GPL-2.0

//! The real-time clock of a guest, which lags after an update.

use super::Guest;
use crate::{agent, run_dir::State};
use std::{io, thread, thread::JoinHandle};

/// What sets the clock, while the guest runs.
pub(super) type Setting = JoinHandle<io::Result<agent::Set>>;

impl Guest {
    /// Adds the time for which the guest was paused to the lag of its clock, which was `lag_us`
    /// before.
    pub(super) fn add_gap(&mut self, lag_us: i64, gap_us: Option<u64>) {
        let gap = gap_us.and_then(|gap| i64::try_from(gap).ok());
        self.lag_us = gap.map(|gap| lag_us.saturating_add(gap));
    }

    /// Begins to set the clock of a guest that runs again, if it has an agent.
    pub(super) fn set_clock(&mut self) {
        let name = &self.spec.name;
        match agent::socket(&self.spec.arguments) {
            None => println!(
                "{name}: its clock lags by {} ms: there is no guest agent that could set it",
                self.lag_us.unwrap_or(0) / 1000
            ),
            Some(socket) => {
                let socket = self.spec.directory.join(socket);
                // It uses nothing of this guest, and starts no child.
                self.setting = Some(thread::spawn(move || agent::set_clock(&socket)));
            }
        }
    }

    /// Says whether the clock of the guest was set, once that is known.
    pub fn clock_set(&mut self) {
        let Some(setting) = self.setting.take_if(|setting| setting.is_finished()) else {
            return;
        };
        let name = &self.spec.name;
        let ended = || io::Error::other("a thread has panicked");
        match setting.join().unwrap_or_else(|_| Err(ended())) {
            Ok(set) => {
                let before = set.before_us / 1000;
                match set.after_us {
                    Some(after) => println!(
                        "{name}: its clock was set, it lagged by {before} ms, and by {} ms after that",
                        after / 1000
                    ),
                    None => println!("{name}: its clock lags by {before} ms only, and was not set"),
                }
                self.lag_us = Some(set.lag_us());
            }
            Err(error) => eprintln!(
                "{name}: its clock lags by {} ms: the guest agent has not set it: {error}",
                self.lag_us.unwrap_or(0) / 1000
            ),
        }
        // In an update, it is recorded with the next state.
        if !self.paused && !self.orphan {
            self.report(State::Running);
        }
    }
}
