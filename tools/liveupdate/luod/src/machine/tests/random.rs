// SPDX-License-Identifier: GPL-2.0

//! Random requests at random times.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    Connect,
    Leave(usize),
    Say(usize, String),
    Pass(u64),
    /// A client takes a session and closes it.
    Drop(usize),
    KillLuod,
}

fn lines() -> impl Strategy<Value = String> {
    let names = prop_oneof![Just("a"), Just("b"), Just("c")];
    let commands = prop_oneof![
        4 => Just(r#""SUBSCRIBE""#),
        1 => Just(r#""UNSUBSCRIBE""#),
        6 => Just(r#""READY""#),
        1 => Just(r#""REFUSE""#),
        1 => Just(r#""PROGRESS""#),
        3 => Just(r#""CLAIM""#),
        3 => Just(r#""FINISHED""#),
        1 => Just(r#""LIST""#),
        4 => Just(r#""UPDATE""#),
        1 => Just(r#""UPDATE","force":true"#),
        1 => Just(r#""UPDATE","dry_run":true"#),
        1 => Just(r#""ABORT""#),
        1 => Just(r#""FINISH""#),
        1 => Just(r#""DISCARD""#),
        1 => Just(r#""WATCH""#),
        1 => Just(r#""REPORT""#),
        1 => Just(r#""HELLO","version":1"#),
    ];
    (commands, names)
        .prop_map(|(cmd, name)| format!(r#"{{"cmd":{cmd},"id":"{name}","session":"{name}"}}"#))
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Connect),
        1 => any::<usize>().prop_map(Act::Leave),
        12 => (any::<usize>(), lines()).prop_map(|(who, line)| Act::Say(who, line)),
        1 => (0..40_000_u64).prop_map(Act::Pass),
        2 => any::<usize>().prop_map(Act::Drop),
        1 => Just(Act::KillLuod),
    ]
}

fn pick(conns: &[ConnId], number: usize) -> Option<ConnId> {
    conns.get(number.checked_rem(conns.len())?).copied()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        // The failing input is printed; the source tree is not changed.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_left_and_nothing_breaks(
        acts in proptest::collection::vec(acts(), 1..120),
        with_store in any::<bool>(),
    ) {
        let mut luod = Luod::new();
        luod.world.state().store = with_store.then(BTreeMap::new);
        let mut conns = Vec::new();
        let mut boots = 0;
        for act in acts {
            match act {
                Act::Connect => conns.push(luod.connect()),
                Act::Leave(who) => {
                    if let Some(conn) = pick(&conns, who) {
                        conns.retain(|other| *other != conn);
                        luod.inboxes.remove(&conn);
                        luod.leave(conn);
                    }
                }
                Act::Say(who, line) => {
                    if let Some(conn) = pick(&conns, who) {
                        luod.send(conn, &line);
                    }
                }
                Act::Pass(time) => luod.pass(ms(time)),
                Act::Drop(who) => {
                    if let Some(conn) = pick(&conns, who) {
                        luod.inboxes.remove(&conn);
                    }
                }
                Act::KillLuod => {
                    luod = luod.next_kernel();
                    conns.clear();
                }
            }
            let now = luod.world.state().boots;
            if now != boots {
                boots = now;
                luod = luod.next_kernel();
                conns.clear();
            }
            // luod answers all requests, and requests a tick in time.
            let status = luod.machine.status();
            prop_assert_eq!(status.phase, luod.machine.phase());
            prop_assert!(luod.machine.next_tick().is_some() || !status.phase.is_update());
        }
        // All clients disconnect, and an operator cleans up.
        luod.inboxes.clear();
        for conn in conns {
            luod.leave(conn);
        }
        luod.inboxes.clear();
        if luod.world.state().boots != boots {
            // A forced update continues without them.
            luod = luod.next_kernel();
        }
        let operator = luod.connect();
        luod.send(operator, r#"{"cmd":"ABORT"}"#);
        for name in ["a", "b", "c"] {
            luod.send(operator, &format!(r#"{{"cmd":"DISCARD","session":"{name}"}}"#));
        }
        prop_assert_eq!(luod.machine.phase(), Phase::Idle);
        prop_assert!(luod.world.kernel.outgoing().is_empty());
        prop_assert!(luod.world.kernel.incoming().is_empty());
        prop_assert!(luod.world.stored().is_empty());
        prop_assert_eq!(luod.machine.status().subscribed, 0);
    }
}
