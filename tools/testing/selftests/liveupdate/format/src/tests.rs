// SPDX-License-Identifier: GPL-2.0

//! The tests: well-formed, malformed, and random input.

use super::{abi::*, random::Random, PAGE_SIZE};
use std::{
    cell::{Cell, RefCell},
    cmp::Ordering,
    collections::BTreeMap,
    ops::Deref,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A page, aligned as pages are.
#[derive(Clone)]
#[repr(align(4096))]
struct Page([u8; PAGE_SIZE]);

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self([0; PAGE_SIZE]))
    }

    /// A block whose entries are all zero.
    fn block(next: u64, count: u64) -> Box<Self> {
        let mut page = Self::new();
        page.put(0, next);
        page.put(8, count);
        page
    }

    fn put(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
}

struct Claim(Box<Page>);

impl Deref for Claim {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0 .0
    }
}

/// Preserved pages by address. Each can be claimed once.
#[derive(Default)]
struct Fake {
    pages: RefCell<BTreeMap<u64, Box<Page>>>,
    /// The number of pages that stay reserved.
    kept: Cell<usize>,
}

impl Fake {
    fn with(pages: impl IntoIterator<Item = (u64, Box<Page>)>) -> Self {
        Self {
            pages: RefCell::new(pages.into_iter().collect()),
            kept: Cell::new(0),
        }
    }
}

impl Memory for &Fake {
    type Page = Claim;

    fn claim(&self, pa: u64) -> Result<Claim, ParseError> {
        let page = self.pages.borrow_mut().remove(&pa);
        page.map(Claim).ok_or(ParseError::BadAddress)
    }

    fn keep(&self, _page: Claim) {
        self.kept.set(self.kept.get() + 1);
    }
}

/// Reads to the end; returns the number of entries and the final error.
fn read_all<T: Entry>(memory: &Fake, head: u64) -> (usize, Option<ParseError>) {
    let mut reader = ListReader::<T, _>::new(memory, head);
    let mut count = 0;
    loop {
        match reader.peek() {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, None),
            Err(err) => return (count, Some(err)),
        }
        reader.advance();
    }
}

#[test]
fn sizes_are_those_of_the_headers() {
    assert_eq!(size_of::<LuoSer>(), 32);
    assert_eq!(size_of::<FileSetSer>(), 16);
    assert_eq!(size_of::<SessionSer>(), 80);
    assert_eq!(size_of::<FileSer>(), 64);
    assert_eq!(size_of::<FlbSer>(), 64);
    assert_eq!(size_of::<Block>(), PAGE_SIZE);
    assert_eq!(size_of::<FlbPage>(), PAGE_SIZE);
    assert_eq!(Block::capacity::<SessionSer>(), 51);
    assert_eq!(Block::capacity::<FileSer>(), 63);
    assert_eq!(FlbPage::CAPACITY, 63);
}

#[test]
fn names_are_as_long_as_those_of_ioctls() {
    assert_eq!(Name::LEN, liveupdate_uapi::LIVEUPDATE_SESSION_NAME_LENGTH);
}

#[test]
fn strings_end_in_their_field() {
    assert_eq!(Name::parse(&[0; 64]).err(), Some(ParseError::BadString));
    assert_eq!(Name::parse(&[b'a'; 64]).err(), Some(ParseError::BadString));
    let mut raw = [b'a'; 64];
    raw[63] = 0;
    assert_eq!(Name::parse(&raw).unwrap().as_bytes(), &[b'a'; 63]);
    let mut dirty = [b'x'; 64];
    dirty[1] = 0;
    let name = Name::parse(&dirty).unwrap();
    assert_eq!(name.as_bytes(), b"x");
    assert!(name.field()[2..].iter().all(|&byte| byte == 0));
}

