// SPDX-License-Identifier: GPL-2.0

//! Virtual machines of KVM, and guest_memfds.

pub mod module;

use super::damage::fate::{damage, file_line};
use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    fault::{sweep, sweep_retrieve, Faults},
    kexec,
    kvm::{Map, Vm, INIT_SHARED, MMAP, PAGE},
    pattern::Pattern,
    poison::{poison, read_kills},
    process::{Child, End},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    test_device::TestDevice,
};
use liveupdate::{IncomingSession, OutgoingSession};
use rustix::{fs::FallocateFlags, io::Errno};
use std::{fs::File, io};

/// The pages of a file.
const PAGES: usize = 64;

/// Tokens. The VM is preserved first.
const VM: u64 = 2;
const MEMORY: u64 = 1;

const SHARED: u64 = MMAP | INIT_SHARED;

/// The content of a page.
fn content(seed: u64, page: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; PAGE];
    Pattern::new(seed * 100 + page as u64, PAGE as u64).copy_to(&mut bytes)?;
    Ok(bytes)
}

/// The pages that have content. Page 0 is for a program of the guest.
fn filled(page: usize) -> bool {
    page != 0 && page % 3 != 2
}

/// A VM with memory, some of which was never touched.
struct Guest {
    vm: Vm,
    memory: File,
}

impl Guest {
    fn new(seed: u64) -> Result<Self> {
        let vm = Vm::new()?;
        let memory = vm.memory(PAGES, SHARED)?;
        let mut map = Map::new(&memory, PAGES)?;
        map.page(0).fill(0xf4);
        for page in (0..PAGES).filter(|page| filled(*page)) {
            map.page(page).copy_from_slice(&content(seed, page)?);
        }
        Ok(Self { vm, memory })
    }

    fn preserve(&self, session: &OutgoingSession) -> Result {
        session.preserve(&self.vm, VM)?;
        Ok(session.preserve(&self.memory, MEMORY)?)
    }

    /// Retrieves a VM and its memory; the memory first, which needs the VM.
    fn retrieve(session: &IncomingSession) -> Result<Self> {
        let memory = File::from(session.retrieve(MEMORY)?);
        let vm = Vm::from_fd(session.retrieve(VM)?)?;
        Ok(Self { vm, memory })
    }

    fn map(&self) -> Result<Map> {
        Map::new(&self.memory, PAGES)
    }

    /// Checks all pages but the first. The guest has stored first bytes of some.
    fn check(&self, seed: u64, stored: &[(usize, u8)]) -> Result {
        ensure_eq!(
            self.memory.metadata().at("fstat")?.len(),
            (PAGES * PAGE) as u64,
            "the size"
        );
        let mut map = self.map()?;
        for page in 1..PAGES {
            let mut wanted = match filled(page) {
                true => content(seed, page)?,
                false => vec![0; PAGE],
            };
            if let Some((_, byte)) = stored.iter().find(|(other, _)| *other == page) {
                wanted[0] = *byte;
            }
            map.check(page, &wanted)?;
        }
        Ok(())
    }

    /// Lets the guest store a byte in a page.
    fn store(&self, page: u8, byte: u8) -> Result<io::Result<()>> {
        let mut map = self.map()?;
        self.vm
            .set_memory(&self.memory, &map)
            .at("KVM_SET_USER_MEMORY_REGION2")?;
        self.vm.store(&mut map, page, byte)
    }
}

/// Changes the second byte of a page, in a child.
fn touch(memory: &File, page: usize) -> Result<End> {
    Child::start(|| {
        let map = Map::new(memory, PAGES).map_err(|error| io::Error::other(error.to_string()));
        map?.page(page)[1] ^= 1;
        Ok(())
    })?
    .wait()
}

fn punch(memory: &File) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(memory, flags, 3 << 12, 1 << 12)?)
}

fn allocate(memory: &File) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        memory,
        FallocateFlags::KEEP_SIZE,
        0,
        16 << 12,
    )?)
}

/// What fails as long as the memory is preserved, for user space and for the guest.
fn check_frozen(guest: &Guest) -> Result {
    expect_errno(punch(&guest.memory), Errno::PERM, "punching a hole")?;
    expect_errno(allocate(&guest.memory), Errno::PERM, "fallocate")?;
    ensure_eq!(
        touch(&guest.memory, 2)?,
        End::Killed,
        "a task that has touched a hole"
    );
    for _ in 0..2 {
        ensure_eq!(
            touch(&guest.memory, 1)?,
            End::Done,
            "a task that has touched a page"
        );
    }
    Ok(())
}

