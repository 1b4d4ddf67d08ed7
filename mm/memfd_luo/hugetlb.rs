// SPDX-License-Identifier: GPL-2.0

//! Preservation of memfds of huge pages (`MFD_HUGETLB`).
//!
//! Content, size, position, seals and execute permission are preserved, as for other memfds. While it is
//! preserved, a file can be read and written, but its size and its holes do not change: a page fault at a
//! hole fails. Its pages are pinned.
//!
//! The pages of all files are counted, for each size and node, in an FLB. The next kernel counts them
//! as pages of its huge-page pool from the beginning, so that the pool gets exactly the size on the
//! command line, and is distributed over the nodes as it would be without them. Pages of files that
//! are not retrieved return to the pool.
//!
//! Pages of all sizes are preserved, also those of 1 GiB: Kexec Handover keeps each as one folio.
//! At boot, a kernel allocates pages of this size before its page allocator works, and therefore
//! reads the counts even earlier.
//!
//! Not supported: pages that have bad memory at PRESERVE_FD.
//!
//! | module      | subject                                            |
//! |-------------|----------------------------------------------------|
//! | [`abi`]     | the format of handed over data, and its checks     |
//! | [`content`] | files in the next kernel                           |
//! | [`ops`]     | hugetlb; the only `unsafe` code                    |