#[test]
fn names_have_the_order_of_strings() {
    let mut random = Random::new();
    let mut name = |differs_from: usize| {
        let mut raw = [b'n'; 64];
        let len = differs_from + 1 + random.next() as usize % 4;
        for byte in raw.iter_mut().take(len).skip(differs_from) {
            *byte = random.next() as u8 | 1;
        }
        raw[len] = 0;
        Name::parse(&raw).unwrap()
    };
    for differs_from in (0..50).cycle().take(5000) {
        let (a, b) = (name(differs_from), name(differs_from));
        assert_eq!(a.cmp(&b), a.as_bytes().cmp(b.as_bytes()));
        assert_eq!(a.cmp(&a), Ordering::Equal);
    }
}

#[test]
fn root_golden_bytes() {
    let mut bytes = *b"luo-v5\0\0\x03\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0";
    let page = {
        let mut page = Page::new();
        page.0[..32].copy_from_slice(&bytes);
        page
    };
    let root = LuoSer::parse(&page.0).unwrap();
    assert_eq!(
        (root.liveupdate_num, root.sessions_pa, root.flbs_pa),
        (3, 0x1000, 0x2000)
    );
    assert_eq!(root.as_bytes(), &bytes);
    assert_eq!(
        LuoSer::parse(&page.0[..31]).err(),
        Some(ParseError::Truncated)
    );
    bytes[5] = b'6';
    let mut page = page;
    page.0[..32].copy_from_slice(&bytes);
    assert_eq!(LuoSer::parse(&page.0).err(), Some(ParseError::Incompatible));
}

#[test]
fn file_entries_golden_bytes() {
    let mut page = Page::block(0, 1);
    page.0[16..24].copy_from_slice(b"memfd-v2");
    page.put(16 + 48, 0xabcd000);
    page.put(16 + 56, 42);
    let (files, next) = Block::parse::<FileSer>(&page.0).unwrap();
    assert_eq!(next, 0);
    assert_eq!((files[0].data, files[0].token), (0xabcd000, 42));
    let compatible = Compatible::parse(&files[0].compatible).unwrap();
    assert_eq!(compatible.as_bytes(), b"memfd-v2");
}

#[test]
fn block_counts() {
    for count in [0, 52, u64::MAX] {
        let page = Page::block(0, count);
        let res = Block::parse::<SessionSer>(&page.0);
        assert_eq!(res.err(), Some(ParseError::BadCount), "{count}");
    }
    assert!(Block::parse::<SessionSer>(&Page::block(0, 51).0).is_ok());
    let page = Page::new();
    let res = Block::parse::<SessionSer>(&page.0[..100]);
    assert_eq!(res.err(), Some(ParseError::Truncated));
    let mut block = <Block as FromZeros>::new_box_zeroed().unwrap();
    assert!(block.entries_mut::<SessionSer>(52).is_none());
    assert_eq!(block.entries_mut::<SessionSer>(51).unwrap().len(), 51);
}

#[test]
fn lists() {
    let memory = Fake::with([
        (0x1000, Page::block(0x2000, 51)),
        (0x2000, Page::block(0, 2)),
    ]);
    assert_eq!(read_all::<SessionSer>(&memory, 0x1000), (53, None));
    assert_eq!(read_all::<SessionSer>(&memory, 0), (0, None));
    // A second list cannot share the blocks of the first one.
    let shared = Some(ParseError::BadAddress);
    assert_eq!(read_all::<SessionSer>(&memory, 0x2000), (0, shared));
}

#[test]
fn lists_with_a_cycle_end() {
    let memory = Fake::with([
        (0x1000, Page::block(0x2000, 1)),
        (0x2000, Page::block(0x1000, 1)),
    ]);
    let end = Some(ParseError::BadAddress);
    assert_eq!(read_all::<FileSer>(&memory, 0x1000), (2, end));
}

#[test]
fn lists_that_are_too_long_end() {
    let blocks = Block::MAX as u64 + 1;
    let memory = Fake::with((1..=blocks).map(|i| (i << 12, Page::block((i + 1) << 12, 1))));
    let end = Some(ParseError::TooLong);
    assert_eq!(read_all::<FileSer>(&memory, 0x1000), (Block::MAX, end));
}

