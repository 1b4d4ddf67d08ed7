// SPDX-License-Identifier: GPL-2.0

//! Preservation of memfds across a live update.
//!
//! Content, size, position, seals and execute permission of a memfd are preserved. Files with
//! properties that the format cannot express are refused. While it is preserved, a file can be read
//! and written, but not truncated, extended, or punched; its memory is pinned. Holes stay holes.
//! Holes that are filled before the kexec are preserved during the freeze.
//!
//! | module         | subject                                                   |
//! |----------------|-----------------------------------------------------------|
//! | [`abi`]        | the format of handed over data, and its checks            |
//! | [`preserved`]  | the memory of preserved files                             |
//! | [`mover`]      | a worker that moves folios of large files                 |
//! | [`pages`]      | the pages of a file that have memory                      |
//! | [`incoming`]   | files in the next kernel                                  |
//! | [`content`]    | their content, before there is a file                     |
//! | [`mod@hugetlb`] | memfds of huge pages                                     |
//! | [`mod@guest_memfd`] | memory of guests                                     |
//! | [`mod@checkpoint`] | interruption of long operations                           |
//! | [`ops`]        | shmem, page cache and KHO; the only `unsafe` code         |
//!
//! See Documentation/mm/memfd_preservation.rst.

#![deny(unsafe_code)]

