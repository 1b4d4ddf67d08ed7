// SPDX-License-Identifier: GPL-2.0

//! Preservation of memfds across a live update.
//!
//! Content, size, position and seals of a memfd survive, and whether it may be executed. Files with
//! properties that the format cannot express are refused. While it is preserved, a file can be read
//! and written, but neither be truncated, extended, nor punched; its memory is pinned, and holes in
//! it are filled.
//!
//! | module       | subject                                                     |
//! |--------------|-------------------------------------------------------------|
//! | [`abi`]      | the format of what is handed over, and its checks           |
//! | [`incoming`] | files in the next kernel                                    |
//!
//! See Documentation/mm/memfd_preservation.rst.

use kernel::{
    bindings,
    fs::{
        file,
        File, //
    },
    initcall,
    kho::{
        vmalloc::Descriptor,
        Claimed, //
    },
    liveupdate::{
        FileHandler,
        Registration,
        RetrieveError, //
    },
    page::PAGE_SIZE,
    prelude::*,
    shmem::{
        FolioRecord,
        MappingFreeze,
        PreservedFolios,
        ShmemFile, //
    },
    sync::{
        aref::ARef,
        SetOnce, //
    }, //
};

#[path = "memfd_luo/abi.rs"]
mod abi;
#[path = "memfd_luo/incoming.rs"]
mod incoming;

use self::{
    abi::{
        ArraySer,
        FolioSer,
        FormatError,
        MemfdSer,
        Seals, //
    },
    incoming::Incoming, //
};

kernel::builtin_crate!(c"memfd_luo");

/// The structures that C knows as well have to look the same there.
mod layout {
    use super::*;
    use core::mem::offset_of;

    static_assert!(size_of::<MemfdSer>() == size_of::<bindings::memfd_luo_ser>());
    static_assert!(offset_of!(MemfdSer, pos) == offset_of!(bindings::memfd_luo_ser, pos));
    static_assert!(offset_of!(MemfdSer, size) == offset_of!(bindings::memfd_luo_ser, size));
    static_assert!(offset_of!(MemfdSer, seals) == offset_of!(bindings::memfd_luo_ser, seals));
    static_assert!(offset_of!(MemfdSer, flags) == offset_of!(bindings::memfd_luo_ser, flags));
    static_assert!(
        offset_of!(MemfdSer, nr_folios) == offset_of!(bindings::memfd_luo_ser, nr_folios)
    );
    static_assert!(offset_of!(MemfdSer, folios) == offset_of!(bindings::memfd_luo_ser, folios));
    static_assert!(size_of::<FolioSer>() == size_of::<bindings::memfd_luo_folio_ser>());
    static_assert!(size_of::<ArraySer>() == size_of::<Descriptor>());

    static_assert!(Seals::SEAL == bindings::F_SEAL_SEAL);
    static_assert!(Seals::SHRINK == bindings::F_SEAL_SHRINK);
    static_assert!(Seals::GROW == bindings::F_SEAL_GROW);
    static_assert!(Seals::WRITE == bindings::F_SEAL_WRITE);
    static_assert!(Seals::FUTURE_WRITE == bindings::F_SEAL_FUTURE_WRITE);
    static_assert!(Seals::EXEC == bindings::F_SEAL_EXEC);
}

impl From<FormatError> for Error {
    fn from(err: FormatError) -> Self {
        match err {
            FormatError::UnknownFlags | FormatError::UnknownSeals => EOPNOTSUPP,
            _ => EINVAL,
        }
    }
}

impl From<Descriptor> for ArraySer {
    fn from(descriptor: Descriptor) -> Self {
        let Descriptor {
            first,
            total_pages,
            flags,
            order,
        } = descriptor;
        Self {
            first,
            total_pages,
            flags,
            order,
        }
    }
}

impl From<ArraySer> for Descriptor {
    fn from(ser: ArraySer) -> Self {
        let ArraySer {
            first,
            total_pages,
            flags,
            order,
        } = ser;
        Self {
            first,
            total_pages,
            flags,
            order,
        }
    }
}

impl FolioRecord for FolioSer {
    const PFN_BITS: u32 = FolioSer::PFN_BITS;

