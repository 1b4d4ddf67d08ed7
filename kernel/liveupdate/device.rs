// SPDX-License-Identifier: GPL-2.0

//! `/dev/liveupdate`.

use crate::{
    abi::Name,
    fault,
    ioctl::{
        unsupported,
        Command,
        CreateSession,
        RetrieveSession,
        Target,
        UserArg, //
    },
    luo_core::Luo,
    luo_session::{
        incoming,
        install,
        outgoing, //
    }, //
};
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::{
        atomic::{
            ordering::{
                Full,
                Release, //
            },
            AtomicFlag, //
        },
        SetOnce, //
    }, //
};

/// The device, once it is registered.
static DEVICE: SetOnce<Pin<KBox<MiscDeviceRegistration<Device>>>> = SetOnce::new();

/// Whether `/dev/liveupdate` is open.
static IN_USE: AtomicFlag = AtomicFlag::new(false);

/// The exclusive use of `/dev/liveupdate` by one open file.
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
                    || outgoing::create(&luo.context, &luo.outgoing, &luo.incoming, name),
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
                    || incoming::retrieve(&luo.context, &luo.incoming, &name),
                    |fd| {
                        command.fd = fd;
                        arg.respond(&command)
                    },
                )
            }
            _ => Err(unsupported(Target::Device, cmd)),
        }
    }
}

/// Registers the device, which is never unregistered.
pub(crate) fn init() -> Result {
    let device = MiscDeviceRegistration::register(MiscDeviceOptions {
        name: c"liveupdate",
    });
    DEVICE.populate(KBox::pin_init(device, GFP_KERNEL)?);
    Ok(())
}
