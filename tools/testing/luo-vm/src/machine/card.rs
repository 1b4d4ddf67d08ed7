// SPDX-License-Identifier: GPL-2.0

//! A run of a machine with a network card that a program drives through VFIO, and with its
//! [sender](super::sender).

use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use crate::ctx::Ctx;
use crate::machine::console::{is_kexec, is_next_program};
use crate::machine::gap::BOOTS;
use crate::machine::pci::{self, Buses};
use crate::machine::sender::{Counter, Outcome, Refused, Sender};
use crate::machine::vm::{Run, Vm};

/// The group of those guest tests that need the network card.
pub const VFIO: &str = "vfio";

/// What a guest test says if the ring was full.
pub const FULL: &str = "the ring was full";

/// When a kernel was replaced.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// The last line of the last program.
    pub kexec: Instant,
    /// The first line of the next kernel, and how many frames the card had taken.
    boot: Option<(Instant, u64)>,
    /// The first line of the next program, and how many frames the card had taken.
    pub program: Option<(Instant, u64)>,
}

/// What was seen.
pub struct CardRun {
    pub run: Run,
    /// What QEMU said of the card and the bridge above it before and after each kexec.
    pub buses: Vec<Value>,
    /// What the sender has sent and received.
    pub frames: Outcome,
    pub updates: Vec<Update>,
}

impl CardRun {
    /// Runs the machine, which has a port `above`. The sender sends `rate` frames a second; `seen`
    /// sees each line of the console, with the number of frames that the card has taken.
    pub fn new(
        ctx: &Ctx,
        vm: Vm<'_>,
        (rate, refused): (u32, Refused),
        mut seen: impl FnMut(&str, &Counter),
    ) -> Result<Self> {
        let monitor = vm.monitor(ctx);
        let sender = Sender::start(&monitor, rate, refused)?;
        let vm = vm.devices(sender.devices());
        let counter = sender.counter();
        let mut buses = Buses::new(monitor, pci::IGB);
        let mut updates: Vec<Update> = Vec::new();
        let run = vm.run_with(ctx, |line| {
            buses.hear(line);
            let now = (Instant::now(), counter.get());
            if is_kexec(line) {
                updates.push(Update {
                    kexec: now.0,
                    boot: None,
                    program: None,
                });
            } else if let Some(update) = updates.last_mut() {
                if line.contains(BOOTS) {
                    update.boot.get_or_insert(now);
                } else if is_next_program(line) {
                    update.program.get_or_insert(now);
                }
            }
            seen(line, &counter);
        });
        let frames = sender.end();
        Ok(Self {
            run: run?,
            buses: buses.answers,
            frames,
            updates,
        })
    }

    /// How many frames the card took while each of the next kernels booted, until its first program.
    pub fn booting(&self) -> Vec<u64> {
        let updates = self.updates.iter();
        updates
            .filter_map(|update| Some(update.program?.1 - update.boot?.1))
            .collect()
    }

    /// Whether the ring was full when it should not be: the run shows nothing.
    pub fn was_full(&self) -> bool {
        self.run.console.user.iter().any(|line| line.contains(FULL))
    }
}
