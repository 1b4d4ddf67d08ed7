// SPDX-License-Identifier: GPL-2.0

//! Memfds in the next kernel.
//!
//! A file is created in two steps. First, its folios are claimed and checked. This allocates no
//! memory, can be interrupted, and is continued by the next attempt. The second step can fail
//! temporarily: it creates the file, and does its size accounting and memcg charge. If it fails,
//! the folios are unchanged, nothing is charged, and another task can try again.
//!
//! Handed over memory is claimed before it is read.

use super::{
    abi::{
        FolioSer,
        Layout,
        Memfd,
        MemfdSer, //
    },
    checkpoint::checkpoint,
    content::ClaimedFolios, //
};
use kernel::{
    fs::File,
    kho::{
        list::ClaimBatch,
        vmalloc::ClaimedArray,
        Claimed,
        ClaimedFolio,
        PhysAddr, //
    },
    liveupdate::RetrieveError,
    mm::memfd::NewMemfd,
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef, //
};

/// The name of files in the next kernel; the format does not have the original one.
const NAME: &CStr = c"memfd:luo";

/// An incoming memfd. Dropping it frees everything that was not retrieved.
pub(crate) struct Incoming {
    ser: Claimed<MemfdSer>,
    stage: Stage,
}

enum Stage {
    /// Only the description of the file has been claimed.
    Untouched,
    /// Some or all of the folios have been claimed.
    Claimed(Folios, Content),
    /// The file exists and has other owners.
    Retrieved,
    /// The file cannot be restored; its handed over memory is freed on drop.
    Broken(Error, Folios, Content),
}

impl Incoming {
    pub(crate) fn new(ser: Claimed<MemfdSer>) -> Self {
        Self {
            ser,
            stage: Stage::Untouched,
        }
    }