    fn new(pfn: u64, index: u64) -> Self {
        // What holds now may not hold at the time of the kexec: a clean folio may be written to,
        // one without content may get some. So treat all of them as the most that they can become.
        FolioSer::new(pfn, FolioSer::DIRTY | FolioSer::UPTODATE, index)
    }
}

/// The largest file that a C kernel can restore, in pages.
///
/// It maps the whole array of folios, the addresses of whose pages have to fit into `INT_MAX` bytes.
const MAX_PAGES: u64 =
    (i32::MAX as u64 / size_of::<u64>() as u64) * (PAGE_SIZE / size_of::<FolioSer>()) as u64;

struct Memfd;

/// A memfd in the kernel that is left. Dropping this gives the file free again.
struct Outgoing {
    // The order matters: while there are pins, the mapping stays as it is.
    _folios: PreservedFolios<FolioSer>,
    freeze: MappingFreeze,
}

/// Checks whether the format has a place for all properties of `file` that user space relies on.
///
/// In particular, the next kernel's file must not allow more than this one does.
fn check_expressible(file: &ShmemFile) -> Result<Seals> {
    let flags = file.flags();
    let inode = file.inode();
    let seals = Seals::parse(file.seals())?;

    let comes_back_as_it_is = flags & file::flags::O_ACCMODE == file::flags::O_RDWR
        && flags & (file::flags::O_APPEND | file::flags::O_DIRECT) == 0
        && file.is_internal()
        && inode.mode() & 0o7777 == seals.mode();
    if comes_back_as_it_is {
        Ok(seals)
    } else {
        Err(EOPNOTSUPP)
    }
}

#[vtable]
impl FileHandler for Memfd {
    const COMPATIBLE: &'static CStr = c"memfd-v2";

    type Ser = MemfdSer;
    type Outgoing = Outgoing;
    type Incoming = Incoming;

    fn can_preserve(&self, file: &File) -> bool {
        ShmemFile::from_file(file).is_some_and(|file| file.inode().nlink() == 0)
    }

    /// Errors: EOPNOTSUPP (not expressible), EFBIG, EBUSY (already frozen by somebody else), ENOMEM,
    /// ENOSPC, EHWPOISON (broken memory in the file), EINTR (fatal signal).
    fn preserve(&self, file: &File, ser: &mut MemfdSer) -> Result<Outgoing> {
        let file = ShmemFile::from_file(file).ok_or(EOPNOTSUPP)?;
        // First of all, such that nobody can freeze a file that he is not allowed to write to.
        let seals = check_expressible(file)?;
        let freeze = MappingFreeze::new(file)?;
        let size = freeze.size();
        if abi::pages(size) > MAX_PAGES {
            return Err(EFBIG);
        }
        let folios = PreservedFolios::new(&freeze)?;

        *ser = MemfdSer {
            pos: file.pos(),
            size,
            seals: seals.bits(),
            flags: 0,
            nr_folios: folios.len() as u64,
            folios: folios.descriptor().into(),
        };
        Ok(Outgoing {
            _folios: folios,
            freeze,
        })
    }

    /// Position and seals may have changed since the file was preserved.
    fn freeze(&self, _file: &File, ser: &mut MemfdSer, outgoing: &mut Outgoing) -> Result {
        let file = outgoing.freeze.file();
        ser.seals = Seals::parse(file.seals())?.bits();
        ser.pos = file.pos();
        Ok(())
    }

    fn adopt(&self, ser: Claimed<MemfdSer>) -> Incoming {
        Incoming::new(ser)
    }

    fn retrieve(&self, incoming: &mut Incoming) -> Result<ARef<File>, RetrieveError> {
        incoming.retrieve()
    }

    fn file_id(file: &File) -> usize {
        kernel::fs::inode::Inode::from_file(file).id()
    }
}

static REGISTRATION: SetOnce<Pin<KBox<Registration<Memfd>>>> = SetOnce::new();

fn init() -> Result {
    match KBox::pin_init(Registration::new(Memfd), GFP_KERNEL) {
        Ok(registration) => {
            REGISTRATION.populate(registration);
            Ok(())
        }
        // Live updates are turned off.
        Err(EOPNOTSUPP) => Ok(()),
        Err(err) => {
            pr_err!(
                "memfds cannot be preserved: registration failed: {:?}\n",
                err
            );
            Err(err)
        }
    }
}
initcall!(late, init);
