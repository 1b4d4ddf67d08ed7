// SPDX-License-Identifier: GPL-2.0

//! Kexecs that are aborted or refused.

use crate::support::{
    error::{ensure, ensure_eq, At, Failure, Result},
    kernel_log::kernel_log,
    kexec, memfd,
    pattern::Pattern,
    registry::{Case, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::{TestDevice, NO_HANDLER},
};
use crate::tests::hazards::not_in_c;
use liveupdate::Policy;
use rustix::io::Errno;
use std::io;

const FIRST: Pattern = Pattern {
    seed: 400,
    len: 123_456,
};
const SECOND: Pattern = Pattern {
    seed: 401,
    len: 65_537,
};

/// Tries to start the next kernel, which must be refused.
fn refused(errno: Errno) -> Result {
    let result: io::Result<()> = Err(kexec::try_jump());
    expect_errno(result, errno, "reboot(KEXEC)")
}

/// The order of the calls to freeze and unfreeze of the C handler, after the last `mark`.
fn handler_calls(mark: &str) -> Result<Vec<String>> {
    let log = kernel_log()?;
    let (_, since) = log
        .rsplit_once(mark)
        .ok_or_else(|| Failure::new(format!("the kernel log lacks: {mark}")))?;
    let calls = since.lines().filter_map(|line| {
        let (_, call) = line.split_once("luo_test: ")?;
        call.contains("freeze").then(|| call.to_owned())
    });
    Ok(calls.collect())
}

/// A handler fails to freeze; the kexec is aborted; a second attempt succeeds.
///
/// There are sessions before and after the one with the failing file, since these are handled
/// differently, and the file is neither the first nor the last one of its session.
fn freeze_fails() -> Case {
    Case::two(
        "freeze_fails_once",
        |stage| {
            let device = TestDevice::open(TestDevice::C)?;
            device.write("5")?;
            let (first, second) = (memfd::with(FIRST)?, memfd::with(SECOND)?);
            let witness = |value: &str| -> Result<TestDevice> {
                let device = TestDevice::open(TestDevice::C)?;
                device.write(value)?;
                Ok(device)
            };
            let witnesses = [witness("71")?, witness("72")?, witness("73")?];
            let before = create("abort-before")?;
            before.preserve(&first, 1)?;
            before.preserve(&witnesses[0], 2)?;
            let session = create("abort")?;
            session.preserve(&second, 1)?;
            session.preserve(&witnesses[1], 5)?;
            session.preserve(&witnesses[2], 6)?;
            session.preserve(&device, 2)?;
            let third = memfd::with(FIRST)?;
            session.preserve(&third, 3)?;
            let behind = create("abort-behind")?;
            let fourth = memfd::with(SECOND)?;
            behind.preserve(&fourth, 1)?;

            kexec::Plan::dry()?.load()?;
            device.write("fail-freeze 5")?;
            refused(Errno::IO)?;
            // Exactly the frozen files are unfrozen, last one first, in all sessions.
            ensure_eq!(
                handler_calls("luo_test: freeze 71\n")?,
                [
                    "freeze 72",
                    "freeze 73",
                    "freeze 5 fails",
                    "unfreeze 73",
                    "unfreeze 72",
                    "unfreeze 71"
                ],
                "the calls of the handler"
            );
            device.write("fail-freeze 11")?;
            refused(Errno::AGAIN)?;
            device.write("fail-freeze 0")?;

            // All sessions can be used, further files can be preserved, and sessions can be closed.
            FIRST.check(&first, 0)?;
            SECOND.write(&first, 0)?;
            let fifth = memfd::with(FIRST)?;
            session.preserve(&fifth, 4)?;
            drop(behind);
            fourth
                .set_len(10)
                .at("shrink a file that is not preserved any more")?;
            let later = create("abort-later")?;
            later.preserve(&fourth, 1)?;
            device.write("6")?;
            stage.hold((before, session, later));
            stage.hold((device, witnesses, first, second, third, fourth, fifth));
            Ok(())
        },
        |_| {
            let before = retrieve("abort-before")?;
            let first = before.retrieve(1)?.into();
            ensure_eq!(memfd::len(&first)?, FIRST.len, "the size");
            SECOND.check(&first, 0)?;
            let session = retrieve("abort")?;
            memfd::check(session.retrieve(1)?, SECOND)?;
            let device = TestDevice::from(session.retrieve(2)?);
            ensure_eq!(device.value()?, 6, "the value");
            memfd::check(session.retrieve(3)?, FIRST)?;
            memfd::check(session.retrieve(4)?, FIRST)?;
            let later = retrieve("abort-later")?;
            ensure_eq!(memfd::len(&later.retrieve(1)?.into())?, 10, "the size");
            let behind = retrieve("abort-behind").map_err(|error| error.to_string());
            ensure_eq!(
                behind.is_err(),
                true,
                "the absence of the session that was closed"
            );
            before.finish()?;
            session.finish()?;
            Ok(later.finish()?)
        },
    )
    .hazard_unseen("1C.11", NO_HANDLER)
}

/// An image that was loaded by the old system call cannot take over data; the kexec must be
/// refused.
fn legacy_image() -> Case {
    Case::two(
        "image_without_handover",
        |stage| {
            let file = memfd::with(FIRST)?;
            let session = create("abort-legacy")?;
            session.preserve(&file, 1)?;
            kexec::load_legacy().at("kexec_load")?;
            refused(Errno::INVAL)?;
            FIRST.check(&file, 0)?;
            stage.hold((session, file));
            Ok(())
        },
        |_| {
            let session = retrieve("abort-legacy")?;
            memfd::check(session.retrieve(1)?, FIRST)?;
            Ok(session.finish()?)
        },
    )
    .hazard("1A.6")
}

/// A file that cannot be frozen is skipped if the policy of its session permits it; all others are
/// handed over.
fn file_is_skipped() -> Case {
    Case::two(
        "file_is_skipped",
        |stage| {
            let device = |value: &str| -> Result<TestDevice> {
                let device = TestDevice::open(TestDevice::C)?;
                device.write(value)?;
                Ok(device)
            };
            let (bad, for_once, good) = (device("81")?, device("82")?, device("83")?);
            let files = [memfd::with(FIRST)?, memfd::with(SECOND)?];
            let session = create("abort-skip")?;
            session.set_policy(Policy::Skip)?;
            session.preserve(&files[0], 1)?;
            session.preserve(&bad, 2)?;
            session.preserve(&for_once, 3)?;
            session.preserve(&files[1], 4)?;
            // The policy of a session does not apply to others.
            let strict = create("abort-skip-not")?;
            strict.preserve(&good, 1)?;

            kexec::Plan::dry()?.load()?;
            bad.write("fail-freeze 5")?;
            for_once.write("fail-freeze 5")?;
            good.write("fail-freeze 11")?;
            refused(Errno::AGAIN)?;
            // Files that were not frozen are not unfrozen.
            let calls = handler_calls("luo_test: freeze 81 fails\n")?;
            ensure_eq!(
                calls.get(..2),
                Some(&["freeze 82 fails".into(), "freeze 83 fails".into()][..]),
                "the calls of the handler"
            );
            ensure!(
                !calls.iter().any(|call| call.starts_with("unfreeze 8")),
                "a file that was not frozen is unfrozen"
            );
            ensure!(
                kernel_log()?.contains(
                    "session 'abort-skip': handler 'luo-test-v1': the file with token 2 is not handed over"
                ),
                "the kernel log does not name the skipped file"
            );
            // The file is still part of the session.
            let other = memfd::new()?;
            expect_errno(session.preserve(&other, 2), Errno::EXIST, "a taken token")?;
            for_once.write("fail-freeze 0")?;
            good.write("fail-freeze 0")?;
            stage.hold((session, strict, bad, for_once, good, files));
            Ok(())
        },
        |_| {
            let session = retrieve("abort-skip")?;
            memfd::check(session.retrieve(1)?, FIRST)?;
            expect_errno(session.retrieve(2), Errno::NOENT, "a file that was skipped")?;
            let device = TestDevice::from(session.retrieve(3)?);
            ensure_eq!(device.value()?, 82, "the value");
            memfd::check(session.retrieve(4)?, SECOND)?;
            let strict = retrieve("abort-skip-not")?;
            let device = TestDevice::from(strict.retrieve(1)?);
            ensure_eq!(device.value()?, 83, "the value");
            strict.finish()?;
            Ok(session.finish()?)
        },
    )
    .hazard_unseen("5.2", not_in_c::NO_POLICY)
}

pub fn suite() -> Suite {
    // The second case has a file that fails until the end.
    Suite::new("abort", vec![freeze_fails(), file_is_skipped()])
}

/// A suite of its own: a kernel that does not refuse the kexec is reset.
pub fn legacy_suite() -> Suite {
    Suite::new("abort_legacy", vec![legacy_image()])
}
