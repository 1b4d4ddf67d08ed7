// SPDX-License-Identifier: GPL-2.0

//! Shared state that the previous kernel handed over.

#[cfg(doc)]
use super::Flb;
use super::IncomingFlbLists;
use crate::{
    abi::{
        Compatible,
        FlbPage,
        FlbSer,
        ParseError, //
    },
    luo_core::Luo,
    ops::{
        FlbOps,
        FlbPayload, //
    },
};
use kernel::{
    liveupdate::RetrieveError,
    module_ref::ModuleRef,
    prelude::*,
    str::BStr,
    sync::{
        new_mutex,
        Mutex, //
    }, //
};

/// How far a state got.
enum Progress {
    /// Nobody has asked for it.
    Parked,
    /// Its object exists.
    Live {
        payload: FlbPayload,
        _module: ModuleRef,
    },
    /// It can never be retrieved.
    Failed(Error),
    /// Nothing of it is left.
    Finished,
}

struct State {
    data: u64,
    /// The files of the previous kernel that are not finished.
    files: u64,
    users: u64,
    /// Whether the state is on its way to the next kernel, and has to stay as it is.
    carried: bool,
    progress: Progress,
}

impl State {
    /// Returns the payload if the state exists, and [`None`] if it can be retrieved.
    fn payload(&self) -> Result<Option<FlbPayload>> {
        match self.progress {
            Progress::Live { payload, .. } => Ok(Some(payload)),
            Progress::Failed(err) => Err(err),
            Progress::Finished => Err(ENODATA),
            Progress::Parked if self.carried => Err(EBUSY),
            Progress::Parked => Ok(None),
        }
    }

    /// Whether neither a file nor a user is left.
    fn is_unused(&self) -> bool {
        self.files == 0 && self.users == 0
    }
}

/// One state. It is known by its name, since the handler it belongs to may come later.
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
    /// Retrieves the state, unless that was done. `running` has to be locked.
    fn retrieve(&self, ops: &FlbOps) -> Result<FlbPayload> {
        let data = {
            let state = self.state.lock();
            if let Some(payload) = state.payload()? {
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
                    payload,
                    _module: module,
                };
                Ok(payload)
            }
            Err(RetrieveError::Retry(err)) => Err(err),
            Err(RetrieveError::Permanent(err)) => {
                state.progress = Progress::Failed(err);
                Err(err)
            }
        }
    }

    /// Finishes the state if neither a file nor a user is left. `running` has to be locked.
    fn finish_unused(&self, ops: &FlbOps) {
        if !self.state.lock().is_unused() {
            return;
        }
        // Only an object can be finished, even if nobody wanted it so far.
        match self.retrieve(ops) {
            Ok(payload) => {
                let finished = {
                    let mut state = self.state.lock();
                    // Somebody who found the object in the meantime is its user now.
                    if !state.is_unused() {
                        return;
                    }
                    core::mem::replace(&mut state.progress, Progress::Finished)
                };
                ops.finish(payload);
                // This gives up the module.
                drop(finished);
            }
            Err(ENODATA) => {}
            Err(err) => pr_warn!(
                "shared state '{}' cannot be finished: error {}\n",
                BStr::from_bytes(self.compatible.as_bytes()),
                err.to_errno()
            ),
        }
    }

    /// Whether files that are left cannot be passed on without this state being preserved anew.
    fn is_in_use(&self, outgoing: bool) -> bool {
        let state = self.state.lock();
        state.files != 0
            && match state.progress {
                Progress::Live { .. } => true,
                // There cannot be two states of one name in the next kernel.
                Progress::Parked => outgoing,
                Progress::Failed(_) | Progress::Finished => false,
            }
    }
}

/// All states that the previous kernel handed over.
pub(crate) type IncomingFlbs = KVec<Pin<KBox<IncomingFlb>>>;

/// Reads the page of all states.
///
/// # Errors
///
/// [`EINVAL`] if the page makes no sense, [`ENOMEM`].
pub(crate) fn parse(bytes: &[u8]) -> Result<IncomingFlbs> {
    let mut flbs = IncomingFlbs::new();
    for ser in FlbPage::parse(bytes)? {
        let compatible = match Compatible::parse(&ser.name) {
            Ok(compatible) if !flbs.iter().any(|flb| flb.compatible == compatible) => compatible,
            // One bad entry does not cost the others.
            _ => {
                pr_err!("shared state: {:?}\n", ParseError::BadString);
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
        flbs.push(flb, GFP_KERNEL)?;
    }
    Ok(flbs)
}

fn find<'a>(luo: &'a Luo, compatible: &Compatible) -> Option<&'a IncomingFlb> {
    let flb = luo
        .incoming_flbs
        .iter()
        .find(|flb| flb.compatible == *compatible)?;
    Some(flb)
}

