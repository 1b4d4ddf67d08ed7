// SPDX-License-Identifier: GPL-2.0

//! Looks up fields of the data that is handed over.

use super::Roots;
use crate::abi::{
    Block,
    FileSer,
    FlbSer,
    LuoSer,
    PolicySer,
    SessionSer, //
};
use core::{
    mem::offset_of,
    str::SplitAsciiWhitespace, //
};
use kernel::{
    bindings,
    kho::damage::LastMoment,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// A field in memory: bytes, or bits of a number.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) pa: u64,
    /// In bytes.
    pub(super) size: usize,
    shift: u32,
    mask: u64,
    /// The value is shifted by this number of bits.
    scale: u32,
}

impl Field {
    /// The size of the largest field.
    pub(super) const MAX: usize = 64;

    fn bytes(pa: u64, offset: usize, size: usize) -> Self {
        Self {
            pa: pa.wrapping_add(offset as u64),
            size,
            shift: 0,
            mask: u64::MAX,
            scale: 0,
        }
    }

    fn word(pa: u64, offset: usize) -> Self {
        Self::bytes(pa, offset, 8)
    }

    fn raw(&self, moment: &LastMoment) -> Result<u64> {
        let mut bytes = [0; 8];
        let used = bytes.get_mut(..self.size).ok_or(EINVAL)?;
        moment.read(self.pa, used)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The current number.
    pub(super) fn get(&self, moment: &LastMoment) -> Result<u64> {
        let number = self.raw(moment)?.wrapping_shr(self.shift) & self.mask;
        Ok(number.wrapping_shl(self.scale))
    }

    /// Encodes `number` into `bytes`, preserving neighbouring bits.
    pub(super) fn put(&self, moment: &LastMoment, number: u64, bytes: &mut [u8]) -> Result {
        let others = self.raw(moment)? & !self.mask.wrapping_shl(self.shift);
        let number = number.wrapping_shr(self.scale) & self.mask;
        let word = others | number.wrapping_shl(self.shift);
        for (to, from) in bytes.iter_mut().zip(word.to_le_bytes()) {
            *to = from;
        }
        Ok(())
    }
}

/// The maximum length of a name in a line, in bytes.
const NAME: usize = 64;

/// The length of the name at the beginning of an entry, in bytes.
const NAME_IN_ENTRY: usize = 48;

/// An entry of a page of entries that begin with a name.
enum Entry {
    Number(u64),
    Named([u8; NAME]),
}

/// A session, and one of its files.
struct FileOf {
    session: [u8; NAME],
    token: u64,
}

enum Object {
    Root,
    /// A block of the list of sessions.
    Block(u64),
    Session([u8; NAME]),
    /// A block of the list of a session's files.
    SessionBlock([u8; NAME], u64),
    File(FileOf),
    Memfd(FileOf),
    /// A chunk of the addresses of the pages of a memfd's array.
    Chunk(FileOf, u64),
    Folio(FileOf, u64),
    Flbs,
    Flb(Entry),
    /// An entry of the list of vital data.
    Policy(Entry),
    /// Memory at a physical address.
    Memory(u64),
    /// Memory at an offset from the address in another field.
    After(KBox<Locator>, u64),
}

/// The object of a field.
pub(super) struct Locator {
    object: Object,
    field: Which,
}

/// A field of an object.
#[derive(Clone, Copy)]
struct Which {
    offset: usize,
    size: usize,
    shift: u32,
    bits: u32,
    scale: u32,
}

impl Which {
    const fn word(offset: usize) -> Self {
        Self::sized(offset, 8)
    }

    const fn sized(offset: usize, size: usize) -> Self {
        Self {
            offset,
            size,
            shift: 0,
            bits: 64,
            scale: 0,
        }
    }

