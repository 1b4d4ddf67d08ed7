// SPDX-License-Identifier: GPL-2.0

//! A kernel read-write semaphore.
//!
//! This is not a [`lock::Backend`], which is for locks with a single owner.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)
//!
//! [`lock::Backend`]: super::lock::Backend

use super::LockClassKey;
use crate::{
    bindings,
    error::to_result,
    prelude::*,
    sched::resched_or_killed,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomPinned,
    ops::{
        Deref,
        DerefMut, //
    }, //
};
use pin_init::Wrapper;

/// Creates an [`RwSemaphore`] initialiser with the given name and a newly-created lock class.
///
/// It uses the name if one is given, otherwise it generates one based on the file name and line
/// number.
#[macro_export]
macro_rules! new_rwsem {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::sync::RwSemaphore::new(
            $inner, $crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}
pub use new_rwsem;

/// A sleeping lock that is held either by one writer or by any number of readers.
///
/// Exposes the kernel's [`struct rw_semaphore`]. A waiting writer blocks new readers. A task must
/// therefore not acquire a semaphore that it already holds, not even twice for reading: it would
/// wait for the writer, which waits for the task.
///
/// All functions other than `try_read` and `try_write` may sleep. None of them may be called in
/// interrupt context.
///
/// # Examples
///
/// Readers share the data, and a writer has exclusive access.
///
/// ```
/// use kernel::sync::{new_rwsem, RwSemaphore};
///
/// #[pin_data]
/// struct Registry {
///     #[pin]
///     entries: RwSemaphore<KVec<u32>>,
/// }
///
/// impl Registry {
///     fn new() -> impl PinInit<Self> {
///         pin_init!(Self {
///             entries <- new_rwsem!(KVec::new(), "Registry::entries"),
///         })
///     }
///
///     fn add(&self, entry: u32) -> Result {
///         Ok(self.entries.write().push(entry, GFP_KERNEL)?)
///     }
///
///     fn contains(&self, entry: u32) -> bool {
///         self.entries.read().contains(&entry)
///     }
/// }
///
/// let registry = KBox::pin_init(Registry::new(), GFP_KERNEL)?;
/// registry.add(42)?;
/// assert!(registry.contains(42));
/// assert!(!registry.contains(43));
/// # Ok::<(), Error>(())
/// ```
///
/// A guard excludes others as long as it exists.
///
/// ```
/// use kernel::{sync::new_rwsem, time::Delta};
///
/// let sem = KBox::pin_init(new_rwsem!(1), GFP_KERNEL)?;
///
/// let reader = sem.read();
/// assert_eq!(*reader, 1);
/// assert!(sem.try_write().is_none());
/// drop(reader);
///
/// let mut writer = sem.write_killable()?;
/// *writer += 1;
/// assert!(sem.try_read().is_none());
/// assert!(sem.try_write().is_none());
/// drop(writer);
///
/// let reader = sem.read();
/// let patience = Delta::from_millis(1);
/// assert_eq!(sem.write_killable_timeout(patience).err(), Some(ETIMEDOUT));
/// drop(reader);
/// assert!(sem.write_killable_timeout(patience).is_ok());
///
/// assert_eq!(*sem.read_killable()?, 2);
/// assert_eq!(sem.try_read().map(|value| *value), Some(2));
/// assert_eq!(sem.try_write().map(|value| *value), Some(2));
/// # Ok::<(), Error>(())
/// ```
///
/// [`struct rw_semaphore`]: srctree/include/linux/rwsem.h
#[pin_data]
pub struct RwSemaphore<T: ?Sized> {
    /// The kernel's `struct rw_semaphore`, which was initialised.
    #[pin]
    sem: Opaque<bindings::rw_semaphore>,

    /// A semaphore contains a list of waiters, and must not be moved.
    #[pin]
    _pin: PhantomPinned,

    /// The data that is protected.
    #[pin]
    data: UnsafeCell<T>,
}

// SAFETY: A semaphore that is not held may be sent to other threads if its data may.
unsafe impl<T: ?Sized + Send> Send for RwSemaphore<T> {}

// SAFETY: A writer can move the data to its own thread, which requires `Send`. Readers share the
// data among threads, which requires `Sync`.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwSemaphore<T> {}

impl<T> RwSemaphore<T> {
    /// Constructs a new semaphore initialiser.
    pub fn new(
        t: impl PinInit<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            data <- UnsafeCell::pin_init(t),
            _pin: PhantomPinned,
            // SAFETY: `slot` is valid while the closure is called and both `name` and `key` have
            // static lifetimes so they live indefinitely.
            sem <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }
}

impl<T: ?Sized> RwSemaphore<T> {
    /// Acquires the semaphore for reading.
    #[inline]
    pub fn read(&self) -> RwSemReadGuard<'_, T> {
        // SAFETY: The constructor of the type initialised the semaphore.
        unsafe { bindings::down_read(self.sem.get()) };
        // SAFETY: The semaphore was just acquired for reading.
        unsafe { RwSemReadGuard::new(self) }
    }

    /// Acquires the semaphore for reading, unless the task is killed before that is possible.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal is pending.
    #[inline]
    pub fn read_killable(&self) -> Result<RwSemReadGuard<'_, T>> {
        // SAFETY: The constructor of the type initialised the semaphore.
        to_result(unsafe { bindings::down_read_killable(self.sem.get()) })?;
        // SAFETY: The semaphore was just acquired for reading.
        Ok(unsafe { RwSemReadGuard::new(self) })
    }

    /// Acquires the semaphore for reading if that is possible without waiting.
    #[must_use = "if unused, the semaphore will be immediately released"]
    #[inline]
    pub fn try_read(&self) -> Option<RwSemReadGuard<'_, T>> {
        // SAFETY: The constructor of the type initialised the semaphore.
        if unsafe { bindings::down_read_trylock(self.sem.get()) } == 0 {
            return None;
        }
        // SAFETY: The semaphore was just acquired for reading.
        Some(unsafe { RwSemReadGuard::new(self) })
    }

    /// Acquires the semaphore for writing.
    #[inline]
    pub fn write(&self) -> RwSemWriteGuard<'_, T> {
        // SAFETY: The constructor of the type initialised the semaphore.
        unsafe { bindings::down_write(self.sem.get()) };
        // SAFETY: The semaphore was just acquired for writing.
        unsafe { RwSemWriteGuard::new(self) }
    }

    /// Acquires the semaphore for writing, unless the task is killed before that is possible.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal is pending.
    #[inline]
    pub fn write_killable(&self) -> Result<RwSemWriteGuard<'_, T>> {
        // SAFETY: The constructor of the type initialised the semaphore.
        to_result(unsafe { bindings::down_write_killable(self.sem.get()) })?;
        // SAFETY: The semaphore was just acquired for writing.
        Ok(unsafe { RwSemWriteGuard::new(self) })
    }

    /// As [`Self::write_killable`], for a semaphore that is acquired while the task holds others of
    /// the same lock class.
    ///
    /// `level` is the number of these, at most [`Self::MAX_LEVEL`]. Callers must acquire them in the
    /// same order everywhere; lockdep cannot check that within one level.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if a fatal signal is pending.
    #[inline]
    pub fn write_killable_nested(&self, level: u32) -> Result<RwSemWriteGuard<'_, T>> {
        let level = level.min(Self::MAX_LEVEL);
        // CAST: At most `MAX_LEVEL`.
        // SAFETY: The constructor of the type initialised the semaphore.
        to_result(unsafe { bindings::down_write_killable_nested(self.sem.get(), level as c_int) })?;
        // SAFETY: The semaphore was just acquired for writing.
        Ok(unsafe { RwSemWriteGuard::new(self) })
    }

    /// The highest level of [`Self::write_killable_nested`].
    pub const MAX_LEVEL: u32 = bindings::MAX_LOCKDEP_SUBCLASSES - 1;

    /// Acquires the semaphore for writing, unless this takes longer than `patience` or the task is
    /// killed.
    ///
    /// Unlike other writers, this one does not block new readers while it waits.
    ///
    /// # Errors
    ///
    /// [`ETIMEDOUT`] if others still hold the semaphore, [`EINTR`] if a fatal signal is pending.
    pub fn write_killable_timeout(&self, patience: Delta) -> Result<RwSemWriteGuard<'_, T>> {
        let start = Instant::<Monotonic>::now();
        loop {
            if let Some(guard) = self.try_write() {
                return Ok(guard);
            }
            // SAFETY: FFI call without safety requirements; the caller may sleep.
            unsafe { bindings::schedule_timeout_killable(1) };
            resched_or_killed()?;
            if start.elapsed() >= patience {
                return Err(ETIMEDOUT);
            }
        }
    }

    /// Acquires the semaphore for writing if that is possible without waiting.
    #[must_use = "if unused, the semaphore will be immediately released"]
    #[inline]
    pub fn try_write(&self) -> Option<RwSemWriteGuard<'_, T>> {
        // SAFETY: The constructor of the type initialised the semaphore.
        if unsafe { bindings::down_write_trylock(self.sem.get()) } == 0 {
            return None;
        }
        // SAFETY: The semaphore was just acquired for writing.
        Some(unsafe { RwSemWriteGuard::new(self) })
    }
}

