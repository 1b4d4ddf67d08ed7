// SPDX-License-Identifier: GPL-2.0

//! Handlers and shared states in modules, which are loaded before and after a kexec.

use super::shared::{registered, Calls, SharedDevice, FINISHED};
use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kernel_log::kernel_log,
    kexec,
    modules::{self, RUST, SHARED},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::TestDevice,
    wait::eventually,
};
use liveupdate::IncomingSession;
use rustix::io::Errno;
use std::{fs::File, io, os::fd::AsRawFd, thread};

/// The sessions of [`updates`]. In the second kernel, in this order: the file is retrieved when the
/// module is loaded; the session is finished without the module; the file cannot be retrieved, and
/// the session is closed; the file is retrieved, and the session is not finished.
const KEPT: &str = "modules-kept";
const LOST: &str = "modules-lost";
const LATE: &str = "modules-late";
const OPEN: &str = "modules-open";

/// A session of the second kernel.
const AGAIN: &str = "modules-again";

/// The devices of these sessions.
const KEPT_DEVICE: u32 = 0;
const LOST_DEVICE: u32 = 1;
const LATE_DEVICE: u32 = 2;

/// The value of the file of the sample in Rust.
const VALUE: u64 = 4711;

/// Checks that a module cannot be unloaded.
fn is_busy(module: &str, when: &str) -> Result {
    let what = format!("unloading {module} {when}");
    expect_errno(modules::unload(module), Errno::WOULDBLOCK, &what)
}

/// Checks the number of references to a module. Files of other tasks are released a little later.
fn has_references(module: &str, wanted: u64, when: &str) -> Result {
    let mut found = None;
    eventually(&format!("{module} has other references {when}"), || {
        found = modules::references(module)?;
        Ok(found == Some(wanted))
    })
    .at(format_args!("{found:?} instead of {wanted}"))
}

/// Unloads a module that has no users.
fn unload(module: &str, when: &str) -> Result {
    has_references(module, 0, when)?;
    modules::unload(module).at(format_args!("unload {module} {when}"))?;
    ensure_eq!(modules::references(module)?, None, "references {when}");
    Ok(())
}

/// Programs find the module of a format by its alias.
fn aliases() -> Case {
    Case::one("formats_are_aliases", |_| {
        for (module, formats) in [
            (SHARED, ["luo-shared-file-0", "luo-shared-9"]),
            (RUST, ["rust-sample-number-v2", "rust-sample-generation-v1"]),
        ] {
            let aliases = modules::aliases(module)?;
            for format in formats {
                let alias = format!("liveupdate:{format}");
                ensure!(aliases.contains(&alias), "{module} has {aliases:?}");
            }
        }
        Ok(())
    })
}

/// Vital data needs a handler before any module can be loaded.
fn vital() -> Case {
    Case::one("vital_data_is_refused", |_| {
        let device = SharedDevice::open(3)?;
        let result = device.order("register-vital");
        expect_errno(result, Errno::INVAL, "registering a vital handler")?;
        let result = device.order("register-vital-state");
        expect_errno(result, Errno::INVAL, "registering a vital state")
    })
}

/// A preserved file and its state each have a reference to the module.
fn preserved() -> Case {
    Case::one("unloading_waits_for_preserved_files", |_| {
        let device = registered(3)?;
        has_references(SHARED, 1, "with an open file")?;
        let session = create("modules-preserved")?;
        session.preserve(&device, 1)?;
        drop(device);
        has_references(SHARED, 3, "with a preserved file")?;
        is_busy(SHARED, "with a preserved file")?;

        // The last user of the state is the kernel.
        let device = SharedDevice::open(3)?;
        device.order("get-outgoing").at("get the state")?;
        drop((session, device));
        has_references(SHARED, 1, "with a state in use")?;
        is_busy(SHARED, "with a state in use")?;
        let device = SharedDevice::open(3)?;
        device.order("put-outgoing").at("put the state")?;
        let calls = Calls {
            preserve: 1,
            unpreserve: 1,
            ..Calls::default()
        };
        ensure_eq!(device.calls()?, calls, "calls in the end");
        drop(device);
        unload(SHARED, "after the session was closed")?;

        let device = TestDevice::open(TestDevice::RUST)?;
        let session = create("modules-preserved")?;
        session.preserve(&device, 1)?;
        drop(device);
        has_references(RUST, 3, "with a preserved file")?;
        is_busy(RUST, "with a preserved file")?;
        drop(session);
        unload(RUST, "after the session was closed")
    })
}

