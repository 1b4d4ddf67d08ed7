// SPDX-License-Identifier: GPL-2.0

//! The memory of a guest: its memory backends are replaced by files that luo-qemu holds as well.

use crate::hugepages::HugePages;
use crate::options::{self, Properties};
use crate::size;
use serde::{Deserialize, Serialize};
use std::{fs::File, os::fd::RawFd};

/// The name of the backend that is added if the arguments have none.
const ADDED: &str = "luo-ram";
/// The default size of QEMU, in bytes.
const DEFAULT_SIZE: u64 = 128 << 20;
/// What QEMU aligns memory to, so that the kernel can make it of huge pages, in bytes.
const ALIGNMENT: u64 = 2 << 20;
/// Properties of memory backends about the location of the memory, which luo-qemu sets.
const OURS: [&str; 11] = [
    "share",
    "mem-path",
    "seal",
    "hugetlb",
    "hugetlbsize",
    "align",
    "pmem",
    "readonly",
    "rom",
    "discard-data",
    "offset",
];

/// Memory of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name in QEMU.
    pub id: String,
    /// In bytes.
    pub size: u64,
    /// The huge pages of which it is made, or else the usual pages of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<HugePages>,
}

impl Backend {
    /// Returns a file with its memory.
    ///
    /// # Errors
    ///
    /// If the file has another size.
    pub fn checked(&self, file: File) -> liveupdate::luod::Result<File> {
        if file.metadata()?.len() != self.size {
            return Err(format!("the memory {} has another size", self.id).into());
        }
        Ok(file)
    }
}

/// Errors in the arguments about memory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A size is malformed.
    #[error("the size {0:?} is malformed; write it like 512M or 4G")]
    Size(String),
    /// A backend of a kind that cannot be handed over.
    #[error(
        "the memory backend {id} is {what}, which cannot be handed over; use memory-backend-memfd"
    )]
    Kind {
        /// Its name.
        id: String,
        /// The problem.
        what: &'static str,
    },
    /// Huge pages of a size that cannot be handed over.
    #[error("the memory backend {id} has huge pages of {size}, which are not preserved in a live update: set hugetlbsize=2M or 1G")]
    Pages {
        /// Its name.
        id: String,
        /// As given.
        size: String,
    },
    /// A part of a huge page.
    #[error("the size of the memory {id}, {size} bytes, is not a multiple of its huge pages of {pages}: make it one")]
    Part {
        /// The name of its backend.
        id: String,
        /// In bytes.
        size: u64,
        /// Of which it is to be made.
        pages: HugePages,
    },
    /// A requested backend does not exist.
    #[error(
        "there is no memory backend {0} among the arguments (-object memory-backend-...,id={0})"
    )]
    Missing(String),
    /// A backend without a name or a size.
    #[error("a memory backend has no id or no size: {0}")]
    Incomplete(String),
    /// Memory by the old option.
    #[error("-mem-path and -mem-prealloc are not supported; luo-qemu creates the memory itself")]
    Legacy,
}

fn is_backend(object: &Properties) -> bool {
    object
        .get("qom-type")
        .is_some_and(|kind| kind.starts_with("memory-backend-"))
}

