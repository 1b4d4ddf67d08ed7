// SPDX-License-Identifier: GPL-2.0

//! A file can be retrieved after a temporary failure, by any process.

use crate::support::{
    cgroup::{set, Cgroup},
    error::{ensure, ensure_eq, At, Failure, Result},
    memfd, meminfo,
    pattern::Pattern,
    process::{Child, End},
    registry::{Case, Stage, Suite},
    sessions::{create, expect_errno, retrieve},
    wait::eventually,
};
use liveupdate::IncomingSession;
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd},
    thread,
};

const MIB: u64 = 1 << 20;

/// A setting below /proc/sys that is restored on drop.
struct Setting {
    file: File,
    old: String,
}

impl Setting {
    fn new(name: &str) -> Result<Self> {
        let path = format!("/proc/sys/{name}");
        Ok(Self {
            old: fs::read_to_string(&path).at(&path)?,
            file: File::options().write(true).open(&path).at(&path)?,
        })
    }

    fn set(&self, value: &str) -> Result {
        rustix::io::pwrite(&self.file, value.as_bytes(), 0).at("change a setting")?;
        Ok(())
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = self.set(self.old.trim());
    }
}

/// A case about one file, which stays preserved until the update.
fn one_file(
    name: &'static str,
    session: &'static str,
    pattern: Pattern,
    after: impl Fn(&mut Stage<'_>, IncomingSession, Pattern) -> Result + 'static,
) -> Case {
    Case::two(
        name,
        move |stage| {
            let outgoing = create(session)?;
            outgoing.preserve(memfd::with(pattern)?, 1)?;
            stage.hold(outgoing);
            Ok(())
        },
        move |stage| after(stage, retrieve(session)?, pattern),
    )
}

/// Retrieves the file and ends the session.
fn get(session: IncomingSession, pattern: Pattern) -> Result {
    memfd::check(session.retrieve(1).at("the next attempt")?, pattern)?;
    Ok(session.finish()?)
}

/// Makes a child try without success.
fn fails(session: &IncomingSession, errno: Errno, prepare: impl Fn() -> io::Result<()>) -> Result {
    let child = Child::start(|| {
        prepare()?;
        session.retrieve(1).map(drop)
    })?;
    ensure_eq!(
        child.wait()?,
        End::Error(errno),
        "the end of the first attempt"
    );
    Ok(())
}

/// A failure because of the limit of one cgroup does not affect the next one, which is charged for
/// all memory.
fn cgroup_limit() -> Case {
    const LEN: u64 = 32 * MIB;
    one_file(
        "cgroup_limit",
        "retrieve-cgroup",
        Pattern::new(901, LEN + 5000),
        |stage, session, pattern| {
            let (small, large) = (Cgroup::new("small")?, Cgroup::new("large")?);
            small.limit(LEN / 2)?;
            fails(&session, Errno::NOMEM, || small.enter())?;
            eventually("the first cgroup is charged", || {
                Ok(small.current()? < MIB && small.shmem()? == 0)
            })?;
            let child = Child::start(|| {
                large.enter()?;
                session.retrieve(1).map(drop)
            })?;
            ensure_eq!(child.wait()?, End::Done, "the end of the second attempt");
            let charged = large.current()?;
            stage.note(format_args!("charged to the second cgroup: {charged}"));
            ensure!(charged >= pattern.len, "only {charged} bytes are charged");
            eventually("the file is not in the statistics", || {
                Ok(large.shmem()? >= pattern.len)
            })?;
            ensure!(
                small.current()? < MIB,
                "the first cgroup is charged as well"
            );
            get(session, pattern)?;
            eventually("the memory stays charged", || Ok(large.current()? < MIB))
        },
    )
    .hazard("1A.3a")
}

/// Limits of the whole system are also temporary failures.
fn overcommit() -> Case {
    one_file(
        "overcommit",
        "retrieve-overcommit",
        Pattern::new(902, 16 * MIB),
        |_, session, pattern| {
            let limit = Setting::new("vm/overcommit_kbytes")?;
            let mode = Setting::new("vm/overcommit_memory")?;
            limit.set("4")?;
            mode.set("2")?;
            let result = session.retrieve(1);
            mode.set("0")?;
            expect_errno(result, Errno::NOSPC, "the first attempt")?;
            drop(limit);
            get(session, pattern)
        },
    )
    .hazard("1A.3b")
}

const NOBODY: libc::uid_t = 65_534;

/// Makes an unprivileged child try to open a file when there are too many.
fn too_many_files(session: &IncomingSession) -> Result {
    // The kernel counts in batches, so that there may be some more files.
    let open = || File::open("/dev/null").at("open /dev/null");
    let _many = (0..500).map(|_| open()).collect::<Result<Vec<_>>>()?;
    let limit = Setting::new("fs/file-max")?;
    limit.set("1")?;
    fails(session, Errno::NFILE, || {
        // SAFETY: The child has no other threads.
        match unsafe { libc::setuid(NOBODY) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}

fn file_max() -> Case {
    one_file(
        "file_max",
        "retrieve-files",
        Pattern::new(903, 3 * MIB + 1),
        |_, session, pattern| {
            too_many_files(&session)?;
            get(session, pattern)
        },
    )
    .hazard("1A.3c")
}

/// Files that were not retrieved are freed at the end of the session, also after failed attempts.
fn finish_frees(name: &'static str, session: &'static str, attempt: bool) -> Case {
    const LEN: u64 = 64 * MIB;
    let case = one_file(
        name,
        session,
        Pattern::new(904, LEN),
        move |_, session, _| {
            if attempt {
                too_many_files(&session)?;
            }
            let before = meminfo::free()?;
            session.finish()?;
            eventually("memory is missing", || {
                Ok(meminfo::free()? >= before + LEN / 1024 * 3 / 4)
            })
        },
    );
    if attempt {
        case.hazard("1A.4")
    } else {
        case
    }
}

/// Failures of allocations of this task, by number.
struct FailNth(File);

impl FailNth {
    fn new() -> Result<Self> {
        for attr in ["failslab", "fail_page_alloc"] {
            let dir = format!("/sys/kernel/debug/{attr}");
            if !fs::exists(&dir).unwrap_or(false) {
                return Err(Failure::skip(format!("there is no {dir}")));
            }
            set(format!("{dir}/verbose"), "0")?;
            set(format!("{dir}/ignore-gfp-wait"), "N")?;
        }
        set("/sys/kernel/debug/fail_page_alloc/min-order", "0")?;
        let file = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth");
        Ok(Self(file.at("fail-nth")?))
    }

    /// Makes allocation `nth` fail in `act`. Returns whether there were at least `nth`.
    fn run<T>(&self, nth: u32, act: impl FnOnce() -> T) -> Result<(T, bool)> {
        let nth = nth.to_string();
        let mut rest = [0; 16];
        rustix::io::pwrite(&self.0, nth.as_bytes(), 0).at("fail-nth")?;
        let result = act();
        let len = rustix::io::pread(&self.0, &mut rest, 0);
        rustix::io::pwrite(&self.0, b"0", 0).at("fail-nth")?;
        let reached = rest
            .get(..len.at("fail-nth")?)
            .unwrap_or_default()
            .starts_with(b"0");
        Ok((result, reached))
    }
}

/// Fails unless `error` means a lack of memory: shmem returns `ENOSPC` if it cannot allocate an
/// inode.
fn no_memory(error: &io::Error) -> Result {
    let errno = liveupdate::errno(error).map(Errno::from_raw_os_error);
    ensure!(
        matches!(errno, Some(Errno::NOMEM | Errno::NOSPC)),
        "unexpected error: {error}"
    );
    Ok(())
}

/// Makes each allocation of RETRIEVE_FD fail.
fn every_allocation() -> Case {
    const FILES: u64 = 80;
    let pattern = |token| Pattern::new(910 + token, 300_000 + token);
    Case::two(
        "every_allocation",
        move |stage| {
            let session = create("retrieve-nth")?;
            for token in 1..=FILES {
                session.preserve(memfd::with(pattern(token))?, token)?;
            }
            stage.hold(session);
            Ok(())
        },
        move |stage| {
            let session = retrieve("retrieve-nth")?;
            let fail = FailNth::new()?;
            let mut failures = 0;
            for token in 1..=FILES {
                let (result, reached) = fail.run(token as u32, || session.retrieve(token))?;
                let place = || format!("allocation {token}");
                let fd = match result {
                    Ok(fd) => fd,
                    Err(error) => {
                        failures += 1;
                        no_memory(&error).at(place())?;
                        session.retrieve(token).at(place())?
                    }
                };
                memfd::check(fd, pattern(token)).at(place())?;
                if !reached {
                    stage.note(format_args!(
                        "{failures} failures, {} allocations",
                        token - 1
                    ));
                    ensure!(failures > 1, "no allocation has failed");
                    return Ok(session.finish()?);
                }
            }
            Err(Failure::new("the allocations do not end"))
        },
    )
    .hazard("1A.3")
}

const FAILSLAB: &str = "/sys/kernel/debug/failslab";

/// Makes all allocations of the task fail after some have succeeded.
///
/// Unlike a single failure, this prevents the page cache from growing, at a position in the middle.
fn no_memory_from(space: u64, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let number = |name: &str, value: &str| set(format!("{FAILSLAB}/{name}"), value);
    number("space", &space.to_string())?;
    number("probability", "100")?;
    let mut file = File::options()
        .write(true)
        .open("/proc/self/make-it-fail")?;
    io::Write::write_all(&mut file, b"1")?;
    let result = act();
    io::Write::write_all(&mut file, b"0")?;
    number("probability", "0")?;
    result
}

fn page_cache_nodes() -> Case {
    one_file(
        "page_cache_nodes",
        "retrieve-nodes",
        Pattern::new(905, 6 * MIB + 7),
        |stage, session, pattern| {
            drop(FailNth::new()?);
            for (name, value) in [("times", "-1"), ("interval", "1"), ("task-filter", "Y")] {
                set(format!("{FAILSLAB}/{name}"), value)?;
            }
            let mut failures = 0;
            for space in (0..).step_by(3000) {
                match no_memory_from(space, || session.retrieve(1).map(drop)) {
                    Ok(()) => break,
                    Err(error) => no_memory(&error).at("an attempt")?,
                }
                failures += 1;
                ensure!(failures < 100, "RETRIEVE_FD never succeeds");
            }
            stage.note(format_args!("{failures} failures"));
            ensure!(failures > 3, "there were only {failures} failures");
            set(format!("{FAILSLAB}/task-filter"), "N")?;
            get(session, pattern)
        },
    )
    .hazard("1A.3")
}

/// The name in /proc has the same prefix as for each memfd.
fn name() -> Case {
    one_file(
        "name",
        "retrieve-name",
        Pattern::new(906, 1),
        |_, session, pattern| {
            let file = memfd::check(session.retrieve(1)?, pattern)?;
            let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            let target = fs::read_link(&link).at(link)?;
            ensure_eq!(
                target.to_string_lossy(),
                "/memfd:luo (deleted)",
                "the name in /proc"
            );
            Ok(session.finish()?)
        },
    )
    .hazard("1B.4")
}

/// Threads retrieve the files of a session at the same time. Each file is retrieved by two of them, which
/// get the same one.
fn several_at_once() -> Case {
    const NAME: &str = "several-files-at-once";
    const FILES: u64 = 8;
    let pattern = |token: u64| Pattern::new(700 + token, 4 * MIB + token * 100);
    Case::two(
        "several_files_at_once",
        move |stage| {
            let session = create(NAME)?;
            for token in 0..FILES {
                session.preserve(memfd::with(pattern(token))?, token)?;
            }
            stage.hold(session);
            Ok(())
        },
        move |_| {
            let session = retrieve(NAME)?;
            let work = |from: u64| -> io::Result<Vec<(u64, File)>> {
                let tokens = (0..FILES).map(|token| (token * 3 + from * 2) % FILES);
                let mut tokens: Vec<u64> = tokens.collect();
                tokens.truncate(FILES as usize / 2);
                let retrieve = |token| Ok((token, File::from(session.retrieve(token)?)));
                tokens.into_iter().map(retrieve).collect()
            };
            let results: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|from| scope.spawn(move || work(from))).collect();
                threads.into_iter().map(|thread| thread.join()).collect()
            });
            let mut found = vec![0; FILES as usize];
            for result in results {
                let files = result.map_err(|_| Failure::new("a thread has panicked"))?;
                for (token, file) in files.at("RETRIEVE_FD")? {
                    memfd::check(file.into(), pattern(token))?;
                    found[token as usize] += 1;
                }
            }
            ensure_eq!(
                found,
                vec![2; FILES as usize],
                "how often each was retrieved"
            );
            Ok(session.finish()?)
        },
    )
}

/// The suite.
pub fn suite() -> Suite {
    let cases = vec![
        cgroup_limit(),
        overcommit(),
        file_max(),
        finish_frees("finish_frees", "retrieve-free", false),
        finish_frees("finish_frees_after_an_error", "retrieve-free-error", true),
        every_allocation(),
        page_cache_nodes(),
        name(),
        several_at_once(),
    ];
    Suite::new("retrieve", cases)
}
