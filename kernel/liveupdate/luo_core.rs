// SPDX-License-Identifier: GPL-2.0

//! Set-up and `/dev/liveupdate`.
//!
//! # Locks
//!
//! In the order in which they are taken:
//!
//! 1. the [gate](crate::gate): passed by all that changes what is handed over, closed by the
//!    reboot path;
//! 2. the lists of sessions;
//! 3. the files of a session;
//! 4. an incoming file;
//! 5. shared state, its registry, the registry of handlers;
//! 6. a handler's operations, the content ids.
//!
//! User space memory is only accessed with none of them held.

use crate::{
    abi::Name,
    context::Context,
    debugfs,
    fault,
    formats,
    ioctl::{
        Command,
        CreateSession,
        RetrieveSession,
        UserArg, //
    },
    luo_session::{
        self,
        incoming::IncomingSessions,
        install,
        outgoing::OutgoingSessions, //
    },
    root::Incoming, //
};
use kernel::{
    early_param,
    fs::File,
    initcall,
    kho::{
        self,
        ClaimedFolio, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    str::kstrtobool,
    sync::{
        atomic::{
            ordering::{
                Acquire,
                Full,
                Relaxed,
                Release, //
            },
            Atomic,
            AtomicFlag, //
        },
        new_mutex,
        new_rwsem,
        Mutex,
        RwSemaphore,
        SetOnce, //
    },
};

/// Whether `liveupdate=` asks for us, and from the early initcall on, whether we are there.
static ENABLED: Atomic<bool> = Atomic::new(false);

/// Set in the early initcall, before anybody can use it.
static LUO: SetOnce<Pin<KBox<Luo>>> = SetOnce::new();

/// The device, once it is registered.
static DEVICE: SetOnce<Pin<KBox<MiscDeviceRegistration<Device>>>> = SetOnce::new();

/// All state of the orchestrator.
#[pin_data]
pub(crate) struct Luo {
    #[pin]
    pub(crate) context: Context,
    #[pin]
    pub(crate) outgoing: RwSemaphore<OutgoingSessions>,
    #[pin]
    pub(crate) incoming: RwSemaphore<IncomingSessions>,
    /// What was read in the early initcall and is freed in the late one: in between, the page
    /// allocator may still be busy making itself complete.
    #[pin]
    early: Mutex<Option<ClaimedFolio>>,
}

impl Luo {
    fn new(incoming: Incoming) -> impl PinInit<Self> {
        let Incoming {
            number,
            sessions_pa,
            flbs,
            done,
        } = incoming;
        pin_init!(Self {
            context <- Context::new(number, flbs),
            outgoing <- new_rwsem!(OutgoingSessions::new(), "luo_outgoing"),
            incoming <- new_rwsem!(IncomingSessions::new(sessions_pa), "luo_incoming"),
            early <- new_mutex!(done, "luo_early"),
        })
    }

    /// Returns the orchestrator, if it is enabled.
    pub(crate) fn get() -> Option<&'static Luo> {
        if !ENABLED.load(Acquire) {
            return None;
        }
        LUO.as_ref().map(|luo| luo.as_ref().get_ref())
    }
}

/// Whether a kexec waits for an operation on a file to come to an end.
pub(crate) fn is_reboot_pending() -> bool {
    Luo::get().is_some_and(|luo| luo.context.gate.is_wanted())
}

/// Whether live updates are possible.
pub(crate) fn is_enabled() -> bool {
    Luo::get().is_some()
}

fn parse_param(arg: Option<&CStr>) -> Result {
    ENABLED.store(kstrtobool(arg.ok_or(EINVAL)?)?, Relaxed);
    Ok(())
}
early_param!(c"liveupdate", parse_param);

fn early_init() -> Result {
    let wanted = ENABLED.load(Relaxed);
    // Until there is something to be enabled.
    ENABLED.store(false, Relaxed);

    if !kho::is_enabled() {
        if wanted {
            pr_warn!("Disabling liveupdate because KHO is disabled\n");
        }
        return Ok(());
    }
    let incoming = Incoming::take_over(wanted);
    if !wanted {
        return Ok(());
    }
    LUO.populate(KBox::pin_init(Luo::new(incoming), GFP_KERNEL)?);
    ENABLED.store(true, Release);
    Ok(())
}
initcall!(early, early_init);

fn late_init() -> Result {
    let Some(luo) = Luo::get() else {
        return Ok(());
    };
    drop(luo.early.lock().take());
    let device = MiscDeviceRegistration::register(MiscDeviceOptions {
        name: c"liveupdate",
    });
    DEVICE.populate(KBox::pin_init(device, GFP_KERNEL)?);
    if let Err(err) = formats::init() {
        pr_err!("no /sys/kernel/liveupdate: error {}\n", err.to_errno());
    }
    debugfs::init(luo)
}
initcall!(late, late_init);

/// Whether `/dev/liveupdate` is open.
static IN_USE: AtomicFlag = AtomicFlag::new(false);

/// The right to use `/dev/liveupdate`, which only one open file can have.
struct Device;

impl Device {
    fn claim() -> Result<Self> {
        if IN_USE.xchg(true, Full) {
            return Err(EBUSY);
        }
        Ok(Self)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        IN_USE.store(false, Release);
    }
}

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let device = Self::claim()?;
        fault::point()?;
        Ok(KBox::new(device, GFP_KERNEL)?)
    }

    fn ioctl(_device: &Self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let luo = Luo::get().ok_or(ENODEV)?;
        match cmd {
            CreateSession::CMD => {
                let (arg, mut command) = UserArg::read::<CreateSession>(arg)?;
                let name = Name::parse(&command.name)?;
                install(
                    || luo_session::outgoing::create(&luo.context, &luo.outgoing, name),
                    |fd| {
                        command.fd = fd;
                        arg.respond(&command)
                    },
                )
            }
            RetrieveSession::CMD => {
                let (arg, mut command) = UserArg::read::<RetrieveSession>(arg)?;
                let name = Name::parse(&command.name)?;
                install(
                    || luo_session::incoming::retrieve(&luo.context, &luo.incoming, &name),
                    |fd| {
                        command.fd = fd;
                        arg.respond(&command)
                    },
                )
            }
            _ => Err(ENOTTY),
        }
    }
}
