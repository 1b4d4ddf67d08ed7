// SPDX-License-Identifier: GPL-2.0

//! Files that are not part of any file system.
//!
//! They share a single inode, the anonymous one, and consist of a set of [`FileOperations`] and the
//! data of the file.
//!
//! C header: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use crate::{
    bindings,
    error::{
        from_err_ptr,
        from_result,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::{
        file::BadFdError,
        File,
        Kiocb,
        LocalFile, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    mm::virt::VmaNew,
    module::this_module,
    prelude::*,
    seq_file::SeqFile,
    sync::aref::ARef,
    types::{
        ForeignOwnable,
        NotThreadSafe, //
    }, //
};
use core::{
    any::TypeId,
    marker::PhantomData,
    ptr::{
        fn_addr_eq,
        NonNull, //
    }, //
};

/// Operations of the files that [`getfile`] creates.
///
/// All operations are called in process context, may sleep, and can be called for one file by
/// several threads at the same time. No operation runs when the data of the file is dropped.
#[vtable]
pub trait FileOperations: Sized + 'static {
    /// The data of a file. It is dropped with the last reference to the file.
    type Data: ForeignOwnable + Send + Sync + 'static;

    /// Reads from the file, at its position or at the offset of `pread()`.
    fn read_iter(_kiocb: Kiocb<'_, Self::Data>, _iov: &mut IovIterDest<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Writes to the file, at its position or at the offset of `pwrite()`.
    fn write_iter(_kiocb: Kiocb<'_, Self::Data>, _iov: &mut IovIterSource<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Maps the file to a program, while `vma` is being set up.
    fn mmap(
        _data: <Self::Data as ForeignOwnable>::Borrowed<'_>,
        _file: &File,
        _vma: &VmaNew,
    ) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Handles an ioctl.
    ///
    /// Also called for 32-bit programs, with an `arg` that is a valid pointer for
    /// [`UserSlice`](crate::uaccess::UserSlice). Argument structures must have the same layout for
    /// all programs.
    fn ioctl(
        _data: <Self::Data as ForeignOwnable>::Borrowed<'_>,
        _ctx: &IoctlContext<'_>,
        _cmd: u32,
        _arg: usize,
    ) -> Result<isize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Prints the additional lines of `/proc/PID/fdinfo/FD`.
    fn show_fdinfo(
        _data: <Self::Data as ForeignOwnable>::Borrowed<'_>,
        _m: &SeqFile,
        _file: &File,
    ) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// The context of an ioctl.
///
/// # Invariants
///
/// The current thread executes an ioctl, and therefore has no active `fdget_pos` calls.
pub struct IoctlContext<'a> {
    file: &'a File,
    _not_send: NotThreadSafe,
}

impl IoctlContext<'_> {
    /// The file on which the ioctl is called.
    #[inline]
    pub fn file(&self) -> &File {
        self.file
    }

    /// Returns the file of a file descriptor of the calling process.
    ///
    /// Unlike the result of [`LocalFile::fget`], it can be sent to other threads.
    ///
    /// # Errors
    ///
    /// [`BadFdError`], which is converted to `EBADF`, if the descriptor is not open.
    pub fn fget(&self, fd: u32) -> Result<ARef<File>, BadFdError> {
        let file = LocalFile::fget(fd)?;
        // SAFETY: By the type invariant; the context cannot leave the thread.
        Ok(unsafe { LocalFile::assume_no_fdget_pos(file) })
    }
}

/// Creates a file that owns `data`.
///
/// Its link in `/proc/PID/fd` reads `anon_inode:NAME`. `flags` are [`flags`](crate::fs::file::flags)
/// such as `O_RDWR`; flags that do not concern access or blocking are ignored.
///
/// # Errors
///
/// [`ENOMEM`], [`ENFILE`], or [`ENOENT`] if the module of `T` is about to be unloaded. `data` is
/// dropped in these cases.
///
/// # Context
///
/// May sleep.
///
/// # Examples
///
/// ```
/// use kernel::{
///     anon_inode::{self, IoctlContext},
///     fs::file::flags,
/// };
///
/// /// A file with an ioctl that returns a number.
/// struct Answer;
///
/// #[vtable]
/// impl anon_inode::FileOperations for Answer {
///     type Data = KBox<u32>;
///
///     fn ioctl(answer: &u32, _ctx: &IoctlContext<'_>, cmd: u32, _arg: usize) -> Result<isize> {
///         match cmd {
///             1 => Ok(isize::try_from(*answer)?),
///             _ => Err(ENOTTY),
///         }
///     }
/// }
///
/// let file = anon_inode::getfile::<Answer>(c"[answer]", KBox::new(42, GFP_KERNEL)?, flags::O_RDWR)?;
/// assert_eq!(anon_inode::data::<Answer>(&file), Some(&42));
///
/// /// Another kind of file.
/// struct Question;
///
/// #[vtable]
/// impl anon_inode::FileOperations for Question {
///     type Data = KBox<u32>;
/// }
///
/// assert_eq!(anon_inode::data::<Question>(&file), None);
/// # Ok::<(), Error>(())
/// ```
pub fn getfile<T: FileOperations>(name: &CStr, data: T::Data, flags: u32) -> Result<ARef<File>> {
    let table = &Operations::<T>::TABLE;
    let data = data.into_foreign();

    // SAFETY: The name is null-terminated and copied by the callee. The operations are static, and
    // valid for files with such private data.
    let file = from_err_ptr(unsafe {
        // CAST: The flags are few and not negative.
        bindings::anon_inode_getfile_fmode(
            name.as_char_ptr(),
            &table.fops,
            data,
            flags as c_int,
            table.mode,
        )
    })
    .and_then(|file| NonNull::new(file).ok_or(ENOMEM))
    .inspect_err(|_| {
        // SAFETY: `data` was made by `into_foreign` above, and no file owns it.
        drop(unsafe { T::Data::from_foreign(data) });
    })?;

    // SAFETY: The callee has returned a reference to a valid file. The file never was in a table of
    // file descriptors, so that there are no `fdget_pos` calls on it.
    Ok(unsafe { ARef::from_raw(file.cast()) })
}

/// Returns the data of `file`, if [`getfile::<T>`](getfile) created it.
pub fn data<T: FileOperations>(file: &File) -> Option<<T::Data as ForeignOwnable>::Borrowed<'_>> {
    // SAFETY: The file is valid, and neither field changes while there is a reference to it.
    let (fops, private_data) = unsafe { ((*file.as_ptr()).f_op, (*file.as_ptr()).private_data) };
    // SAFETY: All files have operations.
    let fop = unsafe { (*fops).release }?;
    if !fn_addr_eq(fop, release as ReleaseFop) {
        return None;
    }
    // SAFETY: By the type invariant of `Table`.
    let table = unsafe { &*fops.cast::<Table>() };
    if (table.type_id)() != TypeId::of::<T>() {
        return None;
    }
    // SAFETY: The file was created by `getfile::<T>`, which stored the data. As there is a
    // reference to the file, it is not being released.
    Some(unsafe { T::Data::borrow(private_data) })
}

