// SPDX-License-Identifier: GPL-2.0

//! Checks whether a condition is true for all sessions, without examining each of them each time.

use luod_protocol::SessionName;
use std::{collections::BTreeMap, ops::Bound};

/// A session for which the condition was false at the last check.
///
/// As long as the condition is false for this session, it is not true for all. After that, the
/// following sessions are examined. If the condition becomes true for one session after another, in
/// any order, each session is examined once or twice.
#[derive(Debug, Default)]
pub(super) struct Witness(Option<SessionName>);

impl Witness {
    /// Returns whether the condition is true for all sessions.
    pub(super) fn all<T>(
        &mut self,
        sessions: &BTreeMap<SessionName, T>,
        is_so: impl Fn(&T) -> bool,
    ) -> bool {
        let found = match &self.0 {
            Some(last) => sessions
                .range::<SessionName, _>((Bound::Included(last), Bound::Unbounded))
                .chain(sessions.range::<SessionName, _>((Bound::Unbounded, Bound::Excluded(last))))
                .find(|(_, session)| !is_so(session)),
            None => sessions.iter().find(|(_, session)| !is_so(session)),
        };
        let found = found.map(|(name, _)| name);
        // The name is copied only if it differs.
        if found != self.0.as_ref() {
            self.0 = found.cloned();
        }
        found.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn each_is_looked_at_twice_at_most() {
        let name = |n: u32| SessionName::new(format!("s-{n}")).unwrap();
        for step in [1, 7, 999] {
            let mut sessions: BTreeMap<_, _> = (0..1000).map(|n| (name(n), false)).collect();
            let mut witness = Witness::default();
            let looks = Cell::new(0);
            for n in 0..1000 {
                let all = witness.all(&sessions, |so| {
                    looks.set(looks.get() + 1);
                    *so
                });
                assert!(!all);
                sessions.insert(name(n * step % 1000), true);
            }
            assert!(witness.all(&sessions, |so| *so));
            assert!(looks.get() <= 3000, "{step}: {}", looks.get());
            // Another session can be added.
            sessions.insert(name(2000), false);
            assert!(!witness.all(&sessions, |so| *so));
        }
        assert!(Witness::default().all(&BTreeMap::<_, bool>::new(), |so| *so));
    }
}
