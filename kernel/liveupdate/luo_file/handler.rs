// SPDX-License-Identifier: GPL-2.0

//! Registered file handlers.

use crate::{
    abi::{
        Compatible,
        FlbPage, //
    },
    luo_core::Luo,
    luo_flb::{
        incoming::IncomingFlbLists,
        outgoing::{
            Flb,
            FlbList, //
        },
    },
    ops::{
        FileOps,
        FlbOps, //
    },
};
use kernel::{
    fs::File,
    module_ref::ModuleRef,
    prelude::*,
    str::BStr,
    sync::{
        new_rwsem,
        Arc,
        RwSemaphore, //
    }, //
};

/// A handler that is or was registered.
#[pin_data]
pub(crate) struct Handler {
    compatible: Compatible,
    address: usize,
    /// [`None`] once the handler was unregistered. Held for reading while an operation runs.
    #[pin]
    ops: RwSemaphore<Option<FileOps>>,
}

impl Handler {
    /// What the handler calls itself.
    pub(crate) fn compatible(&self) -> &Compatible {
        &self.compatible
    }

    /// Calls an operation; returns [`None`] if the handler was unregistered.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&FileOps) -> R) -> Option<R> {
        self.ops.read().as_ref().map(call)
    }
}

/// A registered handler, and the shared states that its files depend on.
pub(crate) struct Registration {
    /// Grows from one registration to the next.
    number: u64,
    pub(crate) handler: Arc<Handler>,
    pub(crate) flbs: Option<FlbList>,
}

/// A handler that cannot go away: its module is in use.
pub(crate) struct Found {
    pub(crate) handler: Arc<Handler>,
    pub(crate) flbs: Option<FlbList>,
    pub(crate) module: ModuleRef,
}

impl Found {
    /// The shared states that files of the previous kernel depend on.
    pub(crate) fn incoming_flbs(&self, luo: &Luo) -> IncomingFlbLists {
        IncomingFlbLists {
            found: self.flbs.clone(),
            now: self.flbs_now(luo),
        }
    }

    /// The shared states that files which are preserved now depend on.
    pub(crate) fn flbs_now(&self, luo: &Luo) -> Option<FlbList> {
        let registry = luo.registry.read();
        let mut entries = registry.handlers.iter();
        let entry = entries.find(|entry| entry.handler.address == self.handler.address)?;
        entry.flbs.clone()
    }
}

/// The handlers in the order of their registration.
pub(crate) struct Registry {
    pub(crate) handlers: KVec<Registration>,
    next_number: u64,
}

impl Registry {
    pub(crate) const fn new() -> Self {
        Self {
            handlers: KVec::new(),
            next_number: 0,
        }
    }

    /// The handler whose C structure is at `address`.
    pub(crate) fn by_address(&mut self, address: usize) -> Option<&mut Registration> {
        self.handlers
            .iter_mut()
            .find(|entry| entry.handler.address == address)
    }
}

impl Luo {
    /// Returns the first handler for which `fits` is true.
    ///
    /// `fits` is called with the registry unlocked, since handlers may use the registry.
    fn find_handler(&self, fits: impl Fn(&Handler) -> bool) -> Option<Found> {
        let mut next: u64 = 0;
        loop {
            let (handler, flbs) = {
                let registry = self.registry.read();
                let entry = registry
                    .handlers
                    .iter()
                    .find(|entry| entry.number >= next)?;
                next = entry.number.wrapping_add(1);
                (entry.handler.clone(), entry.flbs.clone())
            };
            if fits(&handler) {
                let module = handler.with(FileOps::module)??;
                return Some(Found {
                    handler,
                    flbs,
                    module,
                });
            }
        }
    }

    /// Finds the handler in charge of `file`.
    pub(crate) fn handler_for_file(&self, file: &File) -> Option<Found> {
        self.find_handler(|handler| {
            handler
                .with(|ops| ops.can_preserve(file))
                .unwrap_or_default()
        })
    }

    /// Finds the handler that understands the format `compatible`.
    pub(crate) fn handler_for_format(&self, compatible: &Compatible) -> Option<Found> {
        self.find_handler(|handler| handler.compatible == *compatible)
    }
}