/// Operations that fail while the memory is preserved, and succeed afterwards.
fn frozen() -> Case {
    Case::one("memory_is_fixed_while_preserved", |_| {
        let guest = Guest::new(1)?;
        let session = create("kvm-frozen")?;
        guest.preserve(&session)?;
        check_frozen(&guest)?;
        let stored = guest.store(5, 1)?;
        expect_errno(
            stored,
            Errno::PERM,
            "KVM_RUN of a guest that touches a hole",
        )?;
        drop(session);
        punch(&guest.memory).at("punch a hole")?;
        ensure_eq!(
            touch(&guest.memory, 2)?,
            End::Done,
            "a task that has touched a hole"
        );
        allocate(&guest.memory).at("fallocate")
    })
}

/// A guest changes its memory while that is preserved.
fn running() -> Case {
    Case::one("guest_runs_while_preserved", |_| {
        let guest = Guest::new(2)?;
        let session = create("kvm-running")?;
        guest.preserve(&session)?;
        guest.store(4, 0x5a)?.at("KVM_RUN")?;
        drop(session);
        guest.check(2, &[(4, 0x5a)])
    })
}

/// A guest handles an exception, and KVM emulates a store of the guest right after that. KVM must
/// not take this for an access of the processor during the delivery of the exception.
fn emulated() -> Case {
    Case::one("guest_stores_to_a_device_after_an_exception", |_| {
        let guest = Guest::new(7)?;
        let mut map = guest.map()?;
        guest
            .vm
            .set_memory(&guest.memory, &map)
            .at("KVM_SET_USER_MEMORY_REGION2")?;
        guest.vm.store_in_handler(&mut map, (PAGES * PAGE) as u64)
    })
}

/// Files that cannot be handed over.
fn refused() -> Case {
    Case::one("what_cannot_be_preserved_is_refused", |_| {
        let guest = Guest::new(3)?;
        let session = create("kvm-refused")?;
        let result = session.preserve(&guest.memory, MEMORY);
        expect_errno(result, Errno::NOENT, "memory without its VM")?;

        let other = create("kvm-refused-other")?;
        other.preserve(&guest.vm, VM)?;
        let result = session.preserve(&guest.memory, MEMORY);
        expect_errno(
            result,
            Errno::NOENT,
            "memory whose VM is in another session",
        )?;
        other.preserve(&guest.memory, MEMORY)?;
        let result = session.preserve(&guest.memory, MEMORY);
        expect_errno(result, Errno::BUSY, "memory that is preserved already")?;
        drop(other);

        session.preserve(&guest.vm, VM)?;
        let private = guest.vm.memory(PAGES, 0)?;
        let result = session.preserve(&private, MEMORY);
        expect_errno(result, Errno::OPNOTSUPP, "memory that is not shared")?;

        let Guest { vm, memory } = Guest::new(4)?;
        drop(vm);
        let result = session.preserve(&memory, MEMORY);
        expect_errno(result, Errno::NOENT, "memory whose VM is closed")?;
        // Nothing has become of them.
        punch(&memory).at("punch a hole")?;
        drop(session);
        guest.preserve(&create("kvm-refused-not")?)?;
        Ok(())
    })
}

/// Preserving a VM and its memory fails at each possible place, and another attempt succeeds.
fn preserve_failures() -> Case {
    Case::one("preserve_fd_fails_at_each_place", |stage| {
        let faults = Faults::new()?;
        let guest = Guest::new(6)?;
        let places = |what: &str, token| {
            sweep(|nth| {
                let session = create("kvm-sweep")?;
                let act: &dyn Fn() -> io::Result<()> = if token == VM {
                    &|| session.preserve(&guest.vm, VM)
                } else {
                    session.preserve(&guest.vm, VM)?;
                    &|| session.preserve(&guest.memory, MEMORY)
                };
                let outcome = faults.call(nth, act)?;
                if outcome.result.is_err() {
                    expect_errno(outcome.result, Errno::NOMEM, what)?;
                    act().at("the second try")?;
                }
                Ok(outcome.failed)
            })
        };
        for (what, token) in [("a VM", VM), ("memory", MEMORY)] {
            let nr = places(what, token)?;
            stage.note(format_args!("PRESERVE_FD of {what}: {nr} places to fail"));
            ensure!(nr != 0, "no place could be made to fail");
        }
        guest.check(6, &[])
    })
}

