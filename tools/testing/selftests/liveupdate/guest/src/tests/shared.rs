// SPDX-License-Identifier: GPL-2.0

//! State that files share, which exists as long as the last of them.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::{open_test_device, NO_HANDLER},
};
use rustix::io::Errno;
use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
};

/// The numbers of calls of the operations of a state in this kernel.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Calls {
    pub preserve: u32,
    pub unpreserve: u32,
    pub retrieve: u32,
    pub finish: u32,
}

/// A file that can depend on a state. Cases use different states.
pub(super) struct SharedDevice(File);

impl SharedDevice {
    pub fn open(number: u32) -> Result<Self> {
        let path = format!("/dev/luo_shared{number}");
        Ok(Self(open_test_device(&path)?))
    }

    pub fn order(&self, order: &str) -> io::Result<()> {
        (&self.0).write_all(order.as_bytes())
    }

    pub fn calls(&self) -> Result<Calls> {
        let mut bytes = [0; 64];
        let len = self.0.read_at(&mut bytes, 0).at("read the calls")?;
        let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default());
        let mut numbers = text.split_whitespace().map(str::parse);
        let mut next = || -> Result<u32> { Ok(numbers.next().at("a number of calls")??) };
        Ok(Calls {
            preserve: next()?,
            unpreserve: next()?,
            retrieve: next()?,
            finish: next()?,
        })
    }
}

impl AsFd for SharedDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens a device whose files depend on the state.
pub(super) fn registered(number: u32) -> Result<SharedDevice> {
    let device = SharedDevice::open(number)?;
    device.order("register").at("register the state")?;
    Ok(device)
}

/// The calls in a kernel that has retrieved and finished a state.
pub(super) const FINISHED: Calls = Calls {
    preserve: 0,
    unpreserve: 0,
    retrieve: 1,
    finish: 1,
};

/// A user of a state in the old kernel is not counted as a file in the new one; and the state is
/// finished without having been used.
fn holder_before() -> Case {
    const NAME: &str = "shared-holder-before";
    Case::two(
        "holder_before_the_kexec",
        |stage| {
            let device = registered(0)?;
            let session = create(NAME)?;
            session.preserve(&device, 1)?;
            let other = SharedDevice::open(0)?;
            session.preserve(&other, 2)?;
            for _ in 0..3 {
                device.order("get-outgoing").at("get the state")?;
            }
            let once = Calls {
                preserve: 1,
                ..Calls::default()
            };
            ensure_eq!(device.calls()?, once, "calls for two files");
            stage.hold((session, device, other));
            Ok(())
        },
        |_| {
            let device = registered(0)?;
            retrieve(NAME)?.finish()?;
            ensure_eq!(device.calls()?, FINISHED, "calls after FINISH");
            expect_errno(
                device.order("get-incoming"),
                Errno::NODATA,
                "getting the state after FINISH",
            )
        },
    )
    .hazard_unseen("1C.6", NO_HANDLER)
}

/// A user in the new kernel holds the state, and the last one finishes it.
fn holder_after() -> Case {
    const NAME: &str = "shared-holder-after";
    Case::two(
        "holder_after_the_kexec",
        |stage| {
            let device = registered(1)?;
            let session = create(NAME)?;
            session.preserve(&device, 1)?;
            stage.hold((session, device));
            Ok(())
        },
        |_| {
            let device = registered(1)?;
            for _ in 0..2 {
                device.order("get-incoming").at("get the state")?;
            }
            let session = retrieve(NAME)?;
            drop(session.retrieve(1)?);
            session.finish()?;
            let held = Calls {
                finish: 0,
                ..FINISHED
            };
            device.order("put-incoming").at("put the state")?;
            ensure_eq!(device.calls()?, held, "calls while there is a user");
            device.order("put-incoming").at("put the state")?;
            ensure_eq!(device.calls()?, FINISHED, "calls without a user");
            // An excess put has no further effect.
            device.order("put-incoming").at("put the state again")?;
            ensure_eq!(device.calls()?, FINISHED, "calls after putting it again");
            Ok(())
        },
    )
    .hazard_unseen("1C.6", NO_HANDLER)
}