/// A module that unregisters its handler while files depend on it makes the kexec fail.
fn unregistered() -> Case {
    Case::one("kexec_without_the_handler_is_refused", |_| {
        let device = registered(3)?;
        let session = create("modules-unregistered")?;
        session.preserve(&device, 1)?;
        kexec::Plan::dry()?.load()?;
        device
            .order("unregister-handler")
            .at("unregister the handler")?;
        let result: io::Result<()> = Err(kexec::try_jump());
        expect_errno(result, Errno::NODEV, "reboot(KEXEC)")?;
        drop((session, device));
        unload(SHARED, "after the session was closed")
    })
}

/// The number of times that the modules are loaded and unloaded.
const ROUNDS: usize = 20;

/// Preserves a file while its handler may be registered and unregistered at any time. Returns
/// whether this has succeeded; fails if the error is not one that is expected then.
fn preserve_any(file: &File) -> Result<bool> {
    let session = create("modules-race")?;
    match session.preserve(file, 1) {
        Ok(()) => Ok(true),
        Err(error) => {
            let errno = liveupdate::errno(&error).map(Errno::from_raw_os_error);
            let known = [Errno::NOENT, Errno::NODEV];
            ensure!(
                errno.is_some_and(|errno| known.contains(&errno)),
                "PRESERVE_FD: {error}"
            );
            Ok(false)
        }
    }
}

/// Handlers and states are registered and unregistered while files are preserved, with and without
/// such a handler.
fn race() -> Case {
    Case::one("modules_come_and_go", |stage| {
        let null = File::open("/dev/null").at("/dev/null")?;
        let (unloaded, preserved) = thread::scope(|scope| -> Result<_> {
            let work = scope.spawn(|| -> Result<_> {
                let mut unloaded = 0;
                for _ in 0..ROUNDS {
                    for module in [SHARED, RUST] {
                        modules::load(module, "")?;
                        match modules::unload(module) {
                            Ok(()) => unloaded += 1,
                            Err(error) => expect_errno::<()>(
                                Err(error),
                                Errno::WOULDBLOCK,
                                "unloading a module",
                            )?,
                        }
                    }
                }
                Ok(unloaded)
            });
            let mut preserved = 0;
            while !work.is_finished() {
                ensure!(!preserve_any(&null)?, "/dev/null was preserved");
                for path in ["/dev/luo_shared4", TestDevice::RUST] {
                    // The device may disappear at any time.
                    if let Ok(file) = File::open(path) {
                        preserved += usize::from(preserve_any(&file)?);
                    }
                }
            }
            let unloaded = work.join().map_err(|_| io::Error::other("a panic"))??;
            Ok((unloaded, preserved))
        })?;
        stage.note(format_args!(
            "unloaded {unloaded} times, {preserved} files preserved"
        ));
        for module in [SHARED, RUST] {
            modules::load(module, "")?;
            unload(module, "after the race")?;
        }
        Ok(())
    })
}

fn hand_over(stage: &mut Stage<'_>) -> Result {
    for (name, number) in [
        (KEPT, KEPT_DEVICE),
        (LOST, LOST_DEVICE),
        (LATE, LATE_DEVICE),
    ] {
        let device = registered(number)?;
        let session = create(name)?;
        session.preserve(&device, 1)?;
        stage.hold((session, device));
    }
    let device = TestDevice::open(TestDevice::RUST)?;
    device.write(&VALUE.to_string())?;
    let session = create(OPEN)?;
    session.preserve(&device, 1)?;
    stage.hold((session, device));
    is_busy(SHARED, "before the kexec")?;
    is_busy(RUST, "before the kexec")
}

/// Without the module, files cannot be retrieved. An attempt loses nothing.
fn no_module(session: &IncomingSession) -> Result {
    for _ in 0..2 {
        expect_errno(
            session.retrieve(1),
            Errno::OPNOTSUPP,
            "RETRIEVE_FD without the module",
        )?;
    }
    Ok(())
}