#[test]
fn damage_costs_what_is_behind_it() {
    let memory = Fake::with([
        (0x1000, Page::block(0x2000, 3)),
        (0x2000, Page::block(0, 0)),
    ]);
    let end = Some(ParseError::BadCount);
    assert_eq!(read_all::<FileSer>(&memory, 0x1000), (3, end));
    // The damaged block may be memory of a file.
    assert_eq!(memory.kept.get(), 1);
}

#[test]
fn reading_can_be_interrupted() {
    let memory = Fake::with([(0x1000, Page::block(0, 2))]);
    let mut reader = ListReader::<FileSer, _>::new(&memory, 0x1000);
    assert!(reader.peek().unwrap().is_some());
    // After a lack of memory, a reader continues at the same entry.
    assert!(reader.peek().unwrap().is_some());
    reader.advance();
    assert!(reader.peek().unwrap().is_some());
    reader.advance();
    assert!(reader.peek().unwrap().is_none());
    assert!(reader.peek().unwrap().is_none());
}

#[test]
fn shared_states() {
    let mut page = Page::block(1, 63);
    assert_eq!(FlbPage::parse(&page.0).unwrap().len(), 63);
    page.put(8, 64);
    assert_eq!(FlbPage::parse(&page.0).err(), Some(ParseError::BadCount));
    page.put(8, u64::MAX);
    assert_eq!(FlbPage::parse(&page.0).err(), Some(ParseError::BadCount));
    let res = FlbPage::parse(&page.0[..4095]);
    assert_eq!(res.err(), Some(ParseError::Truncated));
}

/// The offsets of the entries can be found from the header alone.
#[test]
fn shared_states_one_by_one() {
    let header = |page: &Page| FlbHeader::read_from_prefix(&page.0).unwrap().0;
    let mut page = Page::block(1, 0);
    for count in 0..=63 {
        page.put(8, count);
        let states = FlbPage::parse(&page.0).unwrap();
        let first = page.0.as_ptr().addr();
        let offsets = states
            .iter()
            .map(|state| (&raw const *state).addr() - first);
        assert!(header(&page).entries().unwrap().eq(offsets));
    }
    for count in [64, u64::MAX] {
        page.put(8, count);
        let res = header(&page).entries().map(Iterator::count);
        assert_eq!(res, Err(ParseError::BadCount));
    }
}

/// No bytes may cause a panic or an endless loop.
#[test]
fn random_bytes() {
    let mut random = Random::new();
    let mut page = Page::new();
    for _ in 0..300_000 {
        for _ in 0..8 {
            let at = random.next() as usize % PAGE_SIZE;
            page.0[at] = random.next() as u8;
        }
        page.put(8, random.next() % 70);
        page.put(0, (random.next() % 4) << 12);
        let len = match random.next() % 2 {
            0 => PAGE_SIZE,
            _ => random.next() as usize % (PAGE_SIZE + 1),
        };
        let bytes = &page.0[..len];
        let _ = LuoSer::parse(bytes);
        let _ = FlbPage::parse(bytes);
        if let Ok((files, _)) = Block::parse::<FileSer>(bytes) {
            let _ = Compatible::parse(&files[files.len() - 1].compatible);
        }
        if let Ok((sessions, _)) = Block::parse::<SessionSer>(bytes) {
            let _ = Name::parse(&sessions[sessions.len() - 1].name);
        }
    }
    for _ in 0..20_000 {
        let memory = Fake::with((1..4).map(|i| {
            (
                i << 12,
                Page::block((random.next() % 5) << 12, random.next() % 66),
            )
        }));
        let (count, _) = read_all::<FileSer>(&memory, (random.next() % 5) << 12);
        assert!(count <= 3 * Block::capacity::<FileSer>());
    }
}
