// SPDX-License-Identifier: GPL-2.0

//! Registered file handlers.

use super::ContentIds;
use crate::{
    abi::{
        Compatible,
        FlbPage,
        Policy, //
    },
    luo_flb::{
        incoming::{
            IncomingFlbLists,
            IncomingFlbs, //
        },
        outgoing::{
            Flb,
            FlbList, //
        },
        Flbs, //
    },
    ops::{
        FileOps,
        FlbId,
        FlbOps,
        HandlerId, //
    },
    policy::Vital, //
};
use kernel::{
    fs::File,
    module_ref::ModuleRef,
    prelude::*,
    str::BStr,
    sync::{
        new_mutex,
        new_rwsem,
        Arc,
        Mutex,
        RwSemaphore, //
    }, //
};

/// A handler that is or was registered.
#[pin_data]
pub(crate) struct Handler {
    compatible: Compatible,
    id: HandlerId,
    /// [`None`] after the handler was unregistered. Held for reading while an operation runs.
    #[pin]
    ops: RwSemaphore<Option<FileOps>>,
}

impl Handler {
    /// The name of the handler.
    pub(crate) fn compatible(&self) -> &Compatible {
        &self.compatible
    }

    /// Calls an operation; returns [`None`] if the handler was unregistered.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&FileOps) -> R) -> Option<R> {
        self.ops.read().as_ref().map(call)
    }

    /// Like [`Self::with`], for callers within an operation of this or another handler. Does not
    /// wait, and returns [`None`] also while the handler is being unregistered.
    pub(crate) fn with_nested<R>(&self, call: impl FnOnce(&FileOps) -> R) -> Option<R> {
        self.ops.try_read()?.as_ref().map(call)
    }
}

/// A registered handler, and the FLBs on which its files depend.
struct Registration {
    /// Increases with each registration.
    number: u64,
    handler: Arc<Handler>,
    flbs: Option<FlbList>,
}

/// A handler whose module is in use and cannot be unloaded.
pub(crate) struct PinnedHandler {
    pub(crate) handler: Arc<Handler>,
    pub(crate) flbs: Option<FlbList>,
    pub(crate) module: ModuleRef,
}

impl PinnedHandler {
    /// The FLBs on which files of the previous kernel depend.
    pub(crate) fn incoming_flbs(&self, handlers: &Handlers) -> IncomingFlbLists {
        IncomingFlbLists {
            found: self.flbs.clone(),
            now: self.flbs_now(handlers),
        }
    }

    /// The FLBs on which newly preserved files depend.
    pub(crate) fn flbs_now(&self, handlers: &Handlers) -> Option<FlbList> {
        let registry = handlers.registry.read();
        let mut entries = registry.handlers.iter();
        let entry = entries.find(|entry| entry.handler.id == self.handler.id)?;
        entry.flbs.clone()
    }
}

/// Fails with [`EINVAL`] if data of a module is vital, i.e. has a policy: the next kernel would carry
/// out the policy before it could load the module.
fn check_vital(compatible: &Compatible, is_modular: bool, policy: Option<Policy>) -> Result {
    if is_modular && policy.is_some() {
        pr_err!(
            "'{}' is vital data, which needs built-in code\n",
            BStr::from_bytes(compatible.as_bytes())
        );
        return Err(EINVAL);
    }
    Ok(())
}

/// The handlers in the order of their registration.
struct Registry {
    handlers: KVec<Registration>,
    next_number: u64,
}

impl Registry {
    const fn new() -> Self {
        Self {
            handlers: KVec::new(),
            next_number: 0,
        }
    }

    /// Looks up a handler.
    fn by_id(&mut self, id: HandlerId) -> Option<&mut Registration> {
        self.handlers
            .iter_mut()
            .find(|entry| entry.handler.id == id)
    }
}

/// All handlers, with the state of their files in all sessions.
#[pin_data]
pub(crate) struct Handlers {
    #[pin]
    registry: RwSemaphore<Registry>,
    /// Held while states are disconnected.
    #[pin]
    disconnecting: Mutex<()>,
    #[pin]
    pub(crate) flbs: Flbs,
    #[pin]
    pub(crate) content_ids: ContentIds,
}

impl Handlers {
    /// Creates it without handlers; `incoming` are the FLBs that the previous kernel handed over.
    pub(crate) fn new(incoming: IncomingFlbs) -> impl PinInit<Self> {
        pin_init!(Self {
            registry <- new_rwsem!(Registry::new(), "luo_registry"),
            disconnecting <- new_mutex!((), "luo_disconnecting"),
            flbs <- Flbs::new(incoming),
            content_ids <- ContentIds::new(),
        })
    }

