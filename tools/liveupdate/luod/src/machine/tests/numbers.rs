// SPDX-License-Identifier: GPL-2.0

//! The service manager answers late to obsolete questions: each answer has the number of its
//! question, and is not used for another one.

use super::*;
use crate::world::{Question, QuestionId};

type Questions = VecDeque<(QuestionId, Question, Option<String>)>;

/// A luod with a client, after an update that was aborted while the service manager was asked, and
/// this question, to which the answer is that it keeps no sessions.
fn aborted() -> (Luod, ConnId, Questions) {
    let mut luod = Luod::new();
    let a = luod.subscriber("a");
    luod.world.state().manager_hangs = true;
    luod.world.state().not_kept = Some("systemd keeps nothing".into());
    let operator = luod.update("");
    drop(luod.preserve(a, "a"));
    luod.send(operator, r#"{"cmd":"ABORT"}"#);
    luod.inboxes.clear();
    luod.is_as_before();
    let mut state = luod.world.state();
    state.not_kept = None;
    state.manager_hangs = false;
    let stale = std::mem::take(&mut state.questions);
    assert!(matches!(stale[0].1, Question::IsKept { .. }));
    drop(state);
    (luod, a, stale)
}

impl Luod {
    /// Delivers the late answers, and then all others.
    fn late_answers(&mut self, mut stale: Questions) {
        let mut state = self.world.state();
        stale.append(&mut state.questions);
        state.questions = stale;
        state.manager_hangs = false;
        state.jump_hangs = false;
        drop(state);
        self.pass(ms(20));
    }
}

#[test]
fn what_is_kept() {
    let (mut luod, a, stale) = aborted();
    luod.world.state().manager_hangs = true;
    luod.update("");
    drop(luod.preserve(a, "a"));
    assert_eq!(luod.machine.phase(), Phase::Preserving);
    luod.late_answers(stale);
    assert_eq!(luod.world.state().kexecs, 1);
}

#[test]
fn that_the_next_kernel_is_started() {
    let (mut luod, a, stale) = aborted();
    luod.world.state().jump_hangs = true;
    luod.update("");
    drop(luod.preserve(a, "a"));
    assert_eq!(luod.machine.phase(), Phase::Jump);
    luod.late_answers(stale);
    assert_eq!(luod.world.state().kexecs, 1);
    // The late answer does not make the new question fail.
    assert_eq!(luod.machine.phase(), Phase::Jump);
}

#[test]
fn whether_the_jump_is_late() {
    let (mut luod, a, stale) = aborted();
    luod.world.state().by_manager = true;
    luod.world.state().kexec_under_way = true;
    luod.update("");
    drop(luod.preserve(a, "a"));
    luod.world.state().manager_hangs = true;
    luod.pass(ms(300_000));
    assert_eq!(luod.world.state().questions.len(), 1);
    luod.late_answers(stale);
    assert_eq!(luod.machine.phase(), Phase::Jump);
}

#[test]
fn whether_it_is_a_kexec() {
    let (mut luod, a, stale) = aborted();
    luod.world.state().manager_hangs = true;
    luod.world.state().kexec_under_way = true;
    let unit = luod.connect();
    luod.send(unit, r#"{"cmd":"HANDOVER"}"#);
    luod.nothing(unit);
    luod.late_answers(stale);
    assert!(matches!(luod.next(unit).0, Event::Ok { .. }));
    drop(luod.preserve(a, "a"));
    assert_eq!(luod.machine.phase(), Phase::Jump);
}