/// The same for retrieving the memory, which also retrieves the VM.
fn retrieve_failures() -> Case {
    Case::two(
        "retrieve_fd_fails_at_each_place",
        |stage| {
            Faults::new()?;
            hold(stage, "failures", 21)
        },
        |stage| {
            let session = retrieve("kvm-failures")?;
            let memory = sweep_retrieve(stage, &session, MEMORY, || Ok(()))?;
            let vm = Vm::from_fd(session.retrieve(VM)?)?;
            let guest = Guest { vm, memory };
            guest.check(21, &[])?;
            guest.store(4, 0xa8)?.at("KVM_RUN")?;
            Ok(session.finish()?)
        },
    )
}

/// A page of the memory is found to be bad when a kexec has to preserve the file again.
fn broken() -> Case {
    const NAME: &str = "kvm-broken";
    const PAGE: usize = 7;
    let check = |memory: &File| {
        let mut map = Map::new(memory, PAGES)?;
        for page in (1..PAGES).filter(|page| filled(*page) && *page != PAGE) {
            map.check(page, &content(40, page)?)?;
        }
        let kills = read_kills(map.page(PAGE).as_ptr().cast())?;
        ensure!(kills, "broken memory is mapped");
        Ok(())
    };
    Case::with_parts(
        "page_that_becomes_bad_after_retrieve_fd",
        vec![
            Box::new(|stage| {
                let guest = Guest::new(40)?;
                let session = create(NAME)?;
                guest.preserve(&session)?;
                stage.hold((session, guest));
                Ok(())
            }),
            Box::new(move |stage| {
                let session = retrieve(NAME)?;
                let guest = Guest::retrieve(&session)?;
                let mut map = guest.map()?;
                let page: *mut u8 = map.page(PAGE).as_mut_ptr();
                // KVM may keep the page in its file.
                match poison(page.cast()) {
                    Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                        Err(error).at("MADV_HWPOISON")?
                    }
                    _ => {}
                }
                drop(map);
                check(&guest.memory)?;
                stage.hold((session, guest));
                Ok(())
            }),
            Box::new(move |_| {
                let session = retrieve(NAME)?;
                let guest = Guest::retrieve(&session)?;
                check(&guest.memory)?;
                session.finish()?;
                let again = create("kvm-broken-again")?;
                again.preserve(&guest.vm, VM)?;
                let result = again.preserve(&guest.memory, MEMORY);
                expect_errno(result, Errno::HWPOISON, "PRESERVE_FD of broken memory")
            }),
        ],
    )
}

/// The kexec is called off.
fn aborted() -> Case {
    Case::one("kexec_is_called_off", |_| {
        let guest = Guest::new(5)?;
        let device = TestDevice::open(TestDevice::C)?;
        device.write("9")?;
        let session = create("kvm-aborted")?;
        guest.preserve(&session)?;
        session.preserve(&device, 3)?;
        kexec::Plan::dry()?.load()?;
        device.write("fail-freeze 5")?;
        let result: io::Result<()> = Err(kexec::try_jump());
        expect_errno(result, Errno::IO, "reboot(KEXEC)")?;
        device.write("fail-freeze 0")?;
        check_frozen(&guest)?;
        drop(session);
        punch(&guest.memory).at("punch a hole")?;
        guest.store(5, 7)?.at("KVM_RUN")
    })
}

/// Damage to the description of memory, and to its list of folios, after which it cannot be retrieved.
/// The structure has the size of that of a memfd, and its flags are at the place of the latter's size.
const DAMAGED: [(&str, &str, Errno); 5] = [
    ("flags", "memfd @ 1 size = 7", Errno::OPNOTSUPP),
    ("private", "memfd @ 1 size = 1", Errno::OPNOTSUPP),
    ("size", "memfd @ 1 pos = 4097", Errno::INVAL),
    ("without_content", "folio @ 1 1 flags = 1", Errno::INVAL),
    ("twice", "folio @ 1 1 index = 0", Errno::INVAL),
];