/// Shared access to the data of an [`RwSemaphore`].
///
/// # Invariants
///
/// The current task holds `sem` for reading, on behalf of this object.
#[must_use = "the semaphore is released immediately when the guard is unused"]
pub struct RwSemReadGuard<'a, T: ?Sized> {
    sem: &'a RwSemaphore<T>,
    _not_send: NotThreadSafe,
}

// SAFETY: A shared reference to the guard only gives out `&T`.
unsafe impl<T: ?Sized + Sync> Sync for RwSemReadGuard<'_, T> {}

impl<'a, T: ?Sized> RwSemReadGuard<'a, T> {
    /// # Safety
    ///
    /// The current task must hold `sem` for reading, and must not release it by other means.
    #[inline]
    unsafe fn new(sem: &'a RwSemaphore<T>) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            sem,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T: ?Sized> Deref for RwSemReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant, there is no writer.
        unsafe { &*self.sem.data.get() }
    }
}

impl<T: ?Sized> Drop for RwSemReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the guard cannot leave the task.
        unsafe { bindings::up_read(self.sem.sem.get()) };
    }
}

/// Exclusive access to the data of an [`RwSemaphore`].
///
/// # Invariants
///
/// The current task holds `sem` for writing, on behalf of this object.
#[must_use = "the semaphore is released immediately when the guard is unused"]
pub struct RwSemWriteGuard<'a, T: ?Sized> {
    sem: &'a RwSemaphore<T>,
    _not_send: NotThreadSafe,
}

// SAFETY: A shared reference to the guard only gives out `&T`.
unsafe impl<T: ?Sized + Sync> Sync for RwSemWriteGuard<'_, T> {}

impl<'a, T: ?Sized> RwSemWriteGuard<'a, T> {
    /// # Safety
    ///
    /// The current task must hold `sem` for writing, and must not release it by other means.
    #[inline]
    unsafe fn new(sem: &'a RwSemaphore<T>) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            sem,
            _not_send: NotThreadSafe,
        }
    }
}

impl<T: ?Sized> Deref for RwSemWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant, no other code accesses the data.
        unsafe { &*self.sem.data.get() }
    }
}

// The data is pinned, so that a mutable reference may only be returned if the type is `Unpin`.
impl<T: ?Sized + Unpin> DerefMut for RwSemWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant, no other code accesses the data.
        unsafe { &mut *self.sem.data.get() }
    }
}

impl<T: ?Sized> Drop for RwSemWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the guard cannot leave the task.
        unsafe { bindings::up_write(self.sem.sem.get()) };
    }
}
