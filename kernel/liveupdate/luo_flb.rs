// SPDX-License-Identifier: GPL-2.0

//! File-lifecycle-bound (FLB) data: state that files share.
//!
//! State is preserved together with the first file that depends on it, and unpreserved with the
//! last one. In the next kernel, it is finished with the last file. Users in the kernel keep the
//! object alive as well, but are not counted among the files: they do not survive the kexec.

pub(crate) mod incoming;

use crate::{
    abi::{
        Compatible,
        FlbPage,
        FlbSer, //
    },
    luo_core::Luo,
    ops::{
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
        Arc,
        Mutex, //
    }, //
};

/// State that is preserved.
struct Live {
    payload: FlbPayload,
    files: u64,
    users: u64,
    _module: ModuleRef,
}

/// State that files depend on, in the direction of the next kernel.
///
/// An operation of a state may use states, of either direction, so it must not run with anything
/// locked that somebody could need to answer it. Hence `ops` and `live` are only locked for a look,
/// and `running` keeps operations apart; it is never waited for by who uses a state that exists.
#[pin_data]
pub(crate) struct Flb {
    compatible: Compatible,
    address: usize,
    /// [`None`] once the state was unregistered.
    #[pin]
    ops: Mutex<Option<FlbOps>>,
    /// Held while operations run.
    #[pin]
    running: Mutex<()>,
    #[pin]
    live: Mutex<Option<Live>>,
}

impl Flb {
    /// Makes the state of `ops`, which is not preserved at first.
    pub(crate) fn new(compatible: Compatible, ops: FlbOps) -> impl PinInit<Self> {
        let address = ops.address();
        pin_init!(Self {
            compatible,
            address,
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
    pub(crate) fn address(&self) -> usize {
        self.address
    }

    fn ops(&self) -> Option<FlbOps> {
        *self.ops.lock()
    }

    /// Whether the state is preserved.
    fn is_live(&self) -> bool {
        self.live.lock().is_some()
    }

    fn pin_file(&self) -> Result {
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

    /// Changes the numbers of users; unpreserves the state when nobody is left.
    fn unpin(&self, change: impl FnOnce(&mut Live)) {
        {
            let mut live = self.live.lock();
            // It is gone already if it was unregistered in use.
            let Some(live) = &mut *live else {
                return;
            };
            change(live);
            if live.files != 0 || live.users != 0 {
                return;
            }
        }
        let _running = self.running.lock();
        // Somebody may have begun to use it again, or have been faster.
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

    /// Ends the use of the operations, which are about to go away.
    pub(crate) fn disconnect(&self, luo: &Luo) {
        let ops = self.ops.lock().take();
        // From here on, nobody starts an operation.
        let _running = self.running.lock();
        let live = self.live.lock().take();
        if let (Some(ops), Some(live)) = (ops, live) {
            pr_warn!(
                "shared state '{}' was unregistered while {} files depend on it\n",
                BStr::from_bytes(self.compatible.as_bytes()),
                live.files
            );
            ops.unpreserve(live.payload);
        }
        incoming::wait_for_operations(luo, &self.compatible);
    }
}

/// The states that the files of a handler depend on.
pub(crate) type FlbList = Arc<KVec<Arc<Flb>>>;

/// The states that a file of the previous kernel depends on.
///
/// Its handler may get and lose states before the file is finished. Any of them may count it.
pub(crate) struct IncomingFlbLists {
    /// Those that the handler had when it was found.
    pub(crate) found: Option<FlbList>,
    /// Those that it has now.
    pub(crate) now: Option<FlbList>,
}

impl IncomingFlbLists {
    /// All of them, each once.
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Flb>> {
        let lists = [(&self.found, false), (&self.now, true)];
        lists.into_iter().flat_map(move |(list, later)| {
            let states = list.iter().flat_map(|list| list.iter());
            states.filter(move |flb| !(later && self.had(flb)))
        })
    }

    fn had(&self, flb: &Flb) -> bool {
        let mut known = self.found.iter().flat_map(|list| list.iter());
        known.any(|other| other.compatible == flb.compatible)
    }
}

/// What a file does to the states that it depends on. Dropping it takes that back.
///
/// Remembers the states, because the handler may get or lose some while the file is preserved.
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
    pub(crate) fn new(list: Option<FlbList>) -> Result<Self> {
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

fn find(address: usize) -> Result<Arc<Flb>> {
    let luo = Luo::get().ok_or(EOPNOTSUPP)?;
    let flbs = luo.flbs.read();
    let flb = flbs.iter().find(|flb| flb.address == address);
    flb.cloned().ok_or(ENOENT)
}

/// Gets outgoing state, which stays preserved until it is put.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if live update is disabled, [`ENOENT`] if the state is not preserved.
pub(crate) fn get_outgoing(address: usize) -> Result<FlbPayload> {
    let flb = find(address)?;
    let mut live = flb.live.lock();
    let Some(live) = &mut *live else {
        return Err(ENOENT);
    };
    live.users = live.users.checked_add(1).ok_or(EOVERFLOW)?;
    Ok(live.payload)
}

/// Puts what [`get_outgoing`] returned.
pub(crate) fn put_outgoing(address: usize) {
    if let Ok(flb) = find(address) {
        flb.unpin(|live| live.users = live.users.saturating_sub(1));
    }
}

/// All states, one after the other, with the registry unlocked meanwhile.
fn all(luo: &Luo) -> impl Iterator<Item = Arc<Flb>> + '_ {
    let mut index: usize = 0;
    core::iter::from_fn(move || {
        let flb = luo.flbs.read().get(index).cloned();
        index = index.wrapping_add(1);
        flb
    })
}

/// Calls `each` with the format of each state that is to be handed over.
pub(crate) fn formats(luo: &Luo, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
    all(luo)
        .filter(|flb| flb.is_live())
        .try_for_each(|flb| each(flb.compatible.as_bytes()))?;
    incoming::formats(luo, each)
}

/// Checks whether there is room for `more` states than those that files depend on.
///
/// # Errors
///
/// [`ENOSPC`].
pub(crate) fn check_room(luo: &Luo, more: usize) -> Result {
    let count = all(luo).filter(|flb| flb.serialize().is_some()).count();
    if count.saturating_add(more) > FlbPage::CAPACITY {
        return Err(ENOSPC);
    }
    Ok(())
}

/// Writes all states that files depend on, and `carried` behind them. Needs no memory.
pub(crate) fn serialize(luo: &Luo, page: &mut FlbPage, carried: &[FlbSer]) {
    let own = all(luo).filter_map(|flb| flb.serialize());
    // Types that initialise something have a `chain`, too.
    page.fill(Iterator::chain(own, carried.iter().copied()));
}
