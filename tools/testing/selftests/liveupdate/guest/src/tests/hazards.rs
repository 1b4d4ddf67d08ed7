// SPDX-License-Identifier: GPL-2.0

//! What the implementation in C of Linux 7.3 gets wrong.
//!
//! Cases say by these numbers what they are about, see [`crate::support::registry::Case::hazard`]. A letter
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
    /// In another way, or not at all: which one, or why.
    Otherwise(&'static str),
}

use By::{Cases, Otherwise};

const DOCUMENTED: By = Otherwise("a matter of documentation");

/// The number of a weakness, what C does, and how that is shown.
pub type Item = (&'static str, &'static str, By);

#[rustfmt::skip]
pub const ITEMS: &[Item] = &[
    // Data is lost although nobody did anything wrong.
    ("1A.1", "RETRIEVE_SESSION that cannot write its result destroys the session", Cases),
    ("1A.2", "closing an incoming session without FINISH, or the death of its agent, frees all files", Cases),
    ("1A.3", "a transient error of RETRIEVE_FD destroys the memory of the file", Cases),
    ("1A.4", "an early error of RETRIEVE_FD leaks the memory of the file until the next reboot", Cases),
    ("1A.5", "one file without a handler makes the device and all sessions unusable", Cases),
    ("1A.6", "an image that cannot take over memory is started anyway", Cases),
    ("1A.7", "a second kexec drops all incoming sessions without a word", Cases),
    ("1A.8", "seals that were added after PRESERVE_FD are lost", Cases),
    ("1A.9", "memfds made with MFD_NOEXEC_SEAL come back sealed against writing, and executable", Cases),
    ("1A.10", "PRESERVE_FD and FINISH fail after they are done, if the argument cannot be written", Cases),
    ("1A.11", "a session that cannot be finished when it is closed is stranded", Cases),
    ("1A.12", "with liveupdate=off, what was handed over stays reserved without a word", Cases),
    ("1A.13", "every kernel hands over an entry, and another version of it makes the next one panic", Cases),
    // Privileges and accounting.
    ("1B.1", "what a file is opened for, its mode and its owner are widened", Cases),
    ("1B.2", "who may only read a memfd can freeze it and fill its holes",
        Otherwise("who may only read a file cannot preserve it any more, see 1B.1; holes stay holes, see 1E.2")),
    ("1B.3", "memory is pinned without limit and without being charged", Cases),
    ("1B.4", "files that were retrieved have no name in /proc", Cases),
    ("1B.5", "a sparse memfd of 1 TiB raises a warning, and cannot be preserved", Cases),
    ("1B.6", "users can flood the kernel log, and names go there as they are", Cases),
    ("1B.8", "programs of 32 bits get ENOTTY", Cases),
    // Locks, races, lifetimes.
    ("1C.1", "a page fault that user space does not answer blocks all sessions and the kexec", Cases),
    ("1C.2", "long operations hold up the kexec, and cannot be killed", Cases),
    ("1C.3", "closing a session hangs once everything is serialized", Cases),
    ("1C.4", "user space runs on after the freeze; what it does to positions then is lost",
        Otherwise("ours does not stop user space either; everything that LUO itself offers is refused from then on, see 1C.3")),
    ("1C.5", "the count of users of shared state underflows", Cases),
    ("1C.6", "users of shared state within the kernel are counted as files", Cases),
    ("1C.7", "shared state that is registered between preserve and finish is miscounted", Cases),
    ("1C.8", "the page that describes shared state is never freed",
        Otherwise("not shown: one page for each boot, which other differences hide; ours gives it back in a late initcall")),
    ("1C.9", "debugfs shows a page that has been freed", Cases),
    ("1C.10", "memory is freed before the page allocator is complete",
        Otherwise("not shown: it takes a machine whose struct pages are initialised late, and bad luck; ours frees nothing before the late initcalls")),
    ("1C.11", "files of a kexec that failed are thawed in the wrong order", Cases),
    ("1C.12", "handlers can be unregistered twice, or while they are in use", Cases),
    ("1C.15", "an oops in a handler makes every later kexec hang", Cases),
    ("1C.16", "a task that needs a page of a file that is handed over holds up the shutdown", Cases),
    // What the previous kernel handed over is believed.
    ("1D.1", "a bad address in a list makes the boot panic", Cases),
    ("1D.2", "a bad address of a file makes RETRIEVE_FD oops", Cases),
    ("1D.3", "a wrong number of folios makes RETRIEVE_FD oops", Cases),
    ("1D.4", "any size is accepted, negative ones too", Cases),
    ("1D.5", "wrong, overlapping or unaligned indices are accepted, or destroy the file", Cases),
    ("1D.6", "a broken list of pages makes KHO leak what it had restored", Cases),
    ("1D.7", "unknown flags are ignored; unknown seals leak the memory", Cases),
    ("1D.8", "KHO ignores errors when it reserves what is preserved, which may then be overwritten", Otherwise("by a kernel whose memblock was made to fail: it stops at once")),
    ("1D.9", "KHO preserves memory that the next kernel uses for itself", Otherwise("not shown: no handler of ours preserves such memory; KHO now refuses it")),
    ("1D.10", "folios that are said to be clean are dropped under memory pressure", Cases),
    // Memory.
    ("1E.1", "memory that is known to be broken is not known to be broken after a kexec", Cases),
    ("1E.2", "holes are filled, and stay filled when the preservation is taken back", Cases),
    ("1E.4", "memory policies, locks, attributes and memory beyond the end are dropped without a word",
        Otherwise("the page about memfds lists what is not preserved; owner and mode are refused, see 1B.1")),
    ("1E.5", "pages that nobody wrote to become dirty", Otherwise("what a C kernel reads has to have all its flags")),
    ("1E.6", "a file that was retrieved cannot be preserved before FINISH", Cases),
    // The documentation says otherwise.
    ("3.1", "unknown ioctls get EINVAL, or EFAULT, instead of ENOTTY; so does isatty()", Cases),
    ("3.2", "errors mean several things; a session that is in use is reported as EINVAL", Cases),
    ("3.3", "a name without an end is not refused by RETRIEVE_SESSION", Cases),
    ("3.4", "the numbers of the ioctls of sessions are not reserved", DOCUMENTED),
    ("3.5", "\"only one process\" is one open file, which several processes may share", DOCUMENTED),
    ("3.6", "comments say what the code does not do", DOCUMENTED),
    ("3.7", "the page about memfds says what the code does not do", DOCUMENTED),
    ("3.8", "shared state is said to hold a reference to its module", Otherwise("in Rust, registrations cannot outlive their module")),
    ("3.9", "no test meets an error", Otherwise("all of the above")),
    // Errors that nobody can see.
    ("4.1", "fdinfo of a session says nothing", Cases),
    ("4.2", "nothing lists sessions, hence nobody notices those that are forgotten", Cases),
    ("4.6", "nothing tells an error that will pass from one that will not, or which file is concerned", Cases),
];

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