/// The memory of a guest with the arguments `args`.
///
/// # Errors
///
/// See [`Error`]. `only` are the backends to hand over, or all if it is empty; `memory` is the
/// size of the memory if there is no backend and `-m` does not set it. The memory is made of huge
/// `pages`, if there are any, unless a backend says `hugetlb=on`.
pub fn backends(
    args: &[String],
    only: &[String],
    memory: Option<u64>,
    pages: Option<HugePages>,
) -> Result<Vec<Backend>, Error> {
    if options::options(args).any(|o| ["mem-path", "mem-prealloc"].contains(&o.name)) {
        return Err(Error::Legacy);
    }
    let mut found = Vec::new();
    for (_, object) in options::all(args, &["object"], "qom-type") {
        if !is_backend(&object) {
            continue;
        }
        let (Some(id), Some(bytes)) = (object.get("id"), object.get("size")) else {
            return Err(Error::Incomplete(object.to_text("qom-type")));
        };
        if !only.is_empty() && !only.iter().any(|wanted| wanted == id) {
            continue;
        }
        let kind = |what| Error::Kind {
            id: id.to_owned(),
            what,
        };
        match object.get("qom-type") {
            Some("memory-backend-epc") => return Err(kind("SGX memory")),
            Some("memory-backend-shm") => return Err(kind("POSIX shared memory")),
            _ if object
                .get("mem-path")
                .is_some_and(|p| p.contains("hugepages")) =>
            {
                return Err(kind("a file of hugetlbfs"));
            }
            _ => {}
        }
        let size = size::parse(bytes, 1).ok_or_else(|| Error::Size(bytes.to_owned()))?;
        let pages = match object.is_on("hugetlb") {
            true => Some(own_pages(&object, id)?),
            false => pages,
        };
        found.push(Backend {
            id: id.to_owned(),
            size,
            pages,
        });
    }
    if let Some(missing) = only.iter().find(|id| !found.iter().any(|b| &b.id == *id)) {
        return Err(Error::Missing(missing.clone()));
    }
    if found.is_empty() {
        let mut size = memory.unwrap_or(DEFAULT_SIZE);
        for (_, given) in options::all(args, &["m"], "size") {
            if let Some(text) = given.get("size") {
                size = size::parse(text, 1 << 20).ok_or_else(|| Error::Size(text.to_owned()))?;
            }
        }
        found.push(Backend {
            id: ADDED.to_owned(),
            size,
            pages,
        });
    }
    for backend in &found {
        let part = |pages: &HugePages| backend.size % pages.size() != 0;
        if let Some(pages) = backend.pages.filter(part) {
            return Err(Error::Part {
                id: backend.id.clone(),
                size: backend.size,
                pages,
            });
        }
    }
    Ok(found)
}

/// The huge pages of a backend with `hugetlb=on`.
fn own_pages(object: &Properties, id: &str) -> Result<HugePages, Error> {
    // The default of x86-64.
    let text = object.get("hugetlbsize").unwrap_or("2M");
    let pages = size::parse(text, 1).and_then(HugePages::of_size);
    pages.ok_or_else(|| Error::Pages {
        id: id.to_owned(),
        size: text.to_owned(),
    })
}