    /// Returns the first handler for which `fits` is true.
    ///
    /// `fits` is called with the registry unlocked, since handlers may use the registry.
    fn find(&self, fits: impl Fn(&Handler) -> bool) -> Option<PinnedHandler> {
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
                let module = handler.with_nested(FileOps::module)??;
                return Some(PinnedHandler {
                    handler,
                    flbs,
                    module,
                });
            }
        }
    }

    /// Finds the handler for `file`.
    pub(crate) fn for_file(&self, file: &File) -> Option<PinnedHandler> {
        self.find(|handler| {
            handler
                .with(|ops| ops.can_preserve(file))
                .unwrap_or_default()
        })
    }

    /// Finds the handler for the format `compatible`.
    pub(crate) fn for_format(&self, compatible: &Compatible) -> Option<PinnedHandler> {
        self.find(|handler| handler.compatible == *compatible)
    }

    /// Calls `each` with each handler and FLB that is registered with vital data.
    ///
    /// # Errors
    ///
    /// Those of `each`.
    pub(crate) fn vital(&self, each: &mut dyn FnMut(Vital) -> Result) -> Result {
        {
            let registry = self.registry.read();
            for Registration { handler, .. } in &registry.handlers {
                if let Some(policy) = handler.with_nested(FileOps::policy).flatten() {
                    each(Vital {
                        name: handler.compatible,
                        policy,
                        is_flb: false,
                    })?;
                }
            }
        }
        for flb in self.flbs.outgoing.all() {
            if let Some(policy) = flb.policy() {
                each(Vital {
                    name: *flb.compatible(),
                    policy,
                    is_flb: true,
                })?;
            }
        }
        Ok(())
    }

    /// Registers a handler.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if there is a handler of the same name, [`EINVAL`] if the name is not valid or the
    /// data of a module is vital, [`ENOMEM`].
    pub(crate) fn register(&self, ops: FileOps) -> Result {
        let compatible = ops.compatible()?;
        check_vital(&compatible, ops.is_modular(), ops.policy())?;
        let id = ops.id();
        let handler = Arc::pin_init(
            pin_init!(Handler {
                compatible,
                id,
                ops <- new_rwsem!(Some(ops), "luo_handler"),
            }),
            GFP_KERNEL,
        )?;

        let mut registry = self.registry.write();
        if registry
            .handlers
            .iter()
            .any(|other| other.handler.compatible == compatible)
        {
            pr_err!(
                "file handler '{}' is already registered\n",
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

    /// Unregisters a handler.
    ///
    /// Waits until no operation of the handler runs. Callers hold a module reference while files
    /// depend on the handler. Files that still depend on it cannot be handed over any more.
    pub(crate) fn unregister(&self, id: HandlerId) {
        let entry = {
            let mut registry = self.registry.write();
            let Some(index) = registry
                .handlers
                .iter()
                .position(|entry| entry.handler.id == id)
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
        self.disconnect_unused();
        entry.handler.ops.write().take();
        let compatible = entry.handler.compatible;
        if Arc::into_unique_or_drop(entry.handler).is_none() {
            pr_warn!(
                "file handler '{}' was unregistered while files depend on it\n",
                BStr::from_bytes(compatible.as_bytes())
            );
        }
    }

    /// Adds an FLB to a handler.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the handler is not registered or the data of a module is vital, [`EEXIST`] if
    /// the handler already has the state or another state has the same name, [`ENOSPC`] if there are
    /// too many states, [`ENOMEM`].
    pub(crate) fn register_flb(&self, handler: HandlerId, ops: FlbOps) -> Result {
        let compatible = ops.compatible()?;
        check_vital(&compatible, ops.is_modular(), ops.policy())?;
        let id = ops.id();

        let mut flbs = self.flbs.outgoing.write();
        let mut registry = self.registry.write();
        let entry = registry.by_id(handler).ok_or(EINVAL)?;

        let mut list = KVec::new();
        for flb in entry.flbs.iter().flat_map(|list| list.iter()) {
            if flb.id() == id {
                return Err(EEXIST);
            }
            list.push(flb.clone(), GFP_KERNEL)?;
        }

        let known = flbs.iter().find(|flb| flb.id() == id).cloned();
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
        if !flbs.iter().any(|flb| flb.id() == id) {
            flbs.push(flb, GFP_KERNEL)?;
        }
        entry.flbs = Some(list);
        Ok(())
    }

    /// Undoes [`Self::register_flb`]. If files depend on the state, they lose it.
    pub(crate) fn unregister_flb(&self, handler: HandlerId, flb: FlbId) {
        {
            let mut registry = self.registry.write();
            let Some(entry) = registry.by_id(handler) else {
                return;
            };
            let mut list = KVec::new();
            for other in entry.flbs.iter().flat_map(|list| list.iter()) {
                if other.id() != flb && list.push(other.clone(), GFP_KERNEL).is_err() {
                    break;
                }
            }
            // Without memory for the list, new files do not depend on all states.
            entry.flbs = Arc::new(list, GFP_KERNEL).ok();
        }
        self.disconnect_unused();
    }

    /// Disconnects the states that are no longer registered with any handler.
    fn disconnect_unused(&self) {
        // Another task may have taken a state of the caller out of the registry. The module of the
        // caller must not be freed before that task has disconnected the state.
        let _disconnecting = self.disconnecting.lock();
        // Operations run with the registries unlocked, since they may use them.
        while let Some(flb) = self.take_unused() {
            self.flbs.disconnect(&flb);
        }
    }

    fn take_unused(&self) -> Option<Arc<Flb>> {
        let mut flbs = self.flbs.outgoing.write();
        let registry = self.registry.read();
        let index = flbs.iter().position(|flb| {
            !registry.handlers.iter().any(|entry| {
                entry
                    .flbs
                    .iter()
                    .flat_map(|list| list.iter())
                    .any(|other| other.id() == flb.id())
            })
        })?;
        flbs.remove(index).ok()
    }
}
