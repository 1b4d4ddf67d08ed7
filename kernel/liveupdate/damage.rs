// SPDX-License-Identifier: GPL-2.0

//! Damages the data that is handed over, for tests of the next kernel.
//!
//! `liveupdate/damage` in debugfs takes lines of the form `PLACE = VALUE`, or `preserve PLACE`.
//! Right before the jump, after everything is serialized, they are applied in the order in which
//! they were written. See Documentation/core-api/liveupdate-injection.rst for places and values.

mod locator;

use self::locator::{
    Field,
    Locator, //
};
use crate::luo_core::Luo;
use kernel::{
    debugfs::{
        Dir,
        File,
        Reader, //
    },
    kho::{
        damage::LastMoment,
        PhysAddr, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    str::{
        parse_int::ParseInt,
        BStr, //
    },
    sync::{
        Mutex,
        SetOnce, //
    },
    uaccess::UserSliceReader, //
};

/// The beginning of the data that is handed over.
struct Roots {
    luo: u64,
    /// The list of vital data, if there is any.
    policy: Option<u64>,
}

/// The new value of a field.
enum Value {
    Number(u64),
    /// The old value plus this number.
    Plus(u64),
    Minus(u64),
    /// The address of the page that contains the field.
    Here,
    /// The value of another field.
    Copy(Locator),
    /// A string, padded with null bytes.
    Text(KVec<u8>),
    /// The same byte repeated, without a terminator.
    Fill(u8),
}

fn number(word: &str) -> Result<u64> {
    u64::from_str(BStr::from_bytes(word.as_bytes()))
}

impl Value {
    fn parse(text: &str) -> Result<Self> {
        if let Some(text) = text.strip_prefix('"') {
            let text = text.strip_suffix('"').ok_or(EINVAL)?;
            let mut bytes = KVec::new();
            bytes.extend_from_slice(text.as_bytes(), GFP_KERNEL)?;
            return Ok(Self::Text(bytes));
        }
        if let Some(byte) = text.strip_prefix("fill ") {
            return match byte.as_bytes() {
                &[byte] => Ok(Self::Fill(byte)),
                _ => Err(EINVAL),
            };
        }
        if let Some(delta) = text.strip_prefix('+') {
            return Ok(Self::Plus(number(delta)?));
        }
        if let Some(delta) = text.strip_prefix('-') {
            return Ok(Self::Minus(number(delta)?));
        }
        match text {
            "here" => Ok(Self::Here),
            text if text.starts_with(|c: char| c.is_ascii_digit()) => {
                Ok(Self::Number(number(text)?))
            }
            text => Ok(Self::Copy(Locator::parse(text)?)),
        }
    }

    /// Stores the new contents of `field` in `bytes`.
    fn fill(&self, roots: &Roots, moment: &LastMoment, field: &Field, bytes: &mut [u8]) -> Result {
        let old = || field.get(moment);
        let new = match self {
            Self::Number(number) => *number,
            Self::Plus(delta) => old()?.wrapping_add(*delta),
            Self::Minus(delta) => old()?.wrapping_sub(*delta),
            Self::Here => field.pa & !(PAGE_SIZE as u64 - 1),
            Self::Copy(place) => place.find(roots, moment)?.get(moment)?,
            Self::Text(text) => {
                bytes.fill(0);
                for (to, from) in bytes.iter_mut().zip(text) {
                    *to = *from;
                }
                return Ok(());
            }
            Self::Fill(byte) => {
                bytes.fill(*byte);
                return Ok(());
            }
        };
        field.put(moment, new, bytes)
    }
}

/// What to do with a field.
enum Act {
    Write(Value),
    /// Preserves the page whose address is in the field.
    Preserve,
}

/// A requested damage.
struct Damage {
    /// The line, for the log.
    line: KVec<u8>,
    place: Locator,
    act: Act,
}

impl Damage {
    fn parse(line: &str) -> Result<Self> {
        let (place, act) = match line.strip_prefix("preserve ") {
            Some(place) => (place, Act::Preserve),
            None => {
                let (place, value) = line.split_once('=').ok_or(EINVAL)?;
                (place, Act::Write(Value::parse(value.trim())?))
            }
        };
        let mut text = KVec::new();
        text.extend_from_slice(line.as_bytes(), GFP_KERNEL)?;
        Ok(Self {
            line: text,
            place: Locator::parse(place.trim())?,
            act,
        })
    }

    fn strike(&self, roots: &Roots, moment: &mut LastMoment) -> Result {
        let field = self.place.find(roots, moment)?;
        let value = match &self.act {
            Act::Write(value) => value,
            Act::Preserve => return moment.preserve(field.get(moment)?),
        };
        let mut buffer = [0; Field::MAX];
        let bytes = buffer.get_mut(..field.size).ok_or(EINVAL)?;
        value.fill(roots, moment, &field, bytes)?;
        moment.write(field.pa, bytes)
    }
}

/// The file `liveupdate/damage`.
#[pin_data]
struct Damages {
    #[pin]
    list: Mutex<KVec<Damage>>,
}

impl Reader for Damages {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut buffer = [0; 256];
        let text = buffer.get_mut(..reader.len()).ok_or(EINVAL)?;
        reader.read_slice(text)?;
        let line = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        let damage = Damage::parse(line.trim())?;
        self.list.lock().push(damage, GFP_KERNEL)?;
        Ok(())
    }
}

static DAMAGES: SetOnce<Pin<KBox<File<Damages>>>> = SetOnce::new();

/// Creates the file.
pub(crate) fn init(dir: &Dir) -> Result {
    let damages = pin_init!(Damages {
        list <- new_mutex!(KVec::new(), "luo_damages"),
    });
    DAMAGES.populate(KBox::pin_init(
        dir.write_only_file(c"damage", damages),
        GFP_KERNEL,
    )?);
    Ok(())
}

/// Applies all requested damage.
pub(crate) fn strike(luo: &Luo, mut moment: LastMoment) {
    let Some(damages) = DAMAGES.as_ref() else {
        return;
    };
    let Some((luo, policy)) = luo.outgoing.read().roots() else {
        return;
    };
    let roots = Roots {
        luo: luo.get(),
        policy: policy.map(PhysAddr::get),
    };
    for damage in damages.list.lock().iter() {
        let line = BStr::from_bytes(&damage.line);
        match damage.strike(&roots, &mut moment) {
            Ok(()) => pr_notice!("damaged: {}\n", line),
            Err(err) => pr_err!("cannot damage: {}: error {}\n", line, err.to_errno()),
        }
    }
}
