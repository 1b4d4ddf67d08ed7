// SPDX-License-Identifier: GPL-2.0

//! Preserved memory of a hostile kernel.

use crate::{
    abi::{Memory, ParseError},
    input::Input,
    PAGE_SIZE,
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

/// A page, aligned as pages are.
#[derive(Clone)]
#[repr(align(4096))]
pub struct Page(pub [u8; PAGE_SIZE]);

impl Page {
    pub fn new() -> Box<Self> {
        Box::new(Self([0; PAGE_SIZE]))
    }

    pub fn put(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
}

/// Pages by address.
#[derive(Default)]
pub struct Preserved {
    pages: RefCell<BTreeMap<u64, Box<Page>>>,
    claimed: RefCell<BTreeSet<u64>>,
    /// The claims that fail although the page exists.
    failures: Cell<u64>,
}

impl Preserved {
    pub fn insert(&mut self, pa: u64, page: Box<Page>) {
        self.pages.get_mut().insert(pa, page);
    }

    pub fn page_mut(&mut self, nth: usize) -> Option<&mut Page> {
        let pages = self.pages.get_mut();
        let nth = nth % pages.len().max(1);
        pages.values_mut().nth(nth).map(|page| &mut **page)
    }

    pub fn addresses(&self) -> Vec<u64> {
        self.pages.borrow().keys().copied().collect()
    }

    pub fn fail(&mut self, failures: u64) {
        self.failures.set(failures);
    }

    /// The number of claimed pages.
    pub fn claimed(&self) -> usize {
        self.claimed.borrow().len()
    }
}

/// A claimed page.
pub struct Claim(Box<Page>);

impl Deref for Claim {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0 .0
    }
}

impl Memory for &Preserved {
    type Page = Claim;

    fn claim(&self, pa: u64) -> Result<Claim, ParseError> {
        let failures = self.failures.get();
        self.failures.set(failures >> 1);
        if failures & 1 != 0 {
            return Err(ParseError::BadAddress);
        }
        // KHO does not return a page twice; this checks the fake.
        let page = self
            .pages
            .borrow_mut()
            .remove(&pa)
            .ok_or(ParseError::BadAddress)?;
        assert!(self.claimed.borrow_mut().insert(pa));
        Ok(Claim(page))
    }

    fn keep(&self, page: Claim) {
        drop(page);
    }
}

/// One of `addresses`, or sometimes another address.
pub fn address(input: &mut Input<'_>, addresses: &[u64]) -> u64 {
    match input.byte() {
        0..=15 => 0,
        16..=31 => input.number(),
        nth => addresses
            .get(usize::from(nth) % addresses.len().max(1))
            .copied()
            .unwrap_or(0),
    }
}