/// Returns the arguments `args` with the memory `backends` in the files `fds`. Unless these are
/// `filled`, QEMU allocates all huge pages before the guest runs, on the nodes that the arguments
/// name: while a file is preserved, its holes cannot be filled.
pub fn arguments(args: &[String], backends: &[(Backend, RawFd)], filled: bool) -> Vec<String> {
    let mut changed = args.to_vec();
    let place = |object: &mut Properties, backend: &Backend, fd: RawFd| {
        let fill = !filled && backend.pages.is_some();
        object.retain(|key| {
            !OURS.contains(&key) && key != "qom-type" && (key != "prealloc" || !(filled || fill))
        });
        object.push("qom-type", "memory-backend-file");
        object.push("mem-path", format!("/proc/self/fd/{fd}"));
        object.push("share", "on");
        if fill {
            object.push("prealloc", "on");
        }
        // Files of huge pages are aligned anyway.
        if backend.pages.is_none() && backend.size >= ALIGNMENT {
            object.push("align", ALIGNMENT);
        }
    };
    let mut added = None;
    for (backend, fd) in backends {
        let given = options::all(args, &["object"], "qom-type")
            .find(|(_, object)| is_backend(object) && object.get("id") == Some(&backend.id));
        match given {
            Some((at, mut object)) => {
                place(&mut object, backend, *fd);
                if let Some(arg) = changed.get_mut(at) {
                    *arg = object.to_text("qom-type");
                }
            }
            None => added = Some((backend, *fd)),
        }
    }
    if let Some((backend, fd)) = added {
        let mut object = Properties::default();
        object.push("id", &backend.id);
        object.push("size", backend.size);
        place(&mut object, backend, fd);
        changed.extend(["-object".to_owned(), object.to_text("qom-type")]);
        changed.extend([
            "-machine".to_owned(),
            format!("memory-backend={}", backend.id),
        ]);
        if !options::options(args).any(|option| option.name == "m") {
            changed.extend(["-m".to_owned(), format!("size={}b", backend.size)]);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn memory_is_added() {
        let args = words("-machine q35 -m 1G");
        let found = backends(&args, &[], None, None).unwrap();
        assert_eq!(
            found,
            [Backend {
                id: "luo-ram".into(),
                size: 1 << 30,
                pages: None,
            }]
        );
        let changed = arguments(&args, &[(found[0].clone(), 7)], false).join(" ");
        assert_eq!(
            changed,
            "-machine q35 -m 1G -object memory-backend-file,id=luo-ram,size=1073741824,\
             mem-path=/proc/self/fd/7,share=on,align=2097152 -machine memory-backend=luo-ram"
        );
        assert_eq!(
            backends(&[], &[], None, None).unwrap()[0].size,
            DEFAULT_SIZE
        );
        assert_eq!(
            backends(&[], &[], Some(1 << 28), None).unwrap()[0].size,
            1 << 28
        );
    }

    #[test]
    fn backends_are_replaced() {
        let args = words(
            "-m 2G -object memory-backend-ram,id=a,size=1G,host-nodes=0,policy=bind \
             -object memory-backend-memfd,id=b,size=1G,seal=on -numa node,memdev=a \
             -numa node,memdev=b -object rng-random,id=r",
        );
        let found = backends(&args, &[], None, None).unwrap();
        assert_eq!(found.len(), 2);
        let fds = found.into_iter().zip([5, 6]).collect::<Vec<_>>();
        let changed = arguments(&args, &fds, false).join(" ");
        assert!(changed.contains(
            "memory-backend-file,id=a,size=1G,host-nodes=0,policy=bind,\
             mem-path=/proc/self/fd/5,share=on,align=2097152"
        ));
        assert!(changed.contains("memory-backend-file,id=b,size=1G,mem-path=/proc/self/fd/6"));
        assert!(!changed.contains("luo-ram"));
    }

    #[test]
    fn qemu_fills_huge_pages_once() {
        let args = words(
            "-object memory-backend-ram,id=a,size=1G,prealloc=off \
             -object memory-backend-ram,id=b,size=1G,prealloc=on",
        );
        let changed = |pages, filled| {
            let found = backends(&args, &[], None, pages).unwrap();
            let fds = found.into_iter().zip([5, 6]).collect::<Vec<_>>();
            let changed = arguments(&args, &fds, filled);
            ["prealloc=on", "prealloc=off"]
                .map(|text| changed.iter().filter(|arg| arg.contains(text)).count())
        };
        let two = Some(HugePages::TwoMib);
        assert_eq!(changed(two, false), [2, 0]);
        assert_eq!(changed(two, true), [0, 0]);
        // Other memory is filled if the arguments request it.
        assert_eq!(changed(None, false), [1, 1]);
        assert_eq!(changed(None, true), [0, 0]);
        let added = backends(&[], &[], None, two).unwrap();
        let added = arguments(&[], &[(added[0].clone(), 7)], false).join(" ");
        assert!(
            added.contains("mem-path=/proc/self/fd/7,share=on,prealloc=on"),
            "{added}"
        );
    }

    #[test]
    fn what_cannot_be_handed_over_is_refused() {
        let file = words("-object memory-backend-file,id=a,size=1G,mem-path=/dev/hugepages/a");
        assert!(matches!(
            backends(&file, &[], None, None),
            Err(Error::Kind { .. })
        ));
        let none = backends(&words("-m 1G"), &["x".to_owned()], None, None);
        assert_eq!(none, Err(Error::Missing("x".to_owned())));
        let legacy = backends(&words("-mem-path /dev/shm"), &[], None, None);
        assert_eq!(legacy, Err(Error::Legacy));
        assert!(matches!(
            backends(&words("-m lots"), &[], None, None),
            Err(Error::Size(_))
        ));
    }

    #[test]
    fn huge_pages_are_those_of_the_backend_or_of_all() {
        let two = Some(HugePages::TwoMib);
        let pages = |text: &str| {
            let found = backends(&words(text), &[], None, two);
            found.map(|all| all.iter().map(|b| b.pages).collect::<Vec<_>>())
        };
        assert_eq!(pages("-m 1G"), Ok(vec![two]));
        let both = "-object memory-backend-ram,id=a,size=1G \
                    -object memory-backend-memfd,id=b,size=1G,hugetlb=on,hugetlbsize=2M";
        assert_eq!(pages(both), Ok(vec![two, two]));
        let own = |bytes: &str, size: &str| {
            pages(&format!(
                "-object memory-backend-memfd,id=b,size={bytes},hugetlb=on,hugetlbsize={size}"
            ))
        };
        assert_eq!(own("2G", "1G"), Ok(vec![Some(HugePages::OneGib)]));
        assert!(matches!(own("1G", "16M"), Err(Error::Pages { .. })));
        assert!(matches!(own("1536M", "1G"), Err(Error::Part { .. })));
        assert!(matches!(pages("-m 1023k"), Err(Error::Part { .. })));
    }
}
