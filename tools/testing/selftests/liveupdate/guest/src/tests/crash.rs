// SPDX-License-Identifier: GPL-2.0

//! A kernel that crashes after an update: its memory can be examined, including the memory that
//! was handed over.

use crate::support::{
    error::{ensure, ensure_eq, At, Result},
    kexec,
    mapping::{frames, map_shared},
    memfd,
    registry::{Case, Suite},
    sessions::{create, retrieve},
};
use std::{fs::File, os::unix::fs::FileExt};

/// The group of this suite, which needs a machine with memory for a crash kernel.
const GROUP: &str = "machines";

const PAGE: usize = 4096;
const WORDS: u64 = (PAGE / size_of::<u64>()) as u64;

/// The contents of a word of the page.
fn word(number: u64) -> u64 {
    0x6c75_6f2d_6372_0000 | number
}

/// The memory of the kernel that has crashed: a core file.
struct Core(File);

impl Core {
    fn open() -> Result<Self> {
        const PATH: &str = "/proc/vmcore";
        File::open(PATH).map(Self).at(PATH)
    }

    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0
            .read_exact_at(&mut bytes, at)
            .at(format_args!("read the core file at {at:#x}"))?;
        Ok(bytes)
    }

    fn number(&self, at: u64) -> Result<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// The segments of a kind: position in the file, physical address, length.
    fn segments(&self, kind: u32) -> Result<Vec<[u64; 3]>> {
        ensure_eq!(self.bytes(0)?, *b"\x7fELF", "the first bytes");
        let start = self.number(32)?;
        let [size, count] = [self.bytes(54)?, self.bytes(56)?].map(u16::from_le_bytes);
        let mut found = Vec::new();
        for number in 0..u64::from(count) {
            let at = start + number * u64::from(size);
            if u32::from_le_bytes(self.bytes(at)?) == kind {
                found.push([
                    self.number(at + 8)?,
                    self.number(at + 24)?,
                    self.number(at + 32)?,
                ]);
            }
        }
        Ok(found)
    }

    /// Whether a note has this text.
    fn has_note(&self, text: &str) -> Result<bool> {
        const NOTE: u32 = 4;
        for [position, _, len] in self.segments(NOTE)? {
            let mut notes = vec![0; len as usize];
            self.0
                .read_exact_at(&mut notes, position)
                .at("read the notes")?;
            if notes
                .windows(text.len())
                .any(|found| found == text.as_bytes())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The position of a physical address in the file.
    fn find(&self, address: u64) -> Result<u64> {
        const LOAD: u32 = 1;
        let segments = self.segments(LOAD)?.into_iter();
        let mut found = segments.filter_map(|[position, start, len]| {
            let within = address.checked_sub(start)?;
            (within < len).then_some(position + within)
        });
        found
            .next()
            .at(format_args!("the core file has no {address:#x}"))
    }
}

fn after_an_update() -> Case {
    const NAME: &str = "after_an_update";
    Case::with_parts(
        NAME,
        vec![
            Box::new(|stage| {
                let file = memfd::new()?;
                for number in 0..WORDS {
                    file.write_all_at(&word(number).to_le_bytes(), number * 8)
                        .at("write")?;
                }
                let session = create(NAME)?;
                session.preserve(&file, 1)?;
                stage.hold((session, file));
                Ok(())
            }),
            Box::new(|stage| {
                let session = retrieve(NAME)?;
                let file = File::from(session.retrieve(1)?);
                let memory = map_shared(&file, 0, PAGE as u64)?;
                // SAFETY: The mapping has this word.
                let first = unsafe { memory.cast::<u64>().read_volatile() };
                ensure_eq!(first, word(0), "the first word");
                for frame in frames(memory, 1)? {
                    stage.put("address", frame * PAGE as u64)?;
                }
                stage.hold((session, file));
                stage.last(|| kexec::crash(3));
                Ok(())
            }),
            Box::new(|stage| {
                let core = Core::open()?;
                ensure!(core.has_note("VMCOREINFO")?, "VMCOREINFO is missing");
                let at = core.find(stage.get("address")?)?;
                for number in 0..WORDS {
                    ensure_eq!(core.number(at + number * 8)?, word(number), "word {number}");
                }
                Ok(())
            }),
        ],
    )
}

pub fn suite() -> Suite {
    Suite {
        group: GROUP,
        // A suite with parameters only runs if it is named.
        cmdline: "liveupdate=on",
        ..Suite::new("crash", vec![after_an_update()])
    }
}