fn without_modules() -> Result {
    for module in [SHARED, RUST] {
        ensure_eq!(modules::references(module)?, None, "references to {module}");
    }
    for name in [KEPT, LATE, OPEN] {
        no_module(&retrieve(name)?).at(name)?;
    }
    retrieve(LOST)?.finish()?;
    let log = kernel_log()?;
    ensure!(
        log.contains("cannot be freed, since there is no file handler 'luo-shared-file-1'"),
        "FINISH without the module does not say so"
    );
    Ok(())
}

/// The calls in a kernel that has retrieved a state, which is not finished.
const IN_USE: Calls = Calls {
    finish: 0,
    ..FINISHED
};

/// The module is loaded, and is referenced while something depends on it.
fn in_c() -> Result {
    let device = registered(KEPT_DEVICE)?;
    let session = retrieve(KEPT)?;
    let file = session.retrieve(1)?;
    has_references(SHARED, 3, "with a retrieved file")?;
    device.order("get-incoming").at("get the state")?;
    has_references(SHARED, 4, "with its state")?;
    drop((device, file));
    has_references(SHARED, 3, "with a session that is not finished")?;
    is_busy(SHARED, "with a session that is not finished")?;
    session.finish()?;
    has_references(SHARED, 1, "with a state in use")?;
    is_busy(SHARED, "with a state in use")?;

    let device = SharedDevice::open(KEPT_DEVICE)?;
    let calls = device.calls()?;
    ensure_eq!(calls, IN_USE, "calls after FINISH");
    device.order("put-incoming").at("put the state")?;
    ensure_eq!(device.calls()?, FINISHED, "calls after it was put");
    drop(device);
    unload(SHARED, "after everything was finished")
}

/// Reads the generation of the files of the sample in Rust.
fn generation(file: &impl AsRawFd) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let text = std::fs::read_to_string(&path).at(path)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("generation:\t"));
    Ok(line.at("there is no generation")?.parse()?)
}

fn in_rust(number: u64) -> Result<IncomingSession> {
    let session = retrieve(OPEN)?;
    modules::load(RUST, "")?;
    let fd = session.retrieve(1)?;
    ensure_eq!(generation(&fd)?, number, "the generation");
    let file = TestDevice::from(fd);
    ensure_eq!(file.value()?, VALUE, "the value");
    drop(file);
    // The references of the open file, which the session holds, of LUO for the retrieved file, and
    // of LUO for the state, which the sample has retrieved.
    has_references(RUST, 3, "with a session that is not finished")?;
    is_busy(RUST, "with a session that is not finished")?;
    Ok(session)
}

fn take_over(stage: &mut Stage<'_>) -> Result {
    without_modules()?;
    in_c()?;
    stage.hold(in_rust(1)?);

    // The module is loaded once more, and its files are handed over by this kernel.
    let device = registered(KEPT_DEVICE)?;
    let session = create(AGAIN)?;
    session.preserve(&device, 1)?;
    stage.hold((session, device));
    Ok(())
}

fn take_over_again(_: &mut Stage<'_>) -> Result {
    for name in [AGAIN, LATE, OPEN] {
        no_module(&retrieve(name)?).at(name)?;
    }
    for (name, number) in [(AGAIN, KEPT_DEVICE), (LATE, LATE_DEVICE)] {
        let device = registered(number)?;
        let session = retrieve(name)?;
        drop(session.retrieve(1)?);
        session.finish()?;
        ensure_eq!(device.calls()?, FINISHED, "calls of the state of {name}");
    }
    unload(SHARED, "after everything was finished")?;

    in_rust(2)?.finish()?;
    unload(RUST, "after everything was finished")?;

    // One file was finished without its handler. LUO does not know on which states it depended.
    let device = registered(LOST_DEVICE)?;
    device.order("get-incoming").at("get the state")?;
    device.order("put-incoming").at("put the state")?;
    let calls = device.calls()?;
    ensure_eq!(calls, IN_USE, "calls of a state that is kept");
    drop(device);
    is_busy(SHARED, "with a state that is kept")
}

fn updates() -> Case {
    Case::chain(
        "files_over_two_updates",
        [hand_over, take_over, take_over_again],
    )
}

/// The suite. Cases of the first kernel unload the modules.
pub fn suite() -> Suite {
    let cases = vec![
        aliases(),
        vital(),
        preserved(),
        unregistered(),
        race(),
        updates(),
    ];
    Suite {
        group: "machines",
        // A suite with parameters only runs if it is named.
        cmdline: "liveupdate=on",
        ..Suite::new("modules", cases)
    }
}
