// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/liveupdate`: information that is needed before a kexec.
//!
//! | file         | content                                                                  |
//! |--------------|--------------------------------------------------------------------------|
//! | `compatible` | the supported formats, which are also listed in the image of this kernel |
//! | `in_use`     | the formats that would be handed over now                                |
//! | `unread`     | unused data of the previous kernel: `keep` or `drop`, writable |
//! | `image`      | what a kexec would start: `none`, or an image `with` or `without` Kexec Handover |

use crate::{
    abi::LuoSer,
    luo_core::Luo,
    root, //
};
use kernel::{
    bindings,
    fmt,
    kho::{
        self,
        LoadedImage, //
    },
    liveupdate::format,
    prelude::*,
    str::{
        BStr,
        CString, //
    },
    sync::SetOnce,
    sysfs::{
        Attribute,
        Dir,
        Show,
        Store, //
    }, //
};

/// The format of Kexec Handover itself.
const KHO: &CStr = name(bindings::KHO_FDT_COMPATIBLE);

/// The format of sessions.
const LUO: &CStr = name(&LuoSer::COMPATIBLE);

const fn name(field: &[u8]) -> &CStr {
    match CStr::from_bytes_until_nul(field) {
        Ok(name) => name,
        Err(_) => panic!("not terminated"),
    }
}

kernel::declare_compatible!(KHO);
kernel::declare_compatible!(LUO);

/// Formats of the base's test module, which does not add them to the list.
#[cfg(CONFIG_LIVEUPDATE_TEST)]
mod test {
    kernel::declare_compatible!(c"liveupdate-test-flb-v0");
    kernel::declare_compatible!(c"liveupdate-test-flb-v1");
    kernel::declare_compatible!(c"liveupdate-test-flb-v2");
}

/// Names, one per line, each once.
#[derive(Default)]
struct Names(KVec<CString>);

impl Names {
    fn add(&mut self, name: &[u8]) -> Result {
        if !self.0.iter().any(|other| other.to_bytes() == name) {
            let name = CString::try_from_fmt(fmt!("{}", BStr::from_bytes(name)))?;
            self.0.push(name, GFP_KERNEL)?;
        }
        Ok(())
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|name| writeln!(f, "{}", fmt::Adapter(BStr::from_bytes(name.to_bytes()))))
    }
}

/// The file `compatible`.
struct Supported;

impl Show for Supported {
    const NAME: &'static CStr = c"compatible";

    fn show() -> Result<impl fmt::Display> {
        let mut names = Names::default();
        for format in format::supported() {
            names.add(format.name())?;
        }
        Ok(names)
    }
}

/// The file `in_use`.
struct InUse;

impl Show for InUse {
    const NAME: &'static CStr = c"in_use";
    /// Reading it takes the locks of sessions, and reads the data of the previous kernel.
    const ROOT_ONLY: bool = true;

    /// Errors: EINTR, ENOMEM. A part of the list is never returned.
    fn show() -> Result<impl fmt::Display> {
        let mut names = Names::default();
        let luo = Luo::get().ok_or(ENODEV)?;
        let mut sessions = false;
        {
            let outgoing = luo.outgoing.read_killable()?;
            for session in outgoing.iter() {
                sessions = true;
                session.formats(&mut |name| names.add(name))?;
            }
        }
        {
            let mut incoming = luo.incoming.write_killable()?;
            incoming.load()?;
            for session in incoming.iter() {
                sessions = true;
                session.formats(&mut |name| names.add(name))?;
            }
        }
        if sessions {
            names.add(KHO.to_bytes())?;
            names.add(LUO.to_bytes())?;
            luo.context
                .handlers
                .flbs
                .formats(&mut |name| names.add(name))?;
        }
        Ok(names)
    }
}

/// The file `image`.
struct Image;

impl Show for Image {
    const NAME: &'static CStr = c"image";
    /// Addresses of the kernel are read without a lock; see [`kho::loaded_image`].
    const ROOT_ONLY: bool = true;

    fn show() -> Result<impl fmt::Display> {
        Ok(match kho::loaded_image() {
            LoadedImage::None => "none\n",
            LoadedImage::WithHandover => "with\n",
            LoadedImage::WithoutHandover => "without\n",
        })
    }
}

/// The file `unread`.
struct Unread;

impl Show for Unread {
    const NAME: &'static CStr = c"unread";
    const ROOT_ONLY: bool = true;

    fn show() -> Result<impl fmt::Display> {
        Ok(match root::given_up() {
            Some(true) => "drop\n",
            Some(false) => "keep\n",
            None => "",
        })
    }
}

impl Store for Unread {
    fn store(text: &[u8]) -> Result {
        match text {
            b"drop" => root::give_up(true),
            b"keep" => root::give_up(false),
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}

static SUPPORTED: Attribute = Attribute::new::<Supported>();
static IN_USE: Attribute = Attribute::new::<InUse>();
static IMAGE: Attribute = Attribute::new::<Image>();
static UNREAD: Attribute = Attribute::writable::<Unread>();

/// The directory is never removed.
static DIR: SetOnce<Dir> = SetOnce::new();

/// Creates the files.
pub(crate) fn init() -> Result {
    let is_on = Luo::get().is_some();
    let has_unread = root::given_up().is_some();
    if !is_on && !has_unread {
        return Ok(());
    }
    let dir = Dir::new(c"liveupdate")?;
    if is_on {
        for file in [&SUPPORTED, &IN_USE, &IMAGE] {
            dir.add(file)?;
        }
    }
    if has_unread {
        dir.add(&UNREAD)?;
    }
    DIR.populate(dir);
    Ok(())
}
