// SPDX-License-Identifier: GPL-2.0

//! A helper for whoever pins all of a large file.
//!
//! A folio that lies in an area that has to stay movable, as KHO's scratch areas do, cannot stay
//! there when it is pinned for long: it is copied to another place. With much memory, that is nearly
//! all the work there is. So while somebody pins a file from its start on and finds folios that have
//! to be moved, a worker moves those at its end. Whoever pins them later finds them where they may
//! stay.

use super::ShmemFile;
use crate::{
    fs::File,
    mm::folio::PinBatch,
    prelude::*,
    sync::{
        aref::ARef,
        new_mutex,
        Arc,
        Completion,
        Mutex, //
    },
    workqueue, //
};
use core::ops::Range;

/// So many pages are claimed at a time. No folio of the page cache is larger, so none has a part in
/// two of such blocks.
const BLOCK: u64 = 512;

/// So few pages are pinned before a worker gets to them.
const WORTHWHILE: u64 = 16 * BLOCK;

/// Who takes care of which part of the file.
struct Parts {
    /// The pages that nobody has claimed.
    rest: Range<u64>,
    /// Whether the worker has claimed a block that it is not done with.
    at_work: bool,
}

#[pin_data]
struct Job {
    file: ARef<File>,
    #[pin]
    parts: Mutex<Parts>,
    #[pin]
    done: Completion,
}

impl Job {
    /// Starts a worker.
    fn start(file: &ShmemFile, pages: Range<u64>) -> Result<Arc<Self>> {
        let parts = Parts {
            rest: pages,
            at_work: false,
        };
        let job = pin_init!(Self {
            file: ARef::from(&**file),
            parts <- new_mutex!(parts, "shmem_mover"),
            done <- Completion::new(),
        });
        let job = Arc::pin_init(job, GFP_KERNEL)?;
        let theirs = job.clone();
        let work = move || {
            let _ = theirs.run();
            theirs.done.complete_all();
        };
        workqueue::system_unbound().try_spawn(GFP_KERNEL, work)?;
        Ok(job)
    }

    /// Claims the last block for the worker.
    fn claim_last(&self) -> Option<Range<u64>> {
        let mut parts = self.parts.lock();
        parts.at_work = !parts.rest.is_empty();
        if !parts.at_work {
            return None;
        }
        let end = parts.rest.end;
        let start = (end.saturating_sub(1) / BLOCK).saturating_mul(BLOCK);
        parts.rest.end = start.max(parts.rest.start);
        Some(parts.rest.end..end)
    }

    /// Moves what has to be moved, block by block.
    ///
    /// # Errors
    ///
    /// Those of [`ShmemFile::pin_folios`]. Whoever is to pin the folios will see for himself.
    fn run(&self) -> Result {
        let file = ShmemFile::from_file(&self.file).ok_or(EINVAL)?;
        let mut batch = PinBatch::new(256)?;
        while let Some(block) = self.claim_last() {
            let mut next = block.start;
            while let Some(start) = file.next_page(next).filter(|start| block.contains(start)) {
                file.pin_folios(start..block.end, &mut batch)?;
                let last = batch.folios().last().ok_or(EIO)?;
                next = last.index().saturating_add(last.nr_pages());
            }
        }
        Ok(())
    }

    /// Leaves the worker nothing to do, and waits for the block that it is at.
    fn stop(&self) {
        let at_work = {
            let mut parts = self.parts.lock();
            parts.rest.end = parts.rest.start;
            parts.at_work
        };
        // If it has not got to run, it will find nothing to do.
        if at_work {
            self.done.wait_for_completion();
        }
    }
}

/// The worker, if there is one, seen by who pins the folios. Dropping this stops it.
pub(super) struct Mover {
    allowed: bool,
    job: Option<Arc<Job>>,
}

impl Mover {
    /// For those who cannot have a worker.
    pub(super) const fn none() -> Self {
        Self {
            allowed: false,
            job: None,
        }
    }

    /// For a file that nobody truncates; `batch` is used to look at it.
    ///
    /// A file gets folios that have to be moved when there is no other memory any more: if at all,
    /// they are likely to be at its end.
    pub(super) fn new(file: &ShmemFile, pages: u64, batch: &mut PinBatch) -> Self {
        let mut this = Self {
            allowed: true,
            job: None,
        };
        // Nearly all files are too small, and need not be looked at.
        if pages < WORTHWHILE || file.nr_pages() < WORTHWHILE {
            return this;
        }
        let last_block = (pages.saturating_sub(1) / BLOCK).saturating_mul(BLOCK);
        let last = file
            .next_page(last_block)
            .filter(|&page| page < pages)
            .map(|page| page..page.saturating_add(1));
        // An error is for those who need the folios.
        if let Some(Ok(false)) = last.map(|last| file.pin_folios(last, batch)) {
            this.start(file, 0..pages);
        }
        this
    }

    /// Has folios moved by a worker, if that is allowed and pays; `pages` are those that nobody has
    /// got to.
    ///
    /// Without memory for a worker, there is none.
    pub(super) fn start(&mut self, file: &ShmemFile, pages: Range<u64>) {
        let most = file.nr_pages().min(pages.end.saturating_sub(pages.start));
        if self.allowed && self.job.is_none() && most >= WORTHWHILE {
            self.job = Job::start(file, pages).ok();
        }
    }

    /// Claims the pages from `first` on; returns the page behind them.
    ///
    /// `first` has to grow from call to call. May have to wait until the worker is done with a
    /// block.
    pub(super) fn claim(&self, first: u64) -> u64 {
        let Some(job) = &self.job else {
            return u64::MAX;
        };
        {
            let mut parts = job.parts.lock();
            if first >= parts.rest.start {
                let next_block = (first / BLOCK).saturating_add(1).saturating_mul(BLOCK);
                parts.rest.start = next_block.min(parts.rest.end);
            }
            if first < parts.rest.start {
                return parts.rest.start;
            }
        }
        // From here on, the worker has been everywhere.
        job.stop();
        u64::MAX
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            job.stop();
        }
    }
}
