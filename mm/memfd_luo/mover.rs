// SPDX-License-Identifier: GPL-2.0

//! A worker that moves folios of large files.
//!
//! A folio in an area that must stay movable, such as KHO's scratch areas, must be moved before it
//! is pinned for long. For a large file, this can be nearly all the work. While a task pins a file
//! from its start on and finds folios that must be moved, a worker therefore moves folios at its
//! end, so that the task can pin them without moving them.

use super::{
    ops::nr_pages,
    pages::{
        next_page,
        pin_folios,
        BATCH, //
    }, //
};
use core::ops::Range;
use kernel::{
    mm::{
        folio::PinBatch,
        shmem::ShmemFile, //
    },
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Completion,
        Mutex, //
    },
    workqueue, //
};

/// Number of pages that are claimed at a time. No folio of the page cache is larger, so that none
/// is in two blocks.
const BLOCK: u64 = 512;

/// Minimum number of pages that justifies a worker.
const WORTHWHILE: u64 = 16 * BLOCK;

/// The division of the file between the task and the worker.
struct Parts {
    /// The unclaimed pages.
    rest: Range<u64>,
    /// Whether the worker is working on a block.
    at_work: bool,
}

#[pin_data]
struct Job {
    file: ARef<ShmemFile>,
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
            file: ARef::from(file),
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

    /// Moves folios, block by block.
    ///
    /// # Errors
    ///
    /// The errors of [`pin_folios`]. They are ignored; the task that pins the folios later reports
    /// them.
    fn run(&self) -> Result {
        let mut batch = PinBatch::new(usize::try_from(BATCH)?)?;
        while let Some(block) = self.claim_last() {
            let mut next = block.start;
            while let Some(start) =
                next_page(&self.file, next).filter(|start| block.contains(start))
            {
                pin_folios(&self.file, start..block.end, &mut batch)?;
                let last = batch.folios().last().ok_or(EIO)?;
                next = last.index().saturating_add(last.nr_pages());
            }
        }
        Ok(())
    }

    /// Removes all work of the worker, and waits until its current block is done.
    fn stop(&self) {
        let at_work = {
            let mut parts = self.parts.lock();
            parts.rest.end = parts.rest.start;
            parts.at_work
        };
        // If it has not run yet, it will have no work.
        if at_work {
            self.done.wait_for_completion();
        }
    }
}

/// The handle of the task for the worker, if there is one. Dropping this stops the worker.
pub(crate) struct Mover {
    allowed: bool,
    job: Option<Arc<Job>>,
}

impl Mover {
    /// A handle without a worker.
    pub(crate) const fn none() -> Self {
        Self {
            allowed: false,
            job: None,
        }
    }

    /// For a file that cannot be truncated. Uses `batch` to examine its end: a file gets folios
    /// that must be moved when there is no other memory, so that they are likely to be at its end.
    pub(crate) fn new(file: &ShmemFile, pages: u64, batch: &mut PinBatch) -> Self {
        let mut this = Self {
            allowed: true,
            job: None,
        };
        // Most files are too small.
        if pages < WORTHWHILE || nr_pages(file) < WORTHWHILE {
            return this;
        }
        let last_block = (pages.saturating_sub(1) / BLOCK).saturating_mul(BLOCK);
        let last = next_page(file, last_block)
            .filter(|&page| page < pages)
            .map(|page| page..page.saturating_add(1));
        // Errors are ignored; the later pin reports them.
        if let Some(Ok(false)) = last.map(|last| pin_folios(file, last, batch)) {
            this.start(file, 0..pages);
        }
        this
    }

    /// Starts a worker for `pages`, if this is permitted and useful, and there is memory for it.
    pub(crate) fn start(&mut self, file: &ShmemFile, pages: Range<u64>) {
        let most = nr_pages(file).min(pages.end.saturating_sub(pages.start));
        if self.allowed && self.job.is_none() && most >= WORTHWHILE {
            self.job = Job::start(file, pages).ok();
        }
    }

    /// Claims the pages from `first` on for the task; returns the page after them.
    ///
    /// `first` must increase with each call. May wait until the worker is done with a block.
    pub(crate) fn claim(&self, first: u64) -> u64 {
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
        // The worker has claimed all pages from here on.
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