/// Gets a state, which is retrieved if it is not there yet.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if live update is disabled, [`ENODATA`] if the previous kernel handed over no
/// state at all or the state is finished, [`ENOENT`] if it did not hand over this one, [`ENODEV`]
/// if its module is going away, [`EBUSY`] if it is being passed on to the next kernel, or the error
/// of its `retrieve` operation.
pub(crate) fn get(ops: FlbOps) -> Result<FlbPayload> {
    let luo = Luo::get().ok_or(EOPNOTSUPP)?;
    if luo.incoming_flbs.is_empty() {
        return Err(ENODATA);
    }
    let flb = find(luo, &ops.compatible()?).ok_or(ENOENT)?;
    let _running = flb.running.lock();
    let payload = flb.retrieve(&ops)?;
    let mut state = flb.state.lock();
    state.users = state.users.checked_add(1).ok_or(EOVERFLOW)?;
    Ok(payload)
}

/// Puts what [`get`] returned.
pub(crate) fn put(ops: FlbOps) {
    let Some(luo) = Luo::get() else {
        return;
    };
    let Some(flb) = ops.compatible().ok().and_then(|name| find(luo, &name)) else {
        return;
    };
    {
        let mut state = flb.state.lock();
        let Some(users) = state.users.checked_sub(1) else {
            pr_warn!(
                "shared state '{}' was put more often than gotten\n",
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

/// Takes note that a file which depends on `lists` was finished.
///
/// States that the previous kernel did not know are none of this file's business.
pub(crate) fn file_finished(luo: &Luo, lists: &IncomingFlbLists) {
    for flb in lists.iter().rev() {
        let Some(incoming) = find(luo, &flb.compatible) else {
            continue;
        };
        let _running = incoming.running.lock();
        {
            let mut state = incoming.state.lock();
            state.files = state.files.saturating_sub(1);
        }
        // Whoever takes the operations away waits until `running` is unlocked.
        if let Some(ops) = flb.ops() {
            incoming.finish_unused(&ops);
        }
    }
}

/// Waits until no operation of the state runs any more.
pub(super) fn wait_for_operations(luo: &Luo, compatible: &Compatible) {
    if let Some(flb) = find(luo, compatible) {
        drop(flb.running.lock());
    }
}

/// Whether a file that depends on `lists` cannot be passed on as it is.
pub(crate) fn is_in_use(luo: &Luo, lists: &IncomingFlbLists) -> bool {
    lists
        .iter()
        .any(|flb| find(luo, &flb.compatible).is_some_and(|found| found.is_in_use(flb.is_live())))
}

/// Calls `each` with the format of each state that unfinished files depend on.
pub(super) fn formats(luo: &Luo, each: &mut dyn FnMut(&[u8]) -> Result) -> Result {
    luo.incoming_flbs
        .iter()
        .filter(|flb| flb.state.lock().files != 0)
        .try_for_each(|flb| each(flb.compatible.as_bytes()))
}

/// Whether [`is_in_use`] can be true for any file.
pub(crate) fn any_in_use(luo: &Luo) -> bool {
    luo.incoming_flbs
        .iter()
        .any(|flb| flb.is_in_use(is_outgoing(luo, &flb.compatible)))
}

fn is_outgoing(luo: &Luo, compatible: &Compatible) -> bool {
    super::all(luo).any(|flb| flb.compatible == *compatible && flb.is_live())
}

/// The states that are passed on to the next kernel as they are. Until this is dropped, nobody can
/// get them.
pub(crate) struct CarriedFlbs {
    entries: KVec<FlbSer>,
    flbs: KVec<&'static IncomingFlb>,
}

impl CarriedFlbs {
    /// Collects the states that unfinished files depend on, without those files that are lost.
    ///
    /// Fails with [`ENOMEM`].
    pub(crate) fn new(luo: &'static Luo, lost: &[IncomingFlbLists]) -> Result<Self> {
        let mut this = Self {
            entries: KVec::new(),
            flbs: KVec::new(),
        };
        for flb in luo.incoming_flbs.iter() {
            this.entries.reserve(1, GFP_KERNEL)?;
            this.flbs.reserve(1, GFP_KERNEL)?;
            let outgoing = is_outgoing(luo, &flb.compatible);
            let lost = lost
                .iter()
                .flat_map(|lists| lists.iter())
                .filter(|other| other.compatible == flb.compatible)
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
                    "shared state '{}' cannot be passed on, it failed: error {}\n",
                    BStr::from_bytes(flb.compatible.as_bytes()),
                    err.to_errno()
                ),
                _ => {}
            }
        }
        Ok(this)
    }

    /// What the next kernel is told about them.
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