/// Files of an old kernel without the state do not depend on it.
fn unknown_before() -> Case {
    const NAME: &str = "shared-unknown-before";
    Case::two(
        "unknown_to_the_old_kernel",
        |stage| {
            let device = SharedDevice::open(2)?;
            let session = create(NAME)?;
            session.preserve(&device, 1)?;
            stage.hold((session, device));
            Ok(())
        },
        |_| {
            let device = registered(2)?;
            let session = retrieve(NAME)?;
            drop(session.retrieve(1)?);
            session.finish()?;
            expect_errno(
                device.order("get-incoming"),
                Errno::NOENT,
                "getting the state",
            )?;
            ensure_eq!(device.calls()?, Calls::default(), "calls");
            let log = kernel_log()?;
            ensure!(!log.contains("underflow"), "a counter underflows");
            Ok(())
        },
    )
    .hazard_unseen("1C.5", NO_HANDLER)
}

/// A state that is registered between RETRIEVE_FD and FINISH is finished like others.
fn late_after() -> Case {
    const NAME: &str = "shared-late-after";
    Case::two(
        "registered_before_finish",
        |stage| {
            let device = registered(3)?;
            let session = create(NAME)?;
            session.preserve(&device, 1)?;
            stage.hold((session, device));
            Ok(())
        },
        |_| {
            let session = retrieve(NAME)?;
            drop(session.retrieve(1)?);
            let device = registered(3)?;
            session.finish()?;
            ensure_eq!(device.calls()?, FINISHED, "calls after FINISH");
            Ok(())
        },
    )
    .hazard_unseen("1C.7", NO_HANDLER)
}

/// A state that is unregistered when its files are finished is finished by its next user.
fn gone_after() -> Case {
    const NAME: &str = "shared-gone-after";
    Case::two(
        "unregistered_before_finish",
        |stage| {
            let device = registered(7)?;
            let session = create(NAME)?;
            session.preserve(&device, 1)?;
            stage.hold((session, device));
            Ok(())
        },
        |_| {
            let device = registered(7)?;
            let session = retrieve(NAME)?;
            drop(session.retrieve(1)?);
            device.order("unregister").at("unregister the state")?;
            session.finish()?;
            ensure_eq!(device.calls()?, Calls::default(), "calls after FINISH");
            device.order("register").at("register it again")?;
            device.order("get-incoming").at("get the state")?;
            device.order("put-incoming").at("put the state")?;
            ensure_eq!(device.calls()?, FINISHED, "calls in the end");
            Ok(())
        },
    )
    .hazard_unseen("1C.7", NO_HANDLER)
}

/// Files depend only on the states that were registered when they were preserved.
fn late_before() -> Case {
    Case::one("registered_after_preserve", |_| {
        let device = SharedDevice::open(4)?;
        let without = create("shared-without")?;
        without.preserve(&device, 1)?;
        device.order("register").at("register the state")?;
        ensure_eq!(device.calls()?, Calls::default(), "calls at first");

        let other = SharedDevice::open(4)?;
        let with = create("shared-with")?;
        with.preserve(&other, 1)?;
        let mut calls = Calls {
            preserve: 1,
            ..Calls::default()
        };
        drop(without);
        ensure_eq!(
            device.calls()?,
            calls,
            "calls with one file that depends on the state"
        );
        drop(with);
        calls.unpreserve = 1;
        ensure_eq!(device.calls()?, calls, "calls with none");
        Ok(())
    })
    .hazard_unseen("1C.7", NO_HANDLER)
}