    fn at(&self, pa: u64) -> Field {
        Field {
            shift: self.shift,
            mask: u64::MAX
                .checked_shr(u64::BITS.saturating_sub(self.bits))
                .unwrap_or(0),
            scale: self.scale,
            ..Field::bytes(pa, self.offset, self.size)
        }
    }
}

fn number(words: &mut SplitAsciiWhitespace<'_>) -> Result<u64> {
    super::number(words.next().ok_or(EINVAL)?)
}

fn name(words: &mut SplitAsciiWhitespace<'_>) -> Result<[u8; NAME]> {
    padded(words.next().ok_or(EINVAL)?)
}

/// `word` with null bytes up to the maximum length.
fn padded(word: &str) -> Result<[u8; NAME]> {
    let word = word.as_bytes();
    let mut name = [0; NAME];
    for (to, from) in name
        .get_mut(..word.len())
        .ok_or(EINVAL)?
        .iter_mut()
        .zip(word)
    {
        *to = *from;
    }
    Ok(name)
}

fn entry(words: &mut SplitAsciiWhitespace<'_>) -> Result<Entry> {
    let word = words.next().ok_or(EINVAL)?;
    match super::number(word) {
        Ok(number) => Ok(Entry::Number(number)),
        Err(_) => Ok(Entry::Named(padded(word)?)),
    }
}

fn file(words: &mut SplitAsciiWhitespace<'_>) -> Result<FileOf> {
    Ok(FileOf {
        session: name(words)?,
        token: number(words)?,
    })
}

/// Fields of `struct kho_block_header_ser`.
fn block_field(word: &str) -> Result<Which> {
    match word {
        "next" => Ok(Which::word(0)),
        "count" => Ok(Which::word(8)),
        _ => Err(EINVAL),
    }
}

fn memfd_field(word: &str) -> Result<Which> {
    type Ser = bindings::memfd_luo_ser;
    const FOLIOS: usize = offset_of!(Ser, folios);
    type Array = bindings::kho_vmalloc;

    Ok(match word {
        "pos" => Which::word(offset_of!(Ser, pos)),
        "size" => Which::word(offset_of!(Ser, size)),
        "seals" => Which::sized(offset_of!(Ser, seals), 4),
        "flags" => Which::sized(offset_of!(Ser, flags), 4),
        "nr_folios" => Which::word(offset_of!(Ser, nr_folios)),
        "folios.first" => Which::word(FOLIOS),
        "folios.total_pages" => Which::sized(FOLIOS + offset_of!(Array, total_pages), 4),
        "folios.flags" => Which::sized(FOLIOS + offset_of!(Array, flags), 2),
        "folios.order" => Which::sized(FOLIOS + offset_of!(Array, order), 2),
        _ => return Err(EINVAL),
    })
}

fn folio_field(word: &str) -> Result<Which> {
    let bits = |shift, bits, scale| Which {
        shift,
        bits,
        scale,
        ..Which::word(0)
    };
    Ok(match word {
        "pfn" => bits(0, 52, 0),
        // The page frame number as an address.
        "address" => bits(0, 52, PAGE_SHIFT as u32),
        "flags" => bits(52, 12, 0),
        "index" => Which::word(8),
        _ => return Err(EINVAL),
    })
}

impl Locator {
    pub(super) fn parse(text: &str) -> Result<Self> {
        Self::parse_words(&mut text.split_ascii_whitespace())
    }

