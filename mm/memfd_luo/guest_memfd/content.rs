// SPDX-License-Identifier: GPL-2.0

//! The content of a retrieved guest_memfd, before and while the file is created.

use super::{
    abi::{
        GuestMemfd,
        GuestMemfdSer, //
    },
    memfd_abi::{
        ArraySer,
        FolioSer,
        FormatError,
        UniformLayout, //
    },
    ops::{
        init_folio,
        NewGuestMemfd, //
    }, //
};
use crate::{
    incoming::{
        folio_pages,
        Kind, //
    },
    ops::HeldFolios, //
};
use kernel::{
    fs::File,
    kho::{
        list::ClaimedList,
        ClaimedFolio, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// Memory of guests.
pub(crate) enum GuestMemory {}

/// Claimed folios with a valid position in the file. Dropping this frees them.
pub(crate) struct Content {
    folios: ClaimedList,
    layout: UniformLayout,
}

impl Kind for GuestMemory {
    type Ser = GuestMemfdSer;
    type Checked = GuestMemfd;
    type Content = Content;
    /// The file of the VM.
    type Context = ARef<File>;

    /// VFIO does not map such memory.
    fn is_dma_target(_ser: &GuestMemfdSer) -> bool {
        false
    }

    fn parse(ser: &GuestMemfdSer) -> Result<GuestMemfd, FormatError> {
        GuestMemfd::parse(ser)
    }

    fn folios(ser: &GuestMemfdSer) -> (ArraySer, u64) {
        (ser.folios, ser.nr_folios.min(ser.folios.capacity()))
    }

    fn content(memfd: &GuestMemfd) -> Content {
        Content {
            folios: ClaimedList::new(),
            layout: memfd.layout(),
        }
    }

    fn add(content: &mut Content, entry: FolioSer, folio: Option<ClaimedFolio>) -> Result {
        let Some(record) = entry.parse()? else {
            return Ok(());
        };
        let mut folio = folio.ok_or(EINVAL)?;
        content.layout.admit(&record, folio_pages(&folio))?;
        init_folio(&mut folio, record.index);
        content.folios.push(folio);
        Ok(())
    }

    fn make(
        memfd: &GuestMemfd,
        content: Content,
        vm: &ARef<File>,
    ) -> Result<(ARef<File>, HeldFolios), (Error, Content)> {
        let Content { folios, layout } = content;
        match NewGuestMemfd::new(vm, memfd.size, memfd.flags) {
            Ok(file) => file.fill(folios),
            Err(err) => Err((err, folios)),
        }
        .map(|file| (file, HeldFolios::none()))
        .map_err(|(err, folios)| (err, Content { folios, layout }))
    }
}
