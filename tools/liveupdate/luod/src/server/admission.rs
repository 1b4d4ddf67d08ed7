// SPDX-License-Identifier: GPL-2.0

//! Admission of connections.
//!
//! Any user can connect repeatedly. The work for connections of a user is limited before
//! luod allocates anything for the connection.

use crate::config::{Config, Identity};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The number of connections in each [`WINDOW`] that are permitted to a user who is not
/// an operator.
const RATE_MAX: u32 = 200;

/// The period in which connections are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The minimum time between two log messages about refused connections.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The number of users with counted attempts from which old entries are removed.
const USERS_MAX: usize = 1024;

/// The number of recent connections of a user.
#[derive(Debug)]
struct Attempts {
    since: Instant,
    count: u32,
}

/// Counts connections.
#[derive(Debug, Default)]
pub(super) struct Admission {
    open: usize,
    open_by_user: BTreeMap<u32, usize>,
    attempts: BTreeMap<u32, Attempts>,
    refused: u64,
    logged: Option<Instant>,
}

impl Admission {
    /// Returns whether a peer may connect now.
    pub(super) fn admits(&mut self, config: &Config, who: &Identity, now: Instant) -> bool {
        // Operators are always admitted.
        if config.is_operator(who) {
            return true;
        }
        let uid = who.credentials.uid;
        let good = !self.is_too_often(uid, now) && !self.is_too_many(config, uid);
        if !good {
            self.refused += 1;
            self.log(uid, now);
        }
        good
    }

    fn is_too_many(&self, config: &Config, uid: u32) -> bool {
        let same = self.open_by_user.get(&uid).copied().unwrap_or_default();
        self.open >= config.max_connections || same >= config.max_connections_per_user
    }

    fn is_too_often(&mut self, uid: u32, now: Instant) -> bool {
        let is_recent = |a: &Attempts| now.saturating_duration_since(a.since) < WINDOW;
        if self.attempts.len() >= USERS_MAX {
            self.attempts.retain(|_, attempts| is_recent(attempts));
        }
        let attempts = self.attempts.entry(uid).or_insert(Attempts {
            since: now,
            count: 0,
        });
        if !is_recent(attempts) {
            *attempts = Attempts {
                since: now,
                count: 0,
            };
        }
        attempts.count = attempts.count.saturating_add(1);
        attempts.count > RATE_MAX
    }

    fn log(&mut self, uid: u32, now: Instant) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < LOG_EVERY;
        if self.logged.is_some_and(is_recent) {
            return;
        }
        tracing::warn!(
            uid,
            refused = self.refused,
            "connections are refused, the last one of the user {uid}: too many are open, or are \
             made too often; {} since this was logged last",
            self.refused
        );
        self.logged = Some(now);
        self.refused = 0;
    }

    /// Counts a new connection.
    pub(super) fn opened(&mut self, uid: u32) {
        self.open += 1;
        *self.open_by_user.entry(uid).or_default() += 1;
    }

    /// Counts a closed connection.
    pub(super) fn closed(&mut self, uid: u32) {
        self.open = self.open.saturating_sub(1);
        if let Some(count) = self.open_by_user.get_mut(&uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.open_by_user.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Credentials;

    fn who(uid: u32) -> Identity {
        let (pid, gid) = (1, 1);
        Credentials { pid, uid, gid }.into()
    }

    fn config() -> Config {
        Config {
            max_connections: 4,
            max_connections_per_user: 2,
            operator_uids: vec![9],
            ..Config::default()
        }
    }

    #[test]
    fn who_is_one_too_many() {
        for (uid, others, expected) in [
            (1, &[][..], true),
            (1, &[1], true),
            (1, &[1, 1], false),
            (2, &[1, 1], true),
            (2, &[1, 1, 3, 3], false),
            (9, &[1, 1, 3, 3], true),
            (9, &[9, 9, 9, 9, 9], true),
            (0, &[1, 1, 3, 3, 0, 0, 0], true),
        ] {
            let mut admission = Admission::default();
            for other in others {
                admission.opened(*other);
            }
            let seen = admission.admits(&config(), &who(uid), Instant::now());
            assert_eq!(seen, expected, "{uid} {others:?}");
            for other in others {
                admission.closed(*other);
            }
            assert!(admission.admits(&config(), &who(uid), Instant::now()));
            assert!(admission.open_by_user.is_empty());
        }
    }

    #[test]
    fn who_connects_too_often() {
        let mut admission = Admission::default();
        let start = Instant::now();
        let admitted = |admission: &mut Admission, uid, now| {
            let tries = (0..1000).filter(|_| admission.admits(&config(), &who(uid), now));
            tries.count()
        };
        assert_eq!(admitted(&mut admission, 1, start), RATE_MAX as usize);
        // All refusals but the first are logged in one line.
        assert_eq!(admission.refused, u64::from(1000 - RATE_MAX - 1));
        // Other users are not affected, and operators are not counted.
        assert_eq!(admitted(&mut admission, 2, start), RATE_MAX as usize);
        assert_eq!(admitted(&mut admission, 9, start), 1000);
        let later = start + WINDOW;
        assert_eq!(admitted(&mut admission, 1, later), RATE_MAX as usize);
        // Entries of users without recent connections are removed.
        for uid in 10..5000 {
            admission.admits(&config(), &who(uid), later + WINDOW * uid);
        }
        assert!(admission.attempts.len() <= USERS_MAX);
    }
}
