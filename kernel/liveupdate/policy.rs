// SPDX-License-Identifier: GPL-2.0

//! Vital data: no kernel may go on that does not understand it.
//!
//! By default, data that a kernel does not understand is kept: its memory stays reserved, and the
//! next kexec carries it over. That is not enough for data about something that goes on without the
//! kernel. The names of vital data are therefore handed over in an entry of their own, which a kernel
//! reads before anything else: if it does not support one of them, it panics.

use crate::{
    abi::{
        Compatible,
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
    prelude::*, //
};

/// The name of the entry in the Kexec Handover tree.
const ENTRY_NAME: &CStr = c"LUO-policy";

/// The names of the vital data that the previous kernel handed over.
#[derive(Default)]
pub(crate) struct VitalNames(KVec<Compatible>);

impl VitalNames {
    /// Reads the names. Panics if this kernel does not support one of them, or if there are any and
    /// live updates are not `wanted`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn take_over(wanted: bool) -> Result<Self> {
        let mut this = Self::default();
        let Ok((folio, size)) = ClaimedFolio::subtree(ENTRY_NAME) else {
            return Ok(this);
        };
        let bytes = folio.bytes();
        match PolicyPage::parse(bytes.get(..size).unwrap_or(bytes)) {
            Ok(entries) => {
                for name in entries.iter().filter_map(|entry| entry.name().ok()) {
                    let known = format::supported().iter().map(format::Format::name);
                    if !known.into_iter().any(|known| known == name.as_bytes()) {
                        stop(&name, c"this kernel does not support it");
                    }
                    if !wanted {
                        stop(&name, c"liveupdate=on is missing");
                    }
                    this.0.push(name, GFP_KERNEL)?;
                }
            }
            Err(err) => pr_err!("cannot read the list of vital data: {:?}\n", err),
        }
        // The debugfs files of Kexec Handover show this page as long as the kernel runs.
        folio.leak();
        Ok(this)
    }

    /// Panics if there are names, since the data of the previous kernel cannot be read.
    pub(crate) fn stop_if_any(&self) {
        if let Some(name) = self.0.first() {
            stop(name, c"the sessions cannot be read");
        }
    }

    /// The names.
    pub(crate) fn names(&self) -> &[Compatible] {
        &self.0
    }
}

/// The name of vital data of this kernel.
pub(crate) struct VitalData {
    name: Compatible,
    /// Whether the next kernel gets such data.
    handed_over: bool,
}

impl VitalData {
    /// Adds `name` to `list` if it is not there; `handed_over` data stays that.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn add(list: &mut KVec<Self>, name: Compatible, handed_over: bool) -> Result {
        if !Self::mark(list, name.as_bytes(), handed_over) {
            list.push(Self { name, handed_over }, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Marks the data of this format, if it is in `list`, as handed over if `handed_over` is set.
    /// Returns whether it is in `list`.
    pub(crate) fn mark(list: &mut [Self], format: &[u8], handed_over: bool) -> bool {
        let Some(data) = list.iter_mut().find(|data| data.name.as_bytes() == format) else {
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
        self.0.fill(data.map(|data| PolicySer::fatal(&data.name)));
    }
}