/// Registers a handler.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if live update is disabled, [`EEXIST`] if there is a handler of the same name,
/// [`EINVAL`] if the name is not valid, [`ENOMEM`].
pub(crate) fn register(ops: FileOps) -> Result {
    let luo = Luo::get().ok_or(EOPNOTSUPP)?;
    let compatible = ops.compatible()?;
    let address = ops.address();
    let handler = Arc::pin_init(
        pin_init!(Handler {
            compatible,
            address,
            ops <- new_rwsem!(Some(ops), "luo_handler"),
        }),
        GFP_KERNEL,
    )?;

    let mut registry = luo.registry.write();
    if registry
        .handlers
        .iter()
        .any(|other| other.handler.compatible == compatible)
    {
        pr_err!(
            "there already is a file handler '{}'\n",
            BStr::from_bytes(compatible.as_bytes())
        );
        return Err(EEXIST);
    }
    let number = registry.next_number;
    registry.handlers.push(
        Registration {
            number,
            handler,
            flbs: None,
        },
        GFP_KERNEL,
    )?;
    registry.next_number = number.wrapping_add(1);
    Ok(())
}

/// Unregisters the handler at `address`.
///
/// Waits until none of its operations runs. Files that it preserved cannot be handed over any
/// more; a handler without files in sessions is what callers make sure of by module references.
pub(crate) fn unregister(address: usize) {
    let Some(luo) = Luo::get() else {
        return;
    };
    let entry = {
        let mut registry = luo.registry.write();
        let Some(index) = registry
            .handlers
            .iter()
            .position(|entry| entry.handler.address == address)
        else {
            pr_warn!("attempt to unregister a file handler that is not registered\n");
            return;
        };
        registry.handlers.remove(index)
    };
    let Ok(entry) = entry else {
        return;
    };
    drop(entry.flbs);
    disconnect_unused(luo);
    entry.handler.ops.write().take();
    let compatible = entry.handler.compatible;
    if Arc::into_unique_or_drop(entry.handler).is_none() {
        pr_warn!(
            "file handler '{}' was unregistered while files depend on it\n",
            BStr::from_bytes(compatible.as_bytes())
        );
    }
}

/// Adds shared state to a handler, both given by address.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if live update is disabled, [`EINVAL`] if the handler is not registered,
/// [`EEXIST`] if the handler has the state already or other state has the same name, [`ENOSPC`] if
/// there are too many states, [`ENOMEM`].
pub(crate) fn register_flb(handler: usize, ops: FlbOps) -> Result {
    let luo = Luo::get().ok_or(EOPNOTSUPP)?;
    let compatible = ops.compatible()?;
    let address = ops.address();

    let mut flbs = luo.flbs.outgoing.write();
    let mut registry = luo.registry.write();
    let entry = registry.by_address(handler).ok_or(EINVAL)?;

    let mut list = KVec::new();
    for flb in entry.flbs.iter().flat_map(|list| list.iter()) {
        if flb.address() == address {
            return Err(EEXIST);
        }
        list.push(flb.clone(), GFP_KERNEL)?;
    }

    let known = flbs.iter().find(|flb| flb.address() == address).cloned();
    let flb = match known {
        Some(flb) => flb,
        None => {
            if flbs.iter().any(|flb| *flb.compatible() == compatible) {
                return Err(EEXIST);
            }
            if flbs.len() >= FlbPage::CAPACITY {
                return Err(ENOSPC);
            }
            Arc::pin_init(Flb::new(compatible, ops), GFP_KERNEL)?
        }
    };
    list.push(flb.clone(), GFP_KERNEL)?;
    let list = Arc::new(list, GFP_KERNEL)?;
    if !flbs.iter().any(|flb| flb.address() == address) {
        flbs.push(flb, GFP_KERNEL)?;
    }
    entry.flbs = Some(list);
    Ok(())
}

/// Takes [`register_flb`] back. If files depend on the state, it is lost to them.
pub(crate) fn unregister_flb(handler: usize, address: usize) {
    let Some(luo) = Luo::get() else {
        return;
    };
    {
        let mut registry = luo.registry.write();
        let Some(entry) = registry.by_address(handler) else {
            return;
        };
        let mut list = KVec::new();
        for flb in entry.flbs.iter().flat_map(|list| list.iter()) {
            if flb.address() != address && list.push(flb.clone(), GFP_KERNEL).is_err() {
                break;
            }
        }
        // Should there be no memory for the list, files depend on less than they could.
        entry.flbs = Arc::new(list, GFP_KERNEL).ok();
    }
    disconnect_unused(luo);
}

/// Disconnects the states that no handler has any more.
fn disconnect_unused(luo: &Luo) {
    // Operations run with the registries unlocked, since they may use them.
    while let Some(flb) = take_unused(luo) {
        luo.flbs.disconnect(&flb);
    }
}

fn take_unused(luo: &Luo) -> Option<Arc<Flb>> {
    let mut flbs = luo.flbs.outgoing.write();
    let registry = luo.registry.read();
    let index = flbs.iter().position(|flb| {
        !registry.handlers.iter().any(|entry| {
            entry
                .flbs
                .iter()
                .flat_map(|list| list.iter())
                .any(|other| other.address() == flb.address())
        })
    })?;
    flbs.remove(index).ok()
}
