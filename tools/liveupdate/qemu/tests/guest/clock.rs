// SPDX-License-Identifier: GPL-2.0

//! The clock of a guest without an agent lags by the sum of all of its pauses.

use crate::machine::{abort, counts_on, jump, Machine};
use luod::fake::{own_config, FakeWorld, Luod};

fn lag(machine: &Machine) -> i64 {
    machine.record().lag_us.unwrap()
}

#[test]
fn it_lags_by_all_pauses() {
    let machine = Machine::new();
    let world = FakeWorld::new();
    let (luod, path, mut member) = machine.start(&world);
    counts_on(&mut member);
    assert_eq!(machine.record().lag_us, None);

    abort(&luod, &mut member);
    let first = lag(&machine);
    assert!(first > 0);
    abort(&luod, &mut member);
    let second = lag(&machine);
    assert!(second > first, "{first}, {second}");

    jump(luod, member);
    let luod = Luod::start_at(&world, own_config(), &path).unwrap();
    let mut member = machine.join(&path);
    let record = machine.record();
    let gap = i64::try_from(record.gap_us.unwrap()).unwrap();
    assert_eq!(record.lag_us, Some(second + gap));
    drop(luod);
    member.participant_mut().kill();
}
