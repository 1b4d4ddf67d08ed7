// SPDX-License-Identifier: GPL-2.0

//! FLBs that are handed over to the next kernel.

use crate::{
    abi::{
        Compatible,
        FlbPage,
        FlbSer,
        Policy, //
    },
    gate::Stopped,
    ops::{
        FlbId,
        FlbOps,
        FlbPayload, //
    },
};
use kernel::{
    module_ref::ModuleRef,
    prelude::*,
    str::BStr,
    sync::{
        new_mutex,
        new_rwsem,
        Arc,
        Mutex,
        RwSemWriteGuard,
        RwSemaphore, //
    }, //
};

/// A preserved state.
struct Live {
    payload: FlbPayload,
    files: u64,
    users: u64,
    _module: ModuleRef,
}

/// A state on which files depend and which is handed over to the next kernel.
///
/// An operation of an FLB may use other FLBs, of either direction, so that no lock that such a use
/// takes may be held while it runs. `ops` and `live` are therefore only locked for access, and
/// `running` serializes operations; users of a preserved FLB never take it.
#[pin_data]
pub(crate) struct Flb {
    compatible: Compatible,
    id: FlbId,
    policy: Option<Policy>,
    /// [`None`] after the state was unregistered.
    #[pin]
    ops: Mutex<Option<FlbOps>>,
    /// Held while operations run.
    #[pin]
    running: Mutex<()>,
    #[pin]
    live: Mutex<Option<Live>>,
}

impl Flb {
    /// Creates the state of `ops`, which is initially not preserved.
    pub(crate) fn new(compatible: Compatible, ops: FlbOps) -> impl PinInit<Self> {
        let id = ops.id();
        let policy = ops.policy();
        pin_init!(Self {
            compatible,
            id,
            policy,
            ops <- new_mutex!(Some(ops), "luo_flb_ops"),
            running <- new_mutex!((), "luo_flb_running"),
            live <- new_mutex!(None, "luo_flb_live"),
        })
    }

    /// The name of the state.
    pub(crate) fn compatible(&self) -> &Compatible {
        &self.compatible
    }

    /// Identifies the state.
    pub(crate) fn id(&self) -> FlbId {
        self.id
    }

    /// The operations; [`None`] after the FLB was unregistered. They may only be used while `running`
    /// of this or of the incoming FLB is locked, since their module can be unloaded afterwards.
    pub(super) fn ops(&self) -> Option<FlbOps> {
        *self.ops.lock()
    }

    /// The policy for kernels that do not understand the state.
    pub(crate) fn policy(&self) -> Option<Policy> {
        self.policy
    }

    /// Whether the state is preserved.
    pub(super) fn is_live(&self) -> bool {
        self.live.lock().is_some()
    }

    fn pin_file(&self) -> Result<(), Stopped> {
        let _running = self.running.lock();
        if let Some(live) = &mut *self.live.lock() {
            live.files = live.files.checked_add(1).ok_or(EOVERFLOW)?;
            return Ok(());
        }
        let ops = self.ops().ok_or(ENODEV)?;
        let module = ops.module().ok_or(ENODEV)?;
        let payload = ops.preserve()?;
        *self.live.lock() = Some(Live {
            payload,
            files: 1,
            users: 0,
            _module: module,
        });
        Ok(())
    }

    /// Changes the numbers of users; unpreserves the state when there are none.
    fn unpin(&self, change: impl FnOnce(&mut Live)) {
        {
            let mut live = self.live.lock();
            // It is already unpreserved if it was unregistered in use.
            let Some(live) = &mut *live else {
                return;
            };
            change(live);
            if live.files != 0 || live.users != 0 {
                return;
            }
        }
        let _running = self.running.lock();
        // It may have been pinned again, or unpreserved by another task, in between.
        let live = {
            let mut live = self.live.lock();
            match &*live {
                Some(left) if left.files == 0 && left.users == 0 => live.take(),
                _ => None,
            }
        };
        if let (Some(live), Some(ops)) = (live, self.ops()) {
            ops.unpreserve(live.payload);
        }
    }

    fn serialize(&self) -> Option<FlbSer> {
        let live = self.live.lock();
        let live = live.as_ref().filter(|live| live.files != 0)?;
        Some(FlbSer {
            name: *self.compatible.field(),
            data: live.payload.data,
            count: live.files,
        })
    }

    /// Ends the use of the operations, which are being unregistered.
    pub(super) fn disconnect(&self) {
        let ops = self.ops.lock().take();
        // From here on, no operation starts.
        let _running = self.running.lock();
        let live = self.live.lock().take();
        if let (Some(ops), Some(live)) = (ops, live) {
            pr_warn!(
                "FLB '{}' was unregistered while {} files depend on it\n",
                BStr::from_bytes(self.compatible.as_bytes()),
                live.files
            );
            ops.unpreserve(live.payload);
        }
    }
}