use kernel::{
    bindings,
    fs::{
        file,
        inode::Inode,
        File, //
    },
    kho::{
        vmalloc::Descriptor,
        Claimed, //
    },
    liveupdate::{
        session::{
            IncomingSession,
            OutgoingSession, //
        },
        FileHandler,
        Origin,
        RetrieveError, //
    },
    mm::{
        locked::LockedPages,
        memfd,
        shmem::{
            MappingFreeze,
            ShmemFile, //
        }, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

// Some errors are about huge pages only, or about memory of guests.
#[cfg_attr(not(all(CONFIG_HUGETLBFS, CONFIG_KVM_LIVEUPDATE)), allow(dead_code))]
#[path = "memfd_luo/abi.rs"]
mod abi;
#[path = "memfd_luo/checkpoint.rs"]
mod checkpoint;
#[path = "memfd_luo/content.rs"]
mod content;
#[cfg(CONFIG_KVM_LIVEUPDATE)]
#[path = "memfd_luo/guest_memfd.rs"]
mod guest_memfd;
#[cfg(CONFIG_HUGETLBFS)]
#[path = "memfd_luo/hugetlb.rs"]
mod hugetlb;
#[path = "memfd_luo/incoming.rs"]
mod incoming;
#[cfg(CONFIG_LIVEUPDATE_KUNIT_TEST)]
#[path = "memfd_luo/kunit.rs"]
mod kunit;
#[path = "memfd_luo/mover.rs"]
mod mover;
#[path = "memfd_luo/ops.rs"]
mod ops;
#[path = "memfd_luo/pages.rs"]
mod pages;
#[path = "memfd_luo/preserved.rs"]
mod preserved;

#[cfg(CONFIG_KVM_LIVEUPDATE)]
use self::guest_memfd::GuestMemfd;
#[cfg(CONFIG_HUGETLBFS)]
use self::hugetlb::{
    Hugetlb,
    POOL, //
};
use self::{
    abi::{
        ArraySer,
        FolioSer,
        FormatError,
        MemfdSer,
        Seals, //
    },
    content::Shmem,
    incoming::{
        understands,
        Incoming, //
    },
    ops::HandedOver,
    preserved::PreservedFolios, //
};

kernel::builtin_crate!(c"memfd_luo");

/// The layout of the structures is the same as in C.
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
            FormatError::UnknownFlags | FormatError::UnknownSeals | FormatError::UnknownOrder => {
                EOPNOTSUPP
            }
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

/// The most folios that a C kernel can restore.
///
/// It maps the whole array, and the addresses of its pages must fit into `INT_MAX` bytes.
const MAX_FOLIOS: u64 =
    (i32::MAX as u64 / size_of::<u64>() as u64) * (PAGE_SIZE / size_of::<FolioSer>()) as u64;

struct Memfd;

/// The result of preparing a memfd to be preserved.
struct Prepared {
    /// The argument for [`check_expressible`].
    origin: Origin,
    /// Empty. The limit is that of the task which asks for the file to be preserved.
    locked: LockedPages,
    freeze: MappingFreeze,
}

/// A preserved memfd in this kernel. Dropping this unpreserves it.
struct Outgoing {
    // The order of the fields is relevant: while there are pins, the mapping must not change.
    handed_over: Option<HandedOver>,
    folios: PreservedFolios,
    freeze: MappingFreeze,
}

impl Outgoing {
    fn describe(&self, seals: Seals) -> Result<MemfdSer> {
        let nr_folios = self.folios.len() as u64;
        if nr_folios > MAX_FOLIOS {
            return Err(EFBIG);
        }
        Ok(MemfdSer {
            pos: self.freeze.file().pos(),
            size: self.freeze.size(),
            seals: seals.bits(),
            flags: 0,
            nr_folios,
            folios: self.folios.descriptor().into(),
        })
    }
}

/// Checks whether the format can express all properties of `file` on which user space relies.
///
/// In particular, the file in the next kernel must not have more permissions. For a file that was
/// retrieved, these are the properties with which it was preserved, even if its users have changed
/// them since then; but seals that were added must not make it executable.
fn check_expressible(file: &File, seals: u32, origin: Origin) -> Result<Seals> {
    let flags = file.flags();
    let inode = Inode::from_file(file);
    let seals = Seals::parse(seals)?;

    if origin == Origin::Retrieved {
        let becomes_executable =
            seals.bits() & Seals::EXEC != 0 && seals.mode() & 0o111 & !inode.mode() != 0;
        return if becomes_executable {
            Err(EOPNOTSUPP)
        } else {
            Ok(seals)
        };
    }
    let comes_back_as_it_is = flags & file::flags::O_ACCMODE == file::flags::O_RDWR
        && flags & (file::flags::O_APPEND | file::flags::O_DIRECT) == 0
        && memfd::is_internal(file)
        && inode.mode() & 0o7777 == seals.mode();
    if comes_back_as_it_is {
        Ok(seals)
    } else {
        Err(EOPNOTSUPP)
    }
}

kernel::builtin_file_handler!(Memfd);
#[cfg(CONFIG_HUGETLBFS)]
kernel::builtin_file_handler!(Hugetlb, flbs: [POOL]);
#[cfg(CONFIG_KVM_LIVEUPDATE)]
kernel::builtin_file_handler!(GuestMemfd);

#[vtable]
impl FileHandler for Memfd {
    const COMPATIBLE: &'static CStr = c"memfd-v2";

    type Ser = MemfdSer;
    type Prepared = Option<Prepared>;
    type Outgoing = Outgoing;
    type Incoming = Incoming<Shmem>;

    fn can_preserve(&self, file: &File) -> bool {
        ShmemFile::from_file(file).is_some_and(|file| file.inode().nlink() == 0)
    }

    /// Waits for tasks that write to the file.
    ///
    /// Errors: EOPNOTSUPP (not expressible), EBUSY (already frozen), EINTR (fatal signal).
    fn prepare(&self, file: &File, origin: Origin) -> Result<Option<Prepared>> {
        let file = ShmemFile::from_file(file).ok_or(EOPNOTSUPP)?;
        // Comes first, so that a task cannot freeze a file that it must not write to.
        check_expressible(file, file.seals(), origin)?;
        Ok(Some(Prepared {
            origin,
            locked: LockedPages::new()?,
            freeze: MappingFreeze::new(file)?,
        }))
    }

    /// Errors: EOPNOTSUPP (not expressible), EFBIG, EBUSY (a kexec waits), ENOMEM (also
    /// RLIMIT_MEMLOCK), EINTR (fatal signal).
    fn preserve(
        &self,
        _file: &File,
        prepared: &mut Option<Prepared>,
        ser: &mut MemfdSer,
        _session: &OutgoingSession<'_>,
    ) -> Result<Outgoing> {
        let Prepared {
            origin,
            locked,
            freeze,
        } = prepared.as_ref().ok_or(EINVAL)?;
        // From now on, the mode cannot change, and the open flags are not checked again.
        let file = freeze.file();
        let seals = check_expressible(file, file.seals(), *origin)?;
        let folios = PreservedFolios::new(freeze, locked.another())?;
        let Prepared { freeze, .. } = prepared.take().ok_or(EINVAL)?;
        let outgoing = Outgoing {
            handed_over: None,
            folios,
            freeze,
        };
        *ser = outgoing.describe(seals)?;
        Ok(outgoing)
    }

    /// Saves changes since the file was preserved: filled holes and added seals.
    ///
    /// Errors: EOPNOTSUPP (unknown seals), ENOMEM, EFBIG.
    fn freeze(&self, _file: &File, ser: &mut MemfdSer, outgoing: &mut Outgoing) -> Result {
        let handed_over = HandedOver::new(&outgoing.freeze);
        // Nothing can be added from here on. The open flags of the file and its mode are those at
        // PRESERVE_FD: a task that shares the file must not be able to abort the kexec.
        let seals = Seals::parse(outgoing.freeze.file().seals())?;
        outgoing.folios.update(&handed_over)?;
        *ser = outgoing.describe(seals)?;
        outgoing.handed_over = Some(handed_over);
        Ok(())
    }

    fn set_dma_target(&self, ser: &mut MemfdSer) {
        ser.flags |= MemfdSer::DMA_TARGET;
    }

    fn unfreeze(&self, _file: &File, _ser: &mut MemfdSer, outgoing: &mut Outgoing) {
        outgoing.handed_over = None;
    }

    fn understands(ser: &MemfdSer) -> Result {
        understands::<Shmem>(ser)
    }

    fn adopt(&self, ser: Claimed<MemfdSer>) -> Incoming<Shmem> {
        Incoming::new(ser)
    }

    fn retrieve(
        &self,
        incoming: &mut Incoming<Shmem>,
        _session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        incoming.retrieve(&())
    }

    fn file_id(file: &File) -> usize {
        Inode::from_file(file).id()
    }
}
