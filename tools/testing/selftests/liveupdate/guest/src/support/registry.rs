// SPDX-License-Identifier: GPL-2.0

//! Suites and cases.
//!
//! A *suite* is run in one virtual machine. Its *cases* share the kexecs: all of them run their
//! first part, then there is a kexec, then all run their second part, and so on. Each case has
//! sessions of its own, so that cases are independent.

use crate::support::{
    error::{Failure, Result},
    state,
};
use std::{any::Any, fmt};

/// The part of a case in one kernel.
pub type Part = Box<dyn Fn(&mut Stage<'_>) -> Result>;

/// The faults of the C implementation that a case concerns.
#[derive(Default)]
pub struct Hazard {
    /// Their items, see `tests::hazards`.
    pub items: Vec<&'static str>,
    /// Why C passes anyway, or cannot be tested.
    pub unseen: Option<&'static str>,
}

/// A case of a suite.
pub struct Case {
    pub name: String,
    pub parts: Vec<Part>,
    /// The faults of the C implementation that the case shows.
    pub hazard: Option<Hazard>,
    /// Whether the first kernel must be ours, also when C is tested.
    pub reader_only: bool,
}

impl Case {
    /// A case that needs one kernel.
    pub fn one(name: impl Into<String>, part: impl Fn(&mut Stage<'_>) -> Result + 'static) -> Self {
        Self::with_parts(name, vec![Box::new(part)])
    }

    /// A case with a part before and a part after a kexec.
    pub fn two(
        name: impl Into<String>,
        before: impl Fn(&mut Stage<'_>) -> Result + 'static,
        after: impl Fn(&mut Stage<'_>) -> Result + 'static,
    ) -> Self {
        Self::with_parts(name, vec![Box::new(before), Box::new(after)])
    }

    /// A case with a part, which is a function, for each of several kernels.
    pub fn chain<const N: usize>(
        name: impl Into<String>,
        parts: [fn(&mut Stage<'_>) -> Result; N],
    ) -> Self {
        let parts = parts.map(|part| -> Part { Box::new(part) });
        Self::with_parts(name, parts.into())
    }

    /// A case with a part for each of several kernels.
    pub fn with_parts(name: impl Into<String>, parts: Vec<Part>) -> Self {
        Self {
            name: name.into(),
            parts,
            hazard: None,
            reader_only: false,
        }
    }

    /// Declares that the C implementation does not pass, because of the fault `item`. May be called
    /// several times.
    pub fn hazard(mut self, item: &'static str) -> Self {
        self.hazard
            .get_or_insert_with(Hazard::default)
            .items
            .push(item);
        self
    }

    /// Declares that the case is about the fault `item`, which cannot be shown on C.
    pub fn hazard_unseen(mut self, item: &'static str, why: &'static str) -> Self {
        self = self.hazard(item);
        if let Some(hazard) = &mut self.hazard {
            hazard.unseen = Some(why);
        }
        self
    }

    /// Declares that the case tests the second kernel with data that only our kernel can hand over:
    /// C is tested with our kernel as the first one.
    pub fn reader_only(mut self) -> Self {
        self.reader_only = true;
        self
    }
}

/// The tests of one run of a virtual machine.
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

    /// A suite of one case that needs the machine of `group`.
    pub fn on_machine(group: &'static str, name: &'static str, case: Case) -> Self {
        Self {
            group,
            // A suite with parameters only runs if it is named.
            cmdline: "liveupdate=on",
            ..Self::new(name, vec![case])
        }
    }

    /// The number of kernels of the suite.
    pub fn stages(&self) -> usize {
        let parts = self.cases.iter().map(|case| case.parts.len());
        parts.max().unwrap_or(0)
    }
}

/// The functions to call right before the next kernel is started.
pub type Last = Box<dyn FnOnce() -> Result>;

/// The context of a part of a case.
pub struct Stage<'a> {
    case: &'a str,
    held: &'a mut Vec<Box<dyn Any>>,
    last: &'a mut Vec<Last>,
}

impl<'a> Stage<'a> {
    pub fn new(case: &'a str, held: &'a mut Vec<Box<dyn Any>>, last: &'a mut Vec<Last>) -> Self {
        Self { case, held, last }
    }

    /// Keeps a value, for example a session, until the end of this kernel.
    pub fn hold(&mut self, thing: impl Any) {
        self.held.push(Box::new(thing));
    }

    /// Calls a function when the next kernel is loaded, right before it is started.
    pub fn last(&mut self, act: impl FnOnce() -> Result + 'static) {
        self.last.push(Box::new(act));
    }

    /// Prints information for the analysis of failures.
    pub fn note(&self, message: impl fmt::Display) {
        println!("# {}: {message}", self.case);
    }

    /// Saves a value for the next stage.
    pub fn put(&self, key: &str, value: impl fmt::Display) -> Result {
        state::put(self.case, key, &value.to_string())
    }

    /// Returns a text that an earlier stage has saved.
    pub fn text(&self, key: &str) -> Result<String> {
        state::get(self.case, key)
    }

    /// Returns a number that an earlier stage has saved.
    pub fn get(&self, key: &str) -> Result<u64> {
        let value = self.text(key)?;
        value
            .parse()
            .map_err(|_| Failure::new(format!("{key} is '{value}'")))
    }
}
