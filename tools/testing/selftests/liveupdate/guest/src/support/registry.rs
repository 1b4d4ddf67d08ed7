// SPDX-License-Identifier: GPL-2.0

//! What tests are made of.
//!
//! A *suite* is what one run of a virtual machine is spent on. Its *cases* share the kexecs: all
//! of them do their first part, then comes a kexec, then all do their second part, and so on. A
//! case has sessions of its own, hence cases do not depend on one another.

use crate::support::{
    error::{Failure, Result},
    state,
};
use std::{any::Any, fmt};

/// What a case does in one kernel.
pub type Part = Box<dyn Fn(&mut Stage<'_>) -> Result>;

/// The weaknesses of the C implementation that a case is about.
#[derive(Default)]
pub struct Hazard {
    /// Which ones, see `tests::hazards`.
    pub items: Vec<&'static str>,
    /// Why C passes anyway, or cannot be tried.
    pub unseen: Option<&'static str>,
}

/// A case of a suite.
pub struct Case {
    pub name: String,
    pub parts: Vec<Part>,
    /// The weaknesses of the C implementation that the case shows, if it is about any.
    pub hazard: Option<Hazard>,
    /// Whether the first kernel has to be ours, also when it is C that is to be tested.
    pub reader_only: bool,
}

impl Case {
    /// A case that needs one kernel.
    pub fn one(name: impl Into<String>, part: impl Fn(&mut Stage<'_>) -> Result + 'static) -> Self {
        Self {
            name: name.into(),
            parts: vec![Box::new(part)],
            hazard: None,
            reader_only: false,
        }
    }

    /// A case with a part before and a part after a kexec.
    pub fn two(
        name: impl Into<String>,
        before: impl Fn(&mut Stage<'_>) -> Result + 'static,
        after: impl Fn(&mut Stage<'_>) -> Result + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            parts: vec![Box::new(before), Box::new(after)],
            hazard: None,
            reader_only: false,
        }
    }

    /// Says that the C implementation does not pass, because of the weakness `item`. It may be said
    /// several times.
    pub fn hazard(mut self, item: &'static str) -> Self {
        self.hazard
            .get_or_insert_with(Hazard::default)
            .items
            .push(item);
        self
    }

    /// Says that the case is about the weakness `item`, but that C cannot be made to show it.
    pub fn hazard_unseen(mut self, item: &'static str, why: &'static str) -> Self {
        self = self.hazard(item);
        if let Some(hazard) = &mut self.hazard {
            hazard.unseen = Some(why);
        }
        self
    }

    /// Says that the case is about what the second kernel makes of something that only our kernel
    /// can do before: C is tested with our kernel as the first one.
    pub fn reader_only(mut self) -> Self {
        self.reader_only = true;
        self
    }
}

/// What one run of a virtual machine is spent on.
pub struct Suite {
    pub name: &'static str,
    pub group: &'static str,
    /// Parameters that the kernel needs.
    pub cmdline: &'static str,
    pub cases: Vec<Case>,
}

impl Suite {
    pub fn new(name: &'static str, cases: Vec<Case>) -> Self {
        Self {
            name,
            group: name,
            cmdline: "",
            cases,
        }
    }

    /// How many kernels the suite runs in.
    pub fn stages(&self) -> usize {
        let parts = self.cases.iter().map(|case| case.parts.len());
        parts.max().unwrap_or(0)
    }
}

/// What a part of a case can use.
pub struct Stage<'a> {
    case: &'a str,
    held: &'a mut Vec<Box<dyn Any>>,
}

impl<'a> Stage<'a> {
    pub fn new(case: &'a str, held: &'a mut Vec<Box<dyn Any>>) -> Self {
        Self { case, held }
    }

    /// Keeps something, a session for example, until this kernel ends.
    pub fn hold(&mut self, thing: impl Any) {
        self.held.push(Box::new(thing));
    }

    /// Says something that is good to know when the case fails.
    pub fn note(&self, message: impl fmt::Display) {
        println!("# {}: {message}", self.case);
    }

    /// Remembers a value for the next stage.
    pub fn put(&self, key: &str, value: impl fmt::Display) -> Result {
        state::put(self.case, key, &value.to_string())
    }

    /// Returns what an earlier stage remembered.
    pub fn get(&self, key: &str) -> Result<u64> {
        let value = state::get(self.case, key)?;
        value
            .parse()
            .map_err(|_| Failure::new(format!("{key} is '{value}'")))
    }
}