/// The states on which the files of a handler depend.
pub(crate) type FlbList = Arc<KVec<Arc<Flb>>>;

/// The pins of a file on the states on which it depends. Dropping it removes them.
///
/// Stores the states, because the states of the handler may change while the file is preserved.
///
/// # Invariants
///
/// The first `pinned` states of `list` are pinned for this object.
pub(crate) struct FlbPins {
    list: Option<FlbList>,
    pinned: usize,
}

impl FlbPins {
    /// Pins all states of `list`, or none of them if one cannot be preserved.
    pub(crate) fn new(list: Option<FlbList>) -> Result<Self, Stopped> {
        let mut this = Self { list, pinned: 0 };
        for flb in this.list.iter().flat_map(|list| list.iter()) {
            flb.pin_file()?;
            // INVARIANT: One more state is pinned.
            this.pinned = this.pinned.saturating_add(1);
        }
        Ok(this)
    }
}

impl Drop for FlbPins {
    fn drop(&mut self) {
        if let Some(list) = &self.list {
            for flb in list.iter().take(self.pinned).rev() {
                flb.unpin(|live| live.files = live.files.saturating_sub(1));
            }
        }
    }
}

/// The FLBs of all handlers.
#[pin_data]
pub(crate) struct OutgoingFlbs {
    #[pin]
    list: RwSemaphore<KVec<Arc<Flb>>>,
}

impl OutgoingFlbs {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_rwsem!(KVec::new(), "luo_flbs"),
        })
    }

    /// Locks the list for changes.
    pub(crate) fn write(&self) -> RwSemWriteGuard<'_, KVec<Arc<Flb>>> {
        self.list.write()
    }

    fn find(&self, id: FlbId) -> Result<Arc<Flb>> {
        let flbs = self.list.read();
        let flb = flbs.iter().find(|flb| flb.id == id);
        flb.cloned().ok_or(ENOENT)
    }

    /// Gets an FLB, which stays preserved until it is put.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if it is not preserved.
    pub(crate) fn get(&self, id: FlbId) -> Result<FlbPayload> {
        let flb = self.find(id)?;
        let mut live = flb.live.lock();
        let Some(live) = &mut *live else {
            return Err(ENOENT);
        };
        live.users = live.users.checked_add(1).ok_or(EOVERFLOW)?;
        Ok(live.payload)
    }

    /// Puts an object of [`Self::get`].
    pub(crate) fn put(&self, id: FlbId) {
        if let Ok(flb) = self.find(id) {
            flb.unpin(|live| live.users = live.users.saturating_sub(1));
        }
    }

    /// All FLBs, in sequence. The list is only locked while the next one is looked up.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Flb>> + '_ {
        let mut index: usize = 0;
        core::iter::from_fn(move || {
            let flb = self.list.read().get(index).cloned();
            index = index.wrapping_add(1);
            flb
        })
    }

    /// Returns whether the FLB of this name is preserved.
    pub(super) fn is_live(&self, compatible: &Compatible) -> bool {
        self.all()
            .any(|flb| flb.compatible == *compatible && flb.is_live())
    }

    /// Calls `each` with the format of each FLB that is preserved.
    pub(crate) fn formats(&self, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
        self.all()
            .filter(|flb| flb.is_live())
            .try_for_each(|flb| each(flb.compatible.as_bytes()))
    }

    /// Calls `each` with the format of each FLB on which files depend.
    pub(crate) fn needed_formats(&self, each: &mut dyn FnMut(&[u8])) {
        self.all()
            .filter(|flb| flb.serialize().is_some())
            .for_each(|flb| each(flb.compatible.as_bytes()));
    }

    /// Checks whether there is room for `more` FLBs in addition to those on which files depend.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`].
    pub(crate) fn check_room(&self, more: usize) -> Result {
        let count = self.all().filter(|flb| flb.serialize().is_some()).count();
        if count.saturating_add(more) > FlbPage::CAPACITY {
            return Err(ENOSPC);
        }
        Ok(())
    }

    /// Writes all FLBs on which files depend, followed by `carried`. Allocates no memory.
    pub(crate) fn serialize(&self, page: &mut FlbPage, carried: &[FlbSer]) {
        let own = self.all().filter_map(|flb| flb.serialize());
        // Pin initialisers also have a method `chain`.
        page.fill(Iterator::chain(own, carried.iter().copied()));
    }
}
