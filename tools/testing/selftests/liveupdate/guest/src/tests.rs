// SPDX-License-Identifier: GPL-2.0

//! The tests.

mod abort;
mod agents;
mod bad_memory;
mod blocking;
mod carry;
mod cgroup;
mod chain;
mod crash;
mod damage;
mod devices;
mod errno;
mod guarded;
mod handlers;
pub mod hazards;
mod hugetlb;
mod image;
mod killed;
mod kvm;
mod memfd;
mod modules;
mod nodes;
mod nvme;
mod retrieve;
mod roundtrip;
mod sessions;
mod shared;
mod sweep;
mod timers;
mod trace;
mod vfio;
mod views;
mod vital;

use crate::support::registry::Suite;

/// All suites.
pub fn all() -> Vec<Suite> {
    vec![
        errno::suite(),
        errno::off_suite(),
        errno::late_suite(),
        hazards::compat::suite(),
        hazards::entry::suite(),
        hazards::log::suite(),
        hazards::strange::suite(),
        memfd::suite(),
        memfd::holes::suite(),
        memfd::changes::suite(),
        hugetlb::suite(),
        hugetlb::retriever::suite(),
        hugetlb::damage::suite(),
        hugetlb::bad::suite(),
        kvm::suite(),
        kvm::module::suite(),
        sessions::suite(),
        views::suite(),
        trace::suite(),
        trace::previous_suite(),
        agents::suite(),
        bad_memory::suite(),
        bad_memory::image_suite(),
        timers::suite(),
        image::suite(),
        handlers::suite(),
        shared::suite(),
        modules::suite(),
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
        carry::unread::memory_suite(),
        roundtrip::suite(),
        damage::suite(),
        sweep::suite(),
        damage::sessions_suite(),
        damage::version_suite(),
        damage::version_off_suite(),
        damage::not_dropped_suite(),
        damage::looked_at_suite(),
        damage::unknown::refused_suite(),
        damage::unknown::carried_suite(),
        damage::flb_suite(),
        damage::flbs_suite(),
        damage::no_flbs_suite(),
        vital::unknown_suite(),
        vital::flb_suite(),
        vital::carried_suite(),
        vital::off_suite(),
        vital::version_suite(),
        vital::failed_suite(),
        devices::preserved_suite(),
        devices::stopped_suite(),
        devices::closed_suite(),
        devices::forgotten_suite(),
        devices::carried_suite(),
        nodes::suite(),
        hugetlb::nodes::suite(),
        hugetlb::gigantic::suite(),
        hugetlb::gigantic::damage::suite(),
        crash::suite(),
        guarded::signed_suite(),
        guarded::iommu_suite(),
        devices::damage::version_suite(),
        devices::damage::missing_suite(),
        devices::damage::twice_suite(),
        devices::damage::bus_zero_suite(),
        devices::damage::routing_suite(),
        devices::damage::bus_range_suite(),
        devices::damage::other_suite(),
        devices::damage::off_suite(),
        devices::damage::handler_suite(),
        vfio::plain_suite(),
        vfio::preserved_suite(),
        vfio::again_suite(),
        vfio::variants::stopped_suite(),
        vfio::variants::restarted_suite(),
        vfio::variants::closed_suite(),
        vfio::variants::skipped_suite(),
        vfio::variants::forgotten_suite(),
        vfio::variants::unbound_suite(),
        vfio::variants::unmapped_suite(),
        vfio::parts::left_out_suite(),
        vfio::parts::areas_suite(),
        vfio::forced::suite_of_all(),
        vfio::kinds::intx_suite(),
        vfio::kinds::huge_suite(),
        vfio::kinds::full_suite(),
        vfio::absent::late_suite(),
        vfio::absent::unplugged_suite(),
        vfio::faults::mapped_suite(),
        vfio::faults::handler_suite(),
        vfio::faults::lost_suite(),
        vfio::variants::refused_suite(),
        vfio::express::ports_suite(),
        vfio::express::functions_suite(),
        vfio::express::discovered_suite(),
        nvme::preserved_suite(),
        nvme::stopped_suite(),
        nvme::closed_suite(),
        nvme::forgotten_suite(),
    ]
}

#[cfg(test)]
mod unit {
    use super::{all, hazards::ITEMS};

    /// The items of all cases exist.
    #[test]
    fn items_are_known() {
        for suite in all() {
            for case in suite.cases {
                for item in case.hazard.iter().flat_map(|hazard| &hazard.items) {
                    let base = item.trim_end_matches(|c: char| c.is_ascii_lowercase());
                    let known = ITEMS.iter().any(|(known, ..)| *known == base);
                    assert!(known, "{}.{}: {item}", suite.name, case.name);
                }
            }
        }
    }
}
