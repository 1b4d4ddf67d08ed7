// SPDX-License-Identifier: GPL-2.0

//! Lists of sessions and files with arbitrary addresses.

use crate::{
    abi::{Block, Entry, FileSer, FileSetSer, ListReader, SessionSer},
    input::Input,
    memory::{address, Page, Preserved},
};
use std::mem::offset_of;

const MAX_PAGES: usize = 12;

/// The positions of the members of a set of files.
const FILES: usize = offset_of!(FileSetSer, files);
const COUNT: usize = offset_of!(FileSetSer, count);

/// Reads a list to its end; returns the results of `keep` for its entries.
///
/// Each entry is read several times before the reader continues, as after a lack of memory.
fn read<T: Entry, R>(
    memory: &Preserved,
    head: u64,
    patience: usize,
    mut keep: impl FnMut(&T) -> R,
) -> Vec<R> {
    let before = memory.claimed();
    let mut reader = ListReader::<T, _>::new(memory, head);
    let mut entries = Vec::new();
    let limit = MAX_PAGES * Block::capacity::<T>();
    loop {
        for _ in 0..patience {
            if !matches!(reader.peek(), Ok(Some(_))) {
                break;
            }
        }
        match reader.peek() {
            Ok(Some(entry)) => entries.push(keep(entry)),
            Ok(None) => break,
            Err(_) => {
                // Errors are permanent.
                assert!(matches!(reader.peek(), Ok(None)));
                break;
            }
        }
        assert!(entries.len() <= limit, "the list does not end");
        reader.advance();
    }
    let blocks = memory.claimed() - before;
    assert!(entries.len() <= blocks * Block::capacity::<T>());
    entries
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let count = 1 + input.below(MAX_PAGES);
    let mut memory = Preserved::default();
    let addresses: Vec<u64> = (1..=count as u64).map(|nth| nth << 12).collect();
    memory.fail(match input.byte() {
        0..=199 => 0,
        bits => u64::from(bits) & input.word(),
    });
    let patience = input.below(3);
    let head = address(&mut input, &addresses);

    for &pa in &addresses {
        let mut page = Page::new();
        page.put(0, address(&mut input, &addresses));
        page.put(8, input.number());
        // Sufficient for some sessions or files, each with the address of a list.
        for entry in 0..4 {
            let at = 16 + entry * size_of::<SessionSer>();
            let set = at + offset_of!(SessionSer, file_set);
            page.0[at] = input.byte();
            page.put(set + FILES, address(&mut input, &addresses));
            page.put(set + COUNT, input.number());
        }
        memory.insert(pa, page);
    }

    let sets = read::<SessionSer, _>(&memory, head, patience, |session| session.file_set);
    for set in sets {
        read::<FileSer, _>(&memory, set.files, patience, |file| file.token);
    }
    assert!(memory.claimed() <= count);
}