use super::{
    abi as memfd_abi,
    check_expressible,
    checkpoint::checkpoint,
    incoming::{
        understands,
        Incoming, //
    },
    ops::PinnedRecords,
    pages::{
        next_page,
        pin_folios,
        BATCH, //
    }, //
};
use kernel::{
    bindings,
    fs::{
        inode::Inode,
        File, //
    },
    kho::Claimed,
    liveupdate::{
        flb::{
            Flb,
            Instance,
            OutgoingRef, //
        },
        session::{
            IncomingSession,
            OutgoingSession, //
        },
        FileHandler,
        Origin,
        RetrieveError, //
    },
    mm::{
        folio::{
            PinBatch,
            PinnedFolio, //
        },
        memfd, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

#[path = "hugetlb/abi.rs"]
mod abi;
#[path = "hugetlb/content.rs"]
mod content;
#[cfg(CONFIG_LIVEUPDATE_KUNIT_TEST)]
#[path = "hugetlb/kunit.rs"]
mod kunit;
#[path = "hugetlb/ops.rs"]
mod ops;

use self::{
    abi::{
        CountSer,
        HugetlbMemfdSer,
        HugetlbSer,
        Kind, //
    },
    content::HugePages,
    ops::{
        Frozen,
        HandedOver,
        HugetlbFile, //
    }, //
};
use memfd_abi::Seals;

/// The layout of the structures is the same as in C.
mod layout {
    use super::*;
    use core::mem::offset_of;

    use bindings::hugetlb_memfd_luo_ser as Theirs;

    static_assert!(size_of::<HugetlbMemfdSer>() == size_of::<Theirs>());
    static_assert!(offset_of!(HugetlbMemfdSer, pos) == offset_of!(Theirs, pos));
    static_assert!(offset_of!(HugetlbMemfdSer, size) == offset_of!(Theirs, size));
    static_assert!(offset_of!(HugetlbMemfdSer, seals) == offset_of!(Theirs, seals));
    static_assert!(offset_of!(HugetlbMemfdSer, order) == offset_of!(Theirs, order));
    static_assert!(offset_of!(HugetlbMemfdSer, flags) == offset_of!(Theirs, flags));
    static_assert!(HugetlbMemfdSer::DMA_TARGET as u32 == bindings::HUGETLB_LUO_DMA_TARGET);
    static_assert!(offset_of!(HugetlbMemfdSer, nr_folios) == offset_of!(Theirs, nr_folios));
    static_assert!(offset_of!(HugetlbMemfdSer, folios) == offset_of!(Theirs, folios));
    static_assert!(size_of::<HugetlbSer>() == size_of::<bindings::hugetlb_ser>());
    static_assert!(offset_of!(HugetlbSer, counts) == offset_of!(bindings::hugetlb_ser, counts));
    static_assert!(HugetlbSer::COUNTS == bindings::HUGETLB_SER_COUNTS as usize);
    static_assert!(size_of::<CountSer>() == size_of::<bindings::hugetlb_count_ser>());
    static_assert!(offset_of!(CountSer, node) == offset_of!(bindings::hugetlb_count_ser, node));
    static_assert!(offset_of!(CountSer, order) == offset_of!(bindings::hugetlb_count_ser, order));
}

/// The pages of all preserved files.
pub(crate) struct Pool;

pub(crate) static POOL: Instance<Pool> = Instance::new();

kernel::declare_compatible!(<Pool as Flb>::COMPATIBLE);

/// Dropped when all files of the previous kernel are finished.
pub(crate) struct Expected;

impl Drop for Expected {
    fn drop(&mut self) {
        ops::expect_no_more();
    }
}

#[vtable]
impl Flb for Pool {
    const COMPATIBLE: &'static CStr = c"hugetlb-v2";

    type Ser = HugetlbSer;
    type Outgoing = ();
    type Incoming = Expected;

    fn preserve(_ser: &mut HugetlbSer) -> Result {
        Ok(())
    }

    fn retrieve(_ser: Claimed<HugetlbSer>) -> Result<Expected> {
        Ok(Expected)
    }
}

/// Announces the pages of the previous kernel, before the pools of this one are filled. Memory
/// cannot be allocated yet.
fn expect_pages() {
    let ser = match POOL.look_at_incoming() {
        Ok(ser) => ser,
        Err(ENOENT | ENODATA | EOPNOTSUPP) => return,
        Err(err) => {
            pr_err!("the number of huge pages that the previous kernel has preserved cannot be read: {:?}\n", err);
            return;
        }
    };
    match ser.parse() {
        Ok(counts) => counts.for_each(|(kind, nr)| ops::expect(kind, nr)),
        Err(err) => pr_err!(
            "the number of preserved huge pages is malformed: {:?}\n",
            err
        ),
    };
}

/// The number of pages of a file on each node that has some of them.
#[derive(Default)]
struct Nodes(KVec<(u16, u64)>);

impl Nodes {
    /// Counts one more page on a node; [`ENOMEM`].
    fn add(&mut self, node: u16) -> Result {
        // Most pages are on the same node as the one before.
        match self.0.iter_mut().rev().find(|(other, _)| *other == node) {
            Some((_, nr)) => *nr = nr.saturating_add(1),
            None => self.0.push((node, 1), GFP_KERNEL)?,
        }
        Ok(())
    }
}

/// Pages that are counted as preserved. Dropping this removes them from the count.
///
/// # Invariants
///
/// The FLB contains the pages.
struct Counted {
    pool: OutgoingRef<Pool>,
    order: u8,
    nodes: Nodes,
}

impl Counted {
    /// Counts pages of `order`.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if files have pages of too many sizes on too many nodes.
    fn new(order: u32, mut nodes: Nodes) -> Result<Self> {
        let pool = POOL.outgoing()?;
        let order = u8::try_from(order)?;
        let added = OutgoingRef::update(&pool, |ser| {
            let added = |&&(node, nr): &&(u16, u64)| ser.add(Kind { order, node }, nr);
            nodes.0.iter().take_while(added).count()
        });
        let complete = added == nodes.0.len();
        nodes.0.truncate(added);
        // INVARIANT: Those that are left were just added.
        let counted = Self { pool, order, nodes };
        if complete {
            Ok(counted)
        } else {
            Err(EOPNOTSUPP)
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let order = self.order;
        OutgoingRef::update(&self.pool, |ser| {
            for &(node, nr) in &self.nodes.0 {
                ser.remove(Kind { order, node }, nr);
            }
        });
    }
}

/// Pins and preserves all pages of a file, and counts them. May sleep.
///
/// Pages beyond the end of the file, which `fallocate()` can allocate, are skipped.
///
/// # Errors
///
/// [`ENOMEM`] if there is no memory for the records, or to move pages that must stay movable;
/// [`EHWPOISON`] if there is bad memory, unless the file was retrieved: the file is complete except for
/// this page, and all other files could not be handed over without it; and the errors of [`checkpoint`]
/// and KHO.
fn preserve_pages(frozen: &Frozen, origin: Origin) -> Result<(PinnedRecords, Nodes)> {
    let file = frozen.file();
    let limit = file.inode().size().div_ceil(PAGE_SIZE as u64);
    let mut records = PinnedRecords::new();
    let mut nodes = Nodes::default();
    let huge_pages = limit.checked_shr(file.order()).ok_or(EINVAL)?;
    let mut batch = PinBatch::new(usize::try_from(huge_pages.min(BATCH.into()))?)?;
    let mut scratch = KVVec::new();
    let mut next = 0;
    while let Some(start) = next_page(file, next).filter(|&start| start < limit) {
        pin_folios(file, start..limit, &mut batch)?;
        let bad = |page: &PinnedFolio| page.contains_hwpoison();
        if origin == Origin::New && batch.folios().iter().any(bad) {
            return Err(EHWPOISON);
        }
        for page in batch.folios() {
            nodes.add(ops::node(page))?;
        }
        let last = batch.folios().last().ok_or(EIO)?;
        next = last.index().checked_add(last.nr_pages()).ok_or(EFBIG)?;
        records.append(&mut batch, &mut scratch)?;
    }
    Ok((records, nodes))
}

/// The handler, which the root of the crate registers.
pub(crate) struct Hugetlb;

/// The result of preparing a file to be preserved.
pub(crate) struct Prepared {
    /// The argument for [`check_expressible`].
    origin: Origin,
    frozen: Frozen,
}

/// A preserved file in this kernel. Dropping this unpreserves it.
pub(crate) struct Outgoing {
    // The order of the fields is relevant: while there are pins, the file must not change.
    handed_over: Option<HandedOver>,
    pages: PinnedRecords,
    _counted: Counted,
    frozen: Frozen,
}

impl Outgoing {
    fn describe(&self, seals: Seals) -> Result<HugetlbMemfdSer> {
        let file = self.frozen.file();
        Ok(HugetlbMemfdSer {
            pos: memfd::pos(file),
            size: file.inode().size(),
            seals: seals.bits(),
            order: u16::try_from(file.order())?,
            flags: 0,
            nr_folios: self.pages.len() as u64,
            folios: self.pages.descriptor().into(),
        })
    }
}

#[vtable]
impl FileHandler for Hugetlb {
    const COMPATIBLE: &'static CStr = c"hugetlb-memfd-v1";

    type Ser = HugetlbMemfdSer;
    type Prepared = Option<Prepared>;
    type Outgoing = Outgoing;
    type Incoming = Incoming<HugePages>;

    fn can_preserve(&self, file: &File) -> bool {
        HugetlbFile::from_file(file).is_some_and(|file| file.inode().nlink() == 0)
    }

    /// Waits for tasks that change the file.
    ///
    /// Errors: EOPNOTSUPP (not expressible), EBUSY (already frozen), EINTR (fatal signal).
    fn prepare(&self, file: &File, origin: Origin) -> Result<Option<Prepared>> {
        let file = HugetlbFile::from_file(file).ok_or(EOPNOTSUPP)?;
        // Comes first, so that a task cannot freeze a file that it must not write to.
        check_expressible(file, file.seals(), origin)?;
        Ok(Some(Prepared {
            origin,
            frozen: Frozen::new(file)?,
        }))
    }

    /// Errors: EOPNOTSUPP (not expressible), EHWPOISON (bad memory), EBUSY (a kexec waits), ENOMEM,
    /// EINTR (fatal signal).
    fn preserve(
        &self,
        _file: &File,
        prepared: &mut Option<Prepared>,
        ser: &mut HugetlbMemfdSer,
        _session: &OutgoingSession<'_>,
    ) -> Result<Outgoing> {
        let Prepared { origin, frozen } = prepared.as_ref().ok_or(EINVAL)?;
        let file = frozen.file();
        let order = file.order();
        // From now on, the mode cannot change, and the open flags are not checked again.
        let seals = check_expressible(file, file.seals(), *origin)?;
        let (pages, nodes) = preserve_pages(frozen, *origin)?;
        let counted = Counted::new(order, nodes)?;
        let Prepared { frozen, .. } = prepared.take().ok_or(EINVAL)?;
        let outgoing = Outgoing {
            handed_over: None,
            pages,
            _counted: counted,
            frozen,
        };
        *ser = outgoing.describe(seals)?;
        Ok(outgoing)
    }

    /// Saves added seals and the position. Allocates no memory.
    ///
    /// Errors: EOPNOTSUPP (unknown seals).
    fn freeze(&self, _file: &File, ser: &mut HugetlbMemfdSer, outgoing: &mut Outgoing) -> Result {
        let handed_over = HandedOver::new(&outgoing.frozen);
        let seals = Seals::parse(outgoing.frozen.file().seals())?;
        *ser = outgoing.describe(seals)?;
        outgoing.handed_over = Some(handed_over);
        Ok(())
    }

    fn set_dma_target(&self, ser: &mut HugetlbMemfdSer) {
        ser.flags |= HugetlbMemfdSer::DMA_TARGET;
    }

    fn unfreeze(&self, _file: &File, _ser: &mut HugetlbMemfdSer, outgoing: &mut Outgoing) {
        outgoing.handed_over = None;
    }

    fn understands(ser: &HugetlbMemfdSer) -> Result {
        understands::<HugePages>(ser)
    }

    fn adopt(&self, ser: Claimed<HugetlbMemfdSer>) -> Incoming<HugePages> {
        // The number of pages becomes too large with the first file that is used. Once the FLB is
        // retrieved, it is not carried over: what is left is counted again. If it is damaged, the file
        // is not.
        let _ = POOL.incoming();
        Incoming::new(ser)
    }

    fn retrieve(
        &self,
        incoming: &mut Incoming<HugePages>,
        _session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        incoming.retrieve(&())
    }

    fn file_id(file: &File) -> usize {
        Inode::from_file(file).id()
    }
}
