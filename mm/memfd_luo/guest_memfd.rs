// SPDX-License-Identifier: GPL-2.0

//! Preservation of memory of guests (`guest_memfd`).
//!
//! Content and flags are preserved. A guest_memfd belongs to a VM, whose file must be preserved before,
//! in the same session; in the next kernel, it belongs to the VM that was retrieved. While it is
//! preserved, a guest can read and write its memory, but holes stay holes: a page fault that needs a new
//! folio fails, and so does punching holes.
//!
//! Not supported: memory that is not shared with user space, policies of nodes, and pages that have bad
//! memory at PRESERVE_FD.
//!
//! | module      | subject                                            |
//! |-------------|----------------------------------------------------|
//! | [`abi`]     | the format of handed over data, and its checks     |
//! | [`content`] | files in the next kernel                           |
//! | [`ops`]     | KVM and the page cache; the only `unsafe` code     |

use super::{
    abi as memfd_abi,
    checkpoint::checkpoint,
    incoming::{
        understands,
        Incoming, //
    },
    ops::PinnedRecords,
    pages::BATCH, //
};
use kernel::{
    bindings,
    fs::{
        inode::Inode,
        File, //
    },
    kho::Claimed,
    liveupdate::{
        session::{
            IncomingSession,
            OutgoingSession, //
        },
        FileHandler,
        Origin,
        RetrieveError, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

#[path = "guest_memfd/abi.rs"]
mod abi;
#[path = "guest_memfd/content.rs"]
mod content;
#[cfg(CONFIG_LIVEUPDATE_KUNIT_TEST)]
#[path = "guest_memfd/kunit.rs"]
mod kunit;
#[path = "guest_memfd/ops.rs"]
mod ops;

use self::{
    abi::GuestMemfdSer,
    content::GuestMemory,
    ops::{
        is_guest_memfd,
        Frozen, //
    }, //
};

/// The layout of the structures is the same as in C.
mod layout {
    use super::*;
    use core::mem::offset_of;

    use bindings::guest_memfd_luo_ser as Theirs;

    static_assert!(size_of::<GuestMemfdSer>() == size_of::<Theirs>());
    static_assert!(offset_of!(GuestMemfdSer, size) == offset_of!(Theirs, size));
    static_assert!(offset_of!(GuestMemfdSer, flags) == offset_of!(Theirs, flags));
    static_assert!(offset_of!(GuestMemfdSer, vm_token) == offset_of!(Theirs, vm_token));
    static_assert!(offset_of!(GuestMemfdSer, nr_folios) == offset_of!(Theirs, nr_folios));
    static_assert!(offset_of!(GuestMemfdSer, folios) == offset_of!(Theirs, folios));
}

/// Pins and preserves all folios of a file. May sleep.
///
/// # Errors
///
/// [`EHWPOISON`] if there is bad memory, unless the file was retrieved, see
/// [`preserve_pages`](super::hugetlb); [`ENOMEM`]; what [`checkpoint`] and KHO fail with.
fn preserve_folios(frozen: &Frozen, origin: Origin) -> Result<PinnedRecords> {
    let limit = Inode::from_file(frozen.file()).size() / PAGE_SIZE as u64;
    let mut records = PinnedRecords::new();
    let mut next = 0;
    while next < limit {
        checkpoint()?;
        let folios = frozen.pin(next..limit, BATCH)?;
        let Some(last) = folios.last() else {
            break;
        };
        next = last.index().checked_add(1).ok_or(EFBIG)?;
        for folio in &folios {
            if origin == Origin::New && folio.contains_hwpoison() {
                return Err(EHWPOISON);
            }
            // Memory that was only allocated.
            folio.lock().ensure_uptodate();
        }
        records.merge(folios)?;
    }
    Ok(records)
}

/// The handler, which the root of the crate registers.
pub(crate) struct GuestMemfd;

/// A file in the kernel that is left. Dropping this ends its preservation.
pub(crate) struct Outgoing {
    // The order of the fields is relevant: while there are pins, the file must not change.
    _folios: PinnedRecords,
    _frozen: Frozen,
}

#[vtable]
impl FileHandler for GuestMemfd {
    const COMPATIBLE: &'static CStr = c"guest-memfd-v1";

    type Ser = GuestMemfdSer;
    type Prepared = Option<(Frozen, Origin)>;
    type Outgoing = Outgoing;
    type Incoming = Incoming<GuestMemory>;

    fn can_preserve(&self, file: &File) -> bool {
        is_guest_memfd(file)
    }

    /// Waits for those who change the file.
    ///
    /// Errors: EOPNOTSUPP (memory that is not shared), EBUSY (already frozen), EINTR (fatal signal).
    fn prepare(&self, file: &File, origin: Origin) -> Result<Option<(Frozen, Origin)>> {
        Ok(Some((Frozen::new(file)?, origin)))
    }

    /// Errors: ENOENT (the VM is not preserved in this session), EHWPOISON (bad memory), EBUSY (a kexec
    /// waits), ENOMEM, EINTR (fatal signal).
    fn preserve(
        &self,
        _file: &File,
        prepared: &mut Option<(Frozen, Origin)>,
        ser: &mut GuestMemfdSer,
        session: &OutgoingSession<'_>,
    ) -> Result<Outgoing> {
        let (frozen, origin) = prepared.as_ref().ok_or(EINVAL)?;
        let vm_token = session.token(&*frozen.vm().ok_or(ENOENT)?)?;
        let folios = preserve_folios(frozen, *origin)?;
        *ser = GuestMemfdSer {
            size: Inode::from_file(frozen.file()).size(),
            flags: frozen.flags(),
            vm_token,
            nr_folios: folios.len() as u64,
            folios: folios.descriptor().into(),
        };
        let (frozen, _) = prepared.take().ok_or(EINVAL)?;
        Ok(Outgoing {
            _folios: folios,
            _frozen: frozen,
        })
    }

    fn understands(ser: &GuestMemfdSer) -> Result {
        understands::<GuestMemory>(ser)
    }

    fn adopt(&self, ser: Claimed<GuestMemfdSer>) -> Incoming<GuestMemory> {
        Incoming::new(ser)
    }

    /// Retrieves the VM, and creates the file for it.
    ///
    /// Errors: those of retrieving the VM and of creating the file. Permanent: EINVAL, EOPNOTSUPP
    /// (malformed data).
    fn retrieve(
        &self,
        incoming: &mut Incoming<GuestMemory>,
        session: &IncomingSession<'_>,
    ) -> Result<ARef<File>, RetrieveError> {
        let vm = session.file(incoming.ser().vm_token)?;
        incoming.retrieve(&vm)
    }

    fn file_id(file: &File) -> usize {
        Inode::from_file(file).id()
    }
}
