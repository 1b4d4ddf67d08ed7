// SPDX-License-Identifier: GPL-2.0

//! The content of a retrieved file of shmem, before and while the file is created.

use super::{
    abi::{
        ArraySer,
        FolioSer,
        FormatError,
        Layout,
        Memfd,
        MemfdSer, //
    },
    incoming::{
        folio_pages,
        Kind,
        NAME, //
    },
    ops::{
        self,
        HeldFolios, //
    }, //
};
use kernel::{
    fs::File,
    kho::{
        list::ClaimedList,
        ClaimedFolio, //
    },
    mm::memfd::NewMemfd,
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef, //
};

/// Memfds of shmem.
pub(crate) enum Shmem {}

/// Claimed folios with a valid position in the file.
pub(crate) struct Content {
    folios: ClaimedFolios,
    layout: Layout,
}

impl Kind for Shmem {
    type Ser = MemfdSer;
    type Checked = Memfd;
    type Content = Content;
    type Context = ();

    fn is_dma_target(ser: &MemfdSer) -> bool {
        ser.is_dma_target()
    }

    fn parse(ser: &MemfdSer) -> Result<Memfd, FormatError> {
        Memfd::parse(ser)
    }

    fn folios(ser: &MemfdSer) -> (ArraySer, u64) {
        (ser.folios, ser.nr_folios.min(ser.capacity()))
    }

    fn content(memfd: &Memfd) -> Content {
        Content {
            folios: ClaimedFolios::new(),
            layout: memfd.layout(),
        }
    }

    fn add(content: &mut Content, entry: FolioSer, folio: Option<ClaimedFolio>) -> Result {
        let Some(record) = entry.parse()? else {
            return Ok(());
        };
        let folio = folio.ok_or(EINVAL)?;
        content.layout.admit(record.index, folio_pages(&folio))?;
        content.folios.push(folio, record.index, record.uptodate)
    }

    fn make(
        memfd: &Memfd,
        content: Content,
        _context: &(),
    ) -> Result<(ARef<File>, HeldFolios), (Error, Content)> {
        let Content { folios, layout } = content;
        let empty = || {
            let mut file = NewMemfd::new(NAME)?;
            file.set_size(memfd.size)?;
            file.set_pos(memfd.pos)?;
            file.set_permissions(memfd.seals.mode());
            file.set_seals(memfd.seals.bits())?;
            Ok(file)
        };
        match empty() {
            Ok(mut file) => {
                let held = folios.fill(&mut file, memfd.dma_target);
                held.map(|held| (file.finish(), held))
            }
            Err(err) => Err((err, folios)),
        }
        .map_err(|(err, folios)| (err, Content { folios, layout }))
    }
}

/// Claimed folios with their positions in a file. Dropping this frees them.
///
/// # Invariants
///
/// - Each folio has its index, which is a multiple of its size.
/// - They are in the order of the file, do not overlap, and end at `next`, which is at most
///   [`Self::LIMIT`].
/// - `pages` is the sum of their sizes.
#[derive(Default)]
struct ClaimedFolios {
    list: ClaimedList,
    pages: u64,
    next: u64,
}

impl ClaimedFolios {
    /// The number of pages that a file can have.
    const LIMIT: u64 = i64::MAX as u64 >> PAGE_SHIFT;

    /// Creates the content of an empty file.
    const fn new() -> Self {
        // INVARIANT: There are no folios.
        Self {
            list: ClaimedList::new(),
            pages: 0,
            next: 0,
        }
    }

    /// Appends a folio, for the pages of the file from `index` on. If it is not `uptodate`, they
    /// read as zeroes.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `index` is no multiple of the folio's size, lies before the end of the folio
    /// that was appended last, or is too large. The folio is freed then.
    fn push(&mut self, mut folio: ClaimedFolio, index: u64, uptodate: bool) -> Result {
        // A power of two.
        let nr = (folio.size() >> PAGE_SHIFT) as u64;
        let aligned = index & nr.wrapping_sub(1) == 0;
        let end = index.checked_add(nr).filter(|&end| end <= Self::LIMIT);
        let (Some(end), true) = (end, aligned && index >= self.next) else {
            return Err(EINVAL);
        };
        ops::init_folio(&mut folio, index, uptodate);
        // INVARIANT: Just checked, and the index was just set.
        self.list.push(folio);
        self.next = end;
        // Cannot wrap: folios do not overlap.
        self.pages = self.pages.saturating_add(nr);
        Ok(())
    }

    /// Adds the folios to `file`, which must be empty, and holds those of a `dma_target`. May sleep.
    ///
    /// The memory is charged to the calling task's memory cgroup. The OOM killer is not invoked
    /// if there is not enough memory, since it would kill the task that needs the file.
    ///
    /// # Errors
    ///
    /// The errors of [`ops::fill`]. The folios are returned, and the file is empty.
    fn fill(self, file: &mut NewMemfd, dma_target: bool) -> Result<HeldFolios, (Error, Self)> {
        let Self { list, pages, next } = self;
        // INVARIANT: The list is returned unchanged.
        ops::fill(file, list, pages, dma_target)
            .map_err(|(err, list)| (err, Self { list, pages, next }))
    }
}