type ReleaseFop = unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int;

/// The C operations, with the type to which they belong.
///
/// # Invariants
///
/// `fops.release` is [`release`], and operations with that function are part of a `Table`. All
/// files that have these operations were created by [`getfile`] for the same `T`, and `type_id` and
/// `drop_data` belong to this `T`.
#[repr(C)]
struct Table {
    fops: bindings::file_operations,
    mode: bindings::fmode_t,
    type_id: fn() -> TypeId,
    drop_data: unsafe fn(*mut c_void),
}

/// Drops the data of a file.
///
/// The same function for all types, by which [`data`] recognises the files. Must not be inlined,
/// which would create copies.
///
/// # Safety
///
/// `file` must be a file created by [`getfile`] that is being released.
#[inline(never)]
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: By the safety requirements, and the type invariant of `Table`.
    let (table, private_data) = unsafe { (&*(*file).f_op.cast::<Table>(), (*file).private_data) };
    // SAFETY: The file is released only once, and has the data of the type of the table.
    unsafe { (table.drop_data)(private_data) };
    0
}

/// The C operations that call those of `T`.
struct Operations<T: FileOperations>(PhantomData<T>);

impl<T: FileOperations> Operations<T> {
    // INVARIANT: The table is private, and `getfile::<T>` is the only function that uses it.
    const TABLE: Table = Table {
        fops: bindings::file_operations {
            owner: this_module::<T::OwnerModule>().as_ptr(),
            release: Some(release),
            read_iter: if T::HAS_READ_ITER {
                Some(Self::read_iter)
            } else {
                None
            },
            write_iter: if T::HAS_WRITE_ITER {
                Some(Self::write_iter)
            } else {
                None
            },
            mmap: if T::HAS_MMAP { Some(Self::mmap) } else { None },
            unlocked_ioctl: if T::HAS_IOCTL {
                Some(Self::ioctl)
            } else {
                None
            },
            #[cfg(CONFIG_COMPAT)]
            compat_ioctl: if T::HAS_IOCTL {
                bindings::compat_ptr_ioctl
            } else {
                None
            },
            show_fdinfo: if T::HAS_SHOW_FDINFO {
                Some(Self::show_fdinfo)
            } else {
                None
            },
            ..pin_init::zeroed()
        },
        mode: if T::HAS_READ_ITER {
            bindings::FMODE_PREAD
        } else {
            0
        } | if T::HAS_WRITE_ITER {
            bindings::FMODE_PWRITE
        } else {
            0
        },
        type_id: TypeId::of::<T>,
        drop_data: Self::drop_data,
    };

