// SPDX-License-Identifier: GPL-2.0

//! Lists of entries in memory that is handed over.

use crate::abi::{
    Block,
    Entry,
    Memory,
    ParseError, //
};
use core::{
    marker::PhantomData,
    ops::Deref, //
};
use kernel::{
    kho::{
        self,
        ClaimedFolio,
        PhysAddr,
        Preserved, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use zerocopy::IntoBytes;

/// Preserved memory for a list of `T`s.
///
/// Blocks are allocated when the list grows, so that writing it needs no memory. The contents of
/// the blocks are undefined until [`BlockList::write`] has succeeded.
pub(crate) struct BlockList<T> {
    blocks: KVVec<Preserved<Block>>,
    _entries: PhantomData<T>,
}

impl<T: Entry> BlockList<T> {
    const PER_BLOCK: usize = Block::capacity::<T>();

    pub(crate) const fn new() -> Self {
        Self {
            blocks: KVVec::new(),
            _entries: PhantomData,
        }
    }

    /// Allocates blocks for `count` entries.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if `count` exceeds the limit of lists, [`ENOMEM`] if there is no memory.
    /// Existing blocks are kept.
    pub(crate) fn grow(&mut self, count: usize) -> Result {
        let needed = count.div_ceil(Self::PER_BLOCK);
        if needed > Block::MAX {
            return Err(ENOSPC);
        }
        while self.blocks.len() < needed {
            self.blocks
                .push(Preserved::new_zeroed()?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// Frees blocks that are not needed for `count` entries.
    pub(crate) fn shrink(&mut self, count: usize) {
        self.blocks.truncate(count.div_ceil(Self::PER_BLOCK));
    }

    /// Writes the list and returns the address of its first block to hand over, or 0.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if `items` yields more entries than fit into the blocks.
    pub(crate) fn write(&mut self, mut items: impl Iterator<Item = T>) -> Result<u64> {
        let mut next_item = items.next();
        let mut last: Option<&mut Preserved<Block>> = None;
        let mut head = 0;

        for block in &mut self.blocks {
            if next_item.is_none() {
                break;
            }
            let pa = block.phys().get();
            block.set_next(0);
            let mut used: usize = 0;
            for entry in block.entries_mut(Self::PER_BLOCK).ok_or(ENOSPC)? {
                let Some(item) = next_item else {
                    break;
                };
                *entry = item;
                used = used.saturating_add(1);
                next_item = items.next();
            }
            block.entries_mut::<T>(used).ok_or(ENOSPC)?;
            match last {
                Some(previous) => previous.set_next(pa),
                None => head = pa,
            }
            last = Some(block);
        }

        if next_item.is_some() {
            return Err(ENOSPC);
        }
        Ok(head)
    }
}

/// Memory that the previous kernel handed over.
#[derive(Clone, Copy)]
pub(crate) struct HandedOver;

/// A page that the previous kernel handed over.
pub(crate) struct ClaimedPage(ClaimedFolio);

impl Deref for ClaimedPage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Calls `each` with the entries of the list at `head`, without claiming it.
///
/// A damaged list is read up to the damage, which is reported when the list is claimed.
///
/// # Errors
///
/// [`ENOMEM`], and errors of `each`.
pub(crate) fn look_at<T: Entry>(head: u64, each: &mut dyn FnMut(&T) -> Result) -> Result {
    let mut page = KBox::<[u64; PAGE_SIZE / 8]>::init(pin_init::init_zeroed(), GFP_KERNEL)?;
    let mut next = head;
    for _ in 0..Block::MAX {
        let Some(pa) = PhysAddr::new(next) else {
            break;
        };
        let bytes = page.as_mut_bytes();
        if kho::look_at(pa, bytes).is_err() {
            break;
        }
        let Ok((entries, following)) = Block::parse::<T>(bytes) else {
            break;
        };
        entries.iter().try_for_each(&mut *each)?;
        next = following;
    }
    Ok(())
}

impl Memory for HandedOver {
    type Page = ClaimedPage;

    fn claim(&self, pa: u64) -> Result<ClaimedPage, ParseError> {
        let pa = PhysAddr::new(pa).ok_or(ParseError::BadAddress)?;
        ClaimedFolio::new(pa)
            .map(ClaimedPage)
            .map_err(|_| ParseError::BadAddress)
    }

    fn keep(&self, page: ClaimedPage) {
        page.0.leak();
    }
}
