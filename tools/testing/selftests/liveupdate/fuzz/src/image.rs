// SPDX-License-Identifier: GPL-2.0

//! A complete handover in the format of a kernel, which is then damaged.

use crate::{
    abi::{
        Block, Compatible, FileSer, FileSetSer, FlbPage, FlbSer, ListReader, LuoSer, Memory, Name,
        SessionSer,
    },
    input::Input,
    memory::{Page, Preserved},
    PAGE_SIZE,
};
use zerocopy::{FromZeros, IntoBytes};

/// A session to hand over.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Session {
    name: Vec<u8>,
    files: Vec<(Vec<u8>, u64, u64)>,
}

/// The data to hand over.
fn sessions(input: &mut Input<'_>) -> Vec<Session> {
    let count = input.below(60);
    let sessions = (0..count).map(|number| Session {
        name: format!("{number} {:x}", input.byte()).into_bytes(),
        files: (0..input.below(3) * input.below(80))
            .map(|token| {
                let name = format!("memfd-v{}", input.byte());
                (name.into_bytes(), input.number(), token as u64)
            })
            .collect(),
    });
    sessions.collect()
}

/// Pads a string to the size of its field.
fn field<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    field[..bytes.len()].copy_from_slice(bytes);
    field
}

/// Writes handovers.
struct Writer {
    memory: Preserved,
    next: u64,
}

impl Writer {
    fn add(&mut self, bytes: &[u8]) -> u64 {
        let mut page = Page::new();
        page.0[..bytes.len()].copy_from_slice(bytes);
        let pa = self.next;
        self.next += 0x1000;
        self.memory.insert(pa, page);
        pa
    }

    /// Writes a list, beginning with the last block, since each block contains the
    /// address of the next one.
    fn list<T: crate::abi::Entry>(&mut self, entries: Vec<T>) -> u64 {
        let mut blocks: Vec<Vec<T>> = Vec::new();
        for entry in entries {
            match blocks.last_mut() {
                Some(block) if block.len() < Block::capacity::<T>() => block.push(entry),
                _ => blocks.push(vec![entry]),
            }
        }
        let mut head = 0;
        for entries in blocks.into_iter().rev() {
            let mut block = Block::new_box_zeroed().expect("memory");
            block.set_next(head);
            let slots = block.entries_mut(entries.len()).expect("room");
            for (slot, entry) in slots.iter_mut().zip(entries) {
                *slot = entry;
            }
            head = self.add(block.as_bytes());
        }
        head
    }
}

/// Reads all data.
fn read(memory: &Preserved, root: u64) -> Option<(Vec<Session>, usize)> {
    let page = memory.claim(root).ok()?;
    let root = LuoSer::parse(&page).ok()?;
    let mut found = Vec::new();
    let mut reader = ListReader::<SessionSer, _>::new(memory, root.sessions_pa);
    while let Ok(Some(session)) = reader.peek() {
        if let Ok(name) = Name::parse(&session.name) {
            let mut files = Vec::new();
            let mut list = ListReader::<FileSer, _>::new(memory, session.file_set.files);
            while let Ok(Some(file)) = list.peek() {
                if let Ok(compatible) = Compatible::parse(&file.compatible) {
                    files.push((compatible.as_bytes().to_vec(), file.data, file.token));
                }
                list.advance();
            }
            found.push(Session {
                name: name.as_bytes().to_vec(),
                files,
            });
        }
        reader.advance();
    }
    let flbs = memory.claim(root.flbs_pa).ok();
    let flbs = flbs.and_then(|page| FlbPage::parse(&page).ok().map(<[FlbSer]>::len));
    Some((found, flbs.unwrap_or(0)))
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let wanted = sessions(&mut input);
    let flbs = input.below(FlbPage::CAPACITY + 1);

    let mut writer = Writer {
        memory: Preserved::default(),
        next: 0x1000,
    };
    let list = wanted.iter().map(|session| {
        let files = session
            .files
            .iter()
            .map(|(compatible, data, token)| FileSer {
                compatible: field(compatible),
                data: *data,
                token: *token,
            });
        let files: Vec<_> = files.collect();
        let count = files.len() as u64;
        SessionSer {
            name: field(&session.name),
            file_set: FileSetSer {
                files: writer.list(files),
                count,
            },
        }
    });
    let list: Vec<_> = list.collect();
    let sessions_pa = writer.list(list);
    let mut page = FlbPage::new_box_zeroed().expect("memory");
    page.fill((0..flbs).map(|number| FlbSer {
        name: field(format!("flb-{number}").as_bytes()),
        data: number as u64,
        count: 1,
    }));
    let flbs_pa = writer.add(page.as_bytes());
    let root = LuoSer {
        compatible: LuoSer::COMPATIBLE,
        liveupdate_num: 1,
        sessions_pa,
        flbs_pa,
    };
    let root = writer.add(root.as_bytes());
    let Writer { mut memory, .. } = writer;

    let mut damaged = false;
    while !input.is_empty() {
        damaged = true;
        let nth = usize::from(input.half());
        let at = usize::from(input.half()) % (PAGE_SIZE / 8) * 8;
        let value = input.number();
        if let Some(page) = memory.page_mut(nth) {
            page.put(at, value);
        }
    }
    let pages = memory.addresses().len();
    let result = read(&memory, root);
    assert!(memory.claimed() <= pages);
    if !damaged {
        assert_eq!(result, Some((wanted, flbs)));
    }
}
