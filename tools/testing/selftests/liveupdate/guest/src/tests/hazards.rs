// SPDX-License-Identifier: GPL-2.0

//! Faults of the implementation in C of Linux 7.3.
//!
//! Cases refer to items by these numbers, see [`crate::support::registry::Case::hazard`]. A letter
//! may follow, for a part of an item.

pub mod compat;
pub mod entry;
pub mod log;
pub mod strange;

use crate::support::json;

/// How an item is shown.
#[derive(Clone, Copy)]
pub enum By {
    /// By cases that name it.
    Cases,
    /// In another way, or not at all: the way, or the reason.
    Otherwise(&'static str),
}

use By::{Cases, Otherwise};

const DOCUMENTED: By = Otherwise("a matter of documentation");

/// The number of a fault, the behaviour of C, and how it is shown.
pub type Item = (&'static str, &'static str, By);

#[rustfmt::skip]
pub const ITEMS: &[Item] = &[
    // Loss of data.
    ("1A.1", "RETRIEVE_SESSION that cannot write its result destroys the session", Cases),
    ("1A.2", "closing an incoming session without FINISH, or the death of its agent, frees all files", Cases),
    ("1A.3", "a transient error of RETRIEVE_FD destroys the memory of the file", Cases),
    ("1A.4", "an early error of RETRIEVE_FD leaks the memory of the file until the next reboot", Cases),
    ("1A.5", "one file without a handler makes the device and all sessions unusable", Cases),
    ("1A.6", "an image that cannot take over memory is started anyway", Cases),
    ("1A.7", "a second kexec silently drops all incoming sessions", Cases),
    ("1A.8", "seals that were added after PRESERVE_FD are lost", Cases),
    ("1A.9", "memfds made with MFD_NOEXEC_SEAL come back sealed against writing, and executable", Cases),
    ("1A.10", "PRESERVE_FD and FINISH fail after they are done, if the argument cannot be written", Cases),
    ("1A.11", "a session that cannot be finished when it is closed is stranded", Cases),
    ("1A.12", "with liveupdate=off, handed over memory silently stays reserved", Cases),
    ("1A.13", "every kernel hands over an entry, and an unknown version of it makes the next kernel panic", Cases),
    ("1A.14", "a kexec_file_load() that fails leaks contiguous memory",
        Otherwise("see 5.16; the kernel of these tests has no CMA, so that C cannot show it")),
    ("1A.15", "arm64: an image of which only a part is in place is not cleaned to the point of coherency",
        Otherwise("not shown: the caches of emulated machines are always coherent")),
    // Privileges and accounting.
    ("1B.1", "a retrieved file has more access rights than the original", Cases),
    ("1B.2", "a read-only descriptor suffices to freeze a memfd and to fill its holes",
        Otherwise("files that are open read-only are refused, see 1B.1; holes stay holes, see 1E.2")),
    ("1B.3", "pinned memory is neither limited nor charged", Cases),
    ("1B.4", "retrieved files have no name in /proc", Cases),
    ("1B.5", "a sparse memfd of 1 TiB raises a warning, and cannot be preserved", Cases),
    ("1B.6", "users can flood the kernel log, and names are logged without escaping", Cases),
    ("1B.8", "programs of 32 bits get ENOTTY", Cases),
    // Locks, races, lifetimes.
    ("1C.1", "a page fault that user space does not answer blocks all sessions and the kexec", Cases),
    ("1C.2", "long operations delay the kexec, and cannot be killed", Cases),
    ("1C.3", "closing a session hangs once everything is serialized", Cases),
    ("1C.4", "user space continues after the freeze; its changes of positions are lost",
        Otherwise("ours does not stop user space either; all ioctls of LUO fail from then on, see 1C.3")),
    ("1C.5", "the count of users of shared state underflows", Cases),
    ("1C.6", "users of shared state within the kernel are counted as files", Cases),
    ("1C.7", "shared state that is registered between preserve and finish is miscounted", Cases),
    ("1C.8", "the page that describes shared state is never freed",
        Otherwise("not shown: one page for each boot, which other differences hide; ours frees it in a late initcall")),
    ("1C.9", "debugfs shows a page that has been freed", Cases),
    ("1C.10", "memory is freed before the page allocator is complete",
        Otherwise("not shown: needs a machine with deferred initialisation of struct pages, and a race; ours frees nothing before the late initcalls")),
    ("1C.11", "files of a failed kexec are unfrozen in the wrong order", Cases),
    ("1C.12", "handlers can be unregistered twice, or while they are in use", Cases),
    ("1C.15", "an oops in a handler makes every later kexec hang", Cases),
    ("1C.16", "a task that waits for a page of a handed over file blocks the shutdown", Cases),
    // Data of the previous kernel is not checked.
    ("1D.1", "a bad address in a list makes the boot panic", Cases),
    ("1D.2", "a bad address of a file makes RETRIEVE_FD oops", Cases),
    ("1D.3", "a wrong number of folios makes RETRIEVE_FD oops", Cases),
    ("1D.4", "any size is accepted, including negative ones", Cases),
    ("1D.5", "wrong, overlapping or unaligned indices are accepted, or destroy the file", Cases),
    ("1D.6", "a broken list of pages makes KHO leak what it had restored", Cases),
    ("1D.7", "unknown flags are ignored; unknown seals leak the memory", Cases),
    ("1D.8", "KHO ignores errors when it reserves preserved memory, which may then be overwritten", Otherwise("tested with a kernel whose memblock fails: it stops immediately")),
    ("1D.9", "KHO preserves memory that the next kernel uses for itself", Otherwise("not shown: no handler preserves such memory; KHO now refuses it")),
    ("1D.10", "folios that are recorded as clean are dropped under memory pressure", Cases),
    // Memory.
    ("1E.1", "bad memory is not known to be bad after a kexec", Cases),
    ("1E.2", "holes are filled, and stay filled when the file is unpreserved", Cases),
    ("1E.4", "memory policies, locks, attributes and memory beyond the end are silently dropped",
        Otherwise("the page about memfds lists the properties that are not preserved; other owners and modes are refused, see 1B.1")),
    ("1E.5", "unwritten pages become dirty", Otherwise("a C kernel requires all flags")),
    ("1E.6", "a retrieved file cannot be preserved before FINISH", Cases),
    ("1E.7", "writes are lost to pages that became one large page while they were being pinned", Cases),
    // Differences from the documentation.
    ("3.1", "unknown ioctls get EINVAL, or EFAULT, instead of ENOTTY; so does isatty()", Cases),
    ("3.2", "errors mean several things; a session that is in use is reported as EINVAL", Cases),
    ("3.3", "an unterminated name is not refused by RETRIEVE_SESSION", Cases),
    ("3.4", "the numbers of the ioctls of sessions are not reserved", DOCUMENTED),
    ("3.5", "\"only one process\" is one open file, which several processes may share", DOCUMENTED),
    ("3.6", "comments differ from the code", DOCUMENTED),
    ("3.7", "the page about memfds differs from the code", DOCUMENTED),
    ("3.8", "shared state is said to hold a reference to its module", Otherwise("in Rust, registrations cannot outlive their module")),
    ("3.9", "no test covers errors", Otherwise("all of the above")),
    // Missing reports.
    ("4.1", "fdinfo of a session has no information", Cases),
    ("4.2", "there is no list of sessions, so that forgotten ones stay unnoticed", Cases),
    ("4.6", "temporary errors cannot be distinguished from permanent ones, and the file is not known", Cases),
    // Faults of earlier versions of this implementation, most of which C does not have.
    ("5.1", "every process that shares a file can abort all kexecs: by the mode, the flags, or use of a page", Cases),
    ("5.2", "a file that cannot be frozen always aborts the kexec", Cases),
    ("5.3", "two FLBs of one name get the object of each other", Otherwise("KUnit suite `luo_flb`")),
    ("5.4", "a task that waits for a handed over file can miss that the kexec has failed",
        Otherwise("not shown: a barrier was missing, which clear_and_wake_up_bit() contains")),
    ("5.5", "memory is counted for tasks that did not ask for it, or that have no limit", Cases),
    ("5.6", "PRESERVE_FD and kexecs wait for tasks that write to a file", Cases),
    ("5.7", "a kexec drops data that this kernel could not read", Cases),
    ("5.8", "a session with the name of an unfinished one aborts all later kexecs", Cases),
    ("5.9", "some configurations cannot be built", Otherwise("`make test ONLY=configs`")),
    ("5.10", "the payload of an image is relocated without regard to its format", Cases),
    ("5.11", "the physical address of the kernel is not random",
        Otherwise("it is not, within the scratch area: patches/kexec/x86-vmlinux.patch says why")),
    ("5.12", "updates without sessions are not counted", Cases),
    ("5.13", "reading a list changes what is carried over; memory without an owner is carried over forever", Cases),
    ("5.14", "a failure of KHO unpreserves memory of others", Cases),
    ("5.15", "a timer period of the previous kernel is not checked", Cases),
    ("5.16", "an image that cannot be loaded keeps its memory", Cases),
    ("5.17", "an unknown format in place of the version makes a kernel panic, or lose memory", Cases),
    ("5.18", "PRESERVE_FD kills tasks if there is no memory to move a file to", Cases),
];

/// Why C does not fail in the cases of items 5.
pub mod not_in_c {
    pub const NOT_CHECKED: &str = "C does not check this again before the kexec";
    pub const FILLED: &str = "C fills all holes at PRESERVE_FD";
    pub const NO_POLICY: &str = "C has no policies: it always aborts the kexec";
    pub const NOT_COUNTED: &str = "C does not count locked memory, see 1B.3";
    pub const IN_LINE: &str = "C queues with all sessions locked, see 1C.2";
    pub const BOOT_CODE: &str = "C starts all images by their boot code";
    pub const COUNTS: &str = "C counts all updates, since it always hands over an entry, see 1A.13";
    pub const NO_BATCHES: &str = "C has no batches, and no device to test them";
    pub const NO_TIMERS: &str = "C measures all timers again";
    pub const NOT_IN_PLACE: &str =
        "C loads images in place only with CMA, which this kernel does not have";
}

/// Prints all items as JSON.
pub fn list() {
    let items: Vec<_> = ITEMS
        .iter()
        .map(|(item, what, by)| {
            let otherwise = match by {
                Cases => "null".into(),
                Otherwise(how) => json::string(how),
            };
            format!(
                "  {{\"item\": {}, \"what\": {}, \"otherwise\": {otherwise}}}",
                json::string(item),
                json::string(what)
            )
        })
        .collect();
    println!("[\n{}\n]", items.join(",\n"));
}
