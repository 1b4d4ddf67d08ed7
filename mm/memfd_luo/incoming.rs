// SPDX-License-Identifier: GPL-2.0

//! Memfds in the next kernel.
//!
//! Nothing that was handed over is looked at before it is claimed. Folios go into the new file one
//! by one; whatever has been claimed belongs to a value here, so that a failure can neither lose
//! nor leak it, and a second attempt goes on where the first one had to stop.

use super::abi::{
    self,
    FolioSer,
    Layout,
    MemfdSer,
    Record, //
};
use kernel::{
    fs::File,
    kho::{
        vmalloc::ClaimedArray,
        Claimed,
        ClaimedFolio,
        PhysAddr, //
    },
    liveupdate::RetrieveError,
    page::PAGE_SHIFT,
    prelude::*,
    shmem::{
        NewMemfd,
        PageState, //
    },
    sync::aref::ARef, //
};

/// The name of files in the next kernel; the format does not have the original one.
const NAME: &CStr = c"memfd:luo";

/// A memfd that was handed over. Dropping it frees everything that was not retrieved.
pub(crate) struct Incoming {
    stage: Stage,
}

enum Stage {
    /// Only the description of the file has been claimed.
    Untouched(Claimed<MemfdSer>),
    /// Some of the folios have moved into a new file.
    Moving(Moving),
    /// The file is there and belongs to others.
    Retrieved,
    /// The file cannot be restored; what was handed over is freed in the end.
    Broken(Error, Option<Folios>),
}

impl Incoming {
    pub(crate) fn new(ser: Claimed<MemfdSer>) -> Self {
        Self {
            stage: Stage::Untouched(ser),
        }
    }

    /// Makes the file anew, or goes on with it.
    ///
    /// What is malformed will always be; anything else may work next time.
    pub(crate) fn retrieve(&mut self) -> Result<ARef<File>, RetrieveError> {
        if let Stage::Untouched(ser) = &self.stage {
            match Moving::start(ser) {
                Ok(moving) => self.stage = Stage::Moving(moving),
                Err(RetrieveError::Retry(err)) => return Err(RetrieveError::Retry(err)),
                Err(RetrieveError::Permanent(err)) => {
                    let folios = Folios::new(ser).ok();
                    return Err(self.broken(err, folios));
                }
            }
        }
        match core::mem::replace(&mut self.stage, Stage::Retrieved) {
            Stage::Moving(mut moving) => match moving.run() {
                Ok(()) => Ok(moving.file.finish()),
                Err(RetrieveError::Retry(err)) => {
                    self.stage = Stage::Moving(moving);
                    Err(RetrieveError::Retry(err))
                }
                Err(RetrieveError::Permanent(err)) => Err(self.broken(err, Some(moving.folios))),
            },
            Stage::Broken(err, folios) => {
                self.stage = Stage::Broken(err, folios);
                Err(RetrieveError::Permanent(err))
            }
            // LUO does not ask for a file that it has got.
            Stage::Retrieved | Stage::Untouched(_) => Err(RetrieveError::Permanent(EINVAL)),
        }
    }

    fn broken(&mut self, err: Error, folios: Option<Folios>) -> RetrieveError {
        pr_err!(
            "memfd cannot be restored, its data is malformed: {:?}\n",
            err
        );
        self.stage = Stage::Broken(err, folios);
        RetrieveError::Permanent(err)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Stage::Untouched(ser) = &self.stage {
            if Folios::new(ser).is_err() {
                pr_warn!("memory of a memfd stays reserved, its description is malformed\n");
            }
        }
    }
}

/// A file that its folios are being moved into.
struct Moving {
    file: NewMemfd,
    folios: Folios,
    /// A folio that could not be put into the file yet.
    pending: Option<(Record, ClaimedFolio)>,
    layout: Layout,
}

impl Moving {
    /// Does all that can be done before the first folio is claimed.
    fn start(ser: &MemfdSer) -> Result<Self, RetrieveError> {
        let permanent = |err: Error| RetrieveError::Permanent(err);

        let memfd = abi::Memfd::parse(ser).map_err(|err| permanent(err.into()))?;
        let mut file = NewMemfd::new(NAME)?;
        file.set_size(memfd.size).map_err(permanent)?;
        file.set_pos(memfd.pos).map_err(permanent)?;
        file.set_permissions(memfd.seals.mode());
        file.set_seals(memfd.seals.bits())?;
        // The last step: dropping the folios would free them.
        let folios = Folios::new(ser).map_err(permanent)?;

        Ok(Self {
            file,
            folios,
            pending: None,
            layout: memfd.layout(),
        })
    }

    /// Moves the folios that are left.
    fn run(&mut self) -> Result<(), RetrieveError> {
        while let Some((record, folio)) = self.next().map_err(RetrieveError::Permanent)? {
            let state = PageState {
                dirty: record.dirty,
                uptodate: record.uptodate,
            };
            if let Err((err, folio)) = self.file.insert(folio, record.index, state) {
                self.pending = Some((record, folio));
                return Err(match err {
                    EINVAL | EEXIST => RetrieveError::Permanent(err),
                    err => RetrieveError::Retry(err),
                });
            }
        }
        Ok(())
    }

    /// The next folio and its place in the file, which has been checked.
    fn next(&mut self) -> Result<Option<(Record, ClaimedFolio)>> {
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        while let Some(entry) = self.folios.0.read_next()? {
            let Some(record) = entry.parse()? else {
                continue;
            };
            let folio = claim(record.pfn)?;
            self.layout.admit(record.index, folio_pages(&folio))?;
            return Ok(Some((record, folio)));
        }
        Ok(None)
    }
}

/// The folios that have not been claimed yet. Dropping this claims and frees them.
struct Folios(ClaimedArray<FolioSer>);

impl Folios {
    /// Finds the folios of a file, of which nothing but their number has to make sense.
    fn new(ser: &MemfdSer) -> Result<Self> {
        let len = ser.nr_folios.min(ser.capacity());
        Ok(Self(ClaimedArray::new(&ser.folios.into(), len)?))
    }
}

impl Drop for Folios {
    fn drop(&mut self) {
        let mut lost = 0usize;
        loop {
            match self.0.read_next() {
                Ok(Some(entry)) => {
                    if entry.raw_pfn().is_some_and(|pfn| claim(pfn).is_err()) {
                        lost = lost.saturating_add(1);
                    }
                }
                Ok(None) => break,
                Err(err) => {
                    pr_warn!("memory of a memfd stays reserved: broken list: {:?}\n", err);
                    break;
                }
            }
        }
        if lost != 0 {
            pr_warn!("{} folios of a memfd are not where they should be\n", lost);
        }
    }
}

fn claim(pfn: u64) -> Result<ClaimedFolio> {
    // The parser has seen to it that no more than 52 bits are in use.
    let pa = pfn.checked_shl(PAGE_SHIFT as u32).and_then(PhysAddr::new);
    ClaimedFolio::new(pa.ok_or(EINVAL)?)
}

fn folio_pages(folio: &ClaimedFolio) -> u64 {
    (folio.size() >> PAGE_SHIFT) as u64
}