    /// # Safety
    ///
    /// `data` must be from `T::Data::into_foreign()`, and must not be used any more.
    unsafe fn drop_data(data: *mut c_void) {
        // SAFETY: By the safety requirements.
        drop(unsafe { T::Data::from_foreign(data) });
    }

    /// # Safety
    ///
    /// `kiocb` must be valid, for a file created by [`getfile::<T>`](getfile), and `iter` must be
    /// valid for writing to it.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let (kiocb, iov) = unsafe { (Kiocb::from_raw(kiocb), IovIterDest::from_raw(iter)) };
        match T::read_iter(kiocb, iov) {
            // CAST: As the C functions do; there cannot be more than `isize::MAX` bytes.
            Ok(len) => len as isize,
            // CAST: Error numbers are small.
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `kiocb` must be valid, for a file created by [`getfile::<T>`](getfile), and `iter` must be
    /// valid for reading from it.
    unsafe extern "C" fn write_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: By the safety requirements.
        let (kiocb, iov) = unsafe { (Kiocb::from_raw(kiocb), IovIterSource::from_raw(iter)) };
        match T::write_iter(kiocb, iov) {
            // CAST: See `read_iter`.
            Ok(len) => len as isize,
            // CAST: See `read_iter`.
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `file` must be valid and created by [`getfile::<T>`](getfile), and `vma` must be valid and
    /// being set up for it.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: By the safety requirements, and `getfile` stored the data. A caller of `mmap()` has no
        // active `fdget_pos` calls.
        let (data, file, vma) = unsafe {
            (
                T::Data::borrow((*file).private_data),
                File::from_raw_file(file),
                VmaNew::from_raw(vma),
            )
        };
        from_result(|| T::mmap(data, file, vma).map(|()| 0))
    }

    /// # Safety
    ///
    /// `file` must be valid and created by [`getfile::<T>`](getfile), and the caller must be an
    /// ioctl.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The data exists until the file is released, which waits for the ioctl.
        let data = unsafe { T::Data::borrow((*file).private_data) };
        // INVARIANT: By the safety requirements.
        let ctx = IoctlContext {
            // SAFETY: The file is valid for the duration of this call, and ioctls do not take the
            // lock of the file position.
            file: unsafe { File::from_raw_file(file) },
            _not_send: NotThreadSafe,
        };
        from_result(|| T::ioctl(data, &ctx, cmd, arg))
    }

    /// # Safety
    ///
    /// `file` must be valid and created by [`getfile::<T>`](getfile), and `m` must be valid for
    /// writing.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: The caller has a reference to the file, so that it is not released during this
        // call.
        let data = unsafe { T::Data::borrow((*file).private_data) };
        // SAFETY: By the safety requirements. The lock of a position that the thread may hold is
        // that of the file in `/proc`.
        let (m, file) = unsafe { (SeqFile::from_raw(m), File::from_raw_file(file)) };
        T::show_fdinfo(data, m, file);
    }
}
