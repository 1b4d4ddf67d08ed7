// SPDX-License-Identifier: GPL-2.0

//! FLBs that the previous kernel handed over.

use super::outgoing::{
    Flb,
    FlbList,
    OutgoingFlbs, //
};
use crate::{
    abi::{
        Compatible,
        FlbPage,
        FlbSer,
        ParseError, //
    },
    ops::{
        FlbId,
        FlbOps,
        FlbPayload, //
    },
    policy, //
};
use kernel::{
    liveupdate::RetrieveError,
    module_ref::ModuleRef,
    prelude::*,
    str::BStr,
    sync::{
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

/// The progress of a state.
enum Progress {
    /// It was not retrieved yet.
    Parked,
    /// Its object exists. Only the implementation that created it knows its type.
    Live {
        owner: FlbId,
        payload: FlbPayload,
        _module: ModuleRef,
    },
    /// It can never be retrieved.
    Failed(Error),
    /// All of its handed over data was released.
    Finished,
}

struct State {
    data: u64,
    /// The number of unfinished files of the previous kernel.
    files: u64,
    users: u64,
    /// Whether the FLB is being carried over to the next kernel, and must not change.
    carried: bool,
    progress: Progress,
}

impl State {
    /// Returns the payload if `user` has retrieved the state, and [`None`] if it can be retrieved.
    ///
    /// The type is not known from the name: fails with [`EEXIST`] if another implementation has
    /// created the object.
    fn payload(&self, user: FlbId) -> Result<Option<FlbPayload>> {
        match self.progress {
            Progress::Live { owner, payload, .. } if owner == user => Ok(Some(payload)),
            Progress::Live { .. } => Err(EEXIST),
            Progress::Failed(err) => Err(err),
            Progress::Finished => Err(ENODATA),
            Progress::Parked if self.carried => Err(EBUSY),
            Progress::Parked => Ok(None),
        }
    }

    /// Returns whether there are neither files nor users.
    fn is_unused(&self) -> bool {
        self.files == 0 && self.users == 0
    }
}

/// A state. It is identified by its name, since its handler may be registered later.
#[pin_data]
pub(crate) struct IncomingFlb {
    compatible: Compatible,
    /// Held while operations run. See [`Flb`] on how the locks are used.
    #[pin]
    running: Mutex<()>,
    #[pin]
    state: Mutex<State>,
}

impl IncomingFlb {
    /// Retrieves the state, unless it is already retrieved. `running` must be locked.
    fn retrieve(&self, ops: &FlbOps) -> Result<FlbPayload> {
        let data = {
            let state = self.state.lock();
            if let Some(payload) = state.payload(ops.id())? {
                return Ok(payload);
            }
            state.data
        };
        let module = ops.module().ok_or(ENODEV)?;
        let res = ops.retrieve(data);
        let mut state = self.state.lock();
        match res {
            Ok(payload) => {
                state.progress = Progress::Live {
                    owner: ops.id(),
                    payload,
                    _module: module,
                };
                Ok(payload)
            }
            Err(RetrieveError::Retry(err)) => Err(err),
            Err(RetrieveError::Permanent(err)) => {
                if let Some(policy) = ops.policy() {
                    let name = BStr::from_bytes(self.compatible.as_bytes());
                    policy::not_understood(policy, name, c"it cannot be retrieved");
                }
                state.progress = Progress::Failed(err);
                Err(err)
            }
        }
    }

    /// Finishes the state if there are neither files nor users. `running` must be locked.
    ///
    /// A state that another implementation has retrieved is finished when that implementation puts
    /// it.
    fn finish_unused(&self, ops: &FlbOps) {
        if !self.state.lock().is_unused() {
            return;
        }
        // Retrieve the state first, since only an object can be finished.
        match self.retrieve(ops) {
            Ok(payload) => {
                let finished = {
                    let mut state = self.state.lock();
                    // Another caller may have taken a reference in between.
                    if !state.is_unused() {
                        return;
                    }
                    core::mem::replace(&mut state.progress, Progress::Finished)
                };
                ops.finish(payload);
                // This drops the module reference.
                drop(finished);
            }
            Err(ENODATA) => {}
            Err(EEXIST) => pr_warn!(
                "FLB '{}' is not finished, since another implementation has retrieved it\n",
                BStr::from_bytes(self.compatible.as_bytes())
            ),
            Err(err) => pr_warn!(
                "FLB '{}' cannot be finished: error {}\n",
                BStr::from_bytes(self.compatible.as_bytes()),
                err.to_errno()
            ),
        }
    }

    /// Returns whether unfinished files can only be carried over if this FLB is preserved again.
    fn is_in_use(&self, outgoing: bool) -> bool {
        let state = self.state.lock();
        state.files != 0
            && match state.progress {
                Progress::Live { .. } => true,
                // The names of states in the next kernel must be unique.
                Progress::Parked => outgoing,
                Progress::Failed(_) | Progress::Finished => false,
            }
    }
}

/// The states on which a file of the previous kernel depends.
///
/// States may be registered and unregistered with its handler before the file is finished. Any of
/// them may count the file.
pub(crate) struct IncomingFlbLists {
    /// The states of the handler when it was looked up.
    pub(crate) found: Option<FlbList>,
    /// The current states of the handler.
    pub(crate) now: Option<FlbList>,
}

impl IncomingFlbLists {
    /// All states, each once.
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Flb>> {
        let lists = [(&self.found, false), (&self.now, true)];
        lists.into_iter().flat_map(move |(list, later)| {
            let states = list.iter().flat_map(|list| list.iter());
            states.filter(move |flb| !(later && self.had(flb)))
        })
    }

    fn had(&self, flb: &Flb) -> bool {
        let mut known = self.found.iter().flat_map(|list| list.iter());
        known.any(|other| other.compatible() == flb.compatible())
    }
}

/// All FLBs that the previous kernel handed over.
pub(crate) struct IncomingFlbs(KVec<Pin<KBox<IncomingFlb>>>);

impl IncomingFlbs {
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// Reads the page of all FLBs.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the page is malformed, [`ENOMEM`].
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut this = Self::new();
        for ser in FlbPage::parse(bytes)? {
            let compatible = match Compatible::parse(&ser.name) {
                Ok(compatible) if this.find(&compatible).is_none() => compatible,
                // Only that entry is lost.
                _ => {
                    pr_err!(
                        "the previous kernel handed over an FLB without a valid name: {:?}\n",
                        ParseError::BadString
                    );
                    continue;
                }
            };
            let state = State {
                data: ser.data,
                files: ser.count,
                users: 0,
                carried: false,
                progress: Progress::Parked,
            };
            let flb = KBox::pin_init(
                pin_init!(IncomingFlb {
                    compatible,
                    running <- new_mutex!((), "luo_incoming_flb_running"),
                    state <- new_mutex!(state, "luo_incoming_flb"),
                }),
                GFP_KERNEL,
            )?;
            this.0.push(flb, GFP_KERNEL)?;
        }
        Ok(this)
    }

    /// Returns whether the previous kernel has handed over an FLB of this name.
    pub(crate) fn has(&self, compatible: &Compatible) -> bool {
        self.find(compatible).is_some()
    }

    fn find(&self, compatible: &Compatible) -> Option<&IncomingFlb> {
        let flb = self.0.iter().find(|flb| flb.compatible == *compatible)?;
        Some(flb)
    }

    /// Gets an FLB. Retrieves it, if necessary.
    ///
    /// # Errors
    ///
    /// [`ENODATA`] if the previous kernel handed over no FLBs or this one is finished,
    /// [`ENOENT`] if it did not hand over this one, [`EEXIST`] if another implementation of the same
    /// name has retrieved it, [`ENODEV`] if its module is going away, [`EBUSY`] if it is being
    /// carried over to the next kernel, or the error of its `retrieve` operation.
    pub(crate) fn get(&self, ops: FlbOps) -> Result<FlbPayload> {
        if self.0.is_empty() {
            return Err(ENODATA);
        }
        let flb = self.find(&ops.compatible()?).ok_or(ENOENT)?;
        let _running = flb.running.lock();
        let payload = flb.retrieve(&ops)?;
        let mut state = flb.state.lock();
        state.users = state.users.checked_add(1).ok_or(EOVERFLOW)?;
        Ok(payload)
    }

    /// Puts an object of [`Self::get`].
    pub(crate) fn put(&self, ops: FlbOps) {
        let Some(flb) = ops.compatible().ok().and_then(|name| self.find(&name)) else {
            return;
        };
        {
            let mut state = flb.state.lock();
            // Only callers that have got the object are users.
            let users = match state.payload(ops.id()) {
                Ok(Some(_)) => state.users.checked_sub(1),
                _ => None,
            };
            let Some(users) = users else {
                pr_warn!(
                    "FLB '{}': a reference is put that was not taken\n",
                    BStr::from_bytes(flb.compatible.as_bytes())
                );
                return;
            };
            state.users = users;
            if !state.is_unused() {
                return;
            }
        }
        let _running = flb.running.lock();
        flb.finish_unused(&ops);
    }

    /// Records that a file that depends on `lists` was finished.
    ///
    /// FLBs unknown to the previous kernel are not counted for this file.
    pub(crate) fn file_finished(&self, lists: &IncomingFlbLists) {
        for flb in lists.iter().rev() {
            let Some(incoming) = self.find(flb.compatible()) else {
                continue;
            };
            let _running = incoming.running.lock();
            {
                let mut state = incoming.state.lock();
                state.files = state.files.saturating_sub(1);
            }
            // Unregistration waits until `running` is unlocked before the operations become
            // invalid.
            if let Some(ops) = flb.ops() {
                incoming.finish_unused(&ops);
            }
        }
    }

    /// Waits until no operation of the FLB runs any more.
    pub(super) fn wait_for_operations(&self, compatible: &Compatible) {
        if let Some(flb) = self.find(compatible) {
            drop(flb.running.lock());
        }
    }

    /// Returns whether a file that depends on `lists` cannot be carried over unchanged.
    pub(crate) fn is_in_use(&self, lists: &IncomingFlbLists) -> bool {
        lists.iter().any(|flb| {
            self.find(flb.compatible())
                .is_some_and(|found| found.is_in_use(flb.is_live()))
        })
    }

    /// Calls `each` with the format of each FLB of unfinished files.
    pub(crate) fn formats(&self, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
        self.0
            .iter()
            .filter(|flb| flb.state.lock().files != 0)
            .try_for_each(|flb| each(flb.compatible.as_bytes()))
    }

    /// Returns whether [`Self::is_in_use`] can be true for any file.
    pub(super) fn any_in_use(&self, outgoing: &OutgoingFlbs) -> bool {
        self.0
            .iter()
            .any(|flb| flb.is_in_use(outgoing.is_live(&flb.compatible)))
    }
}

/// The FLBs that are carried over to the next kernel unchanged. They cannot be retrieved until this
/// is dropped.
pub(crate) struct CarriedFlbs {
    entries: KVec<FlbSer>,
    flbs: KVec<&'static IncomingFlb>,
}

impl CarriedFlbs {
    pub(super) fn new(
        incoming: &'static IncomingFlbs,
        outgoing: &OutgoingFlbs,
        lost: &[IncomingFlbLists],
    ) -> Result<Self> {
        let mut this = Self {
            entries: KVec::new(),
            flbs: KVec::new(),
        };
        for flb in &incoming.0 {
            this.entries.reserve(1, GFP_KERNEL)?;
            this.flbs.reserve(1, GFP_KERNEL)?;
            let outgoing = outgoing.is_live(&flb.compatible);
            let lost = lost
                .iter()
                .flat_map(|lists| lists.iter())
                .filter(|other| *other.compatible() == flb.compatible)
                .count();
            let _running = flb.running.lock();
            let mut state = flb.state.lock();
            // CAST: `usize` has at most 64 bits.
            let count = state.files.saturating_sub(lost as u64);
            match state.progress {
                Progress::Parked if count != 0 && !outgoing => {
                    state.carried = true;
                    this.flbs.push_within_capacity(flb)?;
                    this.entries.push_within_capacity(FlbSer {
                        name: *flb.compatible.field(),
                        data: state.data,
                        count,
                    })?;
                }
                Progress::Failed(err) if count != 0 => pr_warn!(
                    "FLB '{}' cannot be carried over, since it could not be retrieved: error {}\n",
                    BStr::from_bytes(flb.compatible.as_bytes()),
                    err.to_errno()
                ),
                _ => {}
            }
        }
        Ok(this)
    }

    /// Their entries for the next kernel.
    pub(crate) fn entries(&self) -> &[FlbSer] {
        &self.entries
    }
}

impl Drop for CarriedFlbs {
    fn drop(&mut self) {
        for flb in &self.flbs {
            flb.state.lock().carried = false;
        }
    }
}

#[cfg(CONFIG_LIVEUPDATE_KUNIT_TEST)]
#[kernel::macros::kunit_tests(luo_flb)]
mod tests {
    use super::IncomingFlbs;
    use crate::{
        abi::{
            FlbPage,
            FlbSer, //
        },
        ops::test,
        PAGE_SIZE, //
    };
    use kernel::prelude::*;

    /// An FLB of the previous kernel, on which no file depends.
    fn handed_over() -> Result<IncomingFlbs> {
        let mut name = [0; 48];
        name[..test::NAME.len()].copy_from_slice(test::NAME);
        let mut words = KVec::from_elem(0u64, PAGE_SIZE / size_of::<u64>(), GFP_KERNEL)?;
        let page = FlbPage::mut_from_bytes(words.as_mut_bytes()).map_err(|_| EINVAL)?;
        page.fill(core::iter::once(FlbSer {
            name,
            data: 0,
            count: 0,
        }));
        IncomingFlbs::parse(words.as_bytes())
    }

    #[test]
    fn implementations_of_one_name_do_not_share_objects() -> Result {
        let flbs = handed_over()?;
        let (first, second) = (test::FIRST.ops()?, test::SECOND.ops()?);
        for _ in 0..2 {
            assert_eq!(flbs.get(first)?.object().addr(), 1);
        }
        assert_eq!(flbs.get(second).err(), Some(EEXIST));
        // The users of the first one are still two.
        flbs.put(second);
        flbs.put(first);
        assert_eq!(flbs.get(first)?.object().addr(), 1);
        flbs.put(first);
        flbs.put(first);
        assert_eq!(flbs.get(second).err(), Some(ENODATA));
        assert!(!test::mixed_up());
        Ok(())
    }

    #[test]
    fn the_first_use_decides_on_the_implementation() -> Result {
        let flbs = handed_over()?;
        let (first, second) = (test::FIRST.ops()?, test::SECOND.ops()?);
        assert_eq!(flbs.get(second)?.object().addr(), 2);
        assert_eq!(flbs.get(first).err(), Some(EEXIST));
        flbs.put(second);
        assert_eq!(flbs.get(first).err(), Some(ENODATA));
        assert!(!test::mixed_up());
        Ok(())
    }
}
