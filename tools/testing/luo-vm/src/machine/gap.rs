// SPDX-License-Identifier: GPL-2.0

//! The time for which a guest of a virtual machine prints nothing, seen from outside
//! of its host.

use std::fmt;
use std::time::{Duration, Instant};

/// The beginning of a heartbeat of the guest, on the host's console.
pub const BEAT: &str = "vm: beat ";

/// A part of the first line of a kernel of the host.
pub const BOOTS: &str = "] Linux version ";

/// The text that follows the name of init in the line about its start.
const INIT: &str = "init as init process";

/// A time in which the guest did not run, as it is seen from outside of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Until the first line of the next kernel of the host.
    pub stop: Duration,
    /// Until the first program ran on it.
    pub boot: Duration,
    /// Until the next heartbeat of the guest.
    pub start: Duration,
}

impl Gap {
    /// All of it.
    pub fn all(self) -> Duration {
        self.stop + self.boot + self.start
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} s: {:.1} s until the next kernel prints, {:.1} s until its init, {:.1} s until the \
             guest",
            self.all().as_secs_f64(),
            self.stop.as_secs_f64(),
            self.boot.as_secs_f64(),
            self.start.as_secs_f64()
        )
    }
}

/// Listens to the host's console for heartbeats.
#[derive(Default)]
pub struct Listener {
    /// The last heartbeat.
    beat: Option<Instant>,
    /// The last heartbeat with the kernel before, and the time of the first line of
    /// the next kernel.
    silent: Option<(Instant, Instant)>,
    init: Option<Instant>,
    /// The gaps that were found.
    pub gaps: Vec<Gap>,
}

impl Listener {
    /// Takes a line of the console, and its time.
    pub fn hear(&mut self, line: &str, now: Instant) {
        // Another program's line may begin before it, and end after it.
        if line.contains(BEAT) {
            self.beat = Some(now);
            if let (Some((last, kernel)), Some(init)) = (self.silent.take(), self.init.take()) {
                self.gaps.push(Gap {
                    stop: kernel - last,
                    boot: init - kernel,
                    start: now - init,
                });
            }
        } else if line.contains(BOOTS) {
            self.silent = self.beat.map(|beat| (beat, now));
            self.init = None;
        } else if line.contains(INIT) {
            self.init = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_seen_from_outside() {
        let start = Instant::now();
        let mut listener = Listener::default();
        for (second, line) in [
            (0, "[    0.000000] Linux version 7.3.4"),
            (1, "[    1.000000] Run /sbin/init as init process"),
            (9, "vm: beat 1"),
            (10, "# ok vm: beat 2"),
            (13, "[    0.000000] Linux version 7.3.4"),
            (14, "[    1.000000] Run /sbin/init as init process"),
            (19, "vm: beat 3"),
            (30, "vm: beat 4"),
        ] {
            listener.hear(line, start + Duration::from_secs(second));
        }
        let [stop, boot, start] = [3, 1, 5].map(Duration::from_secs);
        assert_eq!(listener.gaps, [Gap { stop, boot, start }]);
    }
}