    fn parse_words(words: &mut SplitAsciiWhitespace<'_>) -> Result<Self> {
        let object = match words.next().ok_or(EINVAL)? {
            "u16" => return Self::after(2, words),
            "u32" => return Self::after(4, words),
            "u64" => return Self::after(8, words),
            "root" => Object::Root,
            "block" => Object::Block(number(words)?),
            "session" => Object::Session(name(words)?),
            "files" => Object::SessionBlock(name(words)?, number(words)?),
            "file" => Object::File(file(words)?),
            "memfd" => Object::Memfd(file(words)?),
            "chunk" => Object::Chunk(file(words)?, number(words)?),
            "folio" => Object::Folio(file(words)?, number(words)?),
            "flbs" => Object::Flbs,
            "flb" => Object::Flb(entry(words)?),
            "policy" => Object::Policy(entry(words)?),
            "memory" => Object::Memory(number(words)?),
            _ => return Err(EINVAL),
        };
        let word = words.next().ok_or(EINVAL)?;
        let field = match (&object, word) {
            (Object::Root, "compatible") => Which::sized(0, 8),
            (Object::Root, "number") => Which::word(offset_of!(LuoSer, liveupdate_num)),
            (Object::Root, "sessions") => Which::word(offset_of!(LuoSer, sessions_pa)),
            (Object::Root, "flbs") => Which::word(offset_of!(LuoSer, flbs_pa)),
            (Object::Block(_) | Object::SessionBlock(..), word) => block_field(word)?,
            (Object::Session(_), "name") => Which::sized(0, 64),
            (Object::Session(_), "files") => Which::word(offset_of!(SessionSer, file_set)),
            (Object::Session(_), "count") => Which::word(offset_of!(SessionSer, file_set) + 8),
            (Object::File(_), "compatible") => Which::sized(0, 48),
            (Object::File(_), "data") => Which::word(offset_of!(FileSer, data)),
            (Object::File(_), "token") => Which::word(offset_of!(FileSer, token)),
            (Object::Memfd(_), word) => memfd_field(word)?,
            (Object::Chunk(..), "next") => Which::word(0),
            (Object::Chunk(..), "page") => {
                let index = usize::try_from(number(words)?)?;
                let offset = index.checked_add(1).and_then(|index| index.checked_mul(8));
                Which::word(offset.filter(|&o| o < PAGE_SIZE).ok_or(EINVAL)?)
            }
            (Object::Folio(..), word) => folio_field(word)?,
            (Object::Flbs, "count") => Which::word(8),
            (Object::Flb(_), "name") => Which::sized(0, NAME_IN_ENTRY),
            (Object::Flb(_), "data") => Which::word(offset_of!(FlbSer, data)),
            (Object::Flb(_), "count") => Which::word(offset_of!(FlbSer, count)),
            (Object::Policy(_), "name") => Which::sized(0, NAME_IN_ENTRY),
            (Object::Policy(_), "policy") => Which::sized(NAME_IN_ENTRY, 4),
            (Object::Memory(_), "u32") => Which::sized(0, 4),
            _ => return Err(EINVAL),
        };
        match words.next() {
            None => Ok(Self { object, field }),
            Some(_) => Err(EINVAL),
        }
    }

    /// A number of `size` bytes after the address in the field that the rest of the line names.
    fn after(size: usize, words: &mut SplitAsciiWhitespace<'_>) -> Result<Self> {
        let offset = number(words)?;
        let place = KBox::new(Self::parse_words(words)?, GFP_KERNEL)?;
        Ok(Self {
            object: Object::After(place, offset),
            field: Which::sized(0, size),
        })
    }

    /// Looks up the field in the same way as the next kernel.
    pub(super) fn find(&self, roots: &Roots, moment: &LastMoment) -> Result<Field> {
        let memory = Memory(moment);
        let root = roots.luo;
        Ok(self.field.at(match &self.object {
            Object::Root => root,
            Object::Block(index) => memory.nth(memory.sessions(root)?, *index)?,
            Object::Session(name) => memory.session(root, name)?,
            Object::SessionBlock(name, index) => {
                memory.nth(memory.files(memory.session(root, name)?)?, *index)?
            }
            Object::File(file) => memory.file(root, file)?,
            Object::Memfd(file) => memory.memfd(root, file)?,
            Object::Chunk(file, index) => memory.nth(memory.array(root, file)?, *index)?,
            Object::Folio(file, index) => memory.folio(root, file, *index)?,
            Object::Flbs => memory.flbs(root)?,
            Object::Policy(entry) => {
                let page = roots.policy.ok_or(ENOENT)?;
                memory.entry(page, size_of::<PolicySer>(), entry)?
            }
            Object::Memory(pa) => *pa,
            Object::After(place, offset) => {
                let address = place.find(roots, moment)?.get(moment)?;
                address.wrapping_add(*offset)
            }
            Object::Flb(entry) => memory.entry(memory.flbs(root)?, size_of::<FlbSer>(), entry)?,
        }))
    }
}

/// The data that is handed over, as the next kernel finds it.
struct Memory<'a>(&'a LastMoment);

