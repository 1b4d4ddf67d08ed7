// SPDX-License-Identifier: GPL-2.0

//! Vital data: data that a kernel must not ignore.
//!
//! By default, data that a kernel does not understand is kept: its memory stays reserved, and the
//! next kexec carries it over. This is not sufficient for data about something that keeps working
//! while no kernel runs. The names of vital data are therefore handed over in an entry of their
//! own, with what a kernel must do that does not understand it, see [`Policy`]. A kernel reads this
//! entry before anything else.

use crate::{
    abi::{
        Compatible,
        Policy,
        PolicyPage,
        PolicySer, //
    },
    ops::stop, //
};
use kernel::{
    kho::{
        ClaimedFolio,
        Preserved,
        Subtree, //
    },
    liveupdate::format,
    prelude::*,
    str::BStr,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};

/// The name of the entry in the Kexec Handover tree.
const ENTRY_NAME: &CStr = c"LUO-policy";

/// Whether devices may be working that are unknown to this kernel.
static MUST_SILENCE: Atomic<bool> = Atomic::new(false);

/// Returns whether devices must be silenced when they are discovered.
pub(crate) fn must_silence() -> bool {
    MUST_SILENCE.load(Relaxed)
}

/// Carries out `policy` for data of this name that this kernel does not understand. Does not return
/// if the policy is fatal, or cannot be carried out.
pub(crate) fn not_understood(policy: Policy, name: &BStr, why: &CStr) {
    // Only the code for PCI can silence devices.
    if policy == Policy::Fatal || !cfg!(CONFIG_PCI_LIVEUPDATE) {
        stop(name, why);
    }
    pr_emerg!(
        "cannot use '{}' of the previous kernel: {}: its memory stays reserved, and all devices are \
         silenced when they are discovered\n",
        name,
        BStr::from_bytes(why.to_bytes())
    );
    MUST_SILENCE.store(true, Relaxed);
}

/// Silences devices, because the data of the previous kernel could not be read.
pub(crate) fn nothing_is_known(err: Error) {
    pr_emerg!(
        "cannot read what the previous kernel handed over: error {}: all devices are silenced\n",
        err.to_errno()
    );
    MUST_SILENCE.store(true, Relaxed);
}

/// The name of vital data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vital {
    pub(crate) name: Compatible,
    pub(crate) policy: Policy,
    /// Whether it is an FLB, or else a file.
    pub(crate) is_flb: bool,
}

impl Vital {
    fn is(&self, format: &[u8], is_flb: bool) -> bool {
        self.is_flb == is_flb && self.name.as_bytes() == format
    }

    fn not_understood(&self, why: &CStr) {
        not_understood(self.policy, BStr::from_bytes(self.name.as_bytes()), why);
    }
}

/// The names of the vital data that the previous kernel handed over.
#[derive(Default)]
pub(crate) struct VitalNames(KVec<Vital>);

