// SPDX-License-Identifier: GPL-2.0

//! Maintenance windows, the minimum verdict, quotas, and the alarm about unclaimed sessions.

use super::{after::updated, *};
use luo_check::Verdict;

impl Luod {
    fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.machine.config().clone();
        change(&mut config);
        self.machine.reconfigure(config);
    }
}

#[test]
fn windows() {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    // The clock of the fake machine starts at 1970-01-01, a Thursday.
    luod.configure(|config| config.windows = vec!["Thu 00:10-00:20".parse().unwrap()]);
    let operator = luod.connect();
    for line in [r#"{"cmd":"UPDATE"}"#, r#"{"cmd":"UPDATE","dry_run":true}"#] {
        assert_eq!(luod.error(operator, line), ErrorCode::Policy);
    }
    luod.pass(ms(10 * 60_000));
    luod.update(r#","dry_run":true"#);
    drop(luod.preserve(a, "a"));
    luod.cancelled(a, "dry run");
    luod.pass(ms(10 * 60_000));
    assert_eq!(
        luod.error(operator, r#"{"cmd":"UPDATE"}"#),
        ErrorCode::Policy
    );
    luod.update(r#","force":true"#);
    luod.preserve(a, "a");
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn the_minimum_verdict() {
    for minimum in [Verdict::Unknown, Verdict::Likely] {
        let mut luod = Luod::new();
        let a = luod.subscriber("a");
        luod.configure(|config| config.minimum_verdict = minimum);
        luod.world.state().doubt = Some("a doubt".into());
        if minimum == Verdict::Likely {
            let operator = luod.connect();
            assert_eq!(
                luod.error(operator, r#"{"cmd":"UPDATE"}"#),
                ErrorCode::Policy
            );
            luod.nothing(a);
            // The doubt arises while the clients preserve their files.
            luod.world.state().doubt = None;
            let operator = luod.update("");
            luod.world.state().doubt = Some("a doubt".into());
            drop(luod.preserve(a, "a"));
            luod.cancelled(a, "may lose data: a doubt");
            assert_eq!(luod.result(operator).outcome, Outcome::Aborted);
            luod.update(r#","force":true"#);
        } else {
            luod.update("");
        }
        luod.preserve(a, "a");
        assert_eq!(luod.world.state().kexecs, 1);
    }
}

#[test]
fn quotas() {
    let mut luod = Luod::new();
    luod.configure(|config| config.rules[0].max_sessions = Some(2));
    let subscribe = |name: &str| format!(r#"{{"cmd":"SUBSCRIBE","id":"{name}"}}"#);
    let (one, two) = (luod.connect_as(1000), luod.connect_as(1000));
    luod.send(one, &subscribe("vm-1"));
    luod.send(two, &subscribe("vm-2"));
    luod.nothing(two);
    assert_eq!(luod.error(two, &subscribe("vm-3")), ErrorCode::TooMany);
    // The same session again is no further one, and root is another user.
    luod.send(one, &subscribe("vm-1"));
    luod.nothing(one);
    luod.subscriber("vm-4");
    luod.leave(one);
    luod.send(two, &subscribe("vm-3"));
    luod.nothing(two);
}

#[test]
fn nobody_claims_a_session() {
    let mut luod = updated(&["a", "b"]);
    luod.configure(|config| config.claim_timeout = Some(Duration::from_secs(60)));
    let (b, session) = luod.claim("b");
    luod.pass(ms(59_000));
    assert_eq!(luod.machine.status().problem, None);
    assert!(luod.machine.next_tick().unwrap() <= ms(1_000));
    luod.pass(ms(1_000));
    let problem = luod.machine.status().problem.unwrap();
    assert!(problem.contains("in time: a; start"), "{problem}");
    // No alarm is due any more.
    assert!(luod.machine.next_tick().is_none_or(|next| next > ms(1_000)));
    let (a, _) = luod.claim("a");
    assert_eq!(luod.machine.status().problem, None);
    // A client that ends leaves its session unclaimed.
    luod.pass(ms(600_000));
    drop(session);
    luod.leave(b);
    luod.pass(ms(59_000));
    assert_eq!(luod.machine.status().problem, None);
    luod.pass(ms(1_000));
    let problem = luod.machine.status().problem.unwrap();
    assert!(problem.contains("in time: b; start"), "{problem}");
    luod.leave(a);
}