    /// Creates the file again.
    ///
    /// Malformed data is a permanent error; other errors are temporary.
    pub(crate) fn retrieve(&mut self) -> Result<ARef<File>, RetrieveError> {
        // Another kernel may support a flag or seal that this one does not, so that nothing is
        // claimed before these are checked.
        let memfd = match Memfd::parse(&self.ser) {
            Ok(memfd) => memfd,
            Err(err) => return Err(refused(err.into())),
        };
        let (mut folios, mut content) = match core::mem::replace(&mut self.stage, Stage::Retrieved)
        {
            Stage::Untouched => match Folios::new(&self.ser) {
                Ok(folios) => (folios, Content::new(&memfd)),
                Err(err) => {
                    self.stage = Stage::Untouched;
                    return Err(refused(err));
                }
            },
            Stage::Claimed(folios, content) => (folios, content),
            Stage::Broken(err, folios, content) => {
                self.stage = Stage::Broken(err, folios, content);
                return Err(RetrieveError::Permanent(err));
            }
            // LUO does not retrieve a file twice.
            Stage::Retrieved => return Err(RetrieveError::Permanent(EINVAL)),
        };
        if let Err(err) = folios.claim_all(&mut content) {
            self.stage = match err {
                RetrieveError::Retry(_) => Stage::Claimed(folios, content),
                RetrieveError::Permanent(err) => Stage::Broken(err, folios, content),
            };
            return Err(match err {
                RetrieveError::Permanent(err) => refused(err),
                err => err,
            });
        }
        match make(&memfd, content.folios) {
            Ok(file) => Ok(file),
            Err((err, rest)) => {
                content.folios = rest;
                self.stage = Stage::Claimed(folios, content);
                Err(RetrieveError::Retry(err))
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Stage::Untouched = &self.stage {
            if Folios::new(&self.ser).is_err() {
                pr_warn!("memory of a memfd stays reserved: its description is malformed\n");
            }
        }
    }
}

fn refused(err: Error) -> RetrieveError {
    pr_err!(
        "memfd cannot be restored: its description is malformed or unknown: {:?}\n",
        err
    );
    RetrieveError::Permanent(err)
}

/// Performs the steps that can fail temporarily, and returns `content` on failure.
fn make(memfd: &Memfd, content: ClaimedFolios) -> Result<ARef<File>, (Error, ClaimedFolios)> {
    let empty = || {
        let mut file = NewMemfd::new(NAME)?;
        file.set_size(memfd.size)?;
        file.set_pos(memfd.pos)?;
        file.set_permissions(memfd.seals.mode());
        file.set_seals(memfd.seals.bits())?;
        Ok(file)
    };
    match empty() {
        Ok(mut file) => content.fill(&mut file).map(|()| file.finish()),
        Err(err) => Err((err, content)),
    }
}

/// Claimed folios with a valid position in the file.
struct Content {
    folios: ClaimedFolios,
    layout: Layout,
}

impl Content {
    fn new(memfd: &Memfd) -> Self {
        Self {
            folios: ClaimedFolios::new(),
            layout: memfd.layout(),
        }
    }

    /// Adds a folio if its position is valid; otherwise it is freed.
    fn add(&mut self, entry: FolioSer, folio: Option<ClaimedFolio>) -> Result {
        let Some(record) = entry.parse()? else {
            return Ok(());
        };
        let folio = folio.ok_or(EINVAL)?;
        self.layout.admit(record.index, folio_pages(&folio))?;
        self.folios.push(folio, record.index, record.uptodate)
    }
}

/// Some entries, and their folios.
struct Batch {
    entries: [FolioSer; ClaimBatch::LEN],
    folios: ClaimBatch,
}

impl Batch {
    fn new() -> Self {
        Self {
            entries: [FolioSer::default(); ClaimBatch::LEN],
            folios: ClaimBatch::new(),
        }
    }
}

/// The folios that are not claimed yet. Dropping this claims and frees them.
struct Folios(ClaimedArray<FolioSer>);

impl Folios {
    /// Finds the folios of a file. Only their number must be valid.
    fn new(ser: &MemfdSer) -> Result<Self> {
        let len = ser.nr_folios.min(ser.capacity());
        Ok(Self(ClaimedArray::new(&ser.folios.into(), len)?))
    }

    /// Claims all remaining folios, checks them, and appends them to `content`.
    fn claim_all(&mut self, content: &mut Content) -> Result<(), RetrieveError> {
        let mut batch = Batch::new();
        while self.0.remaining() != 0 {
            checkpoint()?;
            let mut result = Ok(());
            self.claim_some(&mut batch, |entry, folio| {
                if result.is_ok() {
                    result = content.add(entry, folio);
                }
            })
            .and(result)
            .map_err(RetrieveError::Permanent)?;
        }
        Ok(())
    }

    /// Claims the next batch of folios, and calls `each` for each entry and its folio, if there is
    /// one.
    ///
    /// Fails with [`EINVAL`] if the next entries cannot be read.
    fn claim_some(
        &mut self,
        batch: &mut Batch,
        mut each: impl FnMut(FolioSer, Option<ClaimedFolio>),
    ) -> Result {
        let len = self.0.read(&mut batch.entries)?;
        let entries = batch.entries.iter().take(len);
        let addresses = entries
            .clone()
            .map(|entry| entry.raw_pfn().and_then(address));
        batch.folios.refill(addresses);
        for (entry, folio) in entries.zip(&mut batch.folios) {
            each(*entry, folio);
        }
        Ok(())
    }
}

impl Drop for Folios {
    fn drop(&mut self) {
        let mut lost = 0usize;
        let mut batch = Batch::new();
        while self.0.remaining() != 0 {
            let result = self.claim_some(&mut batch, |entry, folio| {
                if folio.is_none() && entry.raw_pfn().is_some() {
                    lost = lost.saturating_add(1);
                }
            });
            if let Err(err) = result {
                pr_warn!("memory of a memfd stays reserved: broken list: {:?}\n", err);
            }
        }
        if lost != 0 {
            pr_warn!("{} folios of a memfd were not handed over\n", lost);
        }
    }
}

/// Physical address of a page.
fn address(pfn: u64) -> Option<PhysAddr> {
    // The parser ensures that at most 52 bits are used.
    pfn.checked_shl(PAGE_SHIFT as u32).and_then(PhysAddr::new)
}

fn folio_pages(folio: &ClaimedFolio) -> u64 {
    (folio.size() >> PAGE_SHIFT) as u64
}