/// What is handed over by the first kernel.
const FIRST: [(&str, u64); 4] = [("kept", 10), ("lost", 11), ("late", 12), ("open", 13)];

fn hold(stage: &mut Stage<'_>, name: &str, seed: u64) -> Result {
    let guest = Guest::new(seed)?;
    let session = create(&format!("kvm-{name}"))?;
    guest.preserve(&session)?;
    stage.hold((session, guest));
    Ok(())
}

fn hand_over(stage: &mut Stage<'_>) -> Result {
    for (name, seed) in FIRST {
        hold(stage, name, seed)?;
    }
    for (name, line, _) in DAMAGED {
        damage(&format!("kvm-{name}"), &[line])?;
        hold(stage, name, 14)?;
    }
    Ok(())
}

/// One VM continues, one is dropped, one is left alone, and one is handed over once more.
fn take_over(stage: &mut Stage<'_>) -> Result {
    let session = retrieve("kvm-kept")?;
    let guest = Guest::retrieve(&session)?;
    guest.check(10, &[])?;
    guest.store(4, 0xa5)?.at("KVM_RUN")?;
    session.finish()?;
    guest.store(5, 0xa6)?.at("KVM_RUN")?;
    guest.check(10, &[(4, 0xa5), (5, 0xa6)])?;
    let second = create("kvm-next")?;
    guest.preserve(&second)?;
    stage.hold((second, guest));

    retrieve("kvm-lost")?.finish()?;

    let session = retrieve("kvm-open")?;
    let guest = Guest::retrieve(&session)?;
    guest.check(13, &[])?;
    guest.store(7, 0xa7)?.at("KVM_RUN")?;
    stage.hold((session, guest));

    for (name, _, errno) in DAMAGED {
        let session = retrieve(&format!("kvm-{name}"))?;
        for _ in 0..2 {
            expect_errno(session.retrieve(MEMORY), errno, name)?;
        }
        let line = file_line(&session)?;
        let state = match errno {
            // Left to another kernel.
            Errno::OPNOTSUPP => "state incoming",
            _ => "state failed",
        };
        ensure!(line.contains(state), "fdinfo says: {line}");
        // The VM can be used without it.
        Vm::from_fd(session.retrieve(VM)?)?.memory(1, SHARED)?;
        session.finish()?;
    }
    Ok(())
}

fn take_over_again(_: &mut Stage<'_>) -> Result {
    for (name, seed, stored) in [
        ("next", 10, &[(4, 0xa5), (5, 0xa6)][..]),
        ("late", 12, &[]),
        ("open", 13, &[(7, 0xa7)]),
    ] {
        let session = retrieve(&format!("kvm-{name}"))?;
        let guest = Guest::retrieve(&session)?;
        guest.check(seed, stored).at(name)?;
        guest.store(8, 1)?.at("KVM_RUN")?;
        session.finish()?;
    }
    Ok(())
}

fn updates() -> Case {
    Case::chain(
        "guests_over_two_updates",
        [hand_over, take_over, take_over_again],
    )
}

/// An agent dies after it has retrieved a VM, which belongs to it. The memory is not lost.
fn killed() -> Case {
    const NAME: &str = "kvm-killed";
    Case::two(
        "agent_dies_after_retrieve_fd",
        |stage| hold(stage, "killed", 20),
        |_| {
            let child = Child::start(|| {
                let session = liveupdate::Device::open()?.retrieve_session(NAME)?;
                session.retrieve(MEMORY)?;
                session.retrieve(VM)?;
                // SAFETY: Always safe.
                unsafe { libc::raise(libc::SIGKILL) };
                Ok(())
            })?;
            ensure_eq!(child.wait()?, End::Killed, "the end of the agent");
            let session = retrieve(NAME)?;
            let guest = Guest::retrieve(&session)?;
            guest.check(20, &[])?;
            let result = guest.vm.set_memory(&guest.memory, &guest.map()?);
            expect_errno(result, Errno::IO, "the use of another task's VM")?;
            Ok(session.finish()?)
        },
    )
}

/// The suite.
pub fn suite() -> Suite {
    let cases = vec![
        frozen(),
        running(),
        emulated(),
        refused(),
        preserve_failures(),
        retrieve_failures(),
        aborted(),
        updates(),
        killed(),
        broken(),
    ];
    Suite::new("kvm", cases)
}