impl Memory<'_> {
    fn word(&self, pa: u64, offset: usize) -> Result<u64> {
        Field::word(pa, offset).get(self.0)
    }

    fn element(&self, pa: u64, header: usize, size: usize, index: u64) -> u64 {
        pa.wrapping_add(header as u64)
            .wrapping_add(index.wrapping_mul(size as u64))
    }

    /// The entry of `page`, after whose header come entries of `size` bytes that begin with a name.
    fn entry(&self, page: u64, size: usize, entry: &Entry) -> Result<u64> {
        const HEADER: usize = 16;
        let name = match entry {
            Entry::Number(index) => return Ok(self.element(page, HEADER, size, *index)),
            Entry::Named(name) => name,
        };
        let mut end = HEADER.saturating_add(size);
        for index in 0.. {
            if end > PAGE_SIZE {
                break;
            }
            let pa = self.element(page, HEADER, size, index);
            let mut bytes = [0; NAME_IN_ENTRY];
            self.0.read(pa, &mut bytes)?;
            if name.starts_with(&bytes) {
                return Ok(pa);
            }
            end = end.saturating_add(size);
        }
        Err(ENOENT)
    }

    /// Follows a list of pages whose first word is the address of the next one.
    fn nth(&self, mut pa: u64, index: u64) -> Result<u64> {
        for _ in 0..index {
            pa = self.word(pa, 0)?;
        }
        Ok(pa)
    }

    /// Finds the entry of a list for which `is_wanted` returns true.
    fn search(
        &self,
        mut block: u64,
        size: usize,
        is_wanted: impl Fn(u64) -> Result<bool>,
    ) -> Result<u64> {
        for _ in 0..Block::MAX {
            if block == 0 {
                break;
            }
            for index in 0..self.word(block, 8)? {
                let entry = self.element(block, 16, size, index);
                if is_wanted(entry)? {
                    return Ok(entry);
                }
            }
            block = self.word(block, 0)?;
        }
        Err(ENOENT)
    }

    fn sessions(&self, root: u64) -> Result<u64> {
        self.word(root, offset_of!(LuoSer, sessions_pa))
    }

    fn flbs(&self, root: u64) -> Result<u64> {
        self.word(root, offset_of!(LuoSer, flbs_pa))
    }

    fn session(&self, root: u64, name: &[u8; NAME]) -> Result<u64> {
        self.search(self.sessions(root)?, size_of::<SessionSer>(), |pa| {
            let mut bytes = [0; NAME];
            self.0.read(pa, &mut bytes)?;
            Ok(bytes == *name)
        })
    }

    fn files(&self, session: u64) -> Result<u64> {
        self.word(session, offset_of!(SessionSer, file_set))
    }

    fn file(&self, root: u64, file: &FileOf) -> Result<u64> {
        let files = self.files(self.session(root, &file.session)?)?;
        self.search(files, size_of::<FileSer>(), |pa| {
            Ok(self.word(pa, offset_of!(FileSer, token))? == file.token)
        })
    }

    fn memfd(&self, root: u64, file: &FileOf) -> Result<u64> {
        self.word(self.file(root, file)?, offset_of!(FileSer, data))
    }

    /// The first chunk of a memfd's array.
    fn array(&self, root: u64, file: &FileOf) -> Result<u64> {
        let folios = offset_of!(bindings::memfd_luo_ser, folios);
        self.word(self.memfd(root, file)?, folios)
    }

    fn folio(&self, root: u64, file: &FileOf, index: u64) -> Result<u64> {
        const SIZE: usize = size_of::<bindings::memfd_luo_folio_ser>();
        const PER_PAGE: u64 = (PAGE_SIZE / SIZE) as u64;
        const PER_CHUNK: u64 = (PAGE_SIZE / 8 - 1) as u64;

        let page = index / PER_PAGE;
        let chunk = self.nth(self.array(root, file)?, page / PER_CHUNK)?;
        let address = self.element(chunk, 8, 8, page % PER_CHUNK);
        let page = self.word(address, 0)?;
        Ok(self.element(page, 0, SIZE, index % PER_PAGE))
    }
}