impl VitalNames {
    /// Reads the names. Carries out their policies if this kernel does not support one of them, or
    /// if live updates are not `wanted`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn take_over(wanted: bool) -> Result<Self> {
        let mut this = Self::default();
        let unreadable = || {
            let why = c"the list of vital data cannot be read";
            not_understood(Policy::Silenced, BStr::from_bytes(b"LUO-policy"), why);
        };
        let (folio, size) = match ClaimedFolio::subtree(ENTRY_NAME) {
            Ok(found) => found,
            Err(ENOENT) => return Ok(this),
            Err(_) => {
                unreadable();
                return Ok(this);
            }
        };
        let bytes = folio.bytes();
        match PolicyPage::parse(bytes.get(..size).unwrap_or(bytes)) {
            Ok(entries) => {
                for entry in entries {
                    let Ok(name) = entry.name() else {
                        let name = BStr::from_bytes(b"(damaged)");
                        not_understood(entry.policy(), name, c"its name cannot be read");
                        continue;
                    };
                    let vital = Vital {
                        name,
                        policy: entry.policy(),
                        is_flb: entry.is_flb(),
                    };
                    let mut known = format::supported().iter().map(format::Format::name);
                    if !known.any(|known| known == name.as_bytes()) {
                        vital.not_understood(c"this kernel does not support it");
                    } else if !wanted {
                        vital.not_understood(c"liveupdate=on is missing");
                    }
                    this.0.push(vital, GFP_KERNEL)?;
                }
            }
            Err(_) => unreadable(),
        }
        // The debugfs files of Kexec Handover show this page as long as the kernel runs.
        folio.leak();
        Ok(this)
    }

    /// Carries out the policies, since the data of the previous kernel cannot be read.
    pub(crate) fn cannot_be_read(&self) {
        for vital in &self.0 {
            vital.not_understood(c"the sessions cannot be read");
        }
    }

    /// Carries out the policies for FLBs that the previous kernel has handed over, but for which
    /// `is_there` returns false.
    pub(crate) fn check_flbs(&self, is_there: impl Fn(&Compatible) -> bool) {
        for vital in &self.0 {
            if vital.is_flb && !is_there(&vital.name) {
                vital.not_understood(c"it is not in the list of FLBs");
            }
        }
    }

    /// The names.
    pub(crate) fn names(&self) -> &[Vital] {
        &self.0
    }
}

/// The name of vital data that this kernel may hand over.
pub(crate) struct VitalData {
    vital: Vital,
    /// Whether the next kernel gets such data.
    handed_over: bool,
}

impl VitalData {
    /// Adds `vital` to `list` if it is not in the list. `handed_over` is never reset.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn add(list: &mut KVec<Self>, vital: Vital, handed_over: bool) -> Result {
        if !Self::mark(list, vital.name.as_bytes(), vital.is_flb, handed_over) {
            list.push(Self { vital, handed_over }, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Adds the data of this format to `list` if it is one of `names`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn add_known(
        list: &mut KVec<Self>,
        names: &[Vital],
        format: &[u8],
        is_flb: bool,
        handed_over: bool,
    ) -> Result {
        let vital = names.iter().find(|vital| vital.is(format, is_flb));
        vital.map_or(Ok(()), |vital| Self::add(list, *vital, handed_over))
    }

    /// Marks the data of this format, if it is in `list`, as handed over if `handed_over` is set.
    /// Returns whether it is in `list`.
    pub(crate) fn mark(list: &mut [Self], format: &[u8], is_flb: bool, handed_over: bool) -> bool {
        let Some(data) = list.iter_mut().find(|data| data.vital.is(format, is_flb)) else {
            return false;
        };
        data.handed_over |= handed_over;
        true
    }
}

/// The names of vital data for the next kernel, which are published in the Kexec Handover tree.
pub(crate) struct OutgoingPolicy(Subtree<PolicyPage>);

impl OutgoingPolicy {
    /// The maximum number of names.
    pub(crate) const CAPACITY: usize = PolicyPage::CAPACITY;

    /// Fails with [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        let mut page = Preserved::<PolicyPage>::new_zeroed()?;
        page.fill(core::iter::empty());
        Ok(Self(page.publish(ENTRY_NAME)?))
    }

    /// Replaces the names by those of `data` that is handed over.
    pub(crate) fn fill(&mut self, data: &[VitalData]) {
        let data = data.iter().filter(|data| data.handed_over);
        let entry = |data: &VitalData| {
            let Vital {
                name,
                policy,
                is_flb,
            } = &data.vital;
            PolicySer::new(name, *policy, *is_flb)
        };
        self.0.fill(data.map(entry));
    }

    /// The physical address of the page.
    #[cfg(CONFIG_LIVEUPDATE_ERROR_INJECTION)]
    pub(crate) fn phys(&self) -> kernel::kho::PhysAddr {
        self.0.phys()
    }
}
