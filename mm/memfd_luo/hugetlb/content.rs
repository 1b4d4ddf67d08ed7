// SPDX-License-Identifier: GPL-2.0

//! The content of a retrieved file of huge pages, before and while the file is created.

use super::{
    abi::{
        parse_entry,
        HugetlbMemfd,
        HugetlbMemfdSer, //
    },
    checkpoint,
    memfd_abi::{
        ArraySer,
        FolioSer,
        FormatError,
        UniformLayout, //
    },
    ops::{
        self,
        HugePage,
        NewHugetlb, //
    }, //
};
use crate::{
    incoming::{
        folio_pages,
        Kind,
        NAME, //
    },
    ops::HeldFolios, //
};
use kernel::{
    fs::File,
    kho::ClaimedFolio,
    prelude::*,
    sync::aref::ARef, //
};

/// Memfds of huge pages.
pub(crate) enum HugePages {}

/// Claimed pages with a valid position in the file. Dropping this returns them to the pool.
pub(crate) struct Content {
    pages: KVVec<HugePage>,
    layout: UniformLayout,
}

impl Content {
    /// Checks an entry and the order of its folio.
    fn admit(&mut self, entry: FolioSer, folio: &ClaimedFolio) -> Result<u64> {
        let record = parse_entry(&entry)?;
        self.layout.admit(&record, folio_pages(folio))?;
        Ok(record.index)
    }
}

impl Kind for HugePages {
    type Ser = HugetlbMemfdSer;
    type Checked = HugetlbMemfd;
    type Content = Content;
    type Context = ();

    fn is_dma_target(ser: &HugetlbMemfdSer) -> bool {
        ser.is_dma_target()
    }

    fn parse(ser: &HugetlbMemfdSer) -> Result<HugetlbMemfd, FormatError> {
        let memfd = HugetlbMemfd::parse(ser)?;
        if ops::has_pages_of(memfd.order) {
            Ok(memfd)
        } else {
            Err(FormatError::UnknownOrder)
        }
    }

    fn folios(ser: &HugetlbMemfdSer) -> (ArraySer, u64) {
        (ser.folios, ser.nr_folios.min(ser.folios.capacity()))
    }

    fn content(memfd: &HugetlbMemfd) -> Content {
        Content {
            pages: KVVec::new(),
            layout: memfd.layout(),
        }
    }

    fn reserve(content: &mut Content, more: usize) -> Result {
        Ok(content.pages.reserve(more, GFP_KERNEL)?)
    }

    fn add(content: &mut Content, entry: FolioSer, folio: Option<ClaimedFolio>) -> Result {
        let folio = folio.ok_or(EINVAL)?;
        match content.admit(entry, &folio) {
            Ok(index) => {
                let page = HugePage::new(folio, index)?;
                content.pages.push_within_capacity(page).map_err(|_| ENOMEM)
            }
            Err(err) => {
                Self::discard(folio);
                Err(err)
            }
        }
    }

    fn make(
        memfd: &HugetlbMemfd,
        content: Content,
        _context: &(),
    ) -> Result<(ARef<File>, HeldFolios), (Error, Content)> {
        let Content { pages, layout } = content;
        let empty = || {
            let mut file = NewHugetlb::new(NAME, memfd.order)?;
            file.set_size(memfd.size)?;
            file.set_pos(memfd.pos)?;
            file.set_permissions(memfd.seals.mode());
            file.set_seals(memfd.seals.bits())?;
            Ok(file)
        };
        match empty() {
            Ok(file) => file.fill(pages, memfd.dma_target, checkpoint),
            Err(err) => Err((err, pages)),
        }
        .map_err(|(err, pages)| (err, Content { pages, layout }))
    }

    /// Returns the folio to the pool, if there is one for its size.
    fn discard(folio: ClaimedFolio) {
        drop(HugePage::new(folio, 0));
    }
}
