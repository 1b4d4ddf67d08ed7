// SPDX-License-Identifier: GPL-2.0

//! The tests.

mod abort;
mod agents;
mod blocking;
mod carry;
mod cgroup;
mod chain;
pub mod common;
mod damage;
mod errno;
mod handlers;
mod hazards_compat;
mod hazards_entry;
mod hazards_log;
mod hazards_strange;
mod image;
mod killed;
mod memfd;
mod memfd_changes;
mod memfd_holes;
mod process;
mod retrieve;
mod roundtrip;
mod sessions;
mod shared;
mod sweep;
mod timers;
mod views;

use crate::registry::Suite;

/// All suites.
pub fn all() -> Vec<Suite> {
    vec![
        errno::suite(),
        errno::off_suite(),
        errno::late_suite(),
        hazards_compat::suite(),
        hazards_entry::suite(),
        hazards_log::suite(),
        hazards_strange::suite(),
        memfd::suite(),
        memfd_holes::suite(),
        memfd_changes::suite(),
        sessions::suite(),
        views::suite(),
        agents::suite(),
        timers::suite(),
        image::suite(),
        handlers::suite(),
        shared::suite(),
        blocking::suite(),
        abort::suite(),
        abort::legacy_suite(),
        chain::suite(),
        retrieve::suite(),
        killed::suite(),
        killed::finish_suite(),
        cgroup::suite(),
        carry::suite(),
        carry::failed::suite(),
        carry::off::suite(),
        carry::unread::suite(),
        carry::unread::drift_suite(),
        roundtrip::suite(),
        damage::suite(),
        sweep::suite(),
        damage::sessions_suite(),
        damage::version_suite(),
        damage::version_off_suite(),
        damage::flb_suite(),
        damage::flbs_suite(),
        damage::no_flbs_suite(),
    ]
}
