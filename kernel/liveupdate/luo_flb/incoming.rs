// SPDX-License-Identifier: GPL-2.0

//! Shared state that the previous kernel handed over.

use super::FlbList;
use crate::{
    abi::{
        Compatible,
        FlbPage,
        ParseError, //
    },
    c_abi::{
        FlbOps,
        FlbPayload, //
    },
    luo_core::Luo, //
};
use kernel::{
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
    progress: Progress,
}

impl State {
    fn retrieve(&mut self, ops: &FlbOps) -> Result<FlbPayload> {
        match self.progress {
            Progress::Live { payload, .. } => return Ok(payload),
            Progress::Failed(err) => return Err(err),
            Progress::Finished => return Err(ENODATA),
            Progress::Parked => {}
        }
        let module = ops.module().ok_or(ENODEV)?;
        match ops.retrieve(self.data) {
            Ok(payload) => {
                self.progress = Progress::Live {
                    payload,
                    _module: module,
                };
                Ok(payload)
            }
            Err(err) => {
                self.progress = Progress::Failed(err);
                Err(err)
            }
        }
    }

    /// Finishes the state if neither a file nor a user is left.
    fn finish_unused(&mut self, ops: &FlbOps) {
        if self.files != 0 || self.users != 0 {
            return;
        }
        // Only an object can be finished, even if nobody wanted it so far.
        if let Ok(payload) = self.retrieve(ops) {
            ops.finish(payload);
            self.progress = Progress::Finished;
        }
    }
}

/// One state. It is known by its name, since the handler it belongs to may come later.
#[pin_data]
pub(crate) struct IncomingFlb {
    compatible: Compatible,
    /// Held while operations run.
    #[pin]
    state: Mutex<State>,
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
            progress: Progress::Parked,
        };
        let flb = KBox::pin_init(
            pin_init!(IncomingFlb {
                compatible,
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
/// if its module is going away, or the error of its `retrieve` operation.
pub(crate) fn get(ops: FlbOps) -> Result<FlbPayload> {
    let luo = Luo::get().ok_or(EOPNOTSUPP)?;
    if luo.incoming_flbs.is_empty() {
        return Err(ENODATA);
    }
    let flb = find(luo, &ops.compatible()?).ok_or(ENOENT)?;
    let mut state = flb.state.lock();
    let users = state.users.checked_add(1).ok_or(EOVERFLOW)?;
    let payload = state.retrieve(&ops)?;
    state.users = users;
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
    let mut state = flb.state.lock();
    if state.users == 0 {
        pr_warn!(
            "shared state '{}' was put more often than gotten\n",
            BStr::from_bytes(flb.compatible.as_bytes())
        );
        return;
    }
    state.users = state.users.saturating_sub(1);
    state.finish_unused(&ops);
}

/// Takes note that a file which depends on `list` was finished.
///
/// States that the previous kernel did not know are none of this file's business.
pub(crate) fn file_finished(luo: &Luo, list: Option<&FlbList>) {
    for flb in list.into_iter().flat_map(|list| list.iter().rev()) {
        let Some(incoming) = find(luo, &flb.compatible) else {
            continue;
        };
        let registered = flb.state.lock();
        let mut state = incoming.state.lock();
        state.files = state.files.saturating_sub(1);
        if let Some(ops) = registered.ops {
            state.finish_unused(&ops);
        }
    }
}