/// A state that is unregistered in use is unpreserved. The files do not depend on it any more.
fn unregistered_in_use() -> Case {
    Case::one("unregistered_in_use", |_| {
        let device = registered(5)?;
        let session = create("shared-unregistered")?;
        session.preserve(&device, 1)?;
        let mut calls = Calls {
            preserve: 1,
            unpreserve: 1,
            ..Calls::default()
        };
        for _ in 0..2 {
            device.order("unregister").at("unregister the state")?;
            ensure_eq!(device.calls()?, calls, "calls after it was unregistered");
        }
        device.order("register").at("register it again")?;
        expect_errno(
            device.order("get-outgoing"),
            Errno::NOENT,
            "getting the state",
        )?;
        drop(session);
        ensure_eq!(device.calls()?, calls, "calls after the session was closed");

        let session = create("shared-registered-again")?;
        session.preserve(&device, 1)?;
        calls.preserve = 2;
        ensure_eq!(device.calls()?, calls, "calls with a new file");
        drop(session);
        calls.unpreserve = 2;
        ensure_eq!(device.calls()?, calls, "calls in the end");
        Ok(())
    })
    .hazard_unseen("1C.12", NO_HANDLER)
}

/// Unregistering a handler twice, or with files, or registering it twice, has no harmful effect.
fn handlers() -> Case {
    Case::one("handler_unregistered_twice", |_| {
        let device = registered(6)?;
        let twice = device.order("register-handler");
        expect_errno(twice, Errno::EXIST, "registering it twice")?;
        let session = create("shared-handler")?;
        session.preserve(&device, 1)?;
        for _ in 0..2 {
            device.order("unregister-handler").at("unregister it")?;
        }
        let other = SharedDevice::open(6)?;
        let gone = session.preserve(&other, 2);
        expect_errno(gone, Errno::NOENT, "PRESERVE_FD without a handler")?;
        let no_handler = device.order("register");
        expect_errno(no_handler, Errno::INVAL, "a state without a handler")?;
        drop(session);

        device.order("register-handler").at("register it again")?;
        let session = create("shared-handler")?;
        Ok(session.preserve(&device, 1)?)
    })
    .hazard_unseen("1C.12", NO_HANDLER)
}

/// Two implementations of a state with one name never get each other's objects.
fn twins() -> Case {
    const NAME: &str = "shared-twins";
    Case::two(
        "twins_do_not_share_objects",
        |stage| {
            for number in [8, 9] {
                let device = registered(number)?;
                let session = create(&format!("{NAME}-{number}"))?;
                session.preserve(&device, 1)?;
                stage.hold((session, device));
            }
            Ok(())
        },
        |_| {
            let device = registered(8)?;
            device.order("get-incoming").at("get the state")?;
            let twin = device.order("get-twin");
            expect_errno(twin, Errno::EXIST, "getting it as a twin")?;
            // It does not change the number of users of the other implementation either.
            device.order("put-twin").at("put it as a twin")?;
            retrieve(&format!("{NAME}-8"))?.finish()?;
            let held = Calls {
                finish: 0,
                ..FINISHED
            };
            ensure_eq!(device.calls()?, held, "calls while there is a user");
            device.order("put-incoming").at("put the state")?;
            ensure_eq!(device.calls()?, FINISHED, "calls without a user");

            // The object of the second implementation is not finished by the registered one.
            let device = registered(9)?;
            device.order("get-twin").at("get the state as a twin")?;
            let other = device.order("get-incoming");
            expect_errno(other, Errno::EXIST, "getting it as the other one")?;
            device.order("put-twin").at("put it as a twin")?;
            retrieve(&format!("{NAME}-9"))?.finish()?;
            device.order("get-twin").at("get it as a twin again")?;
            device.order("put-twin").at("put it as a twin again")?;
            let gone = device.order("get-twin");
            expect_errno(gone, Errno::NODATA, "getting it once it is finished")?;
            ensure_eq!(device.calls()?, Calls::default(), "calls of the other one");
            let log = kernel_log()?;
            ensure!(
                !log.contains("what is none"),
                "the second implementation has finished an object of the first one"
            );
            Ok(())
        },
    )
    .hazard_unseen("1C.7", NO_HANDLER)
}

pub fn suite() -> Suite {
    let cases = vec![
        twins(),
        holder_before(),
        holder_after(),
        unknown_before(),
        late_after(),
        gone_after(),
        late_before(),
        unregistered_in_use(),
        handlers(),
    ];
    Suite::new("shared", cases)
}
