// SPDX-License-Identifier: GPL-2.0

//! Files in the next kernel.
//!
//! A file is created in two steps. First, its folios are claimed and checked. This can be interrupted,
//! and is continued by the next attempt. The second step can fail temporarily: it creates the file, and
//! does its size accounting and its charges. If it fails, the folios are unchanged, nothing is charged,
//! and another task can try again.
//!
//! Memory that was handed over is claimed before it is read. The kinds of files differ in the size of
//! their pages and in their charges: see [`Kind`].

use super::{
    abi::{
        ArraySer,
        FolioSer,
        FormatError, //
    },
    checkpoint::checkpoint,
    ops::HeldFolios, //
};
use core::marker::PhantomData;
use kernel::{
    fs::File,
    kho::{
        list::ClaimBatch,
        vmalloc::{
            ClaimedArray,
            Descriptor, //
        },
        Claimed,
        ClaimedFolio,
        Handover,
        PhysAddr, //
    },
    liveupdate::{
        dma,
        RetrieveError, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef, //
};

/// The name of files in the next kernel; the format does not have the original one.
pub(crate) const NAME: &CStr = c"memfd:luo";

/// A kind of files.
pub(crate) trait Kind {
    /// The description that is handed over.
    type Ser: Handover;

    /// The checked description.
    type Checked;

    /// Claimed folios with their positions. Dropping it frees them.
    type Content;

    /// What else a file needs.
    type Context;

    /// Whether a device may write to the folios, according to the description.
    fn is_dma_target(ser: &Self::Ser) -> bool;

    /// Checks the description, except the array.
    fn parse(ser: &Self::Ser) -> Result<Self::Checked, FormatError>;

    /// The array of folios, and how many of them can be read from it.
    fn folios(ser: &Self::Ser) -> (ArraySer, u64);

    /// The content of a file without folios.
    fn content(checked: &Self::Checked) -> Self::Content;

    /// Makes room for `more` folios. Must allocate what [`Self::add`] needs.
    fn reserve(_content: &mut Self::Content, _more: usize) -> Result {
        Ok(())
    }

    /// Adds the folio of an entry if its position is valid; otherwise it is freed.
    ///
    /// Errors are permanent.
    fn add(content: &mut Self::Content, entry: FolioSer, folio: Option<ClaimedFolio>) -> Result;

    /// Performs the steps that can fail temporarily, and returns the content on failure.
    ///
    /// Returns the folios as well if a device may write to them.
    fn make(
        checked: &Self::Checked,
        content: Self::Content,
        context: &Self::Context,
    ) -> Result<(ARef<File>, HeldFolios), (Error, Self::Content)>;

    /// Frees a folio that is not needed.
    fn discard(folio: ClaimedFolio) {
        drop(folio);
    }
}

/// An incoming memfd. Dropping it frees everything that was not retrieved, and drops the references
/// to folios to which a device may write, unless that device is out of control.
pub(crate) struct Incoming<K: Kind> {
    ser: Claimed<K::Ser>,
    stage: Stage<K>,
}

enum Stage<K: Kind> {
    /// Only the description of the file has been claimed.
    Untouched,
    /// Some or all of the folios have been claimed.
    Claimed(Folios<K>, K::Content),
    /// The file exists and has other owners.
    Retrieved(HeldFolios),
    /// The file cannot be restored; its handed over memory is freed on drop.
    Broken(Error, Folios<K>, K::Content),
}

/// Whether this kernel knows everything that a description has, so that the file can be retrieved if it
/// is well-formed. Otherwise, another kernel may be able to.
///
/// # Errors
///
/// [`EOPNOTSUPP`] for an unknown flag, seal or size of pages. Unknown flags of folios are not looked for.
pub(crate) fn understands<K: Kind>(ser: &K::Ser) -> Result {
    let (array, _) = K::folios(ser);
    match K::parse(ser).map_err(Error::from) {
        Ok(_) if !Descriptor::from(array).has_known_flags() => Err(EOPNOTSUPP),
        Err(EOPNOTSUPP) => Err(EOPNOTSUPP),
        _ => Ok(()),
    }
}

impl<K: Kind> Incoming<K> {
    pub(crate) fn new(ser: Claimed<K::Ser>) -> Self {
        Self {
            ser,
            stage: Stage::Untouched,
        }
    }

    /// The description, which is not checked.
    pub(crate) fn ser(&self) -> &K::Ser {
        &self.ser
    }

    /// Creates the file again.
    ///
    /// Malformed data is a permanent error; other errors are temporary.
    pub(crate) fn retrieve(&mut self, context: &K::Context) -> Result<ARef<File>, RetrieveError> {
        let checked = match K::parse(&self.ser) {
            Ok(checked) => checked,
            Err(err) => return Err(refused(err.into())),
        };
        let retrieved = Stage::Retrieved(HeldFolios::none());
        let (mut folios, mut content) = match core::mem::replace(&mut self.stage, retrieved) {
            Stage::Untouched => match Folios::new(K::folios(&self.ser)) {
                Ok(folios) => (folios, K::content(&checked)),
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
            Stage::Retrieved(held) => {
                self.stage = Stage::Retrieved(held);
                return Err(RetrieveError::Permanent(EINVAL));
            }
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
        match K::make(&checked, content, context) {
            Ok((file, held)) => {
                self.stage = Stage::Retrieved(held);
                Ok(file)
            }
            Err((err, content)) => {
                self.stage = Stage::Claimed(folios, content);
                Err(RetrieveError::Retry(err))
            }
        }
    }
}

impl<K: Kind> Drop for Incoming<K> {
    fn drop(&mut self) {
        if K::is_dma_target(&self.ser) && dma::is_out_of_control() {
            pr_err!("memory of a memfd stays reserved: a device may still write to it\n");
            let nothing = Stage::Retrieved(HeldFolios::none());
            core::mem::forget(core::mem::replace(&mut self.stage, nothing));
            return;
        }
        if let Stage::Untouched = &self.stage {
            if Folios::<K>::new(K::folios(&self.ser)).is_err() {
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
struct Folios<K: Kind>(ClaimedArray<FolioSer>, PhantomData<fn() -> K>);

impl<K: Kind> Folios<K> {
    /// Finds the folios of a file. Only their number must be valid.
    fn new((array, len): (ArraySer, u64)) -> Result<Self> {
        Ok(Self(ClaimedArray::new(&array.into(), len)?, PhantomData))
    }

    /// Claims all remaining folios, checks them, and appends them to `content`.
    fn claim_all(&mut self, content: &mut K::Content) -> Result<(), RetrieveError> {
        let mut batch = Batch::new();
        while self.0.remaining() != 0 {
            checkpoint()?;
            K::reserve(content, ClaimBatch::LEN)?;
            let mut result = Ok(());
            self.claim_some(&mut batch, |entry, folio| match &result {
                Ok(()) => result = K::add(content, entry, folio),
                Err(_) => folio.into_iter().for_each(K::discard),
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

impl<K: Kind> Drop for Folios<K> {
    fn drop(&mut self) {
        let mut lost = 0usize;
        let mut batch = Batch::new();
        while self.0.remaining() != 0 {
            let result = self.claim_some(&mut batch, |entry, folio| {
                if folio.is_none() && entry.raw_pfn().is_some() {
                    lost = lost.saturating_add(1);
                }
                folio.into_iter().for_each(K::discard);
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

pub(crate) fn folio_pages(folio: &ClaimedFolio) -> u64 {
    (folio.size() >> PAGE_SHIFT) as u64
}
